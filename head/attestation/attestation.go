// Package attestation is the HTTPS head of device attestation (docs/attestation.md): nonces, evidence, and the error events that
// devices upload with the certificate they got for it.
package attestation

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"mime"
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/sphere/attest"
	wire "github.com/vauban-iot/vauban/wire/attestation"
)

// Core judges what devices say.
type Core interface {
	Nonce(ctx context.Context, body []byte) (wire.NonceReply, error)
	Attest(ctx context.Context, body []byte, remote string) (wire.Reply, error)
	ServerTime() time.Time
}

// Updates knows update certificates.
type Updates interface {
	// UpdateDevice returns the device whose update certificate chain, leaf first, is. Client certificates are refused as any
	// other: with fault.Unauthorized. A device that was disabled since is fault.Disabled.
	UpdateDevice(ctx context.Context, chain []*x509.Certificate) (string, error)
}

// Reports takes the error events of devices.
type Reports interface {
	Report(ctx context.Context, device string, events []wire.Event) error
}

// Config is what the head stands on.
type Config struct {
	Service Core    // required
	Updates Updates // nil: no events are taken
	Reports Reports // nil: no events are taken
	// Busy is how many requests are judged at once; more are told to come back. Zero: 16 for each processor.
	Busy   int
	Logger *slog.Logger // nil: slog.Default()
}

// Head is an http.Handler for the paths that Owns names.
type Head struct {
	cfg  Config
	log  *slog.Logger
	busy chan struct{}
}

// New returns a head.
func New(cfg Config) (*Head, error) {
	if cfg.Service == nil || (cfg.Updates == nil) != (cfg.Reports == nil) {
		return nil, errors.New("attestation: Service is required, and Updates and Reports come together")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Busy == 0 {
		cfg.Busy = 16 * runtime.GOMAXPROCS(0)
	}
	return &Head{cfg: cfg, log: cfg.Logger, busy: make(chan struct{}, cfg.Busy)}, nil
}

// Owns reports whether the path belongs to this head.
func (h *Head) Owns(segments []string) bool { return len(segments) > 0 && segments[0] == "attestation" }

var errMethod = errors.New("method not allowed")

// ServeHTTP implements http.Handler.
func (h *Head) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	body, err := h.serve(w, r)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	rest.JSON(w, http.StatusOK, "", body)
}

func (h *Head) serve(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	var limit int64
	var do func([]byte) (any, error)
	switch r.URL.Path {
	case wire.NoncePath:
		limit, do = wire.MaxNonceRequest, func(b []byte) (any, error) { return h.cfg.Service.Nonce(r.Context(), b) }
	case wire.EvidencePath:
		limit, do = wire.MaxEvidence, func(b []byte) (any, error) { return h.cfg.Service.Attest(r.Context(), b, r.RemoteAddr) }
	case wire.EventsPath:
		limit, do = wire.MaxEventsBody, func(b []byte) (any, error) { return struct{}{}, h.events(r, b) }
	}
	if do == nil || r.URL.Path == wire.EventsPath && h.cfg.Reports == nil {
		return nil, fault.New(fault.NotFound, "there is nothing at this path")
	}
	if r.Method != http.MethodPost {
		return nil, errMethod
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return nil, fault.New(fault.Malformed, "the Content-Type must be application/json")
	}
	b, err := rest.Body(w, r, limit)
	if err != nil {
		return nil, err
	}
	// Only now: who sends slowly must not keep others out.
	select {
	case h.busy <- struct{}{}:
		defer func() { <-h.busy }()
	default:
		return nil, &fault.Error{Kind: fault.Throttled, Public: "too many devices at once", RetryAfter: time.Duration(5+rand.IntN(25)) * time.Second}
	}
	v, err := do(b)
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

func (h *Head) events(r *http.Request, body []byte) error {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return fault.New(fault.Unauthorized, "events are uploaded with the update certificate")
	}
	device, err := h.cfg.Updates.UpdateDevice(r.Context(), r.TLS.PeerCertificates)
	if err != nil {
		return err
	}
	var q wire.EventsRequest
	if err := wire.Decode(body, wire.MaxEventsBody, &q); err != nil {
		if errors.Is(err, wire.ErrVersion) {
			return fault.Wrap(fault.Invalid, err, "this service speaks version %d", wire.Version)
		}
		return fault.Wrap(fault.Malformed, err, "the events cannot be read")
	}
	if len(q.Events) == 0 || len(q.Events) > wire.MaxEvents {
		return fault.New(fault.Invalid, "a request has 1 to %d events", wire.MaxEvents)
	}
	return h.cfg.Reports.Report(r.Context(), device, q.Events)
}

// statuses are the answers to kinds of faults, with the codes of those that are no attest.Refusal.
var statuses = map[fault.Kind]struct {
	status int
	code   string
}{
	fault.Internal:           {500, string(attest.InternalError)},
	fault.Invalid:            {400, "Invalid"},
	fault.Malformed:          {400, string(attest.Malformed)},
	fault.InvalidScope:       {400, "Invalid"},
	fault.Unauthorized:       {401, "Unauthorized"},
	fault.Forbidden:          {403, "Forbidden"},
	fault.Disabled:           {403, string(attest.Disabled)},
	fault.QueueFull:          {429, string(attest.Busy)},
	fault.QuotaExceeded:      {429, string(attest.Busy)},
	fault.NotFound:           {404, "NotFound"},
	fault.NotOnline:          {404, "NotFound"},
	fault.ConnectionClosed:   {503, string(attest.Unavailable)},
	fault.AlreadyExists:      {409, "Conflict"},
	fault.PreconditionFailed: {409, "Conflict"},
	fault.LockLost:           {409, "Conflict"},
	fault.TooLarge:           {413, string(attest.TooLarge)},
	fault.Throttled:          {429, string(attest.Busy)},
	fault.BadDeviceResponse:  {502, string(attest.Unavailable)},
	fault.Unavailable:        {503, string(attest.Unavailable)},
	fault.Timeout:            {504, string(attest.Unavailable)},
}

func (h *Head) refuse(w http.ResponseWriter, r *http.Request, err error) {
	kind := fault.KindOf(err)
	row := statuses[kind]
	message := fault.Public(err)
	var after time.Duration
	if e, ok := errors.AsType[*fault.Error](err); ok {
		after = e.RetryAfter
	}
	if errors.Is(err, errMethod) {
		row.status, row.code, message = http.StatusMethodNotAllowed, "MethodNotAllowed", "this path takes POST"
		w.Header().Set("Allow", http.MethodPost)
	}
	if refusal, ok := errors.AsType[*attest.Refusal](err); ok { // the service logged it
		row.code = string(refusal.Code)
		after = refusal.RetryAfter
	} else {
		level := slog.LevelInfo
		if row.status >= 500 {
			level = slog.LevelError
		}
		h.log.Log(r.Context(), level, "attestation request refused", "head", "attestation", "code", row.code, "err", err, "from", r.RemoteAddr)
	}
	body := wire.Refusal{Error: wire.Error{Code: row.code, Message: message}, ServerTime: h.cfg.Service.ServerTime()}
	if after > 0 {
		body.RetryAfter = int64((after + time.Second - 1) / time.Second)
		w.Header().Set("Retry-After", strconv.FormatInt(body.RetryAfter, 10))
	}
	b, err := json.Marshal(body)
	if err != nil { // three plain members
		panic(err)
	}
	rest.JSON(w, row.status, "", b)
}

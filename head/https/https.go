// Package https is the head for devices that call the hub instead of keeping a connection: the HTTPS
// device API as the C, .NET, Java and Node SDKs use it (hub-device §4). Each request proves itself
// anew, by a token in its Authorization header or by the TLS client certificate.
//
// Names of application properties that travel as request headers arrive in lower case, because
// headers have no case here; those in the body of a batch keep theirs.
package https

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/hub/command"
	"github.com/vauban-iot/vauban/iot"
)

// Core is the hub as this head needs it.
type Core interface {
	Visit(ctx context.Context, c iot.Credentials) (iot.Visit, error)
	// InvokeFrom calls a direct method for a module that proved itself.
	InvokeFrom(ctx context.Context, caller, target iot.ID, m command.Method) (command.Result, error)
	modules
}

// Head serves the API. It is an http.Handler for the requests that Owns, OwnsCall and OwnsModule name.
type Head struct {
	core  Core
	log   *slog.Logger
	admit access.Gate // nil: devices may come from anywhere
}

// New returns a head. log may be nil.
func New(core Core, log *slog.Logger) *Head {
	if log == nil {
		log = slog.Default()
	}
	return &Head{core: core, log: log}
}

// Admit makes the head refuse devices by where they come from. It must be called before the head serves.
func (h *Head) Admit(gate access.Gate) { h.admit = gate }

// maxMessage bounds a message and a batch (hub-device §7).
const maxMessage = 256 << 10

// maxUpload bounds the bodies about file uploads: a name of 1024 characters, or a status text.
const maxUpload = 16 << 10

// request is one call of an authenticated device.
type request struct {
	*http.Request
	w        http.ResponseWriter
	segments []string // of the path behind the identity
	id       iot.ID
	visit    iot.Visit
	body     []byte
	rule     string // of the IP filter, that admitted the device
}

// route is one row of the API; its path stands behind /devices/{d}, or behind /modules/{m} below that.
type route struct {
	method string
	path   []string
	module bool  // modules have it, too
	limit  int64 // of the body
	serve  func(*Head, *request) error
}

var routes = []route{
	{"POST", []string{"messages", "events"}, true, maxMessage, (*Head).telemetry},
	{"GET", []string{"messages", "devicebound"}, false, 0, (*Head).receive},
	{"DELETE", []string{"messages", "devicebound", "*"}, false, 0, (*Head).settle},
	{"POST", []string{"messages", "devicebound", "*", "abandon"}, false, 0, (*Head).abandon},
	{"POST", []string{"files"}, true, maxUpload, (*Head).beginUpload},
	{"POST", []string{"files", "notifications"}, true, maxUpload, (*Head).endUpload},
	{"POST", []string{"files", "notifications", "*"}, true, maxUpload, (*Head).endUpload},
}

// split tells who a path is about and what of it.
func split(segments []string) (id iot.ID, rest []string, ok bool) {
	if len(segments) < 3 || !strings.EqualFold(segments[0], "devices") {
		return id, nil, false
	}
	id.Device, rest = segments[1], segments[2:]
	if strings.EqualFold(rest[0], "modules") && len(rest) > 2 {
		id.Module, rest = rest[1], rest[2:]
	}
	return id, rest, true
}

// Owns reports whether a request belongs to this API. Messages to a device are sent by services
// to the path where the device reads them: that POST is not ours.
func Owns(method string, segments []string) bool {
	id, path, ok := split(segments)
	if !ok || id.Module == "" && method == "POST" && rest.Is(path, "messages", "devicebound") {
		return false
	}
	_, err := find(method, id, path)
	return !errors.Is(err, errNoRoute)
}

var (
	errNoRoute = fault.New(fault.NotFound, "this path is not part of the device API")
	errMethod  = errors.New("method not allowed") // answered with 405, which no kind stands for
)

func find(method string, id iot.ID, path []string) (*route, error) {
	known := false
	for i := range routes {
		rt := &routes[i]
		if !rest.Is(path, rt.path...) || id.Module != "" && !rt.module {
			continue
		}
		if rt.method == method {
			return rt, nil
		}
		known = true
	}
	if known {
		return nil, errMethod
	}
	return nil, errNoRoute
}

// ServeHTTP implements http.Handler.
func (h *Head) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := &request{Request: r, w: w}
	if err := h.serve(q, rest.Segments(r)); err != nil {
		h.refuse(q, err)
	}
}

func (h *Head) serve(q *request, segments []string) error {
	if h.admit != nil {
		rule, err := h.admit(q.RemoteAddr)
		if err != nil {
			return err
		}
		q.rule = rule
	}
	if OwnsCall(q.Request, segments) {
		return h.invoke(q, segments)
	}
	if OwnsModule(q.Request, segments) {
		return h.module(q, segments)
	}
	var ok bool
	if q.id, q.segments, ok = split(segments); !ok {
		return errNoRoute
	}
	rt, err := find(q.Method, q.id, q.segments)
	if err != nil {
		return err
	}
	// A body that is too long is not worth the work of a signature.
	if q.ContentLength > rt.limit && rt.limit > 0 {
		return fault.New(fault.TooLarge, "the body is over %d bytes", rt.limit)
	}
	if q.visit, err = h.core.Visit(q.Context(), credentials(q)); err != nil {
		return err
	}
	if rt.limit > 0 {
		done := q.patience(bodyTime)
		q.body, err = rest.Body(q.w, q.Request, rt.limit)
		done()
		if err != nil {
			return err
		}
	}
	return rt.serve(h, q)
}

// How long a device may take to send a body, and what is left of one that was refused.
const (
	bodyTime  = time.Minute
	drainTime = 5 * time.Second
)

// patience bounds what is read until done is called. Without that the server would take the silence
// of a device that waits for its answer for the end of the connection.
func (q *request) patience(d time.Duration) (done func()) {
	c := http.NewResponseController(q.w)
	_ = c.SetReadDeadline(time.Now().Add(d)) // where it is not supported there is no socket either
	return func() { _ = c.SetReadDeadline(time.Time{}) }
}

func credentials(q *request) iot.Credentials {
	c := iot.Credentials{
		ID: q.id, Host: hostname(q.Host), Token: q.Header.Get("Authorization"),
		ClientType: q.UserAgent(), Remote: q.RemoteAddr, IPFilterRule: q.rule, Protocol: "https",
	}
	if q.TLS != nil {
		c.Certificates, c.TLSVersion, c.CipherSuite = q.TLS.PeerCertificates, q.TLS.Version, q.TLS.CipherSuite
	}
	return c
}

// hostname is a Host header without its port.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return strings.Trim(host, "[]")
}

// Locks of a message (hub-service §6.4).
const (
	defaultLock = 60 * time.Second
	minLock     = 5 * time.Second
	maxLock     = 300 * time.Second
)

// lockTime is the time a device asks for in the query (.NET) or in a header (Java); what is out of
// range comes back into it.
func lockTime(q *request) (time.Duration, error) {
	text := q.Header.Get("iothub-messagelocktimeout")
	if v, ok := parameter(q.URL.RawQuery, "iothub-messagelocktimeout"); ok {
		text = v
	}
	if text == "" {
		return defaultLock, nil
	}
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return 0, fault.New(fault.Invalid, "iothub-messagelocktimeout must be a number of seconds")
	}
	return min(max(time.Duration(n)*time.Second, minLock), maxLock), nil
}

// parameter finds a query parameter whatever its case; a bare name counts (hub-device §4.1).
func parameter(query, name string) (string, bool) {
	for pair := range strings.SplitSeq(query, "&") {
		k, v, _ := strings.Cut(pair, "=")
		if strings.EqualFold(k, name) {
			return v, true
		}
	}
	return "", false
}

func (h *Head) receive(q *request) error {
	lock, err := lockTime(q)
	if err != nil {
		return err
	}
	m, ok, err := q.visit.Receive(q.Context(), lock)
	if err != nil {
		return err
	}
	if !ok {
		q.w.WriteHeader(http.StatusNoContent)
		return nil
	}
	writeMail(q.w, m)
	return nil
}

func (h *Head) settle(q *request) error {
	how := iot.Completed
	if _, reject := parameter(q.URL.RawQuery, "reject"); reject {
		how = iot.Rejected
	}
	return h.end(q, how)
}

func (h *Head) abandon(q *request) error { return h.end(q, iot.Abandoned) }

func (h *Head) end(q *request, how iot.Settlement) error {
	// If-Match repeats the token and says nothing new.
	if err := q.visit.Settle(q.Context(), strings.Trim(q.segments[2], `"`), how); err != nil {
		return err
	}
	q.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (h *Head) beginUpload(q *request) error {
	var in struct {
		BlobName string `json:"blobName"`
	}
	if err := json.Unmarshal(q.body, &in); err != nil {
		return fault.Wrap(fault.Malformed, err, "the body is no JSON object with a blobName")
	}
	u, err := q.visit.BeginUpload(q.Context(), in.BlobName)
	if err != nil {
		return err
	}
	body, err := marshal(struct {
		CorrelationID string `json:"correlationId"`
		HostName      string `json:"hostName"`
		ContainerName string `json:"containerName"`
		BlobName      string `json:"blobName"`
		SASToken      string `json:"sasToken"`
	}{u.CorrelationID, u.Host, u.Container, u.Blob, u.Token})
	if err != nil {
		return err
	}
	rest.JSON(q.w, http.StatusOK, "", body)
	return nil
}

// endUpload takes the correlation id from the path (Node) or from the body; the body of .NET's
// failure may lack everything else (hub-device §4.4).
func (h *Head) endUpload(q *request) error {
	var in struct {
		CorrelationID     string `json:"correlationId"`
		IsSuccess         bool   `json:"isSuccess"`
		StatusCode        int    `json:"statusCode"`
		StatusDescription string `json:"statusDescription"`
	}
	if len(q.body) > 0 {
		if err := json.Unmarshal(q.body, &in); err != nil {
			return fault.Wrap(fault.Malformed, err, "the body is no status of an upload")
		}
	}
	if len(q.segments) == 3 {
		in.CorrelationID = q.segments[2]
	}
	if err := q.visit.EndUpload(q.Context(), in.CorrelationID, in.IsSuccess); err != nil {
		return err
	}
	if !in.IsSuccess {
		h.log.InfoContext(q.Context(), "a device failed to upload a file", "head", "https", "device", q.id.Device, "module", q.id.Module,
			"status", in.StatusCode, "description", short(in.StatusDescription))
	}
	q.w.WriteHeader(http.StatusNoContent)
	return nil
}

// short keeps what a device wrote from filling the log.
func short(s string) string {
	const most = 200
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}

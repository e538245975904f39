package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"mime"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/sphere/claim"
	"github.com/vauban-iot/vauban/wire/attestation"
	"github.com/vauban-iot/vauban/wire/capability"
)

// Manufacturing states, in order (sphere §7.2).
const (
	Blank           = "Blank"
	Module1Complete = "Module1Complete"
	DeviceComplete  = "DeviceComplete"
)

var states = []string{Blank, Module1Complete, DeviceComplete}

// ServicingVersion is the version of the servicing API, in the header that Microsoft's clients read.
const (
	ServicingVersion       = "4.6.0"
	servicingVersionHeader = "REST-API-Version"
)

// Errors of the servicing API, in the member "error" of its answers.
const (
	ErrorBadRequest        = 1 // 400: the body cannot be read, or says what nothing can follow
	ErrorNotFound          = 2 // 404
	ErrorMethod            = 3 // 405
	ErrorMediaType         = 4 // 415
	ErrorTooLarge          = 5 // 413
	ErrorLocked            = 6 // 403: the device is complete, and the request carries no capability for servicing
	ErrorCapability        = 7 // 403: the capability of the request is not good for this device now
	ErrorStateNotForward   = 8 // 400: manufacturing states go one way
	ErrorBrowser           = 9 // 403: a page in a browser asks
	ErrorInternal          = 10
	maxServicingBody       = 16 << 10
	maxChallenge           = 512
	servicingHeaderTimeout = 10 * time.Second
)

type servicingError struct {
	status, code int
	why          string
}

func (e *servicingError) Error() string { return e.why }

func refuse(status, code int, format string, args ...any) error {
	return &servicingError{status, code, fmt.Sprintf(format, args...)}
}

// endpoint is one row of sphere §8, or of ours.
type endpoint struct {
	method, path string
	public       bool // readable whatever the state
	serve        func(*Agent, *servicing) (any, error)
}

var endpoints = []endpoint{
	{"GET", "/abi_versions", true, func(a *Agent, _ *servicing) (any, error) { return a.cfg.ABI, nil }},
	{"GET", "/osversion", true, (*Agent).getOSVersion},
	{"GET", "/status", true, (*Agent).getStatus},
	{"GET", "/net/status", true, (*Agent).getNetStatus},
	{"GET", "/device/capabilities", true, (*Agent).getCapabilities},
	{"GET", "/device/security_state", true, (*Agent).getSecurityState},
	{"GET", "/device/manufacturing_state", true, (*Agent).getManufacturingState},
	{"PUT", "/device/manufacturing_state", false, (*Agent).putManufacturingState},
	{"GET", "/images", false, (*Agent).getImages},
	{"GET", "/telemetry", false, (*Agent).getTelemetry},
	{"DELETE", "/telemetry", false, (*Agent).deleteTelemetry},
	// Ours. Claiming wants the device at hand and is good once, so it needs no more than that: a device that left the factory
	// complete and unclaimed could never be claimed otherwise.
	{"GET", "/device/identity", true, (*Agent).getIdentity},
	{"POST", "/device/claim-proof", true, (*Agent).postClaimProof},
}

// servicing is a request.
type servicing struct {
	*http.Request
	w       http.ResponseWriter
	session *capability.File // that the request carries, verified; nil: none
}

// Servicing is the local servicing API (sphere §8). It is for a socket that only people at the device reach; see ServeServicing.
func (a *Agent) Servicing() http.Handler { return http.HandlerFunc(a.serveServicing) }

func (a *Agent) serveServicing(w http.ResponseWriter, r *http.Request) {
	w.Header().Set(servicingVersionHeader, ServicingVersion)
	w.Header().Set("Cache-Control", "no-store")
	v, err := a.servicing(&servicing{Request: r, w: w})
	status := http.StatusOK
	if err != nil {
		e, ok := errors.AsType[*servicingError](err)
		if !ok {
			e = &servicingError{http.StatusInternalServerError, ErrorInternal, ""}
		}
		a.log.InfoContext(r.Context(), "servicing request refused", "method", r.Method, "path", r.URL.Path, "code", e.code, "err", err)
		status, v = e.status, struct {
			Error int `json:"error"`
		}{e.code}
	}
	b, ok := v.([]byte)
	kind := "application/octet-stream"
	if !ok {
		kind = "application/json"
		if b, err = json.Marshal(v); err != nil {
			status, b = http.StatusInternalServerError, []byte(`{"error":10}`)
		}
	}
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(status)
	w.Write(b) // a peer that left is no error of ours
}

func (a *Agent) servicing(q *servicing) (any, error) {
	// Programs send no Origin. Pages do, and whoever services a device may have one open.
	if q.Header.Get("Origin") != "" {
		return nil, refuse(http.StatusForbidden, ErrorBrowser, "a page in a browser asks")
	}
	var found *endpoint
	known := false
	for i := range endpoints {
		if e := &endpoints[i]; e.path == q.URL.Path {
			known = true
			if e.method == q.Method {
				found = e
			}
		}
	}
	switch {
	case !known:
		return nil, refuse(http.StatusNotFound, ErrorNotFound, "there is nothing at this path")
	case found == nil:
		return nil, refuse(http.StatusMethodNotAllowed, ErrorMethod, "this path does not take %s", q.Method)
	}
	bad := a.openSession(q)
	if !found.public && a.ManufacturingState() == DeviceComplete && !slices.Contains(a.effective(q.session), capability.FieldServicing) {
		if bad != nil {
			return nil, bad
		}
		return nil, refuse(http.StatusForbidden, ErrorLocked, "the device is complete; %s with fieldServicing is wanted", capability.Header)
	}
	return found.serve(a, q)
}

// openSession judges the capability that a request carries.
func (a *Agent) openSession(q *servicing) error {
	value := q.Header.Get(capability.Header)
	if value == "" {
		return nil
	}
	f, err := capability.ParseHeader(value)
	if err == nil {
		err = a.verify(f)
	}
	if err != nil {
		return refuse(http.StatusForbidden, ErrorCapability, "%v", err)
	}
	q.session = f
	return nil
}

func (a *Agent) verify(f *capability.File) error {
	return f.Verify(capability.Check{DeviceID: a.rawID, Now: a.Now(), Signers: a.cfg.Signers})
}

// InstallCapability keeps a capability file until it expires; nil removes the one that is there. The error says why the file does
// not count.
func (a *Agent) InstallCapability(file []byte) error {
	if file != nil {
		f, err := capability.Parse(file)
		if err != nil {
			return err
		}
		if err := a.verify(f); err != nil {
			return err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state.Capability = slices.Clone(file)
	return a.saveState()
}

// installedLocked are the capabilities of the installed file, as long as it counts. mu must be held.
func (a *Agent) installedLocked() []capability.ID {
	if len(a.state.Capability) == 0 {
		return nil
	}
	f, err := capability.Parse(a.state.Capability)
	if err != nil || f.Verify(capability.Check{DeviceID: a.rawID, Now: a.nowLocked(), Signers: a.cfg.Signers}) != nil {
		return nil
	}
	return f.Capabilities
}

// effective are the capabilities that count for a request.
func (a *Agent) effective(session *capability.File) []capability.ID {
	a.mu.Lock()
	all := slices.Clone(a.installedLocked())
	a.mu.Unlock()
	if session != nil {
		all = append(all, session.Capabilities...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// ManufacturingState is how far the device is in its making.
func (a *Agent) ManufacturingState() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state.Manufacturing
}

// body reads a JSON object of at most maxServicingBody bytes.
func (q *servicing) body(v any) error {
	if t, _, err := mime.ParseMediaType(q.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return refuse(http.StatusUnsupportedMediaType, ErrorMediaType, "the Content-Type must be application/json")
	}
	b, err := io.ReadAll(http.MaxBytesReader(q.w, q.Body, maxServicingBody))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return refuse(http.StatusRequestEntityTooLarge, ErrorTooLarge, "the body is over %d bytes", maxServicingBody)
		}
		return refuse(http.StatusBadRequest, ErrorBadRequest, "read the body: %v", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return refuse(http.StatusBadRequest, ErrorBadRequest, "read the body: %v", err)
	}
	return nil
}

func (a *Agent) getOSVersion(*servicing) (any, error) {
	s, err := a.cfg.Software()
	return map[string]string{"osversion": s.OSVersion}, err
}

func (a *Agent) getStatus(*servicing) (any, error) {
	return map[string]int64{"uptime": int64(time.Since(a.started) / time.Second)}, nil
}

func (a *Agent) getNetStatus(*servicing) (any, error) {
	a.mu.Lock()
	synced := a.synced
	a.mu.Unlock()
	sync := "incomplete"
	if synced {
		sync = "complete"
	}
	return map[string]any{"deviceAuthenticationIsReady": a.Ready(), "networkTimeSync": sync, "proxy": "disabled"}, nil
}

func (a *Agent) getCapabilities(q *servicing) (any, error) {
	ids := a.effective(q.session)
	if ids == nil {
		ids = []capability.ID{}
	}
	return map[string][]capability.ID{"device_capabilities": ids}, nil
}

func (a *Agent) getSecurityState(*servicing) (any, error) {
	s := "TEST" // a key in a file is not secure hardware
	if a.cfg.TPM != nil {
		s = "SECURE"
	}
	return map[string]any{"securityState": s, "deviceIdentifier": a.id, "deviceIdentityPublicKey": a.public}, nil
}

type manufacturingState struct {
	State string `json:"manufacturingState"`
}

func (a *Agent) getManufacturingState(*servicing) (any, error) {
	return manufacturingState{a.ManufacturingState()}, nil
}

func (a *Agent) putManufacturingState(q *servicing) (any, error) {
	var m manufacturingState
	if err := q.body(&m); err != nil {
		return nil, err
	}
	to := slices.Index(states, m.State)
	if to < 1 {
		return nil, refuse(http.StatusBadRequest, ErrorBadRequest, "the state %q cannot be set", m.State)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if to < slices.Index(states, a.state.Manufacturing) {
		return nil, refuse(http.StatusBadRequest, ErrorStateNotForward, "%s does not follow %s", m.State, a.state.Manufacturing)
	}
	old := a.state.Manufacturing
	a.state.Manufacturing = m.State
	if err := a.saveState(); err != nil {
		a.state.Manufacturing = old
		return nil, err
	}
	a.log.InfoContext(q.Context(), "manufacturing state set", "audit", true, "device", a.id, "from", old, "to", m.State)
	return struct{}{}, nil
}

func (a *Agent) getImages(*servicing) (any, error) {
	s, err := a.cfg.Software()
	if err != nil {
		return nil, err
	}
	type image struct {
		UID    string `json:"uid"`
		Length int64  `json:"length_in_bytes"`
		Whole  int64  `json:"uncompressed_length_in_bytes"`
		Kind   int    `json:"replica_type"`
	}
	type component struct {
		UID     string  `json:"uid"`
		Type    int     `json:"image_type"`
		Name    string  `json:"name"`
		Staged  bool    `json:"is_update_staged"`
		Restart bool    `json:"does_image_type_require_restart"`
		Images  []image `json:"images"`
	}
	list := []component{}
	for _, i := range s.Images {
		list = append(list, component{
			UID: i.Component, Type: i.Type, Name: i.Name, Restart: i.Type != 10, // applications start by themselves
			Images: []image{{UID: i.ID, Length: i.Size, Whole: i.Size}},
		})
	}
	return map[string]any{"components": list, "has_staged_updates": false, "is_ota_update_in_progress": false, "restart_required": false}, nil
}

func (a *Agent) getTelemetry(*servicing) (any, error) {
	b, err := json.Marshal(attestation.EventsRequest{Version: attestation.Version, Events: a.Events()})
	return b, err
}

func (a *Agent) deleteTelemetry(*servicing) (any, error) { return struct{}{}, a.ClearEvents() }

// Identity is what a manufacture record is made of.
type Identity struct {
	ID           string `json:"deviceId"`
	PublicKey    []byte `json:"publicKey"` // SubjectPublicKeyInfo
	HardwareRoot bool   `json:"hardwareRoot"`
	// EndorsementKey is the SHA-256 of the TPM's endorsement key, as attestation.EndorsementHash makes it.
	EndorsementKey string `json:"endorsementKey,omitempty"`
}

// Identity tells who the device is.
func (a *Agent) Identity() (Identity, error) {
	id := Identity{ID: a.id, PublicKey: a.PublicKey(), HardwareRoot: a.cfg.TPM != nil}
	if a.cfg.TPM == nil {
		return id, nil
	}
	ek, err := a.cfg.TPM.EndorsementKey()
	if err == nil {
		id.EndorsementKey, err = attestation.EndorsementHash(ek)
	}
	return id, err
}

func (a *Agent) getIdentity(*servicing) (any, error) { return a.Identity() }

// ClaimProof signs a claim challenge (package claim). What is signed is never evidence of an attestation, whose texts begin otherwise.
func (a *Agent) ClaimProof(challenge string) ([]byte, error) {
	if challenge == "" || len(challenge) > maxChallenge || strings.Trim(challenge, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		return nil, refuse(http.StatusBadRequest, ErrorBadRequest, "that is no claim challenge")
	}
	return claim.Sign(a.key, challenge)
}

func (a *Agent) postClaimProof(q *servicing) (any, error) {
	var c struct {
		Challenge string `json:"challenge"`
	}
	if err := q.body(&c); err != nil {
		return nil, err
	}
	sig, err := a.ClaimProof(c.Challenge)
	if err != nil {
		return nil, err
	}
	a.claiming.Store(time.Now().Add(claimTime).UnixNano())
	a.Kick()
	a.log.InfoContext(q.Context(), "claim challenge signed", "audit", true, "device", a.id)
	return struct {
		ID        string `json:"deviceId"`
		PublicKey []byte `json:"publicKey"`
		Signature []byte `json:"signature"`
	}{a.id, a.public, sig}, nil
}

// ListenServicing opens the socket of the servicing API: "unix:PATH", which only the file's owner may use, or a loopback address
// "127.0.0.1:PORT" with TLS under a certificate of its own, which clients cannot check, as the original's. Any other address is refused.
func ListenServicing(address string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSocket != 0 {
			if c, err := net.Dial("unix", path); err == nil {
				c.Close()
				return nil, fmt.Errorf("agent: another program serves %s", path)
			}
			os.Remove(path) // of one that ended
		}
		ln, err := net.Listen("unix", path)
		if err != nil {
			return nil, fmt.Errorf("agent: %w", err)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			ln.Close()
			return nil, fmt.Errorf("agent: %w", err)
		}
		return ln, nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("agent: the servicing API is for people at the device; %s is not a loopback address", address)
	}
	cert, err := selfSigned()
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	return tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}), nil
}

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Vauban device"}, NotBefore: time.Unix(0, 0), NotAfter: time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// ServeServicing serves the servicing API on a listener until ctx ends.
func (a *Agent) ServeServicing(ctx context.Context, ln net.Listener) error {
	s := &http.Server{Handler: a.Servicing(), ReadHeaderTimeout: servicingHeaderTimeout, ReadTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(ln); ctx.Err() == nil {
		return err
	}
	return nil
}

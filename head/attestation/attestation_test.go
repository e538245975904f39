package attestation_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	head "github.com/vauban-iot/vauban/head/attestation"
	"github.com/vauban-iot/vauban/sphere/attest"
	"github.com/vauban-iot/vauban/sphere/attest/attesttest"
	wire "github.com/vauban-iot/vauban/wire/attestation"
)

// failing answers everything with err.
type failing struct{ err error }

func (f failing) Nonce(context.Context, []byte) (wire.NonceReply, error) {
	return wire.NonceReply{}, f.err
}

func (f failing) Attest(context.Context, []byte, string) (wire.Reply, error) {
	return wire.Reply{}, f.err
}

func (failing) ServerTime() time.Time { return time.Unix(1, 0).UTC() }

func newHead(t testing.TB, cfg head.Config) *head.Head {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	h, err := head.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func do(h http.Handler, method, path, contentType, body string, tlsState *tls.ConnectionState) (*httptest.ResponseRecorder, wire.Refusal) {
	r := httptest.NewRequest(method, "https://s"+path, strings.NewReader(body))
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	r.TLS = tlsState
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var refusal wire.Refusal
	_ = json.Unmarshal(w.Body.Bytes(), &refusal) // success has another form
	return w, refusal
}

// rows of the table of docs/attestation.md: | `Code` | status | ...
var row = regexp.MustCompile("(?m)^\\| `([A-Za-z]+)` \\| (\\d{3}) \\|")

// The document's table is what devices get: every code with its status, and no other.
func TestRefusals_AsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/attestation.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		documented[m[1]] = m[2]
	}
	for _, c := range attest.Codes() {
		h := newHead(t, head.Config{Service: failing{&attest.Refusal{Code: c, Public: "words", RetryAfter: 90500 * time.Millisecond, Err: errors.New("secret cause")}}})
		w, refusal := do(h, "POST", wire.EvidencePath, "application/json", "{}", nil)
		if got := fmt.Sprint(w.Code); got != documented[string(c)] {
			t.Errorf("%s has status %s, documented is %q", c, got, documented[string(c)])
		}
		if refusal.Error.Code != string(c) || refusal.RetryAfter != 91 || w.Header().Get("Retry-After") != "91" || refusal.ServerTime.IsZero() || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%s: %s", c, w.Body)
		}
		delete(documented, string(c))
	}
	for c := range documented {
		t.Errorf("%s is documented, but no refusal", c)
	}
}

// Every kind of fault has a status and a code.
func TestFaults(t *testing.T) {
	for _, k := range fault.Kinds() {
		h := newHead(t, head.Config{Service: failing{fault.Wrap(k, errors.New("secret cause"), "words")}})
		w, refusal := do(h, "POST", wire.NoncePath, "application/json", "{}", nil)
		if w.Code < 400 || refusal.Error.Code == "" || strings.Contains(w.Body.String(), "secret") || (k == fault.Internal) != (w.Code == 500) {
			t.Errorf("%s: %d %s", k, w.Code, w.Body)
		}
	}
}

func TestRequests(t *testing.T) {
	w := attesttest.New(t)
	h := newHead(t, head.Config{Service: w, Updates: w, Reports: w})
	nonce := `{"version":1,"deviceId":"` + strings.Repeat("0", 128) + `"}`
	long := strings.Repeat(" ", 1<<20)
	for _, test := range []struct {
		name, method, path, contentType, body string
		status                                int
		code                                  string
	}{
		{"a nonce", "POST", wire.NoncePath, "application/json; charset=utf-8", nonce, 200, ""},
		{"GET", "GET", wire.NoncePath, "application/json", nonce, 405, "MethodNotAllowed"},
		{"no content type", "POST", wire.NoncePath, "", nonce, 400, "Malformed"},
		{"a form", "POST", wire.NoncePath, "application/x-www-form-urlencoded", nonce, 400, "Malformed"},
		{"an oversize nonce request", "POST", wire.NoncePath, "application/json", nonce + long, 413, "TooLarge"},
		{"oversize evidence", "POST", wire.EvidencePath, "application/json", long, 413, "TooLarge"},
		{"oversize events", "POST", wire.EventsPath, "application/json", long, 413, "TooLarge"},
		{"broken evidence", "POST", wire.EvidencePath, "application/json", "{", 400, "Malformed"},
		{"events without a certificate", "POST", wire.EventsPath, "application/json", "{}", 401, "Unauthorized"},
		{"another path", "POST", "/attestation/v2/nonce", "application/json", nonce, 404, "NotFound"},
		{"a path with more", "POST", wire.NoncePath + "/", "application/json", nonce, 404, "NotFound"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, refusal := do(h, test.method, test.path, test.contentType, test.body, nil)
			if r.Code != test.status || refusal.Error.Code != test.code {
				t.Errorf("got %d %s", r.Code, r.Body)
			}
		})
	}
	if w, _ := do(newHead(t, head.Config{Service: w}), "POST", wire.EventsPath, "application/json", "{}", nil); w.Code != 404 {
		t.Errorf("without reports, events get %d", w.Code)
	}
	if !h.Owns([]string{"attestation", "v1", "nonce"}) || h.Owns(nil) || h.Owns([]string{"devices"}) {
		t.Error("it owns other paths than its own")
	}
}

// certificate is one of the world's issuers.
func certificate(t *testing.T, w *attesttest.World, kind attest.Kind) *tls.ConnectionState {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := w.Issue(t.Context(), attest.Request{Kind: kind, Device: attest.Device{ID: "d"}, Key: key.Public(), NotBefore: w.Now(), NotAfter: w.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(issued.PEM)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}}
}

// Only the update certificate uploads events, and only for its own device.
func TestEvents(t *testing.T) {
	w := attesttest.New(t)
	h := newHead(t, head.Config{Service: w, Updates: w, Reports: w})
	good := `{"version":1,"events":[{"type":"AppCrash","class":"c","description":"d","count":2,"startTimeUtc":"2026-05-01T00:00:00Z","endTimeUtc":"2026-05-01T00:00:00Z"}]}`
	update := certificate(t, w, attest.Update)
	for _, test := range []struct {
		name, body string
		state      *tls.ConnectionState
		status     int
		code       string
	}{
		{"the client certificate", good, certificate(t, w, attest.Client), 401, "Unauthorized"},
		{"no events", `{"version":1}`, update, 400, "Invalid"},
		{"too many", `{"version":1,"events":[` + strings.Repeat("{},", 200) + `{}]}`, update, 400, "Invalid"},
		{"another version", `{"version":2,"events":[{}]}`, update, 400, "Invalid"},
		{"another's name", `{"version":1,"deviceId":"x","events":[{}]}`, update, 400, "Malformed"},
		{"good", good, update, 200, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, refusal := do(h, "POST", wire.EventsPath, "application/json", test.body, test.state)
			if r.Code != test.status || refusal.Error.Code != test.code {
				t.Errorf("got %d %s", r.Code, r.Body)
			}
		})
	}
	if got := w.Events("d"); len(got) != 1 || got[0].Count != 2 || got[0].Type != "AppCrash" {
		t.Errorf("uploaded is %+v", got)
	}
}

type slow struct {
	failing
	entered, leave chan struct{}
}

func (s slow) Nonce(context.Context, []byte) (wire.NonceReply, error) {
	s.entered <- struct{}{}
	<-s.leave
	return wire.NonceReply{}, nil
}

// More devices at once than the head judges are told to come back, at different times.
func TestBusy(t *testing.T) {
	s := slow{entered: make(chan struct{}), leave: make(chan struct{})}
	h := newHead(t, head.Config{Service: s, Busy: 1})
	done := make(chan int)
	go func() {
		w, _ := do(h, "POST", wire.NoncePath, "application/json", "{}", nil)
		done <- w.Code
	}()
	<-s.entered
	w, refusal := do(h, "POST", wire.NoncePath, "application/json", "{}", nil)
	if w.Code != 429 || refusal.Error.Code != "Busy" || refusal.RetryAfter < 5 || refusal.RetryAfter > 30 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	close(s.leave)
	if code := <-done; code != 200 {
		t.Errorf("the first got %d", code)
	}
	go func() { <-s.entered }()
	if w, _ := do(h, "POST", wire.NoncePath, "application/json", "{}", nil); w.Code != 200 {
		t.Errorf("once there is room again, one gets %d", w.Code)
	}
}

func TestNew_Refuses(t *testing.T) {
	w := attesttest.New(t)
	for _, cfg := range []head.Config{{}, {Service: w, Updates: w}, {Service: w, Reports: w}} {
		if _, err := head.New(cfg); err == nil {
			t.Errorf("%+v is taken", cfg)
		}
	}
}

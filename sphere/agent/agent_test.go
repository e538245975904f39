package agent_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"github.com/vauban-iot/vauban/fault"
	head "github.com/vauban-iot/vauban/head/attestation"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/sphere/agent"
	"github.com/vauban-iot/vauban/sphere/agent/tpmkey"
	"github.com/vauban-iot/vauban/sphere/attest"
	"github.com/vauban-iot/vauban/sphere/attest/attesttest"
	"github.com/vauban-iot/vauban/wire/attestation"
	"github.com/vauban-iot/vauban/wire/tpm/tpmtest"
)

var osImage = agent.Image{
	Image: attestation.Image{Component: "00000000-0000-0000-0000-000000000001", ID: "00000000-0000-0000-0000-0000000000a1", SHA256: strings.Repeat("a1", 32)},
	Name:  "kernel", Type: 7, Size: 4096,
}

// link is the network between devices and the service, in memory. It may lose what it carries.
type link struct {
	h http.Handler

	mu    sync.Mutex
	hook  func(*http.Request, func() *http.Response) (*http.Response, error)
	paths []string
	times []time.Time
}

func newLink(t testing.TB, w *attesttest.World) *link {
	t.Helper()
	h, err := head.New(head.Config{Service: w, Updates: w, Reports: w, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return &link{h: h}
}

func (l *link) set(hook func(*http.Request, func() *http.Response) (*http.Response, error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hook = hook
}

// count is how often a path was asked for, and when.
func (l *link) count(path string) (times []time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, p := range l.paths {
		if p == path {
			times = append(times, l.times[i])
		}
	}
	return times
}

func away(*http.Request, func() *http.Response) (*http.Response, error) {
	return nil, errors.New("no route to host")
}

// transport is what an agent connects by.
func (l *link) transport(c *tls.Config) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		l.mu.Lock()
		hook := l.hook
		l.paths, l.times = append(l.paths, r.URL.Path), append(l.times, time.Now())
		l.mu.Unlock()
		state := &tls.ConnectionState{}
		if c.GetClientCertificate != nil {
			cert, err := c.GetClientCertificate(nil)
			if err != nil {
				return nil, err
			}
			state.PeerCertificates = []*x509.Certificate{cert.Leaf}
		}
		deliver := func() *http.Response {
			body, _ := io.ReadAll(r.Body)
			q := httptest.NewRequestWithContext(r.Context(), r.Method, r.URL.String(), bytes.NewReader(body))
			q.Header, q.TLS = r.Header, state
			w := httptest.NewRecorder()
			l.h.ServeHTTP(w, q)
			return w.Result()
		}
		if hook != nil {
			return hook(r, deliver)
		}
		return deliver(), nil
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func config(l *link, dir string) agent.Config {
	return agent.Config{
		Server: "https://sphere.test", Dir: dir, Transport: l.transport, Logger: slog.New(slog.DiscardHandler), Random: func() float64 { return 0.5 },
		Software: func() (agent.Software, error) {
			return agent.Software{OSVersion: "26.11", Images: []agent.Image{osImage}}, nil
		},
	}
}

func open(t testing.TB, cfg agent.Config) *agent.Agent {
	t.Helper()
	a, err := agent.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// claimed makes the device known to the service.
func claimed(t testing.TB, w *attesttest.World, a *agent.Agent) {
	t.Helper()
	id, err := a.Identity()
	if err != nil {
		t.Fatal(err)
	}
	w.Add(attest.Device{ID: id.ID, PublicKey: id.PublicKey, EndorsementKey: id.EndorsementKey, Tenant: "tenant", Enabled: true})
}

func attested(t testing.TB, a *agent.Agent) attestation.Reply {
	t.Helper()
	r, err := a.Attest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAttest(t *testing.T) {
	w := attesttest.New(t)
	l := newLink(t, w)
	dir := t.TempDir()
	a := open(t, config(l, dir))
	claimed(t, w, a)
	if _, err := a.GetClientCertificate(nil); !errors.Is(err, agent.ErrNoCertificate) || a.Ready() {
		t.Errorf("before the first attestation: %v", err)
	}
	attested(t, a)
	first, err := a.GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Leaf.CheckSignatureFrom(w.CA(attest.Client)); err != nil || first.Leaf.Subject.CommonName != a.ID() {
		t.Errorf("the certificate of %q: %v", first.Leaf.Subject, err)
	}
	attested(t, a)
	second, err := a.GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	if first.PrivateKey.(*ecdsa.PrivateKey).Equal(second.PrivateKey) {
		t.Error("keys of certificates are used again")
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", f.Name(), info.Mode())
		}
	}

	// Started again, with the service away, it is the same device with the same certificate, and a later start.
	l.set(away)
	b := open(t, config(l, dir))
	if b.ID() != a.ID() {
		t.Error("it is another device now")
	}
	if _, err := b.Attest(t.Context()); err == nil {
		t.Error("attested without a service")
	}
	if c, err := b.GetClientCertificate(nil); err != nil || !c.Leaf.Equal(second.Leaf) {
		t.Errorf("the certificate is another: %v", err)
	}
	l.set(nil)
	attested(t, b)
	if r, err := w.Attestation(t.Context(), a.ID()); err != nil || r.BootCounter != 2 || r.Sequence != 1 || r.State != agent.Blank {
		t.Errorf("the record is %+v, %v", r, err)
	}
	if len(w.Suspicions()) > 0 {
		t.Error("a restart is suspicious")
	}
}

// An answer that is lost costs a statement, and nothing else.
func TestAttest_LostAnswer(t *testing.T) {
	w := attesttest.New(t)
	l := newLink(t, w)
	a := open(t, config(l, t.TempDir()))
	claimed(t, w, a)
	l.set(func(r *http.Request, deliver func() *http.Response) (*http.Response, error) {
		res := deliver()
		if r.URL.Path == attestation.EvidencePath {
			return nil, errors.New("connection reset")
		}
		return res, nil
	})
	for range 2 {
		if _, err := a.Attest(t.Context()); err == nil {
			t.Fatal("the answer was not lost")
		}
	}
	l.set(nil)
	attested(t, a)
	if len(w.Suspicions()) > 0 || !a.Ready() {
		t.Errorf("it looks like a clone: %+v", w.Suspicions())
	}
}

// A copy of the device's folder is a second device, and shows.
func TestAttest_CopiedFolder(t *testing.T) {
	w := attesttest.New(t)
	l := newLink(t, w)
	dir, copied := t.TempDir(), t.TempDir()
	a := open(t, config(l, dir))
	claimed(t, w, a)
	attested(t, a)
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"device.key", "state.json", "client.pem", "update.pem"} {
		if err := os.Chmod(filepath.Join(copied, f), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	clone := open(t, config(l, copied))
	attested(t, clone) // it is ahead by a start
	_, err := a.Attest(t.Context())
	if r, ok := errors.AsType[*agent.RefusedError](err); !ok || r.Code != "CounterNotGrown" || r.Status != http.StatusConflict {
		t.Errorf("got %v", err)
	}
	if s := w.Suspicions(); len(s) != 1 || s[0].Last.BootCounter != 2 || s[0].Shown.BootCounter != 1 {
		t.Errorf("suspicions are %+v", s)
	}
}

// The device renews in time, for days, through an outage, without ever being without a certificate.
func TestRun(t *testing.T) {
	conform.Covers(t, "SPH-12")
	synctest.Test(t, func(t *testing.T) {
		w := attesttest.New(t)
		l := newLink(t, w)
		cfg := config(l, t.TempDir())
		renewed := 0
		cfg.Renewed = func() { renewed++ }
		a := open(t, cfg)
		claimed(t, w, a)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- a.Run(ctx) }()
		for hour := range 96 {
			synctest.Wait()
			if !a.Ready() {
				t.Fatalf("hour %d: there is no certificate", hour)
			}
			switch hour {
			case 30:
				l.set(away)
			case 39:
				l.set(nil)
			}
			time.Sleep(time.Hour)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		var good []time.Time
		for _, r := range w.Issued() {
			if r.Kind == attest.Client {
				good = append(good, r.NotAfter.Add(-24*time.Hour))
			}
		}
		if n := len(good); n < 6 || n > 11 || renewed != n {
			t.Errorf("%d renewals in four days, %d announced", n, renewed)
		}
		for i := 1; i < len(good); i++ {
			if d := good[i].Sub(good[i-1]); d < 9*time.Hour+30*time.Minute || d > 20*time.Hour { // the outage costs up to nine hours
				t.Errorf("renewal %d came after %s", i, d)
			}
		}
		// While nobody answered it tried at least every ten minutes, and not much more often.
		if n := len(l.count(attestation.NoncePath)) - len(good); n > 120 {
			t.Errorf("%d attempts that failed", n)
		}
	})
}

// A wait that the server names is honoured, up to a cap; without a word of the server the device backs off.
func TestRun_Waits(t *testing.T) {
	conform.Covers(t, "SPH-12")
	reply := func(status int, header, code string, after int64) func(*http.Request, func() *http.Response) (*http.Response, error) {
		return func(*http.Request, func() *http.Response) (*http.Response, error) {
			w := httptest.NewRecorder()
			if header != "" {
				w.Header().Set("Retry-After", header)
			}
			w.WriteHeader(status)
			json.NewEncoder(w).Encode(attestation.Refusal{Error: attestation.Error{Code: code}, RetryAfter: after})
			return w.Result(), nil
		}
	}
	for _, test := range []struct {
		name       string
		hook       func(*http.Request, func() *http.Response) (*http.Response, error)
		min, max   time.Duration // of the first wait
		fmin, fmax time.Duration // of the tenth
	}{
		{"nobody answers", away, 2 * time.Second, 5 * time.Second, 5 * time.Minute, 10 * time.Minute},
		{"a minute", reply(503, "", "Unavailable", 60), time.Minute, 66 * time.Second, 5 * time.Minute, 10 * time.Minute},
		{"a proxy's header", reply(503, "120", "", 0), 2 * time.Minute, 132 * time.Second, 5 * time.Minute, 10 * time.Minute},
		{"a week", reply(429, "", "Busy", 7*24*3600), time.Hour, time.Hour, time.Hour, time.Hour},
		{"longer than numbers go", reply(429, "", "Busy", 1<<62), time.Hour, time.Hour, time.Hour, time.Hour},
		{"less than nothing", reply(503, "-5", "Unavailable", -1), 2 * time.Second, 5 * time.Second, 5 * time.Minute, 10 * time.Minute},
		{"refused for good", reply(403, "", "WrongKey", 0), 30 * time.Minute, time.Hour, 30 * time.Minute, time.Hour},
		{"taken for a clone", reply(409, "", "CounterNotGrown", 0), 30 * time.Minute, time.Hour, 30 * time.Minute, time.Hour},
		{"a used nonce", reply(409, "", "NonceUsed", 0), 2 * time.Second, 5 * time.Second, 5 * time.Minute, 10 * time.Minute},
		{"garbage", func(*http.Request, func() *http.Response) (*http.Response, error) {
			w := httptest.NewRecorder()
			w.WriteString("<html>")
			return w.Result(), nil
		}, 2 * time.Second, 5 * time.Second, 5 * time.Minute, 10 * time.Minute},
		{"an endless answer", func(*http.Request, func() *http.Response) (*http.Response, error) {
			w := httptest.NewRecorder()
			w.Write(make([]byte, attestation.MaxReply+1))
			return w.Result(), nil
		}, 2 * time.Second, 5 * time.Second, 5 * time.Minute, 10 * time.Minute},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLink(t, attesttest.New(t))
				l.set(test.hook)
				a := open(t, config(l, t.TempDir()))
				ctx, stop := context.WithTimeout(t.Context(), 24*time.Hour)
				defer stop()
				if err := a.Run(ctx); err != nil {
					t.Error(err)
				}
				times := l.count(attestation.NoncePath)
				if len(times) < 12 {
					t.Fatalf("%d attempts in a day", len(times))
				}
				if d := times[1].Sub(times[0]); d < test.min || d > test.max {
					t.Errorf("it came back after %s, want %s to %s", d, test.min, test.max)
				}
				if d := times[11].Sub(times[10]); d < test.fmin || d > test.fmax {
					t.Errorf("after ten failures it came back after %s, want %s to %s", d, test.fmin, test.fmax)
				}
			})
		})
	}
}

// With old software the device gets what it needs to update, keeps its client certificate until that ends, and gets a new one at once when
// the update is done.
// Who asks for a claim proof is about to claim the device: it need not wait for half an hour to hear of it.
func TestRun_Claimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := attesttest.New(t)
		l := newLink(t, w)
		a := open(t, config(l, t.TempDir()))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- a.Run(ctx) }()
		time.Sleep(time.Minute)
		if n := len(l.count(attestation.NoncePath)); n != 1 {
			t.Errorf("%d attempts of a device that is nobody's", n)
		}
		r := httptest.NewRequest("POST", "http://device/device/claim-proof", strings.NewReader(`{"challenge":"text"}`))
		r.Header.Set("Content-Type", "application/json")
		answer := httptest.NewRecorder()
		a.Servicing().ServeHTTP(answer, r)
		if answer.Code != 200 {
			t.Fatalf("%d %s", answer.Code, answer.Body)
		}
		time.Sleep(20 * time.Second)
		claimed(t, w, a)
		time.Sleep(6 * time.Second)
		if !a.Ready() {
			t.Error("claimed, and without a certificate after six seconds")
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestRun_Outdated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := attesttest.New(t)
		l := newLink(t, w)
		a := open(t, config(l, t.TempDir()))
		claimed(t, w, a)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- a.Run(ctx) }()
		synctest.Wait()
		w.SetVerdict(attest.Verdict{Trusted: true, Reason: "old"})
		time.Sleep(23 * time.Hour)
		if !a.Ready() {
			t.Error("the certificate that it had is gone")
		}
		time.Sleep(2 * time.Hour)
		if a.Ready() {
			t.Error("its certificate outlives a day")
		}
		if err := a.Report(attestation.Event{Type: "AppCrash"}); err != nil {
			t.Fatal(err)
		}
		if err := a.UploadEvents(ctx); err != nil || len(w.Events(a.ID())) != 1 {
			t.Errorf("the update certificate does not do: %v", err)
		}
		w.SetVerdict(attest.Verdict{Trusted: true, Current: true})
		a.Kick()
		synctest.Wait()
		if !a.Ready() {
			t.Error("updated, and still without a certificate")
		}
		stop()
		<-done
	})
}

// A device whose clock is wrong by years works by the server's, and does not fall for a clock that is set back later.
func TestAttest_WrongClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := attesttest.New(t)
		w.SetAhead(26 * 365 * 24 * time.Hour) // the bubble begins in 2000
		l := newLink(t, w)
		dir := t.TempDir()
		a := open(t, config(l, dir))
		claimed(t, w, a)
		attested(t, a)
		if !a.Ready() || a.Now().Sub(w.Now()).Abs() > time.Second {
			t.Errorf("it is %s there, %s at the service", a.Now(), w.Now())
		}
		b := open(t, config(l, dir))
		l.set(away)
		if d := w.Now().Sub(b.Now()); d > time.Second {
			t.Errorf("started again, it believes it is %s", b.Now())
		}
		if !b.Ready() {
			t.Error("started again, it has no certificate")
		}
		l.set(nil)
		w.SetAhead(26*365*24*time.Hour - time.Hour) // the server's clock was put right
		attested(t, b)
	})
}

func TestEvents(t *testing.T) {
	w := attesttest.New(t)
	l := newLink(t, w)
	dir := t.TempDir()
	a := open(t, config(l, dir))
	claimed(t, w, a)
	at := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	var waiting []attestation.Event
	for i := range 995 {
		waiting = append(waiting, attestation.Event{Type: "AppExit", Description: fmt.Sprint(i), Count: 1, Start: at, End: at})
	}
	b, err := json.Marshal(waiting)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "events.json", string(b))
	a = open(t, config(l, dir))
	for i := 995; i < 1010; i++ { // the oldest ten go
		if err := a.Report(attestation.Event{Type: "AppExit", Description: fmt.Sprint(i), Start: at}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 { // the same again
		if err := a.Report(attestation.Event{Type: "AppExit", Description: "1009", Start: at.Add(time.Duration(i) * time.Hour), Count: 2}); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.UploadEvents(t.Context()); !errors.Is(err, agent.ErrNoCertificate) {
		t.Errorf("without a certificate: %v", err)
	}
	attested(t, a)
	l.set(away)
	if err := a.UploadEvents(t.Context()); err == nil {
		t.Error("uploaded to nobody")
	}
	l.set(nil)
	w.RefuseEvents(fault.New(fault.Unavailable, "later"))
	if err := a.UploadEvents(t.Context()); err == nil {
		t.Error("a refusal is no error")
	}
	w.RefuseEvents(nil)
	a = open(t, config(l, dir)) // events survive a restart
	if err := a.UploadEvents(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := w.Events(a.ID())
	if len(got) != 1000 || got[0].Description != "10" || got[999].Description != "1009" {
		t.Fatalf("%d events came, the first %+v", len(got), got[0])
	}
	if last := got[999]; last.Count != 7 || !last.Start.Equal(at) || !last.End.Equal(at.Add(2*time.Hour)) || got[0].Count != 1 {
		t.Errorf("the last is %+v", last)
	}
	if n := len(l.count(attestation.EventsPath)); n != 5+3 {
		t.Errorf("%d uploads, want 5 of 200 events and 3 that failed", n)
	}
	if err := a.UploadEvents(t.Context()); err != nil || len(w.Events(a.ID())) != 1000 {
		t.Errorf("uploaded twice: %v", err)
	}
	// What will never be taken must not stand in the way for ever.
	w.RefuseEvents(fault.New(fault.Invalid, "no such type"))
	if err := a.Report(attestation.Event{Type: "?"}); err != nil {
		t.Fatal(err)
	}
	if err := a.UploadEvents(t.Context()); err != nil || len(a.Events()) > 0 {
		t.Errorf("it stays: %v", err)
	}
}

func TestOpen_Refuses(t *testing.T) {
	w := attesttest.New(t)
	l := newLink(t, w)
	fresh := func(t *testing.T) (string, agent.Config) {
		dir := t.TempDir()
		open(t, config(l, dir))
		return dir, config(l, dir)
	}
	for _, test := range []struct {
		name   string
		change func(t *testing.T, dir string, cfg *agent.Config)
		want   string
	}{
		{"HTTP", func(_ *testing.T, _ string, c *agent.Config) { c.Server = "http://sphere.test" }, "https://"},
		{"a path", func(_ *testing.T, _ string, c *agent.Config) { c.Server = "https://sphere.test/x" }, "https://"},
		{"no software", func(_ *testing.T, _ string, c *agent.Config) { c.Software = nil }, "required"},
		{"a key that others may read", func(t *testing.T, dir string, _ *agent.Config) { chmod(t, dir, "device.key") }, "open to others"},
		{"a state that others may write", func(t *testing.T, dir string, _ *agent.Config) { chmod(t, dir, "state.json") }, "open to others"},
		{"a lost key", func(t *testing.T, dir string, _ *agent.Config) { os.Remove(filepath.Join(dir, "device.key")) }, "is missing"},
		{"a damaged key", func(t *testing.T, dir string, _ *agent.Config) { write(t, dir, "device.key", "x") }, "holds no key"},
		{"a damaged state", func(t *testing.T, dir string, _ *agent.Config) { write(t, dir, "state.json", "{") }, "damaged"},
		{"a state of a megabyte", func(t *testing.T, dir string, _ *agent.Config) {
			write(t, dir, "state.json", strings.Repeat(" ", 1<<20))
		}, "more than"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, cfg := fresh(t)
			test.change(t, dir, &cfg)
			if _, err := agent.Open(cfg); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
		})
	}
	// A certificate or events that are damaged cost no more than themselves.
	dir, cfg := fresh(t)
	write(t, dir, "client.pem", "x")
	write(t, dir, "events.json", "x")
	a := open(t, cfg)
	if a.Ready() || len(a.Events()) > 0 {
		t.Error("what cannot be read is there")
	}
}

func chmod(t *testing.T, dir, file string) {
	t.Helper()
	if err := os.Chmod(filepath.Join(dir, file), 0o644); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, dir, file, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A service that hands out what is not ours is not believed.
func TestAttest_StrangeAnswers(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*attestation.Reply)
		want   string
	}{
		{"no certificate", func(r *attestation.Reply) { r.Update = nil }, "no update certificate"},
		{"a certificate that is none", func(r *attestation.Reply) { r.Update.PEM = "x" }, "update certificate"},
		{"a certificate for another key", func(r *attestation.Reply) { r.Client.PEM = r.Update.PEM }, "client certificate"},
		{"a certificate that ended", func(r *attestation.Reply) { r.ServerTime = r.ServerTime.Add(48 * time.Hour) }, "ended"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := attesttest.New(t)
			l := newLink(t, w)
			a := open(t, config(l, t.TempDir()))
			claimed(t, w, a)
			l.set(func(r *http.Request, deliver func() *http.Response) (*http.Response, error) {
				res := deliver()
				if r.URL.Path != attestation.EvidencePath {
					return res, nil
				}
				var reply attestation.Reply
				json.NewDecoder(res.Body).Decode(&reply)
				test.change(&reply)
				w := httptest.NewRecorder()
				json.NewEncoder(w).Encode(reply)
				return w.Result(), nil
			})
			if _, err := a.Attest(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
			if a.Ready() {
				t.Error("it uses the certificate")
			}
		})
	}
}

// A device with a real TPM: its agent may start again within one start of the machine.
func TestAttest_TPM(t *testing.T) {
	dev, err := linuxudstpm.Open(tpmtest.Socket(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	key, err := tpmkey.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	if err := key.Measure(osImage.Image); err != nil {
		t.Fatal(err)
	}
	w := attesttest.New(t)
	l := newLink(t, w)
	cfg := config(l, t.TempDir())
	cfg.TPM = key
	for i := range 2 {
		a := open(t, cfg)
		if i == 0 {
			claimed(t, w, a)
		}
		attested(t, a)
		if r, err := w.Attestation(t.Context(), a.ID()); err != nil || r.Kind != attestation.TPM || r.Sequence != uint64(i+1) {
			t.Errorf("the record is %+v, %v", r, err)
		}
		if _, err := os.Stat(filepath.Join(cfg.Dir, "device.key")); err == nil {
			t.Error("there is a key in a file")
		}
	}
	cfg.Software = func() (agent.Software, error) {
		changed := osImage
		changed.SHA256 = strings.Repeat("ff", 32)
		return agent.Software{OSVersion: "26.11", Images: []agent.Image{changed}}, nil
	}
	_, err = open(t, cfg).Attest(t.Context())
	if r, ok := errors.AsType[*agent.RefusedError](err); !ok || r.Code != "MeasurementMismatch" {
		t.Errorf("software that was not measured: %v", err)
	}
}

// Over real TLS: the server is checked, redirects are not followed, and the update certificate is shown where it belongs.
func TestAttest_TLS(t *testing.T) {
	w := attesttest.New(t)
	l := newLink(t, w)
	s := httptest.NewUnstartedServer(l.h)
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	s.StartTLS()
	defer s.Close()
	cfg := config(l, t.TempDir())
	cfg.Server, cfg.Transport = s.URL, nil
	stranger := open(t, cfg)
	if _, err := stranger.Attest(t.Context()); err == nil {
		t.Error("a server that nobody vouches for is trusted")
	}
	cfg.RootCAs = x509.NewCertPool()
	cfg.RootCAs.AddCert(s.Certificate())
	a := open(t, cfg)
	claimed(t, w, a)
	attested(t, a)
	if err := a.Report(attestation.Event{Type: "AppCrash"}); err != nil {
		t.Fatal(err)
	}
	if err := a.UploadEvents(t.Context()); err != nil || len(w.Events(a.ID())) != 1 {
		t.Errorf("upload: %v", err)
	}
	attested(t, a)
	if err := a.Report(attestation.Event{Type: "AppExit"}); err != nil {
		t.Fatal(err)
	}
	if err := a.UploadEvents(t.Context()); err != nil || len(w.Events(a.ID())) != 2 {
		t.Errorf("upload after a renewal: %v", err)
	}

	evil := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, s.URL+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	defer evil.Close()
	cfg.Server = evil.URL
	b := open(t, cfg)
	if _, err := b.Attest(t.Context()); err == nil {
		t.Error("a redirect is followed")
	}
}

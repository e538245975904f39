package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/central/live"
	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/baseline"
	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/defender/privacy"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/pki/pkitest"
	"github.com/vauban-iot/vauban/wire/bag"
)

const token = "correct horse battery staple"

// log is a telemetry log in memory with one reader.
type log struct {
	mu   sync.Mutex
	next uint64
	in   chan bus.Entry
}

func (l *log) Append(_ context.Context, data []byte) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next++
	if l.in != nil {
		l.in <- bus.Entry{Sequence: l.next, Data: slices.Clone(data)}
	}
	return l.next, nil
}

func (l *log) Follow(ctx context.Context, _ bus.Start, ready func(), handle func(bus.Entry) error) error {
	in := make(chan bus.Entry, 10000)
	l.mu.Lock()
	l.in = in
	l.mu.Unlock()
	ready()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-in:
			if err := handle(e); err != nil {
				return err
			}
		}
	}
}

// alerts is an alert store that remembers what it was asked.
type alerts struct {
	list  []alert.Alert
	err   error
	asked alert.Filter

	verdicts     []alert.Verdict
	suppressions []alert.Suppression
	events       []record.Event
	wanted       record.Filter
}

func (s *alerts) Alerts(_ context.Context, f alert.Filter) ([]alert.Alert, error) {
	s.asked = f
	return s.list, s.err
}

func (s *alerts) Alert(_ context.Context, id string) (alert.Alert, error) {
	for _, a := range s.list {
		if a.ID == id {
			return a, s.err
		}
	}
	return alert.Alert{}, fault.New(fault.NotFound, "alert %s does not exist", id)
}

func (s *alerts) Judge(ctx context.Context, id string, v alert.Verdict) (alert.Alert, error) {
	a, err := s.Alert(ctx, id)
	if err == nil {
		a.Status, a.StatusBy, a.Comment = v.Status, v.By, v.Comment
		s.verdicts = append(s.verdicts, v)
	}
	return a, err
}

func (s *alerts) Suppress(_ context.Context, p alert.Suppression) (int, error) {
	s.suppressions = append(s.suppressions, p)
	return 3, s.err
}

func (s *alerts) Suppressions(context.Context, time.Time) ([]alert.Suppression, error) {
	return s.suppressions, s.err
}

func (s *alerts) Unsuppress(_ context.Context, id string, _ time.Time) (int, error) {
	for i, p := range s.suppressions {
		if p.ID == id {
			s.suppressions = slices.Delete(s.suppressions, i, i+1)
			return 2, nil
		}
	}
	return 0, fault.New(fault.NotFound, "suppression %s does not exist", id)
}

func (s *alerts) SecurityEvents(_ context.Context, f record.Filter) ([]record.Event, error) {
	s.wanted = f
	return s.events, s.err
}

// groupStore is a group.Store in memory.
type groupStore struct{ text []byte }

func (s *groupStore) SecurityGroups(context.Context, []string) (map[string]string, error) {
	return nil, nil
}

func (s *groupStore) Setting(context.Context, string) ([]byte, error) { return s.text, nil }

func (s *groupStore) UpdateSetting(_ context.Context, _ string, change func([]byte) ([]byte, error)) (err error) {
	s.text, err = change(s.text)
	return err
}

// certificates is a CertificateStore in memory.
type certificates map[string]string

func (s certificates) Certificates(context.Context) (cs []Certificate, err error) {
	for _, name := range slices.Sorted(maps.Keys(s)) {
		cs = append(cs, Certificate{name, s[name]})
	}
	return cs, nil
}

func (s certificates) PutCertificate(_ context.Context, name, text string) error {
	if len(s) == 2 && s[name] == "" {
		return fault.New(fault.Invalid, "there are 2 certificates already")
	}
	s[name] = text
	return nil
}

func (s certificates) DeleteCertificate(_ context.Context, name string) error {
	if _, ok := s[name]; !ok {
		return fault.New(fault.NotFound, "there is no certificate %q", name)
	}
	delete(s, name)
	return nil
}

// world is an API on fakes that work.
type world struct {
	exports exportFake
	tables  tableFake
	*API
	alerts      *alerts
	certs       certificates
	routed      routed
	letters     deadLetters
	switches    switches
	policies    policyFake
	network     networkFake
	throttles   throttleFake
	subscribed  subscriptionFake
	intel       intelFake
	baselines   *baseline.Service
	detectors   detectorStore
	intake      *telemetry.Intake
	feed        *live.Feed
	privacy     *privacy.Guard
	cfg         Config
	logged      bytes.Buffer
	changed     []string
	recommended recommended
	vulnerable  vulnerable
}

func (w *world) replay(_ context.Context, a alert.Alert) ([]alert.Alert, error) {
	return []alert.Alert{{Type: a.Type, Device: a.Device}}, nil
}

func (w *world) certificateChanged(_ context.Context, name, _ string, deleted bool, failure error) {
	w.changed = append(w.changed, fmt.Sprint(name, " ", deleted, " ", failure != nil))
}

func newWorld(t *testing.T) *world {
	t.Helper()
	l := &log{}
	w := &world{alerts: &alerts{}, certs: certificates{}, intake: telemetry.NewIntake(l, nil)}
	logger := slog.New(slog.NewTextHandler(&w.logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w.feed = live.New(l, slog.New(slog.DiscardHandler))
	var err error
	if w.privacy, err = privacy.New(privacy.Config{Store: &groupStore{}, Key: secret.New([]byte("key"))}); err != nil {
		t.Fatal(err)
	}
	w.newBaselines(t)
	w.cfg = Config{Token: secret.New([]byte(token)), Host: "hub.example", Alerts: w.alerts, Events: w.alerts, Groups: group.NewBook(&groupStore{}, nil), Baselines: w.baselines, Recommendations: &w.recommended, Vulnerabilities: &w.vulnerable, Replay: w.replay, CertificateChanged: w.certificateChanged, Feed: w.feed, Certificates: w.certs, Routing: &w.routed, DeadLetters: &w.letters, Authentication: &w.switches, Policies: &w.policies, Network: &w.network, Throttles: &w.throttles, Subscriptions: &w.subscribed, Containment: nobody{}, Privacy: w.privacy, Intel: &w.intel, Exports: &w.exports, Tables: &w.tables, Logger: logger}
	w.cfg.Detectors = &w.detectors
	w.API, err = New(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) ask(t *testing.T, method, target, body string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+token)
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, r)
	return rec
}

// refused checks an error's status, code and shape.
func refused(t *testing.T, rec *httptest.ResponseRecorder, status int, code string) (message string) {
	t.Helper()
	var e errorBody
	d := json.NewDecoder(bytes.NewReader(rec.Body.Bytes()))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		t.Fatalf("the body %q is no error: %v", rec.Body, err)
	}
	if rec.Code != status || e.Error.Code != code || e.Error.Message == "" {
		t.Errorf("got %d %+v, want %d with code %s", rec.Code, e.Error, status, code)
	}
	if got := rec.Header().Get("Content-Type"); !strings.HasPrefix(got, "application/json") {
		t.Errorf("content type %q, want JSON", got)
	}
	return e.Error.Message
}

func TestNew_RefusesAnIncompleteConfig(t *testing.T) {
	t.Parallel()
	if _, err := New(Config{Alerts: &alerts{}, Feed: live.New(&log{}, slog.Default()), Certificates: certificates{}}); err == nil {
		t.Error("an API without a token was made")
	}
}

func TestAPI_NeedsTheToken(t *testing.T) {
	t.Parallel()
	for name, header := range map[string]string{
		"none": "", "wrong": "Bearer nonsense", "prefix": "Bearer " + token[:5], "longer": "Bearer " + token + "x",
		"empty": "Bearer ", "scheme": "Basic " + token, "bare": token,
	} {
		for _, target := range []string{"/api/alerts", "/api/nothing", "/api/certificates/x"} {
			w := newWorld(t)
			r := httptest.NewRequest("GET", target, nil)
			if header != "" {
				r.Header.Set("Authorization", header)
			}
			rec := httptest.NewRecorder()
			w.ServeHTTP(rec, r)
			refused(t, rec, 401, "Unauthorized")
			if got := rec.Header().Get("WWW-Authenticate"); !strings.HasPrefix(got, "Bearer") {
				t.Errorf("%s: WWW-Authenticate is %q, want Bearer", name, got)
			}
			if strings.Contains(w.logged.String(), token) {
				t.Errorf("%s: the log holds the token", name)
			}
		}
	}
	w := newWorld(t)
	r := httptest.NewRequest("GET", "/api/alerts", nil)
	r.Header.Set("Authorization", "bearer "+token) // schemes have no case (RFC 9110 §11.1)
	rec := httptest.NewRecorder()
	if w.ServeHTTP(rec, r); rec.Code != 200 {
		t.Errorf("with the token: %d, want 200", rec.Code)
	}
}

func TestAPI_RoutesAndMethods(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		method, target string
		status         int
		code, allow    string
	}{
		{"GET", "/api", 404, "NotFound", ""},
		{"GET", "/api/", 404, "NotFound", ""},
		{"GET", "/api/alert", 404, "NotFound", ""},
		{"GET", "/API/alerts", 404, "NotFound", ""},
		{"GET", "/api/alerts/1/x", 404, "NotFound", ""},
		{"POST", "/api/alerts", 405, "MethodNotAllowed", "GET"},
		{"HEAD", "/api/messages", 405, "MethodNotAllowed", "GET"},
		{"DELETE", "/api/certificates", 405, "MethodNotAllowed", "GET"},
		{"GET", "/api/certificates/x", 405, "MethodNotAllowed", "PUT, DELETE"},
		{"OPTIONS", "/api/certificates/x", 405, "MethodNotAllowed", "PUT, DELETE"},
	} {
		rec := newWorld(t).ask(t, c.method, c.target, "")
		refused(t, rec, c.status, c.code)
		if got := rec.Header().Get("Allow"); got != c.allow {
			t.Errorf("%s %s: Allow is %q, want %q", c.method, c.target, got, c.allow)
		}
	}
}

func TestErrors_EveryKindHasAnAnswer(t *testing.T) {
	t.Parallel()
	codes := make(map[string]fault.Kind)
	for _, k := range fault.Kinds() {
		want, ok := answers[k]
		if !ok {
			t.Errorf("%v has no row", k)
			continue
		}
		if other, ok := codes[want.code]; ok {
			t.Errorf("%v and %v share the code %s", k, other, want.code)
		}
		codes[want.code] = k
		w := newWorld(t)
		w.alerts.err = fmt.Errorf("list: %w", &fault.Error{Kind: k, Public: "for the peer", Err: errors.New("for the log"), RetryAfter: 1500 * time.Millisecond})
		rec := w.ask(t, "GET", "/api/alerts", "")
		message := refused(t, rec, want.status, want.code)
		if strings.Contains(message, "for the log") || (k == fault.Internal) == (message == "for the peer") {
			t.Errorf("%v: the peer reads %q", k, message)
		}
		if got := rec.Header().Get("Retry-After"); got != "2" {
			t.Errorf("%v: Retry-After %q, want 2", k, got)
		}
	}
	w := newWorld(t)
	w.alerts.err = errors.New("unclassified secret")
	if message := refused(t, w.ask(t, "GET", "/api/alerts", ""), 500, "InternalError"); strings.Contains(message, "secret") {
		t.Errorf("the peer reads %q of an unclassified error", message)
	}
	if !strings.Contains(w.logged.String(), "unclassified secret") {
		t.Error("the log does not say what failed")
	}
}

func TestAlerts(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 2, 10, 0, 0, 0, time.UTC)
	one := alert.Alert{
		ID: "a1", Sequence: 7, Type: "IoT_TiConnection", Severity: alert.High, Title: "t", Description: "<d>", Device: "lamp",
		Indicator: "203.0.113.5", Source: "x.txt:1", Day: "2026-11-02", Remote: "203.0.113.5", Count: 3, FirstSeen: at, LastSeen: at,
	}
	for _, c := range []struct {
		query string
		asked alert.Filter
		code  string // empty: accepted
	}{
		{"", alert.Filter{Limit: 100}, ""},
		{"?device=lamp%231&limit=1", alert.Filter{Device: "lamp#1", Limit: 1}, ""},
		{"?limit=1000&before=9", alert.Filter{Limit: 1000, Before: 9}, ""},
		{"?limit=0", alert.Filter{}, "InvalidArgument"},
		{"?limit=1001", alert.Filter{}, "InvalidArgument"},
		{"?limit=ten", alert.Filter{}, "InvalidArgument"},
		{"?before=18446744073709551615", alert.Filter{}, "InvalidArgument"},
		{"?device=a%20b", alert.Filter{}, "InvalidArgument"},
		{"?device=" + strings.Repeat("x", 129), alert.Filter{}, "InvalidArgument"},
	} {
		w := newWorld(t)
		w.alerts.list = []alert.Alert{one}
		rec := w.ask(t, "GET", "/api/alerts"+c.query, "")
		if c.code != "" {
			refused(t, rec, 400, c.code)
			continue
		}
		var got struct {
			Alerts []alert.Alert `json:"alerts"`
		}
		if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil || rec.Code != 200 {
			t.Fatalf("%s: %d %s, %v", c.query, rec.Code, rec.Body, err)
		}
		if diff := cmp.Diff([]alert.Alert{one}, got.Alerts); diff != "" || w.alerts.asked != c.asked {
			t.Errorf("%s: asked the store %+v, want %+v; alerts differ: %s", c.query, w.alerts.asked, c.asked, diff)
		}
	}
	if got := newWorld(t).ask(t, "GET", "/api/alerts", "").Body.String(); got != `{"alerts":[]}`+"\n" {
		t.Errorf("without alerts the body is %q, want an empty list", got)
	}
}

func pemOf(der ...[]byte) string {
	var b strings.Builder
	for _, d := range der {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d}))
	}
	return b.String()
}

func TestCertificates_PutListDelete(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ca := pkitest.NewCA(t, "Plant CA")
	rec := w.ask(t, "PUT", "/api/certificates/plant-2026", "a comment\n"+pemOf(ca.Cert.Raw))
	if rec.Code != 200 {
		t.Fatalf("put: %d %s", rec.Code, rec.Body)
	}
	if got, want := w.certs["plant-2026"], pemOf(ca.Cert.Raw); got != want {
		t.Errorf("the store keeps %q, want the bare certificate", got)
	}
	var list struct{ Certificates []CertificateView }
	if err := json.Unmarshal(w.ask(t, "GET", "/api/certificates", "").Body.Bytes(), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Certificates) != 1 || list.Certificates[0].Name != "plant-2026" || list.Certificates[0].Subject != "CN=Plant CA" ||
		!list.Certificates[0].NotAfter.Equal(ca.Cert.NotAfter) {
		t.Errorf("listed %+v", list.Certificates)
	}
	if !strings.Contains(w.logged.String(), "audit=true") {
		t.Error("no audit record was written")
	}
	if rec := w.ask(t, "DELETE", "/api/certificates/plant-2026", ""); rec.Code != 204 || rec.Body.Len() != 0 {
		t.Errorf("delete: %d %q, want an empty 204", rec.Code, rec.Body)
	}
	refused(t, w.ask(t, "DELETE", "/api/certificates/plant-2026", ""), 404, "NotFound")
	if got := w.ask(t, "GET", "/api/certificates", "").Body.String(); got != `{"certificates":[]}`+"\n" {
		t.Errorf("an empty list is %q", got)
	}
}

func TestCertificates_PutRefuses(t *testing.T) {
	t.Parallel()
	ca := pkitest.NewCA(t, "CA")
	leaf := ca.Leaf(t, "device")
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("key material")}))
	good := pemOf(ca.Cert.Raw)
	for name, c := range map[string]struct {
		target, body string
		status       int
		code         string
	}{
		"empty":            {"x", "", 400, "MalformedRequest"},
		"no PEM":           {"x", "hello", 400, "MalformedRequest"},
		"private key":      {"x", good + key, 400, "MalformedRequest"},
		"broken":           {"x", pemOf([]byte{0x30, 0x03, 0x02, 0x01}), 400, "MalformedRequest"},
		"a leaf":           {"x", pemOf(leaf.Certificate[0]), 400, "InvalidArgument"},
		"two at once":      {"x", good + good, 400, "InvalidArgument"},
		"too large":        {"x", strings.Repeat("x", maxCertificate+1), 413, "TooLarge"},
		"name with space":  {"a%20b", good, 400, "InvalidArgument"},
		"name with slash":  {"a%2Fb", good, 400, "InvalidArgument"},
		"name with markup": {"%3Cb%3E", good, 400, "InvalidArgument"},
		"hidden name":      {".x", good, 400, "InvalidArgument"},
		"long name":        {strings.Repeat("n", 65), good, 400, "InvalidArgument"},
	} {
		w := newWorld(t)
		rec := w.ask(t, "PUT", "/api/certificates/"+c.target, c.body)
		t.Run(name, func(t *testing.T) { refused(t, rec, c.status, c.code) })
		if len(w.certs) != 0 {
			t.Errorf("%s: the store was written", name)
		}
		if strings.Contains(rec.Body.String()+w.logged.String(), "key material") {
			t.Errorf("%s: a private key was repeated", name)
		}
	}
	w := newWorld(t)
	for _, name := range []string{"a", "b", "b"} {
		if rec := w.ask(t, "PUT", "/api/certificates/"+name, good); rec.Code != 200 {
			t.Fatalf("put %s: %d %s", name, rec.Code, rec.Body)
		}
	}
	refused(t, w.ask(t, "PUT", "/api/certificates/c", good), 400, "InvalidArgument")
}

func TestTrustworthy_Dates(t *testing.T) {
	t.Parallel()
	c := pkitest.NewCA(t, "CA").Cert
	if err := trustworthy(c, c.NotAfter.Add(-time.Second)); err != nil {
		t.Errorf("a valid CA is refused: %v", err)
	}
	if err := trustworthy(c, c.NotAfter.Add(time.Second)); !fault.Is(err, fault.Invalid) {
		t.Errorf("an expired CA: %v, want fault.Invalid", err)
	}
	c.KeyUsage = 1
	if err := trustworthy(c, c.NotBefore); !fault.Is(err, fault.Invalid) {
		t.Errorf("a CA that may not sign: %v, want fault.Invalid", err)
	}
}

// stream is an answer that is read while it is written.
type stream struct {
	header http.Header
	status chan int
	out    *io.PipeWriter
}

func (s *stream) Header() http.Header         { return s.header }
func (s *stream) WriteHeader(status int)      { s.status <- status }
func (s *stream) Write(b []byte) (int, error) { return s.out.Write(b) }
func (s *stream) Flush()                      {}

// watch runs test with the lines of GET /api/messages in a bubble of fake time.
func watch(t *testing.T, query string, test func(t *testing.T, w *world, line func() string)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { w.feed.Run(ctx) })
		wg.Go(func() { w.intake.Run(ctx) })
		in, out := io.Pipe()
		s := &stream{header: http.Header{}, status: make(chan int, 1), out: out}
		wg.Go(func() {
			r := httptest.NewRequestWithContext(ctx, "GET", "/api/messages"+query, nil)
			r.Header.Set("Authorization", "Bearer "+token)
			w.ServeHTTP(s, r)
			out.Close()
		})
		if status := <-s.status; status != 200 {
			t.Errorf("status %d, want 200", status)
		}
		lines := bufio.NewReader(in)
		defer func() {
			stop()
			io.Copy(io.Discard, lines) // ends when the handler does
			wg.Wait()
		}()
		test(t, w, func() string {
			text, err := lines.ReadString('\n')
			if err != nil {
				t.Errorf("the stream ended: %v", err)
			}
			return strings.TrimSuffix(text, "\n")
		})
	})
}

type ignored struct{}

func (ignored) Acked(uint64, error) {}

func (w *world) send(m iot.Message) {
	m.Source = iot.Telemetry
	m.Enqueued = time.Date(2026, 11, 2, 10, 0, 0, 5000, time.UTC)
	w.intake.Submit(&m, ignored{}, 0)
}

func TestMessages_Shapes(t *testing.T) {
	t.Parallel()
	const stamp = `"enqueuedTime":"2026-11-02T10:00:00.0000050Z","deviceId":"lamp"`
	watch(t, "?device=lamp", func(t *testing.T, w *world, line func() string) {
		for name, c := range map[string]struct {
			m    iot.Message
			want string
		}{
			"JSON in lines": {
				iot.Message{Body: []byte("{\n \"t\": 21.50,\n \"big\": 12345678901234567890 }")},
				`{` + stamp + `,"security":false,"properties":{},"systemProperties":{},"body":{"t":21.50,"big":12345678901234567890},"bodyBytes":45}`,
			},
			"bytes": {
				iot.Message{Body: []byte{0xff, 0}},
				`{` + stamp + `,"security":false,"properties":{},"systemProperties":{},"bodyBase64":"/wA=","bodyBytes":2}`,
			},
			"JSON that is not UTF-8": {
				iot.Message{Body: []byte("\"\xff\"")},
				`{` + stamp + `,"security":false,"properties":{},"systemProperties":{},"bodyBase64":"Iv8i","bodyBytes":3}`,
			},
			"empty": {
				iot.Message{},
				`{` + stamp + `,"security":false,"properties":{},"systemProperties":{},"bodyBytes":0}`,
			},
			"properties": {
				iot.Message{
					From: iot.ID{Module: "m"}, Body: []byte(`"</script>"`),
					Properties: []bag.Property{{Name: "b", Value: "2\n"}, {Name: "a", Null: true}, {Name: "c"}},
					System:     []bag.Property{{Name: "iothub-interface-id", Value: iot.SecurityInterface}},
				},
				`{` + stamp + `,"moduleId":"m","security":true,"properties":{"a":null,"b":"2\n","c":""},` +
					`"systemProperties":{"iothub-interface-id":"` + iot.SecurityInterface + `"},"body":"</script>","bodyBytes":11}`,
			},
		} {
			w.send(iot.Message{From: iot.ID{Device: "another"}})
			c.m.From.Device = "lamp"
			w.send(c.m)
			if got := line(); got != c.want {
				t.Errorf("%s:\n got %s\nwant %s", name, got, c.want)
			}
		}
	})
}

func TestMessages_HeartbeatIsAnEmptyLine(t *testing.T) {
	t.Parallel()
	watch(t, "", func(t *testing.T, _ *world, line func() string) {
		start := time.Now()
		if got := line(); got != "" {
			t.Errorf("an idle stream says %q, want an empty line", got)
		}
		if waited := time.Since(start); waited != heartbeat {
			t.Errorf("the heartbeat came after %v, want %v", waited, heartbeat)
		}
	})
}

func TestMessages_ASlowReaderIsTold(t *testing.T) {
	t.Parallel()
	watch(t, "", func(t *testing.T, w *world, line func() string) {
		w.send(iot.Message{Body: []byte("0")})
		synctest.Wait() // the handler blocks in the write of the first line
		const sent = 5000
		for i := range sent {
			w.send(iot.Message{Body: fmt.Append(nil, i+1)})
		}
		synctest.Wait()
		line()
		var d Dropped
		if err := json.Unmarshal([]byte(line()), &d); err != nil || d.Dropped == 0 {
			t.Fatalf("the second line is no notice: %+v, %v", d, err)
		}
		for i := d.Dropped; i < sent; i++ {
			var m Message
			if err := json.Unmarshal([]byte(line()), &m); err != nil || string(m.Body) != fmt.Sprint(i+1) {
				t.Fatalf("after %d lost messages came %s, %v; want number %d", d.Dropped, m.Body, err, i+1)
			}
		}
	})
}

func TestMessages_Refuses(t *testing.T) {
	t.Parallel()
	refused(t, newWorld(t).ask(t, "GET", "/api/messages?device=a%2Fb", ""), 400, "InvalidArgument")
	synctest.Test(t, func(t *testing.T) { // the feed does not run
		refused(t, newWorld(t).ask(t, "GET", "/api/messages", ""), 503, "Unavailable")
	})
}

// routed keeps a routing as it is, and refuses what is no JSON.
type routed struct{ text []byte }

func (r *routed) Routing(context.Context) ([]byte, error) {
	if r.text == nil {
		return []byte(`{"routes":[]}`), nil
	}
	return r.text, nil
}

func (r *routed) PutRouting(_ context.Context, text []byte) ([]byte, error) {
	if !json.Valid(text) {
		return nil, fault.New(fault.Malformed, "the routing configuration cannot be read")
	}
	r.text = text
	return text, nil
}

func TestRouting(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct {
		method, body string
		status       int
		want         string
	}{
		{"GET", "", 200, `{"routes":[]}`},
		{"PUT", `{"routes":[{"name":"r"}]}`, 200, `{"routes":[{"name":"r"}]}`},
		{"PUT", `{"routes":`, 400, "cannot be read"},
		{"PUT", strings.Repeat(" ", maxRouting+1), 413, "may have"},
		{"GET", "", 200, `{"routes":[{"name":"r"}]}`},
	} {
		rec := w.ask(t, c.method, "/api/routing", c.body)
		if rec.Code != c.status || !strings.Contains(rec.Body.String(), c.want) {
			t.Errorf("%s %.40q: %d %s, want %d with %s", c.method, c.body, rec.Code, rec.Body, c.status, c.want)
		}
	}
	if !strings.Contains(w.logged.String(), `audit=true who=operator what="PUT /api/routing"`) {
		t.Error("no audit record was written")
	}
}

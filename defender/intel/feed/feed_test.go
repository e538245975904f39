package feed_test

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/defender/intel/feed"
	"github.com/vauban-iot/vauban/defender/intel/format"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/storage/sqlite"
	"github.com/vauban-iot/vauban/storage/sqlstore"
	"github.com/vauban-iot/vauban/storage/storagetest"
)

// bench is a manager that runs over a real store, with a clock of its own.
type bench struct {
	*feed.Manager
	t      *testing.T
	engine *intel.Engine
	store  *sqlstore.Store
	dir    string
	ahead  atomic.Int64 // how far the clock is ahead
}

func open(t *testing.T, dir string) *sqlstore.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(dir, "state.db"), Sealer: storagetest.Sealer(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func newBench(t *testing.T) *bench {
	t.Helper()
	dir := t.TempDir()
	b := &bench{t: t, dir: dir, store: open(t, t.TempDir())}
	b.start(true)
	return b
}

func (b *bench) now() time.Time { return time.Now().Add(time.Duration(b.ahead.Load())) }

// start makes a manager on the store; fetching tells whether it leads.
func (b *bench) start(fetching bool) {
	b.t.Helper()
	b.engine = intel.NewEngine(b.now)
	var err error
	b.Manager, err = feed.NewManager(feed.ManagerConfig{
		Store: b.store, Engine: b.engine, Dir: b.dir, Now: b.now, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	m := b.Manager
	running.Go(func() {
		if err := m.Follow(ctx); err != nil {
			b.t.Error(err)
		}
	})
	if fetching {
		running.Go(func() {
			if err := m.Fetch(ctx); err != nil {
				b.t.Error(err)
			}
		})
	}
	b.t.Cleanup(func() { cancel(); running.Wait() })
}

func (b *bench) put(c feed.Config) {
	b.t.Helper()
	if _, err := b.Put(b.t.Context(), c); err != nil {
		b.t.Fatal(err)
	}
}

// until waits for a state.
func (b *bench) until(name, what string, ok func(s feed.State) bool) feed.State {
	b.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		f, err := b.Feed(b.t.Context(), name)
		if err == nil && ok(f.State) {
			return f.State
		}
		if time.Now().After(end) {
			b.t.Fatalf("%s: not: %s; state %+v, %v", name, what, f.State, err)
		}
	}
}

// again has a feed fetched once more and waits for it.
func (b *bench) again(name string) feed.State {
	b.t.Helper()
	f, err := b.Feed(b.t.Context(), name)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.Refresh(b.t.Context(), name, false); err != nil {
		b.t.Fatal(err)
	}
	return b.until(name, "another attempt", func(s feed.State) bool { return s.LastAttempt.After(f.State.LastAttempt) })
}

func (b *bench) fetched(name string) feed.State {
	b.t.Helper()
	return b.until(name, "fetched", func(s feed.State) bool { return s.Revision != 0 && s.Error == "" })
}

func (b *bench) failed(name string) feed.State {
	b.t.Helper()
	return b.until(name, "failed", func(s feed.State) bool { return s.Failures > 0 })
}

func (b *bench) listed(value string) string {
	b.t.Helper()
	ap, err := netip.ParseAddrPort(value)
	if err != nil {
		if a, err := netip.ParseAddr(value); err == nil {
			ap = netip.AddrPortFrom(a, 0)
		} else if i, ok := b.engine.Current().MatchDomain(value, b.now()); ok {
			return i.Place()
		}
	}
	i, ok := b.engine.Current().Match(ap, b.now())
	if !ok {
		return ""
	}
	return i.Place()
}

func (b *bench) want(value, place string) {
	b.t.Helper()
	for end := time.Now().Add(10 * time.Second); b.listed(value) != place; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("%s is listed at %q, want %q", value, b.listed(value), place)
		}
	}
}

// server serves pages that may change.
type server struct {
	*httptest.Server
	mu    sync.Mutex
	pages map[string]func(w http.ResponseWriter, r *http.Request)
	asked []*http.Request
}

func serve(t *testing.T) *server {
	s := &server{pages: make(map[string]func(http.ResponseWriter, *http.Request))}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked = append(s.asked, r)
		page := s.pages[r.URL.Path]
		s.mu.Unlock()
		if page == nil {
			http.NotFound(w, r)
			return
		}
		page(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) page(path string, serve func(w http.ResponseWriter, r *http.Request)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pages[path] = serve
}

// text serves a text with an ETag.
func (s *server) text(path, text string) {
	sum := sha256.Sum256([]byte(text))
	tag := `"` + hex.EncodeToString(sum[:8]) + `"`
	s.page(path, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Header().Set("ETag", tag)
		io.WriteString(w, text)
	})
}

func (s *server) last() *http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[len(s.asked)-1]
}

func lines(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "198.51.%d.%d\n", 100+i/256, i%256)
	}
	return b.String()
}

// Nothing is asked of anybody before a feed is configured, and nothing of one that is disabled; files work without any network.
func TestManager_NothingUntilConfigured(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-43")
	b, s := newBench(t), serve(t)
	s.text("/l", "203.0.113.1\n")
	time.Sleep(1200 * time.Millisecond) // two looks
	if all, err := b.Feeds(t.Context()); err != nil || len(all) != 0 || b.engine.Current().Len() != 0 {
		t.Errorf("without configuration there are %v (%v) and %d indicators", all, err, b.engine.Current().Len())
	}
	b.put(feed.Config{Name: "off", Format: format.List, URL: s.URL + "/l", Disabled: true})
	if err := os.WriteFile(filepath.Join(b.dir, "offline.csv"), []byte("203.0.113.7,1,100\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.put(feed.Config{Name: "offline", Format: format.IPRep, File: "offline.csv"})
	b.want("203.0.113.7", "offline:1")
	s.mu.Lock()
	if len(s.asked) != 0 {
		t.Errorf("%d requests for a feed that is disabled", len(s.asked))
	}
	s.mu.Unlock()
	if err := b.Refresh(t.Context(), "off", false); !fault.Is(err, fault.Invalid) {
		t.Errorf("a disabled feed is refreshed: %v", err)
	}
	// A changed file is read at once, a removed one keeps what it gave.
	if err := os.WriteFile(filepath.Join(b.dir, "offline.csv"), []byte("203.0.113.8,1,100\n203.0.113.9,1,100\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.want("203.0.113.8", "offline:1")
	if err := os.Remove(filepath.Join(b.dir, "offline.csv")); err != nil {
		t.Fatal(err)
	}
	b.again("offline")
	b.failed("offline")
	b.want("203.0.113.8", "offline:1")
}

func TestManager_HTTP(t *testing.T) {
	t.Parallel()
	b, s := newBench(t), serve(t)
	s.text("/list.txt", "# l\n203.0.113.1\nbroken line here\nevil.example\n")
	b.put(feed.Config{Name: "web", Format: format.List, URL: s.URL + "/list.txt", Headers: map[string]string{"Auth-Key": "k"}, User: "u", Password: "p"})
	st := b.fetched("web")
	if st.Indicators != 2 || st.BadLines != 1 || len(st.Problems) != 1 || st.ETag == "" || st.LastSuccess.IsZero() || !st.NextAttempt.After(b.now().Add(50*time.Minute)) {
		t.Errorf("state %+v", st)
	}
	r := s.last()
	if user, pass, _ := r.BasicAuth(); r.Header.Get("Auth-Key") != "k" || user != "u" || pass != "p" || r.Header.Get("If-None-Match") != "" {
		t.Errorf("it was asked with %v", r.Header)
	}
	b.want("203.0.113.1", "web:2")
	b.want("www.evil.example", "web:4")

	after := b.again("web")
	if after.Revision != st.Revision || s.last().Header.Get("If-None-Match") != st.ETag || after.Error != "" {
		t.Errorf("unchanged: %+v", after)
	}
	s.text("/list.txt", "203.0.113.2\n203.0.113.3\n")
	b.again("web")
	b.want("203.0.113.2", "web:1")
	b.want("203.0.113.1", "")

	// The clock makes it due.
	s.text("/list.txt", "203.0.113.4\n203.0.113.5\n")
	b.ahead.Add(int64(70 * time.Minute))
	b.want("203.0.113.4", "web:1")

	// Failures are waited for, longer and longer, and longer still when the server says so.
	s.page("/list.txt", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7200")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	st = b.again("web")
	if !strings.Contains(st.Error, "503") || st.Failures != 1 || !st.NextAttempt.After(b.now().Add(110*time.Minute)) {
		t.Errorf("after a failure: %+v", st)
	}
	s.page("/list.txt", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "<html><body>Please log in</body></html>\n")
	})
	if st = b.again("web"); st.Failures != 2 || !strings.Contains(st.Error, "no indicator") {
		t.Errorf("after a page of HTML: %+v", st)
	}
	b.want("203.0.113.4", "web:1")

	// Secrets are never shown, and stay when they are sent as they are shown.
	f, err := b.Feed(t.Context(), "web")
	if err != nil || f.Headers["Auth-Key"] != "[redacted]" || f.Password != "[redacted]" {
		t.Errorf("shown as %+v, %v", f, err)
	}
	s.text("/list.txt", "203.0.113.6\n203.0.113.5\n")
	f.Interval = "2h"
	b.put(f.Config)
	b.want("203.0.113.6", "web:1")
	if r := s.last(); r.Header.Get("Auth-Key") != "k" {
		t.Errorf("after a change it is asked with %v", r.Header)
	}
	if err := b.Delete(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	b.want("203.0.113.6", "")
}

// Secrets do not follow a feed to another server, nor to one that is trusted by another certificate.
func TestManager_SecretsStay(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(feed.Config{Name: "web", Format: format.List, URL: "https://feeds.example:8443/a", Headers: map[string]string{"Auth-Key": "k"}, User: "u", Password: "p", Disabled: true})
	cert := httptest.NewTLSServer(http.NotFoundHandler())
	cert.Close()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate().Raw}))
	for what, change := range map[string]func(c *feed.Config){
		"another host":        func(c *feed.Config) { c.URL = "https://evil.example:8443/a" },
		"another port":        func(c *feed.Config) { c.URL = "https://feeds.example/a" },
		"without TLS":         func(c *feed.Config) { c.URL = "http://feeds.example:8443/a" },
		"another certificate": func(c *feed.Config) { c.CA = ca },
		"a new feed":          func(c *feed.Config) { c.Name = "other" },
		"only a header":       func(c *feed.Config) { c.URL, c.User, c.Password = "https://evil.example/a", "", "" },
	} {
		f, err := b.Feed(t.Context(), "web")
		if err != nil {
			t.Fatal(err)
		}
		change(&f.Config)
		if _, err := b.Put(t.Context(), f.Config); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "again") {
			t.Errorf("%s: %v", what, err)
		}
		if f.Headers, f.Password = map[string]string{"Auth-Key": "k2"}, "p2"; f.User == "" {
			f.Password = ""
		}
		if _, err := b.Put(t.Context(), f.Config); err != nil {
			t.Errorf("%s, with new secrets: %v", what, err)
		}
		b.put(feed.Config{Name: "web", Format: format.List, URL: "https://feeds.example:8443/a", Headers: map[string]string{"Auth-Key": "k"}, User: "u", Password: "p", Disabled: true})
	}
	f, err := b.Feed(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	f.URL = "https://feeds.example:8443/b"
	b.put(f.Config)
}

func TestManager_Packed(t *testing.T) {
	t.Parallel()
	b, s := newBench(t), serve(t)
	pack := func(text string) (gz, zipped []byte) {
		var g, z bytes.Buffer
		gw := gzip.NewWriter(&g)
		io.WriteString(gw, text)
		gw.Close()
		zw := zip.NewWriter(&z)
		zw.Create("folder/")
		w, err := zw.Create("folder/list.txt")
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, text)
		zw.Close()
		return g.Bytes(), z.Bytes()
	}
	raw := func(p []byte) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/octet-stream")
			w.Write(p)
		}
	}
	gz, zipped := pack("203.0.113.1\n")
	s.page("/gz", raw(gz))
	s.page("/zip", raw(zipped))
	b.put(feed.Config{Name: "gz", Format: format.List, URL: s.URL + "/gz"})
	b.put(feed.Config{Name: "zip", Format: format.List, URL: s.URL + "/zip"})
	b.fetched("gz")
	b.fetched("zip")
	b.want("203.0.113.1", "gz:1")

	// Bombs: a thousandfold of what they are.
	gz, zipped = pack(strings.Repeat("203.0.113.1\n", 1<<20))
	s.page("/bomb.gz", raw(gz))
	s.page("/bomb.zip", raw(zipped))
	s.page("/encoded", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.Write(gz)
	})
	s.page("/endless", func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, "203.0.113.1\n203.0.113.2\n"); err != nil {
				return
			}
		}
	})
	s.page("/line", func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, strings.Repeat("x", 4096)); err != nil {
				return
			}
		}
	})
	s.page("/cut", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		io.WriteString(w, "203.0.113.1\n")
	})
	s.page("/torn.gz", raw(gz[:len(gz)/2]))
	for name, part := range map[string]string{
		"bomb.gz": "maxBytes", "bomb.zip": "maxBytes", "encoded": "maxBytes", "endless": "maxBytes", "line": "maxBytes", "cut": "EOF", "torn.gz": "",
	} {
		id := strings.ReplaceAll(name, ".", "-")
		b.put(feed.Config{Name: id, Format: format.List, URL: s.URL + "/" + name, MaxBytes: 1 << 20})
		if st := b.failed(id); !strings.Contains(st.Error, part) || st.Revision != 0 {
			t.Errorf("%s: %+v", name, st)
		}
	}
}

func TestManager_Guarded(t *testing.T) {
	t.Parallel()
	b, s := newBench(t), serve(t)
	other := serve(t)
	other.text("/l", "203.0.113.1\n")
	tls := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/down" {
			http.Redirect(w, r, other.URL+"/l", http.StatusFound)
			return
		}
		io.WriteString(w, "203.0.113.9\n")
	}))
	t.Cleanup(tls.Close)
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tls.Certificate().Raw}))
	to := func(path, where string) {
		s.page(path, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, where, http.StatusFound) })
	}
	to("/metadata", "http://169.254.169.254/latest/meta-data/")
	to("/metadata6", "http://[fe80::1]/")
	to("/loop", s.URL+"/loop")
	to("/moved", other.URL+"/l")
	for name, part := range map[string]string{"metadata": "169.254.169.254", "metadata6": "fe80::1", "loop": "redirects"} {
		b.put(feed.Config{Name: name, Format: format.List, URL: s.URL + "/" + name})
		if st := b.failed(name); !strings.Contains(st.Error, part) {
			t.Errorf("%s: %+v", name, st)
		}
	}
	b.put(feed.Config{Name: "direct", Format: format.List, URL: "http://169.254.169.254/"})
	if st := b.failed("direct"); !strings.Contains(st.Error, "machine's own services") {
		t.Errorf("direct: %+v", st)
	}
	// Another host does not get the secrets of the first.
	b.put(feed.Config{Name: "moved", Format: format.List, URL: s.URL + "/moved", Headers: map[string]string{"Auth-Key": "k"}, Token: "t"})
	b.fetched("moved")
	if h := other.last().Header; h.Get("Auth-Key") != "" || h.Get("Authorization") != "" {
		t.Errorf("the other host was sent %v", h)
	}
	if h := s.last().Header; h.Get("Auth-Key") != "k" || h.Get("Authorization") != "Bearer t" {
		t.Errorf("the first host was sent %v", h)
	}
	b.put(feed.Config{Name: "tls", Format: format.List, URL: tls.URL + "/l", CA: ca})
	b.fetched("tls")
	b.put(feed.Config{Name: "untrusted", Format: format.List, URL: tls.URL + "/l"})
	if st := b.failed("untrusted"); !strings.Contains(st.Error, "certificate") {
		t.Errorf("untrusted: %+v", st)
	}
	b.put(feed.Config{Name: "down", Format: format.List, URL: tls.URL + "/down", CA: ca})
	if st := b.failed("down"); !strings.Contains(st.Error, "from https to http") {
		t.Errorf("down: %+v", st)
	}
	// Files outside of the folder are nobody's feed.
	if err := os.Symlink("/etc/passwd", filepath.Join(b.dir, "link.txt")); err != nil {
		t.Fatal(err)
	}
	b.put(feed.Config{Name: "link", Format: format.List, File: "link.txt"})
	if st := b.failed("link"); !strings.Contains(st.Error, "escapes") {
		t.Errorf("link: %+v", st)
	}
}

func TestConfig_Check(t *testing.T) {
	t.Parallel()
	good := feed.Config{Name: "a", Format: format.List, URL: "https://x.example/"}
	for what, change := range map[string]func(*feed.Config){
		"no name": func(c *feed.Config) { c.Name = "" }, "a name like a path": func(c *feed.Config) { c.Name = "../a" },
		"no format": func(c *feed.Config) { c.Format = "" }, "no place": func(c *feed.Config) { c.URL = "" }, "two places": func(c *feed.Config) { c.File = "a" },
		"another scheme": func(c *feed.Config) { c.URL = "file:///etc/passwd" }, "a password in the URL": func(c *feed.Config) { c.URL = "https://a:b@x.example/" },
		"a path that leads out": func(c *feed.Config) { c.URL, c.File = "", "../x" }, "an absolute path": func(c *feed.Config) { c.URL, c.File = "", "/etc/passwd" },
		"TAXII in a file": func(c *feed.Config) { c.URL, c.File, c.Format = "", "x", format.TAXII }, "an unknown use": func(c *feed.Config) { c.Use = "x" },
		"too often": func(c *feed.Config) { c.Interval = "1s" }, "no duration": func(c *feed.Config) { c.Interval = "x" },
		"too sure": func(c *feed.Config) { c.Confidence = 101 }, "less than unsure": func(c *feed.Config) { c.MinConfidence = -1 },
		"too large": func(c *feed.Config) { c.MaxBytes = 1 << 60 }, "no CA": func(c *feed.Config) { c.CA = "x" },
		"a header of two lines": func(c *feed.Config) { c.Headers = map[string]string{"a": "b\r\nc: d"} },
	} {
		c := good
		change(&c)
		if err := c.Check(); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := good.Check(); err != nil || good.Use != feed.Match {
		t.Errorf("%+v: %v", good, err)
	}
}

func TestManager_KeepsWhatShrinks(t *testing.T) {
	t.Parallel()
	b, s := newBench(t), serve(t)
	s.text("/l", lines(100))
	b.put(feed.Config{Name: "l", Format: format.List, URL: s.URL + "/l"})
	b.fetched("l")
	s.text("/l", lines(50)) // by half is not more than half
	if st := b.again("l"); st.Indicators != 50 || st.Warning != "" {
		t.Errorf("by half: %+v", st)
	}
	s.text("/l", lines(24))
	for range 2 { // and it stays so
		st := b.again("l")
		if st.Indicators != 50 || !strings.Contains(st.Warning, "from 50 indicators to 24") || st.Error != "" {
			t.Errorf("by more: %+v", st)
		}
	}
	b.want("198.51.100.49", "l:50")
	if err := b.Refresh(t.Context(), "l", true); err != nil {
		t.Fatal(err)
	}
	st := b.until("l", "accepted", func(s feed.State) bool { return s.Indicators == 24 })
	if st.Warning != "" {
		t.Errorf("accepted: %+v", st)
	}
	b.want("198.51.100.49", "")
	s.text("/l", "")
	if st := b.again("l"); st.Indicators != 24 || st.Warning == "" {
		t.Errorf("emptied: %+v", st)
	}
	s.text("/l", lines(30))
	if st := b.again("l"); st.Indicators != 30 || st.Warning != "" {
		t.Errorf("recovered: %+v", st)
	}
}

// What was downloaded is there after a restart without any network, and on servers that never fetch.
func TestManager_SurvivesWithoutTheNetwork(t *testing.T) {
	t.Parallel()
	b, s := newBench(t), serve(t)
	s.text("/l", lines(1000)+"evil.example\n2001:db8::1\n203.0.113.0/24\n")
	b.put(feed.Config{Name: "l", Format: format.List, URL: s.URL + "/l"})
	b.put(feed.Config{Name: "warn", Format: format.WarningList, File: "warn.json"})
	if err := os.WriteFile(filepath.Join(b.dir, "warn.json"), []byte(`{"list":["203.0.113.8/29"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	b.fetched("l")
	b.until("warn", "read", func(s feed.State) bool { b.Refresh(t.Context(), "warn", false); return s.Revision != 0 })
	if _, err := b.Exempt(t.Context(), "198.51.100.9", "ours"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	b.start(false) // another server, which follows
	b.want("198.51.100.200", "l:201")
	b.want("a.evil.example", "l:1001")
	b.want("2001:db8::1", "l:1002")
	b.want("203.0.113.1", "l:1003")
	b.want("203.0.113.9", "") // on the warning list
	b.want("198.51.100.9", "")
	if err := b.Unexempt(t.Context(), "198.51.100.9"); err != nil {
		t.Fatal(err)
	}
	b.want("198.51.100.9", "l:10")
	if v, err := b.Lookup("203.0.113.9:80"); err != nil || v.Match != nil || v.Exempt != "203.0.113.8/29 of warn" || len(v.Listed) != 1 {
		t.Errorf("looked up as %+v, %v", v, err)
	}
	if _, err := b.Lookup("?"); !fault.Is(err, fault.Invalid) {
		t.Errorf("nonsense was looked up: %v", err)
	}
}

func object(id, pattern, modified, more string) string {
	p, err := json.Marshal(pattern)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf(`{"type":"indicator","id":"indicator--%s","modified":%q,"pattern":%s,"pattern_type":"stix","valid_from":"2026-01-02T00:00:00Z"%s}`, id, modified, p, more)
}

// A collection is read page by page, goes on where it ended, and follows changes, revocations and ends of validity.
func TestManager_TAXII(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-29")
	b, s := newBench(t), serve(t)
	type page struct{ body, last string }
	var mu sync.Mutex
	pages := map[string]page{
		"|": {`{"more":true,"next":"p2","objects":[` + object("1", "[ipv4-addr:value = '203.0.113.1']", "2026-01-01T00:00:00.000Z", `,"confidence":90`) + `,{"type":"identity","id":"identity--1"}]}`, "2026-02-01T00:00:00.000001Z"},
		"|p2": {`{"more":false,"objects":[` + object("2", "[ipv4-addr:value = '203.0.113.2' AND network-traffic:dst_port = 4444]", "2026-01-01T00:00:00Z", "") + "," +
			object("3", "[domain-name:value = 'evil.example']", "2026-01-01T00:00:00Z", fmt.Sprintf(`,"valid_until":%q`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))) + `]}`, "2026-02-02T00:00:00.000002Z"},
	}
	s.page("/api1/collections/c/objects/", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		mu.Lock()
		defer mu.Unlock()
		p, ok := pages[q.Get("added_after")+"|"+q.Get("next")]
		if !ok || !strings.Contains(r.Header.Get("Accept"), "application/taxii+json;version=2.1") || q.Get("match[type]") != "indicator" {
			w.WriteHeader(http.StatusNotAcceptable)
			return
		}
		w.Header().Set("Content-Type", "application/taxii+json; version=2.1")
		w.Header().Set("X-TAXII-Date-Added-Last", p.last)
		io.WriteString(w, p.body)
	})
	b.put(feed.Config{Name: "t", Format: format.TAXII, URL: s.URL + "/api1/collections/c/"})
	st := b.fetched("t")
	if st.Cursor != "2026-02-02T00:00:00.000002Z" || st.Indicators != 3 {
		t.Errorf("state %+v", st)
	}
	b.want("203.0.113.1", "t:indicator--1")
	b.want("203.0.113.2:4444", "t:indicator--2")
	b.want("203.0.113.2:4445", "")
	b.want("www.evil.example", "t:indicator--3")
	b.ahead.Add(int64(61 * time.Minute)) // which also makes it due; there is nothing new
	b.want("www.evil.example", "")

	mu.Lock()
	pages["2026-02-02T00:00:00.000002Z|"] = page{`{}`, ""}
	mu.Unlock()
	st = b.again("t")
	if st.Cursor != "2026-02-02T00:00:00.000002Z" || st.Indicators != 3 || st.Error != "" {
		t.Errorf("nothing new: %+v", st)
	}
	mu.Lock()
	pages["2026-02-02T00:00:00.000002Z|"] = page{`{"objects":[` + object("1", "[ipv4-addr:value = '203.0.113.1']", "2026-03-01T00:00:00Z", `,"revoked":true`) + "," +
		object("2", "[ipv4-addr:value = '203.0.113.22']", "2026-03-01T00:00:00Z", "") + "," + object("4", "[ipv6-addr:value = '2001:db8::4']", "2026-03-01T00:00:00Z", "") + "," +
		object("3", "[domain-name:value = 'stale.example']", "2025-01-01T00:00:00Z", "") + `]}`, "2026-03-02T00:00:00Z"}
	mu.Unlock()
	st = b.again("t")
	if st.Cursor != "2026-03-02T00:00:00Z" || st.Indicators != 3 || st.Revoked != 1 {
		t.Errorf("after changes: %+v", st)
	}
	b.want("203.0.113.1", "")
	b.want("203.0.113.2:4444", "")
	b.want("203.0.113.22", "t:indicator--2")
	b.want("2001:db8::4", "t:indicator--4")
	b.want("stale.example", "") // older than what is known

	// A server that sends one round in circles, or something else.
	mu.Lock()
	pages["2026-03-02T00:00:00Z|"] = page{`{"more":true,"next":"x"}`, ""}
	pages["2026-03-02T00:00:00Z|x"] = page{`{"more":true,"next":"x"}`, ""}
	mu.Unlock()
	if st = b.again("t"); st.Cursor != "2026-03-02T00:00:00Z" || !strings.Contains(st.Error, "not where") {
		t.Errorf("in circles: %+v", st)
	}
	s.page("/api1/collections/c/objects/", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{}`) })
	if st = b.again("t"); !strings.Contains(st.Error, "taxii+json") || st.Failures != 2 {
		t.Errorf("another type: %+v", st)
	}
	b.want("2001:db8::4", "t:indicator--4")
}

// Events are fetched when they are new or changed, and used when their hash is what the manifest says.
func TestManager_MISP(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-29")
	b, s := newBench(t), serve(t)
	const one, two = "5c0b2e9d-0000-4000-8000-000000000001", "5c0b2e9d-0000-4000-8000-000000000002"
	event := func(value string) string {
		return fmt.Sprintf(`{"Event":{"info":"wave","Attribute":[{"type":"ip-dst","to_ids":true,"value":%q}]}}`, value)
	}
	manifest := map[string]any{}
	publish := func(uuid, body string, at int64) {
		sum := sha256.Sum256([]byte(body))
		manifest[uuid] = map[string]any{"info": "wave", "timestamp": fmt.Sprint(at), "integrity:sha256": hex.EncodeToString(sum[:])}
		text, err := json.Marshal(manifest)
		if err != nil {
			t.Fatal(err)
		}
		s.text("/feed/"+uuid+".json", body)
		s.text("/feed/manifest.json", string(text))
	}
	publish(one, event("203.0.113.1"), 100)
	publish(two, event("203.0.113.2"), 100)
	b.put(feed.Config{Name: "m", Format: format.MISP, URL: s.URL + "/feed"})
	b.fetched("m")
	b.want("203.0.113.1", "m:"+one)
	b.want("203.0.113.2", "m:"+two)
	asked := func() (n int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		n, s.asked = len(s.asked), nil
		return n
	}
	asked()
	publish(two, event("203.0.113.22"), 200)
	b.again("m")
	b.want("203.0.113.22", "m:"+two)
	b.want("203.0.113.2", "")
	b.want("203.0.113.1", "m:"+one)
	if n := asked(); n != 2 {
		t.Errorf("%d requests, want the manifest and the event that changed", n)
	}
	if b.again("m"); asked() != 1 {
		t.Error("an unchanged manifest leads to more")
	}
	// Someone changes an event on its way.
	publish(one, event("203.0.113.1"), 300)
	s.text("/feed/"+one+".json", event("8.8.8.8"))
	st := b.again("m")
	if !strings.Contains(st.Error, "SHA-256") || st.Failures != 1 {
		t.Errorf("a wrong hash: %+v", st)
	}
	b.want("8.8.8.8", "")
	b.want("203.0.113.1", "m:"+one)
	// What the manifest names no more is gone.
	delete(manifest, one)
	publish(two, event("203.0.113.222"), 400)
	b.again("m")
	b.want("203.0.113.1", "")
	b.want("203.0.113.222", "m:"+two)

	// The same from a folder.
	if err := os.MkdirAll(filepath.Join(b.dir, "misp"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"manifest.json": `{"` + one + `":{"timestamp":"1"}}`, one + ".json": event("203.0.113.77")} {
		if err := os.WriteFile(filepath.Join(b.dir, "misp", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.put(feed.Config{Name: "folder", Format: format.MISP, File: "misp"})
	b.want("203.0.113.77", "folder:"+one)
}

// Ten million lines, of which some are broken, through HTTP, the store and another server.
func TestManager_TenMillionLines(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 30 s and 1 GB; run without -short")
	}
	b, s := newBench(t), serve(t)
	const n, every = 10_000_000, 1000
	s.page("/l", func(w http.ResponseWriter, _ *http.Request) {
		var buf []byte
		for i := range n {
			if i%every == 7 {
				buf = append(buf, "\x00\xff broken\n"...)
				continue
			}
			v := uint32(i)*2654435761 | 1<<28
			buf = fmt.Appendf(buf, "%d.%d.%d.%d\n", v>>24, v>>16&255, v>>8&255, v&255)
			if len(buf) > 1<<16 {
				if _, err := w.Write(buf); err != nil {
					return
				}
				buf = buf[:0]
			}
		}
		w.Write(buf)
	})
	began := time.Now()
	b.put(feed.Config{Name: "l", Format: format.List, URL: s.URL + "/l"})
	var st feed.State
	for end := time.Now().Add(2 * time.Minute); st.Revision == 0 && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		f, err := b.Feed(t.Context(), "l")
		if err != nil || f.State.Error != "" {
			t.Fatalf("%+v, %v", f.State, err)
		}
		st = f.State
	}
	t.Logf("fetched, stored and in use after %v: %+v", time.Since(began), st)
	if st.BadLines != n/every || st.Indicators < n/3 {
		t.Errorf("state %+v", st)
	}
	// A small list beside it counts within a second of its fetch.
	s.text("/small", "203.0.113.5\n")
	began = time.Now()
	b.put(feed.Config{Name: "small", Format: format.List, URL: s.URL + "/small"})
	b.want("203.0.113.5", "small:1")
	t.Logf("a small feed beside it is in use %v after it was added", time.Since(began))
}

package azsphere

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/access/signin"
	"github.com/vauban-iot/vauban/access/signin/signintest"
	headsignin "github.com/vauban-iot/vauban/head/signin"
	headsphere "github.com/vauban-iot/vauban/head/sphere"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/sphere"
	"github.com/vauban-iot/vauban/sphere/agent"
	"github.com/vauban-iot/vauban/storage/sqlite"
	"github.com/vauban-iot/vauban/wire/attestation"
)

const (
	ada        = "ada@plant.example"
	bob        = "bob@plant.example"
	password   = "correct horse battery"
	adminToken = "the-administrators-token"
)

// world is a server that people sign in to, and one person's machine.
type world struct {
	t       testing.TB
	url     string
	ca      string // file
	data    string // folder with a connection.json
	config  string // XDG_CONFIG_HOME
	service *sphere.Service
	signIn  *signin.Service
	ahead   time.Duration // how much the person's clock is ahead
	browse  func(ctx context.Context, address string) error
	typed   []string // passwords that are typed, in turn
	stdin   string
	seen    atomic.Pointer[string] // last path asked for
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, config: t.TempDir(), data: t.TempDir()}
	quiet := slog.New(slog.DiscardHandler)
	sealer, err := secret.OpenSealer(filepath.Join(t.TempDir(), "master.key"))
	ok(t, err)
	store, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(t.TempDir(), "state.db"), Sealer: sealer, Logger: quiet})
	ok(t, err)
	t.Cleanup(func() { store.Close() })

	var handler http.Handler
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { handler.ServeHTTP(rw, r) }))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	w.url = s.URL
	w.ca = filepath.Join(w.data, "root.pem")
	ok(t, os.WriteFile(w.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600))

	w.service, err = sphere.New(t.Context(), sphere.Config{Store: store, Installation: "hub.example", Logger: quiet})
	ok(t, err)
	w.signIn = signintest.New(t, signin.Config{Issuer: s.URL})
	admin := func(token string) bool { return token == adminToken }
	people, err := headsignin.New(headsignin.Config{Service: w.signIn, Hostname: "hub.example", Administrator: admin, Logger: quiet})
	ok(t, err)
	api, err := headsphere.New(headsphere.Config{Service: w.service, SignIn: w.signIn, Administrator: admin, Key: secret.Random(32), Logger: quiet})
	ok(t, err)
	handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.seen.Store(&r.URL.Path)
		if headsignin.Owns(r.URL.Path) {
			people.ServeHTTP(rw, r)
			return
		}
		api.ServeHTTP(rw, r)
	})
	connection, err := json.Marshal(map[string]any{"api": map[string]string{"url": s.URL + "/", "token": adminToken}, "ca": w.ca})
	ok(t, err)
	ok(t, os.WriteFile(filepath.Join(w.data, "connection.json"), connection, 0o600))

	setenv(t, "XDG_CONFIG_HOME", w.config)
	setenv(t, "VAUBAN_DATA", w.data)
	for _, name := range []string{deviceVariable, "DISPLAY", "WAYLAND_DISPLAY", "BROWSER"} {
		setenv(t, name, "")
	}
	return w
}

func setenv(t testing.TB, name, value string) {
	t.Helper()
	t.(interface{ Setenv(name, value string) }).Setenv(name, value)
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run runs a command as it is typed.
func (w *world) run(args ...string) (stdout, stderr string, err error) {
	w.t.Helper()
	t := &tool{
		name: Standalone, version: "v1.2.3", now: func() time.Time { return time.Now().Add(w.ahead) },
		browse: func(ctx context.Context, address string) error { return w.browse(ctx, address) },
		secret: func(*run, string) ([]byte, error) {
			p := w.typed[0]
			w.typed = w.typed[1:]
			return []byte(p), nil
		},
	}
	root := t.root()
	var out, errs bytes.Buffer
	root.SetIn(strings.NewReader(w.stdin))
	root.SetOut(&out)
	root.SetErr(&errs)
	root.SetArgs(args)
	err = root.ExecuteContext(w.t.Context())
	return out.String(), errs.String(), err
}

// do runs a command that must succeed.
func (w *world) do(args ...string) string {
	w.t.Helper()
	out, errs, err := w.run(args...)
	if err != nil {
		w.t.Fatalf("azsphere %s: %v\n%s%s", strings.Join(args, " "), err, out, errs)
	}
	return out
}

// json is do for what a program reads.
func (w *world) json(into any, args ...string) {
	w.t.Helper()
	out := w.do(append(args, "--output", "json")...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		w.t.Fatalf("azsphere %s: %v in %s", strings.Join(args, " "), err, out)
	}
}

// says runs a command whose table must match.
func (w *world) says(want string, args ...string) {
	w.t.Helper()
	if out := w.do(args...); !regexp.MustCompile("(?m)" + want).MatchString(out) {
		w.t.Errorf("azsphere %s: got\n%swant a match of %s", strings.Join(args, " "), out, want)
	}
}

// refuses runs a command that must fail with a text and an exit code.
func (w *world) refuses(code int, want string, args ...string) {
	w.t.Helper()
	out, _, err := w.run(args...)
	var errs bytes.Buffer
	if got := Code(err, &errs); got != code || !strings.Contains(errs.String(), want) {
		w.t.Errorf("azsphere %s: exit code %d, %q (output %q), want %d, %q", strings.Join(args, " "), got, errs.String(), out, code, want)
	}
}

// person makes an account and signs it in.
func (w *world) person(mail string) {
	w.t.Helper()
	_, err := w.signIn.Register(w.t.Context(), signin.Peer{Administrator: true}, signin.NewUser{Mail: mail, Password: secret.New([]byte(password))})
	ok(w.t, err)
	w.login(mail)
}

func (w *world) login(mail string) {
	w.t.Helper()
	w.stdin = password + "\n"
	w.do("login", "--username", mail, "--password-stdin")
	w.stdin = ""
}

// tenant makes one and selects it.
func (w *world) tenant(name string) string {
	w.t.Helper()
	var made tenantView
	w.json(&made, "tenant", "create", "--name", name)
	w.do("tenant", "select", "--tenant", made.ID)
	return made.ID
}

// board is a device at hand.
type board struct {
	*agent.Agent
	id, address string
}

func (w *world) board() board {
	w.t.Helper()
	a, err := agent.Open(agent.Config{
		Server: w.url, Dir: w.t.TempDir(), Signers: []*x509.Certificate{w.service.CapabilitySigner()}, Logger: slog.New(slog.DiscardHandler),
		Software: func() (agent.Software, error) {
			return agent.Software{OSVersion: "26.11", Images: []agent.Image{{Image: attestation.Image{}, Name: "os", Type: 7, Size: 1}}}, nil
		},
	})
	ok(w.t, err)
	dir, err := os.MkdirTemp("", "board") // a socket's path is short
	ok(w.t, err)
	address := "unix:" + filepath.Join(dir, "s")
	b := board{Agent: a, address: address}
	ln, err := agent.ListenServicing(address)
	ok(w.t, err)
	b.serve(w.t, ln)
	w.t.Cleanup(func() { os.RemoveAll(dir) })
	id, err := a.Identity()
	ok(w.t, err)
	b.id = id.ID
	return b
}

func (b board) serve(t testing.TB, ln net.Listener) {
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = b.ServeServicing(ctx, ln) }()
	t.Cleanup(func() {
		stop()
		<-done
	})
}

func trusting(t testing.TB, root []byte) *tls.Config {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(root) {
		t.Fatal("no certificate")
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}

//go:build unix

// Package pgtest gives tests a real PostgreSQL: a private server, started once per
// test binary in a temporary folder, with a new database or schema for each test.
//
//	func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }
//
//	func TestX(t *testing.T) { store, err := postgres.Open(ctx, postgres.Config{URL: pgtest.URL(t), ...}) }
//
// It uses initdb and postgres from PATH or /usr/lib/postgresql. Where they are missing,
// tests are skipped, unless CI is set or VAUBAN_TEST_POSTGRES=require: then they fail.
//
// The server runs without fsync, because tests end before machines do. Its default
// collation is not "C" where PostgreSQL offers another, to show who relies on it.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

var errMissing = errors.New("PostgreSQL is not installed; apt-get install postgresql")

// Main runs the tests of m and then stops the server, if one was started.
func Main(m *testing.M) int {
	running = true
	defer stop()
	return m.Run()
}

var (
	running bool // Main was called
	start   = sync.OnceValues(startServer)
	started atomic.Pointer[server]
	names   atomic.Int64
)

// URL returns the URL of a new, empty database. It is dropped when t ends.
func URL(t testing.TB) string {
	t.Helper()
	s := serverFor(t)
	name := fmt.Sprintf("test%d", names.Add(1))
	s.do(t, "CREATE DATABASE "+name)
	t.Cleanup(func() { s.do(t, "DROP DATABASE "+name+" WITH (FORCE)") })
	return s.url(name)
}

// SchemaURL is URL with a new schema in a database that tests share, which takes a tenth of the time.
func SchemaURL(t testing.TB) string {
	t.Helper()
	s := serverFor(t)
	name := fmt.Sprintf("test%d", names.Add(1))
	s.do(t, "CREATE SCHEMA "+name)
	t.Cleanup(func() { s.do(t, "DROP SCHEMA "+name+" CASCADE") })
	return s.url("postgres") + "&search_path=" + name
}

// serverFor returns the running server, or skips t, or fails it.
func serverFor(t testing.TB) *server {
	t.Helper()
	if !running {
		t.Fatal("pgtest needs a TestMain that calls pgtest.Main")
	}
	s, err := start()
	switch {
	case errors.Is(err, errMissing) && os.Getenv("CI") == "" && os.Getenv("VAUBAN_TEST_POSTGRES") != "require":
		t.Skip(err)
	case err != nil:
		t.Fatal(err)
	}
	return s
}

type server struct {
	dir    string
	port   int
	cmd    *exec.Cmd
	exited chan struct{} // closed when the server has ended
}

func (s *server) url(database string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", s.port, database)
}

func (s *server) exec(ctx context.Context, query string) error {
	c, err := pgx.Connect(ctx, s.url("postgres"))
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	_, err = c.Exec(ctx, query)
	return err
}

func (s *server) do(t testing.TB, query string) {
	t.Helper()
	if err := s.exec(context.Background(), query); err != nil {
		t.Errorf("%s: %v", query, err)
	}
}

// binaries returns the folder of initdb and postgres.
func binaries() (string, error) {
	dirs := filepath.SplitList(os.Getenv("PATH"))
	installed, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.SortFunc(installed, func(a, b string) int { return version(b) - version(a) })
	for _, dir := range append(dirs, installed...) {
		initdb, err := exec.LookPath(filepath.Join(dir, "initdb"))
		if err != nil {
			continue
		}
		// initdb looks for its companions beside itself.
		if initdb, err = filepath.EvalSymlinks(initdb); err != nil {
			continue
		}
		if _, err := exec.LookPath(filepath.Join(filepath.Dir(initdb), "postgres")); err == nil {
			return filepath.Dir(initdb), nil
		}
	}
	return "", errMissing
}

func version(bin string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(bin)))
	return n
}

func startServer() (*server, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "pgtest")
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir}
	started.Store(s) // from here on, stop cleans up
	cred, err := unprivileged(dir)
	if err != nil {
		return nil, err
	}
	if err := initialize(bin, dir, cred); err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		if err = s.run(bin, cred); err == nil || try == 3 { // someone may take the free port before us
			return s, err
		}
	}
}

// unprivileged returns whom to run as: PostgreSQL refuses root. It gives dir to that user.
func unprivileged(dir string) (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.Atoi(u.Uid)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.Atoi(u.Gid)
		if err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, os.Chown(dir, uid, gid)
	}
	return nil, errors.New("PostgreSQL does not run as root and there is neither a user postgres nor nobody")
}

func initialize(bin, dir string, cred *syscall.Credential) error {
	base := []string{"-D", filepath.Join(dir, "data"), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C"}
	var out []byte
	var err error
	for _, more := range [][]string{{"--locale-provider=icu", "--icu-locale=en"}, nil} {
		os.RemoveAll(filepath.Join(dir, "data"))
		cmd := exec.Command(filepath.Join(bin, "initdb"), append(base, more...)...)
		cmd.Dir, cmd.SysProcAttr = dir, attributes(cred)
		if out, err = withParent(cmd); err == nil {
			return nil
		}
	}
	return fmt.Errorf("initdb: %w\n%s", err, out)
}

// run starts the server and waits until it answers.
func (s *server) run(bin string, cred *syscall.Credential) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.port = l.Addr().(*net.TCPAddr).Port
	l.Close()
	logPath := filepath.Join(s.dir, "log")
	log, err := os.Create(logPath)
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd = exec.Command(filepath.Join(bin, "postgres"), "-D", filepath.Join(s.dir, "data"),
		"-c", "listen_addresses=127.0.0.1", "-c", "port="+strconv.Itoa(s.port), "-c", "unix_socket_directories="+s.dir,
		"-c", "fsync=off", "-c", "max_connections=200", "-c", "shared_buffers=64MB")
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = s.dir, log, log
	s.cmd.SysProcAttr = attributes(cred)
	s.exited = make(chan struct{})
	begun := make(chan error)
	go waitOnThread(s.cmd, begun, s.exited)
	if err := <-begun; err != nil {
		return err
	}
	for deadline := time.Now().Add(30 * time.Second); ; {
		if err = s.exec(context.Background(), "SELECT 1"); err == nil {
			return nil
		}
		select {
		case <-s.exited:
			text, _ := os.ReadFile(logPath)
			return fmt.Errorf("postgres did not start: %w\n%s", err, text)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("postgres does not answer: %w", err)
		}
	}
}

// stop ends the server at once and removes its files.
func stop() {
	s := started.Load()
	if s == nil {
		return
	}
	if s.exited != nil {
		select {
		case <-s.exited:
		default:
			s.cmd.Process.Signal(syscall.SIGINT) // fast shutdown
			select {
			case <-s.exited:
			case <-time.After(10 * time.Second):
				s.cmd.Process.Signal(syscall.SIGQUIT) // immediate shutdown
				<-s.exited
			}
		}
	}
	os.RemoveAll(s.dir)
}

//go:build unix

package postgres

import (
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/storage/postgres/pgtest"
	"github.com/vauban-iot/vauban/storage/sqlstore"
	"github.com/vauban-iot/vauban/storage/storagetest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

func openAt(t testing.TB, url string) *sqlstore.Store {
	t.Helper()
	s, err := Open(context.Background(), Config{URL: url, Sealer: storagetest.Sealer(t)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func openTemp(t testing.TB) storagetest.Store {
	s := openAt(t, pgtest.SchemaURL(t))
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestContract(t *testing.T) { storagetest.All(t, openTemp) }

func BenchmarkStore(b *testing.B) { storagetest.Bench(b, openTemp) }

func BenchmarkFleet(b *testing.B) {
	url := pgtest.SchemaURL(b)
	storagetest.BenchFleet(b, func(t testing.TB) storagetest.Store {
		s := openAt(t, url)
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return s
	}, func() { // autovacuum's work
		c, err := pgx.Connect(b.Context(), url)
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close(b.Context())
		if _, err := c.Exec(b.Context(), "VACUUM ANALYZE"); err != nil {
			b.Fatal(err)
		}
	})
}

// Nodes that start at once on an empty database migrate it once and see each other's writes.
func TestOpen_ManyNodes(t *testing.T) {
	url := pgtest.URL(t)
	stores := make([]*sqlstore.Store, 4)
	var wg sync.WaitGroup
	for i := range stores {
		wg.Go(func() {
			s, err := Open(t.Context(), Config{URL: url, Sealer: storagetest.Sealer(t), MaxConns: 3})
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { s.Close() })
			stores[i] = s
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	id := iot.ID{Device: "d"}
	if err := stores[0].Create(t.Context(), registry.Identity{ID: id}, twin.Twin{}); err != nil {
		t.Fatal(err)
	}
	for _, s := range stores {
		wg.Go(func() {
			for range 20 {
				if _, err := s.UpdateTwin(t.Context(), id, func(tw twin.Twin) (twin.Twin, error) {
					tw.Version++
					return tw, nil
				}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if tw, err := stores[1].Twin(t.Context(), id); err != nil || tw.Version != 80 {
		t.Errorf("got version %d, error %v; want 80", tw.Version, err)
	}
}

// One of two nodes leads; the other takes over when the first ends, or loses its connection.
func TestLead(t *testing.T) {
	url := pgtest.URL(t)
	open := func() *sqlstore.Store {
		s, err := Open(t.Context(), Config{URL: url, Sealer: storagetest.Sealer(t), MaxConns: 3})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	a, b := open(), open()
	leaders := make(chan string, 4)
	run := func(name string) func(context.Context) error {
		return func(ctx context.Context) error {
			leaders <- name
			<-ctx.Done()
			return ctx.Err()
		}
	}
	ctxA, stopA := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- a.Lead(ctxA, "x", run("a")) }()
	if got := <-leaders; got != "a" {
		t.Fatalf("%s leads, want a", got)
	}
	ctxB, stopB := context.WithCancel(t.Context())
	defer stopB()
	lost := make(chan error, 1)
	go func() { lost <- b.Lead(ctxB, "x", run("b")) }()
	go func() { ended <- b.Lead(ctxB, "y", func(context.Context) error { leaders <- "y"; return nil }) }()
	if got := <-leaders; got != "y" {
		t.Fatalf("%s leads, want y: another name has another leader", got)
	}
	<-ended
	stopA()
	<-ended
	if got := <-leaders; got != "b" {
		t.Fatalf("%s leads after a ended, want b", got)
	}
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	if _, err := c.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"); err != nil {
		t.Fatal(err)
	}
	if err := <-lost; err == nil || ctxB.Err() != nil {
		t.Errorf("a leader whose connection was cut ends with %v, want an error", err)
	}
}

// All that a node leads, and waits to lead, stands on one connection; it is lost at once, and another node has all of it.
func TestLead_OneConnection(t *testing.T) {
	url := pgtest.URL(t)
	watch, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close(context.Background())
	const conns, parts = 2, 15
	type lead struct{ node, part int }
	began, ended := make(chan lead, 4*parts), make(chan error, 4*parts)
	var wg sync.WaitGroup
	var stops []context.CancelFunc
	start := func(node int) *sqlstore.Store {
		s, err := Open(t.Context(), Config{URL: url, Sealer: storagetest.Sealer(t), MaxConns: conns})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		stops = append(stops, stop)
		for part := range parts {
			wg.Go(func() {
				for ctx.Err() == nil {
					err := s.Lead(ctx, strings.Repeat("p", part+1), func(ctx context.Context) error {
						began <- lead{node, part}
						<-ctx.Done()
						return nil
					})
					if ctx.Err() == nil {
						ended <- err
						<-ctx.Done() // the other one is to have it
					}
				}
			})
		}
		return s
	}
	all := func(node int) {
		t.Helper()
		for range parts {
			if l := <-began; l.node != node {
				t.Fatalf("node %d leads part %d, want node %d", l.node, l.part, node)
			}
		}
	}
	count := func(what, query string, want int) {
		t.Helper()
		var n int
		if err := watch.QueryRow(t.Context(), query).Scan(&n); err != nil || n > want {
			t.Errorf("%s: %d, %v; want at most %d", what, n, err, want)
		}
	}
	const holders = `SELECT count(DISTINCT pid) FROM pg_locks WHERE locktype = 'advisory' AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`
	const others = `SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()`
	a := start(0)
	defer a.Close()
	all(0)
	b := start(1)
	defer b.Close()
	for _, s := range []*sqlstore.Store{a, b} { // the pools work beside it
		var busy sync.WaitGroup
		for range 8 {
			busy.Go(func() {
				if _, err := s.Statistics(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		busy.Wait()
	}
	count("connections that hold locks", holders, 1)
	count("connections of two nodes", others, 2*(conns+1))

	// Its own node does not lead twice, though its session would get the lock again.
	again, stopAgain := context.WithTimeout(t.Context(), 3*leadPeriod)
	defer stopAgain()
	if err := a.Lead(again, "p", func(context.Context) error { return errors.New("it led") }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second leader on the same node: %v", err)
	}
	// Who stops waiting takes nobody along.
	select {
	case err := <-ended:
		t.Fatalf("a lead ended with %v", err)
	default:
	}

	if _, err := watch.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM (SELECT DISTINCT pid FROM pg_locks WHERE locktype = 'advisory' AND granted
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) l`); err != nil {
		t.Fatal(err)
	}
	for range parts {
		if err := <-ended; err == nil || !strings.Contains(err.Error(), "lost") {
			t.Errorf("a lead whose connection was cut ended with %v", err)
		}
	}
	all(1)
	for _, stop := range stops {
		stop()
	}
	wg.Wait()
	count("connections that hold locks when nobody leads", holders, 0)
}

// A database that does not answer any more is one that is lost: its leader ends, as another node may lead by now.
func TestLead_Silence(t *testing.T) {
	url := pgtest.URL(t)
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var silent atomic.Bool
	go func() { // a network that loses everything from some moment on
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			db, err := net.Dial("tcp", net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port))))
			if err != nil {
				c.Close()
				continue
			}
			t.Cleanup(func() { c.Close(); db.Close() })
			for from, to := range map[net.Conn]net.Conn{c: db, db: c} {
				go func() {
					b := make([]byte, 4096)
					for {
						n, err := from.Read(b)
						if err != nil {
							to.Close()
							return
						}
						if !silent.Load() {
							_, _ = to.Write(b[:n])
						}
					}
				}()
			}
		}
	}()
	p, err := openPool(strings.Replace(url, net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port))), ln.Addr().String(), 1))
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	p.allow(2)
	leads, lost := make(chan bool), make(chan error, 1)
	go func() {
		lost <- p.lead(t.Context(), "x", func(ctx context.Context) error {
			close(leads)
			<-ctx.Done()
			return nil
		})
	}()
	<-leads
	silent.Store(true)
	if err := p.leads.take(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.leads.timeout = 200 * time.Millisecond
	p.leads.give()
	if err := <-lost; err == nil || !strings.Contains(err.Error(), "lost") {
		t.Errorf("it ends with %v", err)
	}
}

// Presence batches of several nodes overlap in any order and still all arrive.
func TestSetPresence_Deadlocks(t *testing.T) {
	s := openTemp(t)
	var ps []registry.Presence
	for i := range 300 {
		id := iot.ID{Device: string(rune('a'+i%26)) + strings.Repeat("x", i/26)}
		if err := s.Create(t.Context(), registry.Identity{ID: id}, twin.Twin{}); err != nil {
			t.Fatal(err)
		}
		ps = append(ps, registry.Presence{ID: id})
	}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for n := range 10 {
				mine := append([]registry.Presence(nil), ps[w*10:200+w*10]...)
				for i := range mine {
					mine[i].Activity = time.UnixMicro(int64(n + 1))
				}
				if err := s.SetPresence(t.Context(), mine); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestOpen_RefusesNewerDatabase(t *testing.T) {
	url := pgtest.URL(t)
	openAt(t, url).Close()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, true)"); err != nil {
		t.Fatal(err)
	}
	c.Close(t.Context())
	_, err = Open(t.Context(), Config{URL: url, Sealer: storagetest.Sealer(t)})
	if err == nil || !strings.Contains(err.Error(), "newer vauban") {
		t.Errorf("got error %v, want that a newer vauban used it", err)
	}
}

func TestOpen_InsistsOnSynchronousCommit(t *testing.T) {
	url := pgtest.URL(t)
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(t.Context(), "ALTER DATABASE "+c.Config().Database+" SET synchronous_commit = off"); err != nil {
		t.Fatal(err)
	}
	c.Close(t.Context())
	s := openAt(t, url)
	defer s.Close()
	p, err := openPool(url)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	var got string
	if err := p.db.QueryRow("SHOW synchronous_commit").Scan(&got); err != nil || got != "on" {
		t.Errorf("synchronous_commit is %q, error %v; want on", got, err)
	}
}

func TestOpen_NobodyAnswers(t *testing.T) {
	_, err := Open(t.Context(), Config{URL: "postgres://u:hunter2@127.0.0.1:1/x", Sealer: storagetest.Sealer(t)})
	if !fault.Is(err, fault.Unavailable) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got error %v, want unavailable, without the password", err)
	}
	_, err = Open(t.Context(), Config{URL: "postgres://u:hunter2@127.0.0.1:port/x", Sealer: storagetest.Sealer(t)})
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got error %v, want one without the password", err)
	}
}

// A server that drops its connections costs one error at most, and then all is well again.
func TestReconnect(t *testing.T) {
	url := pgtest.URL(t)
	s := openAt(t, url)
	defer s.Close()
	if err := s.PutSetting(t.Context(), "a", []byte("1")); err != nil {
		t.Fatal(err)
	}
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	if _, err := c.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"); err != nil {
		t.Fatal(err)
	}
	for try := range 10 {
		v, err := s.Setting(t.Context(), "a")
		if err == nil && string(v) == "1" {
			return
		}
		if !fault.Is(err, fault.Unavailable) {
			t.Errorf("try %d: got error %v, want unavailable", try, err)
		}
	}
	t.Error("the store does not reconnect")
}

func TestWrite_RetriesEndSomewhere(t *testing.T) {
	p, err := openPool(pgtest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	n := 0
	err = p.write(t.Context(), func(context.Context, sqlstore.Conn) error { n++; return sqlstore.ErrRetry })
	if n != maxTries || !fault.Is(err, fault.Throttled) {
		t.Errorf("after %d tries: error %v; want %d and throttled", n, err, maxTries)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = p.write(ctx, func(context.Context, sqlstore.Conn) error { cancel(); return sqlstore.ErrRetry })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want canceled", err)
	}
}

func TestClose_LeavesNothing(t *testing.T) {
	url := pgtest.URL(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	s := openAt(t, url)
	if err := s.PutSetting(t.Context(), "a", nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.PutSetting(t.Context(), "a", nil); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a write after Close got %v, want unavailable", err)
	}
	if _, err := s.Setting(t.Context(), "a"); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a read after Close got %v, want unavailable", err)
	}
}

// Who leads keeps a connection, and takes it from nobody.
func TestLead_LeavesConnections(t *testing.T) {
	s, err := Open(t.Context(), Config{URL: pgtest.SchemaURL(t), Sealer: storagetest.Sealer(t), MaxConns: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, stop := context.WithCancel(t.Context())
	var leaders, begun sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "d"} {
		begun.Add(1)
		leaders.Go(func() {
			_ = s.Lead(ctx, name, func(ctx context.Context) error { begun.Done(); <-ctx.Done(); return nil }) // ends with ctx
		})
	}
	begun.Wait()
	soon, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err := s.InitSetting(soon, "x", []byte("y")); err != nil {
		t.Errorf("beside four leaders: %v", err)
	}
	stop()
	leaders.Wait()
}

package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/storage/sqlstore"
	"github.com/vauban-iot/vauban/storage/storagetest"
)

// openAt opens a store whose life the test manages.
func openAt(t testing.TB, path string) *sqlstore.Store {
	t.Helper()
	s, err := Open(context.Background(), Config{Path: path, Sealer: storagetest.Sealer(t)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func openTemp(t testing.TB) storagetest.Store {
	s := openAt(t, filepath.Join(t.TempDir(), "state.db"))
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestContract(t *testing.T) { storagetest.All(t, openTemp) }

func BenchmarkStore(b *testing.B) { storagetest.Bench(b, openTemp) }

func BenchmarkFleet(b *testing.B) { storagetest.BenchFleet(b, openTemp, func() {}) }

func TestOpen_StateSurvives(t *testing.T) {
	path := filepath.Join(t.TempDir(), "with space %41#?&.db")
	id := iot.ID{Device: "d"}
	for i := range 3 {
		s := openAt(t, path)
		if i == 0 {
			if err := s.Create(t.Context(), registry.Identity{ID: id}, twin.Twin{}); err != nil {
				t.Fatal(err)
			}
		}
		tw, err := s.UpdateTwin(t.Context(), id, func(tw twin.Twin) (twin.Twin, error) {
			tw.Version++
			return tw, nil
		})
		if err != nil || tw.Version != int64(i+1) {
			t.Errorf("open number %d: version %d, error %v", i, tw.Version, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the database is elsewhere: %v", err)
	}
}

func TestOpen_OnlyTheOwnerReads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s := openAt(t, path)
	defer s.Close()
	if err := s.PutSetting(t.Context(), "a", nil); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{path, path + "-wal", path + "-shm"} {
		fi, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", filepath.Base(f), fi.Mode())
		}
	}
}

func TestOpen_Pragmas(t *testing.T) {
	b, _ := backend(t)
	check := func(c sqlstore.Conn) {
		t.Helper()
		for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "busy_timeout": "10000"} {
			rows, err := c.Query(t.Context(), "PRAGMA "+pragma)
			if err != nil {
				t.Fatal(err)
			}
			var got string
			for rows.Next() {
				rows.Scan(&got)
			}
			rows.Close()
			if got != want {
				t.Errorf("%s is %q, want %q", pragma, got, want)
			}
		}
	}
	check(b.Reader)
	if _, err := b.Reader.Exec(t.Context(), "DELETE FROM settings"); err == nil {
		t.Error("a reading connection can write")
	}
	if err := b.Write(t.Context(), func(_ context.Context, c sqlstore.Conn) error { check(c); return nil }); err != nil {
		t.Error(err)
	}
}

func TestOpen_RefusesNewerDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	openAt(t, path).Close()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)"); err != nil {
		t.Fatal(err)
	}
	db.Close()
	_, err = Open(t.Context(), Config{Path: path, Sealer: storagetest.Sealer(t)})
	if err == nil || !strings.Contains(err.Error(), "newer vauban") {
		t.Errorf("got error %v, want that a newer vauban used it", err)
	}
	goleak.VerifyNone(t, goleak.IgnoreCurrent())
}

func TestOpen_NeedsASealer(t *testing.T) {
	if _, err := Open(t.Context(), Config{Path: filepath.Join(t.TempDir(), "x")}); err == nil {
		t.Error("opened without a sealer")
	}
}

func TestKeysAreSealed(t *testing.T) {
	dir := t.TempDir()
	s := openAt(t, filepath.Join(dir, "state.db"))
	key := []byte("a-very-secret-key")
	d := registry.Identity{ID: iot.ID{Device: "a"}, Authentication: registry.Authentication{PrimaryKey: secret.New(key)}}
	if err := s.Create(t.Context(), d, twin.Twin{}); err != nil {
		t.Fatal(err)
	}
	if err := s.PutSetting(t.Context(), "x", key); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	for _, f := range files {
		if b, err := os.ReadFile(f); err != nil || bytes.Contains(b, key) {
			t.Errorf("%s holds a key in the clear (error %v)", f, err)
		}
	}
	s.Close()

	// Keys that somebody moved to another row do not open.
	s = openAt(t, filepath.Join(dir, "state.db"))
	defer s.Close()
	d.ID.Device, d.Authentication.PrimaryKey = "b", secret.New([]byte("other"))
	if err := s.Create(t.Context(), d, twin.Twin{}); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("UPDATE identities SET auth_keys = (SELECT auth_keys FROM identities WHERE device = 'a') WHERE device = 'b'"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Identity(t.Context(), d.ID); !errors.Is(err, secret.ErrSealed) {
		t.Errorf("got error %v, want that the keys do not open", err)
	}
}

func TestClose_LeavesNothing(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	path := filepath.Join(t.TempDir(), "state.db")
	s := openAt(t, path)
	done := make(chan error, 50)
	for i := range cap(done) {
		go func() {
			done <- s.Create(t.Context(), registry.Identity{ID: iot.ID{Device: fmt.Sprint(i)}}, twin.Twin{})
		}()
	}
	runtime.Gosched()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	accepted := 0
	for range cap(done) {
		switch err := <-done; {
		case err == nil:
			accepted++
		case !fault.Is(err, fault.Unavailable):
			t.Errorf("a write beside Close got %v, want success or unavailable", err)
		}
	}
	if err := s.PutSetting(t.Context(), "a", nil); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a write after Close got %v, want unavailable", err)
	}
	if _, err := s.Setting(t.Context(), "a"); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a read after Close got %v, want unavailable", err)
	}
	if _, err := os.Stat(path + "-wal"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the log is still there after Close (error %v)", err)
	}
	s = openAt(t, path)
	defer s.Close()
	if st, err := s.Statistics(t.Context()); err != nil || st.Total != accepted {
		t.Errorf("%d devices are there, error %v; %d were acknowledged", st.Total, err, accepted)
	}
}

func TestPositional(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"SELECT 1", "SELECT 1"},
		{"a = $1 AND b = $2", "a = ? AND b = ?"},
		{"($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)", "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"},
		{"a = $1 OR b = $1", "a = $1 OR b = $1"},
		{"a = $2 OR b = $1", "a = $2 OR b = $1"},
	} {
		if got := positional(tt.in); got != tt.want {
			t.Errorf("positional(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
}

func TestDSN_KeepsThePath(t *testing.T) {
	u, err := url.Parse(dsn("/a b/%41?#.db", url.Values{}))
	if err != nil || u.Path != "/a b/%41?#.db" {
		t.Errorf("got path %q, error %v", u.Path, err)
	}
}

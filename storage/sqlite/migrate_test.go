package sqlite

import (
	"database/sql"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/hub/registry"
)

// A database in which containment went with the device keeps it.
func TestOpen_MigratesContainments(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, os.DirFS("../sqlstore/migrations/sqlite"), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), 19); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), `INSERT INTO containments VALUES ('lamp', '', 3, 'it scans', 'ada', 1000000, '{"deviceId":"lamp","level":"observe"}')`); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s := openAt(t, path)
	defer s.Close()
	all, err := s.Contained(t.Context(), "", 10)
	if err != nil || len(all) != 1 || all[0].Device != "lamp" || all[0].Level != registry.Cut || all[0].Reason != "it scans" || all[0].By != "ada" ||
		!all[0].Since.Equal(time.Unix(1, 0)) || all[0].Before == nil || all[0].Before.Level != registry.Observe {
		t.Errorf("%+v, %v", all, err)
	}
}

// A database of before alerts had a life keeps its alerts, and their sequences grow on.
func TestOpen_MigratesAlerts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, os.DirFS("../sqlstore/migrations/sqlite"), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), 10); err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{
		`INSERT INTO alerts VALUES (7, 'a', 'IoT_TiConnection', 'High', 't', 'd', 'lamp', '', '203.0.113.5', 'x.txt:1', '2026-01-02', '203.0.113.5', '10.0.0.1', 'TCP', 'Out', 3, 1000000, 2000000, 9)`,
		`INSERT INTO alerts VALUES (9, 'b', 'IoT_TiConnection', 'High', 't', 'd', 'lamp', '', '203.0.113.6', 'x.txt:1', '2026-01-02', '203.0.113.6', '10.0.0.1', 'TCP', 'Out', 1, 1000000, 2000000, 9)`,
		`DELETE FROM alerts WHERE sequence = 9`,
	} {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s := openAt(t, path)
	defer s.Close()
	a, err := s.Alert(t.Context(), "a")
	if err != nil || a.Sequence != 7 || a.Count != 3 || a.Status != alert.Open || a.LastMessage != 9 || !a.LastSeen.Equal(time.Unix(2, 0)) || a.Evidence == nil {
		t.Errorf("%+v, %v", a, err)
	}
	again := alert.Alert{ID: "c", Type: a.Type, Device: "lamp", Indicator: a.Indicator, Day: a.Day, Count: 1, FirstSeen: a.FirstSeen, LastSeen: a.LastSeen, LastMessage: 10}
	if got, created, err := s.Raise(t.Context(), again); err != nil || created || got.Count != 4 {
		t.Errorf("seen again: %+v, %v, %v", got, created, err)
	}
	again.Device, again.ID = "other", "d"
	if got, created, err := s.Raise(t.Context(), again); err != nil || !created || got.Sequence <= 7 {
		t.Errorf("a new one: %+v, %v, %v", got, created, err)
	}
}

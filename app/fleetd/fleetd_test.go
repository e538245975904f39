package fleetd

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/sim/fleet"
)

// A run that is interrupted ends soon, leaves nothing behind, and still says how far it came.
func TestRun_Interrupted(t *testing.T) {
	t.Parallel()
	f, err := fleet.Parse("f", []byte("duration = \"24h\"\nwindow = \"1s\"\n[[board]]\nname = \"lamp\"\ncount = 3\n"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := Run(ctx, Config{File: f, Version: "test", Logger: slog.New(slog.DiscardHandler), Progress: func(p fleet.Progress) {
		if p.Messages > 50 {
			cancel()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if d := r.Fleet; d.Reached <= 0 || d.Reached >= d.Duration || d.Telemetry == 0 || d.Lost+d.Failed > 0 || r.Run.Speed < 1 {
		t.Errorf("%v of %v, %+v, %v", d.Reached, d.Duration, d.Counts, r.Run.Speed)
	}
}

func TestOpenFiles(t *testing.T) {
	t.Parallel()
	if err := openFiles(10, true); err != nil {
		t.Error(err)
	}
	if err := openFiles(1<<40, false); err == nil || !strings.Contains(err.Error(), "ulimit -n") {
		t.Errorf("a trillion boards: %v", err)
	}
}

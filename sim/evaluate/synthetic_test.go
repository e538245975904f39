package evaluate

import (
	"bytes"
	"testing"

	"github.com/vauban-iot/vauban/sim/traffic"
)

func run(t *testing.T, cfg traffic.Config) Report {
	t.Helper()
	f, err := traffic.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Synthetic(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := r.Print(&b); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + b.String())
	return r
}

func TestDraft(t *testing.T) {
	r := run(t, traffic.Config{Seed: 99, Honest: 200, Attacks: 4, Days: 3})
	for _, f := range r.False {
		t.Logf("FALSE %+v", f)
	}
	t.Log(r.NotFound)
}

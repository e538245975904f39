package posture_test

import (
	"crypto/rand"
	"fmt"
	"testing"

	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
)

// A look at a fleet of 100,000 devices with keys, of which nothing changed since the last.
func BenchmarkJudge_Look(b *testing.B) {
	const fleet, batch = 100_000, 500
	w := newBench(b)
	fresh := func() secret.Secret {
		k := make([]byte, 32)
		rand.Read(k)
		return secret.New(k)
	}
	for from := 0; from < fleet; from += batch {
		var ids []string
		for i := range batch {
			ids = append(ids, fmt.Sprintf("d%06d", from+i))
		}
		w.check(w.store.ChangeDevices(b.Context(), ids, func(rs []registry.Record) {
			for i := range rs {
				r := &rs[i]
				id := r.Identity.ID
				r.Identity = registry.Identity{ID: id, Generation: "1", ETag: "1", Status: registry.Enabled, Authentication: registry.Authentication{Type: registry.SAS, PrimaryKey: fresh(), SecondaryKey: fresh()}}
				r.Twin, r.Write = twin.New(iot.ID{Device: id.Device}), registry.WriteIdentity|registry.WriteTwin
			}
		}))
	}
	w.look()
	b.ReportAllocs()
	for b.Loop() {
		w.look()
	}
}

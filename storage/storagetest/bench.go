package storagetest

import (
	"encoding/json"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

// Bench measures the calls that decide how many devices a hub can have.
func Bench(b *testing.B, open Open) {
	const devices = 10_000
	s := open(b)
	next := atomic.Int64{}
	parallel(b, 100, func(int) error {
		for {
			i := next.Add(1) - 1
			if i >= devices {
				return nil
			}
			tw := twin.Twin{Version: 1, Desired: json.RawMessage(`{"interval":30,"led":{"on":true}}`), Reported: json.RawMessage(`{"fw":"1.2.3","led":{"on":true}}`)}
			if err := s.Create(b.Context(), device(name(i)), tw); err != nil {
				return err
			}
		}
	})
	id := func() iot.ID { return iot.ID{Device: name(next.Add(7919) % devices)} }

	b.Run("UpdateTwin/one", func(b *testing.B) {
		for b.Loop() {
			must(s.UpdateTwin(b.Context(), id(), touch))(b)
		}
		perSecond(b)
	})
	b.Run("UpdateTwin/parallel", func(b *testing.B) {
		b.SetParallelism(256)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := s.UpdateTwin(b.Context(), id(), touch); err != nil {
					b.Error(err)
				}
			}
		})
		perSecond(b)
	})
	b.Run("Identity", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := s.Identity(b.Context(), id()); err != nil {
					b.Error(err)
				}
			}
		})
		perSecond(b)
	})
	b.Run("Twin", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := s.Twin(b.Context(), id()); err != nil {
					b.Error(err)
				}
			}
		})
		perSecond(b)
	})
	b.Run("SetPresence/1000", func(b *testing.B) {
		yes := true
		ps := make([]registry.Presence, 1000)
		for b.Loop() {
			for i := range ps {
				ps[i] = registry.Presence{ID: id(), Connected: &yes, Time: Start, Activity: Start.Add(time.Duration(i))}
			}
			ok(b, s.SetPresence(b.Context(), ps))
		}
	})
}

func name(i int64) string { return fmt.Sprintf("device-%06d", i) }

func touch(tw twin.Twin) (twin.Twin, error) {
	tw.ReportedVersion++
	tw.Reported = json.RawMessage(`{"fw":"1.2.3","led":{"on":false},"n":` + fmt.Sprint(tw.ReportedVersion) + `}`)
	return tw, nil
}

func perSecond(b *testing.B) {
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
	b.ReportMetric(0, "ns/op")
}

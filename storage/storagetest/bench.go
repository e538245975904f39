package storagetest

import (
	"encoding/json"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/hub/fleet"
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

	b.Run("Record", func(b *testing.B) { // a log entry of 500 security messages with ten flows each
		details := make([]json.RawMessage, 10)
		for i := range details {
			details[i] = raw(`{"local_address":"192.168.1.10","local_port":49152,"remote_address":"203.0.113.5","remote_port":8883,"protocol":"TCP","bytes_in":1200,"bytes_out":3400,"process_id":0,"user_id":0}`)
		}
		events := make([]record.Event, 500)
		for b.Loop() {
			for i := range events {
				events[i] = record.Event{
					Place: record.Place{Message: uint64(next.Add(1))}, Device: name(int64(i)), Enqueued: Start, Time: Start, ID: "0d0b0a0908070605131211100f0e0d0c",
					Name: "NetworkActivity", Kind: "Security", Agent: "defender-iot-micro-agent", AgentVersion: "3.5.4", Form: "flatbuffers", Details: details,
				}
			}
			must(s.Record(b.Context(), events, nil))(b)
		}
		b.ReportMetric(float64(len(events)*b.N)/b.Elapsed().Seconds(), "messages/s")
	})
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

// BenchFleet measures queries over 100,000 twins: by an indexed tag, by a value that no index knows, and over all.
// settle does what the database does by itself in the first minutes after such a change.
func BenchFleet(b *testing.B, open Open, settle func()) {
	const devices = 100_000
	s := open(b)
	next := atomic.Int64{}
	parallel(b, 256, func(int) error {
		for {
			i := next.Add(1) - 1
			if i >= devices {
				return nil
			}
			tw, _, err := twin.New(iot.ID{Device: name(i)}).Apply(twin.Patch{
				Tags: fmt.Appendf(nil, `{"site":"s%d","floor":%d}`, i%1000, i%20), HasTags: true, Desired: raw(`{"interval":10}`), HasDesired: true,
			}, Start)
			if err == nil {
				tw, err = tw.ApplyReported(fmt.Appendf(nil, `{"temperature":%d.5,"firmware":{"version":"1.2.%d","state":"ok"},"battery":%d}`, i%100, i%10, i%997), 0, Start)
			}
			if err == nil {
				err = s.Create(b.Context(), device(name(i)), tw)
			}
			if err != nil {
				return err
			}
		}
	})
	settle()
	f := fleet.New(s)
	for _, q := range []struct {
		name, text string
		rows       int
	}{
		{"IndexedTag", `SELECT * FROM devices WHERE tags.site = 's77'`, 100},
		{"TwoTags", `SELECT deviceId FROM devices WHERE tags.floor = 7 AND tags.site = 's27'`, 100},
		{"NoIndex", `SELECT deviceId FROM devices WHERE properties.reported.battery = 33 AND properties.reported.firmware.version = '1.2.3'`, 100},
		{"FirstPage", `SELECT * FROM devices`, 100},
		{"CountByVersion", `SELECT properties.reported.firmware.version AS v, COUNT() AS n FROM devices GROUP BY properties.reported.firmware.version`, 10},
	} {
		b.Run(q.name, func(b *testing.B) {
			for b.Loop() {
				p, err := f.Query(b.Context(), q.text, 1000, "")
				if err != nil {
					b.Fatal(err)
				}
				if len(p.Items) > 10*q.rows || len(p.Items) == 0 {
					b.Fatalf("%d rows", len(p.Items))
				}
			}
		})
	}
}

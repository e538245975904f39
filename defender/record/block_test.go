package record

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"
)

func blockEvents(n int) []Event {
	start := time.Date(2026, 3, 4, 5, 6, 7, 8000, time.UTC)
	var all []Event
	for i := range n {
		e := Event{
			Place: Place{Message: uint64(100 + i/2), Ordinal: i % 2}, Device: fmt.Sprint("d", i%7), Module: "m", Enqueued: start.Add(time.Duration(i) * time.Second), Time: start,
			ID: "e", Name: []string{"NetworkActivity", "Heartbeat"}[i%2], Kind: "Security", Category: "Periodic", Agent: "a ☂", AgentVersion: "1", Form: "json", Schema: Broken, Left: i,
			Notes: []string{"n"}, Details: []json.RawMessage{json.RawMessage(`{"a":1}`), json.RawMessage(`{}`)},
		}
		if i == 3 {
			e.Problem, e.Details, e.Notes, e.Time, e.Empty = "broken", nil, nil, time.Time{}, true
		}
		all = append(all, e)
	}
	return all
}

func TestPack(t *testing.T) {
	t.Parallel()
	all := blockEvents(40)
	mixed := slices.Clone(all)
	slices.Reverse(mixed)
	b := Pack(mixed)
	if b.First != all[0].Place || b.Last != all[39].Place || !b.Oldest.Equal(all[0].Enqueued) || !b.Newest.Equal(all[39].Enqueued) || b.Events != 40 || b.Invalid != 1 ||
		b.Size != 39*int64(len(`[{"a":1},{}]`))+2 || len(b.Names) != 2 || len(b.Devices) != 7 || !slices.IsSorted(b.Devices) {
		t.Errorf("the block says %+v", b)
	}
	if _, ok := slices.BinarySearch(b.Devices, DeviceHash("d3")); !ok {
		t.Error("a device is missing")
	}
	got, err := Unpack(b.Data)
	if err != nil || !reflect.DeepEqual(got, all) {
		t.Errorf("unpacked %v, %+v", err, got)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(Pack(blockEvents(5)).Data)
	for _, raw := range [][]byte{{}, {blockForm}, {blockForm, 1}, {blockForm, 0xff, 0xff, 0xff, 0xff, 0x0f}, {blockForm, 0}} {
		f.Add(packer.EncodeAll(raw, nil))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		events, err := Unpack(data)
		if err != nil || len(events) == 0 {
			return
		}
		again, err := Unpack(Pack(events).Data)
		if err != nil || len(again) != len(events) {
			t.Errorf("%d events came back as %d: %v", len(events), len(again), err)
		}
	})
}

func BenchmarkPack(b *testing.B) {
	events := blockEvents(4000)
	b.ReportAllocs()
	for b.Loop() {
		block := Pack(events)
		b.ReportMetric(float64(len(block.Data))/4000, "B/event")
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/4000, "ns/event")
}

package telemetry

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/bag"
)

// sample is a message with something in every field.
func sample(n int) iot.Message {
	return iot.Message{
		Source: iot.Telemetry, From: iot.ID{Device: fmt.Sprintf("dev-%d", n), Module: "mod"}, Generation: "638000000000000000",
		AuthMethod: `{"scope":"device","type":"sas","issuer":"iothub"}`, ModelID: "dtmi:com:example:Thermostat;1",
		Enqueued:   time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC),
		System:     []bag.Property{{Name: "content-type", Value: "application/json"}, {Name: "content-encoding", Null: true}},
		Properties: []bag.Property{{Name: "empty"}, {Name: "null", Null: true}, {Name: "ü", Value: "☂&=\x00"}},
		Body:       bytes.Repeat([]byte{byte(n)}, n),
	}
}

func encode(ms ...iot.Message) []byte {
	b := []byte{version}
	for i := range ms {
		b = appendRecord(b, &ms[i])
	}
	return b
}

func decode(t testing.TB, seq uint64, entry []byte) []iot.Message {
	t.Helper()
	var got []iot.Message
	if err := Decode(seq, entry, func(m *iot.Message) error { got = append(got, *m); return nil }); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestRecord_RoundTrip(t *testing.T) {
	t.Parallel()
	var want []iot.Message
	for n := range 300 {
		want = append(want, sample(n))
	}
	want = append(want, iot.Message{Enqueued: time.Unix(0, 0).UTC()}, iot.Message{Enqueued: time.Date(1901, 1, 1, 0, 0, 0, 0, time.UTC), Body: make([]byte, 5000)})
	got := decode(t, 42, encode(want...))
	for i := range want {
		want[i].Sequence = 42<<16 | uint64(i)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := decode(t, 1, EmptyBatch()); len(got) != 0 {
		t.Errorf("an empty batch holds %d messages", len(got))
	}
}

func TestRecord_SequencesGrow(t *testing.T) {
	t.Parallel()
	last := Sequence(6, 1<<indexBits-1)
	for entry := uint64(7); entry < 10; entry++ {
		for i := range 3 {
			s := Sequence(entry, i)
			if s <= last {
				t.Errorf("sequence %d after %d", s, last)
			}
			last = s
		}
	}
}

// Whatever byte is missing or wrong, it is an error or another message, never a panic; and
// what was read before stays read.
func TestRecord_Damaged(t *testing.T) {
	t.Parallel()
	entry := encode(sample(3), sample(5))
	first := len(encode(sample(3)))
	for cut := range len(entry) {
		n := 0
		err := Decode(1, entry[:cut], func(*iot.Message) error { n++; return nil })
		whole := cut == 1 || cut == first
		if whole != (err == nil) || err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("cut at %d of %d: %d messages, %v", cut, len(entry), n, err)
		}
		if cut >= first && n != 1 {
			t.Errorf("cut at %d: %d messages, want the whole one", cut, n)
		}
	}
	for name, entry := range map[string][]byte{
		"empty":                 nil,
		"another version":       {2},
		"length beyond":         {version, 255, 255, 255, 255, 0},
		"zero length":           {version, 0, 0, 0, 0},
		"endless varint":        append([]byte{version, 11, 0, 0, 0}, bytes.Repeat([]byte{0xff}, 11)...),
		"string beyond":         {version, 4, 0, 0, 0, 0, 0xff, 0x7f, 'x'},
		"properties for nobody": {version, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f, 0},
	} {
		if err := Decode(1, entry, func(*iot.Message) error { return nil }); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: got %v, want ErrCorrupt", name, err)
		}
	}
}

func TestRecord_ErrorOfTheReaderEndsTheWalk(t *testing.T) {
	t.Parallel()
	stop := errors.New("stop")
	n := 0
	err := Decode(1, encode(sample(1), sample(2), sample(3)), func(*iot.Message) error {
		if n++; n == 2 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || errors.Is(err, ErrCorrupt) || n != 2 {
		t.Errorf("got %v after %d messages, want the reader's error after 2", err, n)
	}
}

// What can be read can be written again, and reads the same.
func FuzzDecode(f *testing.F) {
	f.Add(encode(sample(0)))
	f.Add(encode(sample(3), sample(200)))
	f.Add(EmptyBatch())
	f.Add([]byte{version, 255, 255, 255, 255, 0})
	f.Fuzz(func(t *testing.T, entry []byte) {
		var ms []iot.Message
		if err := Decode(9, entry, func(m *iot.Message) error { ms = append(ms, *m); return nil }); err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("error %v", err)
			}
			return
		}
		again := decode(t, 9, encode(ms...))
		if diff := cmp.Diff(ms, again, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("(-first +second):\n%s", diff)
		}
	})
}

// Any message at all survives.
func FuzzRecord(f *testing.F) {
	f.Add("dev", "mod", "name", "value", true, int64(1), []byte("body"))
	f.Fuzz(func(t *testing.T, device, module, name, value string, null bool, micros int64, body []byte) {
		if null {
			value = ""
		}
		want := iot.Message{
			From: iot.ID{Device: device, Module: module}, Source: iot.MessageSource(name), Generation: value, AuthMethod: name, ModelID: value,
			Enqueued: time.UnixMicro(micros).UTC(), System: []bag.Property{{Name: name, Value: value, Null: null}}, Properties: []bag.Property{{Name: value, Value: name}}, Body: body,
		}
		got := decode(t, 3, encode(want))
		want.Sequence = 3 << 16
		if diff := cmp.Diff([]iot.Message{want}, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	})
}

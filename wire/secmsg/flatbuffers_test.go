package secmsg

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	flatbuffers "github.com/google/flatbuffers/go"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vauban-iot/vauban/internal/conform"
)

var comparers = cmp.Options{
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) && a.Location() == b.Location() }),
	cmp.Transformer("raw", func(r Raw) string { return string(r) }),
	cmpopts.IgnoreFields(Flow{}, "Item"), // by TestDetails_ItemsOfFlows
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got, comparers); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// vector is the message of defender §1.2 that a device serializer of NetX Duo 6.3.0 wrote.
func vector(t testing.TB) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/netxduo-6.3.0.hex")
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func at(seconds int64) time.Time { return time.Unix(seconds, 0).UTC() }

var ap = netip.MustParseAddrPort

var vectorReport = Report{
	Agent: "defender-iot-micro-agent", AgentVersion: "3.5.4", Encoding: FlatBuffers,
	Events: []Event{
		{
			ID: "0d0b0a09080706051513121110" + "0f0e0d", Name: "NetworkActivity", Time: at(1700000000), Interval: 10 * time.Second,
			Flows: []Flow{
				{Local: ap("192.168.1.10:49152"), Remote: ap("203.0.113.5:8883"), Protocol: "TCP", BytesIn: 1200, BytesOut: 3400},
				{Local: ap("[fd00::10]:0"), Remote: ap("[2001:db8::5]:0"), Protocol: "ICMP", BytesIn: 64, BytesOut: 64},
			},
		},
		{ID: "0e0b0a0908070605161312111" + "00f0e0d", Name: "Heartbeat", Time: at(1700000001), Interval: time.Minute, Empty: true},
		{
			ID: "0f0b0a0908070605171312111" + "00f0e0d", Name: "SystemInformation", Time: at(1700000001), Interval: time.Minute,
			Payload: []Item{SystemInformation{OS: "Azure RTOS 6.3"}},
		},
	},
}

func TestDecode_Vector(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-5")
	b := vector(t)
	if len(b) != 410 {
		t.Fatalf("the vector has %d bytes, want 410", len(b))
	}
	for _, mti := range []string{"2.3-1-0-0", ""} {
		got, err := Decode(mti, b)
		if err != nil {
			t.Fatalf("Decode(%q): %v", mti, err)
		}
		same(t, "mti "+mti, got, vectorReport)
	}
}

func TestDecode_HostileBuffers(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-7")
	good := vector(t)
	t.Run("every truncation is malformed or harmless", func(t *testing.T) {
		for n := range good {
			r, err := Decode("2.3-1-0-0", good[:n])
			if err == nil {
				t.Errorf("%d bytes of the vector, whose vtables stand at its end, were read: %+v", n, r)
			} else if !errors.Is(err, ErrMalformed) {
				t.Errorf("%d bytes: %v is not ErrMalformed", n, err)
			}
		}
	})
	t.Run("every flipped bit", func(t *testing.T) {
		b := bytes.Clone(good)
		for i := range 8 * len(b) {
			b[i/8] ^= 1 << (i % 8)
			if _, err := Decode("2.3-1-0-0", b); err != nil && !errors.Is(err, ErrMalformed) {
				t.Errorf("bit %d: %v is not ErrMalformed", i, err)
			}
			b[i/8] ^= 1 << (i % 8)
		}
	})
	t.Run("shared offsets do not multiply", func(t *testing.T) {
		// One flow, seen through many vectors that all share it.
		b := flatbuffers.NewBuilder(0)
		flow := buildFlow(b)
		b.StartVector(4, 30000, 4)
		for range 30000 {
			b.PrependUOffsetT(flow)
		}
		flows := b.EndVector(30000)
		b.StartObject(2)
		b.PrependUOffsetTSlot(0, flows, 0)
		activity := b.EndObject()
		event := buildEvent(b, 1, activity)
		b.StartVector(4, 30000, 4)
		for range 30000 {
			b.PrependUOffsetT(event)
		}
		message := finish(b, b.EndVector(30000))
		if len(message) > MaxSize {
			t.Fatal("the test's message is too long")
		}
		if _, err := Decode("", message); !errors.Is(err, ErrMalformed) {
			t.Errorf("got %v, want ErrMalformed", err)
		}
	})
	t.Run("shared text does not multiply", func(t *testing.T) {
		b := flatbuffers.NewBuilder(0)
		long := b.CreateString(strings.Repeat("x", 100000))
		var events []flatbuffers.UOffsetT
		for range 100 {
			b.StartObject(3)
			b.PrependUOffsetTSlot(0, long, 0)
			events = append(events, buildEvent(b, 2, b.EndObject()))
		}
		if _, err := Decode("", finish(b, vectorOf(b, events...))); !errors.Is(err, ErrMalformed) {
			t.Errorf("got %v, want ErrMalformed", err)
		}
	})
	for name, b := range map[string][]byte{
		"nothing":             nil,
		"zeros":               make([]byte, 64),
		"ones":                bytes.Repeat([]byte{0xff}, 64),
		"root beyond the end": {0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0},
	} {
		var m *MalformedError
		if r, err := Decode("2.3-1-0-0", b); !errors.As(err, &m) || !errors.Is(err, ErrMalformed) || len(r.Events) > 0 {
			t.Errorf("%s: got %+v, %v; want a MalformedError", name, r, err)
		}
	}
	if _, err := Decode("", make([]byte, MaxSize+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("over 256 KiB: got %v, want ErrTooLarge", err)
	}
}

// What follows builds messages with the FlatBuffers project's own library.

func buildFlow(b *flatbuffers.Builder) flatbuffers.UOffsetT {
	b.StartObject(9) // all fields absent
	common := b.EndObject()
	b.StartObject(2)
	b.Prep(4, 8)
	b.PrependByte(5)
	b.PrependByte(113)
	b.PrependByte(0)
	b.PrependByte(203) // remote, backwards
	b.PrependByte(10)
	b.PrependByte(1)
	b.PrependByte(168)
	b.PrependByte(192)
	b.PrependStructSlot(0, b.Offset(), 0)
	b.PrependUOffsetTSlot(1, common, 0)
	return b.EndObject()
}

func buildEvent(b *flatbuffers.Builder, kind byte, payload flatbuffers.UOffsetT) flatbuffers.UOffsetT {
	b.StartObject(5)
	b.Prep(1, 16)
	for i := range 16 {
		b.PrependByte(byte(16 - i))
	}
	b.PrependStructSlot(0, b.Offset(), 0)
	b.PrependUint32Slot(1, 1700000000, 0)
	b.PrependUint32Slot(2, 10, 0)
	b.PrependByteSlot(3, kind, 0)
	b.PrependUOffsetTSlot(4, payload, 0)
	return b.EndObject()
}

func vectorOf(b *flatbuffers.Builder, elements ...flatbuffers.UOffsetT) flatbuffers.UOffsetT {
	b.StartVector(4, len(elements), 4)
	for i := range elements {
		b.PrependUOffsetT(elements[len(elements)-1-i])
	}
	return b.EndVector(len(elements))
}

func finish(b *flatbuffers.Builder, events flatbuffers.UOffsetT) []byte {
	id := b.CreateString("iot_security_module")
	b.StartObject(4)
	b.PrependUOffsetTSlot(0, id, 0)
	b.PrependUint32Slot(1, 2<<24|0<<16|3, 0)
	b.PrependInt8Slot(2, -5, 0)
	b.PrependUOffsetTSlot(3, events, 0)
	b.Finish(b.EndObject())
	return b.FinishedBytes()
}

const builtID = "0102030405060708090a0b0c0d0e0f10"

// everything is a message with each table of the schema, and one member it does not have.
func everything() ([]byte, Report) {
	b := flatbuffers.NewBuilder(0)
	text := func(s string) flatbuffers.UOffsetT { return b.CreateString(s) }
	var events []flatbuffers.UOffsetT
	add := func(kind byte, payload flatbuffers.UOffsetT) { events = append(events, buildEvent(b, kind, payload)) }

	// NetworkActivity with every common field absent.
	flows := vectorOf(b, buildFlow(b))
	b.StartObject(2)
	b.PrependUOffsetTSlot(0, flows, 0)
	add(1, b.EndObject())

	os, kernel, hardware := text("Linux"), text("6.1"), text("board")
	b.StartObject(3)
	b.PrependUOffsetTSlot(0, os, 0)
	b.PrependUOffsetTSlot(1, kernel, 0)
	b.PrependUOffsetTSlot(2, hardware, 0)
	add(2, b.EndObject())

	b.StartObject(3) // SystemInformation without fields
	add(2, b.EndObject())

	b.StartVector(8, 2, 4)
	for _, p := range [][]byte{{10, 0, 0, 1, 53, 0, 1, 0}, {10, 0, 0, 1, 0xb3, 0x22, 0, 0}} {
		for i := range p {
			b.PrependByte(p[len(p)-1-i])
		}
	}
	v4 := b.EndVector(2)
	b.StartVector(20, 1, 4)
	six := netip.MustParseAddr("2001:db8::1").As16()
	for _, c := range []byte{0, 2, 0, 0} {
		b.PrependByte(c)
	}
	for i := range six {
		b.PrependByte(six[15-i])
	}
	v6 := b.EndVector(1)
	b.StartObject(2)
	b.PrependUOffsetTSlot(0, v4, 0)
	b.PrependUOffsetTSlot(1, v6, 0)
	add(3, b.EndObject())

	b.StartObject(0)
	add(4, b.EndObject())

	b.StartObject(0)
	add(77, b.EndObject()) // not in the schema

	id, reason, description, remedy := text("CIS-1.1"), text("e"), text("d"), text("r")
	b.StartObject(6)
	b.PrependUOffsetTSlot(0, id, 0)
	b.PrependByteSlot(1, 1, 0)
	b.PrependUOffsetTSlot(2, reason, 0)
	b.PrependUOffsetTSlot(3, description, 0)
	b.PrependByteSlot(4, 2, 0)
	b.PrependUOffsetTSlot(5, remedy, 0)
	checks := vectorOf(b, b.EndObject())
	b.StartObject(1)
	b.PrependUOffsetTSlot(0, checks, 0)
	add(5, b.EndObject())

	exe, user, line := text("/bin/sh"), text("root"), text("sh -c x\xff")
	b.StartObject(8)
	b.PrependUOffsetTSlot(0, exe, 0)
	b.PrependUint32Slot(1, 100, 0)
	b.PrependUint32Slot(2, 1, 0)
	b.PrependUint32Slot(3, 1000, 0)
	b.PrependUOffsetTSlot(4, user, 0)
	b.PrependUOffsetTSlot(5, line, 0)
	b.PrependByteSlot(6, 1, 0)
	add(6, b.EndObject())

	message, file := text("m"), text("f.c")
	b.StartObject(5)
	b.PrependUOffsetTSlot(0, message, 0)
	b.PrependByteSlot(1, 9, 0)
	b.PrependUint64Slot(2, 1<<40, 0)
	b.PrependUint32Slot(3, 7, 0)
	b.PrependUOffsetTSlot(4, file, 0)
	logs := vectorOf(b, b.EndObject())
	b.StartObject(1)
	b.PrependUOffsetTSlot(0, logs, 0)
	add(7, b.EndObject())

	want := Report{
		Agent: "iot_security_module", AgentVersion: "2.0.3", Encoding: FlatBuffers, Skipped: 1,
		Notes: []string{"an event's payload is of the unknown type 77"},
		Events: []Event{
			{Name: "NetworkActivity", Flows: []Flow{{Local: ap("192.168.1.10:0"), Remote: ap("203.0.113.5:0"), Protocol: "TCP"}}},
			{Name: "SystemInformation", Payload: []Item{SystemInformation{OS: "Linux", Kernel: "6.1", Hardware: "board"}}},
			{Name: "SystemInformation", Empty: true},
			{Name: "ListeningPorts", Payload: []Item{
				ListeningPort{Local: ap("10.0.0.1:8883"), Protocol: "TCP"},
				ListeningPort{Local: ap("10.0.0.1:53"), Protocol: "UDP"},
				ListeningPort{Local: ap("[2001:db8::1]:0"), Protocol: "ICMP"},
			}},
			{Name: "Heartbeat", Empty: true},
			{Name: "Baseline", Checks: []BaselineCheck{{ID: "CIS-1.1", Result: "FAIL", Error: "e", Description: "d", Severity: "WARNING", Remediation: "r"}}},
			{Name: "Process", Payload: []Item{Process{
				Executable: "/bin/sh", ProcessID: 100, ParentProcessID: 1, UserID: 1000, UserName: "root", CommandLine: "sh -c x\uFFFD", EventType: "EXEC", HitCount: 1,
			}}},
			{Name: "Log", Payload: []Item{Record{Message: "m", Level: "UNKNOWN(9)", Timestamp: 1 << 40, Line: 7, File: "f.c"}}},
		},
	}
	for i := range want.Events {
		want.Events[i].ID, want.Events[i].Time, want.Events[i].Interval = builtID, at(1700000000), 10*time.Second
	}
	return finish(b, vectorOf(b, events...)), want
}

func TestDecode_EveryTable(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-6", "DEF-8") // 6.1's module id and mti; absent fields
	message, want := everything()
	for _, mti := range []string{"2.0-1-0-0", "2.3-1-0-0"} {
		got, err := Decode(mti, message)
		if err != nil {
			t.Fatal(err)
		}
		same(t, mti, got, want)
	}
	t.Run("no required field may be missing", func(t *testing.T) {
		for kind, fields := range map[byte]int{1: 2, 5: 1, 7: 1} {
			b := flatbuffers.NewBuilder(0)
			b.StartObject(1)
			empty := vectorOf2(b, b.EndObject())
			b.StartObject(fields)
			b.PrependUOffsetTSlot(0, empty, 0)
			event := buildEvent(b, kind, b.EndObject())
			if _, err := Decode("", finish(b, vectorOf(b, event))); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s of an empty table: got %v, want ErrMalformed", payloads[kind], err)
			}
		}
	})
}

func vectorOf2(b *flatbuffers.Builder, element flatbuffers.UOffsetT) flatbuffers.UOffsetT {
	return vectorOf(b, element, element)
}

func TestEvent_IsHeartbeat(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-11")
	for e, want := range map[*Event]bool{
		{Name: "Heartbeat", Empty: true}:         true,
		{Name: "SystemInformation", Empty: true}: true,
		{Name: "SystemInformation"}:              false,
		{Name: "NetworkActivity", Empty: true}:   false,
	} {
		if got := e.IsHeartbeat(); got != want {
			t.Errorf("%+v: heartbeat %v, want %v", e, got, want)
		}
	}
	message, _ := everything()
	r, err := Decode("", message)
	if err != nil {
		t.Fatal(err)
	}
	beats := 0
	for i := range r.Events {
		if r.Events[i].IsHeartbeat() {
			beats++
		}
	}
	if beats != 2 {
		t.Errorf("%d heartbeats in a message with a Heartbeat and an empty SystemInformation", beats)
	}
	r, err = Decode("", []byte(`{"MessageSchemaVersion":"1.0","Events":[{"Name":"SystemInformation","IsEmpty":true,"Payload":[]}]}`))
	if err != nil || len(r.Events) != 1 || !r.Events[0].IsHeartbeat() {
		t.Errorf("the preview's heartbeat: %+v, %v", r, err)
	}
}

func TestAppendFlatBuffers_RoundTrip(t *testing.T) {
	t.Parallel()
	check := func(t *testing.T, r Report) {
		t.Helper()
		prefix := []byte("abc")
		b := AppendFlatBuffers(prefix, r)
		if !bytes.HasPrefix(b, prefix) {
			t.Fatal("what stood before is gone")
		}
		got, err := Decode("2.3-1-0-0", b[3:])
		if err != nil {
			t.Fatal(err)
		}
		same(t, "read back", got, r)
	}
	check(t, vectorReport)
	check(t, Report{
		Agent: "a ☂", AgentVersion: "255.1.65535", Encoding: FlatBuffers,
		Events: []Event{
			{Name: "NetworkActivity", Time: at(0), Empty: true},
			{ID: builtID, Name: "NetworkActivity", Time: at(1<<32 - 1), Interval: time.Hour, Flows: []Flow{
				{Local: ap("10.0.0.1:1"), Remote: ap("10.0.0.2:65535"), Protocol: "UDP", Direction: In, BytesIn: 1<<32 - 1, Executable: "/bin/x", CommandLine: "x -y", ProcessID: 65535},
				{Local: ap("10.0.0.1:0"), Remote: ap("10.0.0.2:0"), Protocol: "ICMP", CommandLine: "y"},
				{Local: ap("[::1]:9"), Remote: ap("[2001:db8::1]:0"), Protocol: "TCP", Direction: Out, BytesOut: 7, Executable: "z"},
			}},
			{Name: "SystemInformation", Time: at(1), Payload: []Item{SystemInformation{Kernel: "k", Hardware: "h"}}},
			{Name: "SystemInformation", Time: at(1), Empty: true},
		},
	})
	check(t, Report{Encoding: FlatBuffers, Events: []Event{}})

	got, err := Decode("", AppendFlatBuffers(nil, Report{Events: []Event{{Name: "NetworkActivity", Flows: []Flow{
		{Local: ap("10.0.0.1:1"), Remote: ap("10.0.0.2:2"), Protocol: "SCTP"}, {Remote: ap("10.0.0.2:2"), Protocol: "TCP"},
		{Local: ap("10.0.0.1:1"), Remote: ap("10.0.0.2:2"), Protocol: "TCP", BytesIn: 1 << 40, ProcessID: -1},
	}}, {Name: "Login"}}}))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "what cannot be written", got.Events, []Event{{Name: "NetworkActivity", Time: at(0), Flows: []Flow{
		{Local: ap("10.0.0.1:1"), Remote: ap("10.0.0.2:2"), Protocol: "TCP", Direction: In, BytesIn: 1<<32 - 1},
	}}})
}

// The FlatBuffers library finds its way in what we write, and it is aligned.
func TestAppendFlatBuffers_ReadByTheLibrary(t *testing.T) {
	t.Parallel()
	b := AppendFlatBuffers(nil, vectorReport)
	root := &flatbuffers.Table{Bytes: b, Pos: flatbuffers.GetUOffsetT(b)}
	events := root.Vector(flatbuffers.UOffsetT(root.Offset(10)))
	if n := root.VectorLen(flatbuffers.UOffsetT(root.Offset(10))); n != 3 {
		t.Fatalf("%d events, want 3", n)
	}
	event := &flatbuffers.Table{Bytes: b, Pos: root.Indirect(events)}
	var activity flatbuffers.Table
	event.Union(&activity, flatbuffers.UOffsetT(event.Offset(12)))
	flow := &flatbuffers.Table{Bytes: b, Pos: activity.Indirect(activity.Vector(flatbuffers.UOffsetT(activity.Offset(4))))}
	addresses := flow.Pos + flatbuffers.UOffsetT(flow.Offset(4))
	if got := binary.BigEndian.Uint32(b[addresses+4:]); got != 203<<24|113<<8|5 {
		t.Errorf("the remote address is %x", got)
	}
	common := &flatbuffers.Table{Bytes: b, Pos: flow.Indirect(flow.Pos + flatbuffers.UOffsetT(flow.Offset(6)))}
	if got := common.GetUint16Slot(6, 0); got != 8883 {
		t.Errorf("the remote port is %d", got)
	}
	for what, pos := range map[string]flatbuffers.UOffsetT{"message": root.Pos, "event": event.Pos, "flow": flow.Pos, "addresses": addresses, "common": common.Pos} {
		if pos%4 != 0 {
			t.Errorf("the %s stands at %d, which is not aligned", what, pos)
		}
	}
	if got := root.String(root.Pos + flatbuffers.UOffsetT(root.Offset(4))); got != vectorReport.Agent {
		t.Errorf("the agent is %q", got)
	}
}

func FuzzDecode(f *testing.F) {
	all, _ := everything()
	f.Add("2.3-1-0-0", vector(f))
	f.Add("", all)
	for _, s := range samples {
		f.Add(s.mti, []byte(s.body))
	}
	f.Add("2.3-1-0-0", AppendFlatBuffers(nil, vectorReport))
	f.Fuzz(func(t *testing.T, mti string, body []byte) {
		r, err := Decode(mti, body)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooLarge) {
				t.Errorf("%v is of no known kind", err)
			}
			if r.Agent != "" || r.Events != nil {
				t.Errorf("a report beside an error: %+v", r)
			}
			return
		}
		if len(r.Notes) > maxNotes || r.Skipped > len(body) {
			t.Errorf("%d notes, %d skipped", len(r.Notes), r.Skipped)
		}
		// What can be written reads back as it was; writing that again gives the same bytes.
		first := AppendFlatBuffers(nil, r)
		if len(first) > MaxSize {
			return
		}
		again, err := Decode("2.3-1-0-0", first)
		if err != nil {
			t.Fatalf("what we wrote cannot be read: %v", err)
		}
		if second := AppendFlatBuffers(nil, again); !bytes.Equal(first, second) {
			t.Errorf("written twice: %x and %x", first, second)
		}
	})
}

// FuzzRoundTrip requires decode(encode(x)) == x for flows and texts of any kind.
func FuzzRoundTrip(f *testing.F) {
	f.Add("agent", uint32(1), uint32(1700000000), []byte{192, 168, 1, 10, 203, 0, 113, 5}, uint16(1), uint16(2), uint32(3), uint32(4), uint8(0), "exe", "line")
	f.Add("", uint32(0), uint32(0), bytes.Repeat([]byte{7}, 32), uint16(0), uint16(0), uint32(0), uint32(0), uint8(2), "", "")
	f.Fuzz(func(t *testing.T, agent string, version, when uint32, addresses []byte, local, remote uint16, in, out uint32, protocol uint8, exe, line string) {
		half := len(addresses) / 2
		l, ok1 := netip.AddrFromSlice(addresses[:half])
		r, ok2 := netip.AddrFromSlice(addresses[half:])
		if !ok1 || !ok2 {
			return
		}
		valid := func(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
		want := Report{Agent: valid(agent), Encoding: FlatBuffers, Events: []Event{
			{ID: builtID, Name: "NetworkActivity", Time: at(int64(when)), Interval: time.Duration(version) * time.Second, Flows: []Flow{{
				Local: netip.AddrPortFrom(l, local), Remote: netip.AddrPortFrom(r, remote), Protocol: protocols[protocol%3],
				Direction: direction(uint64(in), uint64(out)), BytesIn: uint64(in), BytesOut: uint64(out), Executable: valid(exe), CommandLine: valid(line), ProcessID: int64(local),
			}}},
			{Name: "SystemInformation", Time: at(0), Empty: exe == "", Payload: nil},
		}}
		if exe != "" {
			want.Events[1].Payload = []Item{SystemInformation{OS: valid(exe)}}
		}
		got, err := Decode("2.3-1-0-0", AppendFlatBuffers(nil, want))
		if errors.Is(err, ErrTooLarge) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		same(t, "read back", got, want)
	})
}

func BenchmarkDecode(b *testing.B) {
	var flows []Flow
	for i := range 10 {
		flows = append(flows, Flow{Local: ap("10.0.0.1:1"), Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), 443), Protocol: "TCP", BytesIn: 1, BytesOut: 2})
	}
	message := AppendFlatBuffers(nil, Report{Agent: "a", Events: []Event{{Name: "NetworkActivity", Flows: flows}}})
	b.SetBytes(int64(len(message)))
	for b.Loop() {
		if _, err := Decode("2.3-1-0-0", message); err != nil {
			b.Fatal(err)
		}
	}
}

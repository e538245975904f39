package mqtt

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParsePublish(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		flags byte
		in    []byte
		want  Publish
	}{
		{"QoS 0", 0, body("\x00\x01t", "hello"), Publish{Topic: []byte("t"), Payload: []byte("hello")}},
		{"QoS 1", 2, body("\x00\x01t", "\x00\x07", "p"), Publish{QoS: 1, Topic: []byte("t"), PacketID: 7, Payload: []byte("p")}},
		{"QoS 2 is read", 4, body("\x00\x01t", "\x00\x07"), Publish{QoS: 2, Topic: []byte("t"), PacketID: 7, Payload: []byte{}}},
		{"DUP and RETAIN", 0xb, body("\x00\x01t", "\xff\xff"), Publish{Dup: true, QoS: 1, Retain: true, Topic: []byte("t"), PacketID: 65535, Payload: []byte{}}},
		{"binary payload", 0, body("\x00\x01t", "\x00\xff+#"), Publish{Topic: []byte("t"), Payload: []byte("\x00\xff+#")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := ParsePublish(tt.flags, tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestParsePublish_Refuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		flags byte
		in    []byte
	}{
		{"empty body", 0, nil},
		{"empty topic", 0, body("\x00\x00", "p")},
		{"cut topic", 0, body("\x00\x05t")},
		{"topic that is not UTF-8", 0, body("\x00\x01\xff")},
		{"topic with U+0000", 0, body("\x00\x02t\x00")},
		{"QoS 3", 6, body("\x00\x01t", "\x00\x07")},
		{"QoS 1 without packet id", 2, body("\x00\x01t", "\x00")},
		{"QoS 1 with packet id 0", 2, body("\x00\x01t", "\x00\x00")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := ParsePublish(tt.flags, tt.in)
			if !errors.Is(err, ErrMalformed) || !cmp.Equal(got, Publish{}) {
				t.Errorf("got %+v, %v; want the zero Publish, ErrMalformed", got, err)
			}
		})
	}
}

func TestAppendPublishHeader_IsAllButThePayload(t *testing.T) {
	t.Parallel()
	p := Publish{QoS: 1, Topic: []byte("a/b"), PacketID: 9, Payload: bytes.Repeat([]byte("x"), 200)}
	whole := AppendPublish(nil, &p)
	head := AppendPublishHeader(nil, &p, len(p.Payload))
	if !bytes.Equal(append(head, p.Payload...), whole) {
		t.Errorf("header %x does not begin the packet %x", head, whole)
	}
}

func TestPublish_DoesNotAllocate(t *testing.T) {
	in := body("\x00\x19devices/d/messages/events", "\x00\x07", "payload")
	buf := make([]byte, 0, 256)
	if n := testing.AllocsPerRun(100, func() {
		p, err := ParsePublish(2, in)
		if err != nil {
			t.Fatal(err)
		}
		buf = AppendPublish(buf[:0], &p)
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func FuzzParsePublish(f *testing.F) {
	f.Add(byte(0), body("\x00\x01t", "hello"))
	f.Add(byte(0xb), body("\x00\x01t", "\x00\x07", "p"))
	f.Fuzz(func(t *testing.T, flags byte, b []byte) {
		flags &= 15
		p, err := ParsePublish(flags, b)
		if err != nil {
			if !cmp.Equal(p, Publish{}) {
				t.Fatalf("%+v with error %v", p, err)
			}
			return
		}
		text := AppendPublish(nil, &p)
		h, n, err := ParseHeader(text, MaxLength)
		if err != nil || h.Flags != flags || !bytes.Equal(text[n:], b) {
			t.Fatalf("%x with flags %x came back as %x, %v", b, flags, text, err)
		}
	})
}

var benchPublish = Publish{
	QoS:      1,
	Topic:    []byte("devices/device-0001/messages/events/%24.ct=application%2Fjson&%24.ce=utf-8"),
	PacketID: 42,
	Payload:  bytes.Repeat([]byte("x"), 512),
}

func BenchmarkParsePublish(b *testing.B) {
	packet := AppendPublish(nil, &benchPublish)
	h, n, err := ParseHeader(packet, MaxLength)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.SetBytes(int64(len(packet)))
	for b.Loop() {
		if _, err := ParsePublish(h.Flags, packet[n:]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendPublish(b *testing.B) {
	buf := AppendPublish(nil, &benchPublish)
	b.ReportAllocs()
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		buf = AppendPublish(buf[:0], &benchPublish)
	}
}

package mqtt

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseSubscribe(t *testing.T) {
	t.Parallel()
	id, subs, err := ParseSubscribe(body("\x00\x07", "\x00\x01#\x01", "\x00\x03a/+\x02"))
	if want := []Subscription{{"#", 1}, {"a/+", 2}}; err != nil || id != 7 || !cmp.Equal(subs, want) {
		t.Errorf("got %d, %v, %v; want 7, %v", id, subs, err, want)
	}
	for _, tt := range []struct {
		name string
		in   []byte
	}{
		{"empty body", nil},
		{"packet id 0", body("\x00\x00", "\x00\x01#\x01")},
		{"no filter", body("\x00\x07")},
		{"empty filter", body("\x00\x07", "\x00\x00\x01")},
		{"cut filter", body("\x00\x07", "\x00\x02#")},
		{"filter with U+0000", body("\x00\x07", "\x00\x01\x00\x01")},
		{"filter that is not UTF-8", body("\x00\x07", "\x00\x01\xff\x01")},
		{"no QoS", body("\x00\x07", "\x00\x01#")},
		{"QoS 3", body("\x00\x07", "\x00\x01#\x03")},
		{"options of MQTT 5", body("\x00\x07", "\x00\x01#\x04")},
		{"second filter cut", body("\x00\x07", "\x00\x01#\x01", "\x00")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if id, subs, err := ParseSubscribe(tt.in); !errors.Is(err, ErrMalformed) || id != 0 || subs != nil {
				t.Errorf("got %d, %v, %v; want ErrMalformed", id, subs, err)
			}
		})
	}
}

func TestParseUnsubscribe(t *testing.T) {
	t.Parallel()
	id, filters, err := ParseUnsubscribe(body("\x00\x07", "\x00\x01#", "\x00\x03a/+"))
	if want := []string{"#", "a/+"}; err != nil || id != 7 || !cmp.Equal(filters, want) {
		t.Errorf("got %d, %v, %v; want 7, %v", id, filters, err, want)
	}
	for _, in := range []string{"", "\x00\x00\x00\x01#", "\x00\x07", "\x00\x07\x00\x00", "\x00\x07\x00\x02#"} {
		if id, filters, err := ParseUnsubscribe([]byte(in)); !errors.Is(err, ErrMalformed) || id != 0 || filters != nil {
			t.Errorf("%x: got %d, %v, %v; want ErrMalformed", in, id, filters, err)
		}
	}
}

func TestParseSuback(t *testing.T) {
	t.Parallel()
	id, codes, err := ParseSuback(body("\x00\x07", "\x00\x01\x02\x80"))
	if err != nil || id != 7 || string(codes) != "\x00\x01\x02\x80" {
		t.Errorf("got %d, %x, %v", id, codes, err)
	}
	for _, in := range []string{"", "\x00\x07", "\x00\x00\x01", "\x00\x07\x03", "\x00\x07\x81"} {
		if id, codes, err := ParseSuback([]byte(in)); !errors.Is(err, ErrMalformed) || id != 0 || codes != nil {
			t.Errorf("%x: got %d, %x, %v; want ErrMalformed", in, id, codes, err)
		}
	}
}

// NX reads the remaining length of these answers as one fixed byte (hub-device §2.8).
func TestAppendSuback_OneFilter(t *testing.T) {
	t.Parallel()
	if got, want := string(AppendSuback(nil, 7, []byte{1})), "\x90\x03\x00\x07\x01"; got != want {
		t.Errorf("SUBACK %x, want %x", got, want)
	}
	if got, want := string(AppendUnsuback(nil, 7)), "\xb0\x02\x00\x07"; got != want {
		t.Errorf("UNSUBACK %x, want %x", got, want)
	}
}

func TestParsePacketID(t *testing.T) {
	t.Parallel()
	if id, err := ParsePacketID([]byte{1, 2}); err != nil || id != 0x102 {
		t.Errorf("got %d, %v; want 258", id, err)
	}
	for _, in := range []string{"", "\x01", "\x00\x00", "\x00\x01\x00"} {
		if id, err := ParsePacketID([]byte(in)); !errors.Is(err, ErrMalformed) || id != 0 {
			t.Errorf("%x: got %d, %v; want ErrMalformed", in, id, err)
		}
	}
}

// FuzzPacketIDBodies reads every body that starts with a packet identifier: what parses, encodes to itself.
func FuzzPacketIDBodies(f *testing.F) {
	f.Add(body("\x00\x07", "\x00\x01#\x01", "\x00\x03a/+\x02"))
	f.Add(body("\x00\x07", "\x00\x01#", "\x00\x03a/+"))
	f.Add(body("\x00\x07", "\x01\x80"))
	f.Add(body("\x00\x07"))
	f.Fuzz(func(t *testing.T, b []byte) {
		check := func(kind string, packet []byte, zero bool, err error) {
			t.Helper()
			if err != nil {
				if !zero {
					t.Fatalf("%s of %x has a result with error %v", kind, b, err)
				}
				return
			}
			if _, n, err := ParseHeader(packet, MaxLength); err != nil || !bytes.Equal(packet[n:], b) {
				t.Fatalf("%s of %x came back as %x, %v", kind, b, packet, err)
			}
		}
		id, subs, err := ParseSubscribe(b)
		check("SUBSCRIBE", AppendSubscribe(nil, id, subs), id == 0 && subs == nil, err)
		id, filters, err := ParseUnsubscribe(b)
		check("UNSUBSCRIBE", AppendUnsubscribe(nil, id, filters), id == 0 && filters == nil, err)
		id, codes, err := ParseSuback(b)
		check("SUBACK", AppendSuback(nil, id, codes), id == 0 && codes == nil, err)
		id, err = ParsePacketID(b)
		check("PUBACK", AppendPuback(nil, id), id == 0, err)
		check("UNSUBACK", AppendUnsuback(nil, id), id == 0, err)
	})
}

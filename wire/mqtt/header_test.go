package mqtt

import (
	"bytes"
	"errors"
	"testing"
)

func TestParseHeader(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		in   []byte
		want Header
		n    int
		err  error
	}{
		{"nothing yet", nil, Header{}, 0, nil},
		{"type only", []byte{0x30}, Header{}, 0, nil},
		{"length unfinished", []byte{0x30, 0xff, 0xff, 0xff}, Header{}, 0, nil},
		{"PINGREQ", []byte{0xc0, 0}, Header{Type: PINGREQ}, 2, nil},
		{"PUBLISH with flags", []byte{0x3b, 5, 'x'}, Header{Type: PUBLISH, Flags: 0xb, Length: 5}, 2, nil},
		{"SUBSCRIBE", []byte{0x82, 0x7f}, Header{Type: SUBSCRIBE, Flags: 2, Length: 127}, 2, nil},
		{"two length bytes", []byte{0x30, 0x80, 0x01}, Header{Type: PUBLISH, Length: 128}, 3, nil},
		{"three length bytes", []byte{0x30, 0x80, 0x80, 0x01}, Header{Type: PUBLISH, Length: 16384}, 4, nil},
		{"four length bytes", []byte{0x30, 0x80, 0x80, 0x80, 0x01}, Header{Type: PUBLISH, Length: 2097152}, 5, nil},
		{"largest within the limit", []byte{0x30, 0xff, 0xff, 0xff, 0x01}, Header{Type: PUBLISH, Length: testLimit}, 5, nil},
		{"one over the limit", []byte{0x30, 0x80, 0x80, 0x80, 0x02}, Header{}, 0, ErrTooLarge},
		{"five length bytes", []byte{0x30, 0x80, 0x80, 0x80, 0x80}, Header{}, 0, ErrMalformed},
		{"type 0", []byte{0x00}, Header{}, 0, ErrMalformed},
		{"type 15", []byte{0xf0, 0}, Header{}, 0, ErrMalformed},
		{"QoS 3", []byte{0x36}, Header{}, 0, ErrMalformed},
		{"CONNECT with flags", []byte{0x11}, Header{}, 0, ErrMalformed},
		{"SUBSCRIBE without its flag", []byte{0x80}, Header{}, 0, ErrMalformed},
		{"UNSUBSCRIBE with DUP", []byte{0xaa}, Header{}, 0, ErrMalformed},
		{"PUBREL without its flag", []byte{0x60}, Header{}, 0, ErrMalformed},
		{"DISCONNECT with flags", []byte{0xe2}, Header{}, 0, ErrMalformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, n, err := ParseHeader(tt.in, testLimit)
			if got != tt.want || n != tt.n || !errors.Is(err, tt.err) {
				t.Errorf("ParseHeader(%x) = %+v, %d, %v; want %+v, %d, %v", tt.in, got, n, err, tt.want, tt.n, tt.err)
			}
		})
	}
}

const testLimit = 4194303 // ff ff ff 01

func TestType_String(t *testing.T) {
	t.Parallel()
	for typ, want := range map[Type]string{CONNECT: "CONNECT", DISCONNECT: "DISCONNECT", 0: "Type(0)", 15: "Type(15)", 255: "Type(255)"} {
		if got := typ.String(); got != want {
			t.Errorf("Type(%d) is called %s, want %s", byte(typ), got, want)
		}
	}
}

func TestAppend_LeavesOutWhatHasNoEncoding(t *testing.T) {
	t.Parallel()
	long := string(bytes.Repeat([]byte("x"), MaxString+1))
	prefix := []byte("before")
	for name, got := range map[string][]byte{
		"client id":      AppendConnect(prefix, &Connect{ClientID: long}),
		"will topic":     AppendConnect(prefix, &Connect{Will: &Will{Topic: long}}),
		"will payload":   AppendConnect(prefix, &Connect{Will: &Will{Payload: []byte(long)}}),
		"user name":      AppendConnect(prefix, &Connect{HasUsername: true, Username: long}),
		"password":       AppendConnect(prefix, &Connect{HasUsername: true, HasPassword: true, Password: []byte(long)}),
		"topic":          AppendPublish(prefix, &Publish{Topic: []byte(long), Payload: []byte("p")}),
		"payload length": AppendPublishHeader(prefix, &Publish{Topic: []byte("t")}, MaxLength),
		"filter":         AppendSubscribe(prefix, 1, []Subscription{{Filter: "a"}, {Filter: long}}),
		"old filter":     AppendUnsubscribe(prefix, 1, []string{"a", long}),
	} {
		if string(got) != "before" {
			t.Errorf("%s too long: %d bytes appended", name, len(got)-len(prefix))
		}
	}
	if got := AppendPublish(nil, &Publish{Topic: []byte(long[1:])}); len(got) != 4+2+MaxString {
		t.Errorf("longest topic gives %d bytes", len(got))
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add([]byte{0x30, 0x80, 0x01}, 1000)
	f.Add([]byte{0x82, 0xff, 0xff, 0xff, 0x7f}, MaxLength)
	f.Add([]byte{0x10}, 0)
	f.Fuzz(func(t *testing.T, b []byte, limit int) {
		h, n, err := ParseHeader(b, limit)
		if err != nil || n == 0 {
			if h != (Header{}) || n != 0 {
				t.Fatalf("ParseHeader(%x) = %+v, %d with error %v", b, h, n, err)
			}
			if err == nil && len(b) >= 5 {
				t.Fatalf("ParseHeader(%x) wants more than five bytes", b)
			}
			return
		}
		if h.Length > limit {
			t.Fatalf("length %d over limit %d", h.Length, limit)
		}
		text, ok := appendHeader(nil, h.Type, h.Flags, h.Length)
		again, _, err := ParseHeader(text, limit)
		if !ok || err != nil || again != h {
			t.Fatalf("%+v appended as %x is %+v, %v", h, text, again, err)
		}
	})
}

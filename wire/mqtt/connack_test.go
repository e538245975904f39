package mqtt

import (
	"errors"
	"testing"
)

func TestParseConnack(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in      string
		present bool
		code    byte
		err     error
	}{
		{"\x00\x00", false, 0, nil},
		{"\x01\x00", true, 0, nil},
		{"\x00\x05", false, 5, nil},
		{"", false, 0, ErrMalformed},
		{"\x00", false, 0, ErrMalformed},
		{"\x02\x00", false, 0, ErrMalformed},
		{"\x00\x84\x00", false, 0, ErrMalformed},
	} {
		present, code, err := ParseConnack([]byte(tt.in))
		if present != tt.present || code != tt.code || !errors.Is(err, tt.err) {
			t.Errorf("ParseConnack(%x) = %v, %d, %v; want %v, %d, %v", tt.in, present, code, err, tt.present, tt.code, tt.err)
		}
	}
}

func TestAppendConnackV5(t *testing.T) {
	t.Parallel()
	const unsupportedVersion = 0x84 // MQTT 5 table 2.6
	if got, want := string(AppendConnackV5(nil, unsupportedVersion)), "\x20\x03\x00\x84\x00"; got != want {
		t.Errorf("got %x, want %x", got, want)
	}
}

func FuzzParseConnack(f *testing.F) {
	f.Add([]byte{1, 0})
	f.Add([]byte{0, 5, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		present, code, err := ParseConnack(b)
		if err != nil {
			if present || code != 0 {
				t.Fatalf("%v, %d with error %v", present, code, err)
			}
			return
		}
		if got := AppendConnack(nil, present, code); string(got[2:]) != string(b) {
			t.Fatalf("%x came back as %x", b, got)
		}
	})
}

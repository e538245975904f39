package mqtt

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// body joins literal parts of a packet body.
func body(parts ...string) []byte { return []byte(strings.Join(parts, "")) }

const mqtt4 = "\x00\x04MQTT\x04"

func TestParseConnect(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		in   []byte
		want Connect
	}{
		{
			"shortest", body(mqtt4, "\x02", "\x00\x00", "\x00\x00"),
			Connect{Protocol: "MQTT", Level: 4, CleanSession: true},
		},
		{
			"device with a token", body(mqtt4, "\xc0", "\x00\xf0", "\x00\x01d", "\x00\x03h/d", "\x00\x03SAS"),
			Connect{Protocol: "MQTT", Level: 4, KeepAlive: 240, ClientID: "d", Username: "h/d", HasUsername: true, Password: []byte("SAS"), HasPassword: true},
		},
		{
			"certificate, no password flag", body(mqtt4, "\x80", "\x00\x3c", "\x00\x01d", "\x00\x03h/d"),
			Connect{Protocol: "MQTT", Level: 4, KeepAlive: 60, ClientID: "d", Username: "h/d", HasUsername: true},
		},
		{
			"certificate, empty password", body(mqtt4, "\xc0", "\x00\x3c", "\x00\x01d", "\x00\x03h/d", "\x00\x00"),
			Connect{Protocol: "MQTT", Level: 4, KeepAlive: 60, ClientID: "d", Username: "h/d", HasUsername: true, Password: []byte{}, HasPassword: true},
		},
		{
			"will", body(mqtt4, "\x2e", "\x00\x3c", "\x00\x01d", "\x00\x01t", "\x00\x02\x00\xff"),
			Connect{Protocol: "MQTT", Level: 4, CleanSession: true, KeepAlive: 60, ClientID: "d", Will: &Will{Topic: "t", Payload: []byte("\x00\xff"), QoS: 1, Retain: true}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseConnect(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			clear(tt.in)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("changed with the body:\n%s", diff)
			}
		})
	}
}

func TestParseConnect_OtherVersions(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		in   []byte
		want Connect
	}{
		{"MQTT 5", body("\x00\x04MQTT\x05", "\x02", "\x00\x3c", "\x00", "\x00\x01d"), Connect{Protocol: "MQTT", Level: 5}},
		{"MQTT 5 cut after the level", body("\x00\x04MQTT\x05"), Connect{Protocol: "MQTT", Level: 5}},
		{"MQTT 3.1", body("\x00\x06MQIsdp\x03", "\x02", "\x00\x3c", "\x00\x01d"), Connect{Protocol: "MQIsdp", Level: 3}},
		{"3.1 name with a newer level", body("\x00\x06MQIsdp\x04", "\x02", "\x00\x3c", "\x00\x01d"), Connect{Protocol: "MQIsdp", Level: 4}},
		{"bridge of Mosquitto", body("\x00\x04MQTT\x84", "\x02", "\x00\x3c", "\x00\x01d"), Connect{Protocol: "MQTT", Level: 0x84}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseConnect(tt.in)
			if !errors.Is(err, ErrVersion) || !cmp.Equal(got, tt.want) {
				t.Errorf("got %+v, %v; want %+v, ErrVersion", got, err, tt.want)
			}
		})
	}
}

func TestParseConnect_Refuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		in   []byte
	}{
		{"empty", nil},
		{"another protocol", body("\x00\x04HTTP\x04", "\x02", "\x00\x3c", "\x00\x01d")},
		{"no level", body("\x00\x04MQTT")},
		{"no flags", body(mqtt4)},
		{"reserved flag", body(mqtt4, "\x03", "\x00\x3c", "\x00\x01d")},
		{"will QoS without will", body(mqtt4, "\x0a", "\x00\x3c", "\x00\x01d")},
		{"will retain without will", body(mqtt4, "\x22", "\x00\x3c", "\x00\x01d")},
		{"will QoS 3", body(mqtt4, "\x1e", "\x00\x3c", "\x00\x01d", "\x00\x01t", "\x00\x00")},
		{"password without user name", body(mqtt4, "\x42", "\x00\x3c", "\x00\x01d", "\x00\x01p")},
		{"no keep alive", body(mqtt4, "\x02", "\x00")},
		{"no client id", body(mqtt4, "\x02", "\x00\x3c")},
		{"cut client id", body(mqtt4, "\x02", "\x00\x3c", "\x00\x02d")},
		{"client id with U+0000", body(mqtt4, "\x02", "\x00\x3c", "\x00\x03d\x00d")},
		{"client id that is not UTF-8", body(mqtt4, "\x02", "\x00\x3c", "\x00\x01\xff")},
		{"client id with a surrogate", body(mqtt4, "\x02", "\x00\x3c", "\x00\x03\xed\xa0\x80")},
		{"no will topic", body(mqtt4, "\x06", "\x00\x3c", "\x00\x01d")},
		{"no will message", body(mqtt4, "\x06", "\x00\x3c", "\x00\x01d", "\x00\x01t")},
		{"no user name", body(mqtt4, "\x82", "\x00\x3c", "\x00\x01d")},
		{"no password", body(mqtt4, "\xc2", "\x00\x3c", "\x00\x01d", "\x00\x01u")},
		{"trailing byte", body(mqtt4, "\x02", "\x00\x3c", "\x00\x01d", "x")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseConnect(tt.in)
			if !errors.Is(err, ErrMalformed) || !cmp.Equal(got, Connect{}) {
				t.Errorf("got %+v, %v; want the zero Connect, ErrMalformed", got, err)
			}
		})
	}
}

func TestAppendConnect_DefaultsToMQTT311(t *testing.T) {
	t.Parallel()
	got := AppendConnect(nil, &Connect{ClientID: "d", CleanSession: true, Username: "not sent"})
	if want := "\x10\x0d" + mqtt4 + "\x02\x00\x00\x00\x01d"; string(got) != want {
		t.Errorf("got %x, want %x", got, want)
	}
}

func FuzzParseConnect(f *testing.F) {
	f.Add(body(mqtt4, "\xee", "\x00\x3c", "\x00\x01d", "\x00\x01t", "\x00\x01m", "\x00\x01u", "\x00\x01p"))
	f.Add(body(mqtt4, "\x02", "\x00\x00", "\x00\x00"))
	f.Add(body("\x00\x04MQTT\x05"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseConnect(b)
		switch {
		case errors.Is(err, ErrVersion):
			if !cmp.Equal(c, Connect{Protocol: c.Protocol, Level: c.Level}) {
				t.Fatalf("%+v with error %v", c, err)
			}
			return
		case err != nil:
			if !cmp.Equal(c, Connect{}) {
				t.Fatalf("%+v with error %v", c, err)
			}
			return
		}
		text := AppendConnect(nil, &c)
		_, n, err := ParseHeader(text, MaxLength)
		if err != nil || string(text[n:]) != string(b) {
			t.Fatalf("%x came back as %x, %v", b, text, err)
		}
	})
}

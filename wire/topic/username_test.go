package topic

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseUsername(t *testing.T) {
	t.Parallel()
	const v = "2021-04-12"
	for _, tt := range []struct {
		name, in string
		want     Username
	}{
		{
			"Node, model id raw and first",
			"hub.example/d/?api-version=2021-04-12&model-id=dtmi:com:example:T;1&DeviceClientType=azure-iot-device%2F1.17.3",
			Username{Host: "hub.example", Device: "d", APIVersion: v, ModelID: "dtmi:com:example:T;1", ClientType: "azure-iot-device/1.17.3"},
		},
		{
			"C, model id encoded",
			"hub.example/d/?api-version=2020-09-30&DeviceClientType=azsdk-c%2F1.5.0&model-id=dtmi%3Acom%3Aexample%3AT%3B1",
			Username{Host: "hub.example", Device: "d", APIVersion: "2020-09-30", ModelID: "dtmi:com:example:T;1", ClientType: "azsdk-c/1.5.0"},
		},
		{
			".NET with auth chain",
			"hub.example/d/m/?api-version=2020-09-30&DeviceClientType=a%20b&auth-chain=d%2Fm%3Bedge%2F%24edgeHub",
			Username{Host: "hub.example", Device: "d", Module: "m", APIVersion: "2020-09-30", ClientType: "a b", AuthChain: "d/m;edge/$edgeHub"},
		},
		{
			"old C, no question mark",
			"hub.example/d/api-version=2016-11-14&DeviceClientType=iothubclient%2F1.1",
			Username{Host: "hub.example", Device: "d", APIVersion: "2016-11-14", ClientType: "iothubclient/1.1"},
		},
		{"documentation, no slash", "hub.example/d?api-version=2021-04-12", Username{Host: "hub.example", Device: "d", APIVersion: v}},
		{"documentation, module and no slash", "hub.example/d/m?api-version=2021-04-12", Username{Host: "hub.example", Device: "d", Module: "m", APIVersion: v}},
		{"bare device", "hub.example/d", Username{Host: "hub.example", Device: "d"}},
		{"bare module", "hub.example/d/m", Username{Host: "hub.example", Device: "d", Module: "m"}},
		{"slash and nothing else", "hub.example/d/", Username{Host: "hub.example", Device: "d"}},
		{"empty parameters", "hub.example/d/?", Username{Host: "hub.example", Device: "d"}},
		{"version not first", "hub.example/d/?DeviceClientType=x&api-version=2021-04-12", Username{Host: "hub.example", Device: "d", ClientType: "x", APIVersion: v}},
		{"unknown parameters", "hub.example/d/?api-version=2021-04-12&x&y=1&", Username{Host: "hub.example", Device: "d", APIVersion: v}},
		{"last of two versions", "hub.example/d/?api-version=1&api-version=2021-04-12", Username{Host: "hub.example", Device: "d", APIVersion: v}},
		{"plus stays", "hub.example/d/?api-version=2021-04-12&DeviceClientType=a+b", Username{Host: "hub.example", Device: "d", APIVersion: v, ClientType: "a+b"}},
		{"broken escape is kept", "hub.example/d/?api-version=2021-04-12&DeviceClientType=100%&model-id=%FF", Username{Host: "hub.example", Device: "d", APIVersion: v, ClientType: "100%", ModelID: "%FF"}},
		{"slash in a raw client type", "hub.example/d/?api-version=2021-04-12&DeviceClientType=py/2.1 (linux/x)", Username{Host: "hub.example", Device: "d", APIVersion: v, ClientType: "py/2.1 (linux/x)"}},
		{"ids of special characters", "h/" + idChars + "/m" + idChars + "/?api-version=2021-04-12", Username{Host: "h", Device: idChars, Module: "m" + idChars, APIVersion: v}},
		{"ids are not decoded", "h/a%2Fb/?api-version=2021-04-12", Username{Host: "h", Device: "a%2Fb", APIVersion: v}},
		{"device that starts with a question mark", "h/?d/?api-version=2021-04-12", Username{Host: "h", Device: "?d", APIVersion: v}},
		{"device that starts with a question mark, bare", "h/?d", Username{Host: "h", Device: "?d"}},
		{"module that starts with a question mark", "h/d/?m/?api-version=2021-04-12", Username{Host: "h", Device: "d", Module: "?m", APIVersion: v}},
		{"device that looks like a version", "h/api-version=1/?api-version=2021-04-12", Username{Host: "h", Device: "api-version=1", APIVersion: v}},
		{"module that looks like a version", "h/d/api-version=1/?api-version=2021-04-12", Username{Host: "h", Device: "d", Module: "api-version=1", APIVersion: v}},
		{"device named registrations", "h/registrations/?api-version=2021-04-12", Username{Host: "h", Device: "registrations", APIVersion: v}},
		{"device named registrations, old C", "h/registrations/api-version=2021-04-12", Username{Host: "h", Device: "registrations", APIVersion: v}},
		{"module of a device named registrations", "h/registrations/m1/?api-version=2021-04-12", Username{Host: "h", Device: "registrations", Module: "m1", APIVersion: v}},
		{"bare module of a device named registrations", "h/registrations/m1", Username{Host: "h", Device: "registrations", Module: "m1"}},
		{
			"DPS",
			"0ne0001/registrations/Reg-1/api-version=2019-03-31",
			Username{DPS: true, IDScope: "0ne0001", RegistrationID: "Reg-1", APIVersion: "2019-03-31"},
		},
		{
			"DPS of Python, encoded client version",
			"0ne0001/registrations/r/api-version=2019-03-31&ClientVersion=py%2F2.0",
			Username{DPS: true, IDScope: "0ne0001", RegistrationID: "r", APIVersion: "2019-03-31", ClientType: "py/2.0"},
		},
		{
			"DPS of C, raw client version",
			"0ne0001/registrations/r/api-version=2019-03-31&ClientVersion=c/1.3 (x/y)",
			Username{DPS: true, IDScope: "0ne0001", RegistrationID: "r", APIVersion: "2019-03-31", ClientType: "c/1.3 (x/y)"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseUsername(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("ParseUsername(%q) (-want +got):\n%s", tt.in, diff)
			}
			if again, err := ParseUsername(got.String()); err != nil || again != got {
				t.Errorf("%q came back from %q as %+v, %v", tt.in, got.String(), again, err)
			}
		})
	}
}

func TestParseUsername_Refuses(t *testing.T) {
	t.Parallel()
	for name, in := range map[string]string{
		"empty":             "",
		"host only":         "hub.example",
		"no host":           "/d/?api-version=1",
		"no device":         "hub.example/",
		"only parameters":   "hub.example/?api-version=1",
		"empty device":      "hub.example//?api-version=1",
		"empty module":      "hub.example/d//?api-version=1",
		"too many segments": "hub.example/d/m/x/?api-version=1",
		"DPS without id":    "0ne/registrations//api-version=1",
		"DPS in other case": "0ne/Registrations/r/x/api-version=1",
		"not UTF-8":         "hub.example/d\xff/?api-version=1",
		"too long":          "hub.example/d/?api-version=1&DeviceClientType=" + strings.Repeat("x", MaxUsername),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, err := ParseUsername(in); !errors.Is(err, ErrUsername) || got != (Username{}) {
				t.Errorf("ParseUsername = %+v, %v; want the zero Username, ErrUsername", got, err)
			}
		})
	}
}

func TestUsername_String(t *testing.T) {
	t.Parallel()
	for want, u := range map[string]Username{
		"hub.example/d/m/?api-version=2021-04-12&DeviceClientType=vauban%2F1%20%28x%29&model-id=dtmi%3Aa%3B1&auth-chain=d%2Fm%3Be": {
			Host: "hub.example", Device: "d", Module: "m", APIVersion: "2021-04-12", ClientType: "vauban/1 (x)", ModelID: "dtmi:a;1", AuthChain: "d/m;e",
		},
		"0ne/registrations/r/api-version=2019-03-31&ClientVersion=vauban%2F1": {
			DPS: true, IDScope: "0ne", RegistrationID: "r", APIVersion: "2019-03-31", ClientType: "vauban/1",
		},
	} {
		if got := u.String(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func FuzzParseUsername(f *testing.F) {
	for _, s := range []string{
		"h/d/?api-version=1&model-id=a%3Bb", "h/d/m?api-version=1", "h/d/api-version=1", "h/registrations/m/?api-version=1",
		"0ne/registrations/r/api-version=1&ClientVersion=a/b", "h/d/?x/?y", "h/d/?api-version=1/2&a=b/c",
		"h/d/?api-version=&model-id=\xef", "h/d/?api-version=&model-id=%ef",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseUsername(s)
		if err != nil {
			if u != (Username{}) {
				t.Fatalf("ParseUsername(%q) = %+v with error %v", s, u, err)
			}
			return
		}
		text := u.String()
		if len(text) > MaxUsername { // escapes made it longer
			return
		}
		if again, err := ParseUsername(text); err != nil || again != u {
			t.Fatalf("%q as %q is %+v, %v; was %+v", s, text, again, err, u)
		}
	})
}

package sas

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestToken_Scope(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, sr, host string
		path           []string
	}{
		{"host", "Hub.Example", "hub.example", nil},
		{"host with port", "localhost:17619", "localhost", nil},
		{"host with trailing slash", "hub/", "hub", nil},
		{"IPv6 with port", "%5B::1%5D:8883/devices", "[::1]", []string{"devices"}},
		{"IPv6 without port", "fe80::1", "fe80::1", nil},
		{"device", "hub%2Fdevices%2FD-1", "hub", []string{"devices", "D-1"}},
		{"lower-case hex", "hub%2fdevices%2fd", "hub", []string{"devices", "d"}},
		{"raw with trailing slash", "hub/devices/d/", "hub", []string{"devices", "d"}},
		{"module", "hub/devices/d/modules/m", "hub", []string{"devices", "d", "modules", "m"}},
		{"encoded twice", "hub%2Fdevices%2Fa%2523b", "hub", []string{"devices", "a%23b"}},
		{"event hub", "sb%3A%2F%2Fhub%3A5671%2Fmessages%2Fevents", "hub", []string{"messages", "events"}},
		{"query after an id", "hub/devices/d?api-version=2016-11-14", "hub", []string{"devices", "d"}},
		{"query in its own segment", "hub/devices/d/?api-version=2016-11-14", "hub", []string{"devices", "d"}},
		{"query after the host", "hub?api-version=2016-11-14", "hub", nil},
		{"version segment", "hub/devices/d/api-version=2016-11-14", "hub", []string{"devices", "d"}},
		{"version segment after the host", "hub/api-version=2016-11-14", "hub", nil},
		{"question mark in an id", "hub%2Fdevices%2Fa%3Fb", "hub", []string{"devices", "a?b"}},
		{"id that looks like a version", "hub/devices/api-version=1", "hub", []string{"devices", "api-version=1"}},
		{"id that looks like a query", "hub/devices/?api-version=1", "hub", []string{"devices", "?api-version=1"}},
		{"module id that looks like a version", "hub/devices/d/modules/api-version=1", "hub", []string{"devices", "d", "modules", "api-version=1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := Token{Resource: tt.sr}.Scope()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(Scope{Host: tt.host, Path: tt.path}, got); diff != "" {
				t.Errorf("scope of %s (-want +got):\n%s", tt.sr, diff)
			}
		})
	}
	for _, sr := range []string{"%", "/devices/d", "https://", "%FF", ":8883"} {
		if got, err := (Token{Resource: sr}).Scope(); !errors.Is(err, ErrMalformed) || got.Host != "" || got.Path != nil {
			t.Errorf("scope of %q = %+v, %v; want ErrMalformed", sr, got, err)
		}
	}
}

func TestScope_Covers(t *testing.T) {
	t.Parallel()
	hosts := []string{"other.example", "Hub.Example"}
	device := []string{"devices", "d"}
	module := []string{"devices", "d", "modules", "m"}
	for _, tt := range []struct {
		name, sr string
		path     []string
		want     bool
	}{
		{"host covers all", "hub.example", module, true},
		{"host covers itself", "hub.example", nil, true},
		{"devices cover a device", "hub.example/devices", device, true},
		{"device covers itself", "HUB.EXAMPLE/devices/d", device, true},
		{"device covers its modules", "hub.example/devices/d", module, true},
		{"module does not cover the device", "hub.example/devices/d/modules/m", device, false},
		{"foreign host", "foreign.example/devices/d", device, false},
		{"host as a prefix only", "hub.example.evil/devices/d", device, false},
		{"id as a prefix only", "hub.example/devices/d", []string{"devices", "d2"}, false},
		{"ids are case-sensitive", "hub.example/devices/D", device, false},
		{"literals are case-sensitive", "hub.example/Devices/d", device, false},
		{"id encoded once", "hub.example%2Fdevices%2Fa%23b", []string{"devices", "a#b"}, true},
		{"id encoded twice", "hub.example%2Fdevices%2Fa%2523b", []string{"devices", "a#b"}, true},
		{"id with a percent sign", "hub.example%2Fdevices%2F50%25", []string{"devices", "50%"}, true},
		{"id with a percent sign encoded twice", "hub.example%2Fdevices%2F50%2525", []string{"devices", "50%"}, true},
		{"id encoded three times", "hub.example%2Fdevices%2Fa%252523b", []string{"devices", "a#b"}, false},
		{"id that looks like a query of its prefix", "hub.example/devices/d%3Fx", device, false},
		{"id that looks like a version does not widen", "hub.example/devices/api-version=1", device, false},
		{"empty segment", "hub.example//devices/d", device, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			scope, err := Token{Resource: tt.sr}.Scope()
			if err != nil {
				t.Fatal(err)
			}
			if got := scope.Covers(hosts, tt.path...); got != tt.want {
				t.Errorf("%+v covers %q = %v, want %v", scope, tt.path, got, tt.want)
			}
		})
	}
	if (Scope{}).Covers([]string{""}) {
		t.Error("the zero scope covers the empty host")
	}
}

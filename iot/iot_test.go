package iot_test

import (
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/bag"
)

func TestValidateID(t *testing.T) {
	t.Parallel()
	for _, ok := range []string{"a", "Lamp-1", strings.Repeat("x", 128), "-.+%_#*?!(),:=@$';", "0"} {
		if err := iot.ValidateID("deviceId", ok); err != nil {
			t.Errorf("%q: %v", ok, err)
		}
	}
	for _, bad := range []string{"", strings.Repeat("x", 129), "a/b", "a b", "ü", "a\x00", "a\n", "a&b", "a\"", "a<", "a\\b", "a|b", "a~"} {
		if err := iot.ValidateID("deviceId", bad); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "deviceId") {
			t.Errorf("%q: got %v, want invalid", bad, err)
		}
	}
}

func TestID_String(t *testing.T) {
	t.Parallel()
	if got := (iot.ID{Device: "d"}).String(); got != "d" {
		t.Errorf("got %q", got)
	}
	if got := (iot.ID{Device: "d", Module: "m"}).String(); got != "d/m" {
		t.Errorf("got %q", got)
	}
}

func TestMatch(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]struct{ same, other bool }{
		"":          {true, true},
		" ":         {true, true},
		"*":         {true, true},
		`"*"`:       {true, true},
		"AAA=":      {true, false},
		`"AAA="`:    {true, false},
		`W/"AAA="`:  {true, false},
		` "AAA=" `:  {true, false},
		`"aaa="`:    {false, false},
		`""`:        {false, false},
		`"AAA=`:     {false, false},
		`AAA=, BBB`: {false, false},
	} {
		m := iot.ParseMatch(header)
		if err := m.Check("AAA="); (err == nil) != want.same || err != nil && !fault.Is(err, fault.PreconditionFailed) {
			t.Errorf("%q against the same tag: %v", header, err)
		}
		if err := m.Check("BBB="); (err == nil) != want.other {
			t.Errorf("%q against another tag: %v", header, err)
		}
	}
}

func TestFormatTime(t *testing.T) {
	t.Parallel()
	east := time.FixedZone("", 3600)
	for want, at := range map[string]time.Time{
		"0001-01-01T00:00:00Z":         {},
		"2026-01-02T03:04:05.0000000Z": time.Date(2026, 1, 2, 4, 4, 5, 0, east),
		"2026-01-02T03:04:05.1234567Z": time.Date(2026, 1, 2, 3, 4, 5, 123456789, time.UTC),
	} {
		if got := iot.FormatTime(at); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestMessage_System(t *testing.T) {
	t.Parallel()
	m := iot.Message{System: []bag.Property{{Name: "content-type", Value: "a"}, {Name: "iothub-interface-id", Value: "URN:azureiot:security:SecurityAgent:1"}}}
	if m.SystemProperty("content-type") != "a" || m.SystemProperty("message-id") != "" || !m.IsSecurity() {
		t.Error("a system property is not found, or a security message not recognised")
	}
	m.System[1].Value = "urn:azureiot:Security:SecurityAgent:10"
	if m.IsSecurity() {
		t.Error("another interface passes for the security one")
	}
}

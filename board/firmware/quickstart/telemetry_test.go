package quickstart

import (
	"encoding/json"
	"math"
	"testing"
)

func TestAppendNumber(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{
		0: "0", 1: "1", -1: "-1", 10: "10", 1.5: "1.5", 1.239: "1.23", -1.239: "-1.23", 0.001: "0", -0.001: "0", math.Copysign(0, -1): "0", 1013.25: "1013.25", 21.0999: "21.09", 1e6: "1000000",
	} {
		if got := string(appendNumber(nil, v)); got != want {
			t.Errorf("%v is %s, want %s", v, got, want)
		}
	}
}

func TestWhole(t *testing.T) {
	t.Parallel()
	if got := whole([3]float64{1.9, -1.9, 40000}); got != [3]float64{1, -1, 32767} {
		t.Errorf("got %v", got)
	}
}

func TestAppendVector(t *testing.T) {
	t.Parallel()
	got := appendVector(nil, "v", [3]float64{1, -2.5, 0})
	if want := `{"vX":1,"vY":-2.5,"vZ":0}`; string(got) != want || !json.Valid(got) {
		t.Errorf("got %s", got)
	}
}

// Whatever a hub sends as an interval, the board takes whole seconds that its timer can count, or refuses.
func FuzzParseInterval(f *testing.F) {
	for _, s := range []string{`{}`, `{"telemetryInterval":5}`, `{"telemetryInterval":null}`, `{"telemetryInterval":{"a":1}}`, `{"TelemetryInterval":5}`, `{"telemetryInterval":-1,"$version":2}`, `[`, `{"telemetryInterval":1e3}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		seconds, given, ok := parseInterval(json.RawMessage(s))
		if ok && (!given || seconds < 1 || seconds > maxInterval) {
			t.Errorf("%s gives %d (given %v)", s, seconds, given)
		}
	})
}

func TestParseInterval(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct {
		seconds   int64
		given, ok bool
	}{
		`{"telemetryInterval":5,"$version":2}`: {5, true, true},
		`{"telemetryInterval":0}`:              {0, true, false},
		`{"telemetryInterval":1.5}`:            {0, true, false},
		`{"telemetryInterval":null}`:           {0, false, false},
		`{"other":5}`:                          {0, false, false},
		`{"TelemetryInterval":5}`:              {0, false, false},
	} {
		if seconds, given, ok := parseInterval(json.RawMessage(text)); seconds != want.seconds || given != want.given || ok != want.ok {
			t.Errorf("%s: %d %v %v", text, seconds, given, ok)
		}
	}
}

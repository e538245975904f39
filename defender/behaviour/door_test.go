package behaviour

import (
	"fmt"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/iot"
)

func TestDoor_TwoPlaces(t *testing.T) {
	t.Parallel()
	const a, b, c = "198.51.100.1:40000", "203.0.113.5:40000", "[2001:db8:9::1]:40000"
	for name, tc := range map[string]struct {
		from  []string
		every time.Duration
		want  int
	}{
		"in turns":               {[]string{a, b, a, b, a}, time.Minute, 1},
		"in turns, on and on":    {[]string{a, b, a, b, a, b, a, b, a}, time.Minute, 2},
		"both try again":         {[]string{a, a, b, b, a, a, b, a}, time.Minute, 1},
		"a new address":          {[]string{a, a, b, b, b, b}, time.Minute, 0},
		"a second line, for now": {[]string{a, b, a}, 5 * time.Minute, 0},
		"seldom":                 {[]string{a, b, a, b, a, b, a}, 11 * time.Minute, 0},
		"on the road":            {[]string{a, b, c, a, b, c, a, b, c}, time.Minute, 0},
		"within a neighbourhood": {[]string{a, "198.51.100.9:1", a, "198.51.100.9:1", a, "198.51.100.9:1"}, time.Minute, 0},
		"no address":             {[]string{"", "x", "", "x", "", "x"}, time.Minute, 0},
	} {
		d := NewDoor()
		found := 0
		for i, from := range tc.from {
			k, ok := d.Connected(iot.ID{Device: "lamp"}, from, start.Add(time.Duration(i)*tc.every))
			if !ok {
				continue
			}
			found++
			if k.Type != alert.TwoPlaces || k.ID.Device != "lamp" || k.Seen == "" || k.Since.After(k.At) {
				t.Errorf("%s: %+v", name, k)
			}
		}
		if found != tc.want {
			t.Errorf("%s: found %d times, want %d", name, found, tc.want)
		}
		d = NewDoor()
		d.Disable([]string{TwoPlaces})
		for i, from := range tc.from {
			if _, ok := d.Connected(iot.ID{Device: "lamp"}, from, start.Add(time.Duration(i)*tc.every)); ok {
				t.Errorf("%s: found although it is off", name)
			}
		}
	}
}

func TestDoor_Stuffing(t *testing.T) {
	t.Parallel()
	const one = "203.0.113.5:40000"
	id := func(i int) string { return fmt.Sprintf("device-%d", i) }
	place := func(i int) string { return fmt.Sprintf("203.%d.113.5:40000", i) }
	for name, tc := range map[string]struct {
		n     int
		id    func(int) string
		from  func(int) string
		every time.Duration
		want  string // device; "-": none; empty: the address
	}{
		"many identities":          {30, id, func(int) string { return one }, time.Second, ""},
		"few identities":           {60, func(i int) string { return id(i % 5) }, func(int) string { return one }, time.Second, "-"},
		"many, over hours":         {60, id, func(int) string { return one }, 3 * time.Minute, "-"},
		"one from many places":     {30, func(int) string { return "lamp" }, place, time.Second, "lamp"},
		"one that lost its key":    {600, func(int) string { return "lamp" }, func(int) string { return one }, time.Second, "-"},
		"two lines and a lost key": {600, func(int) string { return "lamp" }, func(i int) string { return place(i % 2) }, time.Second, "-"},
	} {
		d := NewDoor()
		var found []Knock
		for i := range tc.n {
			found = append(found, d.Refused(tc.id(i), tc.from(i), start.Add(time.Duration(i)*tc.every))...)
		}
		switch {
		case tc.want == "-" && len(found) > 0, tc.want != "-" && (len(found) != 1 || found[0].ID.Device != tc.want || found[0].Type != alert.CredentialStuffing || found[0].Indicator == ""):
			t.Errorf("%s: %+v, want %q", name, found, tc.want)
		}
	}
}

// Who tries without end fills nothing.
func TestDoor_Bounds(t *testing.T) {
	t.Parallel()
	d := NewDoor()
	for i := range 3 * maxKnocks {
		from := fmt.Sprintf("[2001:db8:%x:%x::1]:1", i>>16, i&0xffff)
		d.Refused(fmt.Sprintf("id-%d", i), from, start.Add(time.Duration(i)*time.Millisecond))
	}
	if len(d.addrs) > maxKnocks || len(d.ids) > maxKnocks || d.Lost() == 0 {
		t.Errorf("%d addresses, %d identities, %d lost", len(d.addrs), len(d.ids), d.Lost())
	}
	for i := range maxPlaces + 100 {
		d.Connected(iot.ID{Device: fmt.Sprint(i)}, "198.51.100.1:1", start)
	}
	if len(d.places) > maxPlaces {
		t.Errorf("%d identities", len(d.places))
	}
	if found := d.Refused("late", "198.51.100.7:1", start.Add(time.Hour)); len(found) > 0 || len(d.addrs) > 10 {
		t.Errorf("an hour later %d addresses are still there: %v", len(d.addrs), found)
	}
}

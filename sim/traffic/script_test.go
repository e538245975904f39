package traffic

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// total is what one remote and port had of a device.
type total struct {
	proto  string
	remote netip.AddrPort
	local  uint16
}

// A script has the conversations of which a fleet makes windows, with the same bytes. Bursts are drawn anew, and are as many and as large.
func TestScript_IsWhatWindowsAreMadeOf(t *testing.T) {
	t.Parallel()
	f, err := New(Config{Seed: 7, Attacks: 1, Days: 2})
	if err != nil {
		t.Fatal(err)
	}
	const span = 10 * time.Hour // from the onset: less than to the end of the fleet's days
	for i, p := range f.plans {
		if p.Attack == Guessing {
			continue
		}
		want, windows := map[total][2]float64{}, 0
		burst := p.Attack == Mirai || p.Attack == OldCacheScan || p.Attack == Gafgyt || p.Attack == SYNFlood
		for w := range f.Of(i) {
			if !w.Start.Before(p.Onset.Add(span)) {
				break
			}
			attacked := false
			for j, fl := range w.Flows {
				if w.Labels[j] == "" || burst && fl.BytesIn <= 40 {
					attacked = attacked || w.Labels[j] != ""
					continue
				}
				attacked = true
				k := total{fl.Protocol, fl.Remote, fl.Local.Port()}
				v := want[k]
				want[k] = [2]float64{v[0] + float64(fl.BytesIn), v[1] + float64(fl.BytesOut)}
			}
			if attacked {
				windows++
			}
		}
		s := newScript(f, p)
		got, seen := map[total][2]float64{}, map[time.Duration]bool{}
		last := time.Duration(math.MinInt64)
		for a, ok := s.Next(); ok && a.At < span; a, ok = s.Next() {
			if a.At < last {
				t.Fatalf("%s: an act at %s after one at %s", p.Attack, a.At, last)
			}
			last = a.At
			if a.Visit != nil {
				if a.Visit.Label != p.Attack {
					t.Errorf("%s: a visit of %q", p.Attack, a.Visit.Label)
				}
				continue
			}
			begin := time.Duration(p.onset)*time.Second + a.At
			for at := begin / (seconds * time.Second); at*seconds*time.Second < begin+max(1, a.Lasts); at++ {
				seen[at] = true
			}
			if burst && a.In <= 40 {
				continue
			}
			k := total{a.Protocol, a.Remote, a.Local}
			v := got[k]
			got[k] = [2]float64{v[0] + float64(a.In), v[1] + float64(a.Out)}
		}
		near := cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) <= 300+0.02*max(a, b) }) // windows round, and the last may be half over
		missing := 0
		for k := range maps.Keys(want) { // what lies just at the end may be on one side only
			if _, ok := got[k]; !ok {
				missing++
				delete(want, k)
			}
		}
		for k := range maps.Keys(got) {
			if _, ok := want[k]; !ok {
				missing++
				delete(got, k)
			}
		}
		if d := cmp.Diff(want, got, near, cmp.AllowUnexported(total{})); d != "" {
			t.Errorf("%s (-windows +script):\n%s", p.Attack, d)
		}
		if missing > 2 || math.Abs(float64(len(seen)-windows)) > 3+0.02*float64(windows) {
			t.Errorf("%s: %d windows with the attack and %d in the script, %d conversations on one side only", p.Attack, windows, len(seen), missing)
		}
	}
}

func TestScript_Repeats(t *testing.T) {
	t.Parallel()
	master := netip.MustParseAddr("203.0.113.5")
	write := func(seed uint64) string {
		var b strings.Builder
		for _, a := range Attacks {
			s, err := NewScript(a, seed, master)
			if a == Guessing {
				if err == nil || !strings.Contains(err.Error(), "logins") {
					t.Errorf("guessing: %v", err)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if s.Masters()[0] != master || !s.Masters()[1].IsValid() {
				t.Errorf("%s: masters %v", a, s.Masters())
			}
			n := 0
			for act, ok := s.Next(); ok && n < 300; act, ok = s.Next() {
				if act.At < 0 {
					t.Errorf("%s: an act at %s", a, act.At)
				}
				v := act.Visit
				act.Visit = nil
				fmt.Fprintln(&b, a, act)
				if v != nil {
					fmt.Fprintln(&b, v.At, v.ID, v.Remote, v.Refused)
				}
				n++
			}
			if n == 0 {
				t.Errorf("%s does nothing", a)
			}
		}
		return b.String()
	}
	one := write(5)
	if one != write(5) || one == write(6) {
		t.Error("a script does not follow its seed")
	}
	if _, err := NewScript("stuxnet", 1); err == nil || !strings.Contains(err.Error(), "mirai") {
		t.Errorf("an attack that is none: %v", err)
	}
	if _, err := NewScript(Beacon, 1, master, master, master); err == nil {
		t.Error("three masters")
	}
}

package fleet

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const plant = `duration = "24h"
seed = 7
[[board]]
name = "boiler"
count = 40
drift_ppm = 50
link = "wifi"
[[board]]
name = "camera"
count = 200
[[link]]
name = "wifi"
outage_every = "4h"
outage_lasts = "5m"
[[fault]]
kind = "reset"
every = "6h"
[[fault]]
kind = "network-loss"
boards = ["camera"]
share = 0.5
every = "3h"
lasts = "1m"
[[attack]]
name = "mirai"
boards = ["camera"]
share = 0.2
onset = "1h"
spread = "1h"
[[attack]]
name = "beacon"
boards = ["boiler", "camera"]
count = 3
onset = "2h"
`

func parsed(t *testing.T, text string) *File {
	t.Helper()
	f, err := Parse("plant.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// byID are the boards of a plan without what an entry says of all its boards.
func byID(p *Plan) map[string]Board {
	m := map[string]Board{}
	for _, b := range p.Boards {
		b.Of = nil
		m[b.ID] = b
	}
	return m
}

func TestPlan(t *testing.T) {
	t.Parallel()
	f := parsed(t, plant)
	p := f.Plan()
	if d := cmp.Diff(byID(p), byID(parsed(t, plant).Plan()), cmp.Comparer(func(a, b Board) bool {
		return slices.Equal(a.Events, b.Events) && a.Address == b.Address && a.Seed == b.Seed
	})); d != "" {
		t.Errorf("the same file gives another plan: %s", d)
	}
	if len(p.Boards) != 240 || p.Boards[0].ID != "boiler-0001" || p.Boards[0].Address.String() != "10.16.1.0/16" || p.Boards[40].Address.String() != "10.17.1.0/16" {
		t.Errorf("%d boards; %+v, %+v", len(p.Boards), p.Boards[0], p.Boards[40])
	}
	seen := map[string]bool{}
	resets, losses, lossy, infected, beacons, outages := 0, 0, 0, 0, 0, -1
	for _, b := range p.Boards {
		if a := b.Address.Addr().String(); seen[a] {
			t.Errorf("%s is given twice", a)
		} else {
			seen[a] = true
		}
		if b.DriftPPM < -50 || b.DriftPPM > 50 || (b.DriftPPM == 0) == (b.Of.Name == "boiler") {
			t.Errorf("%s drifts by %v", b.ID, b.DriftPPM)
		}
		own, link := 0, 0
		for _, e := range b.Events {
			switch {
			case e.Kind == Reset:
				resets++
			case e.Link:
				link++
			default:
				own++
			}
			if e.Kind == NetworkLoss && e.Lasts <= 0 {
				t.Errorf("%s: %+v", b.ID, e)
			}
		}
		if b.Of.Name == "boiler" && own > 0 || b.Of.Name == "camera" && link > 0 {
			t.Errorf("%s has %d losses of its own and %d outages", b.ID, own, link)
		}
		if own > 0 {
			losses += own
			lossy++
		}
		if b.Of.Name == "boiler" {
			if outages < 0 {
				outages = link
			} else if outages != link {
				t.Errorf("%s has %d outages of its link, others %d", b.ID, link, outages)
			}
		}
		for _, a := range b.Attacks {
			if a.Name == "beacon" {
				beacons++
				continue
			}
			infected++
			if a.At < time.Hour || a.At > 2*time.Hour || b.Of.Name != "camera" {
				t.Errorf("%s: %+v", b.ID, a)
			}
		}
	}
	// Of 240 boards in a day, by a seed that is fixed: 960, 800 of about 100, 40.
	if resets < 880 || resets > 1040 || lossy < 80 || lossy > 120 || losses < 6*lossy || losses > 10*lossy || infected < 25 || infected > 55 || beacons != 6 || outages < 2 || outages > 12 {
		t.Errorf("%d resets, %d losses of %d boards, %d infected, %d beacons, %d outages", resets, losses, lossy, infected, beacons, outages)
	}
}

// One more board, or one more kind of fault, changes nothing of the others.
func TestPlan_OneMore(t *testing.T) {
	t.Parallel()
	was := byID(parsed(t, plant).Plan())
	equal := cmp.Comparer(func(a, b Board) bool {
		return a.Seed == b.Seed && a.Address == b.Address && a.DriftPPM == b.DriftPPM && slices.Equal(a.Events, b.Events) && slices.Equal(a.Attacks, b.Attacks)
	})
	for name, text := range map[string]string{
		"a board":  strings.Replace(plant, "count = 40", "count = 41", 1),
		"an entry": strings.Replace(plant, "[[link]]", "[[board]]\nname = \"door\"\n[[link]]", 1),
	} {
		is := byID(parsed(t, text).Plan())
		if len(is) != len(was)+1 {
			t.Errorf("%s more: %d boards", name, len(is))
		}
		for id, b := range was {
			if !cmp.Equal(b, is[id], equal) {
				t.Errorf("%s more changed %s", name, id)
			}
		}
	}
	is := byID(parsed(t, plant+"[[fault]]\nkind = \"panic\"\nevery = \"12h\"\n").Plan())
	for id, b := range was {
		rest := is[id]
		rest.Events = nil
		for _, e := range is[id].Events {
			if e.Kind != Panic {
				rest.Events = append(rest.Events, e)
			}
		}
		if !cmp.Equal(b, rest, equal) {
			t.Errorf("panics changed %s", id)
		}
	}
	if other := byID(parsed(t, strings.Replace(plant, "seed = 7", "seed = 8", 1)).Plan()); cmp.Equal(was["camera-0001"], other["camera-0001"], equal) {
		t.Error("another seed gives the same board")
	}
}

package posture

import (
	"cmp"
	"math"
	"slices"

	"github.com/vauban-iot/vauban/defender/alert"
)

// Weight is how many points of 100 a device loses to an active recommendation. Those of one family take the gravest's weight once.
func Weight(s alert.Severity) int {
	switch s {
	case alert.High:
		return 30
	case alert.Medium:
		return 12
	case alert.Low:
		return 4
	}
	return 1
}

// Graver returns the severity that weighs w.
func Graver(w int) alert.Severity {
	for _, s := range []alert.Severity{alert.High, alert.Medium, alert.Low} {
		if w >= Weight(s) {
			return s
		}
	}
	return alert.Informational
}

// Score says how well something is set up, and why. A device begins with 100 points, loses the weight of each active recommendation, and
// has none less than 0. A group has the mean of its devices. The fleet has that, less what the hub's own recommendations weigh.
//
// The arithmetic: Score is 100, less the sum of Takes, plus GivenBack, rounded.
type Score struct {
	Device    string  `json:"deviceId,omitempty"`
	Group     string  `json:"securityGroup,omitempty"`
	Score     int     `json:"score"` // 0 to 100
	Devices   int     `json:"devices"`
	Unhealthy int     `json:"unhealthyDevices"` // with an active recommendation
	Lines     []Line  `json:"lines"`            // what takes most first
	GivenBack float64 `json:"givenBack"`        // nothing has less than 0 points: what was taken beyond
}

// Line is what one type, or family, takes.
type Line struct {
	Type     string         `json:"recommendationType"`
	Severity alert.Severity `json:"severity"`
	Devices  int            `json:"devices"` // that it is active for
	Hub      bool           `json:"hub"`     // the hub itself is what it is active for
	Weight   int            `json:"weight"`  // of its severity
	Takes    float64        `json:"takes"`   // the weights of all its devices, divided by the number of devices; of the hub, the weight
}

// ScoreOf does the arithmetic.
func ScoreOf(of Whole, t Totals) Score {
	s := Score{Device: of.Device, Group: of.Group, Devices: t.Devices, Unhealthy: t.Unhealthy, Lines: []Line{}}
	total, lost := 0.0, 0.0
	for _, y := range t.Tallies {
		l := Line{Type: y.Type, Severity: y.Severity, Devices: y.Devices, Weight: Weight(y.Severity)}
		if y.Devices > 0 && t.Devices > 0 {
			l.Takes = float64(y.Weight) / float64(t.Devices)
			total += l.Takes
			s.Lines = append(s.Lines, l)
		}
		if y.HubTakes > 0 {
			l.Devices, l.Hub, l.Severity, l.Weight, l.Takes = 0, true, Graver(y.HubTakes), y.HubTakes, float64(y.HubTakes)
			total += l.Takes
			lost += l.Takes
			s.Lines = append(s.Lines, l)
		}
	}
	if t.Devices > 0 {
		lost += float64(t.Lost) / float64(t.Devices)
	}
	lost = min(lost, 100)
	s.Score = int(math.Round(100 - lost))
	s.GivenBack = max(total-lost, 0)
	slices.SortFunc(s.Lines, func(a, b Line) int {
		return cmp.Or(cmp.Compare(b.Takes, a.Takes), cmp.Compare(a.Type, b.Type))
	})
	return s
}

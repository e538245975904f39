// Package evaluate measures Defender's detectors on traffic of which it is known what is an attack: how many infected devices are found and
// how soon, and how often honest ones are accused. It feeds the real detectors (package behaviour) on the time of the traffic; nothing waits.
//
// Figures are per device-day: what an operator sees is one alert a device and day (defender §6.2). The detectors have no parameters that a run
// could fit to its data; they are constants of the program.
package evaluate

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"sort"
	"text/tabwriter"
	"time"

	"github.com/vauban-iot/vauban/defender/behaviour"
	"github.com/vauban-iot/vauban/iot"
)

// Report is the outcome of a run.
type Report struct {
	Name      string   `json:"name"`
	Devices   int      `json:"devices"`
	Windows   int      `json:"windows"` // with traffic
	Benign    Benign   `json:"benign"`
	Attacks   []Class  `json:"attacks"`
	Budget    Budget   `json:"budget"`
	Detectors []Source `json:"detectors"`
	// NotFound are infected devices that raised no alert of their attack; at most 50.
	NotFound []string `json:"notFound,omitempty"`
	// False are the false alerts; at most 50.
	False []Accused `json:"falseAlerts,omitempty"`
	Notes []string  `json:"notes,omitempty"`
	// Unlabelled: the log does not say what is an attack, so that only alerts can be counted.
	Unlabelled bool      `json:"unlabelled,omitempty"`
	Alerts     int       `json:"alerts"`
	Raised     []Accused `json:"raised,omitempty"` // of an unlabelled log: its alerts, at most 50
}

// Benign is what happened on device-days without an attack.
type Benign struct {
	DeviceDays  int     `json:"deviceDays"`
	Alerts      int     `json:"alerts"`
	PerHundred  float64 `json:"alertsPer100DeviceDays"`
	AlertedDays int     `json:"deviceDaysWithAlert"`
}

// Class is one attack.
type Class struct {
	Name       string   `json:"name"`
	Devices    int      `json:"devices"`
	Found      int      `json:"devicesFound"`
	Rate       float64  `json:"detectionRate"`
	DeviceDays int      `json:"deviceDays"`
	FoundDays  int      `json:"deviceDaysFound"`
	Median     Duration `json:"medianTimeToFirstAlert"` // of the found ones, from the attack's first window
	Worst      Duration `json:"longestTimeToFirstAlert"`
	By         []string `json:"alertTypes"` // that were raised, the most frequent first
}

// Duration marshals as text.
type Duration time.Duration

// MarshalText is the duration in words, such as 4m10s.
func (d Duration) MarshalText() ([]byte, error) {
	return []byte(time.Duration(d).Round(time.Second).String()), nil
}

// UnmarshalText undoes MarshalText.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// Budget is what remains when the least sure findings are left out until honest devices raise no more than one alert in a hundred days.
type Budget struct {
	Sureness  int     `json:"sureness"` // of the least sure finding that stays
	False     int     `json:"falseAlerts"`
	True      int     `json:"trueAlerts"`
	Precision float64 `json:"precision"`
	Rate      float64 `json:"detectionRate"` // of infected devices
}

// Source is one detector.
type Source struct {
	Name  string `json:"name"`
	True  int    `json:"trueAlerts"`
	False int    `json:"falseAlerts"`
}

// Accused is a false alert.
type Accused struct {
	Device    string    `json:"device"`
	At        time.Time `json:"at"`
	Detector  string    `json:"detector"`
	Type      string    `json:"alertType"`
	Indicator string    `json:"indicator"`
	Seen      string    `json:"seen"`
}

// dayKey is a device-day.
type dayKey struct{ device, day string }

// dayOf is what is known of a device-day.
type dayOf struct {
	labels map[string]time.Time // attacks, and when each began
	alerts []alerted
}

type alerted struct {
	f behaviour.Finding
	// attack is whose the alert is: raised at or after the first window of one. Empty: nobody's.
	attack string
}

// alertKey is what makes alerts one (package alert).
type alertKey struct{ device, day, kind, indicator string }

// Meter collects what detectors find, and what there was to find. Its memory grows with device-days and alerts, not with traffic.
type Meter struct {
	days    map[dayKey]*dayOf
	first   map[string]map[string]time.Time // the first window of an attack, by device
	seen    map[alertKey]int                // the sureness of those that count
	windows int
	devices map[string]struct{}
}

// NewMeter returns an empty one.
func NewMeter() *Meter {
	return &Meter{days: map[dayKey]*dayOf{}, first: map[string]map[string]time.Time{}, seen: map[alertKey]int{}, devices: map[string]struct{}{}}
}

// Window notes that a device had traffic, and of which attacks.
func (m *Meter) Window(device string, at time.Time, labels ...string) {
	m.windows++
	m.devices[device] = struct{}{}
	d := m.day(device, at)
	for _, l := range labels {
		if l == "" {
			continue
		}
		if d.labels == nil {
			d.labels = map[string]time.Time{}
		}
		if _, ok := d.labels[l]; !ok {
			d.labels[l] = at
		}
		all := m.first[device]
		if all == nil {
			all = map[string]time.Time{}
			m.first[device] = all
		}
		if _, ok := all[l]; !ok {
			all[l] = at
		}
	}
}

func (m *Meter) day(device string, at time.Time) *dayOf {
	k := dayKey{device, at.UTC().Format(time.DateOnly)}
	d := m.days[k]
	if d == nil {
		d = &dayOf{}
		m.days[k] = d
	}
	return d
}

// Found notes findings of a device. Those that the alert store would make one count once.
func (m *Meter) Found(device string, found ...behaviour.Finding) {
	for _, f := range found {
		d := m.day(device, f.At)
		k := alertKey{device, f.At.UTC().Format(time.DateOnly), f.Type, f.Indicator}
		if _, ok := m.seen[k]; ok {
			continue
		}
		m.seen[k] = f.Sureness
		f.Flow, f.Items = nil, nil
		a := alerted{f: f}
		var began time.Time
		for l, t := range m.first[device] {
			// An alert a moment before the label of its window is of the same window.
			if !f.At.Before(t) && (a.attack == "" || t.After(began) || t.Equal(began) && l < a.attack) {
				a.attack, began = l, t
			}
		}
		d.alerts = append(d.alerts, a)
	}
}

// Expect says which alert types show an attack; nil: any does.
type Expect func(attack string) []string

// Report adds everything up.
func (m *Meter) Report(name string, expect Expect) Report {
	r := Report{Name: name, Devices: len(m.devices), Windows: m.windows, Attacks: []Class{}, Detectors: []Source{}}
	fits := func(attack, kind string) bool {
		if expect == nil {
			return true
		}
		types := expect(attack)
		return len(types) == 0 || slices.Contains(types, kind)
	}
	keys := slices.SortedFunc(maps.Keys(m.days), func(a, b dayKey) int { return cmp.Or(cmp.Compare(a.day, b.day), cmp.Compare(a.device, b.device)) })
	classes := map[string]*Class{}
	latencies := map[string][]time.Duration{}
	by := map[string]map[string]int{}
	hits := map[string]map[string]time.Time{} // device -> attack -> first alert
	sources := map[string]*Source{}
	var wrong, right []int // sureness of alerts
	sureOf := map[string]int{}
	for _, k := range keys {
		d := m.days[k]
		honest := len(d.labels) == 0 && !m.infected(k.device, k.day)
		if honest {
			r.Benign.DeviceDays++
			if len(d.alerts) > 0 {
				r.Benign.AlertedDays++
			}
		}
		for _, a := range d.alerts {
			s := sources[a.f.Detector]
			if s == nil {
				s = &Source{Name: a.f.Detector}
				sources[a.f.Detector] = s
			}
			if a.attack == "" {
				s.False++
				wrong = append(wrong, a.f.Sureness)
				if honest {
					r.Benign.Alerts++
				}
				if len(r.False) < 50 {
					r.False = append(r.False, Accused{k.device, a.f.At, a.f.Detector, a.f.Type, a.f.Indicator, a.f.Seen})
				}
				continue
			}
			s.True++
			right = append(right, a.f.Sureness)
			for attack, began := range m.first[k.device] {
				if a.f.At.Before(began) || !fits(attack, a.f.Type) {
					continue
				}
				if by[attack] == nil {
					by[attack] = map[string]int{}
				}
				by[attack][a.f.Type]++
				if hits[k.device] == nil {
					hits[k.device] = map[string]time.Time{}
				}
				if t, ok := hits[k.device][attack]; !ok || a.f.At.Before(t) {
					hits[k.device][attack] = a.f.At
				}
				sureOf[k.device] = max(sureOf[k.device], a.f.Sureness)
			}
		}
		for attack := range d.labels {
			c := classes[attack]
			if c == nil {
				c = &Class{Name: attack}
				classes[attack] = c
			}
			c.DeviceDays++
			if slices.ContainsFunc(d.alerts, func(a alerted) bool { return a.attack != "" && fits(attack, a.f.Type) }) {
				c.FoundDays++
			}
		}
	}
	infected := 0
	for _, device := range slices.Sorted(maps.Keys(m.first)) {
		infected++
		for attack, began := range m.first[device] {
			c := classes[attack]
			c.Devices++
			if at, ok := hits[device][attack]; ok {
				c.Found++
				latencies[attack] = append(latencies[attack], max(0, at.Sub(began)))
			} else if len(r.NotFound) < 50 {
				r.NotFound = append(r.NotFound, device+" "+attack)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(classes)) {
		c := classes[name]
		c.Rate = ratio(c.Found, c.Devices)
		if l := latencies[name]; len(l) > 0 {
			slices.Sort(l)
			c.Median, c.Worst = Duration(l[len(l)/2]), Duration(l[len(l)-1])
		}
		c.By = slices.Collect(maps.Keys(by[name]))
		sort.Slice(c.By, func(i, j int) bool {
			x, y := c.By[i], c.By[j]
			return by[name][x] > by[name][y] || by[name][x] == by[name][y] && x < y
		})
		r.Attacks = append(r.Attacks, *c)
	}
	slices.Sort(r.NotFound)
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		r.Detectors = append(r.Detectors, *sources[name])
		r.Alerts += sources[name].True + sources[name].False
	}
	r.Benign.PerHundred = 100 * ratio(r.Benign.Alerts, r.Benign.DeviceDays)
	r.Budget = budget(wrong, right, r.Benign.DeviceDays)
	found := 0
	for _, sure := range sureOf {
		if sure >= r.Budget.Sureness {
			found++
		}
	}
	r.Budget.Rate = ratio(found, infected)
	return r
}

// infected reports whether the device's attack began on that day or before it: what it does then is no longer honest.
func (m *Meter) infected(device, day string) bool {
	for _, t := range m.first[device] {
		if t.UTC().Format(time.DateOnly) <= day {
			return true
		}
	}
	return false
}

// budget finds the least sureness that keeps false alerts within one in a hundred honest device-days.
func budget(wrong, right []int, days int) Budget {
	b := Budget{Sureness: 1}
	for ; b.Sureness <= 100; b.Sureness++ {
		b.False = 0
		for _, s := range wrong {
			if s >= b.Sureness {
				b.False++
			}
		}
		if b.False*100 <= days {
			break
		}
	}
	for _, s := range right {
		if s >= b.Sureness {
			b.True++
		}
	}
	b.Precision = ratio(b.True, b.True+b.False)
	return b
}

func ratio(n, of int) float64 {
	if of == 0 {
		return 0
	}
	return float64(n) / float64(of)
}

// Print writes a report for people.
func (r *Report) Print(out io.Writer) error {
	fmt.Fprintf(out, "%s: %d devices, %d windows with traffic\n", r.Name, r.Devices, r.Windows)
	if r.Unlabelled {
		return r.printUnlabelled(out)
	}
	fmt.Fprintf(out, "honest: %d device-days, %d alerts, %.2f per 100 device-days\n", r.Benign.DeviceDays, r.Benign.Alerts, r.Benign.PerHundred)
	fmt.Fprintf(out, "at most 1 false alert per 100 device-days (sureness from %d): %d true and %d false alerts, precision %.3f, %.1f %% of infected devices found\n",
		r.Budget.Sureness, r.Budget.True, r.Budget.False, r.Budget.Precision, 100*r.Budget.Rate)
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ATTACK\tDEVICES\tFOUND\tRATE\tDAYS\tFOUND\tMEDIAN\tLONGEST\tBY")
	for _, c := range r.Attacks {
		fmt.Fprintf(w, "%s\t%d\t%d\t%.1f %%\t%d\t%d\t%s\t%s\t%s\n", c.Name, c.Devices, c.Found, 100*c.Rate, c.DeviceDays, c.FoundDays,
			time.Duration(c.Median).Round(time.Second), time.Duration(c.Worst).Round(time.Second), first(c.By, 3))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w, "DETECTOR\tTRUE\tFALSE")
	for _, d := range r.Detectors {
		fmt.Fprintf(w, "%s\t%d\t%d\n", d.Name, d.True, d.False)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, n := range r.Notes {
		fmt.Fprintln(out, n)
	}
	return nil
}

// printUnlabelled writes which alerts there were.
func (r *Report) printUnlabelled(out io.Writer) error {
	fmt.Fprintf(out, "%d alerts\n", r.Alerts)
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "AT\tDEVICE\tALERT\tSEEN")
	for _, a := range r.Raised {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", a.At.Format(time.DateTime), a.Device, a.Type, a.Seen)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, n := range r.Notes {
		fmt.Fprintln(out, n)
	}
	return nil
}

func first(all []string, n int) string {
	text := ""
	for i, s := range all[:min(n, len(all))] {
		if i > 0 {
			text += ", "
		}
		text += s
	}
	return text
}

// identity is the device of a name.
func identity(name string) iot.ID { return iot.ID{Device: name} }

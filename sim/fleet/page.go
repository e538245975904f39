package fleet

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"span": span, "count": grouped, "ms": func(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) }, "factor": factor, "size": size, "rate": func(v float64) string { return grouped(uint64(v)) },
	"uint": func(n int) uint64 { return uint64(n) }, "firstLine": func(s string) int { return max(strings.IndexByte(s+"\n", 10), 0) },
}).Parse(pageText))

// maxRows bounds the boards and alerts that the page lists; the JSON has all boards.
const maxRows = 300

// view is what the page shows.
type view struct {
	*Report
	Plots   []plot
	Noted   []BoardDid // boards of which there is something to tell
	Omitted int        // of them
	Shown   []Seen
}

// HTML writes the report as one page that needs nothing else: no scripts, no fonts, no other file.
func (r *Report) HTML(w io.Writer) error {
	v := view{Report: r, Plots: r.plots()}
	for _, b := range r.Fleet.Each {
		if b.Crashes > 0 || len(b.Attacks) > 0 || b.Stopped != "" || b.Resets > 0 || b.Failed > 0 || b.Log != nil && b.Log.Failed > 0 {
			v.Noted = append(v.Noted, b)
		}
	}
	if v.Omitted = len(v.Noted) - maxRows; v.Omitted > 0 {
		v.Noted = v.Noted[:maxRows]
	} else {
		v.Omitted = 0
	}
	v.Shown = r.Run.Alerts[:min(len(r.Run.Alerts), maxRows)]
	return page.Execute(w, v)
}

// plot is a drawing of numbers over the boards' time.
type plot struct {
	Title string
	Unit  string
	Lines []line
	SVG   template.HTML
}

type line struct {
	Name   string
	Values []float64
}

func floats(vs []uint64) []float64 {
	fs := make([]float64, len(vs))
	for i, v := range vs {
		fs[i] = float64(v)
	}
	return fs
}

func (r *Report) plots() []plot {
	s := &r.Fleet.Series
	per := "in each " + span(s.Step)
	ps := []plot{
		{Title: "Messages", Unit: per, Lines: []line{{Name: "acknowledged", Values: floats(s.Messages)}}},
		{Title: "Connects", Unit: per, Lines: []line{{Name: "connects", Values: floats(s.Connects)}}},
		{Title: "Resets and crashes", Unit: per, Lines: []line{{Name: "resets", Values: floats(s.Resets)}}},
	}
	if len(r.Run.Latencies) > 0 {
		l := plot{Title: "Acknowledgement", Unit: "milliseconds of this machine", Lines: []line{{Name: "median"}, {Name: "99th percentile"}}}
		for _, x := range r.Run.Latencies {
			l.Lines[0].Values = append(l.Lines[0].Values, x.P50)
			l.Lines[1].Values = append(l.Lines[1].Values, x.P99)
		}
		ps = append(ps, l)
	}
	end := r.Fleet.Duration
	for i := range ps {
		ps[i].SVG = ps[i].draw(end)
	}
	if p, ok := r.timeline(end); ok {
		ps = append(ps, p)
	}
	return ps
}

// Sizes of a drawing, in its own units; it is scaled to the page.
const (
	width   = 480
	height  = 170
	left    = 44
	right   = 8
	top     = 10
	bottom  = 24
	rowHigh = 26
)

// draw makes bars of one line, and lines of several.
func (p *plot) draw(end float64) template.HTML {
	var s strings.Builder
	most := 0.0
	for _, l := range p.Lines {
		for _, v := range l.Values {
			most = max(most, v)
		}
	}
	most = ceiling(most)
	open(&s, height, p.Title)
	w, h := float64(width-left-right), float64(height-top-bottom)
	for i := range 3 {
		y := float64(top) + h*float64(2-i)/2
		fmt.Fprintf(&s, `<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/><text class="axis" x="%d" y="%.1f" text-anchor="end">%s</text>`,
			left, width-right, y, y, left-6, y+4, short(most*float64(i)/2))
	}
	axis(&s, height, left, end)
	for n, l := range p.Lines {
		if len(l.Values) == 0 {
			continue
		}
		step := w / float64(len(l.Values))
		if len(p.Lines) == 1 {
			for i, v := range l.Values {
				if v > 0 {
					fmt.Fprintf(&s, `<rect class="c%d" x="%.1f" y="%.1f" width="%.2f" height="%.1f"/>`, n, left+step*float64(i), top+h*(1-v/most), max(step-0.6, 0.4), h*v/most)
				}
			}
			continue
		}
		fmt.Fprintf(&s, `<polyline class="s%d" points="`, n)
		for i, v := range l.Values {
			fmt.Fprintf(&s, "%.1f,%.1f ", left+step*(float64(i)+0.5), top+h*(1-v/most))
		}
		s.WriteString(`"/>`)
	}
	s.WriteString("</svg>")
	return template.HTML(s.String()) // made of numbers and escaped texts
}

// timeline has a row for each attack: its onsets, and the first alert of each board.
func (r *Report) timeline(end float64) (plot, bool) {
	if len(r.Run.Detections) == 0 || end <= 0 {
		return plot{}, false
	}
	var s strings.Builder
	high := top + bottom + rowHigh*len(r.Run.Detections)
	open(&s, high, "Attacks and alerts")
	const begin = 100 // after the names
	axis(&s, high, begin, end)
	x := func(at float64) float64 { return begin + (width-begin-right)*min(max(at/end, 0), 1) }
	for row, d := range r.Run.Detections {
		y := float64(top + rowHigh*row + rowHigh/2)
		fmt.Fprintf(&s, `<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/><text class="axis" x="%d" y="%.1f">%s</text>`, begin, width-right, y, y, 0, y+4, template.HTMLEscapeString(d.Attack))
		for _, b := range r.Fleet.Each {
			for _, a := range b.Attacks {
				if a.Name == d.Attack {
					fmt.Fprintf(&s, `<path class="onset" d="M%.1f %.1fv10"/>`, x(a.At), y-5)
				}
			}
		}
		found := map[string]bool{}
		for _, a := range r.Run.Alerts {
			if a.Attack == d.Attack && !found[a.Device] {
				found[a.Device] = true
				fmt.Fprintf(&s, `<circle class="alert" cx="%.1f" cy="%.1f" r="4"><title>%s: %s</title></circle>`, x(a.At), y, template.HTMLEscapeString(a.Device), template.HTMLEscapeString(a.Title))
			}
		}
	}
	s.WriteString("</svg>")
	return plot{Title: "Attacks", Unit: "strokes: a board begins; dots: its first alert", SVG: template.HTML(s.String())}, true // as above
}

func open(s *strings.Builder, high int, title string) {
	fmt.Fprintf(s, `<svg viewBox="0 0 %d %d" role="img" aria-label="%s">`, width, high, template.HTMLEscapeString(title))
}

func axis(s *strings.Builder, high int, from, end float64) {
	for i := range 5 {
		x := from + (width-from-right)*float64(i)/4
		anchor := [...]string{"start", "middle", "middle", "middle", "end"}[i]
		fmt.Fprintf(s, `<text class="axis" x="%.1f" y="%d" text-anchor="%s">%s</text>`, x, high-6, anchor, span(end*float64(i)/4))
	}
}

// ceiling is the next number of the form 1, 2 or 5 times a power of ten.
func ceiling(v float64) float64 {
	if v <= 0 {
		return 1
	}
	p := math.Pow(10, math.Floor(math.Log10(v)))
	for _, f := range []float64{1, 2, 5} {
		if v <= f*p {
			return f * p
		}
	}
	return 10 * p
}

func short(v float64) string {
	switch {
	case v >= 1e6:
		return strconv.FormatFloat(v/1e6, 'f', -1, 64) + " M"
	case v >= 1e4:
		return strconv.FormatFloat(v/1e3, 'f', -1, 64) + " k"
	}
	return strconv.FormatFloat(v, 'f', -1, 64)
}

// span is a number of seconds for people: two units at most.
func span(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	for _, u := range []struct {
		of, next   time.Duration
		name, then string
	}{{24 * time.Hour, time.Hour, "d", "h"}, {time.Hour, time.Minute, "h", "m"}, {time.Minute, time.Second, "m", "s"}} {
		if d < u.of {
			continue
		}
		d = d.Round(u.next)
		text := fmt.Sprint(int(d/u.of), u.name)
		if rest := d % u.of / u.next; rest > 0 {
			text += fmt.Sprint(" ", int(rest), u.then)
		}
		return text
	}
	if d >= time.Second {
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(10 * time.Microsecond).String()
}

func factor(v float64) string {
	if v >= 10 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'f', 1, 64)
}

func size(v uint64) string { return strconv.FormatFloat(float64(v)/(1<<20), 'f', 0, 64) + " MB" }

// grouped writes a number with thin gaps between thousands.
func grouped(v uint64) string {
	s := strconv.FormatUint(v, 10)
	var parts []string
	for len(s) > 3 {
		parts = append(parts, s[len(s)-3:])
		s = s[:len(s)-3]
	}
	parts = append(parts, s)
	slices.Reverse(parts)
	return strings.Join(parts, " ")
}

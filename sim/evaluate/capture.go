package evaluate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/vauban-iot/vauban/defender/behaviour"
	"github.com/vauban-iot/vauban/wire/connlog"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Capture is a log of connections on which detectors are run.
type Capture struct {
	Name string
	Log  io.Reader
	// Hosts are the devices that are watched; nil: the private address that began most connections.
	Hosts []netip.Addr
	All   bool   // watch all private addresses instead, at most 1000
	Dir   string // of temporary files; empty: the system's
	// Progress hears how far reading is, every million lines; may be nil.
	Progress func(lines, broken int)
}

const (
	progressLines = 1_000_000
	maxHosts      = 1000   // watched in one capture
	maxCandidates = 65_536 // addresses that are counted to find the host
)

// Run evaluates captures, each with detectors that know nothing yet, and all together.
type Run struct {
	total    *Meter
	captures int
	labelled bool
}

// NewRun returns a run without captures.
func NewRun() *Run { return &Run{total: NewMeter()} }

// Total reports on all captures so far.
func (r *Run) Total() Report {
	t := r.total.Report("all captures", nil)
	if !r.labelled {
		t.unlabel()
	}
	return t
}

// Captures is how many were evaluated.
func (r *Run) Captures() int { return r.captures }

// Capture evaluates one log. A broken line is left out and counted in the notes.
func (r *Run) Capture(ctx context.Context, c Capture) (Report, error) {
	in, err := connlog.NewReader(c.Log)
	if err != nil {
		return Report{}, fmt.Errorf("%s: %w", c.Name, err)
	}
	s := newSpool(c.Dir)
	defer s.close()
	broken, foreign, count := 0, 0, 0
	firstBroken := ""
	seen := make(map[netip.Addr]int)
	for {
		rec, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if lines := in.Lines(); lines%progressLines == 0 {
			if c.Progress != nil {
				c.Progress(lines, broken)
			}
		}
		if in.Lines()%10_000 == 0 && ctx.Err() != nil {
			return Report{}, ctx.Err()
		}
		if e, ok := errors.AsType[*connlog.LineError](err); ok {
			if broken++; broken == 1 {
				firstBroken = e.Error()
			}
			continue
		}
		if err != nil {
			return Report{}, fmt.Errorf("read %s: %w", c.Name, err)
		}
		ok, err := s.add(&rec)
		if err != nil {
			return Report{}, err
		}
		if !ok {
			foreign++
			continue
		}
		count++
		if a := rec.Orig.Addr(); local(a) && (len(seen) < maxCandidates || seen[a] > 0) {
			seen[a]++
		}
		if a := rec.Resp.Addr(); c.All && local(a) && len(seen) < maxCandidates {
			seen[a] += 0
		}
	}
	if count == 0 {
		return Report{}, fmt.Errorf("%s: none of %d lines is a connection that can be read; %s", c.Name, in.Lines(), cmp.Or(firstBroken, "it is empty"))
	}
	hosts := c.hosts(seen)
	if len(hosts) == 0 {
		return Report{}, fmt.Errorf("%s: no private address begins a connection in it; name the device with --host", c.Name)
	}
	m, err := r.watch(ctx, c.Name, s, hosts)
	if err != nil {
		return Report{}, err
	}
	r.captures++
	r.labelled = r.labelled || in.Labelled()
	rep := m.Report(c.Name, nil)
	if !in.Labelled() {
		rep.unlabel()
		rep.Notes = append(rep.Notes, "the log has no labels: alerts are neither true nor false")
	}
	rep.Notes = append(rep.Notes, fmt.Sprintf("%d lines, %d of them broken, %d of other protocols", in.Lines(), broken, foreign))
	if broken > 0 {
		rep.Notes = append(rep.Notes, "the first broken one: "+firstBroken)
	}
	if len(hosts) == 1 {
		rep.Notes = append(rep.Notes, "the watched device is "+hosts[0].String())
	}
	return rep, nil
}

// unlabel takes out what only labels could tell.
func (r *Report) unlabel() {
	r.Benign, r.Budget, r.Attacks, r.Detectors = Benign{}, Budget{}, []Class{}, []Source{}
	r.Raised, r.False = r.False, nil
	r.Unlabelled = true
}

// local reports whether an address may be a device's.
func local(a netip.Addr) bool { return a.IsPrivate() && !a.IsMulticast() || a.IsLinkLocalUnicast() }

func (c *Capture) hosts(seen map[netip.Addr]int) []netip.Addr {
	if len(c.Hosts) > 0 {
		return c.Hosts
	}
	all := slices.SortedFunc(maps.Keys(seen), func(a, b netip.Addr) int { return cmp.Or(-cmp.Compare(seen[a], seen[b]), a.Compare(b)) })
	if c.All {
		return all[:min(len(all), maxHosts)]
	}
	if len(all) == 0 || seen[all[0]] == 0 {
		return nil
	}
	return all[:1]
}

// watch runs the detectors over the spooled connections.
func (r *Run) watch(ctx context.Context, name string, s *spool, hosts []netip.Addr) (*Meter, error) {
	m := NewMeter()
	engine := behaviour.NewEngine(behaviour.Config{})
	projectors := make(map[netip.Addr]*projector, len(hosts))
	for _, h := range hosts {
		device, qualified := h.String(), name+" "+h.String()
		projectors[h] = newProjector(h, func(start time.Time, flows []secmsg.Flow, labels []string) error {
			end := start.Add(10 * time.Second)
			m.Window(device, start, labels...)
			r.total.Window(qualified, start, labels...)
			if len(flows) == 0 {
				return nil
			}
			report := secmsg.Report{Agent: "capture", Events: []secmsg.Event{{Name: "NetworkActivity", Time: end, Interval: 10 * time.Second, Flows: flows}}}
			found := engine.Observe(behaviour.Message{From: identity(device), Group: name, Enqueued: end, Report: &report})
			m.Found(device, found...)
			r.total.Found(qualified, found...)
			return nil
		})
	}
	n := 0
	err := s.each(func(v *row) error {
		if n++; n%10_000 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		label := ""
		if v.label != benign {
			label = s.labels[v.label]
		}
		for _, a := range [2]netip.Addr{v.orig.Addr(), v.resp.Addr()} {
			if p := projectors[a]; p != nil {
				if err := p.add(v, label); err != nil {
					return err
				}
			}
			if v.orig.Addr() == v.resp.Addr() {
				break
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, h := range hosts {
		if err := projectors[h].end(); err != nil {
			return nil, err
		}
	}
	return m, nil
}

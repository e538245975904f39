package defender

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// History is the telemetry log for whoever reads it again; see [bus.Log].
type History interface {
	Follow(ctx context.Context, from bus.Start, ready func(), handle func(bus.Entry) error) error
}

// Hindsight says how kept flows are compared with indicators that came later. The flows are those of the telemetry log itself, so nothing is kept
// twice, and no server of a cluster knows more than another; the price is that a pass reads the log.
type Hindsight struct {
	Log  History
	Days int // of flows; the log may keep fewer. Zero: none
	// Sources are the versions of all sources that last brought something new (intel.Engine.Versions).
	Sources func() map[string]string
	// Done and Save keep which of them were compared, over restarts. Done fails with fault.NotFound at first.
	Done func(ctx context.Context) ([]byte, error)
	Save func(ctx context.Context, done []byte) error
	// Pause is from one pass to the next, at least; zero: 5 seconds, and 20 times what the pass took, so that looking back takes a twentieth of
	// one processor at most.
	Pause time.Duration
}

const (
	lookPeriod = time.Second
	minPause   = 5 * time.Second
	rest       = 20
	// idle is how long the log must be silent to be at its end; it hands kept entries over without pause.
	idle = 2 * time.Second
	// stretch is how long a pass works before it rests for twice as long: devices wait for the same processors.
	stretch = 4 * time.Millisecond
	// maxFound is how many alerts are collected before they are raised.
	maxFound = 10_000
)

// LookBack compares the flows of the last days with new indicators whenever there are some, until ctx ends.
func (d *Detector) LookBack(ctx context.Context, h Hindsight) error {
	if h.Days <= 0 {
		return nil
	}
	done := map[string]string{}
	text, err := h.Done(ctx)
	if err == nil {
		err = json.Unmarshal(text, &done)
	}
	if err != nil && !fault.Is(err, fault.NotFound) {
		return fmt.Errorf("read which indicators were compared with kept flows: %w", err)
	}
	tick := time.NewTicker(lookPeriod)
	defer tick.Stop()
	var next time.Time
	var before map[string]string
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := h.Sources()
		// Sources that change at the same time are compared at once, when they rest.
		rests := maps.Equal(now, before)
		before = now
		if !rests || !news(now, done) || time.Now().Before(next) {
			continue
		}
		began := time.Now()
		if err := d.pass(ctx, h); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		pause := h.Pause
		if pause == 0 {
			// The silence at the end of a pass costs nothing.
			pause = max(minPause, rest*(time.Since(began)-idle))
		}
		next, done = time.Now().Add(pause), now
		if text, err = json.Marshal(done); err != nil {
			return err
		}
		if err := h.Save(ctx, text); err != nil {
			return fmt.Errorf("keep which indicators were compared with kept flows: %w", err)
		}
	}
}

// news reports whether a source has something that was not compared.
func news(now, done map[string]string) bool {
	for name, version := range now {
		if done[name] != version {
			return true
		}
	}
	return false
}

var errEnd = errors.New("the end of what is kept")

type finding struct {
	from           iot.ID
	indicator, day string
}

// pass reads the log up to where the detector is.
func (d *Detector) pass(ctx context.Context, h Hindsight) error {
	end, start := d.handled.Load(), d.cfg.Now()
	oldest := start.AddDate(0, 0, -h.Days)
	set := d.cfg.Intel()
	all := make(map[finding]*alert.Alert)
	raised := 0
	raise := func() error {
		for _, a := range all {
			stored, created, err := d.cfg.Alerts.Raise(ctx, *a)
			if err != nil {
				return fmt.Errorf("raise an alert about old traffic: %w", err)
			}
			if created {
				raised++
				d.m.found.Inc()
				d.m.alerts.WithLabelValues("new").Inc()
				d.tell(stored)
			}
		}
		clear(all)
		return nil
	}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	silent := time.AfterFunc(idle, stop)
	defer silent.Stop()
	began := time.Now()
	err := h.Log.Follow(reading, bus.Earliest, nil, func(e bus.Entry) error {
		if worked := time.Since(began); worked > stretch {
			time.Sleep(2 * worked)
			began = time.Now()
		}
		silent.Stop() // raising alerts may take longer
		defer silent.Reset(idle)
		if end != 0 && e.Sequence > end || e.Time.After(start) {
			return errEnd
		}
		if !e.Time.IsZero() && e.Time.Before(oldest) {
			return nil
		}
		// What cannot be read was told of when it came.
		_ = telemetry.Decode(e.Sequence, e.Data, func(m *iot.Message) error {
			if !m.IsEvent() && m.IsSecurity() && !m.Enqueued.Before(oldest) {
				collect(all, set, m)
			}
			return nil
		})
		if len(all) >= maxFound {
			return raise()
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnd) {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := raise(); err != nil {
		return err
	}
	d.m.passes.Inc()
	d.log.Info("kept flows were compared with new indicators", "alerts", raised, "duration", time.Since(start))
	return nil
}

// collect adds what a message has of traffic with a listed address.
func collect(all map[finding]*alert.Alert, set *intel.Set, m *iot.Message) {
	report, err := secmsg.Decode(m.Property(secmsg.Indicator), m.Body)
	if err != nil {
		return
	}
	for _, a := range found(set, m, &report) {
		k := finding{m.From, a.Indicator, a.Day}
		have := all[k]
		if have == nil {
			a.Retro = true
			a.Description += " The indicator is younger than the traffic."
			all[k] = &a
			continue
		}
		have.Merge(a)
	}
}

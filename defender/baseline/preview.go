package baseline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Bounds of a preview.
const (
	MaxPreviewDays = 7 // that the log keeps
	previewTime    = 2 * time.Minute
	previewIdle    = time.Second // after which nothing comes behind the last entry
	maxFindings    = 50_000      // alerts told apart
	maxExamples    = 20
)

// Preview is what a baseline would have raised.
type Preview struct {
	Group    string    `json:"group"`
	Version  int64     `json:"version"` // of the baseline
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	Messages uint64    `json:"messages"` // of devices that are in the group now
	Devices  int       `json:"devices"`  // that sent these
	Alerts   int       `json:"alerts"`
	Alerting int       `json:"alertingDevices"`
	// Types is how many alerts there are of each type, Loudest the devices with most.
	Types   map[string]int `json:"alertTypes"`
	Loudest []Loud         `json:"loudest"`
	// Examples are the first alerts, as they would be raised.
	Examples   []alert.Alert `json:"examples"`
	Unresolved []string      `json:"unresolved,omitempty"` // peers of which no address is given
	// Partial says that time or room ended before the log did.
	Partial bool `json:"partial"`
}

// Loud is a device with the number of its alerts.
type Loud struct {
	Device string `json:"deviceId"`
	Alerts int    `json:"alerts"`
}

var errEnd = errors.New("the end of what is kept")

// Preview judges what the log still has of the last days by the baseline as it stands, and raises nothing. Devices are taken by the group
// they are in now. It reads the log, which takes a while; one runs at a time: fault.Throttled.
func (s *Service) Preview(ctx context.Context, name string, days int) (Preview, error) {
	p := Preview{Group: name, Types: map[string]int{}, Loudest: []Loud{}, Examples: []alert.Alert{}}
	if days < 1 || days > MaxPreviewDays {
		return p, fault.New(fault.Invalid, "days is %d; the log has 1 to %d", days, MaxPreviewDays)
	}
	b, err := s.cfg.Store.Baseline(ctx, name)
	if fault.Is(err, fault.NotFound) {
		return p, none(name)
	}
	if err != nil {
		return p, err
	}
	if b.State == Learning {
		return p, fault.New(fault.PreconditionFailed, "the baseline of %q still learns; propose it first", name)
	}
	if !s.previewing.TryLock() {
		return p, fault.New(fault.Throttled, "another preview reads the log; try again in a minute")
	}
	defer s.previewing.Unlock()
	known, err := s.memoryOf(ctx, name)
	if err != nil {
		return p, err
	}
	now := s.cfg.Now().UTC()
	p.Version, p.From, p.To = b.Version, now.AddDate(0, 0, -days), now
	r := rehearsal{p: &p, team: team{doc: b, judge: compile(&b, &s.cfg.Hub), memory: newMemory()}, alerts: make(map[alert.Key]bool), devices: make(map[string]bool)}
	r.team.memory.Watch.Names = known.Watch.Names // what agents told of names before counts
	p.Unresolved = r.team.judge.unresolved
	reading, stop := context.WithTimeout(ctx, previewTime)
	defer stop()
	silent := time.AfterFunc(previewIdle, stop)
	defer silent.Stop()
	began := time.Now()
	groups := make(map[string]bool) // whether a device is of the group
	err = s.cfg.Log.Follow(reading, bus.Earliest, nil, func(e bus.Entry) error {
		silent.Reset(previewIdle)
		if e.Time.After(now) {
			return errEnd
		}
		if time.Since(began) > previewTime {
			p.Partial = true
			return errEnd
		}
		if !e.Time.IsZero() && e.Time.Before(p.From) {
			return nil
		}
		return s.rehearse(ctx, &r, e, groups)
	})
	if err != nil && !errors.Is(err, errEnd) {
		return p, err
	}
	if ctx.Err() != nil {
		return p, ctx.Err()
	}
	p.Partial = p.Partial || errors.Is(reading.Err(), context.DeadlineExceeded)
	r.finish()
	return p, nil
}

func (s *Service) rehearse(ctx context.Context, r *rehearsal, e bus.Entry, groups map[string]bool) error {
	var messages []iot.Message
	var ask []string
	_ = telemetry.Decode(e.Sequence, e.Data, func(m *iot.Message) error {
		if !m.IsEvent() && !m.Enqueued.Before(r.p.From) && m.Enqueued.Before(r.p.To) {
			messages = append(messages, *m)
			if _, ok := groups[m.From.Device]; !ok {
				groups[m.From.Device] = false
				ask = append(ask, m.From.Device)
			}
		}
		return nil
	})
	if len(ask) > 0 {
		if len(groups) > maxCached {
			clear(groups)
			for i := range messages {
				ask = append(ask, messages[i].From.Device)
			}
		}
		tags, err := s.cfg.Store.SecurityGroups(ctx, ask)
		if err != nil {
			return fmt.Errorf("read the groups of devices: %w", err)
		}
		for _, d := range ask {
			groups[d] = groupOf(tags, d) == r.p.Group
		}
	}
	for i := range messages {
		if groups[messages[i].From.Device] {
			r.message(&messages[i])
		}
	}
	return nil
}

// rehearsal is judging without consequences.
type rehearsal struct {
	team
	p       *Preview
	alerts  map[alert.Key]bool
	devices map[string]bool
}

func (r *rehearsal) message(m *iot.Message) {
	var report *secmsg.Report
	if m.IsSecurity() {
		decoded, err := secmsg.Decode(mti(m), m.Body)
		if err != nil {
			return
		}
		report = &decoded
	}
	r.p.Messages++
	if len(r.devices) < maxFindings {
		r.devices[m.From.Device] = true
	}
	at := m.Enqueued.Unix()
	r.memory.Watch.turn(at, r.close(func(device string, sent uint64, ended int64) { r.add(r.judge.quiet(device, sent, ended)) }))
	found, lost := r.observe(m.From.Device, report, at)
	r.p.Partial = r.p.Partial || lost
	for _, d := range found {
		r.add(r.judge.alert(d, m.From, m.Sequence, m.Enqueued))
	}
}

func (r *rehearsal) add(a alert.Alert) {
	if k := a.Key(); !r.alerts[k] {
		if len(r.alerts) >= maxFindings {
			r.p.Partial = true
			return
		}
		r.alerts[k] = true
		if len(r.p.Examples) < maxExamples {
			a.ID, a.Evidence = "", nil
			a.Explain()
			r.p.Examples = append(r.p.Examples, a)
		}
	}
}

func (r *rehearsal) finish() {
	of := make(map[string]int)
	for k := range r.alerts {
		of[k.Device]++
		r.p.Types[k.Type]++
	}
	r.p.Alerts, r.p.Alerting, r.p.Devices = len(r.alerts), len(of), len(r.devices)
	for device, n := range of {
		r.p.Loudest = append(r.p.Loudest, Loud{device, n})
	}
	slices.SortFunc(r.p.Loudest, func(a, b Loud) int { return cmp.Or(cmp.Compare(b.Alerts, a.Alerts), cmp.Compare(a.Device, b.Device)) })
	r.p.Loudest = r.p.Loudest[:min(len(r.p.Loudest), maxExamples)]
}

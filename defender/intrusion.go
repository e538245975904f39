package defender

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/host"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/internal/nonce"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Judge finds attacks in what an agent says of its device. [host.Engine] is one.
type Judge interface {
	Judge(ctx context.Context, m host.Message) ([]host.Finding, error)
	Again() *host.Engine // with an empty memory, for evidence
}

// Kept is what [Previous] asks of [record.Store].
type Kept interface {
	SecurityEvents(ctx context.Context, f record.Filter) ([]record.Event, error)
}

// maxPrevious is how many events of a name are looked through for one of the same module.
const maxPrevious = 20

// Previous reads the last event of a name from the kept ones: it is host.Config.Previous.
func Previous(store Kept) func(context.Context, iot.ID, string, uint64) (secmsg.Event, bool, error) {
	return func(ctx context.Context, from iot.ID, name string, before uint64) (secmsg.Event, bool, error) {
		all, err := store.SecurityEvents(ctx, record.Filter{Device: from.Device, Name: name, Before: record.Place{Message: before}, Limit: maxPrevious})
		if err != nil {
			return secmsg.Event{}, false, fmt.Errorf("read the last %s of device %s: %w", name, from.Device, err)
		}
		i := slices.IndexFunc(all, func(e record.Event) bool { return e.Module == from.Module && e.Left == 0 })
		if i < 0 {
			return secmsg.Event{}, false, nil
		}
		whole := secmsg.Event{Name: name}
		for _, d := range all[i].Details {
			e, err := secmsg.DecodeDetails(all[i].Form, name, d)
			if err != nil {
				return secmsg.Event{}, false, nil // of an older form: nothing is compared with it
			}
			whole.Payload = append(whole.Payload, e.Payload...)
		}
		return whole, true, nil
	}
}

// intrude makes the alerts of a message about attacks on its device.
func (d *Detector) intrude(ctx context.Context, r *reading) ([]alert.Alert, error) {
	if d.cfg.Host == nil || len(r.report.Events) == 0 {
		return nil, nil
	}
	findings, ok := d.intrusions[r.m.Sequence]
	if !ok {
		var err error
		if findings, err = d.cfg.Host.Judge(ctx, r.judged()); err != nil {
			return nil, err
		}
		d.intrusions[r.m.Sequence] = findings
	}
	return r.intrusions(findings), nil
}

func (r *reading) judged() host.Message {
	return host.Message{From: r.m.From, Sequence: r.m.Sequence, Enqueued: r.m.Enqueued, Report: &r.report}
}

// intrusions makes alerts of findings.
func (r *reading) intrusions(findings []host.Finding) []alert.Alert {
	at := r.m.Enqueued.UTC()
	all := make([]alert.Alert, 0, len(findings))
	for i := range findings {
		f := &findings[i]
		kind := alert.Lookup(f.Type)
		a := alert.Alert{
			ID: nonce.New(), Type: kind.Name, Severity: kind.Severity, Title: kind.Title,
			Description: fmt.Sprintf("Device %s %s.", r.m.From, f.Text), Device: r.m.From.Device, Module: r.m.From.Module,
			Indicator: f.Indicator, Source: f.Source, Day: at.Format(time.DateOnly), Count: f.Count, FirstSeen: at, LastSeen: at, LastMessage: r.m.Sequence,
		}
		for _, item := range f.Items {
			if item[0] < len(r.events) && item[1] < len(r.events[item[0]].Details) {
				a.Add(r.events[item[0]].Evidence(item[1]))
			}
		}
		all = append(all, a)
	}
	return all
}

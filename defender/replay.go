package defender

import (
	"context"
	"fmt"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Replay judges the evidence of an alert by the lists and rules of this moment, and returns what would be raised. It raises nothing.
// Evidence that is no security event is left out.
func (d *Detector) Replay(ctx context.Context, a alert.Alert) ([]alert.Alert, error) {
	var all []alert.Alert
	var judge Judge
	if d.cfg.Host != nil {
		judge = d.cfg.Host.Again()
	}
	places := map[alert.Key]int{}
	for _, e := range a.Evidence {
		if e.Form == "" {
			continue
		}
		event, err := secmsg.DecodeDetails(e.Form, e.Event, e.Details)
		if err != nil {
			return nil, fmt.Errorf("read the evidence of alert %s: %w", a.ID, err)
		}
		r := reading{m: iot.Message{Sequence: e.Message, From: a.Of(), Enqueued: e.Time}, report: secmsg.Report{Events: []secmsg.Event{event}}}
		rules, err := d.rulesOf(ctx, []reading{r})
		if err != nil {
			return nil, err
		}
		r.events = record.Events(&r.m, &r.report)
		seen := append(found(d.cfg.Intel(), &r.m, &r.report), d.judge(&r, rules[a.Device])...)
		if judge != nil {
			findings, err := judge.Judge(ctx, r.judged())
			if err != nil {
				return nil, err
			}
			seen = append(seen, r.intrusions(findings)...)
		}
		for _, f := range seen {
			f.Explain()
			if at, ok := places[f.Key()]; ok {
				all[at].Merge(f)
				continue
			}
			places[f.Key()] = len(all)
			all = append(all, f)
		}
	}
	return all, nil
}

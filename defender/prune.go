package defender

import (
	"context"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/record"
)

const prunePeriod = time.Minute

// pruner remembers how much devices wrote: only who wrote much can have too many events.
type pruner struct {
	mu     sync.Mutex
	counts map[string]int
}

// wrote counts events, large ones as several: what fills the bytes of a device fills its events, too.
func (p *pruner) wrote(device string, events []record.Event) {
	n := len(events)
	for i := range events {
		for _, d := range events[i].Details {
			n += len(d) / (record.MaxBytesOfDevice / record.MaxOfDevice)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.counts == nil {
		p.counts = make(map[string]int)
	}
	p.counts[device] += n
}

// busy returns who wrote a tenth of what one may have, and begins to count them anew. Of others, half is forgotten, so that
// the map holds who is there.
func (p *pruner) busy() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []string
	for device, n := range p.counts {
		if n >= record.MaxOfDevice/10 {
			all = append(all, device)
			n = 0
		}
		if n <= 1 {
			delete(p.counts, device)
		}
	}
	return all
}

// keepBounds forgets events beyond what is kept until ctx ends.
func (d *Detector) keepBounds(ctx context.Context) {
	tick := time.NewTicker(prunePeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			d.pruneOnce(ctx, d.cfg.Now())
		}
	}
}

func (d *Detector) pruneOnce(ctx context.Context, now time.Time) {
	_, err := d.cfg.Alerts.PruneEvents(ctx, now.Add(-record.MaxAge), record.MaxEvents, record.MaxBytes)
	for _, device := range d.prune.busy() {
		if err == nil {
			_, err = d.cfg.Alerts.PruneDevice(ctx, device, record.MaxOfDevice, record.MaxBytesOfDevice)
		}
	}
	if err != nil && ctx.Err() == nil {
		d.log.Warn("old security events are still there; they are removed later", "err", err)
	}
	d.pruneAlerts(ctx, now)
}

func (d *Detector) pruneAlerts(ctx context.Context, now time.Time) {
	old, many, err := d.cfg.Alerts.PruneAlerts(ctx, now.Add(-d.cfg.AlertAge), alert.MaxAlerts)
	d.m.forgotten.WithLabelValues("age").Add(float64(old))
	d.m.forgotten.WithLabelValues("bound").Add(float64(many))
	if many > 0 {
		d.log.Warn("there are more alerts than are kept; the oldest closed ones went first", "gone", many, "kept", alert.MaxAlerts)
	}
	if err != nil && ctx.Err() == nil {
		d.log.Warn("old alerts are still there; they are removed later", "err", err)
	}
}

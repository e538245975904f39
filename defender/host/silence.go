package host

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/nonce"
)

// Silent is how long a device may say nothing (defender §2.1, the older list).
const Silent = 72 * time.Hour

// Quiet is a device, and when the hub heard it or one of its modules last.
type Quiet struct {
	Device string
	Last   time.Time
}

// SilenceStore is what a Watch needs of a store.
type SilenceStore interface {
	// Quiet lists enabled devices that were heard last after after and until until, by their ids, beginning behind from. Those that were
	// never heard are none of them.
	Quiet(ctx context.Context, after, until time.Time, from string, limit int) ([]Quiet, error)
	// Heard tells when enabled devices were heard last. Others are left out.
	Heard(ctx context.Context, devices []string) (map[string]time.Time, error)
	Alerts(ctx context.Context, f alert.Filter) ([]alert.Alert, error)
	Judge(ctx context.Context, id string, v alert.Verdict) (alert.Alert, error)
	Setting(ctx context.Context, name string) ([]byte, error)
	PutSetting(ctx context.Context, name string, value []byte) error
}

// Watch raises an alert when a device fell silent, and resolves it when the device speaks again.
type Watch struct {
	store SilenceStore
	raise func(context.Context, []alert.Alert) error
	log   *slog.Logger
	now   func() time.Time
}

// NewWatch returns a watch; Run lets it look. raise keeps alerts.
func NewWatch(store SilenceStore, raise func(context.Context, []alert.Alert) error, log *slog.Logger) *Watch {
	if log == nil {
		log = slog.Default()
	}
	return &Watch{store, raise, log, time.Now}
}

const (
	silenceSetting = "defender/silence"
	silencePeriod  = 5 * time.Minute
	silencePage    = 1000
	// returning is how long devices have to come back when the servers were away for longer than that.
	returning = time.Hour
)

// looked is how far the watch came.
type looked struct {
	Until time.Time `json:"until"` // devices last heard until then were judged
	At    time.Time `json:"at"`    // when it looked
}

// Run looks every few minutes until ctx ends. One server of a cluster does.
func (w *Watch) Run(ctx context.Context) error {
	var wait time.Time
	if have, err := w.looked(ctx); err != nil {
		return err
	} else if now := w.now(); !have.At.IsZero() && now.Sub(have.At) > returning {
		wait = now.Add(returning)
	}
	tick := time.NewTicker(silencePeriod)
	defer tick.Stop()
	for {
		if err := w.look(ctx, !w.now().Before(wait)); err != nil && ctx.Err() == nil {
			w.log.Warn("silent devices were not looked for; it is tried again", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (w *Watch) looked(ctx context.Context) (l looked, err error) {
	text, err := w.store.Setting(ctx, silenceSetting)
	if fault.Is(err, fault.NotFound) || err == nil && len(text) == 0 {
		return looked{}, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &l)
	}
	if err != nil {
		return looked{}, fmt.Errorf("read how far silent devices were looked for: %w", err)
	}
	return l, nil
}

// look resolves the alerts of devices that spoke and, with raise, tells of those that became silent since the last look.
func (w *Watch) look(ctx context.Context, raise bool) error {
	if err := w.resolve(ctx); err != nil {
		return err
	}
	if !raise {
		return nil
	}
	have, err := w.looked(ctx)
	if err != nil {
		return err
	}
	next := looked{At: w.now(), Until: w.now().Add(-Silent)}
	for from := ""; ; {
		page, err := w.store.Quiet(ctx, have.Until, next.Until, from, silencePage)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			break
		}
		alerts := make([]alert.Alert, len(page))
		for i, q := range page {
			alerts[i] = silent(q)
		}
		if err := w.raise(ctx, alerts); err != nil {
			return err
		}
		if from = page[len(page)-1].Device; len(page) < silencePage {
			break
		}
	}
	text, err := json.Marshal(next)
	if err != nil {
		return err
	}
	return w.store.PutSetting(ctx, silenceSetting, text)
}

// silent is the alert of a device. Its day is the one on which the silence became too long: another silence is another alert.
func silent(q Quiet) alert.Alert {
	kind, due := alert.Lookup(alert.DeviceSilent), q.Last.Add(Silent).UTC()
	facts, err := json.Marshal(map[string]time.Time{"lastActivityTime": q.Last.UTC()})
	if err != nil {
		panic(err) // a time of this age always marshals
	}
	a := alert.Alert{
		ID: nonce.New(), Type: kind.Name, Severity: kind.Severity, Title: kind.Title, Device: q.Device, Indicator: "silence", Source: "hub",
		Description: fmt.Sprintf("Device %s has said nothing for 72 hours: the hub heard it last at %s.", q.Device, q.Last.UTC().Format(time.DateTime)),
		Day:         due.Format(time.DateOnly), Count: 1, FirstSeen: due, LastSeen: due,
	}
	a.Add(alert.Evidence{Time: due, Event: kind.Name, Details: facts})
	return a
}

// resolve ends the alerts of devices that spoke since, or that are gone.
func (w *Watch) resolve(ctx context.Context) error {
	for _, status := range []alert.Status{alert.Open, alert.Suppressed} {
		for before := uint64(0); ; {
			page, err := w.store.Alerts(ctx, alert.Filter{Type: alert.DeviceSilent, Status: status, Before: before, Limit: silencePage})
			if err != nil {
				return err
			}
			if len(page) == 0 {
				break
			}
			before = page[len(page)-1].Sequence
			devices := make([]string, len(page))
			for i := range page {
				devices[i] = page[i].Device
			}
			heard, err := w.store.Heard(ctx, devices)
			if err != nil {
				return err
			}
			for i := range page {
				a := &page[i]
				last, ok := heard[a.Device]
				comment := "The device spoke again at " + last.UTC().Format(time.DateTime) + "."
				if !ok {
					comment = "The device is disabled, or no longer registered."
				} else if !last.After(a.FirstSeen.Add(-Silent)) {
					continue
				}
				_, err := w.store.Judge(ctx, a.ID, alert.Verdict{Status: alert.Resolved, By: "vauban", Comment: comment, Time: w.now()})
				if err != nil && !fault.Is(err, fault.NotFound) && !fault.Is(err, fault.PreconditionFailed) {
					return err
				}
			}
			if len(page) < silencePage {
				break
			}
		}
	}
	return nil
}

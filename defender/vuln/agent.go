package vuln

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/vauban-iot/vauban/defender/vuln/format"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Watcher keeps what agents tell of their devices' software: events SBoM and SystemInformation (defender §1.3, §1.4).
type Watcher struct {
	store Store
	left  prometheus.Counter
}

// NewWatcher makes a watcher. metrics may be nil.
func NewWatcher(store Store, metrics prometheus.Registerer) (*Watcher, error) {
	if store == nil {
		return nil, errors.New("vuln: a watcher needs a store")
	}
	return &Watcher{store, promauto.With(metrics).NewCounter(prometheus.CounterOpts{
		Name: "vauban_vulnerability_parts_left_out_total", Help: "Parts of lists of software that were left out, as too many of their device waited."})}, nil
}

// Reported keeps what a message says. Only a store that fails is an error; the same message may come again.
func (w *Watcher) Reported(ctx context.Context, m *iot.Message, r *secmsg.Report) error {
	var parts []Part
	for i := range r.Events {
		e := &r.Events[i]
		switch e.Name {
		case "SBoM":
			p := Part{ID: m.From, Taken: e.Time, Message: m.Sequence, Ordinal: i, Enqueued: m.Enqueued}
			if p.Taken.IsZero() {
				p.Taken = m.Enqueued
			}
			rows, _ := e.Details()
			for _, row := range rows {
				var v Package
				if json.Unmarshal(row, &v) != nil || v.Name == "" || len(p.Packages) == MaxPackages {
					continue
				}
				v.Distro = "" // the system's: see Resolve
				v.clean()
				p.Packages = append(p.Packages, v)
			}
			parts = append(parts, p)
		case "SystemInformation":
			rows, _ := e.Details()
			for _, row := range rows {
				if distro := distroOf(row); distro != "" {
					if err := w.store.KeepSystem(ctx, System{ID: m.From, Distro: distro, Message: m.Sequence}); err != nil {
						return err
					}
				}
			}
		}
	}
	if len(parts) == 0 {
		return nil
	}
	left, err := w.store.KeepParts(ctx, parts, MaxParts)
	if err == nil {
		w.left.Add(float64(left))
	}
	return err
}

// distroOf reads which distribution and release a device runs, as its package URLs say it: debian-12. Empty: it does not say.
func distroOf(details []byte) string {
	var v struct {
		Dist    string `json:"os_dist"` // schema 3.0
		Version string `json:"os_version"`
		Name    string `json:"OSName"` // JSON 1.0: "Ubuntu", "Debian GNU/Linux", "Linux"
		Release string `json:"OSVersion"`
		Vendor  string `json:"OSVendor"`
	}
	if json.Unmarshal(details, &v) != nil {
		return ""
	}
	if v.Dist != "" && v.Version != "" {
		return format.Clip(strings.ToLower(v.Dist)+"-"+v.Version, 64)
	}
	release := ""
	if first := strings.Fields(v.Release); len(first) > 0 {
		release = first[0]
	}
	if release == "" || release[0] < '0' || release[0] > '9' {
		return ""
	}
	for _, name := range []string{v.Vendor, v.Name} {
		name = strings.ToLower(name)
		for _, d := range []struct{ word, id string }{{"ubuntu", "ubuntu"}, {"raspbian", "raspbian"}, {"debian", "debian"}, {"alpine", "alpine"}, {"rocky", "rocky"},
			{"almalinux", "almalinux"}, {"red hat", "rhel"}, {"azure linux", "azurelinux"}, {"mariner", "mariner"}, {"opensuse leap", "opensuse-leap"}} {
			if strings.Contains(name, d.word) {
				return format.Clip(d.id+"-"+release, 64)
			}
		}
	}
	return ""
}

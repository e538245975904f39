package node

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vauban-iot/vauban/central/api"
	"github.com/vauban-iot/vauban/defender/behaviour"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/storage/sqlstore"
)

// connected hears of every session, beside the detector of listed addresses.
func (s *security) connected(id iot.ID, remote string) {
	if k, found := s.door.Connected(id, remote, s.now()); found {
		s.sentry.Knocked(k)
	}
}

// refused hears who could not prove itself at the hub.
func (s *security) refused(id, remote string) {
	if iot.ValidateID("deviceId", id) != nil {
		return
	}
	for _, k := range s.door.Refused(id, remote, s.now()) {
		s.sentry.Knocked(k)
	}
}

// refusedRegistration hears who could not prove itself to provisioning.
func (s *security) refusedRegistration(id string, from netip.Addr) {
	if from.IsValid() {
		s.refused(id, from.String())
	}
}

// detectors are the switches of the detectors of behaviour.
type detectors struct {
	disabled kept[[]string]
	store    *sqlstore.Store
	apply    func(disabled []string)
}

const detectorsSetting = "defender/detectors"

// detectorSwitches is the setting.
type detectorSwitches struct {
	Disabled []string `json:"disabled"`
}

func newDetectors(n *Node, s *security) *detectors {
	return &detectors{
		store: n.State,
		disabled: kept[[]string]{store: n.State, name: detectorsSetting, parse: func(text []byte) ([]string, error) {
			var v detectorSwitches
			if text == nil {
				return nil, nil
			}
			if err := json.Unmarshal(text, &v); err != nil {
				return nil, fmt.Errorf("setting %s is damaged: %w", detectorsSetting, err)
			}
			return v.Disabled, nil
		}},
		apply: func(disabled []string) {
			s.behaviour.Disable(disabled)
			s.door.Disable(disabled)
		},
	}
}

// Detectors implements api.DetectorStore.
func (d *detectors) Detectors(ctx context.Context) ([]api.Detector, error) {
	disabled, _, err := d.disabled.get(ctx)
	if err != nil {
		return nil, err
	}
	var all []api.Detector
	for _, v := range behaviour.Detectors() {
		all = append(all, api.Detector{Name: v.Name, Title: v.Title, Types: v.Types, Enabled: !slices.Contains(disabled, v.Name)})
	}
	return all, nil
}

// SwitchDetector implements api.DetectorStore.
func (d *detectors) SwitchDetector(ctx context.Context, name string, enabled bool) error {
	if err := behaviour.Check(name); err != nil {
		return err
	}
	var now []string
	err := d.store.UpdateSetting(ctx, detectorsSetting, func(text []byte) ([]byte, error) {
		disabled, err := d.disabled.parse(text)
		if err != nil {
			return nil, err
		}
		now = slices.DeleteFunc(slices.Clone(disabled), func(s string) bool { return s == name })
		if !enabled {
			now = append(now, name)
		}
		slices.Sort(now)
		return json.Marshal(detectorSwitches{now})
	})
	if err != nil {
		return err
	}
	d.disabled.forget()
	d.apply(now)
	return nil
}

// begin puts in force what counts at the start.
func (d *detectors) begin(ctx context.Context) error {
	disabled, _, err := d.disabled.get(ctx)
	if err == nil {
		d.apply(disabled)
	}
	return err
}

// run follows changes that are made on other servers.
func (d *detectors) run(ctx context.Context) error {
	tick := time.NewTicker(routingPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if disabled, _, err := d.disabled.get(ctx); err == nil {
				d.apply(disabled)
			}
		}
	}
}

package evaluate

import (
	"context"
	"fmt"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/behaviour"
	"github.com/vauban-iot/vauban/sim/traffic"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// expected are the alerts that show an attack. Another one on the same device is no detection of it.
var expected = map[traffic.Attack][]string{
	traffic.Mirai: {alert.NetworkScan}, traffic.OldCacheScan: {alert.NetworkScan}, traffic.SlowScan: {alert.NetworkScan}, traffic.PingSweep: {alert.NetworkScan},
	traffic.Gafgyt: {alert.DenialOfService}, traffic.SYNFlood: {alert.DenialOfService},
	traffic.Torii: {alert.Beaconing}, traffic.Beacon: {alert.Beaconing}, traffic.IPv6Beacon: {alert.Beaconing}, traffic.TorPeers: {alert.Beaconing},
	traffic.DNSTunnel: {alert.DNSTunnel}, traffic.Exfiltration: {alert.EgressData}, traffic.Drip: {alert.EgressData},
	traffic.Forward: {alert.PortForwarding}, traffic.Payload: {alert.PayloadDownload}, traffic.OddProtocol: {alert.NewProtocol},
	traffic.Guessing: {alert.BruteForce, alert.BruteForceSucceeded}, traffic.Stuffing: {alert.CredentialStuffing}, traffic.StolenKey: {alert.TwoPlaces},
}

// ExpectSynthetic is the Expect of synthetic traffic.
func ExpectSynthetic(attack string) []string { return expected[traffic.Attack(attack)] }

// maxBatch is how many windows a device that was offline sends in one message.
const maxBatch = 30

// Synthetic runs the detectors over a fleet. Every window goes the way of a message: written as a board writes it, and read as the hub reads it.
func Synthetic(ctx context.Context, f *traffic.Fleet) (Report, error) {
	m := NewMeter()
	engine := behaviour.NewEngine(behaviour.Config{})
	door := behaviour.NewDoor()
	run := runner{m: m, engine: engine}
	n := 0
	for step := range f.Steps() {
		if n++; n%10_000 == 0 && ctx.Err() != nil {
			return Report{}, ctx.Err()
		}
		if v := step.Visit; v != nil {
			run.visit(door, v)
			continue
		}
		if err := run.window(step.Window); err != nil {
			return Report{}, err
		}
	}
	if err := run.flush(); err != nil {
		return Report{}, err
	}
	r := m.Report("synthetic", ExpectSynthetic)
	r.Notes = append(r.Notes, fmt.Sprintf("memory of the detectors: %d bytes per device", engine.Stats().Bytes/int64(max(1, engine.Stats().Devices))))
	return r, nil
}

type runner struct {
	m        *Meter
	engine   *behaviour.Engine
	batch    []*traffic.Window
	body     []byte
	sequence uint64
}

func (r *runner) window(w *traffic.Window) error {
	if len(r.batch) > 0 && (r.batch[0].Device != w.Device || !r.batch[0].Arrives.Equal(w.Arrives) || len(r.batch) == maxBatch) {
		if err := r.flush(); err != nil {
			return err
		}
	}
	r.batch = append(r.batch, w)
	return nil
}

// flush sends the windows that wait: one, or several of a device that was offline.
func (r *runner) flush() error {
	if len(r.batch) == 0 {
		return nil
	}
	d, at := r.batch[0].Device, r.batch[0].Arrives
	logins := false
	for _, w := range r.batch {
		labels := make([]string, 0, 2)
		for _, l := range w.Labels {
			if l != "" && (len(labels) == 0 || labels[len(labels)-1] != string(l)) {
				labels = append(labels, string(l))
			}
		}
		if d.Attack == traffic.Guessing && len(w.Logins) > 0 && !w.Start.Before(d.Onset.Add(-10*time.Second)) {
			labels = append(labels, string(traffic.Guessing))
		}
		r.m.Window(d.ID, w.Start, labels...)
		logins = logins || len(w.Logins) > 0
	}
	r.body = traffic.AppendFlatBuffers(r.body[:0], r.batch...)
	if err := r.message(d, traffic.MTI, at); err != nil {
		return err
	}
	if logins { // boards know nothing of logins; the agents beside them do
		r.body = traffic.AppendJSON(r.body[:0], loginsOnly(r.batch)...)
		if err := r.message(d, "", at); err != nil {
			return err
		}
	}
	r.batch = r.batch[:0]
	return nil
}

func loginsOnly(ws []*traffic.Window) []*traffic.Window {
	var all []*traffic.Window
	for _, w := range ws {
		if len(w.Logins) > 0 {
			all = append(all, &traffic.Window{Device: w.Device, Start: w.Start, Logins: w.Logins})
		}
	}
	return all
}

func (r *runner) message(d *traffic.Device, mti string, at time.Time) error {
	report, err := secmsg.Decode(mti, r.body)
	if err != nil {
		return fmt.Errorf("a synthetic message cannot be read: %w", err)
	}
	r.sequence++
	r.m.Found(d.ID, r.engine.Observe(behaviour.Message{From: identity(d.ID), Group: d.Group, Sequence: r.sequence, Enqueued: at, Report: &report})...)
	return nil
}

// visit tells the door. A stranger's failures are an attack on the device that they are labelled with.
func (r *runner) visit(door *behaviour.Door, v *traffic.Visit) {
	if v.Label != "" {
		r.m.Window(v.Target(), v.At, string(v.Label))
	}
	if !v.Refused {
		if k, found := door.Connected(identity(v.ID), v.Remote.String(), v.At); found {
			r.m.Found(v.ID, k.Finding)
		}
		return
	}
	for _, k := range door.Refused(v.ID, v.Remote.String(), v.At) {
		target := v.Target()
		if k.ID.Device != "" && v.Label == "" {
			target = k.ID.Device
		}
		r.m.Found(target, k.Finding)
	}
}

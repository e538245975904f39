package defender

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/internal/nonce"
	"github.com/vauban-iot/vauban/iot"
)

// connection is one that the hub or the provisioning service saw.
type connection struct {
	id     iot.ID
	remote netip.AddrPort
	at     time.Time
	to     string // what it was with, for people
}

const (
	// maxConnections is how many may wait to be compared; those beyond are counted, for no device waits for a list.
	maxConnections = 4096
	// maxReported is how many alerts of a day are remembered as raised.
	maxReported = 10_000
)

// Connected hears that a device connected from remote, an address with or without a port. It waits for nothing.
func (d *Detector) Connected(id iot.ID, remote string) {
	if ap, err := netip.ParseAddrPort(remote); err == nil {
		d.saw(id, ap.Addr(), "hub")
	}
}

// Provisioned hears that a device proved itself to the provisioning service from an address. It waits for nothing.
func (d *Detector) Provisioned(id iot.ID, from netip.Addr) {
	d.saw(id, from, "provisioning service")
}

func (d *Detector) saw(id iot.ID, from netip.Addr, to string) {
	select {
	// The port is the client's passing one, and no indicator is about those.
	case d.connections <- connection{id, netip.AddrPortFrom(from, 0), d.cfg.Now(), to}:
	default:
		d.m.unseen.Inc()
	}
}

// RunConnections compares the connections of this server until ctx ends.
func (d *Detector) RunConnections(ctx context.Context) error {
	reported := make(map[finding]struct{})
	for {
		var c connection
		select {
		case <-ctx.Done():
			return nil
		case c = <-d.connections:
		}
		hit, ok := d.cfg.Intel().Match(c.remote, c.at)
		if !ok {
			continue
		}
		a := connectionAlert(c, hit)
		k := finding{c.id, a.Indicator, a.Day}
		if _, ok := reported[k]; ok {
			continue
		}
		stored, created, err := d.cfg.Alerts.Raise(ctx, a)
		if err != nil {
			if ctx.Err() == nil {
				d.log.Warn("an alert about a connection was not kept", "device", c.id.Device, "module", c.id.Module, "indicator", a.Indicator, "err", err)
			}
			continue
		}
		if len(reported) >= maxReported {
			clear(reported)
		}
		reported[k] = struct{}{}
		if created {
			d.m.alerts.WithLabelValues("new").Inc()
			d.tell(stored)
		}
	}
}

// connectionAlert has no message of the log: flows of the same day, which have, count on from it.
func connectionAlert(c connection, hit intel.Indicator) alert.Alert {
	at := c.at.UTC()
	return alert.Alert{
		ID: nonce.New(), Type: TiConnection, Severity: severity(hit.Confidence), Title: "Suspicious IP address communication",
		Description: fmt.Sprintf("Device %s connected to the %s from %s, which is on a list of known bad addresses (%s, as %s). "+
			"Someone else may use its credentials, or its own network may have taken part in an attack: find out whose address it is, and change the credentials if in doubt.",
			c.id, c.to, hostOf(c.remote.Addr()), hit.Place(), known(hit)),
		Device: c.id.Device, Module: c.id.Module, Indicator: hit.String(), Source: hit.Place(), Day: at.Format(time.DateOnly),
		Remote: hostOf(c.remote.Addr()), Protocol: "TCP", Direction: "In", Count: 1, FirstSeen: at, LastSeen: at,
	}
}

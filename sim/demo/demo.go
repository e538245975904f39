// Package demo runs a few virtual boards against an installation: they provision
// themselves, send telemetry and security messages, answer methods, and one of them talks
// to an address it should not.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/sim/device"
	"github.com/vauban-iot/vauban/wire/bag"
	"github.com/vauban-iot/vauban/wire/sas"
	"github.com/vauban-iot/vauban/wire/secmsg"
	"github.com/vauban-iot/vauban/wire/topic"
)

// Config says where the boards go.
type Config struct {
	Service  device.Service
	GroupKey []byte     // of a symmetric enrollment group
	Bad      netip.Addr // a listed address for one board to talk to
	Logger   *slog.Logger
}

// boards are the demo's fleet: names and what they measure.
var boards = []struct {
	id      string
	base    float64
	swing   float64
	seconds float64 // of one period
	roams   bool    // talks to the bad address
}{
	{"demo-boiler", 64, 6, 60, false},
	{"demo-cold-room", -18, 1.5, 90, false},
	{"demo-camera", 41, 3, 45, true},
}

// Run keeps the boards alive until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	var wg sync.WaitGroup
	for i := range boards {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := board(ctx, cfg, i); err != nil && ctx.Err() == nil {
					cfg.Logger.Warn("demo board restarts", "device", boards[i].id, "err", err)
				}
				select {
				case <-ctx.Done():
				case <-time.After(2 * time.Second):
				}
			}
		})
	}
	wg.Wait()
	return nil
}

const tokenLife = time.Hour

func board(ctx context.Context, cfg Config, i int) error {
	id := boards[i].id
	key := sas.DeriveKey(cfg.GroupKey, id)
	until := time.Now().Add(tokenLife)
	given, err := cfg.Service.Provision(ctx, id, sas.Sign(cfg.Service.IDScope+"/registrations/"+id, key, until, "registration"))
	if err != nil {
		return fmt.Errorf("provision: %w", err)
	}
	gone := make(chan error, 1)
	c, err := cfg.Service.Connect(ctx, given, "vauban-demo", sas.Sign(cfg.Service.Host+"/devices/"+given, key, until, ""), func(err error) { gone <- err })
	if err != nil {
		return err
	}
	defer c.Disconnect(200)
	if err := device.Wait(ctx, c.Subscribe("$iothub/methods/POST/#", 0, func(c paho.Client, m paho.Message) {
		if r, err := topic.ParseResponse(m.Topic()); err == nil {
			c.Publish(string(topic.AppendMethodResult(nil, 200, r.RID)), 0, false, m.Payload())
		}
	})); err != nil {
		return err
	}
	report := fmt.Appendf(nil, `{"model":"virtual board","period":%g}`, boards[i].seconds)
	if err := device.Wait(ctx, c.Publish(string(topic.AppendTwinPatch(nil, "1")), 0, false, report)); err != nil {
		return err
	}
	return measure(ctx, cfg, i, c, given, gone)
}

// Periods of a board's messages, and when it takes a new token.
const (
	telemetryPeriod = 2 * time.Second
	securityPeriod  = 10 * time.Second
	renewal         = tokenLife * 3 / 4
)

func measure(ctx context.Context, cfg Config, i int, c paho.Client, id string, gone <-chan error) error {
	b := boards[i]
	start := time.Now()
	telemetry := time.NewTicker(telemetryPeriod)
	defer telemetry.Stop()
	security := time.NewTicker(securityPeriod)
	defer security.Stop()
	renew := time.NewTimer(renewal)
	defer renew.Stop()
	events := string(topic.AppendTelemetry(nil, id, ""))
	typed := events + string(bag.Append(nil, []bag.Property{{Name: "$.ct", Value: "application/json"}, {Name: "$.ce", Value: "utf-8"}}))
	flagged := events + string(bag.Append(nil, []bag.Property{{Name: "mti", Value: "2.3-1-0-0"}, {Name: "$.ifid", Value: iot.SecurityInterface}}))
	for first := true; ; first = false {
		t := time.Since(start).Seconds()
		value := b.base + b.swing*math.Sin(2*math.Pi*t/b.seconds) + rand.NormFloat64()*b.swing/20
		body, err := json.Marshal(map[string]float64{"temperature": math.Round(value*100) / 100})
		if err != nil {
			return err
		}
		if err := device.Wait(ctx, c.Publish(typed, 1, false, body)); err != nil {
			return err
		}
		if first {
			if err := device.Wait(ctx, c.Publish(flagged, 1, false, flows(cfg, b.roams))); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-gone:
			return err
		case <-renew.C:
			return errors.New("the token is renewed")
		case <-security.C:
			if err := device.Wait(ctx, c.Publish(flagged, 1, false, flows(cfg, b.roams))); err != nil {
				return err
			}
		case <-telemetry.C:
		}
	}
}

// flows is what the board's security module saw: its own traffic, and for one board a stranger.
func flows(cfg Config, roams bool) []byte {
	fs := []secmsg.Flow{{
		Local: netip.MustParseAddrPort("192.168.1.10:49152"), Remote: netip.MustParseAddrPort("192.168.1.1:8883"),
		Protocol: "TCP", BytesIn: 1200, BytesOut: 3400,
	}}
	if roams {
		fs = append(fs, secmsg.Flow{
			Local: netip.MustParseAddrPort("192.168.1.10:50123"), Remote: netip.AddrPortFrom(cfg.Bad, 4444),
			Protocol: "TCP", BytesIn: 310, BytesOut: 52000,
		})
	}
	return secmsg.AppendFlatBuffers(nil, secmsg.Report{
		Agent: "defender-iot-micro-agent", AgentVersion: "3.5.4",
		Events: []secmsg.Event{{Name: "NetworkActivity", Time: time.Now(), Interval: securityPeriod, Flows: fs}},
	})
}

// Package demo runs a few virtual boards against an installation: they provision
// themselves, send telemetry and security messages, answer methods, and one of them talks
// to an address it should not.
package demo

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/bag"
	"github.com/vauban-iot/vauban/wire/sas"
	"github.com/vauban-iot/vauban/wire/secmsg"
	"github.com/vauban-iot/vauban/wire/topic"
)

// Config says where the boards go.
type Config struct {
	Address  string // mqtts host:port
	Host     string // of provisioning and hub
	IDScope  string
	GroupKey []byte // of a symmetric enrollment group
	TLS      *tls.Config
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
	device, err := provision(ctx, cfg, id, key)
	if err != nil {
		return fmt.Errorf("provision: %w", err)
	}
	gone := make(chan error, 1)
	user := topic.Username{Host: cfg.Host, Device: device, APIVersion: "2021-04-12", ClientType: "vauban-demo"}
	c := paho.NewClient(options(cfg, device, user.String(), sas.Sign(cfg.Host+"/devices/"+device, key, time.Now().Add(tokenLife), "")).
		SetConnectionLostHandler(func(_ paho.Client, err error) { gone <- err }))
	if err := wait(ctx, c.Connect()); err != nil {
		return err
	}
	defer c.Disconnect(200)
	if err := wait(ctx, c.Subscribe("$iothub/methods/POST/#", 0, func(c paho.Client, m paho.Message) {
		if r, err := topic.ParseResponse(m.Topic()); err == nil {
			c.Publish(string(topic.AppendMethodResult(nil, 200, r.RID)), 0, false, m.Payload())
		}
	})); err != nil {
		return err
	}
	report := fmt.Appendf(nil, `{"model":"virtual board","period":%g}`, boards[i].seconds)
	if err := wait(ctx, c.Publish(string(topic.AppendTwinPatch(nil, "1")), 0, false, report)); err != nil {
		return err
	}
	return measure(ctx, cfg, i, c, device, gone)
}

// Periods of a board's messages, and when it takes a new token.
const (
	telemetryPeriod = 2 * time.Second
	securityPeriod  = 10 * time.Second
	renewal         = tokenLife * 3 / 4
)

func measure(ctx context.Context, cfg Config, i int, c paho.Client, device string, gone <-chan error) error {
	b := boards[i]
	start := time.Now()
	telemetry := time.NewTicker(telemetryPeriod)
	defer telemetry.Stop()
	security := time.NewTicker(securityPeriod)
	defer security.Stop()
	renew := time.NewTimer(renewal)
	defer renew.Stop()
	events := string(topic.AppendTelemetry(nil, device, ""))
	typed := events + string(bag.Append(nil, []bag.Property{{Name: "$.ct", Value: "application/json"}, {Name: "$.ce", Value: "utf-8"}}))
	flagged := events + string(bag.Append(nil, []bag.Property{{Name: "mti", Value: "2.3-1-0-0"}, {Name: "$.ifid", Value: iot.SecurityInterface}}))
	for first := true; ; first = false {
		t := time.Since(start).Seconds()
		value := b.base + b.swing*math.Sin(2*math.Pi*t/b.seconds) + rand.NormFloat64()*b.swing/20
		body, err := json.Marshal(map[string]float64{"temperature": math.Round(value*100) / 100})
		if err != nil {
			return err
		}
		if err := wait(ctx, c.Publish(typed, 1, false, body)); err != nil {
			return err
		}
		if first {
			if err := wait(ctx, c.Publish(flagged, 1, false, flows(cfg, b.roams))); err != nil {
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
			if err := wait(ctx, c.Publish(flagged, 1, false, flows(cfg, b.roams))); err != nil {
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

func options(cfg Config, clientID, user, password string) *paho.ClientOptions {
	return paho.NewClientOptions().AddBroker("ssl://" + cfg.Address).SetTLSConfig(cfg.TLS).SetClientID(clientID).
		SetUsername(user).SetPassword(password).SetProtocolVersion(4).SetCleanSession(true).
		SetAutoReconnect(false).SetConnectRetry(false).SetConnectTimeout(10 * time.Second)
}

const answerTimeout = 20 * time.Second

func wait(ctx context.Context, t paho.Token) error {
	select {
	case <-t.Done():
		return t.Error()
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(answerTimeout):
		return errors.New("no answer in time")
	}
}

// provision registers the board and returns the device id it was given (dps §3, §4).
func provision(ctx context.Context, cfg Config, id string, key []byte) (string, error) {
	user := topic.Username{DPS: true, IDScope: cfg.IDScope, RegistrationID: id, APIVersion: "2019-03-31"}
	token := sas.Sign(cfg.IDScope+"/registrations/"+id, key, time.Now().Add(tokenLife), "registration")
	c := paho.NewClient(options(cfg, id, user.String(), token))
	if err := wait(ctx, c.Connect()); err != nil {
		return "", err
	}
	defer c.Disconnect(100)
	answers := make(chan paho.Message, 4)
	if err := wait(ctx, c.Subscribe("$dps/registrations/res/#", 1, func(_ paho.Client, m paho.Message) { answers <- m })); err != nil {
		return "", err
	}
	ask := string(topic.AppendDPSRegister(nil, "1"))
	for {
		if err := wait(ctx, c.Publish(ask, 1, false, `{"registrationId":"`+id+`"}`)); err != nil {
			return "", err
		}
		var m paho.Message
		select {
		case m = <-answers:
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(answerTimeout):
			return "", errors.New("no answer in time")
		}
		r, err := topic.ParseResponse(m.Topic())
		if err != nil {
			return "", err
		}
		var body struct {
			OperationID string `json:"operationId"`
			Status      string `json:"status"`
			State       struct {
				DeviceID string `json:"deviceId"`
			} `json:"registrationState"`
			Message string `json:"message"`
		}
		if err := json.Unmarshal(m.Payload(), &body); err != nil {
			return "", err
		}
		switch {
		case body.Status == "assigned":
			return body.State.DeviceID, nil
		case r.Status != 202:
			return "", fmt.Errorf("refused with %d: %s", r.Status, strings.TrimSpace(body.Message+" "+body.Status))
		}
		ask = string(topic.AppendDPSStatus(nil, "2", body.OperationID))
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(time.Duration(max(r.RetryAfter, 1)) * time.Second):
		}
	}
}

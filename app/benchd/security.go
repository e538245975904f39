package benchd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sync/errgroup"

	"github.com/vauban-iot/vauban/sim/load"
	wire "github.com/vauban-iot/vauban/wire/mqtt"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Security is a run of telemetry beside security messages, as boards send them: a report of four flows and a heartbeat.
type Security struct {
	Telemetry Ingest  `json:"telemetry"`
	Ratio     float64 `json:"p99Ratio"` // of PUBACKs of telemetry: beside security messages, and without
	// Plain is telemetry beside as many messages of the same devices and size that nobody judges: what a machine that is shared with the
	// generator can do at best.
	Plain    Ingest `json:"besidePlainMessages"`
	Messages Ingest `json:"messages"` // the security messages themselves
	// Alerts is the time from sending a flow with a listed address to reading its alert over the API.
	Alerts Timing `json:"alerts"`
	// CaughtUp is how long after the run the last security message was judged, in seconds.
	CaughtUp float64 `json:"caughtUpAfterSeconds"`
}

// fleet are devices of the installation from a number on.
type fleet struct {
	*vauban
	from       int
	properties string // of their messages
}

// asSecurity are the properties by which a hub knows a security message; asPlain are as long.
const (
	asSecurity = "mti=2.3-1-0-0&%24.ifid=urn%3Aazureiot%3ASecurity%3ASecurityAgent%3A1"
	asPlain    = "mti=2.3-1-0-0&kind%2d1=urn%3Aazureiot%3ASecurity%3ASecurityAgent%3A1"
)

func (f fleet) Connect(i int) wire.Connect { return f.vauban.Connect(f.from + i) }

func (f fleet) Topic(i int) string {
	return f.vauban.Topic(f.from+i) + f.properties
}

// report is the message of a board whose flows go to remotes.
func report(remotes ...netip.Addr) []byte {
	e := secmsg.Event{Name: "NetworkActivity", Time: time.Now(), Interval: 10 * time.Second}
	for i, a := range remotes {
		e.Flows = append(e.Flows, secmsg.Flow{
			Local: netip.MustParseAddrPort("192.168.1.10:49152"), Remote: netip.AddrPortFrom(a, 8883), Protocol: "TCP", BytesIn: uint64(100 + i), BytesOut: 300,
		})
	}
	return secmsg.AppendFlatBuffers(nil, secmsg.Report{Agent: "defender-iot-micro-agent", AgentVersion: "3.5.4", Events: []secmsg.Event{
		e, {Name: "Heartbeat", Time: time.Now(), Interval: time.Minute},
	}})
}

// probes is how many alerts are timed, all from one device.
const (
	probes     = 200
	probeEvery = 50 * time.Millisecond
	// alertsEvery is how often the latest alerts are read, and all of them once in wholeList times: what it costs the server is a part of the load.
	alertsEvery = 25 * time.Millisecond
	latest      = 20
	wholeList   = 40
	listName    = "bench.txt"
)

func probed(i int) netip.Addr { return netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}) }

// beside makes the latency run once more, with other messages beside it.
func (v *vauban) beside(ctx context.Context, cfg Config, properties string, also func(context.Context) error) (telemetry, others *load.Result, err error) {
	c := v.load(cfg, cfg.Security)
	c.Target = fleet{v, cfg.Devices, properties}
	c.Body = report(netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("192.168.1.1"), netip.MustParseAddr("198.51.100.3"))
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		telemetry, err = v.half(ctx, cfg)
		return err
	})
	g.Go(func() (err error) {
		others, err = load.Run(ctx, c)
		return err
	})
	g.Go(func() error { return also(ctx) })
	return telemetry, others, g.Wait()
}

// plain makes the latency run beside messages that nobody judges.
func (v *vauban) plain(ctx context.Context, cfg Config) (*load.Result, error) {
	telemetry, _, err := v.beside(ctx, cfg, asPlain, func(context.Context) error { return nil })
	return telemetry, err
}

// security makes the latency run beside security messages.
func (v *vauban) security(ctx context.Context, cfg Config) (*Security, *load.Result, error) {
	var list strings.Builder
	for i := range probes {
		fmt.Fprintln(&list, probed(i))
	}
	if err := os.MkdirAll(filepath.Join(v.data, "intel"), 0o700); err != nil {
		return nil, nil, err
	}
	if err := os.WriteFile(filepath.Join(v.data, "intel", listName), []byte(list.String()), 0o600); err != nil {
		return nil, nil, err
	}
	var out Security
	telemetry, messages, err := v.beside(ctx, cfg, asSecurity, func(ctx context.Context) (err error) {
		time.Sleep(cfg.Warmup)
		out.Alerts, err = v.probe(ctx, 2*cfg.Devices)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	out.Messages = ingest(messages, 0)
	end := time.Now()
	if err := v.caughtUp(ctx, out.Messages.AckedMessages+probes); err != nil {
		return nil, nil, err
	}
	out.CaughtUp = time.Since(end).Seconds()
	return &out, telemetry, nil
}

// probe sends flows with listed addresses, and times their alerts.
func (v *vauban) probe(ctx context.Context, device int) (Timing, error) {
	conns, err := load.Dial(ctx, v.address(), v.tls, fleet{v, device, asSecurity}, 1)
	if err != nil {
		return Timing{}, err
	}
	defer load.CloseAll(conns)
	go io.Copy(io.Discard, conns[0]) //nolint:errcheck // acknowledgements; it ends with the connection
	sent := make([]time.Time, probes)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		tick := time.NewTicker(probeEvery)
		defer tick.Stop()
		topic := []byte(fleet{v, device, asSecurity}.Topic(0))
		for i := range probes {
			body := report(probed(i))
			packet := wire.AppendPublishHeader(nil, &wire.Publish{QoS: 1, PacketID: uint16(i + 1), Topic: topic}, len(body))
			sent[i] = time.Now()
			if _, err := conns[0].Write(append(packet, body...)); err != nil {
				return err
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	h := hdrhistogram.New(1, 600_000_000, 3)
	seen := make(map[string]time.Time)
	g.Go(func() error {
		end := time.Now().Add(5 * time.Minute)
		for n := 1; len(seen) < probes; n++ {
			time.Sleep(alertsEvery)
			if time.Now().After(end) {
				return fmt.Errorf("%d of %d alerts were raised", len(seen), probes)
			}
			var list struct {
				Alerts []struct {
					Indicator string `json:"indicator"`
				} `json:"alerts"`
			}
			limit := latest
			if n%wholeList == 0 {
				limit = probes
			}
			if err := v.api(ctx, fmt.Sprintf("/api/alerts?type=IoT_TiConnection&limit=%d&device=%s", limit, deviceID(device)), &list); err != nil {
				return err
			}
			now := time.Now()
			for _, a := range list.Alerts {
				if _, known := seen[a.Indicator]; !known {
					seen[a.Indicator] = now
				}
			}
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return Timing{}, err
	}
	for i := range probes {
		_ = h.RecordValue(seen[probed(i).String()].Sub(sent[i]).Microseconds()) // within the bounds of the deadline
	}
	return timing(h), nil
}

// caughtUp waits until the detector has read n security messages.
func (v *vauban) caughtUp(ctx context.Context, n uint64) error {
	for end := time.Now().Add(10 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		var read float64
		body, err := v.get(ctx, "/metrics")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(body)) {
			if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && strings.HasPrefix(name, "vauban_defender_messages_total{") {
				f, err := strconv.ParseFloat(value, 64)
				if err != nil {
					return err
				}
				read += f
			}
		}
		switch {
		case uint64(read) >= n:
			return nil
		case time.Now().After(end):
			return fmt.Errorf("of %d security messages %g were read", n, read)
		}
	}
}

func (v *vauban) api(ctx context.Context, path string, into any) error {
	body, err := v.get(ctx, path)
	if err != nil {
		return err
	}
	return json.Unmarshal(body, into)
}

// maxAnswer is how much of an answer is read.
const maxAnswer = 64 << 20

func (v *vauban) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+net.JoinHostPort("127.0.0.1", strconv.Itoa(v.conn.Ports.HTTPS))+path, nil)
	if err != nil {
		return nil, err
	}
	req.Host = v.conn.Hub.Hostname
	req.Header.Set("Authorization", "Bearer "+v.conn.API.Token)
	res, err := v.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err == nil && res.StatusCode != http.StatusOK {
		err = errors.New(path + " was answered " + res.Status + " " + string(body[:min(len(body), 200)]))
	}
	return body, err
}

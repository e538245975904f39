// Package quickstart is the getting-started firmware of ST's discovery kit B-L475E-IOT01A, on the virtual board: it joins the network, asks
// for the time, provisions itself, connects to its hub over MQTT with TLS, speaks the Plug and Play model gsgstml4s5;2 and comes back with
// a growing wait whenever it lost something on the way (rtos §26, central §5).
//
// What it says on the wire, in which order and in which units is as Microsoft's and ST's firmware does, oddities included: pressure
// goes out in hectopascals, magnetic field and acceleration as whole thousandths of gauss and g, rotation in
// thousandths of a degree per second, and the first telemetryInterval is reported as an answer to version 1. What it does better
// stands in docs/divergences.md.
package quickstart

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/board"
	"github.com/vauban-iot/vauban/board/chance"
	"github.com/vauban-iot/vauban/board/firmware"
	"github.com/vauban-iot/vauban/board/network"
	"github.com/vauban-iot/vauban/board/network/secure"
	"github.com/vauban-iot/vauban/board/stm32l475"
	"github.com/vauban-iot/vauban/rtos"
	"github.com/vauban-iot/vauban/sdk/device"
)

// What the firmware says it is.
const (
	Name    = "quickstart"
	Version = "1.0.0"
	Model   = "dtmi:azurertos:devkit:gsgstml4s5;2"
)

// DefaultInterval is between two messages.
const DefaultInterval = 10 * time.Second

// Config describes the firmware of one board. It is not modified after use.
type Config struct {
	Board   *stm32l475.Board // required
	Network network.Stack    // required. Whoever made it closes it, after the board
	Context context.Context  // its end ends whatever the firmware waits for outside of the board; nil: nothing does

	// ConnectionString is the device's at a hub, with its key or x509=true.
	ConnectionString string
	// Registration is how the device finds its hub, when it has no ConnectionString: Host, IDScope and ID, and one of Key, GroupKey
	// and CertificateFile with KeyFile. Its other fields are the firmware's.
	Registration device.Registration
	// Certificate is the device's, in the place of keys and files; nil: none.
	Certificate *tls.Certificate
	// CertificateFile and KeyFile go with a ConnectionString that says x509=true.
	CertificateFile, KeyFile string

	Roots *x509.CertPool // who may vouch for the services; nil: the machine's
	TLS   secure.Profile // what the firmware's TLS can do; zero: secure.Modern

	Interval time.Duration // between messages, in whole seconds, until the twin says otherwise; zero: DefaultInterval

	// Delay is what each request takes besides in virtual time (firmware.Caller); nil: nothing.
	Delay func(n uint64) time.Duration

	// Define creates what else runs on the board, after each reset, when the firmware has created what is its own; nil: nothing.
	Define func(k *rtos.Kernel, d *Device)
	// Event is told what the firmware does, by the board's goroutine: it may call neither the board nor the kernel. nil: nobody.
	Event func(Event)
}

// Firmware is the firmware of one board.
type Firmware struct {
	cfg      Config
	board    *stm32l475.Board
	caller   *firmware.Caller
	device   *Device
	backoffs uint64       // waits after failures, over all resets
	hub, id  string       // as whom it was connected last
	run      *run         // since the last reset
	parts    []board.Part // beside Parts
}

// New checks cfg. The result's Image is to be loaded into the board.
func New(cfg Config) (*Firmware, error) {
	if cfg.Board == nil || cfg.Network == nil {
		return nil, errors.New("quickstart: a Board and a Network are required")
	}
	if (cfg.ConnectionString == "") == (cfg.Registration.IDScope == "") {
		return nil, errors.New("quickstart: the board needs either a connection string or a registration with its id scope, and not both")
	}
	if cfg.Interval == 0 {
		cfg.Interval = DefaultInterval
	}
	if s := cfg.Interval / time.Second; s*time.Second != cfg.Interval || !fits(int64(s)) {
		return nil, fmt.Errorf("quickstart: an interval of %v; it is 1 to %d whole seconds", cfg.Interval, maxInterval)
	}
	if cfg.Context == nil {
		cfg.Context = context.Background()
	}
	f := &Firmware{device: &Device{}, cfg: cfg, board: cfg.Board, caller: firmware.New(cfg.Context, cfg.Board.Board)}
	f.device.firmware = f
	f.caller.Delay = cfg.Delay
	if cfg.ConnectionString != "" {
		if _, err := device.New(f.client(cfg.ConnectionString)); err != nil {
			return nil, fmt.Errorf("quickstart: %w", err)
		}
	}
	return f, nil
}

// client is what every connection has in common.
func (f *Firmware) client(connectionString string) device.Config {
	c := device.Config{
		ConnectionString: connectionString, CertificateFile: f.cfg.CertificateFile, KeyFile: f.cfg.KeyFile,
		TLS: f.tls(), Dial: f.cfg.Network.Dial, ClientType: "vauban-board/" + Version, ModelID: Model, KeepAlive: 240 * time.Second,
		Logger: slog.New(slog.DiscardHandler),
	}
	if r := f.cfg.Registration; c.CertificateFile == "" && r.CertificateFile != "" {
		c.CertificateFile, c.KeyFile = r.CertificateFile, r.KeyFile
	}
	if !f.board.Config().RealTime {
		c.TokenLife = 24 * time.Hour // tokens follow the machine's clock: in a run's time it should not end one
	}
	return c
}

func (f *Firmware) tls() *tls.Config {
	c := f.cfg.TLS.Config(f.cfg.Roots)
	if f.cfg.Certificate != nil {
		c.Certificates = []tls.Certificate{*f.cfg.Certificate}
	}
	return c
}

func (f *Firmware) registration() device.Registration {
	r := f.cfg.Registration
	r.TLS, r.Dial, r.Payload = f.tls(), f.cfg.Network.Dial, json.RawMessage(`{"modelId":"`+Model+`"}`)
	if !f.board.Config().RealTime {
		// The service's seconds are not the board's, whose clock stands still meanwhile: it asks early, then less and less.
		soon := time.Millisecond / 2
		r.Wait = func(asked time.Duration) time.Duration {
			soon *= 2
			return min(soon, asked)
		}
	}
	return r
}

// Parts are what the firmware takes besides the stacks and objects that it creates. The sizes of ThreadX and NetX Duo are the published
// ones, those of the application are estimates. All boards share them: who adds one appends to it.
func Parts() ([]board.Part, error) { return parts() }

var parts = sync.OnceValues(func() ([]board.Part, error) {
	parts, err := board.Published("threadx", "threadx-queue", "threadx-event-flags", "threadx-semaphore", "threadx-mutex", "netx-ip", "netx-tcp", "netx-udp",
		"netx-icmp", "netx-arp", "netx-dhcp", "netx-dns", "netx-sntp", "netx-mqtt", "netx-tls")
	return slices.Clip(append(parts,
		board.Part{Name: "crypto", Flash: 40 << 10, RAM: 8 << 10},
		board.Part{Name: "certificates", Flash: 4 << 10},
		board.Part{Name: "azure_iot", Flash: 48 << 10, RAM: 10 << 10},
		board.Part{Name: "packet pool", RAM: 20 * 1200}, // 20 packets of what the Wi-Fi module takes
		board.Part{Name: "board support", Flash: 32 << 10, RAM: 4 << 10},
		board.Part{Name: "application", Flash: 12 << 10, RAM: 2 << 10},
	)), err
})

// Image is what is to be loaded into the board.
func (f *Firmware) Image() (board.Firmware, error) {
	parts, err := Parts()
	return board.Firmware{Name: Name, Version: Version, Parts: append(parts, f.parts...), Define: f.define}, err
}

// define creates what runs after a reset.
func (f *Firmware) define(k *rtos.Kernel) {
	r := &run{Firmware: f, k: k, interval: f.cfg.Interval}
	f.run = r
	r.backoff = firmware.Backoff{Least: 3 * time.Second, Most: 10 * time.Minute, Jitter: 0.6, Seed: chance.Seed(f.board.Config().Seed, "back-off") + f.backoffs}
	firmware.Must(k.CreateEventFlags(&r.events, "nx_client"))
	r.inbox = firmware.NewInbox[push](k, "incoming", maxIncoming)
	firmware.Must(k.CreateTimer(&r.timer, "periodic_timer", func(uint32) { r.set(evTick) }, 0, 1, 1, rtos.NoActivate))
	for _, t := range [...]struct {
		thread   *rtos.Thread
		name     string
		entry    func(uint32)
		stack    uint32
		priority uint32
	}{
		{&r.threads[0], "IP", r.ip, 2048, 1},
		{&r.threads[1], "Azure IoT Cloud", r.cloud, 2048, 4},
		{&r.threads[2], "Azure IoT Client", r.client, 3072, 8},
		{&r.threads[3], "Main", r.main, 4096, 10},
	} {
		firmware.Must(k.CreateThread(t.thread, rtos.ThreadConfig{Name: t.name, Entry: t.entry, Stack: k.Reserve(t.stack), Priority: t.priority, Start: rtos.AutoStart}))
	}
	if f.cfg.Define != nil {
		f.cfg.Define(k, f.device)
	}
}

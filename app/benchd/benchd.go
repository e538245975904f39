// Package benchd assembles `vauban bench`: a throw-away installation on free ports of the
// loopback, optionally a peer broker beside it, the load of sim/load against both in
// turn, and the check that every acknowledged message is in the log.
package benchd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sync/errgroup"

	"github.com/vauban-iot/vauban/app/up"
	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/bus/diskbus"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/sdk/service"
	"github.com/vauban-iot/vauban/sim/load"
	wire "github.com/vauban-iot/vauban/wire/mqtt"
	"github.com/vauban-iot/vauban/wire/sas"
	"github.com/vauban-iot/vauban/wire/topic"
)

// Config of a benchmark.
type Config struct {
	Binary   string // the vauban executable to measure
	Devices  int
	Size     int
	InFlight int
	Rate     float64 // offered in the throughput run, messages per second
	Half     float64 // offered in the latency run
	Duration time.Duration
	Warmup   time.Duration
	Idle     int // idle sessions to measure the memory of; 0: skip
	Methods  int // direct methods to call; 0: skip
	// Security messages per second, beside the messages of the latency run, which is made once more with them; 0: skip.
	Security  float64
	Mosquitto bool // run mosquitto beside it
	// Postgres is the address of a PostgreSQL server where a database is made for the run, which `vauban serve` keeps its
	// state in; empty: `vauban up` with SQLite is measured.
	Postgres string
	Progress io.Writer
}

// Default is what `vauban bench` measures.
func Default() Config {
	return Config{
		Devices: 1000, Size: 256, InFlight: 20, Rate: 200_000, Half: 15_000, Duration: 10 * time.Second, Warmup: 3 * time.Second,
		Idle: 2000, Methods: 3000,
	}
}

// Report is what was measured. Latencies are milliseconds.
type Report struct {
	Ingest  Ingest  `json:"ingest"`
	Latency Ingest  `json:"latency"`
	Idle    *Idle   `json:"idle,omitempty"`
	Methods *Timing `json:"methods,omitempty"`
	// Security is the latency run beside security messages.
	Security *Security `json:"security,omitempty"`
	Peer     *Ingest   `json:"mosquitto,omitempty"`
	Ratio    float64   `json:"ratio,omitempty"` // of the throughputs
}

// Ingest is one publishing run.
type Ingest struct {
	Offered float64 `json:"offeredPerSecond"`
	Acked   float64 `json:"ackedPerSecond"`
	Timing
	AckedMessages uint64  `json:"ackedMessages"`
	Late          float64 `json:"generatorLateP99ms"` // until the generator had sent what was due: its own part of P99
	Lost          uint64  `json:"ackedButLost"`
	Disorder      uint64  `json:"pubacksOutOfOrder"`
	Failed        int     `json:"failedConnections"`
}

// Timing sums up a latency histogram.
type Timing struct {
	Count int64   `json:"count"`
	P50   float64 `json:"p50ms"`
	P99   float64 `json:"p99ms"`
	P999  float64 `json:"p999ms"`
	Max   float64 `json:"maxms"`
}

// Idle is the memory of idle sessions, and how fast they connect: with a full TLS handshake and a SAS token, the
// client's half of the work on the same machine.
type Idle struct {
	Sessions        int     `json:"sessions"`
	BytesPerSession float64 `json:"bytesPerSession"`
	Connects        float64 `json:"connectsPerSecond"`
	Back            float64 `json:"backAfterCutSeconds"` // all cut at once: until the last one is back
}

func timing(h *hdrhistogram.Histogram) Timing {
	ms := func(v int64) float64 { return float64(v) / 1000 }
	return Timing{h.TotalCount(), ms(h.ValueAtQuantile(50)), ms(h.ValueAtQuantile(99)), ms(h.ValueAtQuantile(99.9)), ms(h.Max())}
}

// Run measures. Everything it starts is stopped and removed.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	dir, err := os.MkdirTemp("", "vauban-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	var rep Report
	data := filepath.Join(dir, "vauban")
	args := upArgs(data)
	if cfg.Postgres != "" {
		drop, err := postgresDatabase(ctx, cfg.Postgres, dir)
		if err != nil {
			return nil, err
		}
		defer drop()
		if args, err = serveArgs(dir, data); err != nil {
			return nil, err
		}
	}
	v, err := startVauban(cfg, data, args)
	if err != nil {
		return nil, err
	}
	defer v.kill()
	devices := max(cfg.Devices, cfg.Idle)
	if cfg.Security > 0 {
		devices = max(devices, 2*cfg.Devices+1)
	}
	cfg.note("creating %d devices", devices)
	if err := v.createDevices(ctx, devices); err != nil {
		return nil, err
	}
	if cfg.Idle > 0 {
		cfg.note("opening %d idle sessions", cfg.Idle)
		if rep.Idle, err = v.idle(ctx, cfg); err != nil {
			return nil, err
		}
	}
	if cfg.Methods > 0 {
		cfg.note("calling %d direct methods", cfg.Methods)
		if rep.Methods, err = v.methods(ctx, cfg); err != nil {
			return nil, err
		}
	}
	// A run's messages are told apart by the log position at its start.
	cfg.note("publishing %g msg/s for the latency of half load", cfg.Half)
	half, err := v.half(ctx, cfg)
	if err != nil {
		return nil, err
	}
	var plain, beside *load.Result
	if cfg.Security > 0 {
		cfg.note("the same beside %g messages/s that nobody judges", cfg.Security)
		if plain, err = v.plain(ctx, cfg); err != nil {
			return nil, err
		}
		cfg.note("the same beside %g security messages/s", cfg.Security)
		if rep.Security, beside, err = v.security(ctx, cfg); err != nil {
			return nil, err
		}
	}
	cfg.note("publishing as fast as messages are acknowledged")
	full, err := load.Run(ctx, v.load(cfg, cfg.Rate))
	if err != nil {
		return nil, err
	}
	if err := v.stop(); err != nil {
		return nil, err
	}
	cfg.note("reading the log back")
	runs := []*load.Result{half, full}
	if cfg.Security > 0 {
		runs = []*load.Result{half, plain, beside, full}
	}
	lost, err := verify(ctx, filepath.Join(v.data, "bus"), runs...)
	if err != nil {
		return nil, err
	}
	rep.Latency, rep.Ingest = ingest(half, lost[0]), ingest(full, lost[len(lost)-1])
	if cfg.Security > 0 {
		rep.Security.Plain, rep.Security.Telemetry = ingest(plain, lost[1]), ingest(beside, lost[2])
		rep.Security.Ratio = rep.Security.Telemetry.P99 / rep.Latency.P99
	}
	if cfg.Mosquitto {
		cfg.note("the same load on mosquitto, without persistence")
		peer, err := mosquitto(ctx, cfg, filepath.Join(dir, "mosquitto"))
		if err != nil {
			return nil, err
		}
		p := ingest(peer, 0)
		rep.Peer = &p
		rep.Ratio = rep.Ingest.Acked / p.Acked
	}
	return &rep, nil
}

func (c Config) note(format string, args ...any) {
	if c.Progress != nil {
		fmt.Fprintf(c.Progress, "bench: "+format+"\n", args...)
	}
}

func ingest(r *load.Result, lost uint64) Ingest {
	i := Ingest{Offered: r.Offered, Acked: r.Acked, Timing: timing(r.Latency), Late: timing(r.Late).P99, Lost: lost, Disorder: r.Disorder, Failed: len(r.Errors)}
	for _, n := range r.Confirm {
		i.AckedMessages += n
	}
	return i
}

// vauban is the installation under test, in a process of its own.
type vauban struct {
	cmd  *exec.Cmd
	data string
	conn up.Connection
	tls  *tls.Config
	http *http.Client
	key  []byte
}

// half is the latency run. The generator measures with a clock of its own process: it makes room before, so that its own collections of garbage,
// some 40 ms each, do not count as the server's.
func (v *vauban) half(ctx context.Context, cfg Config) (*load.Result, error) {
	defer debug.SetGCPercent(debug.SetGCPercent(1000))
	runtime.GC()
	return load.Run(ctx, v.load(cfg, cfg.Half))
}

func upArgs(data string) []string {
	return []string{"up", "--data", data, "--listen", "127.0.0.1", "--mqtt-port", "0", "--https-port", "0", "--amqp-port", "0", "--output", "json"}
}

func startVauban(cfg Config, data string, args []string) (*vauban, error) {
	cmd := exec.Command(cfg.Binary, args...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	v := &vauban{cmd: cmd, data: data, key: secret.Random(32).Reveal()}
	if err := json.NewDecoder(stdout).Decode(&v.conn); err != nil {
		v.kill()
		return nil, fmt.Errorf("vauban did not start: %w", err)
	}
	root, err := os.ReadFile(v.conn.CA)
	if err != nil {
		v.kill()
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	v.tls = clientTLS(pool)
	v.http = &http.Client{Transport: &http.Transport{TLSClientConfig: v.tls}}
	return v, nil
}

// clientTLS is what every device of the load offers, to Vauban and to the peer.
func clientTLS(pool *x509.CertPool) *tls.Config {
	return &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS12, CurvePreferences: []tls.CurveID{tls.CurveP256}}
}

func (v *vauban) kill() {
	_ = v.cmd.Process.Kill()
	_ = v.cmd.Wait() // it was killed: its status says nothing
}

func (v *vauban) stop() error {
	if err := v.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return v.cmd.Wait()
}

func (v *vauban) hub() (*service.Client, error) {
	return service.New(service.Config{
		ConnectionString: v.conn.Hub.ConnectionString, TLS: &tls.Config{RootCAs: v.tls.RootCAs},
		Address: net.JoinHostPort("127.0.0.1", strconv.Itoa(v.conn.Ports.HTTPS)),
	})
}

func deviceID(i int) string { return fmt.Sprintf("bench-%05d", i) }

func (v *vauban) createDevices(ctx context.Context, n int) error {
	hub, err := v.hub()
	if err != nil {
		return err
	}
	key := base64.StdEncoding.EncodeToString(v.key)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(32)
	for i := range n {
		g.Go(func() error {
			_, err := hub.CreateDevice(ctx, service.Device{ID: deviceID(i), PrimaryKey: key, SecondaryKey: key})
			return err
		})
	}
	return g.Wait()
}

// Connect implements load.Target.
func (v *vauban) Connect(i int) wire.Connect {
	id := deviceID(i)
	host := v.conn.Hub.Hostname
	user := topic.Username{Host: host, Device: id, APIVersion: "2021-04-12"}
	token := sas.Sign(host+"/devices/"+id, v.key, time.Now().Add(time.Hour), "")
	return wire.Connect{
		Protocol: "MQTT", Level: 4, CleanSession: true, KeepAlive: 240, ClientID: id,
		Username: user.String(), HasUsername: true, Password: []byte(token), HasPassword: true,
	}
}

// Topic implements load.Target.
func (v *vauban) Topic(i int) string { return string(topic.AppendTelemetry(nil, deviceID(i), "")) }

func (v *vauban) address() string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(v.conn.Ports.MQTT))
}

func (v *vauban) load(cfg Config, rate float64) load.Config {
	return load.Config{
		Address: v.address(), TLS: v.tls, Target: v, Devices: cfg.Devices, Rate: rate, Size: cfg.Size,
		InFlight: cfg.InFlight, Warmup: cfg.Warmup, Duration: cfg.Duration,
	}
}

// settle is how long the server may take to give handshake memory back.
const settle = 6 * time.Second

func (v *vauban) idle(ctx context.Context, cfg Config) (*Idle, error) {
	// The first sessions pay for what every server has; they are not counted.
	first, err := load.Dial(ctx, v.address(), v.tls, v, 100)
	if err != nil {
		return nil, err
	}
	load.CloseAll(first)
	time.Sleep(settle)
	before, err := resident(v.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	conns, err := load.Dial(ctx, v.address(), v.tls, v, cfg.Idle)
	if err != nil {
		return nil, err
	}
	connects := float64(cfg.Idle) / time.Since(start).Seconds()
	time.Sleep(settle)
	after, err := resident(v.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	start = time.Now()
	load.CloseAll(conns)
	if conns, err = load.Dial(ctx, v.address(), v.tls, v, cfg.Idle); err != nil {
		return nil, err
	}
	back := time.Since(start)
	load.CloseAll(conns)
	return &Idle{Sessions: cfg.Idle, BytesPerSession: float64(after-before) / float64(cfg.Idle), Connects: connects, Back: back.Seconds()}, nil
}

// resident returns the resident memory of a process in bytes.
func resident(pid int) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, fmt.Errorf("the memory of the server cannot be read: %w", err)
	}
	fields := strings.Fields(string(data))
	if len(fields) < 2 {
		return 0, errors.New("unreadable /proc statm")
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}

const methodCallers = 4

func (v *vauban) methods(ctx context.Context, cfg Config) (*Timing, error) {
	stop, err := load.Answer(ctx, v.address(), v.tls, v, methodCallers)
	if err != nil {
		return nil, err
	}
	defer stop()
	hub, err := v.hub()
	if err != nil {
		return nil, err
	}
	h := hdrhistogram.New(1, 60_000_000, 3)
	results := make(chan time.Duration, cfg.Methods)
	g, ctx := errgroup.WithContext(ctx)
	for caller := range methodCallers {
		g.Go(func() error {
			for n := range cfg.Methods / methodCallers {
				start := time.Now()
				res, err := hub.InvokeMethod(ctx, deviceID(caller), "echo", json.RawMessage(`{"n":1}`), 30*time.Second, 5*time.Second)
				if err != nil {
					return err
				}
				if res.Status != 200 {
					return fmt.Errorf("a method answered %d", res.Status)
				}
				if n >= 50 { // connections and caches are warm
					results <- time.Since(start)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	close(results)
	for d := range results {
		_ = h.RecordValue(d.Microseconds()) // within the bounds of the timeouts
	}
	t := timing(h)
	return &t, nil
}

// verify reads the whole log and counts, for each run, the acknowledged messages that are not in it.
func verify(ctx context.Context, dir string, runs ...*load.Result) ([]uint64, error) {
	b, err := diskbus.Open(diskbus.Config{Dir: dir})
	if err != nil {
		return nil, err
	}
	defer b.Close()
	log, err := b.Log(ctx, bus.LogConfig{Name: "telemetry"})
	if err != nil {
		return nil, err
	}
	// Every run numbers its messages from 1, so the k-th time a device's number 1
	// appears begins its run k. Within a run nothing may be missing.
	seen := make([][]uint64, len(runs)) // by run and device: highest number such that all before it are there
	missing := make([]uint64, len(runs))
	for i := range seen {
		seen[i] = make([]uint64, len(runs[i].Confirm))
	}
	current := make(map[int]int)
	done := errors.New("end of the log")
	last, err := tail(ctx, log)
	if err != nil {
		return nil, err
	}
	err = log.Follow(ctx, bus.Earliest, nil, func(e bus.Entry) error {
		err := telemetry.Decode(e.Sequence, e.Data, func(m *iot.Message) error {
			device, number, ok := load.Mark(m.Body)
			if !ok {
				return nil
			}
			run, started := current[device]
			switch {
			case !started:
				current[device] = 0
			case number == 1:
				run++
				current[device] = run
			}
			if run < len(runs) && device < len(seen[run]) && number == seen[run][device]+1 {
				seen[run][device] = number
			}
			return nil
		})
		if err == nil && e.Sequence >= last {
			return done
		}
		return err
	})
	if !errors.Is(err, done) {
		return nil, err
	}
	for i, r := range runs {
		for device, confirmed := range r.Confirm {
			if seen[i][device] < confirmed {
				missing[i] += confirmed - seen[i][device]
			}
		}
	}
	return missing, nil
}

// tail marks the end of the log with an empty batch and returns its place.
func tail(ctx context.Context, log bus.Log) (uint64, error) {
	return log.Append(ctx, telemetry.EmptyBatch())
}

// Package up assembles everything Vauban does on one machine: embedded log, embedded
// database, hub, provisioning, Defender, console (design §6).
package up

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/bus/natsbus"
	"github.com/vauban-iot/vauban/central/live"
	"github.com/vauban-iot/vauban/defender"
	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/dps"
	"github.com/vauban-iot/vauban/head/amqp"
	"github.com/vauban-iot/vauban/head/mqtt"
	"github.com/vauban-iot/vauban/hub"
	"github.com/vauban-iot/vauban/hub/command"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/pki"
	"github.com/vauban-iot/vauban/storage/sqlite"
	"github.com/vauban-iot/vauban/storage/sqlstore"
)

// Config of one installation.
type Config struct {
	Data      string // folder of everything that is kept
	Listen    string // IP address to listen on
	Hostname  string // name devices and programs use
	MQTTPort  int    // 0 in any of the ports: any free one
	HTTPSPort int
	AMQPPort  int
	Demo      bool
	Version   string
	Logger    *slog.Logger
	// Ready hears of the connection data once every listener answers.
	Ready func(Connection) error
	// Notice tells the operator something that is no error, such as another port than usual.
	Notice func(text string)
}

// Default is what `vauban up` does without flags.
func Default() Config {
	return Config{Data: "vauban-data", Listen: "127.0.0.1", Hostname: "localhost", MQTTPort: 8883, HTTPSPort: 443, AMQPPort: 5671}
}

// Retention of the telemetry log.
const (
	telemetryAge   = 7 * 24 * time.Hour
	telemetryBytes = 20 << 30
)

// Run starts everything, and ends when ctx does: devices are drained first, then
// what they sent is written, then the stores close.
func Run(ctx context.Context, cfg Config) error {
	release, err := claim(cfg.Data)
	if err != nil {
		return err
	}
	defer release()
	ports, err := listen(&cfg)
	if err != nil {
		return err
	}
	defer ports.close()
	s, err := open(ctx, cfg)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.assemble(ctx, ports); err != nil {
		return err
	}
	return s.run(ctx, ports)
}

// system is the assembled installation.
type system struct {
	cfg      Config
	log      *slog.Logger
	metrics  *prometheus.Registry
	pki      *pki.Authority
	store    *sqlstore.Store
	bus      *natsbus.Bus
	facts    bus.Log
	settings settings

	router    *command.Router
	intake    *telemetry.Intake
	hub       *hub.Hub
	dps       *dps.Service
	intel     *intel.Library
	detector  *defender.Detector
	feed      *live.Feed
	mqtt      *mqtt.Server
	amqp      *amqp.Server
	web       *web
	connected Connection
}

func open(ctx context.Context, cfg Config) (_ *system, err error) {
	s := &system{cfg: cfg, log: cfg.Logger, metrics: prometheus.NewRegistry()}
	s.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	sealer, err := secret.OpenSealer(filepath.Join(cfg.Data, "master.key"))
	if err != nil {
		return nil, err
	}
	// Keys of the CA take longest on a first start; the stores open meanwhile.
	var g errgroup.Group
	g.Go(func() (err error) {
		s.pki, err = pki.Open(pki.Config{Dir: filepath.Join(cfg.Data, "pki"), Hostname: cfg.Hostname, Extra: extraNames(cfg.Listen), Sealer: sealer, Logger: s.log})
		return err
	})
	g.Go(func() (err error) {
		s.store, err = sqlite.Open(ctx, sqlite.Config{Path: filepath.Join(cfg.Data, "state.db"), Sealer: sealer, Logger: s.log})
		return err
	})
	g.Go(func() (err error) {
		s.bus, err = natsbus.Open(ctx, natsbus.Config{
			Dir: filepath.Join(cfg.Data, "bus"), Logger: s.log,
			// No call can arrive before the router's first Listen.
			Handle: func(c bus.Call) { s.router.Handle(c) },
		})
		if err != nil {
			return err
		}
		s.router = command.NewRouter(s.bus, s.log)
		s.facts, err = s.bus.Log(ctx, natsbus.LogConfig{Name: "telemetry", MaxAge: telemetryAge, MaxBytes: telemetryBytes})
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	s.settings, err = loadSettings(ctx, s.store)
	return s, err
}

// extraNames adds the address devices connect to, when it is a particular one.
func extraNames(listen string) []string {
	if ip := net.ParseIP(listen); ip != nil && !ip.IsUnspecified() && !ip.IsLoopback() {
		return []string{listen}
	}
	return nil
}

func (s *system) close() {
	if s.bus != nil {
		s.bus.Close()
	}
	if s.store != nil {
		if err := s.store.Close(); err != nil {
			s.log.Error("state not closed cleanly", "err", err)
		}
	}
}

func (s *system) assemble(ctx context.Context, ports *listeners) error {
	hosts := []string{s.cfg.Hostname}
	guard := access.NewGuard(hosts, s.settings.hub, time.Now)
	provisioningGuard := access.NewGuard(hosts, s.settings.provisioning, time.Now)

	reg, err := registry.New(registry.Config{Store: s.store})
	if err != nil {
		return err
	}
	s.intake = telemetry.NewIntake(s.facts, newIntakeMetrics(s.metrics).report)
	cas := &authorities{store: s.store}
	s.hub, err = hub.New(hub.Config{
		Hosts: hosts, Guard: guard, Registry: reg, Presence: s.store, Twins: s.store, Mailbox: s.store, Sessions: s.store,
		Intake: s.intake, Router: s.router, Authorities: cas.all, Logger: s.log,
	})
	if err != nil {
		return err
	}
	s.dps, err = dps.New(dps.Config{IDScope: s.settings.idScope, Store: s.store, Hub: linkedHub{s.hub}, Logger: s.log})
	if err != nil {
		return err
	}
	intelDir := filepath.Join(s.cfg.Data, "intel")
	if err := os.MkdirAll(intelDir, 0o700); err != nil {
		return fmt.Errorf("create %s: %w", intelDir, err)
	}
	s.intel, err = intel.New(intel.Config{Dir: intelDir, Logger: s.log, Registerer: s.metrics})
	if err != nil {
		return err
	}
	s.detector, err = defender.New(defender.Config{Log: s.facts, Intel: s.intel.Current, Alerts: s.store, Logger: s.log, Registerer: s.metrics})
	if err != nil {
		return err
	}
	s.feed = live.New(s.facts, s.log)
	s.mqtt, err = mqtt.New(mqtt.Config{Core: s.hub, Provisioner: s.dps, TLS: s.pki.DeviceTLS(), Logger: s.log, Metrics: mqtt.NewMetrics(s.metrics)})
	if err != nil {
		return err
	}
	s.amqp = amqp.New(amqp.Config{TLS: s.pki.DeviceTLS(), Logger: s.log})
	s.connected = s.connection(ports)
	s.web, err = s.newWeb(guard, provisioningGuard, cas)
	return err
}

// run serves until ctx ends or a part fails, and stops in the order in which parts depend on
// each other: what takes messages in, what writes them, what reads them.
func (s *system) run(ctx context.Context, ports *listeners) error {
	failed, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var stages stages
	defer stages.stop()

	writers := stages.add(fail)
	writers.run("intake", s.intake.Run)
	writers.run("hub", s.hub.Run)
	readers := stages.add(fail)
	readers.run("provisioning", s.dps.Run)
	readers.run("intel", s.intel.Run)
	readers.run("defender", s.detector.Run)
	readers.run("live feed", s.feed.Run)
	readers.run("pki", s.pki.Run)
	heads := stages.add(fail)
	heads.run("mqtt", func(ctx context.Context) error { return s.mqtt.Run(ctx, ports.mqtt) })
	heads.run("amqp", func(ctx context.Context) error { return s.amqp.Run(ctx, ports.amqp) })
	heads.run("https", func(ctx context.Context) error { return s.web.run(ctx, ports.https) })

	if err := probe(failed, s.connected, s.pki.RootPEM()); err != nil {
		if ctx.Err() != nil {
			return nil // interrupted while starting
		}
		return err
	}
	if err := s.connected.save(s.cfg.Data); err != nil {
		return err
	}
	if s.cfg.Ready != nil {
		if err := s.cfg.Ready(s.connected); err != nil {
			return err
		}
	}
	if s.cfg.Demo {
		stages.add(fail).run("demo", s.demo)
	}
	<-failed.Done()
	if ctx.Err() != nil {
		return nil
	}
	return context.Cause(failed)
}

// stages stop in the reverse order in which they were added, each wholly before the next.
type stages struct{ all []*stage }

type stage struct {
	ctx    context.Context
	cancel context.CancelFunc
	group  errgroup.Group
	fail   context.CancelCauseFunc
}

func (s *stages) add(fail context.CancelCauseFunc) *stage {
	st := &stage{fail: fail}
	st.ctx, st.cancel = context.WithCancel(context.Background())
	s.all = append(s.all, st)
	return st
}

// run starts one part; its failure stops everything.
func (st *stage) run(name string, part func(context.Context) error) {
	st.group.Go(func() error {
		if err := part(st.ctx); err != nil && !errors.Is(err, context.Canceled) {
			st.fail(fmt.Errorf("%s: %w", name, err))
		}
		return nil
	})
}

func (s *stages) stop() {
	for i := len(s.all) - 1; i >= 0; i-- {
		s.all[i].cancel()
		_ = s.all[i].group.Wait() // failures went to fail
	}
}

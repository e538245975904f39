// Package node assembles a server of Vauban over whatever its state, log and certificates are kept in:
// hub, provisioning, Defender, console and all listeners. app/up and app/serve hand it
// the embedded or the shared engines.
package node

import (
	"context"
	"crypto/x509"
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
	"github.com/vauban-iot/vauban/access/ipfilter"
	"github.com/vauban-iot/vauban/access/signin"
	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/central/live"
	"github.com/vauban-iot/vauban/defender"
	"github.com/vauban-iot/vauban/defender/baseline"
	"github.com/vauban-iot/vauban/defender/export"
	"github.com/vauban-iot/vauban/defender/host"
	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/defender/intel/feed"
	"github.com/vauban-iot/vauban/dps"
	"github.com/vauban-iot/vauban/head/amqp"
	attestationhead "github.com/vauban-iot/vauban/head/attestation"
	"github.com/vauban-iot/vauban/head/mqtt"
	signinhead "github.com/vauban-iot/vauban/head/signin"
	spherehead "github.com/vauban-iot/vauban/head/sphere"
	"github.com/vauban-iot/vauban/hub"
	"github.com/vauban-iot/vauban/hub/command"
	"github.com/vauban-iot/vauban/hub/event"
	"github.com/vauban-iot/vauban/hub/eventgrid"
	"github.com/vauban-iot/vauban/hub/fleet"
	"github.com/vauban-iot/vauban/hub/meter"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/hub/throttle"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/pki"
	"github.com/vauban-iot/vauban/sphere"
	"github.com/vauban-iot/vauban/sphere/attest"
	"github.com/vauban-iot/vauban/storage/azblob"
	"github.com/vauban-iot/vauban/storage/sqlstore"
)

// Config of a server. Fields are required unless they say otherwise.
type Config struct {
	Name      string // tells this server from others on the same store; may be empty when there are none
	Hostname  string // name devices and programs use
	Listen    string // IP address to listen on
	MQTTPort  int    // 0 in any of the ports: any free one
	HTTPSPort int
	AMQPPort  int

	MasterKey  string   // file of the key that seals secrets; made when it is missing
	PKI        string   // folder of certificates; made when it is missing
	Intel      string   // folder of indicator lists; made when it is missing
	RetroDays  int      // how many days of flows new indicators are compared with; 0: none
	AlertDays  int      // how many days closed alerts are kept; 0: 90
	Blobs      string   // folder of the files that devices store; made when it is missing. Empty: they may not
	BlobHosts  []string // hosts whose containers imports and exports may use, beside this server and loopback (storage/azblob)
	Routed     string   // folder of routed messages; made when it is needed
	Connection string   // file for the connection data, mode 0600
	Store      func(ctx context.Context, sealer *secret.Sealer) (*sqlstore.Store, error)
	// Bus opens the bus; it hands the calls of mailboxes to handle.
	Bus    func(ctx context.Context, handle func(bus.Call)) (bus.Bus, error)
	Shared bool // other servers write the same store and share the bus

	Throttle throttle.Config // limits, unless the operator sets others
	// Registrations limits how often devices may register; zero: the defaults.
	Registrations dps.Limits
	SignIn        SignIn

	// Clock is the one of hub and Defender: when devices connect, what they send is enqueued, and what of it is old. Certificates, tokens of
	// programs and the server's own work follow the machine's. nil: time.Now.
	Clock func() time.Time

	// StaticRSA also offers 0x003C to devices, for firmware that knows nothing else (rtos §1.6).
	StaticRSA bool
	// FaultInjection lets devices ask for misbehaviour (hub-device §11); for tests of SDKs.
	FaultInjection bool

	Version string
	Logger  *slog.Logger
	// Ready hears of the connection data once every listener answers; may be nil.
	Ready func(Connection) error
	// Beside runs beside the server from then on, until it stops; may be nil.
	Beside func(context.Context, *Node) error
	// Notice tells the operator something that is no error, such as another port than usual.
	Notice func(text string)
}

// Retention of the telemetry log.
const (
	telemetryAge   = 7 * 24 * time.Hour
	telemetryBytes = 20 << 30
)

// Run starts a server, and ends when ctx does: devices are drained first, then
// what they sent is written, then the stores close.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	ports, err := listen(&cfg)
	if err != nil {
		return err
	}
	defer ports.close()
	n, err := open(ctx, cfg)
	if err != nil {
		return err
	}
	defer n.close()
	if err := n.assemble(ctx, ports); err != nil {
		return err
	}
	return n.run(ctx, ports)
}

// Node is an assembled server.
type Node struct {
	PKI          *pki.Authority
	State        *sqlstore.Store
	Provisioning *dps.Service
	Connection   Connection

	cfg      Config
	log      *slog.Logger
	metrics  *prometheus.Registry
	bus      bus.Bus
	facts    bus.Log
	settings settings
	policies *policies
	network  *network
	usage    *throttle.Usage
	meter    *meter.Meter
	// throttles are the limits of the operator or the configuration file.
	throttles     *throttles
	subscriptions *eventgrid.Service
	router        *command.Router
	switches      *switches
	intake        *telemetry.Intake
	interest      *event.Interest // in events
	relay         *event.Relay
	hub           *hub.Hub
	files         *files // nil: devices may not store files
	// containers are where imports and exports of identities go.
	containers *azblob.Client
	intel      *intel.Library
	indicators *intel.Engine
	feeds      *feed.Manager
	detector   *defender.Detector
	security   *security
	baselines  *baseline.Service
	posture    *postured
	exports    *export.Manager
	vulnerable *vulnerable
	feed       *live.Feed
	routes     *routes
	mqtt       *mqtt.Server
	amqp       *amqp.Server
	people     *signin.Service
	signin     *signinhead.Head
	// sphere is the Security Service, attest what its devices prove themselves to.
	sphere      *sphere.Service
	attest      *attest.Service
	attestation *attestationhead.Head
	tenants     *spherehead.Head
	web         *web
}

// IDScope is that of the provisioning service.
func (n *Node) IDScope() string { return n.settings.idScope }

func open(ctx context.Context, cfg Config) (_ *Node, err error) {
	n := &Node{cfg: cfg, log: cfg.Logger, metrics: prometheus.NewRegistry()}
	n.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	for _, file := range []string{cfg.MasterKey, cfg.Connection} {
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return nil, fmt.Errorf("create the folder of %s: %w", file, err)
		}
	}
	sealer, err := secret.OpenSealer(cfg.MasterKey)
	if err != nil {
		return nil, err
	}
	// Keys of the CA take longest on a first start; the stores open meanwhile.
	var g errgroup.Group
	g.Go(func() (err error) {
		n.PKI, err = pki.Open(pki.Config{Dir: cfg.PKI, Hostname: cfg.Hostname, Extra: extraNames(cfg.Listen), AllowStaticRSA: cfg.StaticRSA, Sealer: sealer, Logger: n.log})
		return err
	})
	g.Go(func() (err error) {
		n.State, err = cfg.Store(ctx, sealer)
		return err
	})
	g.Go(func() error {
		// No call can arrive before the router's first Listen.
		b, err := cfg.Bus(ctx, func(c bus.Call) { n.router.Handle(c) })
		if err != nil {
			return err
		}
		n.bus = b
		n.router = command.NewRouter(n.bus, n.log)
		n.router.Shared = cfg.Shared
		n.facts, err = n.bus.Log(ctx, bus.LogConfig{Name: "telemetry", MaxAge: telemetryAge, MaxBytes: telemetryBytes})
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	n.settings, err = loadSettings(ctx, n.State)
	return n, err
}

// extraNames adds the address devices connect to, when it is a particular one.
func extraNames(listen string) []string {
	if ip := net.ParseIP(listen); ip != nil && !ip.IsUnspecified() && !ip.IsLoopback() {
		return []string{listen}
	}
	return nil
}

func (n *Node) close() {
	if n.containers != nil {
		n.containers.Close()
	}
	if n.bus != nil {
		n.bus.Close()
	}
	if n.State != nil {
		if err := n.State.Close(); err != nil {
			n.log.Error("state not closed cleanly", "err", err)
		}
	}
}

func (n *Node) assemble(ctx context.Context, ports *listeners) error {
	hosts := []string{n.cfg.Hostname}
	n.policies = newPolicies(n)
	guard := access.NewGuard(hosts, nil, time.Now)
	guard.Follow(n.policies.hub)
	n.switches = &switches{store: n.State, log: n.log}
	guard.RefuseWhen(n.switches.policies)
	provisioningGuard := access.NewGuard(hosts, nil, time.Now)
	provisioningGuard.Follow(n.policies.provisioning)
	n.network = newNetwork(n)
	n.usage = throttle.NewUsage(n.State, nil)
	n.meter = meter.New(n.metrics)
	var err error
	if n.throttles, err = newThrottles(n, n.usage); err != nil {
		return err
	}
	if err := n.throttles.begin(ctx); err != nil {
		return err
	}

	n.interest = new(event.Interest)
	events := &event.Maker{Hub: n.cfg.Hostname, Interest: n.interest, Now: n.cfg.Clock}
	reg, err := registry.New(registry.Config{Store: n.State, Created: events.Created, Deleted: events.Deleted})
	if err != nil {
		return err
	}
	n.intake = telemetry.NewIntake(timedLog{n.facts, n.meter}, n.stored(newIntakeMetrics(n.metrics).report))
	cas := &authorities{store: n.State}
	cas.groups = func(ctx context.Context) ([]*x509.Certificate, error) { return n.Provisioning.Authorities(ctx) }
	if n.files, err = n.openFiles(ctx, guard); err != nil {
		return err
	}
	if n.security, err = newSecurity(ctx, n); err != nil {
		return err
	}
	if n.posture, err = newPosture(n, cas); err != nil {
		return err
	}
	if err := n.security.detectors.begin(ctx); err != nil {
		return err
	}
	if n.vulnerable, err = newVulnerable(n); err != nil {
		return err
	}
	hubConfig := hub.Config{
		Now:      n.cfg.Clock,
		Mask:     n.security.privacy.Mask,
		Seen:     n.posture.links.Seen,
		Activity: n.security.tally, Rejected: n.security.rejected,
		Hosts: hosts, Guard: guard, Registry: reg, Node: n.cfg.Name, Presence: n.State, Twins: n.State, Fleet: fleet.New(n.State), Jobs: n.State, Transfers: n.State, Configurations: n.State, Mailbox: n.State, Notices: n.State, Sessions: n.State,
		Intake: n.intake, Router: n.router, Events: events, Authorities: cas.all, Vouch: n.vouch, Refused: n.switches.Refused,
		Throttle: n.throttles.limiter, Meter: n.meter, Logger: n.log,
		// Nobody connects before the detector is there.
		Connected: func(id iot.ID, remote string) { n.detector.Connected(id, remote); n.security.connected(id, remote) },
	}
	issuer, err := openIssuer(ctx, n.State, n.cfg.Hostname)
	if err != nil {
		return err
	}
	hubConfig.Issuer, hubConfig.Credentials = issuer, n.State
	if n.files != nil {
		hubConfig.Uploads = n.files.uploads
	}
	if n.containers, err = n.openContainers(); err != nil {
		return err
	}
	if n.containers != nil {
		hubConfig.Blobs = n.containers
	}
	n.hub, err = hub.New(hubConfig)
	if err != nil {
		return err
	}
	n.Provisioning, err = n.newProvisioning(ctx, issuer)
	if err != nil {
		return err
	}
	if err := n.newIntel(ctx); err != nil {
		return err
	}
	n.detector, err = defender.New(defender.Config{Now: n.cfg.Clock, Log: n.facts, Intel: n.intel.Current, Alerts: n.State, Groups: n.security.groups.Compiled, Members: n.State.SecurityGroups, Active: n.security.active, Reported: n.reported,
		Host:      host.New(host.Config{List: func() host.List { return n.intel.Current() }, Previous: defender.Previous(n.State)}),
		Behaviour: n.security.behaviour, Learned: n.State, AlertAge: time.Duration(n.cfg.AlertDays) * 24 * time.Hour, Logger: n.log, Registerer: n.metrics})
	if err != nil {
		return err
	}
	if n.baselines, err = newBaselines(n, ports); err != nil {
		return err
	}
	if err := n.newExports(); err != nil {
		return err
	}
	n.routes = newRoutes(n, n.cfg.Routed)
	n.routes.want(ctx) // before the first device can connect
	if err := meter.Gauges(n.metrics, n.counts); err != nil {
		return err
	}
	n.relay = newRelay(n)
	n.feed = live.New(n.facts, n.log)
	n.mqtt, err = mqtt.New(mqtt.Config{Core: n.hub, Provisioner: n.Provisioning, TLS: n.PKI.DeviceTLS(), Logger: n.log, Metrics: mqtt.NewMetrics(n.metrics), Admit: n.network.gate(ipfilter.DeviceAPI), FaultInjection: n.cfg.FaultInjection})
	if err != nil {
		return err
	}
	n.amqp = amqp.New(amqp.Config{TLS: n.PKI.ProgramTLS(), Admit: n.network.gate(ipfilter.Targets...), Logger: n.log})
	n.Connection = n.connection(ports)
	if n.subscriptions, err = newSubscriptions(n); err != nil {
		return err
	}
	n.subscriptions.Want(ctx) // before the first device can connect
	if err := n.newSignIn(ctx); err != nil {
		return err
	}
	if err := n.newSphere(ctx); err != nil {
		return err
	}
	n.web, err = n.newWeb(guard, provisioningGuard, cas)
	return err
}

// run serves until ctx ends or a part fails, and stops in the order in which parts depend on
// each other: what takes messages in, what writes them, what reads them.
func (n *Node) run(ctx context.Context, ports *listeners) error {
	failed, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var stages stages
	defer stages.stop()

	writers := stages.add(fail)
	writers.run("intake", n.intake.Run)
	writers.run("hub", n.hub.Run)
	writers.run("jobs", n.lead("jobs", n.hub.RunJobs))
	writers.run("configurations", n.lead("configurations", n.hub.RunConfigurations))
	writers.run("transfers", n.lead("transfers", n.hub.RunTransfers))
	writers.run("events", n.lead("events", n.relay.Run))
	writers.run("interest", n.routes.watch)
	writers.run("event subscriptions", n.subscriptions.Watch)
	writers.run("usage", func(ctx context.Context) error {
		return n.usage.Run(ctx, func(err error) {
			n.log.Warn("the messages of the day are not counted in the store, trying again", "err", err)
		})
	})
	readers := stages.add(fail)
	readers.run("provisioning", n.Provisioning.Run)
	readers.run("sign-in", n.people.Run)
	readers.run("tenants' CAs", n.sphere.Run)
	readers.run("hub alerts", n.security.sentry.Run)
	readers.run("activity", n.security.windows.RunCounter)
	readers.run("detectors", n.security.detectors.run)
	readers.run("silent devices", n.lead("silence", host.NewWatch(n.State, n.security.sentry.Raise, n.log).Run))
	readers.run("rules over time", n.lead("windows", n.security.windows.RunJudge))
	readers.run("links", n.posture.links.Run)
	readers.run("posture", n.lead("posture", n.posture.judge.Run))
	readers.run("vulnerabilities", n.lead("vulnerabilities", n.vulnerable.evaluator.Run))
	readers.run("vulnerability files", n.lead("vulnerability files", n.vulnerable.manager.RunFolder))
	readers.run("intel", n.intel.Run)
	readers.run("feeds", n.feeds.Follow)
	readers.run("feed fetcher", n.lead("feeds", n.feeds.Fetch))
	readers.run("connections", n.detector.RunConnections)
	readers.run("defender", n.lead("defender", n.runDefender))
	readers.run("baselines", n.lead("baselines", n.baselines.Run))
	readers.run("exports", n.lead("exports", n.exports.Run))
	readers.run("routing", n.lead("routing", n.routes.run))
	readers.run("event grid", n.lead("event grid", n.subscriptions.Run))
	readers.run("live feed", n.feed.Run)
	readers.run("network", n.network.run)
	readers.run("throttles", n.throttles.run)
	readers.run("pki", n.PKI.Run)
	readers.run("collector", paceCollector)
	if n.files != nil {
		readers.run("files", n.files.store.Run)
	}
	heads := stages.add(fail)
	heads.run("mqtt", func(ctx context.Context) error { return n.mqtt.Run(ctx, ports.mqtt) })
	heads.run("amqp", func(ctx context.Context) error { return n.amqp.Run(ctx, ports.amqp) })
	heads.run("https", func(ctx context.Context) error { return n.web.run(ctx, ports.https) })

	if err := probe(failed, n.Connection, n.PKI.RootPEM()); err != nil {
		if ctx.Err() != nil {
			return nil // interrupted while starting
		}
		return err
	}
	if err := n.policies.save(ctx); err != nil {
		return err
	}
	readers.run("policies", n.policies.run)
	if n.cfg.Ready != nil {
		if err := n.cfg.Ready(n.Connection); err != nil {
			return err
		}
	}
	if n.cfg.Beside != nil {
		stages.add(fail).run("beside", func(ctx context.Context) error { return n.cfg.Beside(ctx, n) })
	}
	<-failed.Done()
	if ctx.Err() != nil {
		return nil
	}
	return context.Cause(failed)
}

// leadRetry is how long a server waits after it lost the lead, or failed at it.
const leadRetry = time.Second

// lead makes a part run on one server of a cluster at a time. When its lead is lost it waits for it again.
func (n *Node) lead(name string, part func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		for {
			err := n.State.Lead(ctx, name, part)
			if ctx.Err() != nil || err == nil {
				return nil
			}
			n.log.Warn("a part that runs once in a cluster ended; it is tried again", "part", name, "err", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(leadRetry):
			}
		}
	}
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

// Package hubtest assembles a whole hub for tests, on a real SQLite store and a real embedded
// log, with a clock of its own and a memory of everything it logged.
//
// In a testing/synctest bubble use Options.Memory: the embedded NATS server lives by real time.
package hubtest

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/bus/diskbus"
	"github.com/vauban-iot/vauban/hub"
	"github.com/vauban-iot/vauban/hub/activity"
	"github.com/vauban-iot/vauban/hub/command"
	"github.com/vauban-iot/vauban/hub/event"
	"github.com/vauban-iot/vauban/hub/fleet"
	"github.com/vauban-iot/vauban/hub/meter"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/hub/throttle"
	"github.com/vauban-iot/vauban/hub/transfer"
	"github.com/vauban-iot/vauban/hub/upload"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/pki"
	"github.com/vauban-iot/vauban/storage/sqlite"
	"github.com/vauban-iot/vauban/storage/sqlstore"
	"github.com/vauban-iot/vauban/wire/sas"
)

// Host is the name of hubs made here.
const Host = "hub.example.net"

// RenewalPause is what a device that asked for a certificate waits at least.
const RenewalPause = 400 * time.Millisecond

// Patience is how long tests wait for what should happen soon.
const Patience = 10 * time.Second

// Options of a World.
type Options struct {
	Dir    string // where everything is kept
	Memory bool   // log and mailboxes in memory
	// Presence, when set, stands between the hub and its store.
	Presence func(hub.PresenceStore) hub.PresenceStore
	// Registry, when set, stands between the registry and its store.
	Registry func(registry.Store) registry.Store
	// Uploads, when set, lets devices store files; it is called with the store open and no hub yet.
	Uploads func(*World) (*upload.Service, error)
	// Blobs, when set, is where imports and exports go.
	Blobs transfer.Blobs
	// Vouch, when set, answers for certificates.
	Vouch func(ctx context.Context, chain []*x509.Certificate) (bool, error)
}

// World is a hub and what it stands on.
type World struct {
	*hub.Hub
	Store    *sqlstore.Store
	Guard    *access.Guard
	Policies []access.Policy
	Router   *command.Router
	Clock    *Clock
	Log      *Log
	Interest event.Interest       // in events; none at first
	Issuer   *pki.DeviceAuthority // of certificates that devices ask for
	Throttle *throttle.Limiter    // limits nothing at first
	Metrics  *prometheus.Registry
	Post     *Post
	Activity *activity.Tally // counts nothing at first

	opts   Options
	close  []func()
	cancel context.CancelFunc
	runs   sync.WaitGroup
	facts  bus.Log
	meter  *meter.Meter

	mu       sync.Mutex
	cas      []*x509.Certificate
	refused  access.Refused
	messages map[iot.ID][]iot.Message
	events   []iot.Message
	rejected []hub.Rejection
}

// Rejected returns what was told of credentials that proved nothing, and forgets it.
func (w *World) Rejected() []hub.Rejection {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.rejected
	w.rejected = nil
	return all
}

func (w *World) reject(_ iot.Credentials, why hub.Rejection) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rejected = append(w.rejected, why)
}

// New opens a world that ends with the test.
func New(t testing.TB, opts Options) *World {
	t.Helper()
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	w, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// Open opens a world; Close ends it.
func Open(opts Options) (*World, error) {
	w := &World{opts: opts, Clock: &Clock{}, Log: &Log{}, Activity: new(activity.Tally), Policies: access.HubPolicies(), messages: make(map[iot.ID][]iot.Message)}
	w.Throttle = throttle.New(nil, throttle.NewUsage(nil, nil))
	w.Metrics = prometheus.NewRegistry()
	w.meter = meter.New(w.Metrics)
	w.Guard = access.NewGuard([]string{Host}, w.Policies, w.Clock.Now)
	material, err := pki.NewDeviceAuthority(Host, time.Now())
	if err != nil {
		return nil, err
	}
	if w.Issuer, err = pki.OpenDeviceAuthority(material, w.Clock.Now); err != nil {
		return nil, err
	}
	return w, w.start()
}

func (w *World) start() (err error) {
	defer func() {
		if err != nil {
			w.Close()
		}
	}()
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	log := slog.New(w.Log)
	sealer, err := secret.OpenSealer(filepath.Join(w.opts.Dir, "master.key"))
	if err != nil {
		return err
	}
	w.Store, err = sqlite.Open(ctx, sqlite.Config{Path: filepath.Join(w.opts.Dir, "state.db"), Sealer: sealer, Logger: log})
	if err != nil {
		return err
	}
	w.close = append(w.close, func() { w.Store.Close() })
	var post bus.Post
	handle := func(c bus.Call) { w.Router.Handle(c) }
	if w.opts.Memory {
		m := NewMemory(handle)
		post, w.facts = m, m
	} else {
		b, err := diskbus.Open(diskbus.Config{Dir: filepath.Join(w.opts.Dir, "bus"), Logger: log, Handle: handle})
		if err != nil {
			return err
		}
		w.close = append(w.close, b.Close)
		if w.facts, err = b.Log(ctx, bus.LogConfig{Name: "telemetry"}); err != nil {
			return err
		}
		post = b
	}
	w.Post = &Post{Post: post}
	w.Router = command.NewRouter(w.Post, log)
	events := &event.Maker{Hub: Host, Interest: &w.Interest, Now: w.Clock.Now}
	var identities registry.Store = w.Store
	if w.opts.Registry != nil {
		identities = w.opts.Registry(identities)
	}
	reg, err := registry.New(registry.Config{Store: identities, Created: events.Created, Deleted: events.Deleted, Now: w.Clock.Now})
	if err != nil {
		return err
	}
	var presence hub.PresenceStore = w.Store
	if w.opts.Presence != nil {
		presence = w.opts.Presence(presence)
	}
	var uploads *upload.Service
	if w.opts.Uploads != nil {
		if uploads, err = w.opts.Uploads(w); err != nil {
			return err
		}
	}
	intake := telemetry.NewIntake(w.facts, nil)
	w.Hub, err = hub.New(hub.Config{
		Hosts: []string{Host}, Guard: w.Guard, Registry: reg, Presence: presence, Twins: w.Store, Fleet: fleet.New(w.Store), Jobs: w.Store, Transfers: w.Store, Blobs: w.opts.Blobs, Issuer: w.Issuer, Credentials: w.Store, RenewalPause: RenewalPause, Configurations: w.Store, Mailbox: w.Store, Notices: w.Store, Uploads: uploads, Sessions: w.Store,
		Intake: intake, Router: w.Router, Events: events, Authorities: w.authorities, Vouch: w.opts.Vouch, Refused: w.refusals, Throttle: w.Throttle, Meter: w.meter, Activity: w.Activity, Rejected: w.reject, Now: w.Clock.Now, Logger: log,
	})
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.events = nil
	clear(w.messages) // they are read again from the start of the log
	w.mu.Unlock()
	w.run(ctx, "intake", intake.Run)
	w.run(ctx, "hub", w.Hub.Run)
	w.run(ctx, "jobs", w.Hub.RunJobs)
	w.run(ctx, "configurations", w.Hub.RunConfigurations)
	w.run(ctx, "transfers", w.Hub.RunTransfers)
	relay := &event.Relay{Store: w.Store, Log: w.facts, Interest: &w.Interest, Logger: log}
	w.run(ctx, "events", relay.Run)
	w.run(ctx, "reader", func(ctx context.Context) error { return w.facts.Follow(ctx, bus.Earliest, nil, w.keep) })
	return nil
}

func (w *World) run(ctx context.Context, name string, part func(context.Context) error) {
	w.runs.Go(func() {
		if err := part(ctx); err != nil {
			slog.New(w.Log).Error("a part of the test's hub failed", "part", name, "err", err)
		}
	})
}

// Close stops the hub and closes its stores. Heads in front of it must have stopped.
func (w *World) Close() {
	if w.cancel != nil {
		w.cancel()
	}
	w.runs.Wait()
	for _, f := range slices.Backward(w.close) {
		f()
	}
	w.close, w.cancel = nil, nil
}

// Restart stops the hub and starts another one on the same data.
func (w *World) Restart(t testing.TB) {
	t.Helper()
	w.Close()
	if err := w.start(); err != nil {
		t.Fatal(err)
	}
}

func (w *World) keep(e bus.Entry) error {
	data := slices.Clone(e.Data) // bodies alias it
	w.mu.Lock()
	defer w.mu.Unlock()
	return telemetry.Decode(e.Sequence, data, func(m *iot.Message) error {
		if m.IsEvent() {
			w.events = append(w.events, *m)
			return nil
		}
		w.messages[m.From] = append(w.messages[m.From], *m)
		return nil
	})
}

// Messages waits until the log holds n messages of id and returns them all.
func (w *World) Messages(t testing.TB, id iot.ID, n int) []iot.Message {
	t.Helper()
	var got []iot.Message
	Until(t, fmt.Sprintf("%d messages of %s in the log", n, id), func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		got = slices.Clone(w.messages[id])
		return len(got) >= n
	})
	return got
}

// Events waits until the log holds n events and returns them all.
func (w *World) Events(t testing.TB, n int) []iot.Message {
	t.Helper()
	var got []iot.Message
	Until(t, fmt.Sprintf("%d events in the log", n), func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		got = slices.Clone(w.events)
		return len(got) >= n
	})
	return got
}

// Trust sets the CAs whose certificates prove devices.
func (w *World) Trust(cas ...*x509.Certificate) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cas = append(w.cas, cas...)
}

// Distrust forgets them all.
func (w *World) Distrust() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cas = nil
}

// Refuse sets the kinds of tokens that prove nobody.
func (w *World) Refuse(r access.Refused) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refused = r
}

func (w *World) refusals(context.Context) (access.Refused, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.refused, nil
}

func (w *World) authorities(context.Context) ([]*x509.Certificate, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.cas), nil
}

// Device creates a device, or a module, with keys of its own.
func (w *World) Device(t testing.TB, id iot.ID) registry.Identity {
	t.Helper()
	return w.DeviceWith(t, id, registry.Authentication{})
}

// DeviceWith is Device with another way to authenticate.
func (w *World) DeviceWith(t testing.TB, id iot.ID, a registry.Authentication) registry.Identity {
	t.Helper()
	d, err := w.CreateDevice(context.Background(), registry.Identity{ID: id, Authentication: a})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Resource is what a token of id is for.
func Resource(id iot.ID) string {
	r := Host + "/devices/" + id.Device
	if id.Module != "" {
		r += "/modules/" + id.Module
	}
	return r
}

// Token is a token of d's own, good for an hour.
func (w *World) Token(d registry.Identity) string {
	return sas.Sign(Resource(d.ID), d.Authentication.PrimaryKey.Reveal(), w.Clock.Now().Add(time.Hour), "")
}

// Credentials are those of d with its own token.
func (w *World) Credentials(d registry.Identity) iot.Credentials {
	return iot.Credentials{ID: d.ID, Host: Host, Token: w.Token(d), Protocol: "mqtt", Remote: "192.0.2.1:1"}
}

// Clock is real time, moved by what its owner adds.
type Clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

// Now is its time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

// Add moves it.
func (c *Clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// Post counts the mailboxes that are open.
type Post struct {
	bus.Post
	mu   sync.Mutex
	open int
}

// Listen implements bus.Post.
func (p *Post) Listen(name string) (func(), error) {
	cancel, err := p.Post.Listen(name)
	if err != nil {
		return nil, err
	}
	p.count(1)
	return sync.OnceFunc(func() { p.count(-1); cancel() }), nil
}

func (p *Post) count(d int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open += d
}

// Open is the number of mailboxes somebody listens to.
func (p *Post) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open
}

// Until waits until done is true.
func Until(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain for %s", Patience, what)
		}
	}
}

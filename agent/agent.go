// Package agent is the Linux micro agent: it runs collectors, gathers what they see, and sends it as security messages of a module
// identity whose twin configures it (defender §1.4, §1.5, §3.3). Which collectors there are is its caller's matter ([Config].Sources).
//
// Messages wait on disk until the hub has them, so neither a lost network nor kill -9 loses what was gathered before it. Memory
// is bounded: see Cache sizes in package config, and package queue.
package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/agent/config"
	"github.com/vauban-iot/vauban/agent/gather"
	"github.com/vauban-iot/vauban/agent/queue"
	"github.com/vauban-iot/vauban/sdk/device"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// The modules that an agent may be (defender §1.5).
const (
	Module   = "DefenderIotMicroAgent"
	ModuleV1 = "azureiotsecurity"
)

// Source is a collector: one of Watcher and Snapshot.
type Source struct {
	Name     string // one of config.Names
	Watcher  collect.Watcher
	Snapshot collect.Snapshot
}

// Config of an agent. Fields are required unless they say otherwise.
type Config struct {
	Dir      string                         // its state; made when it is missing
	Device   device.Config                  // the module's identity and how to reach the hub, less handlers
	Sources  func(config.Settings) []Source // makes the collectors for settings; those that are off need not be among them
	Version  string
	MaxQueue int64         // bytes of messages that wait; 0: 16 MiB
	First    time.Duration // until the first snapshots are taken, half of it chance; 0: 30 s
	Refused  func()        // hears that the hub does not accept the credentials; may be nil
	Log      *Log          // may be nil: then nothing of the agent's own log is sent
	Logger   *slog.Logger  // nil: slog.Default
}

const (
	defaultQueue = 16 << 20
	defaultFirst = 30 * time.Second
	defaultCache = 256             // of a watcher whose cache the twin does not know
	snapshotTime = 5 * time.Minute // one snapshot takes at most
	lastSend     = 5 * time.Second // what waits when the agent ends may still be sent for
)

// Agent is one agent. Make it with New.
type Agent struct {
	cfg    Config
	log    *slog.Logger
	client *device.Client
	v1     bool
	start  time.Time
	queue  *queue.Queue

	// Of the goroutine of loop.
	settings config.Settings
	section  map[string]any             // of v1: what is in force
	desired  map[string]json.RawMessage // as it was last heard; nil: never
	due      map[string]time.Time
	busy     bool
	sources  []Source
	caches   map[string]*gather.Cache
	waiting  []chan struct{}    // who wait for what is due now
	gen      context.Context    // of the collectors
	cancel   context.CancelFunc // ends them
	running  *sync.WaitGroup    // the collectors
	batches  chan batch
	flushes  chan flush
	reports  chan any

	twins chan device.TwinEvent

	mu     sync.Mutex // status
	status Status
	counts map[string]*tally
	expiry time.Duration // of messages

	told        queue.State // what statistics have said of the queue
	toldExpired uint64
}

// batch is what was taken of collectors that were due. It is of one generation of collectors.
type batch struct {
	names []string
	cut   []string // snapshots that were not finished, because the collectors ended
	all   []collect.Observation
	done  []chan struct{} // closed when it is in the queue
}

// tally is what became of a collector's observations since it was last told.
type tally struct{ sent, full, failed uint64 }

// New returns an agent. It touches nothing before Run.
func New(cfg Config) (*Agent, error) {
	a := &Agent{
		cfg: cfg, log: cfg.Logger, due: make(map[string]time.Time), caches: make(map[string]*gather.Cache), counts: make(map[string]*tally),
		batches: make(chan batch), flushes: make(chan flush), reports: make(chan any, 1), twins: make(chan device.TwinEvent),
	}
	if a.log == nil {
		a.log = slog.Default()
	}
	if a.cfg.MaxQueue == 0 {
		a.cfg.MaxQueue = defaultQueue
	}
	if a.cfg.First == 0 {
		a.cfg.First = defaultFirst
	}
	d := cfg.Device
	d.Twin = func(ctx context.Context, e device.TwinEvent) {
		select {
		case a.twins <- e:
		case <-ctx.Done():
		}
	}
	d.State = a.connection
	d.Logger = a.log
	var err error
	if a.client, err = device.New(d); err != nil {
		return nil, err
	}
	_, dev, module := a.client.ID()
	switch module {
	case Module:
	case ModuleV1:
		a.v1 = true
	case "":
		return nil, fmt.Errorf("this is the identity of device %s; the agent is a module of it: %s", dev, Hint(dev, Module))
	default:
		return nil, fmt.Errorf("the agent is module %s or %s, not %s: %s", Module, ModuleV1, module, Hint(dev, Module))
	}
	return a, nil
}

// Hint tells how the agent's module is made: that is never done silently.
func Hint(dev, module string) string {
	return fmt.Sprintf("an operator makes it with: vauban module create %s %s", dev, module)
}

// connection hears of the hub's connection.
func (a *Agent) connection(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil {
		a.status.Connected, a.status.ConnectionError = true, ""
		return
	}
	text := err.Error()
	if r, ok := errors.AsType[*device.RefusedError](err); ok && r.Code == 5 {
		if a.cfg.Refused != nil {
			a.cfg.Refused()
		}
		_, dev, module := a.client.ID()
		text += "; if the module does not exist, " + Hint(dev, module)
	}
	if a.status.Connected || a.status.ConnectionError != text {
		a.log.Warn("no connection to the hub", "err", text)
	}
	a.status.Connected, a.status.ConnectionError = false, text
}

// ErrRunning is returned by Run when another agent uses the folder.
var ErrRunning = errors.New("agent: another agent runs in this state folder")

// Run works until ctx ends; then what was gathered is kept, and sent as far as a few seconds suffice. Nothing it started outlives its
// return.
func (a *Agent) Run(ctx context.Context) (err error) {
	if err := os.MkdirAll(a.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("the state folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(a.cfg.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("the state folder: %w", err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return ErrRunning
	}
	if a.queue, err = queue.Open(filepath.Join(a.cfg.Dir, "queue"), a.cfg.MaxQueue); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.queue.Close()) }()
	ln, err := listenStatus(a.cfg.Dir)
	if err != nil {
		return err
	}
	a.start = time.Now()
	a.restore()
	a.expiry = a.settings.MessageTimeout
	online, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { _ = a.client.Run(online) }) // nil, always
	wg.Go(func() { a.send(online) })
	wg.Go(func() { a.report(online) })
	wg.Go(func() { a.serveStatus(online, ln) })
	a.loop(ctx)
	a.drain()
	stop()
	wg.Wait()
	return nil
}

// drain waits until what waits is sent, but not for long.
func (a *Agent) drain() {
	for end := time.Now().Add(lastSend); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		a.mu.Lock()
		connected := a.status.Connected
		a.mu.Unlock()
		if !connected || a.queue.State().Messages == 0 {
			return
		}
	}
}

// loop is the agent's own goroutine.
func (a *Agent) loop(ctx context.Context) {
	a.begin(ctx)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(a.wait())
		select {
		case <-ctx.Done():
			a.end()
			return
		case e := <-a.twins:
			a.twin(ctx, e)
		case b := <-a.batches:
			a.busy = false
			a.keep(b)
		case f := <-a.flushes:
			a.flush(f)
		case <-timer.C:
			a.take()
		}
	}
}

// wait is how long nothing is due.
func (a *Agent) wait() time.Duration {
	if a.busy {
		return time.Hour
	}
	next := time.Now().Add(time.Hour)
	for _, t := range a.due {
		if t.Before(next) {
			next = t
		}
	}
	return max(time.Until(next), 0)
}

// begin starts the collectors that the settings want.
func (a *Agent) begin(ctx context.Context) {
	gen, cancel := context.WithCancel(ctx)
	a.gen, a.cancel, a.running = gen, cancel, &sync.WaitGroup{}
	a.sources = a.own()
	for _, s := range a.cfg.Sources(a.settings) {
		if a.settings.Collectors[s.Name].Priority != config.Off {
			a.sources = append(a.sources, s)
		}
	}
	now := time.Now()
	due := make(map[string]time.Time)
	a.caches = make(map[string]*gather.Cache)
	status := make([]SourceStatus, 0, len(a.sources))
	for _, s := range a.sources {
		every := a.settings.Interval(s.Name)
		next := now.Add(every)
		if s.Snapshot != nil {
			next = now.Add(a.cfg.First/2 + rand.N(a.cfg.First/2+1))
		}
		if was, ok := a.due[s.Name]; ok {
			next = was
			if latest := now.Add(every); latest.Before(was) {
				next = latest
			}
		}
		due[s.Name] = next
		status = append(status, SourceStatus{Name: s.Name, Every: every.String(), Priority: a.settings.Collectors[s.Name].Priority.String(), watcher: s.Watcher})
	}
	a.due = due
	a.show(status)
	for _, s := range a.sources {
		if s.Watcher == nil {
			continue
		}
		size, ok := a.settings.CacheSize[s.Name]
		if !ok {
			size = defaultCache
		}
		cache := gather.New(size, a.settings.Collectors[s.Name].Apart)
		a.caches[s.Name] = cache
		a.running.Go(func() { a.watch(gen, s, cache) })
	}
}

// show puts new collectors into the status, and the limits of the settings in force.
func (a *Agent) show(sources []SourceStatus) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range sources {
		if was := a.sourceIndex(sources[i].Name); was >= 0 {
			sources[i].Last = a.status.Sources[was].Last
		}
	}
	a.status.Sources = sources
	a.expiry = a.settings.MessageTimeout
	limit := a.cfg.MaxQueue
	if n := a.settings.MaxCacheBytes; n > 0 {
		limit = min(n, limit)
	}
	a.queue.SetLimit(limit)
}

func (a *Agent) watch(ctx context.Context, s Source, cache *gather.Cache) {
	err := s.Watcher.Run(ctx, cache.Add)
	if err != nil && ctx.Err() == nil {
		a.log.Warn("a collector cannot work here", "collector", s.Name, "err", err)
		a.failed(s.Name, err)
	}
}

// end stops the collectors and keeps what they saw.
func (a *Agent) end() {
	a.cancel()
	if a.busy {
		b := <-a.batches
		a.busy = false
		for _, name := range b.cut {
			a.due[name] = time.Now()
		}
		a.keep(b)
	}
	a.running.Wait()
	b := batch{}
	for _, s := range a.sources {
		if s.Watcher != nil {
			b.names = append(b.names, s.Name)
		}
	}
	a.gathered(&b)
	a.keep(b)
}

// gathered adds what watchers of a batch saw.
func (a *Agent) gathered(b *batch) {
	for _, name := range b.names {
		cache, ok := a.caches[name]
		if !ok {
			continue
		}
		all, dropped := cache.Take()
		b.all = append(b.all, all...)
		a.mu.Lock()
		a.tally(name).full += dropped
		a.mu.Unlock()
	}
}

// take asks the collectors that are due, one after the other and beside the loop.
func (a *Agent) take() {
	if a.busy {
		return
	}
	now := time.Now()
	var b batch
	var snapshots []Source
	for _, s := range a.sources {
		if a.due[s.Name].After(now) {
			continue
		}
		b.names = append(b.names, s.Name)
		a.due[s.Name] = now.Add(a.settings.Interval(s.Name))
		if s.Snapshot != nil {
			snapshots = append(snapshots, s)
		}
	}
	if len(b.names) == 0 {
		return
	}
	a.busy = true
	b.done, a.waiting = a.waiting, nil
	gen := a.gen
	go func() {
		for _, s := range snapshots {
			taking, cancel := context.WithTimeout(gen, snapshotTime)
			all, err := s.Snapshot.Take(taking)
			cancel()
			if gen.Err() != nil && (err != nil || len(all) == 0) {
				b.cut = append(b.cut, s.Name)
				continue
			}
			b.all = append(b.all, told(s.Name, all, err)...)
			if err != nil {
				a.log.Warn("a collector could not see everything", "collector", s.Name, "err", err)
			}
			a.failed(s.Name, err)
		}
		a.batches <- b // the loop takes it before it ends
	}()
}

// keep makes messages of a batch and puts them into the queue.
func (a *Agent) keep(b batch) {
	a.gathered(&b)
	a.put(eventsOf(b.all))
	for _, c := range b.done {
		close(c)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.status.Sources {
		s := &a.status.Sources[i]
		if slices.Contains(b.names, s.Name) {
			s.Last = time.Now()
		}
	}
}

// put queues events as messages of at most the size that the twin allows.
func (a *Agent) put(events []secmsg.Event) {
	r := secmsg.Report{Agent: a.module(), AgentVersion: a.cfg.Version, Events: events}
	left := split(r, a.settings.MaxMessageBytes, func(body []byte, events []secmsg.Event) {
		err := a.queue.Put(queue.Message{Time: time.Now(), Label: secmsg.IndicatorJSON, Body: body})
		if err != nil {
			a.log.Error("a message is lost", "err", err)
		}
		a.account(events, err == nil)
	})
	if len(left) > 0 {
		a.log.Warn("observations over the size of a message are left out", "count", len(left))
		a.account(left, false)
	}
}

func (a *Agent) module() string {
	if a.v1 {
		return ModuleV1
	}
	return Module
}

// send sends what waits, oldest first.
func (a *Agent) send(ctx context.Context) {
	for {
		m, mark, err := a.queue.Next(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			a.log.Error("the queue cannot be read; trying again", "err", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Minute):
			}
			continue
		}
		a.mu.Lock()
		expiry, hub := a.expiry, a.status.hubResource
		a.mu.Unlock()
		deadline := m.Time.Add(expiry)
		if time.Now().After(deadline) {
			a.mu.Lock()
			a.status.Expired++
			a.mu.Unlock()
			a.done(mark)
			continue
		}
		out := device.Message{Body: m.Body, InterfaceID: device.SecurityInterface, ContentType: "application/json", ContentEncoding: "utf-8", Created: m.Time, Properties: map[string]string{}}
		if m.Label != "" {
			out.Properties["mti"] = m.Label
		}
		if hub != "" {
			out.Properties["HubResourceId"] = hub
		}
		sending, cancel := context.WithDeadline(ctx, deadline)
		err = a.client.Send(sending, out)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, context.DeadlineExceeded):
			continue // it waited for too long
		case err != nil:
			a.log.Error("a message cannot be sent and is dropped", "bytes", len(m.Body), "err", err)
		default:
			a.mu.Lock()
			a.status.Sent++
			a.status.LastSent = time.Now()
			a.mu.Unlock()
		}
		a.done(mark)
	}
}

func (a *Agent) done(mark queue.Mark) {
	if err := a.queue.Done(mark); err != nil {
		a.log.Error("the place in the queue cannot be kept; messages may be sent twice", "err", err)
	}
}

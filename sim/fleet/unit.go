package fleet

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"slices"
	"time"

	"github.com/vauban-iot/vauban/board"
	"github.com/vauban-iot/vauban/board/chance"
	"github.com/vauban-iot/vauban/board/environment"
	"github.com/vauban-iot/vauban/board/firmware/quickstart"
	"github.com/vauban-iot/vauban/board/firmware/security"
	"github.com/vauban-iot/vauban/board/network"
	"github.com/vauban-iot/vauban/board/stm32l475"
	"github.com/vauban-iot/vauban/rtos"
	"github.com/vauban-iot/vauban/sdk/device"
	"github.com/vauban-iot/vauban/sim/infection"
)

// unit is a board of a run with all that belongs to it. Only whoever runs the board touches it.
type unit struct {
	plan  *Board
	run   *run
	hw    *stm32l475.Board
	stack network.Stack

	actions []action
	next    int // of actions
	downs   int // reasons why its network is away

	device     *quickstart.Device // of the present kernel
	module     *security.Module   // nil: there is none
	infections []*infection.Infection
	log        *logbook // nil: there is none
	online     bool
	did        Counts
	crashed    []Crashed
	stopped    string
	trace      *tracer
}

// action is a moment at which something happens to a board from outside.
type action struct {
	at   time.Duration
	kind FaultKind
	over bool // what began with network loss
	n    int  // of flash wear
}

// actions are the events of a board, and the ends of those that last.
func (b *Board) actions() []action {
	var all []action
	for _, e := range b.Events {
		all = append(all, action{at: e.At, kind: e.Kind, n: e.Cycles})
		if e.Kind == NetworkLoss {
			all = append(all, action{at: e.At + e.Lasts, kind: e.Kind, over: true})
		}
	}
	slices.SortStableFunc(all, func(a, b action) int { return int(min(max(a.at-b.at, -1), 1)) })
	return all
}

// open makes the board, with its firmware, and switches it on.
func (r *run) open(ctx context.Context, plan *Board) (*unit, error) {
	u := &unit{plan: plan, run: r, actions: plan.actions()}
	f := r.file
	cfg := stm32l475.Config{
		Board:    board.Config{Name: plan.ID, Seed: plan.Seed, Epoch: r.epoch, RealTime: f.RealTime, Reboot: plan.Of.Reboot, OnCrash: u.crash, Events: crashEvents},
		DriftPPM: plan.DriftPPM,
		Place:    r.place(plan),
	}
	if slices.Contains(f.Trace, plan.ID) {
		u.trace = &tracer{hash: sha256.New()}
		cfg.Board.Tracer = u.trace
	}
	var err error
	if u.hw, err = stm32l475.New(cfg); err != nil {
		return nil, err
	}
	if u.stack, err = r.world.attach(plan); err != nil {
		return nil, err
	}
	fw, err := quickstart.New(quickstart.Config{
		Board: u.hw, Network: timed{u.stack, r}, Context: ctx, Roots: r.to.Roots, TLS: plan.Of.TLS, Interval: plan.Of.Interval, Event: u.event,
		Registration: device.Registration{Host: r.to.Hostname, IDScope: r.to.IDScope, ID: plan.ID, GroupKey: r.keys[plan.Of].Base64()},
		Define:       u.define, Delay: r.delay(plan),
	})
	if err != nil {
		return nil, err
	}
	image, err := fw.Image()
	if err != nil {
		return nil, err
	}
	if plan.Of.Log > 0 {
		u.log = &logbook{u: u}
	}
	if err := errors.Join(u.protect(), u.infect()); err != nil {
		return nil, err
	}
	image.Version, image.Parts = plan.Of.Firmware, r.partsOf(plan.Of, image.Parts)
	if err := u.hw.Load(image); err != nil {
		return nil, err
	}
	return u, u.hw.PowerOn()
}

// partsOf are what the firmware of an entry's boards takes, once for all of them.
func (r *run) partsOf(b *Boards, quickstart []board.Part) []board.Part {
	all, ok := r.parts[b]
	if !ok {
		all = slices.Clone(quickstart)
		if b.Security > 0 {
			all = append(all, security.Part())
		}
		if b.Log > 0 {
			all = append(all, logPart())
		}
		r.parts[b] = all
	}
	return all
}

// crashEvents is how many events of the kernel a crash report has.
const crashEvents = 16

// place is where the board is, and how its site's weather is.
func (r *run) place(plan *Board) *environment.Place {
	handled := 0.05
	site := environment.NewSite(chance.Seed(r.file.Seed, "site "+plan.Of.Site), environment.Temperate())
	if s := r.file.site(plan.Of.Site); s != nil {
		handled = s.Handled
		if s.Climate == "outdoor" {
			site = environment.NewSite(chance.Seed(r.file.Seed, "site "+s.Name), environment.Outdoor())
		}
	}
	return environment.NewPlace(site, plan.Seed, handled)
}

// delay is what the board's link adds to its requests in virtual time; over packets it is the switch that does.
func (r *run) delay(plan *Board) func(n uint64) time.Duration {
	l := r.file.link(plan.Of.Link)
	if l == nil || r.file.RealTime {
		return nil
	}
	seed := chance.Seed(plan.Seed, "link")
	return func(n uint64) time.Duration { return l.trip(chance.Mix(seed, n)) }
}

// define creates what runs beside the quickstart.
func (u *unit) define(k *rtos.Kernel, d *quickstart.Device) {
	u.online, u.device = false, d
	if u.module != nil {
		must(u.module.Define(k))
	}
	for _, i := range u.infections {
		must(i.Define(k, d.Await))
	}
	if u.log != nil {
		u.log.define(k)
	}
	if u.hw.Reason() != board.PowerOnReset {
		u.did.Resets++
		u.run.count(&u.run.series.resets, u.hw.Uptime(), 1)
	}
}

// event is what the firmware did.
func (u *unit) event(e quickstart.Event) {
	r := u.run
	if r.cut != nil && r.cut.Err() != nil {
		return // that it ends what is under way is none of the boards' doing
	}
	switch e.Kind {
	case quickstart.Provisioned:
		u.did.Registrations++
	case quickstart.Connected:
		u.did.Connects++
		u.online = true
		r.count(&r.series.connects, u.hw.Uptime(), 1)
	case quickstart.Lost:
		if u.online {
			u.did.Lost++
		} else {
			u.did.Failed++
		}
		u.online = false
	case quickstart.Sent:
		u.did.Telemetry++
		r.count(&r.series.messages, u.hw.Uptime(), 1)
	}
}

// maxCrashes bounds the crashes of a board, and the reports of a run, that are told in full.
const maxCrashes = 16

func (u *unit) crash(c board.CrashReport) {
	u.did.Crashes++
	u.run.count(&u.run.series.resets, c.Uptime, 1)
	if len(u.crashed) < maxCrashes {
		u.crashed = append(u.crashed, Crashed{At: c.Uptime.Seconds(), Where: c.Where, Thread: c.Thread, Value: c.Value})
	}
	u.run.crash(c)
}

// until plays the board in virtual time up to a moment, with what happens to it on the way.
func (u *unit) until(t time.Duration) {
	for u.stopped == "" {
		to := t
		act := u.next < len(u.actions) && u.actions[u.next].at <= t
		if act {
			to = u.actions[u.next].at
		}
		if err := u.hw.RunUntil(u.hw.Cycles(to)); err != nil {
			if _, crashed := errors.AsType[*board.CrashError](err); !crashed {
				u.stop(err)
				return
			}
			// It stands still, until somebody presses its button.
		}
		if !act {
			return
		}
		u.act(u.actions[u.next])
		u.next++
	}
}

// stop gives the board up.
func (u *unit) stop(why error) {
	u.stopped = why.Error()
	u.run.up.Add(-1)
}

// idle reports that nothing happens to the board up to a moment.
func (u *unit) idle(t time.Duration) bool {
	if u.stopped != "" {
		return true
	}
	if u.next < len(u.actions) && u.actions[u.next].at <= t {
		return false
	}
	at, ok := u.hw.NextEvent()
	return !ok || at > u.hw.Cycles(t)
}

// act lets something happen to the board, between two runs of it.
func (u *unit) act(a action) {
	switch a.kind {
	case Reset:
		u.hw.Reset(board.PinReset)
	case Brownout:
		u.brownout()
	case NetworkLoss:
		u.lose(a.over)
	case FlashWear:
		u.wear(a.n)
	case Panic:
		crash := func() { panic(injected{}) }
		if u.run.file.RealTime {
			_ = u.hw.Post(crash) // a board that is starting has nothing to crash
		} else {
			_ = u.hw.At(u.hw.Now(), crash) // likewise
		}
	}
}

// brownout lets the supply fall: at once, or, on a board that writes to its flash, in the middle of one of the next steps of that.
func (u *unit) brownout() {
	down := func() { u.hw.Reset(board.BrownoutReset) }
	if u.log == nil {
		down()
		return
	}
	u.hw.QSPI.CutAt(1+chance.Mix(u.plan.Seed, u.hw.QSPI.Steps())%8, down)
}

// injected is what a firmware panics with because the fleet file says so.
type injected struct{}

func (injected) Error() string { return "a fault of the fleet file" }

func (u *unit) lose(over bool) {
	if over {
		u.downs--
	} else {
		u.downs++
	}
	if up := u.downs == 0; up != u.stack.Up() {
		u.stack.SetUp(up)
	}
}

// wear makes the pages of the external flash that are in use older.
func (u *unit) wear(erases int) {
	for n := range u.hw.QSPI.Pages() {
		if was := u.hw.QSPI.Erases(n); was > 0 {
			_ = u.hw.QSPI.Wear(n, was+uint32(erases)) // the page exists
		}
	}
}

// report is what became of the board.
func (u *unit) report(until time.Duration) BoardDid {
	p, of := u.plan, u.plan.Of
	address := p.Address
	if !address.IsValid() {
		for _, a := range u.stack.Settings().Addresses {
			if a.Addr().Is4() {
				address = a
			}
		}
	}
	d := BoardDid{
		ID: p.ID, Group: of.Group, Site: of.Site, Link: of.Link, Network: of.Network, Firmware: of.Firmware, Address: address.Addr().String(),
		DriftPPM: p.DriftPPM, Counts: u.did, Crashed: u.crashed, Stopped: u.stopped, Reasons: map[string]uint32{},
	}
	for reason := board.PinReset; reason <= board.CrashReset; reason++ {
		if n := u.hw.Resets(reason); n > 0 {
			d.Reasons[reason.String()] = n
		}
	}
	if len(u.crashed) > 0 && !of.Reboot && d.Stopped == "" {
		if _, still := u.hw.Crash(); still && u.hw.Kernel() == nil {
			d.Stopped = "crashed"
		}
	}
	for _, a := range p.Attacks {
		if a.At <= until {
			d.Attacks = append(d.Attacks, Attacked{a.Name, a.At.Seconds()})
		}
	}
	if u.module != nil {
		d.Unsent = u.module.Statistics().Lost
	}
	if u.log != nil {
		d.Log = &u.log.did
	}
	if u.trace != nil {
		d.Trace = &Traced{u.trace.events, hex.EncodeToString(u.trace.hash.Sum(nil))}
	}
	return d
}

func (u *unit) close() {
	u.hw.Close()
	if u.stack != nil {
		u.stack.Close()
	}
}

// tracer writes down every event of a kernel, in one line each.
type tracer struct {
	hash   hash.Hash
	events uint64
	line   []byte
}

func (t *tracer) Event(e rtos.Event) {
	t.events++
	t.line = fmt.Appendf(t.line[:0], "%d %d %08x %08x %08x %08x %08x %08x\n", e.Time, e.ID, e.Thread, e.Priority, e.Info[0], e.Info[1], e.Info[2], e.Info[3])
	t.hash.Write(t.line)
}

func (t *tracer) Created(o rtos.ObjectInfo) {
	t.line = fmt.Appendf(t.line[:0], "+ %d %08x %q %d %d %d\n", o.Kind, o.Address, o.Name, o.Parameter1, o.Parameter2, o.Priority)
	t.hash.Write(t.line)
}

func (t *tracer) Deleted(address uint32) {
	t.line = fmt.Appendf(t.line[:0], "- %08x\n", address)
	t.hash.Write(t.line)
}

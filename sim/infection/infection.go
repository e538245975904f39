// Package infection lets a virtual board do what an infected device does: the scripts of sim/traffic, played by a thread of the board through the
// board's own network, so that what its security module tells are flows that passed its network card (defender §6.4).
//
// Scans and floods are segments without connections, as programs with raw sockets send them; all else are connections and datagrams
// to a [World] that answers as the script says. Keys of flows and their bytes are the script's, with these differences: TCP connections have the
// local ports of the board's row, and take at least what opening and closing them takes; a ping is as long as the board's stack makes it.
//
// An infection outlives resets: it goes on with what the script has for the time then. What happens at the hub's door, with
// credentials that were stolen or are tried, comes from elsewhere in the world, at times of the board's clock.
package infection

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vauban-iot/vauban/board/network"
	"github.com/vauban-iot/vauban/rtos"
	"github.com/vauban-iot/vauban/sim/traffic"
)

// Config of an infection.
type Config struct {
	Attack  traffic.Attack
	Seed    uint64
	Masters []netip.Addr  // whom the board talks to, at most two; those that are missing come from the seed
	Onset   time.Duration // of the board's clock
	End     time.Duration // of the board's clock; zero: never

	Stack  network.Stack        // the board's; required
	World  *World               // required, behind the stack's router
	Uptime func() time.Duration // the board's clock, such as Board.Uptime; required

	Hub *Hub // for attacks at the hub's door

	Priority  uint32 // of the thread; zero: 12
	StackSize uint32 // bytes, of the thread; zero: 1024
}

// Await calls what blocks, for a thread: firmware.Caller's.
type Await func(typical time.Duration, call func(ctx context.Context) error) error

// Statistics say what an infection did, over all resets.
type Statistics struct {
	Acts   uint64 // conversations and visits
	Failed uint64 // of them: the board was offline, the hub refused
}

// Infection is a board's.
type Infection struct {
	cfg   Config
	stats Statistics

	script *traffic.Script
	begun  bool
	next   traffic.Act // of the script
	more   bool        // there is one
	steps  []step      // to come, by time
}

// New prepares an infection. It reports what is wrong with cfg.
func New(cfg Config) (*Infection, error) {
	script, err := traffic.NewScript(cfg.Attack, cfg.Seed, cfg.Masters...)
	if err != nil {
		return nil, fmt.Errorf("infection: %w", err)
	}
	raw := cfg.Attack == traffic.Mirai || cfg.Attack == traffic.OldCacheScan || cfg.Attack == traffic.SlowScan || cfg.Attack == traffic.SYNFlood
	_, canRaw := cfg.Stack.(network.Raw)
	visits := cfg.Attack == traffic.StolenKey || cfg.Attack == traffic.Stuffing
	switch {
	case cfg.Stack == nil || cfg.World == nil || cfg.Uptime == nil:
		return nil, errors.New("infection: Stack, World and Uptime are required")
	case raw && !canRaw:
		return nil, fmt.Errorf("infection: %s needs a network that sends segments of a program's own making", cfg.Attack)
	case cfg.Attack == traffic.Forward && cfg.World.call == nil:
		return nil, fmt.Errorf("infection: %s needs a world that can call the board", cfg.Attack)
	case visits && (cfg.Hub == nil || cfg.Hub.Dial == nil || cfg.Hub.Device == nil):
		return nil, fmt.Errorf("infection: %s needs the way to the hub, and what was stolen", cfg.Attack)
	case cfg.Onset < 0 || cfg.End < 0 || cfg.End > 0 && cfg.End <= cfg.Onset:
		return nil, fmt.Errorf("infection: from %s to %s: want an onset and a later end, or none", cfg.Onset, cfg.End)
	}
	if cfg.Priority == 0 {
		cfg.Priority = 12
	}
	if cfg.StackSize == 0 {
		cfg.StackSize = 1024
	}
	cfg.Masters = script.Masters()
	return &Infection{cfg: cfg, script: script}, nil
}

// Masters are whom the board talks to, for lists of bad addresses.
func (i *Infection) Masters() []netip.Addr { return slices.Clone(i.cfg.Masters) }

// Statistics are for whoever drives the board, between its runs.
func (i *Infection) Statistics() Statistics { return i.stats }

// Define creates the infection's thread, as a part of a firmware's own definition: it is called again after each reset.
func (i *Infection) Define(k *rtos.Kernel, await Await) error {
	r := &run{Infection: i, k: k, await: await}
	s := k.CreateThread(&r.thread, rtos.ThreadConfig{
		Name: "malware", Stack: k.Reserve(i.cfg.StackSize), Priority: i.cfg.Priority, Start: rtos.AutoStart, Entry: r.entry,
	})
	if err := s.Err(); err != nil {
		return fmt.Errorf("infection: its thread: %w", err)
	}
	return nil
}

// run is an infection between two resets.
type run struct {
	*Infection
	k      *rtos.Kernel
	thread rtos.Thread
	await  Await

	talks    []*talk
	promises []promise
}

// step is a part of an act that takes its time.
type step struct {
	at   time.Duration // of the board's clock
	act  traffic.Act   // In and Out are this step's
	last bool          // of its act
}

// talk is a conversation that is open.
type talk struct {
	key      traffic.Act // of it only what names the conversation
	conn     net.Conn
	fresh    bool         // nothing was said yet
	listener net.Listener // of one that the remote began
	caller   net.Conn     // and the remote's end
	done     func()       // with what the world is expected to do
}

// promise is what the world is expected to do for a while: packets may be on their way.
type promise struct {
	until time.Duration
	done  func()
}

// way is how long a packet is on its way at most.
const way = 2 * time.Second

// spread is how long a step stands for: what lasts longer takes several.
const spread = 10 * time.Second

func (r *run) entry(uint32) {
	defer r.hangUp()
	if !r.begun {
		r.begun = true
		r.next, r.more = r.script.Next()
	}
	for {
		for r.more && (len(r.steps) == 0 || r.cfg.Onset+r.next.At < r.steps[0].at) {
			r.plan(r.next)
			r.next, r.more = r.script.Next()
		}
		if len(r.steps) == 0 {
			return
		}
		s := r.steps[0]
		if r.cfg.End > 0 && s.at >= r.cfg.End {
			return
		}
		late := r.cfg.Uptime() - s.at
		if late < 0 {
			r.sleep(-late) // a reset meanwhile leaves the step for the thread after it
		}
		r.steps = slices.Delete(r.steps, 0, 1)
		if late <= spread { // otherwise the board was off
			r.do(s)
		}
	}
}

func (r *run) sleep(d time.Duration) {
	for d > 0 {
		part := min(d, time.Hour)
		tick := time.Second / time.Duration(r.k.Config().TicksPerSecond)
		_ = r.k.Sleep(uint32((part + tick - 1) / tick))
		d -= part
	}
}

// plan puts the steps of an act among those that are to come.
func (r *run) plan(a traffic.Act) {
	n := max(1, uint64((a.Lasts+spread-1)/spread))
	for i := range n {
		part := a
		part.In, part.Out = a.In*(i+1)/n-a.In*i/n, a.Out*(i+1)/n-a.Out*i/n
		s := step{at: r.cfg.Onset + a.At + time.Duration(i)*spread, act: part, last: i == n-1 && !a.Goes}
		at, _ := slices.BinarySearchFunc(r.steps, s, func(x, y step) int {
			if x.at <= y.at {
				return -1
			}
			return 1
		})
		r.steps = slices.Insert(r.steps, at, s)
	}
}

// do plays one step.
func (r *run) do(s step) {
	for len(r.promises) > 0 && r.promises[0].until <= s.at {
		r.promises[0].done()
		r.promises = r.promises[1:]
	}
	var err error
	switch a := s.act; {
	case a.Visit != nil:
		err = r.visit(a.Visit)
	case a.Protocol == "TCP" && !a.Inbound && a.In <= probed:
		err = r.probe(a)
	case a.Protocol == "TCP":
		err = r.exchange(s)
	case a.Protocol == "UDP":
		err = r.datagrams(a)
	default:
		err = r.ping(a)
	}
	r.stats.Acts++
	if err != nil {
		r.stats.Failed++
	}
}

// hangUp ends all conversations.
func (r *run) hangUp() {
	for len(r.talks) > 0 {
		r.close(r.talks[0])
	}
	for _, p := range r.promises {
		p.done()
	}
}

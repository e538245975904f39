// Package security is Azure's security module for boards, as NetX Duo 6.3.0 carries it, on the kernel: what the board sent and received,
// what runs on it and that it is alive, told to its hub in FlatBuffers (defender §1.1, §1.2, §3.1).
//
// It looks at the board's network card only ([network.Stack]'s Collect), and sends through connections that the firmware has anyway
// ([Client]). What it does depends on the kernel's clock, the board's random numbers and what sending answers, and on
// nothing else.
//
// The original counts its intervals by the world's clock, and may stand still for as long as that is set back; here they are counted by the
// kernel's ticks, and the world's clock only dates the events.
package security

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/vauban-iot/vauban/board"
	"github.com/vauban-iot/vauban/board/network"
	"github.com/vauban-iot/vauban/rtos"
	"github.com/vauban-iot/vauban/sdk/device"
)

// What the module says of itself.
const (
	Agent   = "defender-iot-micro-agent"
	Version = "3.5.4"
	// MTI is the message type indicator of schema 2.3 in FlatBuffers from Azure RTOS, raw events (defender §1.1).
	MTI = "2.3-1-0-0"
)

// MaxMessage is the longest message: 64 flows of each family and 500 bytes, what the original reserves.
const MaxMessage = 500 + network.FlowLimit*36 + network.FlowLimit*60

// Client is one of the firmware's connections to a hub, or the place for one. Its methods are called by the module's thread.
type Client interface {
	// Identity says whose connection it is. connected is false while there is none.
	Identity() (hub, device string, connected bool)
	// Send hands the message over to the connection. It may make the thread wait, but not its goroutine.
	Send(m device.Message) error
}

// Intervals are what asc_config.h sets. They are rounded up to multiples of Look.
type Intervals struct {
	Look    time.Duration // how often the module sees what is due; zero: a second
	First   time.Duration // the first collection is so long after the start, and up to twice that more by chance; zero: 30 s
	High    time.Duration // of NetworkActivity; zero: 10 s
	Low     time.Duration // of Heartbeat and SystemInformation; zero: 60 s
	Pending time.Duration // how long it goes on collecting without a hub; zero: 300 s
	Retry   time.Duration // between attempts to find a hub, or to send; zero: 3 s
}

// MaxClients is how many connections a module tells apart (defender §7).
const MaxClients = 64

// Config of a module.
type Config struct {
	Stack   network.Stack            // whose flows are told; required
	Clients []Client                 // in the order in which they are asked, 1 to 64
	Now     func() (time.Time, bool) // the firmware's clock; false: it is not set yet, and the module waits. Required
	Random  io.Reader                // the board's random numbers, for the first collection and the events' ids; required

	OS        string // what runs on the board, at most 64 bytes; empty: Azure RTOS 6.3
	Intervals Intervals
	Priority  uint32    // of its thread; zero: 4, that of the quickstart's Azure thread
	StackSize uint32    // bytes, of its thread; zero: 2048
	Console   io.Writer // is told of each change of its state; nil: nobody
}

// DefaultOS is what the original says of the ThreadX that it was built with (defender §1.2).
const DefaultOS = "Azure RTOS 6.3"

const maxOS = 64

// State is what the module does, in the original's words.
type State uint8

const (
	Waiting   State = iota // the clock is not set, or the board is off
	Pending                // it collects, and no hub is connected
	Active                 // it collects and sends
	Suspended              // no hub was connected for so long that it does not collect
)

func (s State) String() string {
	return [...]string{"waiting", "pending", "active", "suspended"}[s]
}

// Statistics say what a module did, over all resets of its board.
type Statistics struct {
	State    State
	Messages uint64 // given to a client, each copy counted
	Refused  uint64 // attempts to send that failed
	Lost     uint64 // messages that nobody took until the next collection, or a reset
	Full     uint64 // packets that were not counted, for the cache had no room for their flow
}

// Module is a board's security module.
type Module struct {
	cfg   Config
	steps intervals
	stats Statistics
	run   *run
}

// New makes a module. It reports what is wrong with cfg.
func New(cfg Config) (*Module, error) {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("security: "+format, args...)) }
	if cfg.Stack == nil {
		bad("Stack: the module needs the board's network")
	}
	if len(cfg.Clients) == 0 || len(cfg.Clients) > MaxClients {
		bad("Clients: %d of them; want 1 to %d connections to send through", len(cfg.Clients), MaxClients)
	}
	if cfg.Now == nil {
		bad("Now: the module needs the firmware's clock")
	}
	if cfg.Random == nil {
		bad("Random: the module needs the board's random numbers")
	}
	if cfg.OS == "" {
		cfg.OS = DefaultOS
	}
	if len(cfg.OS) > maxOS {
		bad("OS: %d bytes; want at most %d, or the message would not fit its page", len(cfg.OS), maxOS)
	}
	steps, err := cfg.Intervals.steps()
	if err != nil {
		errs = append(errs, err)
	}
	if cfg.Priority == 0 {
		cfg.Priority = defaultPriority
	}
	if cfg.StackSize == 0 {
		cfg.StackSize = defaultStack
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &Module{cfg: cfg, steps: steps}, nil
}

const (
	defaultPriority = 4
	defaultStack    = 2048
)

// intervals are Intervals in looks.
type intervals struct {
	look                             time.Duration
	first, high, low, pending, retry uint64
}

func (i Intervals) steps() (s intervals, err error) {
	s.look = i.Look
	if s.look == 0 {
		s.look = time.Second
	}
	for _, f := range []struct {
		name    string
		given   time.Duration
		looks   uint64 // of the original
		setting *uint64
	}{
		{"First", i.First, 30, &s.first}, {"High", i.High, 10, &s.high}, {"Low", i.Low, 60, &s.low},
		{"Pending", i.Pending, 300, &s.pending}, {"Retry", i.Retry, 3, &s.retry},
	} {
		if s.look < 0 || f.given < 0 || f.given > maxInterval {
			return s, fmt.Errorf("security: Intervals.%s: %s; want up to %s, of which Look is a part", f.name, f.given, maxInterval)
		}
		if *f.setting = uint64((f.given + s.look - 1) / s.look); f.given == 0 {
			*f.setting = uint64((time.Duration(f.looks)*time.Second + s.look - 1) / s.look)
		}
	}
	return s, nil
}

// maxInterval is more than the 145,440 s that Azure's documentation gives for the low priority.
const maxInterval = 7 * 24 * time.Hour

// Define creates the module's thread, as a part of a firmware's own definition: it is called again after each reset.
func (m *Module) Define(k *rtos.Kernel) error {
	if m.run != nil && m.run.message != nil {
		m.stats.Lost++
	}
	r := &run{m: m, k: k, tick: k.Ticks()}
	m.run, m.stats.State = r, Waiting
	if r.perLook = uint64(m.steps.look * time.Duration(k.Config().TicksPerSecond) / time.Second); r.perLook == 0 {
		return fmt.Errorf("security: Intervals.Look: %s is less than a tick of the kernel (%d a second)", m.steps.look, k.Config().TicksPerSecond)
	}
	s := k.CreateThread(&r.thread, rtos.ThreadConfig{
		Name: "security module", Stack: k.Reserve(m.cfg.StackSize), Priority: m.cfg.Priority, Start: rtos.AutoStart, Entry: r.entry,
	})
	if err := s.Err(); err != nil {
		return fmt.Errorf("security: its thread: %w", err)
	}
	return nil
}

// Statistics are what the module did until now. It is for whoever drives the board, between its runs.
func (m *Module) Statistics() Statistics { return m.stats }

// Part is what the module takes of a board besides its thread. RAM is counted from the original's declarations: caches of 64 flows of 32 bytes
// and 64 of 56, two hash tables for each, the page in which a message is built, twice its length, and 1 KiB for the rest. Flash is an assumption.
func Part() board.Part {
	const caches, tables, page, rest = network.FlowLimit * (32 + 56), 4 * (10 * network.FlowLimit / 7) * 4, 2 * MaxMessage, 1 << 10
	return board.Part{Name: Agent, Flash: 30 << 10, RAM: caches + tables + page + rest}
}

// Package fleet runs many virtual boards against an installation, as a file describes them: who they are, where they are, what
// goes wrong, who is infected and when.
//
//	f, err := fleet.Load("fleet.toml")
//	p := f.Plan()
//	report, err := fleet.Run(ctx, fleet.Config{Plan: p, Target: target})
//
// A [File] is parsed and judged as a whole: all that is wrong is told at once, with lines. A [Plan] is what follows from the file
// and its seed alone: boards with addresses, and moments for faults and attacks. Each board draws from sources of its own, one
// for each purpose, so that one more board changes nothing of the others.
//
// In virtual time boards run in windows, on a bounded number of goroutines; what they did is then the same on any machine, as long as the
// installation answers the same (docs/fleets.md).
package fleet

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vauban-iot/vauban/board/network/secure"
	"github.com/vauban-iot/vauban/board/stm32l475"
)

// File is a fleet file, judged and with its defaults filled in.
type File struct {
	Name     string
	Seed     uint64
	Epoch    time.Time     // the world's time when the boards are powered on; zero: the run ends now, or, in real time, begins now
	Duration time.Duration // of the boards' time
	RealTime bool
	Speed    float64       // at most so many times real time, in virtual time; 0: as fast as possible
	Window   time.Duration // of virtual time that each board runs by itself
	Trace    []string      // boards whose kernels are traced

	Boards  []Boards
	Sites   []Site
	Links   []Link
	Faults  []Fault
	Attacks []Attack
}

// Network is how boards reach the platform.
type Network string

// The networks.
const (
	Facade   Network = "facade"   // a table of who is where: for large fleets, and for virtual time
	Netstack Network = "netstack" // a TCP/IP stack for each board on a simulated switch; real time only
)

// Boards are some that are alike.
type Boards struct {
	Name     string // their ids are NAME-0001 and so on; NAME itself when the file gives no count
	Count    int
	Numbered bool // the file gives a count
	Model    string
	Network  Network
	TLS      secure.Profile
	Subnet   netip.Prefix // of their addresses
	Firmware string       // version
	Interval time.Duration
	Security time.Duration // between reports of the security module; 0: there is none
	Log      time.Duration // between lines that the board writes to its external flash; 0: it writes none
	Group    string        // security group
	Site     string
	Link     string
	DriftPPM float64 // each board's clock is off by up to so many millionths
	Reboot   bool    // after a crash; otherwise the board stands still
}

// Site is where boards are.
type Site struct {
	Name    string
	Climate string  // temperate or outdoor
	Handled float64 // share of the quarter-hours in which somebody moves a board about
}

// Link is the way of boards to the platform.
type Link struct {
	Name        string
	Latency     time.Duration // one way
	Jitter      time.Duration // up to so much more
	Loss        float64       // share of packets
	OutageEvery time.Duration // on average; 0: never
	OutageLasts time.Duration // on average
}

// FaultKind is what goes wrong on a board.
type FaultKind string

// The kinds of fault.
const (
	Reset       FaultKind = "reset"        // somebody presses the button
	Brownout    FaultKind = "brown-out"    // the supply falls too low
	FlashWear   FaultKind = "flash-wear"   // the external flash ages
	NetworkLoss FaultKind = "network-loss" // the board's own connection is away for a while
	Panic       FaultKind = "panic"        // the firmware crashes
)

// FaultKinds are all of them.
var FaultKinds = []FaultKind{Reset, Brownout, FlashWear, NetworkLoss, Panic}

// Fault is what goes wrong on boards, now and then.
type Fault struct {
	Kind   FaultKind
	Boards []string      // entries; empty: all
	Share  float64       // of their boards
	Every  time.Duration // on average, on each of these boards
	Lasts  time.Duration // of network loss, on average
	Cycles int           // of flash wear: erases by which every page in use is older
}

// Attack is what some boards begin to do.
type Attack struct {
	Name   string
	Boards []string // entries; empty: all
	Share  float64  // of their boards; 0: Count
	Count  int      // the first boards of each entry
	Onset  time.Duration
	Spread time.Duration // each board begins up to so much later
	// Address is whom the boards talk to; not valid: their seeds choose.
	Address netip.Addr
}

// Bounds of a fleet.
const (
	MaxBoards   = 20_000
	MaxNetstack = 500 // boards with a TCP/IP stack of their own
	MaxEntries  = 64  // of each table
	MaxTraces   = 16
	MaxDuration = 366 * 24 * time.Hour
	MaxEvents   = 1_000_000 // faults and outages of a run, as expected
	maxFile     = 1 << 20
)

// Models are the boards that there are.
var Models = []string{stm32l475.Profile().Name}

// defaults of the file.
const (
	defaultInterval = 10 * time.Second
	defaultWindow   = 10 * time.Second
	defaultSecurity = 10 * time.Second
)

// ids lists the devices of an entry.
func (b *Boards) id(i int) string {
	if !b.Numbered {
		return b.Name
	}
	return fmt.Sprintf("%s-%04d", b.Name, i+1)
}

// Total is how many boards there are.
func (f *File) Total() int {
	n := 0
	for i := range f.Boards {
		n += f.Boards[i].Count
	}
	return n
}

func (f *File) site(name string) *Site {
	return pick(f.Sites, func(s *Site) bool { return s.Name == name })
}

func (f *File) link(name string) *Link {
	return pick(f.Links, func(l *Link) bool { return l.Name == name })
}

func pick[T any](all []T, is func(*T) bool) *T {
	i := slices.IndexFunc(all, func(v T) bool { return is(&v) })
	if i < 0 {
		return nil
	}
	return &all[i]
}

// Package behaviour watches what devices do on the network and finds what infected and stolen ones do: scans, floods, beacons to a
// master, tunnels, data that leaves, payloads that arrive, relays, guessed passwords, one identity in two places. No list of bad addresses
// is needed: a device is compared with its own past and with the devices of its security group.
//
// An [Engine] reads the flows of security messages, a window of 10 seconds of an RTOS as well as hours of an agent (defender §6.3). A
// [Door] hears who knocks at the hub and at provisioning. Both only think: they keep their state in memory, have no clock of their
// own, and return findings for others to raise.
//
// Time is the hub's (defender §7). What a device says of its clock orders the events inside one message and nothing else, so that a device
// whose clock is years off is judged like any other. Events of before what was already seen, as a device sends after it was offline, are judged by
// themselves and change no sum over time; when the hub's own clock went back, the sums begin anew.
//
// Memory is bounded: at most [MaxOfDevice] bytes of a device, and Config.MaxBytes of all, beyond which the device that was silent for
// longest is forgotten and counted. Thresholds are constants, chosen by reasons that stand beside them; none was fitted to a data set.
package behaviour

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Bounds of what is remembered.
const (
	// MaxOfDevice is the most bytes that the state of one device takes; a usual one takes a quarter.
	MaxOfDevice = 6 << 10
	// defaultBytes holds 100,000 devices with ten remotes each.
	defaultBytes = 192 << 20

	maxRemotes  = 32   // of one device
	maxServices = 24   // protocols and ports of one device
	maxSweeps   = 4    // services that a device may be scanning slowly
	maxRelays   = 4    // pairs of flows that may belong together
	maxHeld     = 4    // findings of one device that wait for what its group does
	maxFound    = 64   // findings of one message; each becomes an alert
	maxRecent   = 16   // findings of one device that are not told again at once
	maxGroups   = 256  // devices of further groups are compared with all of those
	maxKnown    = 2048 // remotes and services of one group
)

// Times, all in seconds.
const (
	minute, hour, day = 60, 3600, 86400

	// defaultLearn is how long a device's first steps are taken for its normal life.
	defaultLearn = day
	// quiet is how long the same finding is not told again.
	quiet = 10 * minute
	// backlog is how far before its message an event may be placed.
	backlog = day
	// stepBack is how far the hub's time may go back, as that of several servers does, before the sums of a device begin anew.
	stepBack = hour
	// usual is the window of an RTOS, for flows that say none (defender §3.1).
	usual = 10
)

// Config of an Engine.
type Config struct {
	Learn    time.Duration // of a device's first life, in which new remotes are its own; zero: a day
	MaxBytes int64         // of all devices; zero: 192 MiB
}

// Engine watches the flows of devices. It is safe for concurrent use.
type Engine struct {
	learn    uint32
	maxBytes int64
	off      atomic.Uint32 // bits of detectors that are switched off

	mu      sync.Mutex
	devices map[iot.ID]*device
	groups  map[string]*group
	bytes   int64
	dropped uint64
	untold  uint64
	dirty   [Shards]bool
	scratch scratch
}

// NewEngine returns an engine that knows nobody.
func NewEngine(cfg Config) *Engine {
	e := &Engine{learn: uint32(cfg.Learn / time.Second), maxBytes: cfg.MaxBytes, devices: make(map[iot.ID]*device), groups: make(map[string]*group)}
	if cfg.Learn <= 0 {
		e.learn = defaultLearn
	}
	if e.maxBytes <= 0 {
		e.maxBytes = defaultBytes
	}
	return e
}

// Message is a security message that could be read.
type Message struct {
	From     iot.ID
	Group    string // the security group of the device
	Sequence uint64 // in the log; a message that is not behind the last one of its device is left out. Zero: it has none
	Enqueued time.Time
	Report   *secmsg.Report
}

// Finding is something a detector found.
type Finding struct {
	Detector  string // its name
	Type      string // of the alert
	Indicator string // tells it from others of its type on the device
	At        time.Time
	Since     time.Time    // when what was seen began; zero: with this message
	Expected  string       // in words
	Seen      string       // in words
	Flow      *secmsg.Flow // one that shows it; nil: none
	Items     [][2]int     // places in the message, event and item of its details, at most 10; none: it was held back
	Sureness  int          // 1..100, of the detector's own
}

// Reset forgets everybody.
func (e *Engine) Reset() {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.devices)
	clear(e.groups)
	e.bytes, e.dirty = 0, [Shards]bool{}
}

// Stats are numbers of an engine.
type Stats struct {
	Devices int
	Bytes   int64
	Dropped uint64 // devices that were forgotten for want of room
	Untold  uint64 // findings of messages that have more than 64
}

// Stats returns how much is remembered.
func (e *Engine) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	return Stats{len(e.devices), e.bytes, e.dropped, e.untold}
}

// Stale reports whether the group of a device is not known, or was asked for longer than 10 minutes before at.
func (e *Engine) Stale(id iot.ID, at time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	d := e.devices[id]
	return d == nil || d.Asked == 0 || clock(at) >= d.Asked+quiet || clock(at)+stepBack < d.Asked
}

// Group says in which security group a device is since at.
func (e *Engine) Group(id iot.ID, name string, at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	d := e.device(id, clock(at))
	d.Asked = clock(at)
	e.join(d, name)
}

// Observe judges a message and learns from it. The findings are in no order.
func (e *Engine) Observe(m Message) []Finding {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := clock(m.Enqueued)
	d := e.device(m.From, now)
	if m.Sequence != 0 && m.Sequence <= d.Sequence {
		return nil
	}
	before := d.size()
	d.Sequence = max(d.Sequence, m.Sequence)
	if m.Group != "" {
		d.Asked = now
		e.join(d, m.Group)
	}
	w := watch{Engine: e, d: d, g: e.groupOf(d), off: e.off.Load(), now: now, report: m.Report}
	w.settle(now)
	w.message()
	w.release()
	e.bytes += d.size() - before
	e.dirty[shard(m.From)], e.dirty[groupShard(w.g.Name)] = true, true
	e.makeRoom(d)
	return w.found
}

// makeRoom forgets devices that were silent for long, but not keep.
func (e *Engine) makeRoom(keep *device) {
	for e.bytes > e.maxBytes && len(e.devices) > 1 {
		// The oldest of a few is old enough; maps are walked from anywhere.
		const sample = 16
		var oldest *device
		n := 0
		for _, d := range e.devices {
			if d != keep && (oldest == nil || d.Seen < oldest.Seen) {
				oldest = d
			}
			if n++; n == sample {
				break
			}
		}
		if oldest == nil {
			return
		}
		e.forget(oldest)
		e.dropped++
	}
}

// clock is a time as state keeps it: seconds since 1970, until 2106.
func clock(t time.Time) uint32 { return uint32(min(max(t.Unix(), 1), 1<<32-1)) }

func from(s uint32) time.Time { return time.Unix(int64(s), 0).UTC() }

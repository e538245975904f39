package security

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/vauban-iot/vauban/rtos"
	"github.com/vauban-iot/vauban/sdk/device"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// run is a module between two resets of its board: what is lost with the RAM. All times are in looks since the thread began.
type run struct {
	m       *Module
	k       *rtos.Kernel
	thread  rtos.Thread
	perLook uint64 // ticks

	tick  uint32 // of the kernel when last seen; it wraps
	ticks uint64 // since the thread began
	now   uint64 // what the current look counts as, in looks

	state   State
	since   uint64 // when it began
	collect uint64 // when it is looked for something to collect; never: not at all
	examine uint64 // when the state is looked at

	last    [collectors]uint64 // when each collected
	counter [2]uint64          // of event ids
	message []byte             // collected, and not sent
}

const never = ^uint64(0)

// The collectors, in the order in which they are asked: by priority.
const (
	networkActivity = iota
	heartbeat
	systemInformation
	collectors
)

func (r *run) interval(c int) uint64 {
	if c == networkActivity {
		return r.m.steps.high
	}
	return r.m.steps.low
}

func (r *run) entry(uint32) {
	for !r.start() {
		r.sleep(r.now + 1)
	}
	for {
		r.sleep(min(r.collect, r.examine))
		// What a look schedules for itself happens in the next one.
		collect, examine := r.collect <= r.now, r.examine <= r.now
		if collect {
			r.gather()
		}
		if examine && r.examine <= r.now {
			r.act()
		}
	}
}

// sleep waits for a look, or for the next one when that has passed.
func (r *run) sleep(look uint64) {
	look = max(look, r.now+1)
	for {
		r.observe()
		if r.ticks >= look*r.perLook {
			r.now = r.ticks / r.perLook
			return
		}
		_ = r.k.Sleep(uint32(min(look*r.perLook-r.ticks, 1<<31))) // who is woken early looks again
	}
}

func (r *run) observe() {
	t := r.k.Ticks()
	r.ticks += uint64(t - r.tick)
	r.tick = t
}

// start begins to collect once there are time and random numbers.
func (r *run) start() bool {
	if _, ok := r.m.cfg.Now(); !ok {
		return false
	}
	var random [20]byte
	if _, err := io.ReadFull(r.m.cfg.Random, random[:]); err != nil {
		return false
	}
	for i := range r.counter {
		r.counter[i] = binary.LittleEndian.Uint64(random[8*i:])
	}
	first := r.m.steps.first
	begin := r.now + first
	if first > 0 {
		begin += uint64(binary.LittleEndian.Uint32(random[16:])) % (2 * first)
	}
	r.enter(Pending)
	r.discard()
	for c := range r.last {
		r.last[c] = begin - r.interval(c) // it may wrap, and does so again when it is asked how long that is ago
	}
	r.collect = begin
	r.act()
	return true
}

func (r *run) enter(s State) {
	r.state, r.since, r.m.stats.State = s, r.now, s
	if w := r.m.cfg.Console; w != nil {
		fmt.Fprintf(w, "[security] the module is %s\r\n", s)
	}
}

// discard forgets flows of a time in which nothing was collected.
func (r *run) discard() { r.m.stats.Full += r.m.cfg.Stack.Collect().Full }

// due says when the next collector is.
func (r *run) due() uint64 {
	next := never
	for c, last := range r.last {
		left := uint64(0)
		if ago := r.now - last; int64(ago) < int64(r.interval(c)) {
			left = r.interval(c) - ago
		}
		next = min(next, r.now+left)
	}
	return next
}

// gather makes the message of what is due. One that was not sent gives way to it.
func (r *run) gather() {
	at, ok := r.m.cfg.Now()
	if !ok { // the clock was lost
		r.collect = r.now + r.m.steps.high
		return
	}
	if r.message != nil {
		r.message = nil
		r.m.stats.Lost++
	}
	report := secmsg.Report{Agent: Agent, AgentVersion: Version}
	for c := range collectors {
		if int64(r.now-r.last[c]) < int64(r.interval(c)) {
			continue
		}
		r.last[c] = r.now
		e := secmsg.Event{Time: at, Interval: time.Duration(r.interval(c)) * r.m.steps.look}
		switch c {
		case networkActivity:
			a := r.m.cfg.Stack.Collect()
			r.m.stats.Full += a.Full
			if len(a.Flows) == 0 {
				continue
			}
			e.Name, e.Flows = "NetworkActivity", a.Flows
		case heartbeat:
			e.Name = "Heartbeat"
		case systemInformation:
			e.Name, e.Payload = "SystemInformation", []secmsg.Item{secmsg.SystemInformation{OS: r.m.cfg.OS}}
		}
		e.ID = r.id()
		report.Events = append(report.Events, e)
	}
	if len(report.Events) > 0 {
		r.message = secmsg.AppendFlatBuffers(nil, report)
		r.act()
	}
	r.collect = r.due()
}

// id is that of the next event: two counters, and no more (defender §1.2).
func (r *run) id() string {
	var b [16]byte
	for i := range r.counter {
		r.counter[i]++
		binary.LittleEndian.PutUint64(b[8*i:], r.counter[i])
	}
	return hex.EncodeToString(b[:])
}

// act does what the state asks for.
func (r *run) act() {
	r.examine = never
	switch r.state {
	case Active:
		r.send()
	case Pending, Suspended:
		r.examine = r.now + r.m.steps.retry
		switch {
		case r.connected():
			if r.state == Suspended {
				r.discard()
				r.collect = r.due()
			}
			r.enter(Active)
			r.examine = r.now + 1
		case r.state == Pending && r.now-r.since > r.m.steps.pending:
			r.enter(Suspended)
			r.collect = never
		}
	}
}

func (r *run) connected() bool {
	for _, c := range r.m.cfg.Clients {
		if _, _, connected := c.Identity(); connected {
			return true
		}
	}
	return false
}

type identity struct{ hub, device string }

// send gives the message to every hub and device that is connected, once each.
func (r *run) send() {
	if r.message == nil {
		return
	}
	var done []identity // at most as many as there are clients
	connected := false
	for _, c := range r.m.cfg.Clients {
		hub, id, up := c.Identity()
		if !up {
			continue
		}
		connected = true
		who := identity{hub, id}
		if slices.Contains(done, who) {
			continue
		}
		err := c.Send(device.Message{Body: r.message, InterfaceID: device.SecurityInterface, Properties: map[string]string{secmsg.Indicator: MTI}})
		if err != nil {
			r.m.stats.Refused++
			continue
		}
		r.m.stats.Messages++
		done = append(done, who)
	}
	r.observe() // sending may have taken its time
	r.now = max(r.now, r.ticks/r.perLook)
	switch {
	case !connected:
		r.enter(Pending)
		r.examine = r.now + r.m.steps.retry
	case len(done) == 0:
		r.examine = r.now + r.m.steps.retry
	default:
		r.message = nil
	}
}

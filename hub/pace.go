package hub

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/command"
	"github.com/vauban-iot/vauban/hub/meter"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/hub/throttle"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/bag"
)

// pacer makes telemetry that comes too fast wait for its turn: traffic shaping (hub-device §2.9). Its goroutine exists only
// while something waits. How much that is is bounded by throttle.Backlog and by maxPaced.
type pacer struct {
	intake *telemetry.Intake

	running atomic.Bool // something waits; it changes under mu

	mu      sync.Mutex
	waiting []paced // in the order of their turns
	bytes   int
}

type paced struct {
	m     iot.Message
	size  int
	due   time.Time
	ack   iot.Acker
	token uint64
}

// maxPaced bounds the memory of what waits, as the intake bounds what waits for the disk.
const maxPaced = 16 << 20

// errBacklog is 429002: the device is dropped.
var errBacklog = fault.New(fault.Throttled, "too much telemetry waits for its turn")

// put lets m follow what waits already, not before due. m is copied.
func (p *pacer) put(m *iot.Message, ack iot.Acker, token uint64, due time.Time) bool {
	w := paced{m: copied(m), size: messageSize(m), due: due, ack: ack, token: token}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bytes+w.size > maxPaced {
		return false
	}
	p.bytes += w.size
	p.waiting = append(p.waiting, w)
	if !p.running.Swap(true) {
		go p.run()
	}
	return true
}

// idle reports whether nothing waits, so that a message on its time overtakes none.
func (p *pacer) idle() bool { return !p.running.Load() }

func (p *pacer) run() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.waiting) > 0 {
		w := p.waiting[0]
		p.waiting[0] = paced{}
		p.waiting = p.waiting[1:]
		p.mu.Unlock()
		time.Sleep(time.Until(w.due))
		p.intake.Submit(&w.m, w.ack, w.token)
		p.mu.Lock()
		p.bytes -= w.size
	}
	p.waiting = nil
	p.running.Store(false)
}

func copied(m *iot.Message) iot.Message {
	c := *m
	c.System = append([]bag.Property(nil), m.System...)
	c.Properties = append([]bag.Property(nil), m.Properties...)
	c.Body = append([]byte(nil), m.Body...)
	return c
}

// messageSize is what quotas and throttles count (hub-device §7).
func messageSize(m *iot.Message) int {
	n := len(m.Body)
	for i := range m.System {
		n += len(m.System[i].Value)
	}
	for i := range m.Properties {
		n += len(m.Properties[i].Name) + len(m.Properties[i].Value)
	}
	return n
}

// submit takes telemetry in: at once, behind what waits for its turn, or not at all.
func (h *Hub) submit(m *iot.Message, ack iot.Acker, token uint64) {
	if h.cfg.Mask != nil {
		h.cfg.Mask(m)
	}
	h.cfg.Meter.Count(meter.IngressAll)
	size := messageSize(m)
	h.cfg.Meter.Data(size)
	if h.cfg.Throttle == nil {
		h.cfg.Intake.Submit(m, ack, token)
		return
	}
	err := h.cfg.Throttle.Message(size)
	var wait time.Duration
	if err == nil {
		wait, err = h.cfg.Throttle.Take(throttle.Telemetry, throttle.Steps(size), throttle.Backlog)
	}
	if err == nil && wait == 0 && h.paced.idle() {
		h.cfg.Intake.Submit(m, ack, token)
		return
	}
	if err == nil && !h.paced.put(m, ack, token, time.Now().Add(wait)) {
		err = errBacklog
	}
	if err != nil {
		h.cfg.Meter.Count(meter.IngressThrottled)
		ack.Acked(token, err)
	}
}

// workers is the hub as its jobs see it: what they do with devices is limited, and waits for its turn.
type workers struct{ *Hub }

func (w workers) PatchTwin(ctx context.Context, id iot.ID, match *iot.Match, p twin.Patch) (registry.Identity, twin.Twin, error) {
	if err := w.cfg.Throttle.Patiently(ctx, throttle.JobDevices, 1); err != nil {
		return registry.Identity{}, twin.Twin{}, err
	}
	return w.Hub.PatchTwin(ctx, id, match, p)
}

func (w workers) Invoke(ctx context.Context, id iot.ID, m command.Method) (command.Result, error) {
	if err := w.cfg.Throttle.Patiently(ctx, throttle.JobDevices, 1); err != nil {
		return command.Result{}, err
	}
	return w.Hub.Invoke(ctx, id, m)
}

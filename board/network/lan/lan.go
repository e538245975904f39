// Package lan is an Ethernet switch in memory, with ports for virtual boards. It learns where
// stations are, floods what it does not know, and each cable may be slow, far, lossy or out.
//
// A Switch has no clock of its own: frames are put in with the time they are sent at, and
// come out when it is [Switch.Advance]d to the time they arrive at. [Switch.Run] does that by the
// clock of the machine. What a cable does to a frame depends on the seed, on the cable and on
// which frame of that cable it is, never on other cables: the same frames sent at the same times in the
// same order arrive at the same times, bit by bit. Under Run, or with network stacks that
// have timers and goroutines of their own, times and order are those of the machine, and only the row of
// losses and delays of each cable repeats.
package lan

import (
	"container/heap"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// MaxFrame is the longest frame in bytes, without its checksum: 1500 of payload.
	MaxFrame = 1514
	minFrame = 14
	// ageing is after how long a silent station is forgotten (IEEE 802.1D §7.9.2).
	ageing = 5 * time.Minute
)

// Config describes a switch.
type Config struct {
	Seed     uint64
	Ports    int // how many may be plugged in; 0: 4096
	Stations int // how many addresses are remembered; 0: 8192. Frames to others are flooded
}

// Link is a cable, the same in both directions. The zero value is perfect.
type Link struct {
	Latency time.Duration
	Jitter  time.Duration // added to Latency: between nothing and this. Frames of a cable stay in order
	Loss    float64       // of all frames, from 0 to 1
	Rate    int64         // bits a second; 0: no limit
	Queue   int           // frames under way in one direction; 0: 256. What comes then is dropped
}

// Validate tells what is wrong with a cable.
func (l Link) Validate() error {
	switch {
	case l.Latency < 0 || l.Jitter < 0:
		return fmt.Errorf("a cable cannot be faster than light: latency %v, jitter %v; want 0 or more", l.Latency, l.Jitter)
	case !(l.Loss >= 0 && l.Loss <= 1):
		return fmt.Errorf("a loss of %v; want 0 (none) to 1 (all frames)", l.Loss)
	case l.Rate < 0 || l.Queue < 0:
		return fmt.Errorf("a rate of %d bit/s and a queue of %d frames; want 0 (no limit, 256) or more", l.Rate, l.Queue)
	}
	return nil
}

// ErrFull is returned by Connect when all sockets of the switch are taken.
var ErrFull = errors.New("all ports of the switch are taken")

// MAC is the address of a station.
type MAC [6]byte

// Stats counts frames of one port, seen from its station.
type Stats struct {
	Sent, Received           uint64 // frames
	BytesSent, BytesReceived uint64
	Lost                     uint64 // by Link.Loss, either way
	Full                     uint64 // by Link.Queue, either way
	Refused                  uint64 // shorter than a header or longer than MaxFrame, or the cable was out
}

// Switch connects ports. Its methods may be called by any goroutine, also by receivers.
type Switch struct {
	cfg   Config
	start time.Time

	mu       sync.Mutex
	now      time.Duration
	ports    map[*Port]struct{}
	order    []*Port // as plugged in: who floods asks no map
	plugged  uint64
	stations map[MAC]station
	events   events
	seq      uint64
	real     bool          // Run gives the time
	wake     chan struct{} // tells Run of an earlier event
}

type station struct {
	port *Port
	seen time.Duration
}

// New makes a switch without ports.
func New(cfg Config) *Switch {
	if cfg.Ports == 0 {
		cfg.Ports = 4096
	}
	if cfg.Stations == 0 {
		cfg.Stations = 8192
	}
	return &Switch{cfg: cfg, ports: map[*Port]struct{}{}, stations: map[MAC]station{}, wake: make(chan struct{}, 1)}
}

// Port is a socket of a switch with a cable and a station behind it.
type Port struct {
	sw      *Switch
	receive func(frame []byte)

	// Guarded by sw.mu.
	link  Link
	up    bool
	group int
	stats Stats
	to    direction // the switch
	from  direction
}

// direction is one of the two of a cable.
type direction struct {
	rand   *rand.Rand
	queued int
	busy   time.Duration // until when a frame is being put on the cable
	last   time.Duration // when the last one arrives
}

// Connect plugs a cable in. receive is called with frames that arrive, by whoever advances the switch,
// one at a time; it owns the frame, and must not wait for another one.
func (s *Switch) Connect(link Link, receive func(frame []byte)) (*Port, error) {
	if err := link.Validate(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.order) >= s.cfg.Ports {
		return nil, ErrFull
	}
	s.plugged++
	p := &Port{sw: s, receive: receive, link: link, up: true}
	p.to.rand = rand.New(rand.NewPCG(s.cfg.Seed, 2*s.plugged))
	p.from.rand = rand.New(rand.NewPCG(s.cfg.Seed, 2*s.plugged+1))
	s.ports[p] = struct{}{}
	s.order = append(s.order, p)
	return p, nil
}

// Disconnect pulls the cable out for good. Frames on it are lost.
func (p *Port) Disconnect() {
	s := p.sw
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.ports[p]; !ok {
		return
	}
	delete(s.ports, p)
	p.up = false
	for i, q := range s.order {
		if q == p {
			s.order = append(s.order[:i], s.order[i+1:]...)
			break
		}
	}
	for m, st := range s.stations {
		if st.port == p {
			delete(s.stations, m)
		}
	}
}

// SetLink changes the cable. Frames under way arrive as if it had not changed.
func (p *Port) SetLink(l Link) error {
	if err := l.Validate(); err != nil {
		return err
	}
	p.sw.mu.Lock()
	p.link = l
	p.sw.mu.Unlock()
	return nil
}

// SetUp pulls the plug or puts it back. Frames under way are lost.
func (p *Port) SetUp(up bool) {
	p.sw.mu.Lock()
	defer p.sw.mu.Unlock()
	_, plugged := p.sw.ports[p]
	p.up = up && plugged
}

// Up tells whether the cable is in.
func (p *Port) Up() bool {
	p.sw.mu.Lock()
	defer p.sw.mu.Unlock()
	return p.up
}

// SetGroup parts the network: frames pass only between ports of one group. All begin in group 0.
func (p *Port) SetGroup(n int) {
	p.sw.mu.Lock()
	p.group = n
	p.sw.mu.Unlock()
}

// Stats are the port's counts.
func (p *Port) Stats() Stats {
	p.sw.mu.Lock()
	defer p.sw.mu.Unlock()
	return p.stats
}

// Send puts a frame on the cable at the switch's present time. The frame is copied. Like a card, it does
// not tell what becomes of it.
func (p *Port) Send(frame []byte) {
	s := p.sw
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tick()
	if !p.up || len(frame) < minFrame || len(frame) > MaxFrame {
		p.stats.Refused++
		return
	}
	p.stats.Sent++
	p.stats.BytesSent += uint64(len(frame))
	s.carry(p, &p.to, append([]byte(nil), frame...), false)
}

// tick reads the clock under Run. s.mu is held.
func (s *Switch) tick() {
	if s.real {
		s.now = max(s.now, time.Since(s.start))
	}
}

// carry plans when a frame reaches the other end of a cable. s.mu is held.
func (s *Switch) carry(p *Port, d *direction, frame []byte, down bool) {
	l := p.link
	// Both are drawn for every frame: what happens to the next one does not depend on this one's fate.
	lost, late := d.rand.Float64() < l.Loss, time.Duration(d.rand.Float64()*float64(l.Jitter))
	limit := l.Queue
	if limit == 0 {
		limit = 256
	}
	switch {
	case d.queued >= limit:
		p.stats.Full++
		return
	case lost:
		p.stats.Lost++
		return
	}
	sent := max(s.now, d.busy)
	if l.Rate > 0 {
		sent += time.Duration(int64(len(frame)) * 8 * int64(time.Second) / l.Rate)
	}
	d.busy = sent
	d.last = max(d.last, sent+l.Latency+late)
	d.queued++
	s.seq++
	heap.Push(&s.events, event{due: d.last, seq: s.seq, port: p, frame: frame, down: down})
	if s.real && s.events[0].seq == s.seq {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// Next is when the next frame arrives somewhere; false: none is under way.
func (s *Switch) Next() (time.Duration, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.events) == 0 {
		return 0, false
	}
	return s.events[0].due, true
}

// Now is the switch's time, which begins at 0.
func (s *Switch) Now() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tick()
	return s.now
}

// Advance plays the switch up to a time, and leaves it there. Frames that receivers send meanwhile
// are sent at the time at which they received. One goroutine at a time may call it, and not under Run.
func (s *Switch) Advance(to time.Duration) {
	for s.step(to) {
	}
	s.mu.Lock()
	s.now = max(s.now, to)
	s.mu.Unlock()
}

func (s *Switch) step(to time.Duration) bool {
	s.mu.Lock()
	if len(s.events) == 0 || s.events[0].due > to {
		s.mu.Unlock()
		return false
	}
	e := heap.Pop(&s.events).(event)
	if !s.real {
		s.now = max(s.now, e.due)
	}
	p := e.port
	if !e.down {
		p.to.queued--
		if p.up {
			s.forward(p, e.frame)
		}
		s.mu.Unlock()
		return true
	}
	p.from.queued--
	up := p.up
	if up {
		p.stats.Received++
		p.stats.BytesReceived += uint64(len(e.frame))
	}
	s.mu.Unlock()
	if up {
		p.receive(e.frame)
	}
	return true
}

// forward is the switch itself: it learns the sender, and sends on. s.mu is held.
func (s *Switch) forward(from *Port, frame []byte) {
	to, sender := MAC(frame[0:6]), MAC(frame[6:12])
	if _, known := s.stations[sender]; sender[0]&1 == 0 && (known || len(s.stations) < s.cfg.Stations || s.forget()) {
		s.stations[sender] = station{from, s.now}
	}
	if to[0]&1 == 0 {
		if st, ok := s.stations[to]; ok && s.now-st.seen < ageing {
			if st.port != from && st.port.up && st.port.group == from.group {
				s.carry(st.port, &st.port.from, frame, true)
			}
			return
		}
	}
	for _, p := range s.order {
		if p != from && p.up && p.group == from.group {
			s.carry(p, &p.from, append([]byte(nil), frame...), true)
		}
	}
}

// forget makes room by forgetting the stations that were silent for long. s.mu is held.
func (s *Switch) forget() bool {
	for m, st := range s.stations {
		if s.now-st.seen >= ageing {
			delete(s.stations, m)
		}
	}
	return len(s.stations) < s.cfg.Stations
}

// Run advances the switch by the machine's clock until ctx ends. Frames that are under way then stay.
func (s *Switch) Run(ctx context.Context) error {
	s.mu.Lock()
	s.real, s.start = true, time.Now().Add(-s.now)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.real = false
		s.mu.Unlock()
	}()
	t := time.NewTimer(time.Hour)
	defer t.Stop()
	for {
		for ctx.Err() == nil && s.step(s.Now()) {
		}
		wait := time.Hour
		if due, ok := s.Next(); ok {
			wait = due - s.Now()
		}
		if wait <= 0 && ctx.Err() == nil {
			continue
		}
		t.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-t.C:
		}
	}
}

// event is a frame that arrives: at the switch, or down at the station.
type event struct {
	due   time.Duration
	seq   uint64
	port  *Port
	frame []byte
	down  bool
}

// events is a heap by time; frames of one time arrive in the order in which they were sent.
type events []event

func (h events) Len() int { return len(h) }
func (h events) Less(i, j int) bool {
	return h[i].due < h[j].due || h[i].due == h[j].due && h[i].seq < h[j].seq
}
func (h events) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *events) Push(x any)   { *h = append(*h, x.(event)) }
func (h *events) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*h = old[:len(old)-1]
	return e
}

// Address is a station's address by number: locally administered, and the same for the same number.
func Address(n uint64) MAC {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n)
	return MAC{0x02, b[3], b[4], b[5], b[6], b[7]}
}

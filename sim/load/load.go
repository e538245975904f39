// Package load drives a hub, or any MQTT 3.1.1 broker, with many publishers and
// measures what they see. The load is open: each message has a time at which it
// should be sent, fixed in advance, and its latency counts from that time, so
// that a slow server cannot slow down the clock that measures it (no coordinated omission).
package load

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	wire "github.com/vauban-iot/vauban/wire/mqtt"
)

// Target says how device i of the load connects and where it publishes.
type Target interface {
	// Connect returns the CONNECT packet of device i.
	Connect(i int) wire.Connect
	// Topic returns the topic device i publishes to.
	Topic(i int) string
}

// Config of one run.
type Config struct {
	Address  string // host:port
	TLS      *tls.Config
	Target   Target
	Devices  int
	Rate     float64       // messages per second of all devices together
	Size     int           // bytes of payload, at least MinSize
	Body     []byte        // the payload of every message, in place of one of Size that is marked; nil: none
	InFlight int           // unacknowledged messages a device may have
	Warmup   time.Duration // not measured
	Duration time.Duration // measured
}

// MinSize is the smallest payload: it carries who sent it and which message it is.
const MinSize = 16

// Result of one run.
type Result struct {
	Offered  float64                 // messages per second that should have been sent
	Acked    float64                 // messages per second acknowledged in the measured time
	Latency  *hdrhistogram.Histogram // microseconds from the intended time to the PUBACK
	Late     *hdrhistogram.Histogram // of them, until the message was given to the connection: the generator's own part
	Sent     []uint64                // by device, whole run: messages sent
	Confirm  []uint64                // by device, whole run: messages acknowledged; they are the first ones
	Disorder uint64                  // PUBACKs that came out of order
	Errors   []error                 // connections that ended early
}

// Payload marks a message; Mark reads it back.
func Payload(dst []byte, device int, number uint64) {
	binary.BigEndian.PutUint32(dst[0:], 0x76616275)
	binary.BigEndian.PutUint32(dst[4:], uint32(device))
	binary.BigEndian.PutUint64(dst[8:], number)
}

// Mark returns which message of which device body is; ok is false when it is none of this load.
func Mark(body []byte) (device int, number uint64, ok bool) {
	if len(body) < MinSize || binary.BigEndian.Uint32(body) != 0x76616275 {
		return 0, 0, false
	}
	return int(binary.BigEndian.Uint32(body[4:])), binary.BigEndian.Uint64(body[8:]), true
}

const (
	maxLatency = 60_000_000 // microseconds
	shards     = 4
)

// Run connects all devices, publishes, and waits for the last acknowledgements.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	if cfg.Body != nil {
		cfg.Size = len(cfg.Body)
	} else if cfg.Size < MinSize {
		return nil, fmt.Errorf("a payload must have at least %d bytes", MinSize)
	}
	if cfg.Devices < 1 || cfg.Rate <= 0 || cfg.InFlight < 1 {
		return nil, errors.New("devices, rate and in-flight must be positive")
	}
	conns, err := Dial(ctx, cfg.Address, cfg.TLS, cfg.Target, cfg.Devices)
	if err != nil {
		return nil, err
	}
	defer CloseAll(conns)
	r := &run{cfg: cfg}
	for i := range r.hist {
		r.hist[i].h, r.hist[i].late = hdrhistogram.New(1, maxLatency, 3), hdrhistogram.New(1, maxLatency, 3)
	}
	interval := time.Duration(float64(time.Second) * float64(cfg.Devices) / cfg.Rate)
	start := time.Now().Add(50 * time.Millisecond)
	r.from = start.Add(cfg.Warmup)
	r.to = r.from.Add(cfg.Duration)
	pubs := make([]*publisher, cfg.Devices)
	var wg sync.WaitGroup
	for i, nc := range conns {
		p := &publisher{run: r, nc: nc, device: i, interval: interval, pending: make([]time.Time, cfg.InFlight), wake: make(chan struct{}, 1)}
		// Devices start at different moments of the interval, as a fleet does.
		p.start = start.Add(interval * time.Duration(i) / time.Duration(cfg.Devices))
		p.template = wire.AppendPublishHeader(nil, &wire.Publish{QoS: 1, PacketID: 1, Topic: []byte(cfg.Target.Topic(i))}, cfg.Size)
		pubs[i] = p
		wg.Go(p.read)
		wg.Go(func() { p.write(ctx) })
	}
	wg.Wait()
	res := &Result{Offered: cfg.Rate, Latency: hdrhistogram.New(1, maxLatency, 3), Late: hdrhistogram.New(1, maxLatency, 3), Disorder: r.disorder.Load()}
	for i := range r.hist {
		res.Latency.Merge(r.hist[i].h)
		res.Late.Merge(r.hist[i].late)
	}
	res.Acked = float64(r.measured.Load()) / cfg.Duration.Seconds()
	for _, p := range pubs {
		res.Sent = append(res.Sent, p.sent)
		res.Confirm = append(res.Confirm, p.acked)
		if p.err != nil {
			res.Errors = append(res.Errors, fmt.Errorf("device %d: %w", p.device, p.err))
		}
	}
	return res, ctx.Err()
}

type run struct {
	cfg      Config
	from, to time.Time
	measured atomic.Uint64
	disorder atomic.Uint64
	hist     [shards]struct {
		mu   sync.Mutex
		h    *hdrhistogram.Histogram
		late *hdrhistogram.Histogram
	}
}

// publisher is one device.
type publisher struct {
	run      *run
	nc       net.Conn
	device   int
	start    time.Time
	interval time.Duration
	template []byte // PUBLISH up to the packet id
	wake     chan struct{}

	mu      sync.Mutex
	sent    uint64
	acked   uint64
	waits   bool        // write sleeps until an acknowledgement comes
	pending []time.Time // intended times, by message number modulo the window
	closed  bool
	err     error
}

// drain is how long the last acknowledgements may take.
const drain = 10 * time.Second

func (p *publisher) intended(n uint64) time.Time { return p.start.Add(p.interval * time.Duration(n)) }

// write sends what is due, as far as the window allows, in one write.
func (p *publisher) write(ctx context.Context) {
	var buf []byte
	window := uint64(len(p.pending))
	timer := time.NewTimer(0)
	var late []int64
	full := false // what is late behind a full window is so because of the server
	defer timer.Stop()
	p.nc.SetWriteDeadline(p.run.to.Add(drain))
	stop := context.AfterFunc(ctx, func() { p.nc.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		now := time.Now()
		buf = buf[:0]
		p.mu.Lock()
		over := !now.Before(p.run.to)
		if p.closed || over && p.acked == p.sent {
			p.mu.Unlock()
			p.nc.Close()
			return
		}
		for !over && p.sent-p.acked < window && !p.intended(p.sent).After(now) && len(buf) < 16<<10 {
			p.pending[p.sent%window] = p.intended(p.sent)
			if !full {
				late = append(late, now.Sub(p.intended(p.sent)).Microseconds())
			}
			p.sent++
			buf = p.appendMessage(buf, p.sent)
		}
		full = p.sent-p.acked >= window
		next := p.intended(p.sent)
		p.waits = len(buf) == 0 && (full || over)
		p.mu.Unlock()
		if len(late) > 0 && now.After(p.run.from) && now.Before(p.run.to) {
			p.run.late(p.device, late)
		}
		late = late[:0]
		if len(buf) > 0 {
			if _, err := p.nc.Write(buf); err != nil {
				p.fail(err)
				return
			}
			continue
		}
		wait := time.Until(next)
		switch {
		case over:
			wait = time.Until(p.run.to.Add(drain))
			if wait <= 0 {
				p.fail(errors.New("acknowledgements are missing"))
				return
			}
		case full:
			wait = time.Until(p.run.to)
		}
		timer.Reset(max(wait, 0))
		select {
		case <-p.wake:
		case <-timer.C:
		}
	}
}

// appendMessage builds PUBLISH number n with packet id n modulo 65535, from 1.
func (p *publisher) appendMessage(buf []byte, n uint64) []byte {
	buf = append(buf, p.template...)
	binary.BigEndian.PutUint16(buf[len(buf)-2:], uint16((n-1)%65535+1))
	if body := p.run.cfg.Body; body != nil {
		return append(buf, body...)
	}
	at := len(buf)
	for range p.run.cfg.Size {
		buf = append(buf, 0)
	}
	Payload(buf[at:], p.device, n)
	return buf
}

func (p *publisher) read() {
	buf := make([]byte, 0, 1024)
	var latencies []int64
	for {
		n, err := p.nc.Read(buf[len(buf):cap(buf)])
		if err != nil {
			p.fail(err)
			return
		}
		now := time.Now()
		buf = buf[:len(buf)+n]
		rest := buf
		latencies = latencies[:0]
		p.mu.Lock()
		for len(rest) >= 2 {
			h, n, err := wire.ParseHeader(rest, 1<<16)
			if err != nil || n == 0 || len(rest) < n+h.Length {
				break
			}
			if h.Type == wire.PUBACK {
				id, _ := wire.ParsePacketID(rest[n : n+h.Length])
				if id != uint16(p.acked%65535+1) {
					p.run.disorder.Add(1)
				}
				latencies = append(latencies, now.Sub(p.pending[p.acked%uint64(len(p.pending))]).Microseconds())
				p.acked++
			}
			rest = rest[n+h.Length:]
		}
		waits := p.waits
		p.waits = false
		p.mu.Unlock()
		buf = append(buf[:0], rest...)
		if waits { // a timer wakes the writer otherwise: the load must not spend the machine that it measures
			select {
			case p.wake <- struct{}{}:
			default:
			}
		}
		if len(latencies) > 0 && now.After(p.run.from) && now.Before(p.run.to) {
			p.run.record(p.device, latencies)
		}
	}
}

func (r *run) record(device int, latencies []int64) {
	r.measured.Add(uint64(len(latencies)))
	s := &r.hist[device%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range latencies {
		_ = s.h.RecordValue(min(max(l, 1), maxLatency)) // in range: cannot fail
	}
}

func (r *run) late(device int, micros []int64) {
	s := &r.hist[device%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range micros {
		_ = s.late.RecordValue(min(max(l, 1), maxLatency)) // in range: cannot fail
	}
}

func (p *publisher) fail(err error) {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		if p.acked != p.sent || time.Now().Before(p.run.to) {
			p.err = err
		}
	}
	p.mu.Unlock()
	p.nc.Close()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// dialers is how many connections are opened at once.
const dialers = 128

// Dial opens n sessions and returns them in order.
func Dial(ctx context.Context, address string, cfg *tls.Config, t Target, n int) ([]net.Conn, error) {
	conns := make([]net.Conn, n)
	errs := make([]error, n)
	next := atomic.Int64{}
	var wg sync.WaitGroup
	for range min(dialers, n) {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n || ctx.Err() != nil {
					return
				}
				conns[i], errs[i] = dial(ctx, address, cfg, t.Connect(i))
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil || ctx.Err() != nil {
		CloseAll(conns)
		if err == nil {
			err = ctx.Err()
		}
		return nil, err
	}
	return conns, nil
}

// CloseAll closes connections, some of which may be nil.
func CloseAll(conns []net.Conn) {
	for _, c := range conns {
		if c != nil {
			c.Close()
		}
	}
}

const dialTimeout = 30 * time.Second

func dial(ctx context.Context, address string, cfg *tls.Config, connect wire.Connect) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var nc net.Conn
	var err error
	if cfg != nil {
		nc, err = (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", address)
	} else {
		nc, err = (&net.Dialer{}).DialContext(ctx, "tcp", address)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	nc.SetDeadline(time.Now().Add(dialTimeout))
	if _, err := nc.Write(wire.AppendConnect(nil, &connect)); err != nil {
		nc.Close()
		return nil, err
	}
	var ack [4]byte
	if _, err := io.ReadFull(nc, ack[:]); err != nil {
		nc.Close()
		return nil, fmt.Errorf("no CONNACK: %w", err)
	}
	if ack[0] != byte(wire.CONNACK)<<4 || ack[3] != 0 {
		nc.Close()
		return nil, fmt.Errorf("%s was refused with code %d", connect.ClientID, ack[3])
	}
	nc.SetDeadline(time.Time{})
	return nc, nil
}

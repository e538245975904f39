package mqtt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/vauban-iot/vauban/fault"
	wire "github.com/vauban-iot/vauban/wire/mqtt"
	"github.com/vauban-iot/vauban/wire/topic"
)

// Limits of one connection. Inbound telemetry that is not yet on disk is bounded by
// bytes and count: beyond it reading stops, and TCP slows the device. Output that a
// device does not read is bounded too: beyond it the connection is closed.
const (
	maxPayload      = 256 << 10                  // of a message with its properties (hub-device §7)
	maxPacket       = maxPayload + 2 + 65535 + 2 // topic length, topic, packet id
	maxConnect      = 16 << 10
	maxUnackedBytes = 1 << 20
	maxUnacked      = 4096
	maxWork         = 64
	maxOut          = 2 << 20
	writeChunk      = 4 << 10 // bytes of one TLS record: small devices keep whole records (hub-device §12)
	writeTimeout    = 30 * time.Second
	maxIdle         = 1767 * time.Second // hub-device §2.5
)

var (
	errNoPacket     = errors.New("the client sent no packet")
	errTooManyFiles = syscall.EMFILE
	errDisconnect   = errors.New("the device disconnected")
	errStopping     = fault.New(fault.Unavailable, "the server is stopping")
	errKeepAlive    = fault.New(fault.Timeout, "the device was silent for longer than its keep-alive allows")
	errSlow         = fault.New(fault.Throttled, "the device does not read what it is sent")
)

func protocolError(format string, args ...any) error {
	return fault.New(fault.Invalid, format, args...)
}

// dialect is what a connection speaks after its CONNECT: hub or provisioning.
type dialect interface {
	// publish takes one PUBLISH; an error closes the connection. p aliases the read buffer.
	publish(p *wire.Publish) error
	subscribe(id uint16, subs []wire.Subscription) error
	unsubscribe(id uint16, filters []string) error
	puback(id uint16)
	// ended runs once, when the connection is over; cause says why.
	ended(cause error)
}

// conn is one connection.
type conn struct {
	srv     *Server
	nc      Transport
	started time.Time
	name    string // device or registration, for the log
	rule    string // of the IP filter, that admitted the client
	idle    time.Duration
	dialect dialect
	ids     packetIDs
	early   []byte   // bytes that came in one read with the CONNECT
	small   [16]byte // the first bytes of a packet are read here, so that waiting needs no buffer

	mu       sync.Mutex
	progress sync.Cond // signalled when unacked, work or output shrink; L is &mu
	cause    error     // why the connection ends; nil while it lives
	shutDown bool      // nothing can be written any more
	out      []byte
	writing  bool
	acks     []ack // PUBACKs owed, in the order of the PUBLISHes (hub-device §2.6)
	ackBase  uint64
	unacked  int // bytes of telemetry not yet on disk
	work     []func()
	working  bool
}

type ack struct {
	id     uint16 // zero: QoS 0, nothing to send
	size   int32
	done   bool
	failed bool // never acknowledged
}

// open runs the handshake and answers the CONNECT. Its error was told to the client, if MQTT has words for it.
func (c *conn) open(ctx context.Context) error {
	c.progress.L = &c.mu
	c.nc.SetDeadline(c.started.Add(connectTimeout))
	if t, ok := c.nc.(overTLS); ok {
		if err := t.HandshakeContext(ctx); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
				return errNoPacket
			}
			return fault.Wrap(fault.Invalid, err, "the TLS handshake failed")
		}
	}
	h, body, err := c.readFirst()
	if err != nil {
		return err
	}
	if h.Type != wire.CONNECT {
		return protocolError("the first packet is %v, not CONNECT", h.Type)
	}
	hello, err := wire.ParseConnect(body)
	if errors.Is(err, wire.ErrVersion) {
		if hello.Level == 5 {
			c.refuse(wire.AppendConnackV5(nil, v5Unsupported))
		} else {
			c.refuse(wire.AppendConnack(nil, false, refusedVersion))
		}
		return protocolError("MQTT protocol level %d is not served; use MQTT 3.1.1", hello.Level)
	}
	if err != nil {
		return fault.Wrap(fault.Malformed, err, "the CONNECT packet is malformed")
	}
	c.idle = idleTimeout(hello.KeepAlive)
	if err := c.accept(ctx, &hello); err != nil {
		c.refuse(wire.AppendConnack(nil, false, refusal(err)))
		return err
	}
	return nil
}

func (c *conn) accept(ctx context.Context, hello *wire.Connect) error {
	if admit := c.srv.cfg.Admit; admit != nil {
		var err error
		if c.rule, err = admit(c.nc.RemoteAddr().String()); err != nil {
			return err
		}
	}
	user, err := topic.ParseUsername(hello.Username)
	if err != nil {
		return fault.Wrap(fault.Unauthorized, err, "the user name cannot be read")
	}
	if user.DPS {
		return c.acceptRegistrant(ctx, hello, user)
	}
	return c.acceptDevice(ctx, hello, user)
}

// idleTimeout is one and a half keep-alives, capped (hub-device §2.5).
func idleTimeout(keepAlive uint16) time.Duration {
	d := time.Duration(keepAlive) * 1500 * time.Millisecond
	if d == 0 || d > maxIdle {
		return maxIdle
	}
	return d
}

// CONNACK codes. 2 and 4 are never sent: they make clients stop for good (hub-device §2.3).
const (
	refusedVersion     = 1
	refusedUnavailable = 3
	refusedCredentials = 5
	v5Unsupported      = 0x84
)

// refusal is this head's table from kinds to CONNACK codes.
func refusal(err error) byte {
	switch fault.KindOf(err) {
	case fault.Disabled, fault.Throttled, fault.Unavailable, fault.Timeout, fault.Internal, fault.QueueFull, fault.QuotaExceeded:
		return refusedUnavailable
	default:
		return refusedCredentials
	}
}

func (c *conn) refuse(connack []byte) {
	// The client may be gone already; it is refused either way.
	_, _ = c.nc.Write(connack)
}

// readFirst reads one packet before the session exists.
func (c *conn) readFirst() (wire.Header, []byte, error) {
	buf := make([]byte, 0, 512)
	for {
		h, n, err := wire.ParseHeader(buf, maxConnect)
		if err != nil {
			return h, nil, fault.Wrap(fault.Malformed, err, "the first packet is malformed")
		}
		if n > 0 && len(buf) >= n+h.Length {
			c.early = append([]byte(nil), buf[n+h.Length:]...) // clients may send more right behind CONNECT
			return h, buf[n : n+h.Length], nil
		}
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		m, err := c.nc.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+m]
		if err != nil && m == 0 {
			if len(buf) == 0 {
				return h, nil, errNoPacket
			}
			return h, nil, fault.Wrap(fault.Invalid, err, "the connection ended inside the first packet")
		}
	}
}

// serve reads packets until the connection ends.
func (c *conn) serve(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { c.end(errStopping) })
	cause := c.read()
	stop()
	c.end(cause)
	c.mu.Lock()
	cause = c.cause
	orderly := c.writable()
	c.mu.Unlock()
	if !orderly {
		c.shut() // at once: a device that was taken over must see it
	}
	c.drain(orderly)
	c.dialect.ended(cause)
	c.shut()
	c.srv.cfg.Metrics.closed(cause)
	c.srv.log.Log(ctx, closeLevel(cause), "connection closed", "head", "mqtt", "device", c.name,
		"remote", c.nc.RemoteAddr().String(), "kind", fault.KindOf(cause).String(), "err", cause)
}

// closeLevel tells the ordinary ends of a connection from those an operator asks about.
func closeLevel(cause error) slog.Level {
	if errors.Is(cause, errDisconnect) || errors.Is(cause, errStopping) || fault.Is(cause, fault.ConnectionClosed) {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// end records why the connection is over and wakes its reader. The first cause stays.
func (c *conn) end(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return
	}
	c.cause = cause
	c.nc.SetReadDeadline(time.Unix(1, 0))
	c.progress.Broadcast()
}

// ending reports whether the connection is over, or about to be.
func (c *conn) ending() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause != nil
}

// drain waits until what the device asked for is done and, when the end is an orderly one, what
// was accepted is acknowledged and written. It gives up after drainTimeout.
func (c *conn) drain(orderly bool) {
	gaveUp := false
	timer := time.AfterFunc(drainTimeout, func() {
		c.mu.Lock()
		gaveUp = true
		c.acks, c.work = nil, nil
		c.progress.Broadcast()
		c.mu.Unlock()
	})
	defer timer.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for !gaveUp && (len(c.work) > 0 || c.working || orderly && (len(c.acks) > 0 || c.writing)) {
		c.progress.Wait()
	}
}

// shut closes the connection, in the transport's words and with a close_notify.
func (c *conn) shut() {
	c.mu.Lock()
	c.shutDown = true
	c.out = nil
	c.mu.Unlock()
	_ = c.nc.Close() // the peer may have closed first
}

// buffers holds read and write buffers of connections that are busy.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 16<<10); return &b }}

// keepBuffer is the largest buffer that goes back to the pool.
const keepBuffer = 64 << 10

func putBuffer(b *[]byte) {
	if cap(*b) <= keepBuffer {
		*b = (*b)[:0]
		buffers.Put(b)
	}
}

func (c *conn) read() error {
	pending := c.early
	c.early = nil
	for {
		n := 0
		if len(pending) == 0 {
			var err error
			c.deadline()
			if n, err = c.nc.Read(c.small[:]); n == 0 && err != nil {
				return c.readError(err)
			}
			// A keep-alive answer must not wait for a buffer, nor need one.
			if n == 2 && c.small[0] == byte(wire.PINGREQ)<<4 && c.small[1] == 0 {
				c.write(wire.AppendPingresp)
				continue
			}
		}
		b := buffers.Get().(*[]byte)
		*b = append((*b)[:0], pending...)
		*b = append(*b, c.small[:n]...)
		pending = nil
		err := c.readBurst(b)
		putBuffer(b)
		if err != nil {
			return err
		}
	}
}

// readBurst handles the packets in b and reads on until it stands between two packets.
func (c *conn) readBurst(b *[]byte) error {
	for {
		rest := *b
		need := 0
		for len(rest) > 0 {
			h, n, err := wire.ParseHeader(rest, maxPacket)
			if err != nil {
				return fault.Wrap(fault.Malformed, err, "malformed packet")
			}
			if n == 0 || len(rest) < n+h.Length {
				need = n + h.Length
				break
			}
			if err := c.packet(h, rest[n:n+h.Length]); err != nil {
				return err
			}
			rest = rest[n+h.Length:]
		}
		if len(rest) == 0 {
			return nil
		}
		*b = append((*b)[:0], rest...)
		if need > cap(*b) {
			grown := make([]byte, len(*b), need)
			copy(grown, *b)
			*b = grown
		}
		c.deadline()
		n, err := c.nc.Read((*b)[len(*b):cap(*b)])
		*b = (*b)[:len(*b)+n]
		if n == 0 && err != nil {
			return c.readError(err)
		}
	}
}

func (c *conn) deadline() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil {
		c.nc.SetReadDeadline(time.Now().Add(c.idle))
	}
}

func (c *conn) readError(err error) error {
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return errKeepAlive // unless end set another cause before
	}
	return fault.Wrap(fault.ConnectionClosed, err, "the device left without DISCONNECT")
}

func (c *conn) packet(h wire.Header, body []byte) error {
	switch h.Type {
	case wire.PUBLISH:
		p, err := wire.ParsePublish(h.Flags, body)
		if err != nil {
			return fault.Wrap(fault.Malformed, err, "malformed PUBLISH")
		}
		if p.QoS == 2 {
			return protocolError("QoS 2 is not served")
		}
		return c.dialect.publish(&p)
	case wire.PUBACK:
		id, err := wire.ParsePacketID(body)
		if err != nil {
			return fault.Wrap(fault.Malformed, err, "malformed PUBACK")
		}
		c.dialect.puback(id)
		return nil
	case wire.SUBSCRIBE:
		id, subs, err := wire.ParseSubscribe(body)
		if err != nil {
			return fault.Wrap(fault.Malformed, err, "malformed SUBSCRIBE")
		}
		return c.dialect.subscribe(id, subs)
	case wire.UNSUBSCRIBE:
		id, filters, err := wire.ParseUnsubscribe(body)
		if err != nil {
			return fault.Wrap(fault.Malformed, err, "malformed UNSUBSCRIBE")
		}
		return c.dialect.unsubscribe(id, filters)
	case wire.PINGREQ:
		c.write(wire.AppendPingresp)
		return nil
	case wire.DISCONNECT:
		return errDisconnect
	default:
		return protocolError("a client may not send %v here", h.Type)
	}
}

// owe queues the PUBACK of a PUBLISH of size bytes and returns its token for Acked. It
// waits while too much is under way.
func (c *conn) owe(id uint16, size int) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.cause == nil && len(c.acks) > 0 && (c.unacked+size > maxUnackedBytes || len(c.acks) >= maxUnacked) {
		c.progress.Wait()
	}
	if c.cause != nil {
		return 0, c.cause
	}
	c.acks = append(c.acks, ack{id: id, size: int32(size)})
	c.unacked += size
	return c.ackBase + uint64(len(c.acks)) - 1, nil
}

// Acked implements iot.Acker: the message of token is on disk, or will never be.
func (c *conn) Acked(token uint64, err error) {
	if err != nil {
		// MQTT 3.1.1 has no negative answer: the device learns by the closed
		// connection and sends the message again.
		c.srv.cfg.Metrics.lost.Inc()
		c.end(fmt.Errorf("telemetry not accepted: %w", err))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	i := token - c.ackBase
	if i >= uint64(len(c.acks)) {
		return // drain gave up on it
	}
	c.acks[i].done, c.acks[i].failed = true, err != nil
	n := 0
	for n < len(c.acks) && c.acks[n].done {
		if a := &c.acks[n]; a.id != 0 && !a.failed && c.writable() {
			c.out = wire.AppendPuback(c.out, a.id)
		}
		c.unacked -= int(c.acks[n].size)
		n++
	}
	if n == 0 {
		return
	}
	c.ackBase += uint64(n)
	if c.acks = c.acks[n:]; len(c.acks) == 0 {
		c.acks = nil
	}
	c.flushLocked()
	c.progress.Broadcast()
}

// writable reports whether the device may still be told something: the connection lives, or
// ends in an orderly way. c.mu must be held.
func (c *conn) writable() bool {
	return !c.shutDown && (c.cause == nil || errors.Is(c.cause, errStopping) || errors.Is(c.cause, errDisconnect))
}

// write appends to the output and sees that it is written. It is false when the connection is over.
func (c *conn) write(appendTo func([]byte) []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.writable() {
		return false
	}
	c.out = appendTo(c.out)
	c.flushLocked()
	return true
}

// flushLocked starts a writer if there is none. c.mu must be held.
func (c *conn) flushLocked() {
	if len(c.out) > maxOut && c.cause == nil {
		c.cause = errSlow
		c.nc.SetDeadline(time.Unix(1, 0)) // the writer hangs in the peer's full window
	}
	if c.writing || len(c.out) == 0 {
		return
	}
	c.writing = true
	c.srv.wg.Go(c.writer)
}

// writer writes until there is nothing left.
func (c *conn) writer() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.out) > 0 {
		buf := c.out
		c.out = nil
		c.mu.Unlock()
		err := c.writeAll(buf)
		c.mu.Lock()
		if err != nil {
			if c.cause == nil {
				c.cause = fault.Wrap(fault.ConnectionClosed, err, "the device cannot be written to")
				c.nc.SetReadDeadline(time.Unix(1, 0))
			}
			c.out = nil
			break
		}
	}
	c.writing = false
	c.progress.Broadcast()
}

func (c *conn) writeAll(buf []byte) error {
	c.nc.SetWriteDeadline(time.Now().Add(writeTimeout))
	for len(buf) > 0 {
		n := min(len(buf), writeChunk)
		if _, err := c.nc.Write(buf[:n]); err != nil {
			return err
		}
		buf = buf[n:]
	}
	return nil
}

// do runs f after the work queued before it. It waits while too much is queued.
func (c *conn) do(f func()) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.cause == nil && len(c.work) >= maxWork {
		c.progress.Wait()
	}
	if c.cause != nil {
		return c.cause
	}
	c.work = append(c.work, f)
	if !c.working {
		c.working = true
		c.srv.wg.Go(c.worker)
	}
	return nil
}

func (c *conn) worker() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.work) > 0 {
		f := c.work[0]
		if c.work = c.work[1:]; len(c.work) == 0 {
			c.work = nil
		}
		c.mu.Unlock()
		f()
		c.mu.Lock()
	}
	c.working = false
	c.progress.Broadcast()
}

package facade

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/board/network"
)

// What a TCP segment carries beside data; see the package's comment.
const (
	synHeader   = 40
	header      = 32
	resetHeader = 20
	segmentData = network.MTU - 20 - header
)

// conn counts what a connection carries.
type conn struct {
	stack    *Stack
	flow     network.Flow
	accepted bool

	mu     sync.Mutex // nothing else is locked while it is held, but the flows
	inner  net.Conn
	failed error
	closed bool
	burst  int64 // bytes that went in one direction since the last that went in the other
	out    bool  // which
}

func (c *conn) took(port uint16) { c.flow.Local = netip.AddrPortFrom(c.flow.Local.Addr(), port) }

// begin says what carries the bytes; false: the connection has ended already.
func (c *conn) begin(inner net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed != nil || c.closed {
		return false
	}
	c.inner = inner
	return true
}

func (c *conn) opened() {
	if c.flow.Protocol == network.TCP {
		c.count(!c.accepted, synHeader+header)
		c.count(c.accepted, synHeader)
	}
}

func (c *conn) refused() {
	c.count(true, synHeader)
	c.count(false, resetHeader)
}

func (c *conn) count(out bool, n int64) { c.stack.flows.Add(c.flow, out, int(n)) }

// data counts n bytes of the program's.
func (c *conn) data(out bool, n int) {
	if c.flow.Protocol == network.UDP {
		c.count(out, udpHeader+int64(n))
		return
	}
	c.mu.Lock()
	if c.out != out {
		c.out, c.burst = out, 0
	}
	before := segments(c.burst)
	c.burst += int64(n)
	after := segments(c.burst)
	c.mu.Unlock()
	c.count(out, int64(n)+header*(after-before))
	c.count(!out, header*((after+1)/2-(before+1)/2))
}

func segments(bytes int64) int64 { return (bytes + segmentData - 1) / segmentData }

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.inner.Read(b)
	if n > 0 {
		c.data(false, n)
	}
	return n, c.why(err)
}

func (c *conn) Write(b []byte) (int, error) {
	n, err := c.inner.Write(b)
	if n > 0 {
		c.data(true, n)
	}
	return n, c.why(err)
}

// why is the reason behind an error of the connection below.
func (c *conn) why(err error) error {
	if err == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed != nil {
		return c.failed
	}
	return err
}

// fail ends the connection without a word to the other side.
func (c *conn) fail(err error) {
	c.mu.Lock()
	if c.failed != nil || c.closed {
		c.mu.Unlock()
		return
	}
	c.failed = err
	inner := c.inner
	c.mu.Unlock()
	if inner != nil {
		inner.Close()
	}
	c.release()
}

func (c *conn) Close() error {
	c.mu.Lock()
	over := c.closed || c.failed != nil
	c.closed = true
	inner := c.inner
	c.mu.Unlock()
	if over {
		return nil
	}
	if c.flow.Protocol == network.TCP {
		c.count(true, 2*header)
		c.count(false, 2*header)
	}
	c.release()
	if inner == nil {
		return nil
	}
	return inner.Close()
}

func (c *conn) release() {
	if !c.accepted {
		c.stack.unbind(c.flow.Protocol, c.flow.Local.Port(), c)
		return
	}
	c.stack.mu.Lock()
	delete(c.stack.accepted, c)
	c.stack.mu.Unlock()
}

// CloseWrite ends one direction, if what carries the bytes can.
func (c *conn) CloseWrite() error {
	if h, ok := c.inner.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return nil
}

func (c *conn) LocalAddr() net.Addr                { return addr(c.flow.Protocol, c.flow.Local) }
func (c *conn) RemoteAddr() net.Addr               { return addr(c.flow.Protocol, c.flow.Remote) }
func (c *conn) SetDeadline(t time.Time) error      { return c.inner.SetDeadline(t) }
func (c *conn) SetReadDeadline(t time.Time) error  { return c.inner.SetReadDeadline(t) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.inner.SetWriteDeadline(t) }

func addr(p network.Protocol, a netip.AddrPort) net.Addr {
	if p == network.UDP {
		return net.UDPAddrFromAddrPort(a)
	}
	return net.TCPAddrFromAddrPort(a)
}

// backlog bounds the connections that wait to be accepted; further ones are refused.
const backlog = 16

type listener struct {
	stack *Stack
	at    netip.Addr // not valid: all
	port  uint16
	queue chan *conn
	once  sync.Once
	done  chan struct{}
}

// Listen implements network.Stack.
func (s *Stack) Listen(nw, address string) (net.Listener, error) {
	e, err := network.ParseListen(nw, address)
	if err != nil {
		return nil, err
	}
	if e.Protocol != network.TCP {
		return nil, &net.OpError{Op: "listen", Net: nw, Err: net.UnknownNetworkError(nw + ": want tcp; ListenPacket is for udp")}
	}
	if err := s.has(e.Address.Addr()); err != nil {
		return nil, &net.OpError{Op: "listen", Net: nw, Err: err}
	}
	l := &listener{stack: s, at: e.Address.Addr(), queue: make(chan *conn, backlog), done: make(chan struct{})}
	if _, err = s.bind(network.TCP, e.Address.Port(), l); err != nil {
		return nil, &net.OpError{Op: "listen", Net: nw, Err: err}
	}
	return l, nil
}

func (l *listener) took(port uint16) { l.port = port }

func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.done:
		return nil, net.ErrClosed
	default:
	}
	select {
	case <-l.done:
		return nil, net.ErrClosed
	case c := <-l.queue:
		return c, nil
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		l.stack.unbind(network.TCP, l.port, l)
		close(l.done)
		for { // nobody can reach it any more, and who waits is let go
			select {
			case c := <-l.queue:
				c.Close()
			default:
				return
			}
		}
	})
	return nil
}

func (l *listener) Addr() net.Addr {
	a := l.at
	if !a.IsValid() {
		a = netip.IPv6Unspecified()
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, l.port))
}

package infection

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/board/network"
)

// World is everybody outside whom infected boards talk to: who commands them, who takes what they steal, whom they look for. It does what the
// infections that it is shared by expect of it, and is silent to anybody else. Put it behind the router of the boards' network.
type World struct {
	call func(ctx context.Context, from, to netip.AddrPort) (net.Conn, error)

	mu       sync.Mutex
	expected map[network.Endpoint]*expectation
}

// expectation is what somebody is to do.
type expectation struct {
	answers bool // otherwise a connection is refused
	users   int
}

var _ network.Outside = (*World)(nil)

// NewWorld makes a world. call makes a connection from it to a board, such as facade.Segment's and gateway.Gateway's; nil: it never does.
func NewWorld(call func(ctx context.Context, from, to netip.AddrPort) (net.Conn, error)) *World {
	return &World{call: call, expected: map[network.Endpoint]*expectation{}}
}

// expect says what who is at e does until the returned function is called.
func (w *World) expect(e network.Endpoint, answers bool) (done func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.expected[e]
	if x == nil {
		x = &expectation{}
		w.expected[e] = x
	}
	x.answers = answers
	x.users++
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if x.users--; x.users == 0 && w.expected[e] == x {
			delete(w.expected, e)
		}
	}
}

func (w *World) find(p network.Protocol, at netip.AddrPort) *expectation {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.expected[network.Endpoint{Protocol: p, Address: at}]
}

// Connect implements network.Outside.
func (w *World) Connect(from, to netip.AddrPort) (net.Conn, error) {
	switch x := w.find(network.TCP, to); {
	case x == nil:
		return nil, network.ErrNoAnswer
	case !x.answers:
		return nil, network.ErrRefused
	}
	return &sink{local: to, remote: from, change: make(chan struct{})}, nil
}

// datagramHeader says how long the answer is to be.
const datagramHeader = 2

// Datagram implements network.Outside.
func (w *World) Datagram(_, to netip.AddrPort, data []byte) []byte {
	if x := w.find(network.UDP, to); x == nil || !x.answers || len(data) < datagramHeader {
		return nil
	}
	n := binary.BigEndian.Uint16(data)
	if n == 0 || n > maxDatagram {
		return nil
	}
	return make([]byte, n)
}

// Echo implements network.Outside.
func (w *World) Echo(_, to netip.Addr) bool {
	x := w.find(network.ICMP, netip.AddrPortFrom(to, 0))
	return x != nil && x.answers
}

// exchangeHeader begins each exchange over a sink: how many bytes it has with this header, and how many are to be answered.
const exchangeHeader = 8

// sink is a connection to somebody who takes all and answers as he is told to.
type sink struct {
	local, remote netip.AddrPort

	mu     sync.Mutex
	header [exchangeHeader]byte
	have   int    // of the header
	takes  uint32 // of the present exchange
	owes   uint64
	closed bool
	change chan struct{} // closed and made anew when any of it changes
}

func (s *sink) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, net.ErrClosed
	}
	n := len(b)
	for len(b) > 0 {
		if s.have < len(s.header) {
			k := copy(s.header[s.have:], b)
			s.have, b = s.have+k, b[k:]
			if s.have == len(s.header) {
				s.takes = binary.BigEndian.Uint32(s.header[:]) - min(binary.BigEndian.Uint32(s.header[:]), exchangeHeader)
				s.end()
			}
			continue
		}
		k := min(uint64(len(b)), uint64(s.takes))
		s.takes, b = s.takes-uint32(k), b[k:]
		s.end()
	}
	return n, nil
}

// end answers an exchange that is there. s.mu is held.
func (s *sink) end() {
	if s.takes > 0 {
		return
	}
	s.owes += uint64(binary.BigEndian.Uint32(s.header[4:]))
	s.have = 0
	close(s.change)
	s.change = make(chan struct{})
}

func (s *sink) Read(b []byte) (int, error) {
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return 0, net.ErrClosed
		}
		if s.owes > 0 || len(b) == 0 {
			n := min(uint64(len(b)), s.owes)
			s.owes -= n
			clear(b[:n])
			s.mu.Unlock()
			return int(n), nil
		}
		wait := s.change
		s.mu.Unlock()
		<-wait
	}
}

func (s *sink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.change)
		s.change = make(chan struct{})
	}
	return nil
}

func (s *sink) LocalAddr() net.Addr              { return net.TCPAddrFromAddrPort(s.local) }
func (s *sink) RemoteAddr() net.Addr             { return net.TCPAddrFromAddrPort(s.remote) }
func (*sink) SetDeadline(time.Time) error        { return os.ErrNoDeadline }
func (*sink) SetReadDeadline(time.Time) error    { return os.ErrNoDeadline }
func (*sink) SetWriteDeadline(t time.Time) error { return nil } // it never waits

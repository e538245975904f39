// Package network is the network as the firmware of a virtual board sees it: a [Stack] that
// dials, listens, resolves names and tells what went over the wire since it was last asked.
//
// Two stacks fit. Package netstack is a whole IPv4 and IPv6 stack with a network card on a
// virtual switch (package lan); every byte is a byte of a frame. Package facade has no packets:
// connections come from a dialer that it is given, a board costs little more than its flows, and
// what packets would have carried is estimated. The security module of a board asks either for
// its flows in the same way (defender §1.2, §3.1).
//
// What only needs a Stack is here: the clients for DNS ([Lookup]) and SNTP ([Time]), the table of
// flows with the parser that feeds it from frames, and the choice of local ports.
package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
)

// Stack is a board's network. All methods may be called by any goroutine, and block like those
// of package net; a thread of a kernel calls them from a goroutine that posts an interrupt.
type Stack interface {
	// Ready waits until the board has an address, or ctx ends.
	Ready(ctx context.Context) error
	// Settings are what the board was given or learned from its network.
	Settings() Settings
	// Dial connects. network is tcp or udp, or one of them with 4 or 6; the host of address may be
	// a name. The local port is the next of the board's own row, so flows of one seed are alike.
	Dial(ctx context.Context, network, address string) (net.Conn, error)
	// Listen takes TCP connections on an address such as ":23".
	Listen(network, address string) (net.Listener, error)
	// ListenPacket opens a UDP port; ":0" takes the next one of the board's row. An address of a group, such as
	// 224.0.0.251:5353, joins it.
	ListenPacket(network, address string) (net.PacketConn, error)
	// Resolve asks the board's name servers. A literal address is its own answer.
	Resolve(ctx context.Context, name string) ([]netip.Addr, error)
	// Ping sends one ICMP echo request and waits for the answer.
	Ping(ctx context.Context, to netip.Addr) (time.Duration, error)
	// SetUp plugs the cable in or out. While it is out, Dial and Ping fail with ErrDown.
	SetUp(up bool)
	Up() bool
	// Collect gives the flows since the last call and forgets them.
	Collect() Activity
	// Close ends everything that is open, and waits for it.
	Close() error
}

// Settings are addresses of a board and of those who serve it.
type Settings struct {
	Addresses   []netip.Prefix // each with the length of its subnet
	Routers     []netip.Addr
	NameServers []netip.Addr
	TimeServers []netip.Addr
	Domain      string
	Leased      time.Duration // of the IPv4 address; zero: not by DHCP
}

var (
	// ErrDown is returned while the board's cable is out, and by a closed stack.
	ErrDown = errors.New("the network is down")
	// ErrRefused is returned by Dial when the host is there and nobody listens on the port.
	ErrRefused = errors.New("connection refused")
	// ErrUnreachable is returned when no route or no neighbour leads to an address.
	ErrUnreachable = errors.New("no route to the host")
	// ErrNoAnswer is returned when packets went to somebody who is silent.
	ErrNoAnswer = errors.New("no answer")
	// ErrNoName is returned by Resolve for a name that does not exist, or has no address.
	ErrNoName = errors.New("no such name")
	// ErrNoAddress is returned when the board has no address yet of the family it would need.
	ErrNoAddress = errors.New("the board has no address of this family")
	// ErrPorts is returned when all local ports are taken.
	ErrPorts = errors.New("all local ports are taken")
)

// EchoSize is how long an echo request is, with its ICMP header (8) and 32 bytes of data.
const EchoSize = 8 + 32

// Raw is a stack from which programs may send segments of their own making, as scanners and floods do.
type Raw interface {
	// SYN sends the first segment of a TCP connection from any local port, and leaves what comes back to the stack, which
	// knows of no connection. It does not wait.
	SYN(local uint16, to netip.AddrPort) error
}

// Outside is the world behind the router of a network: whoever has an address that is not on the network itself. Its methods are called by any
// goroutine, and do not wait.
type Outside interface {
	// Connect answers the first segment of a connection: with what carries it, ErrRefused or ErrNoAnswer.
	Connect(from, to netip.AddrPort) (net.Conn, error)
	// Datagram is what a datagram is answered with; nil: nothing. It may keep nothing of data.
	Datagram(from, to netip.AddrPort, data []byte) []byte
	// Echo tells whether somebody answers a ping.
	Echo(from, to netip.Addr) bool
}

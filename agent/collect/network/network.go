// Package network counts the traffic of each connection, by the best source that works here (defender §3.3): a small eBPF program
// that counts packets inside the kernel; the kernel's own connection tracking, where that counts bytes; the list of sockets, whose
// TCP counts its bytes; or /proc/net, which knows the connections alone.
package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/agent/collect/proc"
	"github.com/vauban-iot/vauban/agent/collect/socket"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Config of a Watcher. The zero value is ready.
type Config struct {
	Devices   []string      // names of interfaces (the twin's NetworkActivity_Devices); empty: all but loopback
	Interval  time.Duration // between readings of the counters; default 2 s
	CacheSize int           // connections that are remembered between readings; default 4096
	FS        proc.FS       // default /proc

	without []string // sources that are not tried, for tests
}

// Watcher counts the traffic of connections. Of each it hands over what was new since it looked last.
type Watcher struct {
	cfg     Config
	source  atomic.Pointer[string]
	evicted atomic.Uint64
}

var _ collect.Watcher = (*Watcher)(nil)

// New makes a watcher.
func New(cfg Config) *Watcher {
	if cfg.Interval <= 0 {
		cfg.Interval = 2 * time.Second
	}
	if cfg.CacheSize <= 0 {
		cfg.CacheSize = 4096
	}
	if cfg.FS == "" {
		cfg.FS = proc.Root
	}
	return &Watcher{cfg: cfg}
}

// Source says where it looks, and why not at something better.
func (w *Watcher) Source() string {
	if s := w.source.Load(); s != nil {
		return *s
	}
	return "not started"
}

// Evicted counts connections that were forgotten because there were more than CacheSize.
func (w *Watcher) Evicted() uint64 { return w.evicted.Load() }

// tuple is a connection.
type tuple struct {
	local, remote netip.AddrPort
	protocol      string
}

// count is what a source says of a connection, since it exists.
type count struct {
	tuple
	in, out uint64
	began   string // secmsg.In or Out: who sent first; empty: unknown
	device  uint32 // index of the interface; 0: unknown
}

// counter is a source of counts.
type counter interface {
	// read returns the counts of all connections it knows.
	read() ([]count, error)
	close()
}

// flow is what is remembered of a connection.
type flow struct {
	in, out   uint64
	direction string
	pid       uint32
	uid       uint32
	program   string
	line      string
	used      uint64 // the reading that saw it last
}

// Run reads the counters until ctx ends.
func (w *Watcher) Run(ctx context.Context, emit func(collect.Observation)) error {
	c, err := w.open()
	if err != nil {
		return err
	}
	defer func() { c.close() }()
	known := map[tuple]*flow{}
	tick := time.NewTicker(w.cfg.Interval)
	defer tick.Stop()
	for reading := uint64(1); ; reading++ {
		counts, err := c.read()
		if err != nil {
			return fmt.Errorf("network activity by %s: %w", w.Source(), err)
		}
		w.tell(counts, known, reading, emit)
		w.forget(known, reading)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// open opens the best source that works.
func (w *Watcher) open() (counter, error) {
	var reasons []string
	for _, s := range []struct {
		name string
		open func() (counter, error)
	}{{"eBPF", openEBPF}, {"conntrack", w.openConntrack}, {"inet_diag", w.openDiag}, {"/proc/net", w.openProc}} {
		err := errors.New("not wanted")
		var c counter
		if !slices.Contains(w.cfg.without, s.name) {
			c, err = s.open()
		}
		if err == nil {
			name := s.name
			if len(reasons) > 0 {
				name += " (" + strings.Join(reasons, "; ") + ")"
			}
			w.source.Store(&name)
			return c, nil
		}
		reasons = append(reasons, fmt.Sprintf("no %s: %v", s.name, err))
	}
	return nil, fmt.Errorf("network activity cannot be watched: %s; run the agent as root", strings.Join(reasons, "; "))
}

// tell hands over what grew.
func (w *Watcher) tell(counts []count, known map[tuple]*flow, reading uint64, emit func(collect.Observation)) {
	cards := w.cards()
	var sockets *holders // looked up when something new comes along
	for i := range counts {
		c := &counts[i]
		if skipped(c.local.Addr()) || skipped(c.remote.Addr()) || !cards.has(c) {
			continue
		}
		f, old := known[c.tuple]
		if !old {
			if sockets == nil {
				sockets = w.holders()
			}
			f = &flow{direction: sockets.direction(c)}
			known[c.tuple] = f
		}
		if f.pid == 0 && (!old || reading-f.used < 3) {
			if sockets == nil {
				sockets = w.holders()
			}
			f.pid, f.uid, f.program, f.line = sockets.holder(c)
		}
		f.used = reading
		in, out := grown(f.in, c.in), grown(f.out, c.out)
		f.in, f.out = c.in, c.out
		if old && in == 0 && out == 0 {
			continue
		}
		activity := secmsg.Flow{
			Local: c.local, Remote: c.remote, Protocol: c.protocol, Direction: f.direction, Began: f.direction != "", BytesIn: in, BytesOut: out,
			ProcessID: int64(f.pid), UserID: f.uid, Executable: f.program, CommandLine: f.line,
		}
		if !old {
			activity.Hits = 1
		}
		emit(collect.Observation{
			Event: "NetworkActivity", Key: c.protocol + " " + c.local.String() + " " + c.remote.String(), Time: time.Now(), Hits: 1, Flow: &activity,
		})
	}
}

// grown is what a counter gained; one that shrank began anew.
func grown(before, now uint64) uint64 {
	if now < before {
		return now
	}
	return now - before
}

// forget drops what was not seen for a while and, beyond the bound, what was not seen for longest.
func (w *Watcher) forget(known map[tuple]*flow, reading uint64) {
	idle := uint64(5 * time.Minute / w.cfg.Interval)
	for t, f := range known {
		if reading-f.used > idle {
			delete(known, t)
		}
	}
	n := len(known) - w.cfg.CacheSize
	if n <= 0 {
		return
	}
	type aged struct {
		tuple
		used uint64
	}
	ages := make([]aged, 0, len(known))
	for t, f := range known {
		ages = append(ages, aged{t, f.used})
	}
	slices.SortFunc(ages, func(a, b aged) int { return int(int64(a.used) - int64(b.used)) })
	for _, a := range ages[:n] {
		delete(known, a.tuple)
	}
	w.evicted.Add(uint64(n))
}

// skipped addresses are the machine talking to itself, or to nobody yet.
func skipped(a netip.Addr) bool { return !a.IsValid() || a.IsLoopback() || a.IsUnspecified() }

// cards are the interfaces whose traffic counts.
type cards struct {
	named   map[uint32]bool // by index, of those that were asked for
	all     bool
	address map[netip.Addr]uint32 // which interface has it
}

func (w *Watcher) cards() cards {
	c := cards{named: map[uint32]bool{}, all: len(w.cfg.Devices) == 0, address: map[netip.Addr]uint32{}}
	interfaces, _ := net.Interfaces() // on an error nothing is ours, until the next reading
	for _, i := range interfaces {
		c.named[uint32(i.Index)] = slices.Contains(w.cfg.Devices, i.Name)
		addresses, _ := i.Addrs()
		for _, a := range addresses {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				c.address[p.Addr().Unmap().WithZone("")] = uint32(i.Index)
			}
		}
	}
	return c
}

// has reports whether the count is of an interface that was asked for. Without a choice, a connection counts on the interface that
// has its local address, so that what passes a bridge and its ports is counted once, and what is only forwarded not at all.
func (c *cards) has(n *count) bool {
	holder, own := c.address[n.local.Addr()]
	switch {
	case c.all:
		return own && (n.device == 0 || n.device == holder)
	case n.device != 0:
		return c.named[n.device]
	}
	return own && c.named[holder]
}

// holders finds the processes of connections.
type holders struct {
	exact     map[tuple]socket.Socket
	local     map[tuple]socket.Socket // by local address and port alone: of UDP, and of listeners
	processes map[uint64]uint32
	fs        proc.FS
}

func (w *Watcher) holders() *holders {
	h := &holders{exact: map[tuple]socket.Socket{}, local: map[tuple]socket.Socket{}, fs: w.cfg.FS}
	all, _, _ := socket.List(w.cfg.FS) // without it connections have no process
	for _, s := range all {
		h.exact[tuple{s.Local, s.Remote, s.Protocol}] = s
		if s.Listening {
			h.local[tuple{local: s.Local, protocol: s.Protocol}] = s
		}
	}
	h.processes, _, _ = w.cfg.FS.Sockets()
	return h
}

// waiting returns the socket that waits at the connection's local end.
func (h *holders) waiting(c *count) (socket.Socket, bool) {
	for _, a := range []netip.Addr{c.local.Addr(), netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		if s, ok := h.local[tuple{local: netip.AddrPortFrom(a, c.local.Port()), protocol: c.protocol}]; ok {
			return s, true
		}
	}
	return socket.Socket{}, false
}

// direction says who began: of TCP the other one if something here listens at the port, and who sent first otherwise.
func (h *holders) direction(c *count) string {
	if c.protocol == "TCP" {
		if _, ok := h.waiting(c); ok {
			return secmsg.In
		}
		if _, ok := h.exact[c.tuple]; ok {
			return secmsg.Out
		}
	}
	return c.began
}

// holder is the process at this end, zero when it is not known.
func (h *holders) holder(c *count) (pid, uid uint32, program, line string) {
	s, ok := h.exact[c.tuple]
	if !ok || s.Inode == 0 {
		if s, ok = h.waiting(c); !ok {
			return 0, 0, "", ""
		}
	}
	pid = h.processes[s.Inode]
	if pid == 0 {
		return 0, s.UserID, "", ""
	}
	program, line = h.fs.Program(pid)
	return pid, s.UserID, program, line
}

// socketCounter reads the list of sockets.
type socketCounter struct {
	fs   proc.FS
	want string // the source it was opened for
}

func (w *Watcher) openDiag() (counter, error) {
	_, source, err := socket.List(w.cfg.FS)
	if err == nil && source != "inet_diag" {
		err = errors.New(source)
	}
	return &socketCounter{w.cfg.FS, "inet_diag"}, err
}

func (w *Watcher) openProc() (counter, error) {
	_, err := socket.FromProc(w.cfg.FS)
	return &socketCounter{w.cfg.FS, "/proc/net"}, err
}

func (s *socketCounter) close() {}

func (s *socketCounter) read() ([]count, error) {
	var all []socket.Socket
	var err error
	if s.want == "/proc/net" {
		all, err = socket.FromProc(s.fs)
	} else {
		all, _, err = socket.List(s.fs)
	}
	if err != nil {
		return nil, err
	}
	var counts []count
	for _, s := range all {
		if s.Listening || s.Remote.Port() == 0 {
			continue
		}
		counts = append(counts, count{tuple: tuple{s.Local, s.Remote, s.Protocol}, in: s.BytesIn, out: s.BytesOut, began: secmsg.Out})
	}
	return counts, nil
}

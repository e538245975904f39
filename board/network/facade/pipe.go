package facade

import (
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// window bounds what one direction of a pipe keeps; then its writer waits.
const window = 16 << 10

// pipe is a connection in memory. Unlike net.Pipe's, its ends keep bytes: both may write first.
func pipe(a, b netip.AddrPort) (net.Conn, net.Conn) {
	ab, ba := newHalf(), newHalf()
	return &end{r: ba, w: ab, local: a, remote: b}, &end{r: ab, w: ba, local: b, remote: a}
}

// half is one direction.
type half struct {
	mu     sync.Mutex
	buf    []byte
	ended  bool          // nothing more will be written
	broken bool          // nobody reads any more
	change chan struct{} // closed and made anew when any of it changes
}

func newHalf() *half { return &half{change: make(chan struct{})} }

// changed wakes who waits. h.mu is held.
func (h *half) changed() {
	close(h.change)
	h.change = make(chan struct{})
}

func (h *half) read(b []byte, deadline <-chan struct{}) (int, error) {
	for {
		select {
		case <-deadline:
			return 0, os.ErrDeadlineExceeded
		default:
		}
		h.mu.Lock()
		switch {
		case h.broken:
			h.mu.Unlock()
			return 0, net.ErrClosed
		case len(h.buf) > 0:
			n := copy(b, h.buf)
			if h.buf = h.buf[n:]; len(h.buf) == 0 {
				h.buf = nil // idle connections keep nothing
			}
			h.changed()
			h.mu.Unlock()
			return n, nil
		case h.ended:
			h.mu.Unlock()
			return 0, io.EOF
		case len(b) == 0:
			h.mu.Unlock()
			return 0, nil
		}
		wait := h.change
		h.mu.Unlock()
		select {
		case <-wait:
		case <-deadline:
		}
	}
}

func (h *half) write(b []byte, deadline <-chan struct{}) (n int, err error) {
	for {
		select {
		case <-deadline:
			return n, os.ErrDeadlineExceeded
		default:
		}
		h.mu.Lock()
		switch {
		case h.ended:
			h.mu.Unlock()
			return n, net.ErrClosed
		case h.broken:
			h.mu.Unlock()
			return n, io.ErrClosedPipe
		}
		if room := min(window-len(h.buf), len(b)); room > 0 {
			h.buf = append(h.buf, b[:room]...)
			n, b = n+room, b[room:]
			h.changed()
		}
		wait := h.change
		h.mu.Unlock()
		if len(b) == 0 {
			return n, nil
		}
		select {
		case <-wait:
		case <-deadline:
		}
	}
}

func (h *half) end() {
	h.mu.Lock()
	if !h.ended {
		h.ended = true
		h.changed()
	}
	h.mu.Unlock()
}

func (h *half) shut() {
	h.mu.Lock()
	if !h.broken {
		h.broken, h.buf = true, nil
		h.changed()
	}
	h.mu.Unlock()
}

// end is one end of a pipe.
type end struct {
	r, w                        *half
	local, remote               netip.AddrPort
	readDeadline, writeDeadline deadline
}

func (e *end) Read(b []byte) (int, error)  { return e.r.read(b, e.readDeadline.wait()) }
func (e *end) Write(b []byte) (int, error) { return e.w.write(b, e.writeDeadline.wait()) }
func (e *end) CloseWrite() error           { e.w.end(); return nil }
func (e *end) Close() error                { e.w.end(); e.r.shut(); return nil }
func (e *end) LocalAddr() net.Addr         { return net.TCPAddrFromAddrPort(e.local) }
func (e *end) RemoteAddr() net.Addr        { return net.TCPAddrFromAddrPort(e.remote) }
func (e *end) SetDeadline(t time.Time) error {
	e.readDeadline.set(t)
	e.writeDeadline.set(t)
	return nil
}
func (e *end) SetReadDeadline(t time.Time) error  { e.readDeadline.set(t); return nil }
func (e *end) SetWriteDeadline(t time.Time) error { e.writeDeadline.set(t); return nil }

// deadline is a channel that is closed when the time is over. The zero value has none.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	over  chan struct{}
}

func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over == nil {
		d.over = make(chan struct{})
	}
	return d.over
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fired := d.timer != nil && !d.timer.Stop()
	d.timer = nil
	if d.over == nil {
		d.over = make(chan struct{})
	}
	if fired {
		<-d.over // the timer's own goroutine closes it
	}
	past := false
	select {
	case <-d.over:
		past = true
	default:
	}
	wait := time.Until(t)
	switch {
	case t.IsZero() || wait > 0:
		if past {
			d.over = make(chan struct{})
		}
		if !t.IsZero() {
			over := d.over
			d.timer = time.AfterFunc(wait, func() { close(over) })
		}
	case !past:
		close(d.over)
	}
}

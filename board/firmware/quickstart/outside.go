package quickstart

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vauban-iot/vauban/board/firmware"
	"github.com/vauban-iot/vauban/board/network"
	"github.com/vauban-iot/vauban/sdk/device"
)

// What goroutines of the session do stands in this file, and what looks at the machine's clock: the rest of the room does neither.

// method brings a command to the board. It is called by goroutines of the session.
func (r *run) method(ctx context.Context, m device.Method) (int, []byte) {
	answer := make(chan int, 1)
	if err := r.inbox.Put(push{command: m, answer: answer}); err != nil {
		return 503, nil
	}
	select {
	case status := <-answer:
		return status, nil // and no payload
	case <-ctx.Done():
		return 500, nil // nobody hears it any more
	}
}

// changed brings a change of the twin to the board.
func (r *run) changed(ctx context.Context, e device.TwinEvent) {
	for errors.Is(r.inbox.Put(push{change: &e}), firmware.ErrFull) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// ended tells the board that a session is over. It is called by a goroutine of the session. In virtual time the next request fails
// instead: when the goroutine hears of the end is a matter of the machine.
func (r *run) ended(session uint64, l *line) {
	if !r.board.Config().RealTime {
		return
	}
	for r.k.Post(func() { r.over(session) }) != nil && !l.cut.Load() { // as many interrupts wait as the kernel takes
		time.Sleep(time.Millisecond)
	}
}

// askTime returns the server's time at this moment.
func (r *run) askTime(server netip.Addr) (time.Time, error) {
	own, known, began := r.board.RTC.Time(), r.board.RTC.Valid(), time.Now()
	now := func() time.Time {
		if !known {
			return time.Time{}
		}
		if r.board.Config().RealTime {
			return own.Add(time.Since(began))
		}
		return own
	}
	var t time.Time
	var at time.Duration
	err := r.await(typicalSNTP, sntpTime, func(ctx context.Context) (err error) {
		t, err = network.Time(ctx, r.cfg.Network, server, now)
		at = r.board.Uptime()
		return err
	})
	return t.Add(r.board.Uptime() - at), err
}

// line is a connection's way to the network, which a reset cuts without a word.
type line struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error)
	cut  atomic.Bool

	mu sync.Mutex
	nc net.Conn
}

func (l *line) Dial(ctx context.Context, nw, address string) (net.Conn, error) {
	nc, err := l.dial(ctx, nw, address)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nc = nc
	return nc, err
}

func (l *line) Cut() {
	l.cut.Store(true)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.nc != nil {
		l.nc.Close()
	}
}

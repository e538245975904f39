package infection

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vauban-iot/vauban/board/network"
	"github.com/vauban-iot/vauban/sim/traffic"
)

// What TCP takes beside data, as both networks count it.
const (
	synSize     = 40
	headerSize  = 32
	segmentData = network.MTU - 20 - headerSize
	probed      = synSize // what answers less has no connection
	maxDatagram = network.MTU - 28
)

// How long things take in virtual time, and what they may take by the machine's clock.
const (
	typicalExchange = 60 * time.Millisecond
	typicalPing     = 20 * time.Millisecond
	patience        = 10 * time.Second
	impatience      = 100 * time.Millisecond // where nobody is to answer
)

func endpoint(p network.Protocol, at netip.AddrPort) network.Endpoint {
	return network.Endpoint{Protocol: p, Address: at}
}

// probe sends first segments, and no more. The first is answered, if any.
func (r *run) probe(a traffic.Act) error {
	raw := r.cfg.Stack.(network.Raw)
	if a.In > 0 {
		done := r.cfg.World.expect(endpoint(network.TCP, a.Remote), a.In >= synSize)
		err := raw.SYN(a.Local, a.Remote)
		if err != nil {
			done()
			return err
		}
		r.promises = append(r.promises, promise{r.cfg.Uptime() + way, done})
		a.Out -= min(a.Out, synSize)
	}
	for ; a.Out > 0; a.Out -= min(a.Out, synSize) {
		if err := raw.SYN(a.Local, a.Remote); err != nil {
			return err
		}
	}
	return nil
}

// exchange says something over a connection and hears the answer.
func (r *run) exchange(s step) error {
	a := s.act
	return r.await(typicalExchange, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		t, err := r.talk(ctx, a)
		if err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() { t.conn.Close() })
		defer stop()
		out, in := sizes(a, t.fresh, s.last)
		if t.fresh = false; a.Inbound {
			err = t.answer(in, out)
		} else {
			err = say(t.conn, out, in)
		}
		if err != nil || s.last {
			r.close(t)
		}
		return err
	})
}

// sizes are how many bytes the program says and hears, so that with headers and acknowledgements it makes about the act's.
func sizes(a traffic.Act, opens, closes bool) (out, in uint32) {
	var fixedOut, fixedIn uint64
	if opens {
		fixedOut, fixedIn = synSize+headerSize, synSize
		if a.Inbound {
			fixedOut, fixedIn = fixedIn, fixedOut
		}
	}
	if closes {
		fixedOut, fixedIn = fixedOut+2*headerSize, fixedIn+2*headerSize
	}
	acks := func(bytes uint64) uint64 { return (bytes/segmentData + 1) / 2 * headerSize }
	data := func(bytes, without uint64) uint32 {
		bytes -= min(bytes, without)
		bytes -= (bytes + segmentData + headerSize - 1) / (segmentData + headerSize) * headerSize
		return uint32(min(bytes, 1<<30))
	}
	least := func(bytes, without uint64) uint64 { return max(bytes, without+headerSize) }
	out = data(least(a.Out, fixedOut+acks(a.In)), fixedOut+acks(a.In))
	in = data(least(a.In, fixedIn+acks(a.Out)), fixedIn+acks(a.Out))
	return max(out, exchangeHeader), in
}

var zeros [16 << 10]byte

// say is one exchange with a sink.
func say(c net.Conn, out, in uint32) error {
	var header [exchangeHeader]byte
	binary.BigEndian.PutUint32(header[:], out)
	binary.BigEndian.PutUint32(header[4:], in)
	if _, err := c.Write(header[:]); err != nil {
		return err
	}
	if err := pour(c, out-exchangeHeader); err != nil {
		return err
	}
	_, err := io.CopyN(io.Discard, c, int64(in))
	return err
}

func pour(w io.Writer, n uint32) error {
	for n > 0 {
		k, err := w.Write(zeros[:min(n, uint32(len(zeros)))])
		if err != nil {
			return err
		}
		n -= uint32(k)
	}
	return nil
}

// talk finds the conversation of an act, or begins it.
func (r *run) talk(ctx context.Context, a traffic.Act) (*talk, error) {
	key := traffic.Act{Protocol: a.Protocol, Local: a.Local, Remote: a.Remote, Inbound: a.Inbound}
	for _, t := range r.talks {
		if t.key == key {
			return t, nil
		}
	}
	t := &talk{key: key, fresh: true, done: func() {}}
	var err error
	if a.Inbound {
		err = r.receive(ctx, t)
	} else {
		t.done = r.cfg.World.expect(endpoint(network.TCP, a.Remote), true)
		t.conn, err = r.cfg.Stack.Dial(ctx, "tcp", a.Remote.String())
	}
	if err != nil {
		t.done()
		return nil, err
	}
	r.talks = append(r.talks, t)
	return t, nil
}

// receive lets the remote call, and takes the call.
func (r *run) receive(ctx context.Context, t *talk) error {
	local := netip.Addr{}
	for _, p := range r.cfg.Stack.Settings().Addresses {
		if p.Addr().Is4() == t.key.Remote.Addr().Is4() {
			local = p.Addr()
			break
		}
	}
	l, err := r.cfg.Stack.Listen("tcp", fmt.Sprintf(":%d", t.key.Local))
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	outside, err := r.cfg.World.call(ctx, t.key.Remote, netip.AddrPortFrom(local, t.key.Local))
	if err == nil {
		if t.conn, err = l.Accept(); err != nil {
			outside.Close()
		}
	}
	if err != nil {
		l.Close()
		return err
	}
	t.listener, t.caller = l, outside
	return nil
}

// answer is one exchange that the caller began.
func (t *talk) answer(in, out uint32) error {
	said := make(chan error, 1)
	go func() {
		err := pour(t.caller, in)
		if err == nil {
			_, err = io.CopyN(io.Discard, t.caller, int64(out))
		}
		said <- err
	}()
	_, err := io.CopyN(io.Discard, t.conn, int64(in))
	if err == nil {
		err = pour(t.conn, out)
	}
	if err != nil {
		t.caller.Close()
	}
	if other := <-said; err == nil {
		err = other
	}
	return err
}

func (r *run) close(t *talk) {
	if i := slices.Index(r.talks, t); i >= 0 {
		r.talks = slices.Delete(r.talks, i, i+1)
	}
	t.conn.Close()
	if t.listener != nil {
		t.listener.Close()
		t.caller.Close()
	}
	t.done()
}

// datagrams sends as many as the act needs, and hears what is answered.
func (r *run) datagrams(a traffic.Act) error {
	return r.await(0, func(ctx context.Context) error {
		c, err := r.cfg.Stack.ListenPacket(family(a.Remote), fmt.Sprintf(":%d", a.Local))
		if err != nil { // the port is taken
			if c, err = r.cfg.Stack.ListenPacket(family(a.Remote), ":0"); err != nil {
				return err
			}
		}
		defer c.Close()
		stop := context.AfterFunc(ctx, func() { c.Close() })
		defer stop()
		if a.In > 0 {
			defer r.cfg.World.expect(endpoint(network.UDP, a.Remote), true)()
		}
		const most, udp = maxDatagram + 8, 8
		n := max(1, (a.Out+most-1)/most)
		b := make([]byte, maxDatagram)
		to := net.UDPAddrFromAddrPort(a.Remote)
		for i := range n {
			out, in := a.Out*(i+1)/n-a.Out*i/n, min(a.In*(i+1)/n-a.In*i/n, most)
			in -= min(in, udp)
			binary.BigEndian.PutUint16(b, uint16(in))
			if _, err := c.WriteTo(b[:max(out, udp+datagramHeader)-udp], to); err != nil {
				return err
			}
			if in > 0 {
				if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
					return err
				}
				if _, _, err := c.ReadFrom(make([]byte, maxDatagram)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func family(a netip.AddrPort) string {
	if a.Addr().Is4() {
		return "udp4"
	}
	return "udp6"
}

// ping asks whether somebody is there.
func (r *run) ping(a traffic.Act) error {
	limit := impatience
	if a.In > 0 {
		limit = patience
		defer r.cfg.World.expect(endpoint(network.ICMP, netip.AddrPortFrom(a.Remote.Addr(), 0)), true)()
	}
	err := r.await(typicalPing, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		_, err := r.cfg.Stack.Ping(ctx, a.Remote.Addr())
		return err
	})
	if a.In == 0 {
		return nil // nobody was to answer
	}
	return err
}

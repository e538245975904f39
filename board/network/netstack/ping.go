package netstack

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/vauban-iot/vauban/board/network"
)

// Ping implements network.Stack.
func (h *Host) Ping(ctx context.Context, to netip.Addr) (time.Duration, error) {
	rtt, err := h.ping(ctx, to.Unmap())
	if err != nil {
		return 0, fmt.Errorf("ping %s: %w", to, err)
	}
	return rtt, nil
}

func (h *Host) ping(ctx context.Context, to netip.Addr) (time.Duration, error) {
	if err := h.usable(); err != nil {
		return 0, err
	}
	if err := h.speaks(to); err != nil {
		return 0, err
	}
	proto, request, reply := icmp.ProtocolNumber4, byte(header.ICMPv4Echo), byte(header.ICMPv4EchoReply)
	if to.Is6() {
		proto, request, reply = icmp.ProtocolNumber6, byte(header.ICMPv6EchoRequest), byte(header.ICMPv6EchoReply)
	}
	wq := new(waiter.Queue)
	ep, terr := h.stack.NewEndpoint(proto, protocol(to), wq)
	if terr != nil {
		return 0, plain(terr)
	}
	defer ep.Close()
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventErr)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	if terr := ep.Connect(full(netip.AddrPortFrom(to, 0))); terr != nil {
		return 0, plain(terr)
	}
	echo := make([]byte, network.EchoSize) // the stack fills in identifier and checksum
	echo[0] = request
	binary.BigEndian.PutUint16(echo[6:], 1)
	sent := time.Now()
	if _, terr := ep.Write(bytes.NewReader(echo), tcpip.WriteOptions{}); terr != nil {
		return 0, plain(terr)
	}
	for {
		var answer bytes.Buffer
		_, terr := ep.Read(&answer, tcpip.ReadOptions{})
		if _, wait := terr.(*tcpip.ErrWouldBlock); wait {
			select {
			case <-ctx.Done():
				return 0, ctx.Err()
			case <-h.ctx.Done():
				return 0, network.ErrDown
			case <-ready:
			}
			continue
		}
		if terr != nil {
			return 0, plain(terr)
		}
		if b := answer.Bytes(); len(b) >= 8 && b[0] == reply {
			return time.Since(sent), nil
		}
	}
}

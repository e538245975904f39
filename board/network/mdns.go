package network

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// MulticastDNS is where stations of a network are asked for their names (RFC 6762 §3).
var MulticastDNS = netip.AddrPortFrom(netip.AddrFrom4([4]byte{224, 0, 0, 251}), 5353)

// LookupLocal asks all stations of the network who has a name such as lamp-1.local, over IPv4, and waits for the first answer
// (a one-shot query, RFC 6762 §5.1).
func LookupLocal(ctx context.Context, s Stack, name string) ([]netip.Addr, error) {
	full := strings.TrimSuffix(name, ".") + "."
	qname, err := dnsmessage.NewName(full)
	if err != nil || !strings.HasSuffix(strings.ToLower(full), ".local.") {
		return nil, fmt.Errorf("%w: %q is not below .local", ErrNoName, name)
	}
	pc, err := s.ListenPacket("udp4", ":0")
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", name, err)
	}
	defer pc.Close()
	stop := context.AfterFunc(ctx, func() { pc.SetDeadline(time.Unix(1, 0)) }) //nolint:errcheck // it is open, or over
	defer stop()
	q := dnsmessage.Question{Name: qname, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
	h := fnv.New32a()
	fmt.Fprint(h, pc.LocalAddr(), full)
	id := uint16(h.Sum32())
	query, err := (&dnsmessage.Message{Header: dnsmessage.Header{ID: id}, Questions: []dnsmessage.Question{q}}).Pack()
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", name, err)
	}
	buf := make([]byte, MTU)
	for range dnsTries {
		if _, err := pc.WriteTo(query, net.UDPAddrFromAddrPort(MulticastDNS)); err != nil {
			return nil, fmt.Errorf("resolve %s: %w", name, err)
		}
		if err := pc.SetReadDeadline(time.Now().Add(dnsWait)); err != nil {
			return nil, fmt.Errorf("resolve %s: %w", name, err)
		}
		for {
			n, _, err := pc.ReadFrom(buf)
			if err != nil {
				break // nobody, for now
			}
			if as, err := parseAnswer(buf[:n], id, q); err == nil && len(as) > 0 {
				return as, nil
			}
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return nil, fmt.Errorf("resolve %s: %w", name, ErrNoName)
}

// AnswerLocal answers for names of the board's own until ctx ends. answer is told the query and whether it came from a
// simple resolver; it gives what to say (nil: nothing) and whether only to who asked.
func AnswerLocal(ctx context.Context, s Stack, answer func(query []byte, legacy bool) ([]byte, bool)) error {
	pc, err := s.ListenPacket("udp4", MulticastDNS.String())
	if err != nil {
		return err
	}
	defer pc.Close()
	stop := context.AfterFunc(ctx, func() { pc.SetReadDeadline(time.Unix(1, 0)) }) //nolint:errcheck // it is open, or over
	defer stop()
	buf := make([]byte, 9000) // RFC 6762 §17
	for {
		n, from, err := pc.ReadFrom(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("multicast DNS: %w", err)
		}
		u, ok := from.(*net.UDPAddr)
		if !ok {
			return errors.New("multicast DNS: a sender without an address")
		}
		reply, alone := answer(buf[:n], u.Port != int(MulticastDNS.Port()))
		if reply == nil {
			continue
		}
		if !alone {
			u = net.UDPAddrFromAddrPort(MulticastDNS)
		}
		if _, err := pc.WriteTo(reply, u); err != nil && !errors.Is(err, ErrDown) {
			return fmt.Errorf("multicast DNS: %w", err)
		}
	}
}

package network

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// A question is asked of each name server three times, a second apart (NetX Duo asks as often).
const (
	dnsTries = 3
	dnsWait  = time.Second
	dnsPort  = 53
	// maxDNS is the longest answer over UDP (RFC 1035 §2.3.4).
	maxDNS = 512
	// maxAddresses bounds what one name resolves to.
	maxAddresses = 16
)

// Lookup asks the name servers of s for the addresses of a name: IPv4 first, then IPv6, each only if
// the board has an address of the family. Nothing is remembered.
func Lookup(ctx context.Context, s Stack, name string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{a}, nil
	}
	full := strings.TrimSuffix(name, ".") + "."
	qname, err := dnsmessage.NewName(full)
	if err != nil || full == "." {
		return nil, fmt.Errorf("%w: %q is no host name", ErrNoName, name)
	}
	settings := s.Settings()
	if len(settings.NameServers) == 0 {
		return nil, fmt.Errorf("resolve %s: the board knows no name server; it learns one by DHCP, or is given one", name)
	}
	var types []dnsmessage.Type
	if slices.ContainsFunc(settings.Addresses, func(p netip.Prefix) bool { return p.Addr().Is4() }) {
		types = append(types, dnsmessage.TypeA)
	}
	if slices.ContainsFunc(settings.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() && !p.Addr().IsLinkLocalUnicast() }) {
		types = append(types, dnsmessage.TypeAAAA)
	}
	if len(types) == 0 {
		return nil, fmt.Errorf("resolve %s: %w", name, ErrNoAddress)
	}
	for _, server := range settings.NameServers {
		var found []netip.Addr
		for _, t := range types {
			var as []netip.Addr
			if as, err = ask(ctx, s, netip.AddrPortFrom(server, dnsPort), dnsmessage.Question{Name: qname, Type: t, Class: dnsmessage.ClassINET}); err != nil {
				break
			}
			found = append(found, as...)
		}
		switch {
		case err != nil && ctx.Err() == nil && !errors.Is(err, ErrNoName):
			continue // the next server
		case err != nil:
		case len(found) == 0:
			err = ErrNoName
		default:
			return found[:min(len(found), maxAddresses)], nil
		}
		break
	}
	return nil, fmt.Errorf("resolve %s: %w", name, err)
}

func ask(ctx context.Context, s Stack, server netip.AddrPort, q dnsmessage.Question) ([]netip.Addr, error) {
	c, err := s.Dial(ctx, "udp", server.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	// The id must not be guessed by others on a real network. On this one, it repeats with the seed: it comes
	// from the local port and the question.
	h := fnv.New32a()
	fmt.Fprint(h, c.LocalAddr(), q.Type, q.Name)
	id := uint16(h.Sum32())
	query, err := (&dnsmessage.Message{Header: dnsmessage.Header{ID: id, RecursionDesired: true}, Questions: []dnsmessage.Question{q}}).Pack()
	if err != nil {
		return nil, err
	}
	buf := make([]byte, maxDNS)
	for range dnsTries {
		if _, err = c.Write(query); err != nil {
			return nil, err
		}
		c.SetReadDeadline(time.Now().Add(dnsWait))
		var n int
		if n, err = c.Read(buf); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
				continue
			}
			return nil, err
		}
		return parseAnswer(buf[:n], id, q)
	}
	return nil, fmt.Errorf("the name server %s does not answer: %w", server.Addr(), err)
}

// parseAnswer reads the addresses of an answer, which the name asked for or one that it is an alias of has.
func parseAnswer(b []byte, id uint16, q dnsmessage.Question) ([]netip.Addr, error) {
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil {
		return nil, fmt.Errorf("answer of the name server: %w", err)
	}
	if h.ID != id || !h.Response {
		return nil, errors.New("the name server answered something else")
	}
	switch h.RCode {
	case dnsmessage.RCodeSuccess:
	case dnsmessage.RCodeNameError:
		return nil, ErrNoName
	default:
		return nil, fmt.Errorf("the name server answered %s", strings.TrimPrefix(h.RCode.String(), "RCode"))
	}
	if got, err := p.Question(); err != nil || got.Type != q.Type || !strings.EqualFold(got.Name.String(), q.Name.String()) {
		return nil, errors.New("the name server answered another question")
	}
	if err := p.SkipAllQuestions(); err != nil {
		return nil, fmt.Errorf("answer of the name server: %w", err)
	}
	var as []netip.Addr
	for len(as) < maxAddresses {
		h, err := p.AnswerHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("answer of the name server: %w", err)
		}
		switch {
		case h.Type == dnsmessage.TypeA && q.Type == dnsmessage.TypeA:
			r, err := p.AResource()
			if err != nil {
				return nil, fmt.Errorf("answer of the name server: %w", err)
			}
			as = append(as, netip.AddrFrom4(r.A))
		case h.Type == dnsmessage.TypeAAAA && q.Type == dnsmessage.TypeAAAA:
			r, err := p.AAAAResource()
			if err != nil {
				return nil, fmt.Errorf("answer of the name server: %w", err)
			}
			as = append(as, netip.AddrFrom16(r.AAAA))
		default:
			if err := p.SkipAnswer(); err != nil {
				return nil, fmt.Errorf("answer of the name server: %w", err)
			}
		}
	}
	return as, nil
}

package service

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	zoneNames     = 4096
	nameAddresses = 16
	maxUDP        = 512 // RFC 1035 §2.3.4
	timeToLive    = 60  // seconds
)

// Zone is all the names that a simulated network knows. It answers for A, AAAA and PTR, asks nobody else, and says of any
// other name that it does not exist. It may be used by any goroutine.
type Zone struct {
	mu    sync.RWMutex
	names map[string][]netip.Addr // lower case, with the dot at the end
	back  map[netip.Addr]string
}

// NewZone makes an empty zone.
func NewZone() *Zone { return &Zone{names: map[string][]netip.Addr{}, back: map[netip.Addr]string{}} }

// Add names addresses. An address goes back to the first name that it got.
func (z *Zone) Add(name string, addrs ...netip.Addr) error {
	full := strings.ToLower(strings.TrimSuffix(name, ".")) + "."
	if n, err := dnsmessage.NewName(full); err != nil || full == "." || !packs(n) {
		return fmt.Errorf("%q is no host name: labels of 1 to 63 bytes, 253 in all", name)
	}
	if len(addrs) == 0 {
		return fmt.Errorf("the name %q needs an address", name)
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	all := z.names[full]
	for _, a := range addrs {
		if a = a.Unmap().WithZone(""); !a.IsValid() {
			return fmt.Errorf("the name %q: %s is no address", name, a)
		}
		if !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	if len(all) > nameAddresses {
		return fmt.Errorf("the name %q has %d addresses; %d at most", name, len(all), nameAddresses)
	}
	if _, known := z.names[full]; !known && len(z.names) == zoneNames {
		return errors.New("the network knows 4096 names already")
	}
	z.names[full] = all
	for _, a := range all {
		if z.back[a] == "" {
			z.back[a] = full
		}
	}
	return nil
}

func packs(n dnsmessage.Name) bool {
	_, err := (&dnsmessage.Message{Questions: []dnsmessage.Question{{Name: n}}}).Pack()
	return err == nil
}

// Answer is what a name server says to a query; nil to what is none.
func (z *Zone) Answer(query []byte) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil || h.Response {
		return nil
	}
	reply := dnsmessage.Message{Header: dnsmessage.Header{ID: h.ID, Response: true, OpCode: h.OpCode, Authoritative: true, RecursionDesired: h.RecursionDesired}}
	qs, err := p.AllQuestions()
	switch {
	case h.OpCode != 0:
		reply.RCode = dnsmessage.RCodeNotImplemented
	case err != nil || len(qs) != 1:
		reply.RCode = dnsmessage.RCodeFormatError
	case qs[0].Class != dnsmessage.ClassINET:
		reply.Questions, reply.RCode = qs, dnsmessage.RCodeRefused
	default:
		reply.Questions = qs
		var known bool
		if reply.Answers, known = z.records(qs[0], dnsmessage.ClassINET); !known {
			reply.RCode = dnsmessage.RCodeNameError
		}
	}
	return pack(reply)
}

// pack writes an answer, without what does not fit a datagram.
func pack(m dnsmessage.Message) []byte {
	b, err := m.Pack()
	if err == nil && len(b) > maxUDP {
		m.Truncated, m.Answers = true, nil
		b, err = m.Pack()
	}
	if err != nil {
		return nil
	}
	return b
}

// records are those that answer q, and whether its name exists.
func (z *Zone) records(q dnsmessage.Question, class dnsmessage.Class) ([]dnsmessage.Resource, bool) {
	name := strings.ToLower(q.Name.String())
	head := dnsmessage.ResourceHeader{Name: q.Name, Class: class, TTL: timeToLive}
	z.mu.RLock()
	defer z.mu.RUnlock()
	if a, ok := reverse(name); ok {
		host := z.back[a]
		if host == "" {
			return nil, false
		}
		if q.Type != dnsmessage.TypePTR && q.Type != dnsmessage.TypeALL {
			return nil, true
		}
		head.Type = dnsmessage.TypePTR
		return []dnsmessage.Resource{{Header: head, Body: &dnsmessage.PTRResource{PTR: dnsmessage.MustNewName(host)}}}, true
	}
	as, known := z.names[name]
	var rs []dnsmessage.Resource
	for _, a := range as {
		switch {
		case a.Is4() && (q.Type == dnsmessage.TypeA || q.Type == dnsmessage.TypeALL):
			head.Type = dnsmessage.TypeA
			rs = append(rs, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: a.As4()}})
		case a.Is6() && (q.Type == dnsmessage.TypeAAAA || q.Type == dnsmessage.TypeALL):
			head.Type = dnsmessage.TypeAAAA
			rs = append(rs, dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	return rs, known
}

// reverse reads a name such as 2.0.0.10.in-addr.arpa. or its counterpart of IPv6 (RFC 1035 §3.5, RFC 3596 §2.5).
func reverse(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		labels := strings.Split(rest, ".")
		slices.Reverse(labels)
		a, err := netip.ParseAddr(strings.Join(labels, "."))
		return a, err == nil && a.Is4()
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa.")
	labels := strings.Split(rest, ".")
	if !ok || len(labels) != 32 {
		return netip.Addr{}, false
	}
	slices.Reverse(labels)
	b, err := hex.DecodeString(strings.Join(labels, ""))
	if err != nil || len(b) != 16 {
		return netip.Addr{}, false
	}
	return netip.AddrFrom16([16]byte(b)), true
}

// Multicast DNS (RFC 6762).
const (
	unicastAnswer = 1 << 15 // in a question's class (§5.4)
	cacheFlush    = 1 << 15 // in a record's class (§10.2)
)

// AnswerMulticast is what a station that owns the zone's names says to a multicast DNS query; nil: nothing, also of names
// that it does not know, for others may. legacy: the query came from another port than 5353, from a
// simple resolver that expects an answer like a name server's (§6.7). alone: the answer goes to who asked, not to all.
func (z *Zone) AnswerMulticast(query []byte, legacy bool) (answer []byte, alone bool) {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil || h.Response || h.OpCode != 0 {
		return nil, false
	}
	qs, err := p.AllQuestions()
	if err != nil || len(qs) == 0 || len(qs) > 8 {
		return nil, false
	}
	reply := dnsmessage.Message{Header: dnsmessage.Header{Response: true, Authoritative: true}}
	class := dnsmessage.ClassINET | cacheFlush
	if legacy {
		reply.ID, reply.Questions, class = h.ID, qs, dnsmessage.ClassINET
	}
	alone = true
	for _, q := range qs {
		if !strings.HasSuffix(strings.ToLower(q.Name.String()), ".local.") || q.Class&^unicastAnswer != dnsmessage.ClassINET {
			continue
		}
		rs, _ := z.records(q, class)
		reply.Answers = append(reply.Answers, rs...)
		alone = alone && q.Class&unicastAnswer != 0
	}
	if len(reply.Answers) == 0 {
		return nil, false
	}
	return pack(reply), alone || legacy
}

// Package dns sees the names that the machine asks name servers for, in plain DNS over UDP. What goes over TLS, HTTPS or TCP it
// does not see.
package dns

import (
	"context"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Watcher sees queries. The zero value is ready.
type Watcher struct{ source atomic.Pointer[string] }

var _ collect.Watcher = (*Watcher)(nil)

// Source says where it looks.
func (w *Watcher) Source() string {
	if s := w.source.Load(); s != nil {
		return *s
	}
	return "not started"
}

// Run watches until ctx ends.
func (w *Watcher) Run(ctx context.Context, emit func(collect.Observation)) error {
	ready := func() {
		source := "AF_PACKET"
		w.source.Store(&source)
	}
	return capture(ctx, ready, func(packet []byte) {
		server, payload, ok := udp(packet)
		if !ok || server.IsLoopback() {
			return
		}
		if q, ok := parseQuery(payload); ok {
			q.Server = server.String()
			emit(collect.Observation{Event: "Dns", Key: q.Type + " " + q.Name + " " + q.Server, Time: time.Now(), Hits: 1, Item: q})
		}
	})
}

// udp returns where an IP packet of UDP goes and what it carries.
func udp(b []byte) (to netip.Addr, payload []byte, ok bool) {
	const udpHeader = 8
	head := 0
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		head = int(b[0]&15) * 4
		to = netip.AddrFrom4([4]byte(b[16:20]))
		ok = head >= 20 && b[9] == 17
	case len(b) >= 40 && b[0]>>4 == 6:
		head = 40
		to = netip.AddrFrom16([16]byte(b[24:40])).Unmap()
		ok = b[6] == 17
	}
	if !ok || len(b) < head+udpHeader {
		return netip.Addr{}, nil, false
	}
	return to, b[head+udpHeader:], true
}

// parseQuery reads the question of a query. Queries have one.
func parseQuery(b []byte) (secmsg.DNSQuery, bool) {
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil || h.Response || h.OpCode != 0 {
		return secmsg.DNSQuery{}, false
	}
	q, err := p.Question()
	if err != nil {
		return secmsg.DNSQuery{}, false
	}
	name := strings.ToLower(strings.TrimSuffix(strings.ToValidUTF8(q.Name.String(), "\uFFFD"), "."))
	if name == "" {
		return secmsg.DNSQuery{}, false // the root, which resolvers ask for by themselves
	}
	return secmsg.DNSQuery{Name: name, Type: strings.TrimPrefix(q.Type.String(), "Type"), HitCount: 1}, true
}

package intel

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Block is what one source lists, sorted, and fixed once it is made.
type Block struct {
	Source Source

	v4       []host4
	v6       []host6
	prefixes []prefixEntry
	domains  []domainEntry
	metas    []meta
	refs     []string          // ids, for metas that are named
	groups   map[string]string // see Groups

	// Tables of a large block, made when it is first used.
	table *table4
	six   *part[host6]
	names *part[domainEntry]
	since string // the version that last brought something new; see Engine.Put
}

// The entries are small on purpose: of host4 there may be ten million.
type (
	host4 struct{ addr, meta, ref uint32 }
	host6 struct {
		addr      [16]byte
		meta, ref uint32
	}
	prefixEntry struct {
		prefix    netip.Prefix
		meta, ref uint32
	}
	domainEntry struct {
		name      string
		meta, ref uint32
	}
	meta struct {
		metaKey
		block *Block
	}
)

// Len is the number of indicators.
func (b *Block) Len() int { return len(b.v4) + len(b.v6) + len(b.prefixes) + len(b.domains) }

// Groups are the versions of the objects that a source which is read piece by piece consists of: events of MISP, objects of STIX.
// They may not be changed.
func (b *Block) Groups() map[string]string { return b.groups }

// Each hands every indicator to yield, until it returns false. The item is good until it returns.
func (b *Block) Each(yield func(*Item) bool) {
	var it Item
	give := func(value netip.Prefix, domain string, m, ref uint32) bool {
		k := &b.metas[m]
		it = Item{Value: value, Domain: domain, Port: k.port, Confidence: int(k.confidence), From: moment(k.from), Until: moment(k.until)}
		if k.labels != "" {
			it.Labels = strings.Split(k.labels, labelEnd)
		}
		if k.named {
			it.Ref = b.refs[ref]
		} else {
			it.Line = int(ref)
		}
		return yield(&it)
	}
	for i := range b.v4 {
		if !give(hostPrefix(address(b.v4[i].addr)), "", b.v4[i].meta, b.v4[i].ref) {
			return
		}
	}
	for i := range b.v6 {
		if !give(hostPrefix(netip.AddrFrom16(b.v6[i].addr)), "", b.v6[i].meta, b.v6[i].ref) {
			return
		}
	}
	for i := range b.prefixes {
		if !give(b.prefixes[i].prefix, "", b.prefixes[i].meta, b.prefixes[i].ref) {
			return
		}
	}
	for i := range b.domains {
		if !give(netip.Prefix{}, b.domains[i].name, b.domains[i].meta, b.domains[i].ref) {
			return
		}
	}
}

func (m *meta) indicator(value string, ref uint32) Indicator {
	i := Indicator{
		Value: value, Port: m.port, Source: m.block.Source.Name, Confidence: int(m.confidence),
		ValidFrom: moment(m.from), ValidUntil: moment(m.until),
	}
	if m.labels != "" {
		i.Labels = strings.Split(m.labels, labelEnd)
	}
	if m.named {
		i.Ref = m.block.refs[ref]
	} else {
		i.Ref = strconv.Itoa(int(ref))
	}
	return i
}

// adds reports whether b lists something that old does not.
func (b *Block) adds(old *Block) bool {
	if old == nil {
		return b.Len() > 0
	}
	port := func(b *Block, m uint32) uint16 { return b.metas[m].port }
	return beyond(b.v4, old.v4, func(x, y host4) int { return cmp.Compare(x.addr, y.addr) }, func(x, y host4) bool { return port(b, x.meta) == port(old, y.meta) }) ||
		beyond(b.v6, old.v6, func(x, y host6) int { return slices.Compare(x.addr[:], y.addr[:]) }, func(x, y host6) bool { return port(b, x.meta) == port(old, y.meta) }) ||
		beyond(b.prefixes, old.prefixes, func(x, y prefixEntry) int { return x.prefix.Compare(y.prefix) }, func(x, y prefixEntry) bool { return port(b, x.meta) == port(old, y.meta) }) ||
		beyond(b.domains, old.domains, func(x, y domainEntry) int { return strings.Compare(x.name, y.name) }, func(x, y domainEntry) bool { return port(b, x.meta) == port(old, y.meta) })
}

// beyond walks two sorted lists and reports whether the first has what the second has not.
func beyond[E any](list, old []E, compare func(x, y E) int, same func(x, y E) bool) bool {
	j := 0
next:
	for _, e := range list {
		for j < len(old) && compare(old[j], e) < 0 {
			j++
		}
		for k := j; k < len(old) && compare(old[k], e) == 0; k++ {
			if same(e, old[k]) {
				continue next
			}
		}
		return true
	}
	return false
}

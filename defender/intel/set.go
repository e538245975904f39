package intel

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// Set is a fixed set of indicators and of what is exempt from them. Its methods may be called from any goroutine and wait for nobody; a
// nil Set is empty.
//
// An address matches the most specific indicator that is valid and agrees with its port: the address before prefixes, long
// prefixes before short ones, one with a port before one without, then the surer one. Exemptions go before all indicators, however specific those are:
// what the operator allows is never matched, and what a warning list holds, or what is no address of the Internet, is matched by the operator's own lists only.
type Set struct {
	listed layer
	warn   layer // warning lists
	allow  layer // the operator's exemptions
	now    func() time.Time
	n      int
}

// NewSet joins blocks. They may not be changed afterwards.
func NewSet(blocks ...*Block) *Set {
	s := &Set{now: time.Now}
	s.listed = newLayer(blocks, nil)
	for _, b := range blocks {
		s.n += b.Len()
	}
	return s
}

// Len is the number of indicators, counted for each source.
func (s *Set) Len() int {
	if s == nil {
		return 0
	}
	return s.n
}

// Match finds the indicator for traffic with a remote or own address. A port of 0, as ICMP has, agrees with indicators without a port
// only. seen is when the traffic was: an indicator that had ended by then does not count. One that begins later than now does not either;
// but it may be younger than the traffic.
func (s *Set) Match(to netip.AddrPort, seen time.Time) (Indicator, bool) {
	if s == nil || !to.IsValid() {
		return Indicator{}, false
	}
	a := to.Addr()
	if a.Is4() && !s.listed.near.may(number(a)) { // the common answer, and no more work for it
		return Indicator{}, false
	}
	a = bare(a)
	hits := s.listed.hits(a)
	if len(hits) == 0 {
		return Indicator{}, false
	}
	return s.judge(hits, to.Port(), seen, s.allow.holds(a), special(a) || s.warn.holds(a))
}

// MatchDomain finds the indicator for a name: of itself, or of a name above it that is below a public suffix.
func (s *Set) MatchDomain(name string, seen time.Time) (Indicator, bool) {
	if s == nil {
		return Indicator{}, false
	}
	name, reason := NormalizeDomain(name)
	if reason != "" {
		return Indicator{}, false
	}
	hits := s.listed.names(name)
	if len(hits) == 0 {
		return Indicator{}, false
	}
	return s.judge(hits, 0, seen, len(s.allow.names(name)) > 0, len(s.warn.names(name)) > 0)
}

// judge chooses among hits, the most specific first.
func (s *Set) judge(hits []hit, port uint16, seen time.Time, allowed, muted bool) (Indicator, bool) {
	if allowed {
		return Indicator{}, false
	}
	now := s.now()
	best := -1
	for i := range hits {
		m := hits[i].meta
		if muted && !m.block.Source.Own || m.port != 0 && m.port != port || m.state(now, seen) != "" {
			continue
		}
		if best >= 0 && (hits[i].value != hits[best].value || hits[i].name != hits[best].name || !m.before(hits[best].meta)) {
			continue
		}
		best = i
	}
	if best < 0 {
		return Indicator{}, false
	}
	return hits[best].indicator(), true
}

// before reports whether m is the better of two indicators of one value.
func (m *meta) before(o *meta) bool {
	if (m.port != 0) != (o.port != 0) {
		return m.port != 0
	}
	return m.confidence > o.confidence
}

// The states of an indicator.
const (
	notYet = "not yet valid"
	ended  = "no longer valid"
)

// state is why the indicator does not count at this moment; empty: it does.
func (m *meta) state(now, seen time.Time) string {
	switch {
	case m.until != 0 && seen.Unix() >= m.until:
		return ended
	case m.from > now.Unix():
		return notYet
	}
	return ""
}

// Verdict explains a lookup.
type Verdict struct {
	Query string     `json:"query"`
	Match *Indicator `json:"match"` // what traffic with it now would match; null: nothing
	// Listed is everything that the sources say, the most specific first.
	Listed []Listed `json:"listed"`
	// Exempt says which exemption holds the query; empty: none.
	Exempt string `json:"exempt,omitempty"`
}

// Listed is an indicator with why it does not count.
type Listed struct {
	Indicator
	Ignored string `json:"ignored,omitempty"`
}

// Explain looks an address up, with or without a port. Without one, indicators with a port are shown but do not count.
func (s *Set) Explain(to netip.AddrPort) Verdict {
	if s == nil {
		s = new(Set)
		s.now = time.Now
	}
	a := bare(to.Addr())
	v := Verdict{Query: a.String()}
	if to.Port() != 0 {
		v.Query = netip.AddrPortFrom(a, to.Port()).String()
	}
	ex := exemption{allowed: s.allow.first(s.allow.hits(a)), warned: s.warn.first(s.warn.hits(a))}
	if special(a) {
		ex.special = "not an address of the Internet"
	}
	s.explain(&v, s.listed.hits(a), to.Port(), ex)
	if i, ok := s.Match(netip.AddrPortFrom(a, to.Port()), s.now()); ok {
		v.Match = &i
	}
	return v
}

// ExplainDomain looks a name up.
func (s *Set) ExplainDomain(name string) (v Verdict, reason string) {
	if s == nil {
		s = new(Set)
		s.now = time.Now
	}
	name, reason = NormalizeDomain(name)
	if reason != "" {
		return v, reason
	}
	v.Query = name
	s.explain(&v, s.listed.names(name), 0, exemption{allowed: s.allow.first(s.allow.names(name)), warned: s.warn.first(s.warn.names(name))})
	if i, ok := s.MatchDomain(name, s.now()); ok {
		v.Match = &i
	}
	return v, ""
}

type exemption struct{ allowed, warned, special string }

func (s *Set) explain(v *Verdict, hits []hit, port uint16, ex exemption) {
	v.Exempt = cmp.Or(ex.allowed, ex.warned, ex.special)
	v.Listed = []Listed{}
	now := s.now()
	for i := range hits {
		m := hits[i].meta
		l := Listed{Indicator: hits[i].indicator(), Ignored: m.state(now, now)}
		switch {
		case l.Ignored != "":
		case ex.allowed != "":
			l.Ignored = ex.allowed
		case !m.block.Source.Own && v.Exempt != "":
			l.Ignored = v.Exempt
		case m.port != 0 && m.port != port:
			l.Ignored = "another port"
		}
		v.Listed = append(v.Listed, l)
	}
}

// bare is an address without what tells spellings of it apart.
func bare(a netip.Addr) netip.Addr {
	if a.Is4() {
		return a
	}
	return a.Unmap().WithZone("")
}

// special reports whether a is not an address of the Internet, so that a list which holds it is mistaken.
func special(a netip.Addr) bool {
	return a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// hit is an indicator that has the value asked for.
type hit struct {
	meta  *meta
	ref   uint32
	value netip.Prefix
	name  string
}

func (h *hit) indicator() Indicator {
	text := h.name
	if text == "" {
		if text = h.value.String(); h.value.IsSingleIP() {
			text = h.value.Addr().String()
		}
	}
	return h.meta.indicator(text, h.ref)
}

// layer finds indicators of many blocks.
type layer struct {
	four     []*table4
	six      []*part[host6]
	domains  []*part[domainEntry]
	prefixes *prefixTable
	near     near
}

// part is a searchable list of what is found by its hash.
type part[E any] struct {
	entries []E
	metas   []meta
	index   *hashed
}

// The sizes from which a block is searched by itself, where it lies. What is smaller is copied into one table for all, which is made anew
// at each change.
const (
	large4     = 1 << 16
	largeOther = 1 << 14
)

func newLayer(blocks []*Block, old *prefixTable) layer {
	l := layer{prefixes: newPrefixTable(blocks, old)}
	var few4 []host4
	var few6 []host6
	var fewNames []domainEntry
	var metas []meta
	for _, b := range blocks {
		offset, used := uint32(len(metas)), false
		if len(b.v4) >= large4 {
			if b.table == nil {
				b.table = newTable4(b.v4, b.metas)
			}
			l.four = append(l.four, b.table)
		} else {
			for _, e := range b.v4 {
				few4 = append(few4, host4{e.addr, e.meta + offset, e.ref})
			}
			used = len(b.v4) > 0
		}
		if len(b.v6) >= largeOther {
			if b.six == nil {
				b.six = newPart(b.v6, b.metas, func(e *host6) uint64 { return hash6(e.addr) })
			}
			l.six = append(l.six, b.six)
		} else {
			for _, e := range b.v6 {
				few6 = append(few6, host6{e.addr, e.meta + offset, e.ref})
			}
			used = used || len(b.v6) > 0
		}
		if len(b.domains) >= largeOther {
			if b.names == nil {
				b.names = newPart(b.domains, b.metas, func(e *domainEntry) uint64 { return hashName(e.name) })
			}
			l.domains = append(l.domains, b.names)
		} else {
			for _, e := range b.domains {
				fewNames = append(fewNames, domainEntry{e.name, e.meta + offset, e.ref})
			}
			used = used || len(b.domains) > 0
		}
		if used {
			metas = append(metas, b.metas...)
		}
	}
	if len(few4) > 0 {
		slices.SortStableFunc(few4, func(x, y host4) int { return cmp.Compare(x.addr, y.addr) })
		l.four = append(l.four, newTable4(few4, metas))
	}
	l.near = newNear(l.four, l.prefixes)
	if len(few6) > 0 {
		l.six = append(l.six, newPart(few6, metas, func(e *host6) uint64 { return hash6(e.addr) }))
	}
	if len(fewNames) > 0 {
		l.domains = append(l.domains, newPart(fewNames, metas, func(e *domainEntry) uint64 { return hashName(e.name) }))
	}
	return l
}

func newPart[E any](entries []E, metas []meta, hash func(*E) uint64) *part[E] {
	return &part[E]{entries, metas, newHashed(len(entries), func(i int) uint64 { return hash(&entries[i]) })}
}

// hits are the indicators of a, the most specific first. There are none mostly, and then nothing is allocated.
func (l *layer) hits(a netip.Addr) (hits []hit) {
	if a.Is4() {
		n := number(a)
		if !l.near.may(n) {
			return nil
		}
		for _, t := range l.four {
			for _, e := range t.find(n) {
				hits = append(hits, hit{meta: &t.metas[e.meta], ref: e.ref, value: hostPrefix(a)})
			}
		}
	} else if len(l.six) > 0 {
		b := a.As16()
		for _, p := range l.six {
			for _, at := range p.index.find(hash6(b)) {
				if e := &p.entries[at]; e.addr == b {
					hits = append(hits, hit{meta: &p.metas[e.meta], ref: e.ref, value: hostPrefix(a)})
				}
			}
		}
	}
	if l.prefixes.contains(a) {
		for p, refs := range l.prefixes.table.Supernets(hostPrefix(a)) {
			for _, r := range refs {
				hits = append(hits, hit{meta: &r.block.metas[r.meta], ref: r.ref, value: p})
			}
		}
	}
	return hits
}

// holds reports whether a or a prefix of it is in the layer.
func (l *layer) holds(a netip.Addr) bool { return l.prefixes.contains(a) || len(l.hits(a)) > 0 }

// names are the indicators of a normal name and of those above it.
func (l *layer) names(name string) (hits []hit) {
	if len(l.domains) == 0 {
		return nil
	}
	suffixes(name, func(n string) bool {
		h := hashName(n)
		for _, p := range l.domains {
			for _, at := range p.index.find(h) {
				if e := &p.entries[at]; e.name == n {
					hits = append(hits, hit{meta: &p.metas[e.meta], ref: e.ref, name: e.name})
				}
			}
		}
		return true
	})
	return hits
}

// first names the first hit.
func (l *layer) first(hits []hit) string {
	if len(hits) == 0 {
		return ""
	}
	i := hits[0].indicator()
	return i.Value + " of " + i.Source
}

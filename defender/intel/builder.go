package intel

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The limits of one source. Refs and metas are counted in 32 bits.
const (
	maxIndicators = 1 << 25
	maxLabels     = 16
	maxLabel      = 64
	maxRef        = 256
	chunk         = 1 << 14
)

// Builder collects the indicators of one source. The zero Builder is not ready; see [NewBuilder].
type Builder struct {
	b      *Block
	chunks [][]host4
	n4     int
	n      int
	metas  map[metaKey]uint32
	refs   map[string]uint32
	last   metaKey // the meta of the item before, which most items of a list share
	lastID uint32

	// What was left out, and why the first were.
	BadLines    int
	Unsupported int // patterns and types that cannot be compared with flows
	Unsure      int // below Source.MinConfidence
	Revoked     int
	Warnings    []Warning
}

// metaKey is what many indicators of a source have in common.
type metaKey struct {
	from, until int64 // Unix seconds; 0: none
	labels      string
	port        uint16
	confidence  uint8
	named       bool // the ref is an id, not a line
}

const noMeta = math.MaxUint32

// NewBuilder makes a builder for s.
func NewBuilder(s Source) *Builder {
	if s.Confidence <= 0 || s.Confidence > 100 {
		s.Confidence = DefaultConfidence
	}
	return &Builder{b: &Block{Source: s}, metas: make(map[metaKey]uint32), refs: make(map[string]uint32), lastID: noMeta}
}

// Bad counts something that cannot be read; the first are kept, as text that may be printed.
func (b *Builder) Bad(line int, text, reason string) {
	b.BadLines++
	if len(b.Warnings) < maxWarnings {
		b.Warnings = append(b.Warnings, Warning{File: b.b.Source.Name, Line: line, Text: printable(text), Reason: reason})
	}
}

// Group remembers that the source has something called key, in a version; see [Block.Groups].
func (b *Builder) Group(key, version string) {
	if b.b.groups == nil {
		b.b.groups = make(map[string]string)
	}
	b.b.groups[key] = version
}

// Len is the number of indicators so far, duplicates included.
func (b *Builder) Len() int { return b.n }

// Add takes an indicator, or says why not. It keeps nothing of it but strings.
func (b *Builder) Add(it *Item) (reason string) {
	k := metaKey{port: it.Port, confidence: uint8(it.Confidence), named: it.Ref != ""}
	if it.Confidence <= 0 || it.Confidence > 100 {
		k.confidence = uint8(b.b.Source.Confidence)
	}
	if int(k.confidence) < b.b.Source.MinConfidence {
		b.Unsure++
		return ""
	}
	if b.n >= maxIndicators {
		return "more indicators than a source may have"
	}
	var domain string
	if it.Domain != "" {
		if domain, reason = NormalizeDomain(it.Domain); reason != "" {
			return reason
		}
	} else if v := unmapped(it.Value); !v.IsValid() || v.Bits() == 0 {
		return "neither an address nor a prefix nor a domain"
	}
	value := unmapped(it.Value)
	k.from, k.until = seconds(it.From), seconds(it.Until)
	if len(it.Labels) > 0 {
		k.labels = joinLabels(it.Labels)
	}
	meta, ref := b.meta(k), uint32(max(it.Line, 0))
	if k.named {
		ref = b.ref(it.Ref)
	}
	b.n++
	switch a := value.Addr(); {
	case domain != "":
		b.b.domains = append(b.b.domains, domainEntry{strings.Clone(domain), meta, ref})
	case !value.IsSingleIP():
		b.b.prefixes = append(b.b.prefixes, prefixEntry{value.Masked(), meta, ref})
	case a.Is4():
		b.add4(host4{number(a), meta, ref})
	default:
		b.b.v6 = append(b.b.v6, host6{a.As16(), meta, ref})
	}
	return ""
}

func (b *Builder) add4(e host4) {
	if last := len(b.chunks) - 1; last < 0 || len(b.chunks[last]) == chunk {
		size := chunk
		if last < 0 {
			size = 16 // most lists are short
		}
		b.chunks = append(b.chunks, make([]host4, 0, size))
	}
	last := &b.chunks[len(b.chunks)-1]
	*last = append(*last, e)
	b.n4++
}

func (b *Builder) meta(k metaKey) uint32 {
	if b.lastID != noMeta && k == b.last {
		return b.lastID
	}
	id, ok := b.metas[k]
	if !ok {
		id = uint32(len(b.b.metas))
		b.metas[k] = id
		b.b.metas = append(b.b.metas, meta{k, b.b})
	}
	b.last, b.lastID = k, id
	return id
}

func (b *Builder) ref(s string) uint32 {
	if len(s) > maxRef {
		s = s[:maxRef]
	}
	id, ok := b.refs[s]
	if !ok {
		s = strings.ToValidUTF8(s, "\uFFFD")
		id = uint32(len(b.b.refs))
		b.refs[s] = id
		b.b.refs = append(b.b.refs, s)
	}
	return id
}

// Block is what was collected. The builder is used up.
func (b *Builder) Block() *Block {
	bl := b.b
	bl.v4 = sort4(b.chunks, b.n4)
	b.b, b.chunks, b.metas, b.refs = nil, nil, nil, nil
	bl.v6 = sorted(bl.v6, func(x, y host6) int {
		return cmp.Or(slices.Compare(x.addr[:], y.addr[:]), order(x.meta, y.meta, x.ref, y.ref))
	},
		func(x, y host6) bool { return x.addr == y.addr && x.meta == y.meta })
	bl.prefixes = sorted(bl.prefixes, func(x, y prefixEntry) int {
		return cmp.Or(x.prefix.Compare(y.prefix), order(x.meta, y.meta, x.ref, y.ref))
	}, func(x, y prefixEntry) bool { return x.prefix == y.prefix && x.meta == y.meta })
	bl.domains = sorted(bl.domains, func(x, y domainEntry) int {
		return cmp.Or(strings.Compare(x.name, y.name), order(x.meta, y.meta, x.ref, y.ref))
	},
		func(x, y domainEntry) bool { return x.name == y.name && x.meta == y.meta })
	return bl
}

func order(m1, m2, r1, r2 uint32) int { return cmp.Or(cmp.Compare(m1, m2), cmp.Compare(r1, r2)) }

// sorted sorts and leaves out repetitions; of those the first line stays.
func sorted[E any](s []E, compare func(x, y E) int, same func(x, y E) bool) []E {
	slices.SortFunc(s, compare)
	return slices.Clip(slices.CompactFunc(s, same))
}

func compare4(x, y host4) int {
	return cmp.Or(cmp.Compare(x.addr, y.addr), order(x.meta, y.meta, x.ref, y.ref))
}

// sort4 joins chunks in order of addresses and frees them as it goes. Large ones are distributed by their upper halves first, which
// is much faster than sorting the whole.
func sort4(chunks [][]host4, n int) []host4 {
	out := make([]host4, n)
	if n < 1<<12 {
		at := 0
		for _, c := range chunks {
			at += copy(out[at:], c)
		}
		slices.SortFunc(out, compare4)
		return compact4(out)
	}
	next := make([]uint32, 1<<16+1)
	for _, c := range chunks {
		for i := range c {
			next[c[i].addr>>16+1]++
		}
	}
	for i := range 1 << 16 {
		next[i+1] += next[i]
	}
	begin := slices.Clone(next)
	for i, c := range chunks {
		for j := range c {
			h := c[j].addr >> 16
			out[next[h]] = c[j]
			next[h]++
		}
		chunks[i] = nil
	}
	for i := range 1 << 16 {
		slices.SortFunc(out[begin[i]:begin[i+1]], compare4)
	}
	return compact4(out)
}

func compact4(s []host4) []host4 {
	c := slices.CompactFunc(s, func(x, y host4) bool { return x.addr == y.addr && x.meta == y.meta })
	if cap(c)-len(c) > len(c)/8 {
		c = slices.Clone(c)
	}
	return c
}

// unmapped makes IPv4 of IPv4-mapped IPv6.
func unmapped(p netip.Prefix) netip.Prefix {
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return p
}

func number(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func address(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

func seconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func moment(s int64) time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.Unix(s, 0).UTC()
}

const labelEnd = "\x1f"

// joinLabels keeps a bounded number of printable labels.
func joinLabels(labels []string) string {
	kept := make([]string, 0, min(len(labels), maxLabels))
	for _, l := range labels {
		if len(l) > maxLabel {
			l = l[:maxLabel]
		}
		q := strconv.QuoteToGraphic(strings.ToValidUTF8(strings.TrimSpace(l), "\uFFFD"))
		if l = q[1 : len(q)-1]; l != "" && !slices.Contains(kept, l) {
			kept = append(kept, l)
		}
		if len(kept) == maxLabels {
			break
		}
	}
	return strings.Join(kept, labelEnd)
}

// Counts tells what was collected and what was left out.
func (b *Builder) Counts() string {
	return fmt.Sprintf("%d indicators, %d bad, %d unsupported, %d unsure, %d revoked", b.n, b.BadLines, b.Unsupported, b.Unsure, b.Revoked)
}

package format

import (
	"net/netip"
	"strconv"
	"strings"
)

// term is a value that a pattern names, with the port that goes with it.
type term struct {
	value string
	port  uint16
}

const (
	maxPattern = 64 << 10
	maxDepth   = 32
	maxTerms   = 10_000
)

// compilePattern reads a STIX pattern (section 9) as far as it says which addresses, names or URLs are meant: comparisons of values by =, IN and ISSUBSET,
// joined by OR, and an address AND its port. rest is set when a part of the pattern means something else: that part is left out where it is
// an alternative, and with all that it narrows where it is a condition, for dropping a condition would match what is not meant.
func compilePattern(s string) (terms []term, rest bool, err error) {
	if len(s) > maxPattern {
		return nil, false, malformed("the pattern is longer than %d bytes", maxPattern)
	}
	p := &pattern{s: s}
	all := p.observations(0)
	if p.err == nil && p.token() != "" {
		p.fail("something follows the pattern")
	}
	if p.err != nil {
		return nil, false, p.err
	}
	for _, c := range all {
		if c.other || c.value == "" {
			rest = true
			continue
		}
		terms = append(terms, term{c.value, c.port})
	}
	return terms, rest, nil
}

// conjunct is one alternative: what must hold together.
type conjunct struct {
	value string
	port  uint16
	other bool // and something that cannot be compared
}

type pattern struct {
	s    string
	at   int
	next string // a token that was looked at
	err  error
}

func (p *pattern) fail(why string) {
	if p.err == nil {
		p.err = malformed("pattern, byte %d: %s", p.at, why)
	}
}

// token returns the next token without taking it: a bracket, a quoted text with its quotes, an operator, or a word.
func (p *pattern) token() string {
	if p.next != "" || p.err != nil {
		return p.next
	}
	for p.at < len(p.s) && strings.IndexByte(" \t\r\n", p.s[p.at]) >= 0 {
		p.at++
	}
	if p.at == len(p.s) {
		return ""
	}
	begin := p.at
	switch c := p.s[p.at]; {
	case strings.IndexByte("[](),", c) >= 0:
		p.at++
	case strings.IndexByte("=<>!", c) >= 0:
		for p.at < len(p.s) && strings.IndexByte("=<>!", p.s[p.at]) >= 0 {
			p.at++
		}
	case c == '\'':
		p.quoted()
	default:
		// Object paths have brackets and quotes of their own: file:hashes.'SHA-256', network-traffic:protocols[0].
		for p.at < len(p.s) && strings.IndexByte(" \t\r\n(),=<>!]", p.s[p.at]) < 0 {
			switch p.s[p.at] {
			case '\'':
				p.quoted()
			case '[':
				end := strings.IndexByte(p.s[p.at:], ']')
				if end < 0 {
					p.fail("a bracket is not closed")
					return ""
				}
				p.at += end + 1
			default:
				p.at++
			}
			if p.err != nil {
				return ""
			}
		}
	}
	if p.at == begin {
		p.fail("nothing that a pattern has")
		return ""
	}
	p.next = p.s[begin:p.at]
	return p.next
}

func (p *pattern) quoted() {
	for p.at++; p.at < len(p.s); p.at++ {
		switch p.s[p.at] {
		case '\\':
			p.at++
		case '\'':
			p.at++
			return
		}
	}
	p.at = len(p.s)
	p.fail("a quote is not closed")
}

func (p *pattern) take() string {
	t := p.token()
	p.next = ""
	return t
}

func (p *pattern) accept(t string) bool {
	if p.err == nil && strings.EqualFold(p.token(), t) && t != "" {
		p.take()
		return true
	}
	return false
}

func (p *pattern) want(t string) {
	if !p.accept(t) {
		p.fail("want " + t)
	}
}

var unknown = []conjunct{{other: true}}

// observations reads what stands outside of brackets. Only OR makes alternatives that can be told apart by one flow.
func (p *pattern) observations(depth int) []conjunct {
	if depth > maxDepth {
		p.fail("nested too deep")
		return nil
	}
	var all []conjunct
	whole := false // AND or FOLLOWEDBY: several flows make it up
	for p.err == nil {
		var part []conjunct
		if p.accept("(") {
			part = p.observations(depth + 1)
			p.want(")")
		} else {
			p.want("[")
			part = p.comparison(depth + 1)
			p.want("]")
		}
		part = p.qualifiers(part)
		all = append(all, part...)
		if len(all) > maxTerms {
			p.fail("too many values")
		}
		switch {
		case p.accept("OR"):
		case p.accept("AND"), p.accept("FOLLOWEDBY"):
			whole = true
		default:
			if whole {
				return unknown
			}
			return all
		}
	}
	return nil
}

// qualifiers make one flow not enough, but for START and STOP, whose times indicators have themselves.
func (p *pattern) qualifiers(part []conjunct) []conjunct {
	for p.err == nil {
		switch {
		case p.accept("WITHIN"):
			p.take()
			p.want("SECONDS")
			part = unknown
		case p.accept("REPEATS"):
			p.take()
			p.want("TIMES")
			part = unknown
		case p.accept("START"):
			p.take()
			p.want("STOP")
			p.take()
			part = unknown
		default:
			return part
		}
	}
	return part
}

// comparison reads alternatives; AND binds closer than OR.
func (p *pattern) comparison(depth int) []conjunct {
	if depth > maxDepth {
		p.fail("nested too deep")
		return nil
	}
	all := p.conjunction(depth)
	for p.err == nil && p.accept("OR") {
		all = append(all, p.conjunction(depth)...)
		if len(all) > maxTerms {
			p.fail("too many values")
		}
	}
	return all
}

func (p *pattern) conjunction(depth int) []conjunct {
	all := p.primary(depth)
	for p.err == nil && p.accept("AND") {
		with := p.primary(depth)
		if len(all)*len(with) > maxTerms {
			p.fail("too many values")
			return nil
		}
		var both []conjunct
		for _, a := range all {
			for _, b := range with {
				both = append(both, and(a, b))
			}
		}
		all = both
	}
	return all
}

func and(a, b conjunct) conjunct {
	c := conjunct{a.value, a.port, a.other || b.other}
	if b.value != "" {
		c.other = c.other || c.value != "" && c.value != b.value // two addresses: both ends of one flow
		c.value = b.value
	}
	if b.port != 0 {
		c.other = c.other || c.port != 0 && c.port != b.port
		c.port = b.port
	}
	return c
}

func (p *pattern) primary(depth int) []conjunct {
	if p.accept("(") {
		c := p.comparison(depth + 1)
		p.want(")")
		return c
	}
	if p.accept("EXISTS") {
		p.take()
		return unknown
	}
	path := strings.ToLower(p.take())
	if path == "" || !strings.Contains(path, ":") {
		p.fail("want an object path")
		return nil
	}
	negated := p.accept("NOT")
	op := strings.ToUpper(p.take())
	var values []string
	switch op {
	case "IN":
		p.want("(")
		for p.err == nil {
			values = append(values, p.literal())
			if !p.accept(",") {
				break
			}
		}
		p.want(")")
	case "=", "==", "ISSUBSET", "!=", "<>", "<", ">", "<=", ">=", "LIKE", "MATCHES", "ISSUPERSET":
		values = append(values, p.literal())
	default:
		p.fail("want a comparison")
	}
	if p.err != nil {
		return nil
	}
	if negated || op != "=" && op != "==" && op != "IN" && op != "ISSUBSET" {
		return unknown
	}
	var all []conjunct
	for _, v := range values {
		all = append(all, compared(path, op, v))
	}
	return all
}

// compared is what `path = v` says of a flow.
func compared(path, op, v string) conjunct {
	switch path {
	case "ipv4-addr:value", "ipv6-addr:value", "network-traffic:dst_ref.value", "network-traffic:src_ref.value":
		if op == "ISSUBSET" {
			if _, err := netip.ParsePrefix(v); err != nil {
				return conjunct{other: true}
			}
		}
		return conjunct{value: v}
	case "domain-name:value", "url:value":
		if op != "ISSUBSET" {
			return conjunct{value: v}
		}
	case "network-traffic:dst_port", "network-traffic:src_port":
		if port, err := strconv.ParseUint(v, 10, 16); err == nil && port > 0 && op != "ISSUBSET" {
			return conjunct{port: uint16(port)}
		}
	}
	return conjunct{other: true}
}

// literal reads a constant; the quotes of texts go.
func (p *pattern) literal() string {
	t := p.take()
	if len(t) >= 2 && t[0] == '\'' {
		return strings.NewReplacer(`\'`, `'`, `\\`, `\`).Replace(t[1 : len(t)-1])
	}
	if t == "" || strings.ContainsAny(t, "[](),=<>!") {
		p.fail("want a value")
		return ""
	}
	// h'..', b'..' and t'..' are texts of other kinds.
	if len(t) >= 3 && t[1] == '\'' {
		return t[2 : len(t)-1]
	}
	return t
}

package twin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/vauban-iot/vauban/fault"
)

// Limits of a section (hub-service §3.5). Sizes are counted by node.size.
const (
	maxTags       = 8 << 10
	maxProperties = 32 << 10
	maxDepth      = 10
	maxMembers    = 8192 // of all objects of one patch, more than a full section can hold
	maxKey        = 1 << 10
	maxString     = 4 << 10
	maxInteger    = 1 << 52 // hub-service §3.5 has one less; hub-device §7 wants both ends to survive
	minInteger    = -1 << 52
)

// node is a JSON value: an object with its members in order, or anything else as its compact text.
type node struct {
	object  bool
	members []member
	value   string // of what is no object
}

type member struct {
	name string
	node *node
}

func newObject() *node { return &node{object: true} }

func (n *node) null() bool { return !n.object && n.value == "null" }

func (n *node) find(name string) int {
	return slices.IndexFunc(n.members, func(m member) bool { return m.name == name })
}

func (n *node) get(name string) *node {
	if i := n.find(name); i >= 0 {
		return n.members[i].node
	}
	return nil
}

func (n *node) set(name string, v *node) {
	if i := n.find(name); i >= 0 {
		n.members[i].node = v
		return
	}
	n.members = append(n.members, member{name, v})
}

func (n *node) remove(name string) {
	if i := n.find(name); i >= 0 {
		n.members = slices.Delete(n.members, i, i+1)
	}
}

// parseSection reads a section as it arrives: an object, or null. Its $metadata and $version, which
// programs send back as they read them, are dropped. Failures are fault.Malformed and Invalid.
func parseSection(what string, text []byte) (*node, error) {
	if !utf8.Valid(text) {
		return nil, fault.New(fault.Malformed, "the %s are not UTF-8", what)
	}
	if !json.Valid(text) {
		return nil, fault.New(fault.Malformed, "the %s are not valid JSON", what)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, text); err != nil {
		return nil, fault.Wrap(fault.Malformed, err, "the %s are not valid JSON", what)
	}
	p := parser{text: compact.String()}
	n, err := p.node(0)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "the %s are refused: %v", what, err)
	}
	if !n.object && !n.null() {
		return nil, fault.New(fault.Invalid, "the %s must be a JSON object", what)
	}
	return n, nil
}

// mustTree reads a tree that this package wrote.
func mustTree(text json.RawMessage) *node {
	if isEmpty(text) {
		return newObject()
	}
	p := parser{text: string(text), trusted: true}
	n, err := p.node(0)
	if err != nil || !n.object {
		// Only other hands in the database can make this happen; a section that is no
		// object reads as an empty one rather than taking the server down.
		return newObject()
	}
	return n
}

// parser walks compact JSON that json.Valid accepted. It checks what twins forbid, unless
// the text is trusted.
type parser struct {
	text    string
	at      int
	trusted bool
	count   int // of members
}

func (p *parser) node(depth int) (*node, error) {
	if depth > maxDepth && !p.trusted {
		return nil, fmt.Errorf("deeper than %d levels", maxDepth)
	}
	switch p.peek() {
	case '{':
		return p.members(depth)
	case '[':
		start := p.at
		if err := p.array(depth); err != nil {
			return nil, err
		}
		return &node{value: p.text[start:p.at]}, nil
	case '"':
		raw := p.string()
		if !p.trusted {
			if s := unquote(raw); len(s) > maxString {
				return nil, fmt.Errorf("a string of %d bytes, %d are allowed", len(s), maxString)
			}
		}
		return &node{value: raw}, nil
	default:
		raw := p.scalar()
		if !p.trusted {
			if err := checkNumber(raw); err != nil {
				return nil, err
			}
		}
		return &node{value: raw}, nil
	}
}

func (p *parser) members(depth int) (*node, error) {
	n := newObject()
	p.at++ // {
	for p.peek() != '}' {
		if p.peek() == ',' {
			p.at++
		}
		if p.peek() != '"' {
			return nil, fmt.Errorf("unreadable object")
		}
		name := unquote(p.string())
		p.at++ // :
		if depth == 0 && !p.trusted && (name == "$metadata" || name == "$version") {
			q := parser{text: p.text, at: p.at, trusted: true} // any content, even what twins forbid
			if _, err := q.node(0); err != nil {
				return nil, err
			}
			p.at = q.at
			continue
		}
		if !p.trusted {
			if p.count++; p.count > maxMembers {
				return nil, fmt.Errorf("more than %d members", maxMembers)
			}
			if err := checkKey(name); err != nil {
				return nil, err
			}
		}
		v, err := p.node(depth + 1)
		if err != nil {
			return nil, err
		}
		n.set(name, v)
	}
	p.at++
	return n, nil
}

// array checks the elements and leaves them in the text.
func (p *parser) array(depth int) error {
	p.at++ // [
	for p.peek() != ']' {
		if p.peek() == ',' {
			p.at++
		}
		if p.at >= len(p.text) {
			return fmt.Errorf("unreadable array")
		}
		if _, err := p.node(depth + 1); err != nil {
			return err
		}
	}
	p.at++
	return nil
}

func (p *parser) peek() byte {
	if p.at < len(p.text) {
		return p.text[p.at]
	}
	return 0
}

func (p *parser) string() string {
	start := p.at
	for p.at++; p.at < len(p.text) && p.text[p.at] != '"'; p.at++ {
		if p.text[p.at] == '\\' {
			p.at++
		}
	}
	p.at = min(p.at+1, len(p.text))
	return p.text[start:p.at]
}

func (p *parser) scalar() string {
	start := p.at
	for p.at < len(p.text) && strings.IndexByte(",]}", p.text[p.at]) < 0 {
		p.at++
	}
	return p.text[start:p.at]
}

// unquote decodes a JSON string.
func unquote(raw string) string {
	if len(raw) >= 2 && strings.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	var s string
	if json.Unmarshal([]byte(raw), &s) != nil {
		return raw // not reached for valid JSON
	}
	return s
}

func checkKey(name string) error {
	if len(name) > maxKey {
		return fmt.Errorf("a key of %d bytes, %d are allowed", len(name), maxKey)
	}
	if name == "" {
		return fmt.Errorf("an empty key")
	}
	for _, r := range name {
		if r == '.' || r == '$' || r == ' ' || control(r) {
			return fmt.Errorf("the key %q holds %q", name, r)
		}
	}
	return nil
}

// control reports C0 and C1 control characters.
func control(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 }

// checkNumber bounds integers; fractions may have any size. Words pass.
func checkNumber(raw string) error {
	if strings.ContainsAny(raw, ".eE") || raw == "" || raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
		return nil
	}
	if n, err := strconv.ParseInt(raw, 10, 64); err != nil || n < minInteger || n > maxInteger {
		return fmt.Errorf("the integer %.40s is outside %d to %d", raw, int64(minInteger), int64(maxInteger))
	}
	return nil
}

// fits checks the size of a section.
func (n *node) fits(what string, limit int) error {
	if s := n.size(); s > limit {
		return fault.New(fault.Invalid, "the %s have %d bytes, %d are allowed", what, s, limit)
	}
	return nil
}

// size counts as Azure does: names and strings by their UTF-8 length without control
// characters, numbers 8, booleans 4, null 0 (hub-service §3.5).
func (n *node) size() int {
	if n.object {
		total := 0
		for _, m := range n.members {
			total += textSize(m.name) + m.node.size()
		}
		return total
	}
	switch n.value[0] {
	case '"':
		return textSize(unquote(n.value))
	case '[':
		p := parser{text: n.value, trusted: true}
		p.at++
		total := 0
		for p.peek() != ']' && p.at < len(p.text) {
			if p.peek() == ',' {
				p.at++
			}
			e, err := p.node(0)
			if err != nil {
				return total
			}
			total += e.size()
		}
		return total
	case 't', 'f':
		return 4
	case 'n':
		return 0
	default:
		return 8
	}
}

func textSize(s string) int {
	n := 0
	for _, r := range s {
		if !control(r) {
			n += utf8.RuneLen(r)
		}
	}
	return n
}

// merged is n with patch merged into it (RFC 7396). n is changed and returned; nothing of
// patch that is an object is shared with it.
func (n *node) merged(patch *node) *node {
	for _, m := range patch.members {
		switch {
		case m.node.null():
			n.remove(m.name)
		case m.node.object:
			old := n.get(m.name)
			if old == nil || !old.object {
				old = newObject()
			}
			n.set(m.name, old.merged(m.node))
		default:
			n.set(m.name, m.node)
		}
	}
	return n
}

var nullNode = &node{value: "null"}

// erased is the patch that empties n.
func (n *node) erased() *node {
	p := newObject()
	for _, m := range n.members {
		p.members = append(p.members, member{m.name, nullNode})
	}
	return p
}

// difference is the patch that makes n into next.
func (n *node) difference(next *node) *node {
	d := newObject()
	for _, m := range n.members {
		if next.get(m.name) == nil {
			d.members = append(d.members, member{m.name, nullNode})
		}
	}
	for _, m := range next.members {
		old := n.get(m.name)
		switch {
		case old == nil || old.object != m.node.object:
			d.members = append(d.members, m)
		case m.node.object:
			if sub := old.difference(m.node); len(sub.members) > 0 {
				d.members = append(d.members, member{m.name, sub})
			}
		case old.value != m.node.value:
			d.members = append(d.members, m)
		}
	}
	return d
}

func (n *node) scalars(prefix string, each func(path, value string)) {
	for _, m := range n.members {
		switch {
		case m.node.object:
			m.node.scalars(prefix+m.name+".", each)
		case m.node.value[0] != '[':
			each(prefix+m.name, m.node.value)
		}
	}
}

// text is n as compact JSON.
func (n *node) text() json.RawMessage { return n.append(nil) }

func (n *node) append(b []byte) []byte {
	if !n.object {
		return append(b, n.value...)
	}
	b = append(b, '{')
	for i, m := range n.members {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendQuoted(b, m.name)
		b = append(b, ':')
		b = m.node.append(b)
	}
	return append(b, '}')
}

// appendQuoted writes a key. Keys hold no control characters, so two escapes suffice.
func appendQuoted(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return append(b, '"')
}

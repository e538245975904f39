// Package bag reads and writes property bags, the k1=v1&k2=v2 text that ends an IoT Hub
// MQTT topic (hub-device §3.2). Reading forgives what clients are known to send; writing
// uses one strict form that every SDK reads.
package bag

import (
	"errors"
	"fmt"
	"strings"
)

// MaxProperties bounds the pairs of one bag. A hub message carries 8 KB of properties, so
// real bags stay far below it.
const MaxProperties = 512

var (
	// ErrMalformed is returned for a broken percent escape and for text that is not UTF-8 once decoded.
	ErrMalformed = errors.New("bag: malformed")
	// ErrTooMany is returned for a bag of more than MaxProperties pairs.
	ErrTooMany = errors.New("bag: too many properties")
)

// Property is one pair. Null tells a bare key (k) from an empty value (k=); Value is then empty.
type Property struct {
	Name, Value string
	Null        bool
}

// Parse reads a bag. A leading '?' is dropped, a '/' ends the bag, '+' is an ordinary
// character, pairs without a name are skipped, and the last of several equal names wins
// in the place of the first. An empty bag is nil. Names and values may alias s.
//
// The error is ErrTooMany or ErrMalformed.
func Parse(s string) ([]Property, error) {
	s = strings.TrimPrefix(s, "?")
	s, _, _ = strings.Cut(s, "/")
	n := 0
	for pair := range strings.SplitSeq(s, "&") {
		if pair == "" || pair[0] == '=' {
			continue
		}
		if n++; n > MaxProperties {
			return nil, fmt.Errorf("%w: more than %d", ErrTooMany, MaxProperties)
		}
	}
	if n == 0 {
		return nil, nil
	}
	set := newSet(n)
	for pair := range strings.SplitSeq(s, "&") {
		if pair == "" || pair[0] == '=' {
			continue
		}
		name, value, hasValue := strings.Cut(pair, "=")
		p := Property{Null: !hasValue}
		var err error
		if p.Name, err = Unescape(name); err != nil {
			return nil, fmt.Errorf("name: %w", err)
		}
		if p.Value, err = Unescape(value); err != nil {
			return nil, fmt.Errorf("value: %w", err)
		}
		set.put(p)
	}
	return set.props, nil
}

// Append appends props in the form hub-device §3.2 calls "encoding we send". A property
// without a name is left out, as Parse would skip it.
func Append(dst []byte, props []Property) []byte {
	first := true
	for _, p := range props {
		if p.Name == "" {
			continue
		}
		if !first {
			dst = append(dst, '&')
		}
		first = false
		dst = Escape(dst, p.Name)
		if !p.Null {
			dst = append(dst, '=')
			dst = Escape(dst, p.Value)
		}
	}
	return dst
}

// set collects properties by name. Small bags, nearly all, are searched in place.
type set struct {
	props []Property
	index map[string]int // nil for a small bag
}

const smallBag = 16

func newSet(n int) *set {
	s := &set{props: make([]Property, 0, n)}
	if n > smallBag {
		s.index = make(map[string]int, n)
	}
	return s
}

func (s *set) put(p Property) {
	if i, ok := s.find(p.Name); ok {
		s.props[i] = p
		return
	}
	if s.index != nil {
		s.index[p.Name] = len(s.props)
	}
	s.props = append(s.props, p)
}

func (s *set) find(name string) (int, bool) {
	if s.index != nil {
		i, ok := s.index[name]
		return i, ok
	}
	for i := range s.props {
		if s.props[i].Name == name {
			return i, true
		}
	}
	return 0, false
}

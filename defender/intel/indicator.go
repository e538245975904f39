package intel

import (
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Indicator is one listed value with what its source says of it.
type Indicator struct {
	Value      string    `json:"indicator"` // the address, prefix or domain, in its one usual spelling
	Port       uint16    `json:"port,omitempty"`
	Source     string    `json:"source"` // name of the list or feed
	Ref        string    `json:"ref"`    // place in it: a line, or the id that the feed gives it
	Confidence int       `json:"confidence"`
	ValidFrom  time.Time `json:"validFrom,omitzero"`
	ValidUntil time.Time `json:"validUntil,omitzero"`
	Labels     []string  `json:"labels,omitempty"`
}

// String is the value, with its port when it has one. It names the indicator in alerts.
func (i Indicator) String() string {
	if i.Port == 0 {
		return i.Value
	}
	if strings.Contains(i.Value, ":") {
		return "[" + i.Value + "]:" + strconv.Itoa(int(i.Port))
	}
	return i.Value + ":" + strconv.Itoa(int(i.Port))
}

// Place is the source and the place in it.
func (i Indicator) Place() string { return i.Source + ":" + i.Ref }

// Item is an indicator as a parser hands it over.
type Item struct {
	Value      netip.Prefix // an address or prefix; the zero prefix when Domain is set
	Domain     string       // in any spelling
	Port       uint16       // 0: any
	Confidence int          // 1 to 100; 0: not said
	From       time.Time    // zero: always valid
	Until      time.Time    // zero: no end
	Labels     []string
	Ref        string // id in the feed; empty: Line is its place
	Line       int
}

// Source is where indicators come from.
type Source struct {
	Name string
	// Own says that the operator wrote the list: warning lists and special ranges, which exist to mend the lists of others, do not mute it.
	Own bool
	// Confidence is for indicators that say none; 0: DefaultConfidence.
	Confidence int
	// MinConfidence leaves out indicators that are less sure.
	MinConfidence int
	// Version tells contents of one source apart.
	Version string
}

// DefaultConfidence is that of a list which says nothing: enough for an alert of high severity.
const DefaultConfidence = 75

// hostPrefix is a as a prefix of all its bits.
func hostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

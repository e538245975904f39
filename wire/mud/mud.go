// Package mud reads and writes Manufacturer Usage Descriptions (RFC 8520): what a maker says that its device needs of the network,
// as access lists of RFC 8519 in JSON. [Parse] takes a file apart into [Rule]s, [File.Append] writes one.
//
// A file is a stranger's text. It is bounded before it is taken apart, and what it restricts by something that this package does not
// know is left out with a note, never taken as less restricted. Files are not fetched here, and the detached CMS signature of
// RFC 8520 §13 is not checked: whoever imports a file vouches for it.
package mud

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Bounds of a file.
const (
	MaxSize  = 256 << 10 // bytes
	MaxRules = 2000      // access control entries, of all lists that the policies name
	maxLists = 64
	maxNotes = 50
	maxURL   = 253 // RFC 8520 §3.2
	maxText  = 255
	maxQuote = 80
)

// ErrMalformed is wrapped by the errors for files that cannot be used.
var ErrMalformed = errors.New("mud: not a MUD file that can be used")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// File is a MUD file, its lists resolved.
type File struct {
	URL           string // mud-url
	LastUpdate    time.Time
	CacheValidity int // hours, 1 to 168; 48 when the file does not say
	Supported     bool
	SystemInfo    string
	Manufacturer  string // mfg-name, and so on; empty: not given
	Model         string
	Firmware      string
	Software      string
	Documentation string
	Signature     string // mud-signature, an address; it is not checked
	Extensions    []string
	Rules         []Rule
	Notes         []string // what was left out, and why; at most 50
}

// Direction of packets, as the policies name it.
type Direction int

// The directions.
const (
	FromDevice Direction = iota
	ToDevice
)

func (d Direction) String() string {
	if d == ToDevice {
		return "to-device"
	}
	return "from-device"
}

// Rule is an entry that accepts packets.
type Rule struct {
	Direction Direction
	Version   int // of IP: 4 or 6
	Protocol  int // IP protocol number; -1: any
	Peer      Peer
	// Local and Remote are the ports of the device and of its peer; none: all.
	Local, Remote []Ports
	// Initiated says who begins a TCP connection; nil: it is not said (RFC 8520 §8.8).
	Initiated *Direction
}

// Ports is a range, both ends included.
type Ports struct{ First, Last uint16 }

// PeerKind says how a rule names the other side.
type PeerKind int

// The kinds of peers (RFC 8520 §8).
const (
	Any PeerKind = iota
	Network
	DNSName
	LocalNetworks
	SameManufacturer
	MyController
	Controller
	Manufacturer
	Model
)

var kindNames = [...]string{"any", "network", "dns-name", "local-networks", "same-manufacturer", "my-controller", "controller", "manufacturer", "model"}

// String is the word of RFC 8520, where there is one.
func (k PeerKind) String() string { return kindNames[k] }

// Peer is the other side.
type Peer struct {
	Kind   PeerKind
	Prefix netip.Prefix // of Network
	Name   string       // of DNSName, in lower case; the URI or authority of Controller, Manufacturer and Model
}

// The protocols by number.
const (
	ICMP   = 1
	TCP    = 6
	UDP    = 17
	ICMPv6 = 58
)

func checkURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case len(s) > maxURL:
		return malformed("mud-url has %d bytes, %d are allowed", len(s), maxURL)
	case err != nil, u.Scheme != "https", u.Host == "":
		return malformed("mud-url is %s; it is an https address (RFC 8520 §3.2)", quote(s))
	}
	return nil
}

// name checks a DNS name and returns it in lower case.
func name(s string) (string, bool) {
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	if s == "" || len(s) > 253 {
		return "", false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return "", false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '*' {
				return "", false
			}
		}
	}
	return s, true
}

func quote(s string) string {
	if len(s) > maxQuote {
		return fmt.Sprintf("%+q...", s[:maxQuote])
	}
	return fmt.Sprintf("%+q", s)
}

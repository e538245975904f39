// Package baseline learns what the devices of a security group usually do, and says when one does otherwise: with whom they talk, by which
// protocols and ports and at which hours, how much in an hour, which programs start and which users sign in.
//
// A baseline goes through states. While it is learning, every message of its devices counts. What was learned becomes a proposal: a
// document that people read, entry by entry, with how many devices did it and how often. Enforced, each deviation is an alert, which says
// what was expected, what was seen and since when; before that, a preview tells which alerts the last days would have had. What a maker
// says of its device (RFC 8520, package mud) becomes a proposal, too, alone or merged with what was learned, and a baseline can be
// written as such a file.
//
// A device that is taken over while the group learns must not teach the group: what few devices do is held back until a person accepts
// it, a volume counts that several devices reached, and what threat intelligence lists is never accepted.
//
// Time is that of the hub, which enqueued the message (defender §7). A [Service] keeps what it learns in memory and saves it once a
// minute with its place in the log: after a crash nothing counts twice, and what was counted within the last minute is lost, but no alert.
package baseline

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// State of a baseline.
type State string

// The states. A group without a baseline is off.
const (
	Off      State = "off"
	Learning State = "learning"
	Proposed State = "proposed"
	Enforced State = "enforced"
)

// Bounds of a baseline.
const (
	MaxEntries  = 1000
	MaxSize     = 1 << 20 // of a document's text
	maxNames    = 1000    // given names
	maxGiven    = 64      // addresses of one
	maxText     = 256
	maxDuration = 90 * 24 * time.Hour
	// MaxGroups is how many baselines there are at most, as of groups with rules.
	MaxGroups = 100
)

// Terms are what learning has to meet before it may become a proposal.
type Terms struct {
	Since      time.Time `json:"since,omitzero"`       // when it began
	MinTime    string    `json:"minTime,omitempty"`    // such as 168h; at least so long
	MinDevices int       `json:"minDevices,omitempty"` // of which something was learned
	// MinShare is the share of the devices, 0 to 1, that have to do something so that it is proposed by itself; two devices at least.
	MinShare float64 `json:"minShare,omitempty"`
}

// The terms when none are given.
const (
	DefaultMinTime    = 7 * 24 * time.Hour
	DefaultMinDevices = 3
	DefaultMinShare   = 0.05
)

func (t *Terms) complete() error {
	if t.MinTime == "" {
		t.MinTime = DefaultMinTime.String()
	}
	if d, err := time.ParseDuration(t.MinTime); err != nil || d < 0 || d > maxDuration {
		return fault.New(fault.Invalid, "minTime %.40q is not a duration such as 168h, of 90 days at most", t.MinTime)
	}
	if t.MinDevices == 0 {
		t.MinDevices = DefaultMinDevices
	}
	if t.MinDevices < 1 || t.MinDevices > 1_000_000 {
		return fault.New(fault.Invalid, "minDevices is %d; it is 1 or more", t.MinDevices)
	}
	if t.MinShare == 0 {
		t.MinShare = DefaultMinShare
	}
	if t.MinShare < 0 || t.MinShare > 1 {
		return fault.New(fault.Invalid, "minShare is %g; it is a share from 0 to 1", t.MinShare)
	}
	return nil
}

func (t *Terms) minTime() time.Duration {
	d, _ := time.ParseDuration(t.MinTime) // complete checked it
	return d
}

// Threshold is how many of so many devices have to do something so that it is proposed by itself. In a group of one it is that one.
func (t *Terms) Threshold(devices int) int {
	n := int(t.MinShare * float64(devices))
	if float64(n) < t.MinShare*float64(devices) {
		n++
	}
	return max(1, min(max(2, n), devices))
}

// Kind of an entry.
type Kind string

// The kinds.
const (
	Peer    Kind = "peer"
	Process Kind = "process"
	User    Kind = "user"
)

// Decision on an entry.
type Decision string

// The decisions. Only what is accepted is expected.
const (
	Accepted Decision = "accepted"
	Held     Decision = "held" // waits for a person
	Rejected Decision = "rejected"
)

// Where an entry comes from.
const (
	FromLearning = "learned"
	FromMUD      = "mud"
	FromPerson   = "person"
)

// The peers that are no address, prefix or name. The first two are known; the others are those of RFC 8520, with a value behind a
// colon but for same-manufacturer, and stand for the addresses given for them in Names.
const (
	AnyPeer          = "any"
	LocalNetworks    = "local-networks"
	MyController     = "my-controller" // this hub
	SameManufacturer = "same-manufacturer"
)

var classes = []string{"controller:", "manufacturer:", "model:"}

// The directions: who begins.
const (
	Out = "Out"
	In  = "In"
)

// AnyProtocol stands for all.
const AnyProtocol = "any"

// Entry is one thing that devices are expected to do.
type Entry struct {
	ID        string   `json:"id"` // of what it says, so the same in every proposal
	Kind      Kind     `json:"kind"`
	Direction string   `json:"direction,omitempty"` // of a peer: Out when the device begins, else In
	Protocol  string   `json:"protocol,omitempty"`  // TCP, UDP, ICMP... or any
	Peer      string   `json:"peer,omitempty"`      // an address, a prefix, a name, or a class such as local-networks
	Ports     string   `json:"ports,omitempty"`     // of who is connected to: 443, or 1000-2000,3000; empty: all
	Name      string   `json:"name,omitempty"`      // of a process or a user
	Hours     []int    `json:"hoursUtc,omitempty"`  // 0 to 23; empty: at any time
	Decision  Decision `json:"decision"`
	Source    string   `json:"source"`              // learned, mud or person
	Reason    string   `json:"reason,omitempty"`    // why it is decided so
	DecidedBy string   `json:"decidedBy,omitempty"` // a person who did

	Devices  int       `json:"devices"`  // that did it
	Coverage float64   `json:"coverage"` // which share of the devices that is
	Count    uint64    `json:"count"`    // how often
	Days     int       `json:"days"`     // on how many
	BytesIn  uint64    `json:"bytesIn,omitempty"`
	BytesOut uint64    `json:"bytesOut,omitempty"`
	First    time.Time `json:"firstSeen,omitzero"`
	Last     time.Time `json:"lastSeen,omitzero"`
}

// identify checks what an entry says, brings it into its usual form and names it.
func (e *Entry) identify() error {
	switch e.Kind {
	case Process, User:
		if e.Direction != "" || e.Protocol != "" || e.Peer != "" || e.Ports != "" || len(e.Hours) > 0 {
			return fault.New(fault.Invalid, "an entry of the kind %s has a name alone", e.Kind)
		}
		if e.Name == "" || len(e.Name) > maxText || e.Name != clean(e.Name) {
			return fault.New(fault.Invalid, "the name of a %s has 1 to %d bytes of text", e.Kind, maxText)
		}
	case Peer:
		if e.Name != "" {
			return fault.New(fault.Invalid, "an entry of the kind peer has no name; give the peer as peer")
		}
		switch e.Direction {
		case Out, In:
		default:
			return fault.New(fault.Invalid, "direction is %.40q; it is Out when the device begins, else In", e.Direction)
		}
		if e.Protocol = strings.ToUpper(e.Protocol); e.Protocol == "" || strings.EqualFold(e.Protocol, AnyProtocol) {
			e.Protocol = AnyProtocol
		} else if len(e.Protocol) > 16 || strings.ContainsFunc(e.Protocol, func(r rune) bool { return (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '(' && r != ')' }) {
			return fault.New(fault.Invalid, "protocol is %.40q; it is TCP, UDP, ICMP or any", e.Protocol)
		}
		var err error
		if e.Peer, err = checkPeer(e.Peer); err != nil {
			return err
		}
		ranges, err := parsePorts(e.Ports)
		if err != nil {
			return err
		}
		if e.Protocol != "TCP" && e.Protocol != "UDP" && e.Protocol != AnyProtocol && len(ranges) > 0 {
			return fault.New(fault.Invalid, "%s has no ports", e.Protocol)
		}
		e.Ports = portsText(ranges)
		slices.Sort(e.Hours)
		e.Hours = slices.Compact(e.Hours)
		if n := len(e.Hours); n > 0 && (e.Hours[0] < 0 || e.Hours[n-1] > 23) {
			return fault.New(fault.Invalid, "hoursUtc are 0 to 23")
		}
	default:
		return fault.New(fault.Invalid, "kind is %.40q; it is peer, process or user", e.Kind)
	}
	if len(e.Reason) > maxText {
		return fault.New(fault.Invalid, "the reason has %d bytes, %d are allowed", len(e.Reason), maxText)
	}
	sum := sha256.Sum256([]byte(strings.Join([]string{string(e.Kind), e.Direction, e.Protocol, e.Peer, e.Ports, e.Name}, "\x00")))
	e.ID = hex.EncodeToString(sum[:6])
	return nil
}

// Says is the entry for people.
func (e *Entry) Says() string {
	if e.Kind != Peer {
		return string(e.Kind) + " " + strconv.Quote(e.Name)
	}
	text := "to "
	if e.Direction == In {
		text = "from "
	}
	text += e.Peer + ", " + service(e.Protocol, e.Ports)
	if len(e.Hours) > 0 {
		text += ", at " + hoursText(e.Hours) + " UTC"
	}
	return text
}

func service(protocol, ports string) string {
	if protocol == AnyProtocol {
		protocol = "any protocol"
	}
	if ports == "" {
		return protocol
	}
	return protocol + " port " + ports
}

// checkPeer returns a peer in its usual form.
func checkPeer(s string) (string, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return a.Unmap().String(), nil
	}
	if p, err := netip.ParsePrefix(s); err == nil && !p.Addr().Is4In6() {
		if p = p.Masked(); p.IsSingleIP() {
			return p.Addr().String(), nil
		}
		return p.String(), nil
	}
	switch s {
	case AnyPeer, LocalNetworks, MyController, SameManufacturer:
		return s, nil
	}
	for _, c := range classes {
		if strings.HasPrefix(s, c) && len(s) > len(c) && len(s) <= maxText && s == clean(s) {
			return s, nil
		}
	}
	if n := strings.ToLower(strings.TrimSuffix(s, ".")); isName(n) {
		return n, nil
	}
	return "", fault.New(fault.Invalid, "the peer %.80q is no address, prefix, DNS name, and none of any, local-networks, my-controller, same-manufacturer, controller:URI, manufacturer:NAME, model:URI", s)
}

func isName(s string) bool {
	return s != "" && len(s) <= 253 && !strings.HasPrefix(s, ".") && !strings.Contains(s, "..") && strings.Trim(s, "0123456789./:") != "" &&
		!strings.ContainsFunc(s, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
		})
}

// portRange has both ends.
type portRange struct{ first, last uint16 }

func parsePorts(s string) ([]portRange, error) {
	if s == "" {
		return nil, nil
	}
	bad := fault.New(fault.Invalid, "ports are %.80q; they are such as 443 or 1000-2000,3000, 32 ranges at most", s)
	if strings.Count(s, ",") >= 32 {
		return nil, bad
	}
	var all []portRange
	for part := range strings.SplitSeq(s, ",") {
		first, last, ok := strings.Cut(part, "-")
		if !ok {
			last = first
		}
		a, err := strconv.ParseUint(first, 10, 16)
		b, err2 := strconv.ParseUint(last, 10, 16)
		if err != nil || err2 != nil || a > b {
			return nil, bad
		}
		all = append(all, portRange{uint16(a), uint16(b)})
	}
	slices.SortFunc(all, func(a, b portRange) int { return int(a.first) - int(b.first) })
	return all, nil
}

func portsText(all []portRange) string {
	parts := make([]string, len(all))
	for i, r := range all {
		if parts[i] = strconv.Itoa(int(r.first)); r.last != r.first {
			parts[i] += "-" + strconv.Itoa(int(r.last))
		}
	}
	return strings.Join(parts, ",")
}

// clean makes a text of a device fit for every store and for people: valid UTF-8, no control character, not long.
func clean(s string) string {
	s = strings.ToValidUTF8(s[:min(len(s), maxText)], "\uFFFD")
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return '\uFFFD'
		}
		return r
	}, s)
	if len(s) > maxText { // replacements are longer than what they replace
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	return s
}

// Measure is what is counted for each device and hour.
type Measure int

// The measures.
const (
	BytesIn     Measure = iota
	BytesOut            // of the flows that the agent reports
	Connections         // those flows
	Messages            // telemetry, security messages not among them
	measures
)

var measureNames = [measures]string{"bytesIn", "bytesOut", "connections", "messages"}

func (m Measure) String() string { return measureNames[m] }

// parseMeasure undoes String.
func parseMeasure(s string) (Measure, error) {
	i := slices.Index(measureNames[:], s)
	if i < 0 {
		return 0, fault.New(fault.Invalid, "there is no measure %.40q (there are %s)", s, strings.Join(measureNames[:], ", "))
	}
	return Measure(i), nil
}

// Limit is what one device is expected to stay in within an hour.
type Limit struct {
	Measure  string   `json:"measure"`
	Min      uint64   `json:"min"` // of messages only; a device below it is quiet
	Max      uint64   `json:"max"`
	Decision Decision `json:"decision"`
	Reason   string   `json:"reason,omitempty"` // how it was found
	Median   uint64   `json:"median"`           // of hours of devices, as P95 and P99
	P95      uint64   `json:"p95"`
	P99      uint64   `json:"p99"`
	Hours    uint64   `json:"hours"` // of devices that were measured
	By       string   `json:"decidedBy,omitempty"`
}

// Summary is of what a proposal was made, or what is learned so far.
type Summary struct {
	From     time.Time `json:"from,omitzero"`
	To       time.Time `json:"to,omitzero"`
	Devices  int       `json:"devices"`
	Messages uint64    `json:"messages"`
	Flows    uint64    `json:"flows"`
	// Threshold is how many devices have to do something so that it is proposed by itself.
	Threshold int `json:"threshold"`
	Peers     int `json:"peers"`
	Processes int `json:"processes"`
	Users     int `json:"users"`
	// Active is how many messages came in each hour of the day, UTC.
	Active [24]uint64 `json:"activeHoursUtc"`
	// Overflow tells of what did not fit: how often peers, processes, users or devices were not kept; absent: everything fitted.
	Overflow map[string]uint64 `json:"overflow,omitempty"`
	// Waits says what learning still waits for; empty: it may be proposed.
	Waits []string `json:"waits,omitempty"`
}

// Maker is what a MUD file said beside its rules.
type Maker struct {
	URL          string    `json:"url"`
	LastUpdate   time.Time `json:"lastUpdate"`
	SystemInfo   string    `json:"systemInfo,omitempty"`
	Manufacturer string    `json:"manufacturer,omitempty"`
	Model        string    `json:"model,omitempty"`
	Supported    bool      `json:"supported"`
	Notes        []string  `json:"notes,omitempty"` // what of it is not used
}

// Baseline of a security group.
type Baseline struct {
	Group   string    `json:"group"`
	State   State     `json:"state"`
	Version int64     `json:"version"` // grows with each change
	Epoch   int64     `json:"epoch"`   // which learning it is; what was learned before is forgotten
	Since   time.Time `json:"since"`   // when the state began
	By      string    `json:"changedBy"`
	Terms   Terms     `json:"terms,omitzero"`
	// Learned is of what the proposal was made; while learning, what there is so far.
	Learned *Summary `json:"learned,omitempty"`
	Entries []Entry  `json:"entries"`
	Limits  []Limit  `json:"limits"`
	// Names are the addresses of names and classes among the peers, as a person gave them. Nothing is resolved on the network.
	Names map[string][]string `json:"names,omitempty"`
	MUD   *Maker              `json:"mud,omitempty"`
}

// Text is b as it is stored.
func (b *Baseline) Text() ([]byte, error) {
	text, err := json.Marshal(b)
	if err == nil && len(text) > MaxSize {
		err = fault.New(fault.TooLarge, "the baseline of group %s would have %d bytes, %d are allowed", b.Group, len(text), MaxSize)
	}
	return text, err
}

// Parse undoes Text.
func Parse(text []byte) (Baseline, error) {
	var b Baseline
	if err := json.Unmarshal(text, &b); err != nil {
		return b, fmt.Errorf("a baseline is damaged: %w", err)
	}
	return b, nil
}

func (b *Baseline) entry(id string) *Entry {
	for i := range b.Entries {
		if b.Entries[i].ID == id {
			return &b.Entries[i]
		}
	}
	return nil
}

func (b *Baseline) limit(m Measure) *Limit {
	for i := range b.Limits {
		if b.Limits[i].Measure == m.String() {
			return &b.Limits[i]
		}
	}
	return nil
}

// Saved is what was learned of a group, as it is stored.
type Saved struct {
	Group string
	Epoch int64
	Data  []byte
}

// Store keeps baselines. Every write is on disk when the call returns.
type Store interface {
	// Baselines lists all, by group.
	Baselines(ctx context.Context) ([]Baseline, error)
	// Baseline returns one; fault.NotFound.
	Baseline(ctx context.Context, group string) (Baseline, error)
	// UpdateBaseline runs change over what stands, nil when nothing does, and keeps what it returns; nil: it is deleted, with what
	// was learned. Changes of baselines follow each other.
	UpdateBaseline(ctx context.Context, group string, change func(stands *Baseline) (*Baseline, error)) error
	// CountBaselines is how many there are.
	CountBaselines(ctx context.Context) (int, error)
	// SaveLearned keeps what was learned of groups, all or nothing. What belongs to another epoch than the group's baseline is left out.
	SaveLearned(ctx context.Context, all []Saved) error
	// Learned returns it for one group; fault.NotFound. What belongs to another epoch is not found.
	Learned(ctx context.Context, group string) (Saved, error)
	// SecurityGroups returns the tag SecurityGroup of devices that have one.
	SecurityGroups(ctx context.Context, devices []string) (map[string]string, error)
	// GroupMembers lists the enabled devices of a group behind after, by device; byDefault: those without the tag, too.
	GroupMembers(ctx context.Context, group string, byDefault bool, after string, limit int) ([]string, error)
}

// orient tells who began a flow, and the port that was connected to. Schema 3.0 says it. Nothing on the wire says it of FlatBuffers, and
// the RTOS preview reports both directions of one connection, so there ports tell where they can (defender §1.2, §1.3, §6.3).
func orient(f *secmsg.Flow) (direction string, port uint16) {
	const (
		ephemeral = 32768
		reserved  = 1024
	)
	local, remote := f.Local.Port(), f.Remote.Port()
	said := f.BytesIn == 0 && f.BytesOut == 0 // by JSON 1.0, which counts no bytes
	switch {
	case f.Began && f.Direction == secmsg.In:
		return In, local
	case f.Began:
		return Out, remote
	case local == 0 && remote == 0:
		if f.Direction == secmsg.In {
			return In, 0
		}
		return Out, 0
	case local >= ephemeral && remote > 0 && remote < ephemeral:
		return Out, remote
	case remote >= ephemeral && local > 0 && local < ephemeral:
		return In, local
	case said && f.Direction == secmsg.In:
		return In, local
	case said && f.Direction == secmsg.Out:
		return Out, remote
	case local < reserved && remote >= reserved:
		return In, local
	}
	return Out, remote
}

// Package host finds attacks in what agents say of their devices: processes, logins, files, peripherals, users, the firewall and names that
// are asked for (defender §2.1).
//
// Most of it is a table of rules for command lines (rules.go), which ask for no memory. A little is remembered of each device: what it
// downloaded and asked about itself in the last minutes, which processes are web servers, and its last lists of users and of firewall rules. That
// is bounded, and not saved: after a restart the lists are read from the events that are kept, and the rest is forgotten.
package host

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// List is what the engine asks of the lists of known bad addresses; see [intel.Set].
type List interface {
	Match(to netip.AddrPort, seen time.Time) (intel.Indicator, bool)
	MatchDomain(name string, seen time.Time) (intel.Indicator, bool)
}

// Config of an Engine. Zero values leave out what needs them.
type Config struct {
	List func() List
	// Previous returns the last event of a name that a device sent before a message; ok is false when none is kept.
	Previous func(ctx context.Context, from iot.ID, name string, before uint64) (e secmsg.Event, ok bool, err error)
}

// Engine finds attacks. It is safe for concurrent use, but remembers messages in the order in which they come.
type Engine struct {
	cfg Config

	mu      sync.Mutex
	devices memory[device]
	lists   memory[lists]
}

// Bounds of what is remembered. The devices that were quiet longest are forgotten first.
const (
	maxDevices = 16_384 // twice as many at times; about 1 KiB each
	maxLists   = 4_096  // twice as many at times; at most 2*maxListText each
)

// New returns an engine that remembers nothing.
func New(cfg Config) *Engine {
	return &Engine{cfg: cfg, devices: memory[device]{limit: maxDevices}, lists: memory[lists]{limit: maxLists}}
}

// Again returns an engine of the same rules and lists, which remembers nothing and reads no events: to judge evidence once more.
func (e *Engine) Again() *Engine { return New(Config{List: e.cfg.List}) }

// Message is a security message of a device.
type Message struct {
	From     iot.ID
	Sequence uint64    // its place in the log
	Enqueued time.Time // by the hub's clock
	Report   *secmsg.Report
}

// Finding is a kind of attack with one indicator that a message tells of.
type Finding struct {
	Type      string
	Indicator string // stable, so that one suppression holds back what is the same
	Text      string // what was seen, after "Device d "
	Source    string // who says that it is bad
	Count     int
	Items     [][2]int // indexes of the event and of the item among the event's details; at most alert.MaxEvidence
}

const (
	maxFindings = 64 // of one message
	rulesSource = "rules for devices"
)

// finder gathers the findings of a message.
type finder struct {
	m      *Message
	now    time.Time
	all    []Finding
	places map[[2]string]int
	last   [][2]int // the item that each finding counted last
}

// evidence is the count of an item that stands beside the one that counts.
const evidence = 1 << 31

// add takes a finding, and counts one that is there: once for each item, however many rules find it there. text is called when it is new.
func (f *finder) add(kind, indicator, source string, count uint32, event, item int, text func() string) {
	indicator = tidy(indicator, 160)
	at, ok := f.places[[2]string{kind, indicator}]
	if !ok {
		if len(f.all) == maxFindings {
			return
		}
		if f.places == nil {
			f.places = make(map[[2]string]int)
		}
		at = len(f.all)
		f.places[[2]string{kind, indicator}] = at
		f.all = append(f.all, Finding{Type: kind, Indicator: indicator, Source: source, Text: text()})
		f.last = append(f.last, [2]int{-1, -1})
	}
	found, place := &f.all[at], [2]int{event, item}
	if count != evidence && f.last[at] != place {
		f.last[at] = place
		found.Count += int(min(max(count, 1), 1<<20))
	}
	if item >= 0 && len(found.Items) < alert.MaxEvidence && !slices.Contains(found.Items, place) {
		found.Items = append(found.Items, place)
	}
}

// tidy makes a text of a device fit for an alert: valid UTF-8 without control characters, and not long.
func tidy(s string, longest int) string {
	if len(s) > longest {
		s = s[:longest] + "..."
	}
	s = strings.ToValidUTF8(s, "\uFFFD")
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// quoted is a device's text between quotes.
func quoted(s string) string { return "“" + tidy(strings.TrimSpace(s), 200) + "”" }

// Judge returns what a message tells of attacks, and remembers what later ones are compared with. Only Previous makes it fail.
func (e *Engine) Judge(ctx context.Context, m Message) ([]Finding, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f := &finder{m: &m}
	if err := e.compare(ctx, f); err != nil {
		return nil, err
	}
	for i := range m.Report.Events {
		ev := &m.Report.Events[i]
		f.now = ev.Time
		if f.now.IsZero() {
			f.now = m.Enqueued
		}
		switch ev.Name {
		case "ProcessCreate", "Process":
			for _, p := range ev.Started() {
				e.process(f, i, &p)
			}
		case "Login":
			logins(f, i, ev)
		case "ListeningPorts":
			e.ports(f, i, ev)
		case "FileSystem":
			e.files(f, i, ev)
		case "Peripheral":
			peripherals(f, i, ev)
		case "Dns", "DNS", "ConnectionCreate":
			e.names(f, i, ev)
		case "ConfigurationError":
			configuration(f, i, ev)
		}
		for j := range ev.Flows {
			if fl := &ev.Flows[j]; fl.ProcessID > 0 && webServer(fl.Executable) {
				e.device(f).serves(fl.ProcessID)
			}
		}
	}
	return f.all, nil
}

// device is what is remembered of the sender.
func (e *Engine) device(f *finder) *device { return e.devices.of(f.m.From) }

// memory holds a V for each of the identities heard of last: at least limit of them, and at most twice as many.
type memory[V any] struct {
	limit    int
	new, old map[iot.ID]*V
}

// get returns nil for who is not known.
func (m *memory[V]) get(id iot.ID) *V {
	if v, ok := m.new[id]; ok {
		return v
	}
	v, ok := m.old[id]
	if !ok {
		return nil
	}
	m.put(id, v)
	return v
}

func (m *memory[V]) put(id iot.ID, v *V) {
	if m.new == nil || len(m.new) >= m.limit {
		m.old, m.new = m.new, make(map[iot.ID]*V)
	}
	m.new[id] = v
}

// of makes one that is not known.
func (m *memory[V]) of(id iot.ID) *V {
	v := m.get(id)
	if v == nil {
		v = new(V)
		m.put(id, v)
	}
	return v
}

// user is whose process it is, for people.
func user(p *secmsg.Process) string {
	if p.UserName != "" {
		return p.UserName
	}
	return "number " + strconv.FormatUint(uint64(p.UserID), 10)
}

// ran tells of a process.
func ran(p *secmsg.Process, what string) string {
	line := p.CommandLine
	if strings.TrimSpace(line) == "" {
		line = p.Executable
	}
	by := ""
	if p.UserName != "" {
		by = " as user " + quoted(p.UserName)
	}
	return fmt.Sprintf("ran %s%s, which %s", quoted(line), by, what)
}

package baseline

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Bounds of what is learned of a group.
const (
	maxPeers     = 512
	maxProcesses = 256
	maxUsers     = 128
	maxAddresses = 4096 // whose names are remembered
	maxAliases   = 4    // names of one
	maxMembers   = 20_000
	maxFresh     = 64                 // peers that one device adds in an hour: a scan does not fill the list
	forgotten    = 72 * time.Hour     // after which a silent device is no member (defender §7)
	hour         = int64(3600)        // seconds
	retold       = 2 * 24 * time.Hour // for how long a deviation that comes again is the same
)

// peerKey is with whom devices talk: an address, or a name where one is known.
type peerKey struct {
	out      bool
	port     uint16
	protocol string
	addr     netip.Addr
	name     string
}

// seen is how often something was done, and by how many.
type seen struct {
	Devices crowd  `json:"d"`
	Count   uint64 `json:"n"`
	Days    int    `json:"y"`
	First   int64  `json:"f"` // seconds since 1970, as all times here
	Last    int64  `json:"l"`
}

func (s *seen) add(h, n uint64, at int64) {
	if s.First == 0 {
		s.First, s.Devices.size = at, crowdOfEntry
	}
	if s.Days == 0 || at/86400 > s.Last/86400 {
		s.Days++
	}
	s.Devices.add(h)
	s.Count += n
	s.Last = max(s.Last, at)
}

type peer struct {
	seen
	In    uint64 `json:"i"`
	Out   uint64 `json:"o"`
	Hours uint32 `json:"h"` // of the day, one bit each
}

// told is a deviation that was seen on a device before.
type told struct {
	Since int64 `json:"s"`
	Last  int64 `json:"l"`
}

// member is what is known of a device.
type member struct {
	hash  uint64
	First int64            `json:"f"`
	Last  int64            `json:"l"`
	Heard int64            `json:"h,omitempty"` // when telemetry came last
	Now   [measures]uint64 `json:"n"`           // in the hour under way
	Most  [measures]uint64 `json:"m"`           // of an hour, while learning
	Fresh int              `json:"r,omitempty"`
	Told  map[string]told  `json:"t,omitempty"`
}

// alias is a name of an address.
type alias struct {
	Name string `json:"n"`
	By   uint64 `json:"b"` // the device that said so
	Sure bool   `json:"s"` // others said it, too
	Last int64  `json:"l"`
}

// watch is what judging needs to remember of a group's devices.
type watch struct {
	Hour    int64                  `json:"hour"`    // under way, since 1970; 0: none
	Partial bool                   `json:"partial"` // nobody watched it from its beginning
	Members map[string]*member     `json:"members"`
	Names   map[netip.Addr][]alias `json:"names"`
	Lost    uint64                 `json:"lost"` // devices that were too many
}

func newWatch() watch {
	return watch{Members: make(map[string]*member), Names: make(map[netip.Addr][]alias)}
}

// enter returns the device, or nil when there are too many.
func (w *watch) enter(device string, at int64) *member {
	m := w.Members[device]
	if m == nil {
		if len(w.Members) >= maxMembers {
			w.Lost++
			return nil
		}
		m = &member{hash: hashOf(device), First: at}
		w.Members[device] = m
	}
	m.Last = max(m.Last, at)
	return m
}

// turn ends the hour under way when at is in a later one. each gets every device whose hour was watched as a whole, unless it is nil.
// It reports whether an hour ended, and which.
func (w *watch) turn(at int64, each func(device string, m *member)) (ended int64, ok bool) {
	now := at / hour
	if w.Hour == 0 {
		w.Hour, w.Partial = now, true
	}
	if now <= w.Hour {
		return 0, false
	}
	ended = w.Hour
	for device, m := range w.Members {
		if each != nil && !w.Partial && m.First < ended*hour {
			each(device, m)
		}
		m.Now, m.Fresh = [measures]uint64{}, 0
		for k, t := range m.Told {
			if at-t.Last > int64(retold/time.Second) {
				delete(m.Told, k)
			}
		}
		if at-m.Last > int64(forgotten/time.Second) {
			delete(w.Members, device)
		}
	}
	for a, names := range w.Names {
		if names = slices.DeleteFunc(names, func(n alias) bool { return at-n.Last > 7*86400 }); len(names) == 0 {
			delete(w.Names, a)
		} else {
			w.Names[a] = names
		}
	}
	// Hours between were hours in which nothing came: they may have been hours in which nobody watched.
	w.Hour, w.Partial = now, now != ended+1
	return ended, true
}

// resolve remembers names of addresses. What one device says holds for that device, until another one says it, too: who was taken over
// must not lend the names of others to its own peers.
func (w *watch) resolve(e *secmsg.Event, by uint64, at int64) {
	for _, r := range e.Resolutions() {
		for _, a := range r.Addresses {
			names, known := w.Names[a]
			i := slices.IndexFunc(names, func(n alias) bool { return n.Name == r.Name })
			switch {
			case i >= 0:
				names[i].Sure = names[i].Sure || names[i].By != by
				names[i].Last = at
			case !known && len(w.Names) >= maxAddresses:
			case len(names) < maxAliases:
				w.Names[a] = append(names, alias{Name: r.Name, By: by, Last: at})
			default: // the one that was not heard for longest
				oldest := slices.MinFunc(names, func(a, b alias) int { return cmp.Compare(a.Last, b.Last) })
				names[slices.Index(names, oldest)] = alias{Name: r.Name, By: by, Last: at}
			}
		}
	}
}

// nameOf is a name of an address, as a device may believe it; empty: none.
func (w *watch) nameOf(a netip.Addr, by uint64) string {
	for _, n := range w.Names[a] {
		if n.Sure || n.By == by {
			return n.Name
		}
	}
	return ""
}

// count adds a message to the hour of a device.
func (m *member) count(report *secmsg.Report, at int64) {
	if report == nil {
		m.Now[Messages]++
		m.Heard = at
		return
	}
	for i := range report.Events {
		for j := range report.Events[i].Flows {
			f := &report.Events[i].Flows[j]
			m.Now[BytesIn] += f.BytesIn
			m.Now[BytesOut] += f.BytesOut
			m.Now[Connections] += hits(f)
		}
	}
}

func hits(f *secmsg.Flow) uint64 { return min(max(f.Hits, 1), 1<<32) }

// remote is the other side of a flow; false: it stays on the device.
func remote(f *secmsg.Flow) (netip.Addr, bool) {
	a := f.Remote.Addr().Unmap()
	return a, a.IsValid() && !a.IsLoopback() && !a.IsUnspecified()
}

// lessons are what a group learned.
type lessons struct {
	Since     int64               `json:"since"`
	Until     int64               `json:"until"`
	Messages  uint64              `json:"messages"`
	Flows     uint64              `json:"flows"`
	Devices   crowd               `json:"devices"`
	Reporting crowd               `json:"reporting"` // devices that sent security messages
	Peers     map[peerKey]*peer   `json:"-"`
	Processes map[string]*seen    `json:"processes"`
	Users     map[string]*seen    `json:"users"`
	Overflow  map[string]uint64   `json:"overflow"`
	Rates     [measures]histogram `json:"rates"`
	Active    [24]uint64          `json:"active"`
}

func newLessons() lessons {
	return lessons{
		Devices: crowd{size: crowdOfGroup}, Reporting: crowd{size: crowdOfGroup}, Peers: make(map[peerKey]*peer),
		Processes: make(map[string]*seen), Users: make(map[string]*seen), Overflow: make(map[string]uint64),
	}
}

// learn adds a message of a member.
func (l *lessons) learn(w *watch, m *member, report *secmsg.Report, at int64) {
	if l.Since == 0 {
		l.Since = at
	}
	l.Until = max(l.Until, at)
	l.Messages++
	l.Active[at/hour%24]++
	l.Devices.add(m.hash)
	if report == nil {
		return
	}
	l.Reporting.add(m.hash)
	for i := range report.Events {
		e := &report.Events[i]
		for j := range e.Flows {
			f := &e.Flows[j]
			a, ok := remote(f)
			if !ok {
				continue
			}
			l.Flows++
			direction, port := orient(f)
			key := peerKey{out: direction == Out, port: port, protocol: f.Protocol, addr: a}
			if len(w.Names) > 0 {
				if name := w.nameOf(a, m.hash); name != "" {
					key.addr, key.name = netip.Addr{}, name
				}
			}
			p := l.Peers[key]
			if p == nil {
				if p = l.admit(m, key); p == nil {
					continue
				}
			}
			p.add(m.hash, hits(f), at)
			p.In += f.BytesIn
			p.Out += f.BytesOut
			p.Hours |= 1 << (at / hour % 24)
		}
		for _, p := range e.Started() {
			if name := clean(p.Executable); name != "" {
				l.note(l.Processes, "processes", maxProcesses, name, m.hash, uint64(p.HitCount), at)
			}
		}
		for _, u := range e.Logins() {
			if name := clean(u.User); name != "" && !u.Failed {
				l.note(l.Users, "users", maxUsers, name, m.hash, u.Hits, at)
			}
		}
	}
}

// admit makes room for a peer, or does not: a full list gives up the one that a single device saw longest ago, and never one of several.
func (l *lessons) admit(m *member, key peerKey) *peer {
	if m.Fresh++; m.Fresh > maxFresh {
		l.Overflow["peers"]++
		return nil
	}
	if len(l.Peers) >= maxPeers {
		l.Overflow["peers"]++
		var victim peerKey
		var oldest *peer
		for k, p := range l.Peers {
			if len(p.Devices.hashes) == 1 && (oldest == nil || p.Last < oldest.Last) {
				victim, oldest = k, p
			}
		}
		if oldest == nil {
			return nil
		}
		delete(l.Peers, victim)
	}
	p := &peer{}
	l.Peers[key] = p
	return p
}

func (l *lessons) note(all map[string]*seen, what string, limit int, name string, by, n uint64, at int64) {
	s := all[name]
	if s == nil {
		if len(all) >= limit {
			l.Overflow[what]++
			return
		}
		s = &seen{}
		all[name] = s
	}
	s.add(by, n, at)
}

// close adds an hour of a device that was watched as a whole.
func (l *lessons) close(_ string, m *member) {
	for i, n := range m.Now {
		// A device that never sent telemetry, or no security message, says nothing by its silence.
		if Measure(i) == Messages && m.Heard == 0 || n == 0 && Measure(i) != Messages {
			continue
		}
		l.Rates[i].add(n)
		m.Most[i] = max(m.Most[i], n)
	}
}

// The form in which lessons are saved.

// MarshalText packs the hashes.
func (c crowd) MarshalText() ([]byte, error) {
	b := binary.BigEndian.AppendUint16(nil, uint16(c.size))
	for _, h := range c.hashes {
		b = binary.BigEndian.AppendUint64(b, h)
	}
	return base64.RawStdEncoding.AppendEncode(nil, b), nil
}

// UnmarshalText undoes MarshalText.
func (c *crowd) UnmarshalText(text []byte) error {
	b, err := base64.RawStdEncoding.AppendDecode(nil, text)
	if err != nil || len(b)%8 != 2 {
		return fmt.Errorf("baseline: a crowd of %d bytes", len(b))
	}
	c.size, c.hashes = int(binary.BigEndian.Uint16(b)), nil
	for b = b[2:]; len(b) > 0; b = b[8:] {
		c.hashes = append(c.hashes, binary.BigEndian.Uint64(b))
	}
	return nil
}

type savedPeer struct {
	Out      bool       `json:"out"`
	Port     uint16     `json:"port"`
	Protocol string     `json:"protocol"`
	Addr     netip.Addr `json:"addr"`
	Name     string     `json:"name,omitempty"`
	Peer     *peer      `json:"peer"`
}

// memory is all that is saved of a group.
type memory struct {
	Done    uint64    `json:"done"`    // the last message in it
	Watched time.Time `json:"watched"` // until when somebody watched
	Watch   watch     `json:"watch"`
	Lessons lessons   `json:"lessons"`
}

func newMemory() *memory { return &memory{Watch: newWatch(), Lessons: newLessons()} }

func (m *memory) text() ([]byte, error) {
	peers := make([]savedPeer, 0, len(m.Lessons.Peers))
	for k, p := range m.Lessons.Peers {
		peers = append(peers, savedPeer{k.out, k.port, k.protocol, k.addr, k.name, p})
	}
	return json.Marshal(struct {
		*memory
		Peers []savedPeer `json:"peers"`
	}{m, peers})
}

func parseMemory(text []byte) (*memory, error) {
	m := newMemory()
	s := struct {
		*memory
		Peers []savedPeer `json:"peers"`
	}{memory: m}
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("what was learned is damaged: %w", err)
	}
	for _, p := range s.Peers {
		if p.Peer != nil {
			m.Lessons.Peers[peerKey{p.Out, p.Port, p.Protocol, p.Addr, p.Name}] = p.Peer
		}
	}
	for device, d := range m.Watch.Members {
		if d == nil {
			delete(m.Watch.Members, device)
			continue
		}
		d.hash = hashOf(device)
	}
	for _, all := range []map[string]*seen{m.Lessons.Processes, m.Lessons.Users} {
		maps.DeleteFunc(all, func(_ string, s *seen) bool { return s == nil })
	}
	return m, nil
}

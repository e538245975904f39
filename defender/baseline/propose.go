package baseline

import (
	"cmp"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/defender/intel"
)

const (
	// headroom is what a limit allows above what was learned.
	headroom = 2
	// ofPrefix is how many addresses of a /24 or /64, each used by too few devices, make the prefix one peer: an address of a large
	// service is a different one for each device.
	ofPrefix = 3
	// quietest is the rate of telemetry an hour below which silence says nothing.
	quietest = 8
	// An entry is bound to hours when it was seen in at most so many of them, and often enough to tell.
	fewHours   = 6
	oftenDays  = 7
	oftenCount = 20
)

// Limits are never lower than these, so that a group that hardly talks may say a word more.
var floors = [measures]uint64{BytesIn: 16 << 10, BytesOut: 16 << 10, Connections: 32, Messages: 60}

func stampOf(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}

// summary tells what was learned so far, and what it still waits for.
func (m *memory) summary(t *Terms, now time.Time) Summary {
	l := &m.Lessons
	s := Summary{
		From: stampOf(l.Since), To: stampOf(l.Until), Devices: l.Devices.count(), Messages: l.Messages, Flows: l.Flows,
		Peers: len(l.Peers), Processes: len(l.Processes), Users: len(l.Users), Active: l.Active,
	}
	s.Threshold = t.Threshold(s.Devices)
	for what, n := range l.Overflow {
		s.overflow(what, n)
	}
	s.overflow("devices", m.Watch.Lost)
	if left := t.minTime() - now.Sub(t.Since); left > 0 {
		s.Waits = append(s.Waits, fmt.Sprintf("it has learned for %s of %s", spell(now.Sub(t.Since)), spell(t.minTime())))
	}
	if s.Devices < t.MinDevices {
		s.Waits = append(s.Waits, fmt.Sprintf("%d of %d devices sent something", s.Devices, t.MinDevices))
	}
	return s
}

func (s *Summary) overflow(what string, n uint64) {
	if n == 0 {
		return
	}
	if s.Overflow == nil {
		s.Overflow = make(map[string]uint64)
	}
	s.Overflow[what] = n
}

// spell is a duration for people.
func spell(d time.Duration) string {
	if days := d / (24 * time.Hour); days >= 2 {
		return fmt.Sprintf("%d days", days)
	}
	if hours := d / time.Hour; hours >= 2 {
		return fmt.Sprintf("%d hours", hours)
	}
	if d < time.Minute {
		return "less than a minute"
	}
	return strings.TrimSuffix(d.Truncate(time.Minute).String(), "0s")
}

// lister says why an address or name is listed; empty: it is not.
type lister func(a netip.Addr, name string, port uint16) string

// listedBy asks the indicators in use.
func listedBy(set *intel.Set, now time.Time) lister {
	return func(a netip.Addr, name string, port uint16) string {
		hit, ok := set.MatchDomain(name, now)
		if a.IsValid() {
			hit, ok = set.Match(netip.AddrPortFrom(a, port), now)
		}
		if !ok {
			return ""
		}
		return fmt.Sprintf("threat intelligence lists it (%s, as %s)", hit.Place(), hit)
	}
}

// propose makes the entries and limits of a proposal.
func (m *memory) propose(t *Terms, s *Summary, listed lister) ([]Entry, []Limit) {
	l := &m.Lessons
	var all []Entry
	entry := func(e Entry, s2 *seen) *Entry {
		e.Source, e.Decision = FromLearning, Accepted
		e.Devices, e.Count, e.Days = s2.Devices.count(), s2.Count, s2.Days
		e.First, e.Last = stampOf(s2.First), stampOf(s2.Last)
		e.judge(s)
		if e.identify() != nil {
			return nil // a protocol of a strange name
		}
		all = append(all, e)
		return &all[len(all)-1]
	}
	type block struct {
		out      bool
		port     uint16
		protocol string
		prefix   netip.Prefix
	}
	few := make(map[block][]peerKey)
	for _, k := range sortedPeers(l.Peers) {
		p := l.Peers[k]
		name := k.name
		if k.addr.IsValid() {
			name = k.addr.String()
		}
		e := entry(Entry{Kind: Peer, Direction: directionOf(k.out), Protocol: k.protocol, Peer: name, Ports: portText(k.port), BytesIn: p.In, BytesOut: p.Out}, &p.seen)
		if e == nil {
			continue
		}
		if p.Days >= oftenDays && p.Count >= oftenCount && e.Decision == Accepted && bits.OnesCount32(p.Hours) <= fewHours {
			e.Hours = hoursOf(p.Hours)
		}
		if why := listed(k.addr, k.name, k.port); why != "" {
			e.Decision, e.Reason = Rejected, why
			continue
		}
		if e.Decision == Held && k.addr.IsValid() && !k.addr.IsMulticast() {
			b := block{k.out, k.port, k.protocol, around(k.addr)}
			few[b] = append(few[b], k)
		}
	}
	replaced := make(map[string]bool)
	for b, keys := range few {
		if len(keys) < ofPrefix {
			continue
		}
		sum := seen{Devices: crowd{size: crowdOfEntry}}
		e := Entry{Kind: Peer, Direction: directionOf(b.out), Protocol: b.protocol, Peer: b.prefix.String(), Ports: portText(b.port)}
		for _, k := range keys {
			p := l.Peers[k]
			sum.Devices.merge(&p.Devices)
			sum.Count += p.Count
			sum.Days = max(sum.Days, p.Days)
			if sum.First == 0 || p.First < sum.First {
				sum.First = p.First
			}
			sum.Last = max(sum.Last, p.Last)
			e.BytesIn += p.In
			e.BytesOut += p.Out
		}
		if sum.Devices.count() < s.Threshold {
			continue
		}
		if kept := entry(e, &sum); kept != nil {
			kept.Reason = fmt.Sprintf("%d addresses of it, %s", len(keys), kept.Reason)
			for _, k := range keys {
				one := Entry{Kind: Peer, Direction: directionOf(k.out), Protocol: k.protocol, Peer: k.addr.String(), Ports: portText(k.port)}
				_ = one.identify() // it was an entry above
				replaced[one.ID] = true
			}
		}
	}
	all = slices.DeleteFunc(all, func(e Entry) bool { return replaced[e.ID] })
	for name, p := range l.Processes {
		entry(Entry{Kind: Process, Name: name}, p)
	}
	for name, u := range l.Users {
		entry(Entry{Kind: User, Name: name}, u)
	}
	arrange(all)
	return all, m.limits(s)
}

func directionOf(out bool) string {
	if out {
		return Out
	}
	return In
}

func portText(port uint16) string {
	if port == 0 {
		return ""
	}
	return strconv.Itoa(int(port))
}

// around is the network that an address is taken for a part of.
func around(a netip.Addr) netip.Prefix {
	n := 64
	if a.Is4() {
		n = 24
	}
	p, _ := a.Prefix(n) // as long as an address has bits
	return p
}

// hoursOf are those of a mask, and one before and behind each.
func hoursOf(mask uint32) []int {
	var all []int
	for h := range 24 {
		if mask&(1<<h|1<<((h+1)%24)|1<<((h+23)%24)) != 0 {
			all = append(all, h)
		}
	}
	return all
}

func hoursText(hours []int) string {
	var parts []string
	for i := 0; i < len(hours); {
		j := i
		for j+1 < len(hours) && hours[j+1] == hours[j]+1 {
			j++
		}
		parts = append(parts, fmt.Sprintf("%02d-%02d h", hours[i], hours[j]+1))
		i = j + 1
	}
	return strings.Join(parts, ", ")
}

// judge decides by how many devices did it.
func (e *Entry) judge(s *Summary) {
	if s.Devices > 0 {
		e.Coverage = min(1, float64(int(1000*float64(e.Devices)/float64(s.Devices)))/1000)
	}
	e.Reason = fmt.Sprintf("seen on %d of %d devices; %d are needed", e.Devices, s.Devices, s.Threshold)
	if e.Devices < s.Threshold {
		e.Decision = Held
	}
}

func sortedPeers(peers map[peerKey]*peer) []peerKey {
	all := make([]peerKey, 0, len(peers))
	for k := range peers {
		all = append(all, k)
	}
	slices.SortFunc(all, func(a, b peerKey) int {
		return cmp.Or(a.addr.Compare(b.addr), strings.Compare(a.name, b.name), cmp.Compare(a.port, b.port), strings.Compare(a.protocol, b.protocol), strings.Compare(directionOf(a.out), directionOf(b.out)))
	})
	return all
}

// arrange puts what needs a decision first, then what most devices do.
func arrange(all []Entry) {
	rank := map[Decision]int{Held: 0, Rejected: 1, Accepted: 2}
	kinds := map[Kind]int{Peer: 0, Process: 1, User: 2}
	slices.SortStableFunc(all, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(rank[a.Decision], rank[b.Decision]), cmp.Compare(kinds[a.Kind], kinds[b.Kind]), cmp.Compare(b.Devices, a.Devices),
			strings.Compare(a.Says(), b.Says()))
	})
}

// limits are twice what as many devices reached in an hour as the threshold says: one alone does not raise a limit.
func (m *memory) limits(s *Summary) []Limit {
	var all []Limit
	for i := range measures {
		h := &m.Lessons.Rates[i]
		if h.n == 0 {
			continue
		}
		most := make([]uint64, 0, len(m.Watch.Members))
		for _, d := range m.Watch.Members {
			most = append(most, d.Most[i])
		}
		slices.SortFunc(most, func(a, b uint64) int { return cmp.Compare(b, a) })
		reached := uint64(0)
		if s.Threshold <= len(most) {
			reached = most[s.Threshold-1]
		}
		l := Limit{
			Measure: i.String(), Max: max(headroom*reached, floors[i]), Decision: Accepted, Median: h.quantile(0.5), P95: h.quantile(0.95), P99: h.quantile(0.99), Hours: h.n,
			Reason: fmt.Sprintf("%d times what %d devices reached in an hour, which is %d, and %d at least", headroom, s.Threshold, reached, floors[i]),
		}
		if low := h.quantile(0.05); i == Messages && low >= quietest {
			l.Min = low / 4
			l.Reason += fmt.Sprintf("; the least is a quarter of what is reached in 95 of 100 hours, %d", low)
		}
		all = append(all, l)
	}
	return all
}

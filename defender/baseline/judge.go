package baseline

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/internal/nonce"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Controller is this hub as its devices see it.
type Controller struct {
	Host      string
	Addresses []netip.Addr
	Ports     []uint16
}

// localNetworks are what local-networks stands for.
var localNetworks = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/24"), netip.MustParsePrefix("239.255.0.0/16"), netip.MustParsePrefix("255.255.255.255/32"),
	netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff02::/16"),
}

// matcher is an accepted peer.
type matcher struct {
	entry    *Entry
	out      bool
	protocol string // "": any
	ports    []portRange
	any      bool
	prefixes []netip.Prefix
	names    map[string]bool // that agents may tell of
	hours    uint32          // 0: any
}

func (m *matcher) fits(out bool, protocol string, port uint16) bool {
	return m.out == out && (m.protocol == "" || m.protocol == protocol) && inPorts(m.ports, port)
}

func inPorts(all []portRange, port uint16) bool {
	for _, r := range all {
		if port >= r.first && port <= r.last {
			return true
		}
	}
	return len(all) == 0
}

func (m *matcher) is(w *watch, a netip.Addr, by uint64) bool {
	if m.any {
		return true
	}
	for _, p := range m.prefixes {
		if p.Contains(a) {
			return true
		}
	}
	if len(m.names) > 0 {
		for _, n := range w.Names[a] {
			if (n.Sure || n.By == by) && m.names[n.Name] {
				return true
			}
		}
	}
	return false
}

// compiled is what an enforced baseline expects, ready to judge. It does not change.
type compiled struct {
	group     string
	version   int64
	exact     map[peerKey]*matcher // one address, one port
	rest      []*matcher
	all       []*matcher
	processes map[string]bool // nil: not judged
	users     map[string]bool
	limits    [measures]*Limit
	// unresolved are accepted names of which no address is given; agents may tell of some.
	unresolved []string
}

// addresses are those that stand for a peer: nil and false when nobody gave one.
func (b *Baseline) addresses(peer string, hub *Controller) ([]netip.Prefix, bool) {
	var all []netip.Prefix
	switch {
	case peer == LocalNetworks:
		return localNetworks, true
	case peer == MyController || hub != nil && peer == strings.ToLower(hub.Host):
		if hub != nil {
			for _, a := range hub.Addresses {
				all = append(all, netip.PrefixFrom(a, a.BitLen()))
			}
		}
	default:
		if a, err := netip.ParseAddr(peer); err == nil {
			return []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}, true
		}
		if p, err := netip.ParsePrefix(peer); err == nil {
			return []netip.Prefix{p}, true
		}
	}
	for _, s := range b.Names[peer] {
		if a, err := netip.ParseAddr(s); err == nil {
			all = append(all, netip.PrefixFrom(a, a.BitLen()))
		} else if p, err := netip.ParsePrefix(s); err == nil {
			all = append(all, p)
		}
	}
	return all, len(all) > 0
}

func compile(b *Baseline, hub *Controller) *compiled {
	c := &compiled{group: b.Group, version: b.Version, exact: make(map[peerKey]*matcher)}
	for i := range b.Entries {
		e := &b.Entries[i]
		if e.Decision != Accepted {
			continue
		}
		switch e.Kind {
		case Process:
			if c.processes == nil {
				c.processes = make(map[string]bool)
			}
			c.processes[e.Name] = true
		case User:
			if c.users == nil {
				c.users = make(map[string]bool)
			}
			c.users[e.Name] = true
		case Peer:
			c.peer(b, e, hub)
		}
	}
	for i := range b.Limits {
		if l := &b.Limits[i]; l.Decision == Accepted {
			if m, err := parseMeasure(l.Measure); err == nil {
				c.limits[m] = l
			}
		}
	}
	return c
}

func (c *compiled) peer(b *Baseline, e *Entry, hub *Controller) {
	m := &matcher{entry: e, out: e.Direction == Out, any: e.Peer == AnyPeer}
	if e.Protocol != AnyProtocol {
		m.protocol = e.Protocol
	}
	m.ports, _ = parsePorts(e.Ports) // identify checked it
	for _, h := range e.Hours {
		m.hours |= 1 << h
	}
	known := false
	m.prefixes, known = b.addresses(e.Peer, hub)
	if isName(e.Peer) {
		m.names = map[string]bool{e.Peer: true}
	}
	if e.Peer == MyController && hub != nil && hub.Host != "" {
		m.names = map[string]bool{strings.ToLower(hub.Host): true}
	}
	if !known && !m.any {
		c.unresolved = append(c.unresolved, e.Peer)
	}
	c.all = append(c.all, m)
	if len(m.prefixes) == 1 && len(m.names) == 0 && m.prefixes[0].IsSingleIP() && m.protocol != "" && (len(m.ports) == 1 && m.ports[0].first == m.ports[0].last || len(m.ports) == 0 && m.protocol == "ICMP") {
		k := peerKey{out: m.out, protocol: m.protocol, addr: m.prefixes[0].Addr()}
		if len(m.ports) == 1 {
			k.port = m.ports[0].first
		}
		if _, twice := c.exact[k]; !twice {
			c.exact[k] = m
			return
		}
	}
	c.rest = append(c.rest, m)
}

// find returns what expects a flow at that hour; when nothing does, late is what expects it at another one.
func (c *compiled) find(w *watch, out bool, protocol string, port uint16, a netip.Addr, by uint64, at int64) (ok bool, late *matcher) {
	now := uint32(1) << (at / hour % 24)
	if m := c.exact[peerKey{out: out, protocol: protocol, port: port, addr: a}]; m != nil {
		if m.hours == 0 || m.hours&now != 0 {
			return true, nil
		}
		late = m
	}
	for _, m := range c.rest {
		if !m.fits(out, protocol, port) || !m.is(w, a, by) {
			continue
		}
		if m.hours == 0 || m.hours&now != 0 {
			return true, nil
		}
		late = m
	}
	return false, late
}

// deviation is one thing that a device did and the baseline does not have.
type deviation struct {
	kind      string // of alert
	indicator string // what tells it from others of the kind
	count     int
	flow      *secmsg.Flow
	did       string   // for people, behind the device's name
	expected  []string // for people, too
	details   map[string]any
	event     *secmsg.Event
	item      int
	since     int64
}

// Bounds of deviations.
const (
	// maxTold is how many deviations of one device and kind of alert have alerts of their own in a day; those beyond share one.
	maxTold     = 20
	maxExpected = 5 // that a text names
	more        = "more"
)

// judge returns how a message of a member deviates. Nothing of w is changed but the memory of deviations.
func (c *compiled) judge(w *watch, m *member, report *secmsg.Report, at int64) []*deviation {
	var found []*deviation
	places := make(map[[2]string]*deviation)
	add := func(kind, indicator string, n uint64, make func() *deviation) {
		key := [2]string{kind, indicator}
		if d := places[key]; d != nil {
			d.count += int(min(n, 1<<20))
			return
		}
		since := m.recall(kind, &indicator, at)
		if key[1] = indicator; places[key] != nil {
			places[key].count += int(min(n, 1<<20))
			return
		}
		d := make()
		d.kind, d.indicator, d.count, d.since = kind, indicator, int(min(n, 1<<20)), since
		places[key] = d
		found = append(found, d)
	}
	if report != nil {
		for i := range report.Events {
			e := &report.Events[i]
			for j := range e.Flows {
				c.flow(w, m, e, &e.Flows[j], at, add)
			}
			if c.processes != nil {
				for _, p := range e.Started() {
					if name := clean(p.Executable); name != "" && !c.processes[name] {
						add(alert.BaselineProcess, name, uint64(p.HitCount), func() *deviation {
							return &deviation{
								did: "started " + strconv.Quote(name), expected: listed("one of %d programs: ", c.processes), event: e, item: p.Item,
								details: map[string]any{"process": name, "commandLine": clean(p.CommandLine)},
							}
						})
					}
				}
			}
			if c.users != nil {
				for _, u := range e.Logins() {
					if name := clean(u.User); name != "" && !u.Failed && !c.users[name] {
						add(alert.BaselineUser, name, u.Hits, func() *deviation {
							return &deviation{
								did: "was signed in to by user " + strconv.Quote(name), expected: listed("one of %d users: ", c.users), event: e, item: u.Item,
								details: map[string]any{"user": name, "from": clean(u.Remote)},
							}
						})
					}
				}
			}
		}
	}
	for i, l := range c.limits {
		if l == nil || m.Now[i] <= l.Max {
			continue
		}
		kind := alert.BaselineVolume
		if Measure(i) == Messages {
			kind = alert.BaselineRate
		}
		// One an hour: what comes behind in the same hour is the same.
		begin := at / hour * hour
		if t, ok := m.Told[kind+" "+l.Measure]; ok && t.Last >= begin {
			continue
		}
		add(kind, l.Measure, 1, func() *deviation {
			return &deviation{
				did:      fmt.Sprintf("had %s since %s UTC", amount(Measure(i), m.Now[i]), time.Unix(begin, 0).UTC().Format("15:04")),
				expected: []string{fmt.Sprintf("at most %s in an hour (half of the hours had at most %s, 99 of 100 at most %s)", amount(Measure(i), l.Max), amount(Measure(i), l.Median), amount(Measure(i), l.P99))},
				details:  map[string]any{"measure": l.Measure, "seen": m.Now[i], "windowStart": time.Unix(begin, 0).UTC(), "expectedAtMost": l.Max, "median": l.Median, "p95": l.P95, "p99": l.P99},
			}
		})
	}
	return found
}

// recall remembers a deviation, and says since when there is one of the kind. Beyond a number of them they are one.
func (m *member) recall(kind string, indicator *string, at int64) (since int64) {
	key := kind + " " + *indicator
	t, ok := m.Told[key]
	if !ok {
		n := 0
		for k := range m.Told {
			if strings.HasPrefix(k, kind+" ") {
				n++
			}
		}
		if n >= maxTold {
			*indicator = more
			key = kind + " " + more
			t, ok = m.Told[key]
		}
	}
	if !ok {
		if m.Told == nil {
			m.Told = make(map[string]told)
		}
		t.Since = at
	}
	t.Last = at
	m.Told[key] = t
	return t.Since
}

func (c *compiled) flow(w *watch, m *member, e *secmsg.Event, f *secmsg.Flow, at int64, add func(kind, indicator string, n uint64, make func() *deviation)) {
	a, ok := remote(f)
	if !ok {
		return
	}
	direction, port := orient(f)
	out := direction == Out
	ok, late := c.find(w, out, f.Protocol, port, a, m.hash, at)
	if ok {
		return
	}
	what := a.String()
	name := w.nameOf(a, m.hash)
	if name != "" {
		what = name + " (" + what + ")"
	}
	did := "connected to " + what
	if !out {
		did = "was connected to from " + what
	}
	did += " by " + service(f.Protocol, portText(port))
	seen := map[string]any{
		"direction": direction, "protocol": f.Protocol, "peer": a.String(), "port": port, "bytesIn": f.BytesIn, "bytesOut": f.BytesOut, "connections": hits(f),
	}
	if name != "" {
		seen["name"] = name
	}
	if f.Executable != "" {
		seen["executable"] = clean(f.Executable)
		did += " with " + strconv.Quote(clean(f.Executable))
	}
	// What is expected is put into words when the deviation is told, not for each of a message's thousands of flows.
	kind, expected := alert.BaselinePeer, func() []string {
		all := c.expects(out)
		if names := c.unresolvedAt(out, f.Protocol, port); names != "" {
			all = append(all, names)
		}
		return all
	}
	switch same := c.similar(w, out, a, m.hash); {
	case late != nil:
		kind, expected = alert.BaselineTime, func() []string { return []string{late.entry.Says()} }
	case len(same) > 0:
		kind, expected = alert.BaselinePort, func() []string {
			var all []string
			for _, m := range same {
				all = append(all, m.entry.Says())
			}
			return all
		}
	}
	indicator := strings.Join([]string{direction, f.Protocol, netip.AddrPortFrom(a, port).String()}, " ")
	add(kind, indicator, hits(f), func() *deviation {
		return &deviation{flow: f, did: did, expected: expected(), details: seen, event: e, item: f.Item}
	})
}

// similar are the entries about the same peer.
func (c *compiled) similar(w *watch, out bool, a netip.Addr, by uint64) []*matcher {
	var all []*matcher
	for _, m := range c.all {
		if len(all) == maxExpected {
			break
		}
		if m.out == out && !m.any && m.entry.Peer != LocalNetworks && m.is(w, a, by) {
			all = append(all, m)
		}
	}
	return all
}

// expects names the peers of most devices.
func (c *compiled) expects(out bool) []string {
	var all []*Entry
	for _, m := range c.all {
		if m.out == out {
			all = append(all, m.entry)
		}
	}
	if len(all) == 0 {
		return []string{"no connection " + map[bool]string{true: "to anybody", false: "from anybody"}[out]}
	}
	slices.SortStableFunc(all, func(a, b *Entry) int { return cmp.Compare(b.Devices, a.Devices) })
	var texts []string
	for _, e := range all[:min(len(all), maxExpected)] {
		texts = append(texts, e.Says())
	}
	if rest := len(all) - maxExpected; rest > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", rest))
	}
	return texts
}

// unresolvedAt says that a flow may be one to a name whose addresses nobody knows.
func (c *compiled) unresolvedAt(out bool, protocol string, port uint16) string {
	var names []string
	for _, m := range c.all {
		if len(m.prefixes) == 0 && !m.any && m.fits(out, protocol, port) && len(names) < maxExpected {
			names = append(names, m.entry.Peer)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "(it may be " + strings.Join(names, " or ") + ", of which no address is known: give it in names)"
}

func listed(format string, of map[string]bool) []string {
	var all []string
	for n := range of {
		all = append(all, strconv.Quote(n))
	}
	slices.Sort(all)
	text := fmt.Sprintf(format, len(all)) + strings.Join(all[:min(len(all), maxExpected)], ", ")
	if len(all) > maxExpected {
		text += "..."
	}
	return []string{text}
}

// amount is a number with its unit.
func amount(m Measure, n uint64) string {
	switch m {
	case Connections:
		return fmt.Sprintf("%d connections", n)
	case Messages:
		return fmt.Sprintf("%d messages", n)
	}
	word := " received"
	if m == BytesOut {
		word = " sent"
	}
	return size(n) + word
}

func size(n uint64) string {
	if n < 1024 {
		return fmt.Sprintf("%d bytes", n)
	}
	v, unit := float64(n), -1
	for v >= 1024 && unit < 4 {
		v, unit = v/1024, unit+1
	}
	return fmt.Sprintf("%.4g %ciB", math.Round(v*10)/10, "KMGTP"[unit])
}

// alert makes the alert of a deviation.
func (c *compiled) alert(d *deviation, from iot.ID, sequence uint64, at time.Time) alert.Alert {
	at = at.UTC()
	kind := alert.Lookup(d.kind)
	expected := strings.Join(d.expected, "; ")
	since := time.Unix(d.since, 0).UTC()
	text := fmt.Sprintf("Device %s %s. The baseline of its security group %s expects: %s. Since %s UTC.", from, d.did, c.group, expected, since.Format(time.DateTime))
	if d.indicator == more {
		text = fmt.Sprintf("Device %s deviates in more ways than have alerts of their own (%d). The first of these: it %s. The baseline of its security group %s expects: %s. Since %s UTC.",
			from, maxTold, d.did, c.group, expected, since.Format(time.DateTime))
	}
	a := alert.Alert{
		ID: nonce.New(), Type: kind.Name, Severity: kind.Severity, Title: kind.Title, Description: text, Device: from.Device, Module: from.Module, Group: c.group,
		Indicator: d.indicator, Source: fmt.Sprintf("baseline of security group %s, version %d", c.group, c.version), Day: at.Format(time.DateOnly),
		Count: max(1, d.count), FirstSeen: at, LastSeen: at, LastMessage: sequence,
	}
	if d.flow != nil {
		a.Remote, a.Protocol = d.flow.Remote.Addr().Unmap().String(), d.flow.Protocol
		a.Direction, _ = orient(d.flow)
		if l := d.flow.Local.Addr(); l.IsValid() {
			a.Local = l.Unmap().String()
		}
	}
	details, err := json.Marshal(map[string]any{
		"securityGroup": c.group, "baselineVersion": c.version, "seen": d.details, "expected": d.expected, "since": since,
	})
	if err == nil { // texts, numbers and times always do
		a.Add(alert.Evidence{Message: sequence, Time: at, Event: "BaselineDeviation", Details: details})
	}
	if d.event != nil {
		if rows, form := d.event.Details(); d.item >= 0 && d.item < len(rows) {
			a.Add(alert.Evidence{Message: sequence, Time: at, Event: d.event.Name, Form: form, Details: record.Safe(rows[d.item])})
		}
	}
	return a
}

// quiet is the alert about a device that sent less in an hour than it should.
func (c *compiled) quiet(device string, sent uint64, ended int64) alert.Alert {
	begin, end := time.Unix(ended*hour, 0).UTC(), time.Unix((ended+1)*hour, 0).UTC()
	l := c.limits[Messages]
	kind := alert.Lookup(alert.BaselineQuiet)
	details, err := json.Marshal(map[string]any{
		"securityGroup": c.group, "baselineVersion": c.version, "seen": map[string]any{"measure": l.Measure, "seen": sent, "windowStart": begin, "windowEnd": end},
		"expected": []string{fmt.Sprintf("at least %d messages in an hour", l.Min)}, "expectedAtLeast": l.Min, "since": begin,
	})
	a := alert.Alert{
		ID: nonce.New(), Type: kind.Name, Severity: kind.Severity, Title: kind.Title, Device: device, Group: c.group, Indicator: l.Measure,
		Description: fmt.Sprintf("Device %s sent %s from %s to %s UTC. The baseline of its security group %s expects: at least %d in an hour (half of the hours had %d or more). Since %s UTC.",
			device, amount(Messages, sent), begin.Format(time.DateTime), end.Format("15:04"), c.group, l.Min, l.Median, begin.Format(time.DateTime)),
		Source: fmt.Sprintf("baseline of security group %s, version %d", c.group, c.version), Day: begin.Format(time.DateOnly), Count: 1, FirstSeen: begin, LastSeen: end,
		// An hour counts once, however often it is judged.
		LastMessage: uint64(ended),
	}
	if err == nil {
		a.Add(alert.Evidence{Time: end, Event: "BaselineDeviation", Details: details})
	}
	return a
}

// groupOf is the group of a device by the tags of several.
func groupOf(tags map[string]string, device string) string {
	if name, ok := tags[device]; ok {
		return name
	}
	return group.Default
}

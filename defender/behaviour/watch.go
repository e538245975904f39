package behaviour

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"time"

	"github.com/vauban-iot/vauban/wire/secmsg"
)

// watch judges one message.
type watch struct {
	*Engine
	d      *device
	g      *group
	off    uint32
	now    uint32 // when the hub took it
	report *secmsg.Report
	found  []Finding
}

// scratch is what windows are added up in; it is reused under the engine's lock.
type scratch struct {
	flows   []flow
	fans    []fan
	remotes []sum
	large   []*flow
	index   map[uint64]int
}

// flow is a flow as detectors see it.
type flow struct {
	f       *secmsg.Flow
	at      [2]int // event, item
	remote  netip.Addr
	host    uint64 // hash of remote
	out     bool   // the device began it, as far as ports tell
	port    uint16 // of the service
	proto   uint8
	public  bool // the remote is on the Internet
	counted bool // it has byte counts
	failed  bool // the device asked and nobody answered, or with a refusal
	in, ex  float64
}

// Protocols as detectors count them.
const (
	tcp = iota + 1
	udp
	icmp
	other
)

func protocol(s string) uint8 {
	switch s {
	case "TCP":
		return tcp
	case "UDP":
		return udp
	case "ICMP":
		return icmp
	}
	return other
}

func (f *flow) service() uint32 { return uint32(f.proto)<<16 | uint32(f.port) }

func serviceName(s uint32) string {
	switch port := strconv.Itoa(int(s & 0xffff)); s >> 16 & 0xf {
	case tcp:
		return "TCP port " + port
	case udp:
		return "UDP port " + port
	case icmp:
		return "ICMP"
	}
	return "port " + strconv.Itoa(int(s&0xffff))
}

// ephemeral is the first of the ports from which programs begin to talk (defender §6.3).
const ephemeral = 32768

// see turns a flow of a message into one for detectors; ok is false for what is no talk with one other host.
func see(f *secmsg.Flow, at [2]int) (v flow, ok bool) {
	a := f.Remote.Addr().Unmap()
	if !a.IsValid() || a.IsMulticast() || a.IsUnspecified() || a.IsLoopback() || a == broadcast {
		return v, false
	}
	v = flow{f: f, at: at, remote: a, host: hashAddr(a), proto: protocol(f.Protocol), in: float64(f.BytesIn), ex: float64(f.BytesOut)}
	v.public = a.IsGlobalUnicast() && !a.IsPrivate() && !a.IsLinkLocalUnicast() && !carrier.Contains(a)
	v.counted = f.BytesIn+f.BytesOut > 0
	local, remote := f.Local.Port(), f.Remote.Port()
	switch {
	case f.Began:
		v.out = f.Direction == secmsg.Out
	case v.proto == icmp:
		v.out = v.ex > 0 || f.Direction == secmsg.Out
		local, remote = 0, 0
	case !v.counted && f.Direction != "":
		v.out = f.Direction == secmsg.Out
	case remote < ephemeral && local >= ephemeral:
		v.out = true
	case local < ephemeral && remote >= ephemeral:
	default:
		v.out = remote <= local || v.in == 0
	}
	if v.port = local; v.out {
		v.port = remote
	}
	// A refusal is the header of one segment; a question that got it, two at most.
	v.failed = v.out && v.counted && v.ex > 0 && (v.in == 0 || v.proto == tcp && v.in <= 40 && v.ex <= 80)
	return v, true
}

var (
	broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})
	carrier   = netip.MustParsePrefix("100.64.0.0/10") // of carriers' own networks
)

// span is the time of one window of flows.
type span struct {
	at      uint32 // its end, by the hub's clock
	seconds uint32
	late    bool // it is older than what was seen before
}

// message judges the windows of a message. Device clocks order them among themselves: the newest event was when the hub took the
// message, and the others as long before as the device says, a day at most.
func (w *watch) message() {
	newest := time.Time{}
	for i := range w.report.Events {
		if t := w.report.Events[i].Time; t.After(newest) {
			newest = t
		}
	}
	w.software()
	connections := w.scratch.flows[:0]
	for i := range w.report.Events {
		e := &w.report.Events[i]
		w.logins(e, i)
		if len(e.Flows) == 0 {
			continue
		}
		if e.Interval <= 0 && e.Name == "ConnectionCreate" { // one event for each connection: together they are a window
			connections = w.flows(connections, e, i)
			continue
		}
		s := span{at: w.now, seconds: uint32(min(max(e.Interval/time.Second, 0), day))}
		if s.seconds == 0 {
			s.seconds = usual
		}
		if !e.Time.IsZero() {
			s.at -= uint32(min(max(newest.Sub(e.Time)/time.Second, 0), backlog, time.Duration(w.now-1)))
		}
		w.window(s, w.flows(nil, e, i))
	}
	if len(connections) > 0 {
		w.window(span{at: w.now, seconds: minute}, connections)
	}
	w.scratch.flows = connections[:0]
	w.d.Seen = max(w.d.Seen, w.now)
}

func (w *watch) flows(all []flow, e *secmsg.Event, event int) []flow {
	for j := range e.Flows {
		if v, ok := see(&e.Flows[j], [2]int{event, e.Flows[j].Item}); ok {
			all = append(all, v)
		}
	}
	return all
}

// software notices when a device says another version of its software: what is new then may belong to it.
func (w *watch) software() {
	said := hashText(hashText(6, w.report.Agent), w.report.AgentVersion)
	for i := range w.report.Events {
		for _, item := range w.report.Events[i].Payload {
			if s, ok := item.(secmsg.SystemInformation); ok && s.OS != "" {
				said = hashText(hashText(hashText(said, s.OS), s.Kernel), s.FirmwareVersion)
				if w.d.Version != 0 && w.d.Version != said {
					w.d.Changed = w.now
				}
				w.d.Version = said
			}
		}
	}
}

// window judges the flows of one window.
func (w *watch) window(s span, flows []flow) {
	// What a device could not send for a while it sends at once; such windows are judged, and change nothing that has an order.
	s.late = s.at+s.seconds < w.d.Seen
	if !s.late {
		w.roll(s)
	}
	w.fans(s, flows)
	w.floods(s, flows)
	w.relays(s, flows)
	for i := range flows {
		w.remote(s, &flows[i])
	}
	if !s.late {
		w.volumes(s, flows)
		w.d.Seen = max(w.d.Seen, s.at)
	}
}

// on reports whether a detector is switched on.
func (w *watch) on(name string) bool { return w.off&bit[name] == 0 }

// sure marks the device as one whose doings teach nobody.
func (w *watch) strike(at uint32) { w.d.Struck = max(w.d.Struck, at) }

// raise adds a finding unless it is off or was told a moment ago. It reports whether it was added.
func (w *watch) raise(s span, f Finding, flows ...*flow) bool {
	if !w.on(f.Detector) {
		return false
	}
	if len(w.found) >= maxFound {
		w.untold++
		return false
	}
	key := hashText(hashText(hashText(8, f.Detector), f.Type), f.Indicator)
	d := w.d
	at := -1
	for i := range d.recent {
		if d.recent[i].key == key {
			if s.at < d.recent[i].at+quiet && d.recent[i].at < s.at+quiet {
				return false
			}
			at = i
		}
	}
	switch {
	case at >= 0:
	case len(d.recent) < maxRecent:
		d.recent = append(d.recent, told{})
		at = len(d.recent) - 1
	default:
		at = 0
		for i := range d.recent {
			if d.recent[i].at < d.recent[at].at {
				at = i
			}
		}
	}
	d.recent[at] = told{key, s.at}
	f.At = from(s.at)
	for _, v := range flows {
		if f.Flow == nil {
			f.Flow = v.f
		}
		if len(f.Items) < 9 {
			f.Items = append(f.Items, v.at)
		}
	}
	w.found = append(w.found, f)
	return true
}

// hold keeps a finding until its group had time to do the same. It is told at once of a device that was caught already; when weak, of no
// other.
func (w *watch) hold(s span, weak bool, f Finding, wait uint32, peers uint64, v *flow) {
	if !w.on(f.Detector) {
		return
	}
	if w.struck(s.at) {
		w.raise(s, f, v)
		return
	}
	for _, h := range w.d.held {
		if h.finding.Detector == f.Detector && h.finding.Indicator == f.Indicator {
			return
		}
	}
	if len(w.d.held) >= maxHeld {
		return
	}
	c := *v.f // the message is gone by then
	c.CommandLine, c.Executable = "", ""
	f.Flow, f.At = &c, from(s.at)
	if f.Since.IsZero() {
		f.Since = f.At
	}
	w.d.held = append(w.d.held, &held{due: s.at + wait, peers: peers, weak: weak, finding: f})
}

// release tells what was held for long enough, unless peers do the same; at once when the device was caught meanwhile.
func (w *watch) release() {
	keep := w.d.held[:0]
	for _, h := range w.d.held {
		switch {
		case w.g.knows(h.peers), h.weak && w.now >= h.due && !w.struck(w.now):
		case w.now >= h.due || w.struck(w.now):
			w.raise(span{at: w.now}, h.finding)
		default:
			keep = append(keep, h)
		}
	}
	clear(w.d.held[len(keep):])
	w.d.held = keep
}

// roll ends the sums of an hour, and of ten minutes, that are over.
func (w *watch) roll(s span) {
	d := w.d
	if h := s.at / hour; h != d.Hour {
		// Of a device that fetches up on what it could not send, an hour of the hub holds many of its own.
		d.PeakHour = w.peak(s, d.PeakHour*0.999, d.HourOut*hour/max(hour, float64(d.HourSeconds)), 1.5, 64<<10)
		d.Hour, d.HourOut, d.HourSeconds = h, 0, 0
	}
	if slot := s.at / (10 * minute); slot != d.Slot {
		d.DNSPeak = w.peak(s, d.DNSPeak*0.9995, d.DNSOut*10*minute/max(10*minute, float64(d.SlotSeconds)), 1.2, 1<<10)
		d.Slot, d.DNSOut, d.SlotSeconds = slot, 0, 0
	}
	d.HourSeconds += s.seconds
	d.SlotSeconds += s.seconds
}

// peak is the new peak of a device. After its first day it grows by no more than a factor at a time, so that an attack does not make itself usual
// by what it does below a threshold.
func (w *watch) peak(s span, old, now, factor, least float64) float64 {
	if !w.learning(s.at) {
		now = min(now, max(old*factor, least))
	}
	return max(old, now)
}

func endpoint(v *flow) string {
	if v.proto == icmp {
		return v.remote.String()
	}
	return netip.AddrPortFrom(v.remote, v.port).String()
}

// amount is a number of bytes as people read it.
func amount(b float64) string {
	switch {
	case b >= 1<<30:
		return fmt.Sprintf("%.1f GiB", b/(1<<30))
	case b >= 1<<20:
		return fmt.Sprintf("%.1f MiB", b/(1<<20))
	case b >= 1<<10:
		return fmt.Sprintf("%.0f KiB", math.Ceil(b/(1<<10)))
	}
	return fmt.Sprintf("%.0f bytes", b)
}

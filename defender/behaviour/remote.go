package behaviour

import (
	"fmt"
	"math"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
)

// Thresholds of a beacon. A jitter of 50 % to both sides gives a spread of 0.29 of the mean, traffic by chance 1.
const (
	beaconBeats  = 12
	beaconSpread = 0.4
	beaconBytes  = 4 << 10 // of a beat, on average
	beaconSpan   = 30 * minute
	// beaconSpanCloud is for ports that new software of a whole group begins to use: its peers are heard meanwhile.
	beaconSpanCloud = 2 * hour
	maxBeat         = 6 * hour
)

// Thresholds of data that leaves, of a device with a past.
const (
	egressBytes  = 1 << 20 // in an hour, to an unknown host
	egressFactor = 8       // of the device's busiest hour
	surgeBytes   = 16 << 20
	surgeFactor  = 20
	dripBytes    = 128 << 10
	dripHours    = 3 // in which it went on
	dripRatio    = 4 // out for each one in
)

// Thresholds of a payload: the loaders of worms are 30 to 500 KiB.
const (
	downloadBytes = 16 << 10
	downloadRatio = 8
	downloadTime  = 10 * minute
	downloadWait  = hour
)

const protocolWait = 2 * hour

// renewal is how long after a device said another version of its software its new hosts are taken for that software's.
const renewal = 2 * hour

// serviceBit tells services from hosts in what a group knows.
const serviceBit = 1 << 62

// cloud are ports on which honest devices talk to their cloud, all the time and regularly.
var cloud = map[uint16]bool{80: true, 443: true, 1883: true, 5671: true, 5683: true, 5684: true, 8443: true, 8883: true}

// loaders are ports of open protocols from which payloads are fetched.
var loaders = map[uint16]bool{21: true, 69: true, 80: true, 81: true, 8000: true, 8080: true, 8081: true, 8088: true}

// shady are services no device begins to use for a good reason.
var shady = map[uint16]bool{22: true, 23: true, 445: true, 1433: true, 2323: true, 3333: true, 3389: true, 4444: true, 5555: true, 6667: true, 6697: true, 7547: true, 9050: true, 37215: true, 48101: true, 52869: true}

// remote learns of one flow, and judges the talk it belongs to.
func (w *watch) remote(s span, v *flow) {
	w.service(s, v)
	if !v.out || v.failed || !v.public || v.counted && v.in == 0 && v.proto != udp {
		return
	}
	prefix := neighbourhood(v.remote)
	key := mix(v.host ^ uint64(v.service())<<32)
	r := w.entry(s, v, key, prefix)
	if r == nil || s.late {
		return
	}
	w.teach(prefix, s.at)
	r.In += float32(v.in)
	r.Out += float32(v.ex)
	if h := s.at / hour; h != r.Hour {
		r.Hour, r.HourOut = h, 0
		r.HoursActive = min(r.HoursActive+1, math.MaxUint16-1)
	}
	r.HourOut += float32(v.ex)
	r.beat(s, float32(v.in+v.ex))
	r.Last = s.at
	if r.Learned || w.known(prefix) {
		return
	}
	w.beacon(s, v, r)
	w.drip(s, v, r)
	w.download(s, v, r)
}

// known reports whether a host's neighbourhood is no news for the device or its group.
func (w *watch) known(prefix uint64) bool {
	if w.g.knows(prefix) {
		return true
	}
	for i := range w.d.Remotes {
		if r := &w.d.Remotes[i]; r.Prefix == prefix && r.Learned {
			return true
		}
	}
	return false
}

// entry finds or makes the entry of a remote.
func (w *watch) entry(s span, v *flow, key, prefix uint64) *remote {
	d := w.d
	worst := 0
	for i := range d.Remotes {
		r := &d.Remotes[i]
		if r.Key == key {
			return r
		}
		// What is learned stays longer.
		if age(r, s.at) > age(&d.Remotes[worst], s.at) {
			worst = i
		}
	}
	fresh := remote{Key: key, Prefix: prefix, First: s.at, Last: s.at, Beat: s.at, Port: v.port, Proto: v.proto, Hour: s.at / hour, HoursActive: 1}
	// New software may have new hosts, as far as it stays with what clouds use; it talks to them soon.
	renewed := w.d.Changed != 0 && s.at < w.d.Changed+renewal && cloud[v.port]
	fresh.Learned = (w.learning(s.at) || renewed) && !w.struck(s.at) && (cloud[v.port] || v.proto == udp)
	if len(d.Remotes) < maxRemotes {
		if len(d.Remotes) == cap(d.Remotes) { // four at a time: most have a handful
			d.Remotes = append(make([]remote, 0, min(len(d.Remotes)+4, maxRemotes)), d.Remotes...)
		}
		d.Remotes = append(d.Remotes, fresh)
		return &d.Remotes[len(d.Remotes)-1]
	}
	if w.learning(s.at) {
		d.Crowd = true
	}
	d.Remotes[worst] = fresh
	return &d.Remotes[worst]
}

// age is how long a remote was silent; one that was learned counts a fortieth.
func age(r *remote, now uint32) uint32 {
	if now < r.Last {
		return 0
	}
	if r.Learned {
		return (now - r.Last) / 40
	}
	return now - r.Last
}

// beat notes a window in which the remote was talked to.
func (r *remote) beat(s span, bytes float32) {
	if s.at < r.Last {
		return
	}
	gap := s.at - r.Last
	// A beat that lies across the border of two windows is one; so is a second flow of the same window.
	if gap == 0 || gap <= s.seconds && (r.Beats < 4 || r.Mean > 3*float32(s.seconds)) && s.at-r.Beat <= 3*s.seconds {
		r.Current += bytes
		return
	}
	interval := float32(s.at - r.Beat)
	if r.Current > 0 && r.Beat != s.at {
		switch {
		case r.Beats >= 6 && interval > 4*r.Mean && r.Skips < 8: // the device was away
			r.Skips++
		case interval > maxBeat:
			r.restart(s.at)
		default:
			if r.Beats < math.MaxUint16 {
				r.Beats++
			}
			// The last hundred beats count.
			n := float32(min(r.Beats, 100))
			delta := interval - r.Mean
			r.Mean += delta / n
			r.Sum2 += (delta*(interval-r.Mean) - r.Sum2) / n
			r.Bytes += (r.Current - r.Bytes) / n
		}
	}
	r.Beat, r.Current = s.at, bytes
}

// spread is the standard deviation of intervals, in their mean.
func (r *remote) spread() float64 {
	if r.Mean <= 0 {
		return math.Inf(1)
	}
	return math.Sqrt(float64(max(r.Sum2, 0))) / float64(r.Mean)
}

func (w *watch) beacon(s span, v *flow, r *remote) {
	least := uint32(beaconSpan)
	if cloud[v.port] {
		least = beaconSpanCloud
	}
	if w.d.Crowd || v.proto == udp && (v.port == 123 || v.port == 53) || r.Beats < beaconBeats || s.at-r.First < least || r.Bytes > beaconBytes || !v.counted {
		return
	}
	spread := r.spread()
	if spread > beaconSpread {
		return
	}
	sure := 75
	switch {
	case w.learning(s.at):
		sure = 55 // a device that nobody knows yet, on a port that few clouds use
	case cloud[v.port]:
		sure = 65
	}
	w.raise(s, Finding{
		Detector: Beacon, Type: alert.Beaconing, Indicator: endpoint(v), Since: from(r.First), Sureness: sure,
		Expected: "no regular traffic to a host that neither the device in its first day nor its group knows",
		Seen: fmt.Sprintf("%s of traffic with %s every %s, give or take %.0f %%, %d times", amount(float64(r.Bytes)), endpoint(v),
			(time.Duration(r.Mean) * time.Second).String(), 100*spread, r.Beats),
	}, v)
}

func (w *watch) drip(s span, v *flow, r *remote) {
	out, in := float64(r.Out), float64(r.In)
	if w.d.Crowd || w.learning(s.at) || out < dripRatio*in || v.proto == udp && v.port == 53 {
		return
	}
	if hourly := float64(r.HourOut); hourly >= egressBytes && hourly >= egressFactor*w.d.PeakHour {
		if w.raise(s, Finding{
			Detector: Egress, Type: alert.EgressData, Indicator: endpoint(v), Since: from(r.First), Sureness: 80,
			Expected: fmt.Sprintf("at most %s an hour, and to hosts that the device or its group knows", amount(w.d.PeakHour)),
			Seen:     fmt.Sprintf("%s within an hour to %s, which is new", amount(hourly), endpoint(v)),
		}, v) {
			w.strike(s.at)
		}
		return
	}
	if out >= dripBytes && r.HoursActive >= dripHours && s.at-r.First >= beaconSpanCloud {
		w.raise(s, Finding{
			Detector: Drip, Type: alert.EgressData, Indicator: endpoint(v), Since: from(r.First), Sureness: 65,
			Expected: "no lasting upload to a host that neither the device in its first day nor its group knows",
			Seen:     fmt.Sprintf("%s to %s in %d hours, and %s back", amount(out), endpoint(v), r.HoursActive, amount(in)),
		}, v)
	}
}

func (w *watch) download(s span, v *flow, r *remote) {
	in := float64(r.In)
	if !loaders[v.port] || s.at-r.First > downloadTime || in < downloadBytes || in < downloadRatio*float64(r.Out) {
		return
	}
	// Who fetches files over the same open protocol all its life does so from ever other hosts: only with another sign is it told.
	usual := w.g.knows(serviceBit | uint64(v.service()))
	for i := range w.d.Services {
		c := &w.d.Services[i]
		usual = usual || c.Key == v.service() && c.First < w.d.First+w.learn
	}
	w.hold(s, usual, Finding{
		Detector: Download, Type: alert.PayloadDownload, Indicator: endpoint(v), Since: from(r.First), Sureness: 45,
		Expected: "files only from hosts that the device or its group knows, or over TLS",
		Seen:     fmt.Sprintf("%s from %s, which is new, over an open protocol", amount(in), endpoint(v)),
	}, downloadWait, r.Prefix, v)
}

// service notices a protocol that is new to the device and its group.
func (w *watch) service(s span, v *flow) {
	if v.port >= ephemeral || v.proto == other || !v.out && !v.public || v.proto == icmp {
		return
	}
	if v.counted && (v.in == 0 || v.ex == 0) && !(v.out && shady[v.port]) {
		return // half a talk is none
	}
	key := v.service()
	if !v.out {
		key |= 1 << 24
	}
	for i := range w.d.Services {
		if w.d.Services[i].Key == key {
			return
		}
	}
	known := serviceBit | uint64(key)
	if !s.late {
		if len(w.d.Services) >= maxServices {
			return // it uses everything
		}
		if len(w.d.Services) == cap(w.d.Services) {
			w.d.Services = append(make([]service, 0, min(len(w.d.Services)+4, maxServices)), w.d.Services...)
		}
		w.d.Services = append(w.d.Services, service{key, s.at})
	}
	if w.learning(s.at) || w.g.knows(known) {
		w.teach(known, s.at)
		return
	}
	w.teach(known, s.at)
	f := Finding{
		Detector: Protocol, Type: alert.NewProtocol, Indicator: serviceName(key), Sureness: 30,
		Expected: "the protocols of the device's first day, or of its group",
		Seen:     fmt.Sprintf("%s to %s for the first time", serviceName(key), v.remote),
	}
	if !v.out {
		f.Indicator += " of the device"
		f.Seen = fmt.Sprintf("%s from the Internet to %s of the device for the first time", v.remote, serviceName(key))
	}
	if shady[v.port] {
		f.Sureness = 70
		w.raise(s, f, v)
		return
	}
	if w.d.Changed != 0 && s.at < w.d.Changed+renewal {
		return // new software
	}
	w.hold(s, false, f, protocolWait, known, v)
}

// Thresholds of DNS: a name takes 60 bytes to ask for, so that 20 KiB are 300 names in ten minutes.
const (
	dnsBytes       = 20 << 10
	dnsBytesYoung  = 64 << 10
	dnsFactor      = 6
	dnsBytesForged = 6 << 10 // to a server that neither the device nor its group uses
)

// volumes looks at sums over flows and windows.
func (w *watch) volumes(s span, flows []flow) {
	d := w.d
	var dns, surge *flow
	var foreign float64
	out := 0.0
	for i := range flows {
		v := &flows[i]
		if !v.counted || !v.out {
			continue
		}
		if v.port == 53 && (v.proto == udp || v.proto == tcp) {
			dns = v
			d.DNSOut += v.ex
			if v.public && !w.known(neighbourhood(v.remote)) {
				foreign += v.ex
			}
			continue
		}
		if v.public && !v.failed {
			out += v.ex
			if surge == nil || v.ex > surge.ex {
				surge = v
			}
		}
	}
	if dns != nil {
		w.tunnel(s, dns, foreign > 0)
	}
	d.HourOut += out
	hours := max(1, float64(d.HourSeconds)/hour)
	if sum := d.HourOut / hours; surge != nil && !w.learning(s.at) && sum >= surgeBytes && d.PeakHour > 0 && sum >= surgeFactor*d.PeakHour {
		w.raise(s, Finding{
			Detector: Egress, Type: alert.EgressData, Indicator: "all hosts", Since: from(d.Hour * hour), Sureness: 50,
			Expected: fmt.Sprintf("about %s an hour", amount(d.PeakHour)), Seen: fmt.Sprintf("%s within this hour", amount(sum)),
		}, surge)
	}
}

func (w *watch) tunnel(s span, v *flow, foreign bool) {
	d := w.d
	least := max(dnsBytes, dnsFactor*d.DNSPeak)
	expected := fmt.Sprintf("at most %s of questions in ten minutes", amount(least))
	switch {
	case w.learning(s.at):
		least = max(least, dnsBytesYoung)
	case foreign:
		least = max(dnsBytesForged, min(least, 3*d.DNSPeak))
		expected = "questions to the name servers that the device or its group uses"
	}
	sum := d.DNSOut / max(1, float64(d.SlotSeconds)/(10*minute))
	if sum < least {
		return
	}
	w.raise(s, Finding{
		Detector: Tunnel, Type: alert.DNSTunnel, Indicator: v.remote.String(), Since: from(d.Slot * 10 * minute), Sureness: 75,
		Expected: expected, Seen: fmt.Sprintf("%s of questions in ten minutes, to %s", amount(sum), v.remote),
	}, v)
}

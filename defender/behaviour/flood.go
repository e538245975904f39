package behaviour

import (
	"fmt"

	"github.com/vauban-iot/vauban/defender/alert"
)

// Thresholds of floods. 25 KiB/s are 600 SYN segments a second, or a quarter of a Mbit/s of UDP. A device whose life it is to send
// without an answer, such as a camera over RTP, shows so in its first day, and must do ten times more.
const (
	floodRate    = 25 << 10 // bytes a second to one host, for two windows
	floodSurge   = 10 * floodRate
	floodFactor  = 10
	floodSilence = 4096 // bytes out for each one in; an upload over TCP has at most 2000
)

// sum is what went to one host in a window.
type sum struct {
	host    uint64
	in, out float64
	last    *flow
}

// floods looks for a surge of traffic to one host that does not answer.
func (w *watch) floods(s span, flows []flow) {
	sums := w.scratch.remotes[:0]
	if w.scratch.index == nil {
		w.scratch.index = make(map[uint64]int, cacheFlows)
	}
	clear(w.scratch.index)
	for i := range flows {
		v := &flows[i]
		if !v.counted || v.in+v.ex < 1<<10 && v.ex > 0 && len(flows) < cacheFlows/2 {
			continue
		}
		at, ok := w.scratch.index[v.host]
		if !ok {
			at = len(sums)
			sums = append(sums, sum{host: v.host})
			w.scratch.index[v.host] = at
		}
		sums[at].in += v.in
		sums[at].out += v.ex
		sums[at].last = v
	}
	w.scratch.remotes = sums[:0]
	bar := func(peak float64) float64 {
		return max(floodRate*float64(s.seconds), floodFactor*peak*float64(s.seconds)/usual)
	}
	learning := w.learning(s.at)
	for i := range sums {
		h := &sums[i]
		if h.out < h.in*floodSilence || h.out < 1<<10 {
			continue
		}
		// A recorder in the house gets a camera's pictures without a word.
		house := h.last.proto == udp && !h.last.public
		peak, least := &w.d.PeakBurst, 0.0
		if house {
			peak = &w.d.PeakHouse
			least = floodFactor * floodRate * float64(s.seconds)
		}
		if least = max(least, bar(*peak)); h.out < least || house && learning {
			if !s.late {
				*peak = w.peak(s, *peak, h.out*usual/float64(max(s.seconds, usual)), 1.01, 1<<10)
			}
			continue
		}
		again := w.d.flood.key == h.host && !s.late && s.at <= w.d.flood.at+6*usual+s.seconds
		w.d.flood.key, w.d.flood.at = h.host, s.at
		if !again && h.out < floodSurge*float64(s.seconds) {
			continue
		}
		if w.raise(s, Finding{
			Detector: Flood, Type: alert.DenialOfService, Indicator: h.last.remote.String(), Sureness: 90,
			Expected: fmt.Sprintf("at most %s in %d s to a host that does not answer", amount(least), s.seconds),
			Seen:     fmt.Sprintf("%s in %d s to %s, which answered with %s", amount(h.out), s.seconds, h.last.remote, amount(h.in)),
		}, h.last) {
			w.strike(s.at)
		}
	}
}

package agent

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// newID is a random UUID (RFC 9562 §5.4).
func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// eventsOf makes events of observations: those of one name and second are one, since that is how precise an event is. Of a flow the second
// is that of its last bytes, and what came before is the event's interval, so that who reads it can tell much from fast.
func eventsOf(all []collect.Observation) []secmsg.Event {
	type key struct {
		name     string
		second   int64
		interval time.Duration
	}
	at := make(map[key]int)
	var events []secmsg.Event
	for _, o := range all {
		if o.Time.IsZero() {
			o.Time = time.Now()
		}
		var lasted time.Duration
		if o.Flow != nil && !o.Flow.First.IsZero() {
			o.Time, lasted = o.Flow.Last, o.Flow.Last.Sub(o.Flow.First).Truncate(time.Second)
		}
		k := key{o.Event, o.Time.Unix(), lasted}
		i, ok := at[k]
		if !ok {
			i = len(events)
			at[k] = i
			events = append(events, newEvent(o.Event, o.Time))
			events[i].Interval = lasted
		}
		e := &events[i]
		switch {
		case o.Flow != nil:
			e.Flows = append(e.Flows, *o.Flow)
		case o.Check != nil:
			e.Checks = append(e.Checks, *o.Check)
		case o.Item != nil:
			e.Payload = append(e.Payload, o.Item)
		}
	}
	slices.SortStableFunc(events, func(a, b secmsg.Event) int { return cmp.Compare(a.Time.Unix(), b.Time.Unix()) })
	return events
}

func newEvent(name string, at time.Time) secmsg.Event {
	var id [16]byte
	rand.Read(id[:])
	return secmsg.Event{ID: hex.EncodeToString(id[:]), Name: name, Time: at}
}

func items(e *secmsg.Event) int { return len(e.Flows) + len(e.Checks) + len(e.Payload) }

// halves cuts an event in two.
func halves(e secmsg.Event) [2]secmsg.Event {
	out := [2]secmsg.Event{e, e}
	out[1].ID = newEvent("", e.Time).ID
	f, c, p := len(e.Flows)/2, len(e.Checks)/2, len(e.Payload)/2
	if f+c+p == 0 { // one of each at most: whatever there is beside the first goes into the other
		switch {
		case len(e.Flows) > 0:
			f = 1
		case len(e.Checks) > 0:
			c = 1
		}
	}
	out[0].Flows, out[1].Flows = e.Flows[:f], e.Flows[f:]
	out[0].Checks, out[1].Checks = e.Checks[:c], e.Checks[c:]
	out[0].Payload, out[1].Payload = e.Payload[:p], e.Payload[p:]
	return out
}

// split encodes a report as messages of at most most bytes and hands them over. It returns what does not fit into any.
func split(r secmsg.Report, most int, put func(body []byte, events []secmsg.Event)) (left []secmsg.Event) {
	if len(r.Events) == 0 {
		return nil
	}
	body := secmsg.AppendJSON(nil, r)
	if len(body) <= most {
		put(body, r.Events)
		return nil
	}
	part := func(events ...secmsg.Event) {
		r.Events = events
		left = append(left, split(r, most, put)...)
	}
	if n := len(r.Events); n > 1 {
		events := r.Events
		part(events[:n/2]...)
		part(events[n/2:]...)
		return left
	}
	e := r.Events[0]
	if items(&e) < 2 {
		return []secmsg.Event{e}
	}
	both := halves(e)
	part(both[0])
	part(both[1])
	return left
}

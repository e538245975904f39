package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/agent/config"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// own are the collectors that look at the agent itself.
func (a *Agent) own() []Source {
	all := []Source{
		{Name: config.Heartbeat, Snapshot: snapshot(heartbeat)},
		{Name: config.Statistics, Snapshot: snapshot(a.statistics)},
	}
	if a.cfg.Log != nil {
		all = append(all, Source{Name: config.LogCollector, Snapshot: snapshot(a.cfg.Log.take)})
	}
	return slices.DeleteFunc(all, func(s Source) bool { return a.settings.Collectors[s.Name].Priority == config.Off })
}

type snapshot func() []collect.Observation

func (f snapshot) Take(context.Context) ([]collect.Observation, error) { return f(), nil }

func heartbeat() []collect.Observation {
	return []collect.Observation{{Event: config.Heartbeat, Time: time.Now(), Hits: 1}}
}

// tally is a collector's. a.mu must be held.
func (a *Agent) tally(name string) *tally {
	t := a.counts[name]
	if t == nil {
		t = &tally{}
		a.counts[name] = t
	}
	return t
}

// account counts what was put into the queue, or was not.
func (a *Agent) account(events []secmsg.Event, kept bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range events {
		n := uint64(max(items(&events[i]), 1))
		if t := a.tally(events[i].Name); kept {
			t.sent += n
		} else {
			t.failed += n
		}
	}
}

// statistics tells what became of observations since it was last asked. What the queue lost, which may be of any collector,
// stands under the name Queue.
func (a *Agent) statistics() []collect.Observation {
	lost := a.queue.State()
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	var all []collect.Observation
	add := func(collector string, counts ...secmsg.StatisticEvent) {
		counts = slices.DeleteFunc(counts, func(e secmsg.StatisticEvent) bool { return e.HitCount == 0 })
		if len(counts) > 0 {
			all = append(all, collect.Observation{Event: config.Statistics, Time: now, Hits: 1, Item: secmsg.Statistic{Collector: collector, Events: counts}})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a.counts)) {
		t := a.counts[name]
		add(name, secmsg.StatisticEvent{Description: "sent", HitCount: t.sent}, secmsg.StatisticEvent{Description: "dropped: the cache was full", HitCount: t.full},
			secmsg.StatisticEvent{Description: "dropped: no message or no disk took it", HitCount: t.failed})
	}
	clear(a.counts)
	add("Queue", secmsg.StatisticEvent{Description: "messages dropped: the queue was full", HitCount: lost.Dropped - a.told.Dropped},
		secmsg.StatisticEvent{Description: "places damaged on disk", HitCount: lost.Damaged - a.told.Damaged},
		secmsg.StatisticEvent{Description: "messages dropped: older than " + a.expiry.String(), HitCount: a.status.Expired - a.toldExpired})
	a.told, a.toldExpired = lost, a.status.Expired
	return all
}

// failed notes why a collector sees less than everything; nil: it does not.
func (a *Agent) failed(name string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := a.sourceIndex(name)
	if i < 0 {
		return
	}
	a.status.Sources[i].Error = ""
	if err != nil {
		a.status.Sources[i].Error = fmt.Sprint(err)
	}
}

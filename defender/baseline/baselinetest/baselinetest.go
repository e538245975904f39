// Package baselinetest is what a [baseline.Service] stands on, in memory, for tests.
package baselinetest

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/baseline"
	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/iot"
)

// World is a store, a log and the rules of groups. The zero value is empty.
type World struct {
	mu        sync.Mutex
	documents map[string][]byte
	learned   map[string]baseline.Saved
	entries   []bus.Entry
	done      uint64        // by Work
	news      chan struct{} // closed when an entry comes

	Groups map[string]string // tags of devices
	Alerts map[alert.Key]*alert.Alert
	Rules  map[string]group.Rules
	Fail   error // of every write
	Saves  int
}

var _ baseline.Store = (*World)(nil)

// Do runs f while nobody else looks at the world.
func (w *World) Do(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// Append writes messages as one entry of the log.
func (w *World) Append(at time.Time, messages ...iot.Message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	pointers := make([]*iot.Message, len(messages))
	for i := range messages {
		messages[i].Enqueued = at
		pointers[i] = &messages[i]
	}
	w.entries = append(w.entries, bus.Entry{Sequence: uint64(len(w.entries) + 1), Time: at, Data: telemetry.Batch(pointers...)})
	if w.news != nil {
		close(w.news)
		w.news = nil
	}
}

func (w *World) wait() (entries []bus.Entry, news chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.news == nil {
		w.news = make(chan struct{})
	}
	return w.entries, w.news
}

// Rewind makes Work give the last n entries again, as after a crash.
func (w *World) Rewind(n uint64) { w.Do(func() { w.done -= min(n, w.done) }) }

// Work implements [baseline.Reader].
func (w *World) Work(ctx context.Context, _ string, handle func(bus.Entry) error) error {
	for {
		entries, news := w.wait()
		var done uint64
		w.Do(func() { done = w.done })
		if done < uint64(len(entries)) {
			if handle(entries[done]) == nil {
				w.Do(func() { w.done = max(w.done, done+1) })
				continue
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(time.Second):
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-news:
		}
	}
}

// Follow implements [baseline.Reader].
func (w *World) Follow(ctx context.Context, _ bus.Start, ready func(), handle func(bus.Entry) error) error {
	if ready != nil {
		ready()
	}
	for i := 0; ; {
		entries, news := w.wait()
		for ; i < len(entries); i++ {
			if ctx.Err() != nil {
				return nil
			}
			if err := handle(entries[i]); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-news:
		}
	}
}

// Raise keeps alerts as stores do: one of each key, replays left out.
func (w *World) Raise(_ context.Context, all []alert.Alert) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.Fail != nil {
		return w.Fail
	}
	if w.Alerts == nil {
		w.Alerts = make(map[alert.Key]*alert.Alert)
	}
	for _, a := range all {
		stands := w.Alerts[a.Key()]
		switch {
		case stands == nil:
			w.Alerts[a.Key()] = &a
		case a.LastMessage == 0 || a.LastMessage > stands.LastMessage:
			stands.Merge(a)
		}
	}
	return nil
}

// Raised are the alerts there are, by type, device, indicator and day.
func (w *World) Raised() []alert.Alert {
	w.mu.Lock()
	defer w.mu.Unlock()
	keys := slices.SortedFunc(maps.Keys(w.Alerts), func(a, b alert.Key) int {
		return slices.Compare([]string{a.Type, a.Device, a.Indicator, a.Day}, []string{b.Type, b.Device, b.Indicator, b.Day})
	})
	var all []alert.Alert
	for _, k := range keys {
		all = append(all, *w.Alerts[k])
	}
	return all
}

func parse(text []byte) baseline.Baseline {
	b, err := baseline.Parse(text)
	if err != nil {
		panic(err) // Text wrote it
	}
	return b
}

// Baselines implements [baseline.Store], as all below.
func (w *World) Baselines(context.Context) ([]baseline.Baseline, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []baseline.Baseline
	for _, name := range slices.Sorted(maps.Keys(w.documents)) {
		all = append(all, parse(w.documents[name]))
	}
	return all, w.Fail
}

// Baseline returns one.
func (w *World) Baseline(_ context.Context, name string) (baseline.Baseline, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	text, ok := w.documents[name]
	if !ok {
		return baseline.Baseline{}, fault.New(fault.NotFound, "no baseline %s", name)
	}
	return parse(text), nil
}

// CountBaselines counts.
func (w *World) CountBaselines(context.Context) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.documents), nil
}

// UpdateBaseline changes one.
func (w *World) UpdateBaseline(_ context.Context, name string, change func(*baseline.Baseline) (*baseline.Baseline, error)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.Fail != nil {
		return w.Fail
	}
	var stands *baseline.Baseline
	if text, ok := w.documents[name]; ok {
		b := parse(text)
		stands = &b
	}
	next, err := change(stands)
	if err != nil {
		return err
	}
	if next == nil {
		delete(w.documents, name)
		delete(w.learned, name)
		return nil
	}
	text, err := next.Text()
	if err != nil {
		return err
	}
	if w.documents == nil {
		w.documents = make(map[string][]byte)
	}
	w.documents[name] = text
	return nil
}

// SaveLearned keeps lessons.
func (w *World) SaveLearned(_ context.Context, all []baseline.Saved) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.Fail != nil {
		return w.Fail
	}
	for _, v := range all {
		if text, ok := w.documents[v.Group]; ok && parse(text).Epoch == v.Epoch {
			if w.learned == nil {
				w.learned = make(map[string]baseline.Saved)
			}
			w.learned[v.Group] = v
			w.Saves++
		}
	}
	return nil
}

// Learned returns lessons.
func (w *World) Learned(_ context.Context, name string) (baseline.Saved, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	v, ok := w.learned[name]
	if text, stands := w.documents[name]; !ok || !stands || parse(text).Epoch != v.Epoch {
		return v, fault.New(fault.NotFound, "nothing was learned of %s", name)
	}
	return v, nil
}

// SecurityGroups returns tags.
func (w *World) SecurityGroups(_ context.Context, devices []string) (map[string]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make(map[string]string)
	for _, d := range devices {
		if g, ok := w.Groups[d]; ok {
			all[d] = g
		}
	}
	return all, w.Fail
}

// GroupMembers lists those with the tag.
func (w *World) GroupMembers(_ context.Context, name string, _ bool, after string, limit int) ([]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []string
	for _, d := range slices.Sorted(maps.Keys(w.Groups)) {
		if w.Groups[d] == name && d > after && len(all) < limit {
			all = append(all, d)
		}
	}
	return all, w.Fail
}

// Group implements [baseline.Groups].
func (w *World) Group(_ context.Context, name string) (group.Rules, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r, ok := w.Rules[name]
	if !ok {
		return r, fault.New(fault.NotFound, "no group %s", name)
	}
	return r, nil
}

// Put keeps rules.
func (w *World) Put(_ context.Context, name string, r group.Rules) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, stands := w.Rules[name]
	if w.Rules == nil {
		w.Rules = make(map[string]group.Rules)
	}
	w.Rules[name] = r
	return !stands, w.Fail
}

// Package window judges rules over time: how often something may happen to a device within a window (defender §2.3). Windows of
// a rule follow each other without a gap, from midnight UTC on, or, when their size divides no day, from 1970 on.
//
// Every server counts ([activity.Tally]) and writes its counts, a minute at a time, into the store; one server judges. A count outside
// of its range is an alert of the type IoT_CA_ with the rule's name. A window that nobody watched from its beginning to its end,
// because the rule is new or no server ran, is not judged.
package window

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/activity"
	"github.com/vauban-iot/vauban/internal/nonce"
)

// Sum is what a device did within a window.
type Sum struct {
	Device string
	N      int
}

// Store keeps counts until their windows end, and knows the groups of devices.
type Store interface {
	// AddActivity adds counts to those that stand.
	AddActivity(ctx context.Context, counts []activity.Count) error
	// Activity lists the devices that did something atLeast so often from a minute to another, exclusive, by device.
	Activity(ctx context.Context, k activity.Kind, from, to int64, atLeast int) ([]Sum, error)
	// ForgetActivity removes counts of before a minute.
	ForgetActivity(ctx context.Context, before int64) error
	// SecurityGroups returns the tag SecurityGroup of devices that have one.
	SecurityGroups(ctx context.Context, devices []string) (map[string]string, error)
	// GroupMembers lists the enabled devices of a group behind after, by device; byDefault: those without the tag, too.
	GroupMembers(ctx context.Context, group string, byDefault bool, after string, limit int) ([]string, error)
}

// Settings keeps the place of the judge; see the store's settings.
type Settings interface {
	Setting(ctx context.Context, name string) ([]byte, error)
	PutSetting(ctx context.Context, name string, value []byte) error
}

// Config of a Judge and of a Counter.
type Config struct {
	Store    Store
	Settings Settings
	Groups   func(ctx context.Context) (map[string]*group.Compiled, error)
	Tally    *activity.Tally
	Raise    func(ctx context.Context, alerts []alert.Alert) error
	Logger   *slog.Logger          // nil: slog.Default
	Metrics  prometheus.Registerer // may be nil
}

// Times of judging.
const (
	period = 5 * time.Second
	// grace is how long after its end a window is judged: by then every server wrote its counts.
	grace = 15 * time.Second
	// unwatched is how long the judge may be away before the windows under way count as not watched.
	unwatched = 2 * time.Minute
)

// maxAlerts bounds the alerts of one rule for one window; a rule that everybody breaks says so once more in the log.
const maxAlerts = 1000

// Service counts and judges.
type Service struct {
	cfg    Config
	log    *slog.Logger
	broken prometheus.Counter
	left   prometheus.Counter
	lost   prometheus.CounterFunc

	flushing sync.Mutex // so that nobody judges while counts are on their way
}

// New makes a service; its parts are run by RunCounter, on every server, and RunJudge, on one.
func New(cfg Config) (*Service, error) {
	if cfg.Store == nil || cfg.Settings == nil || cfg.Groups == nil || cfg.Tally == nil || cfg.Raise == nil {
		return nil, errors.New("window: Store, Settings, Groups, Tally and Raise are required")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	f := promauto.With(cfg.Metrics)
	return &Service{
		cfg: cfg, log: cfg.Logger,
		broken: f.NewCounter(prometheus.CounterOpts{Name: "vauban_defender_windows_broken_total", Help: "Windows of devices in which a count was out of the range of a rule."}),
		left:   f.NewCounter(prometheus.CounterOpts{Name: "vauban_defender_windows_left_out_total", Help: "Of those, for which no alert was raised because one rule and window had over 1000."}),
		lost: f.NewCounterFunc(prometheus.CounterOpts{Name: "vauban_defender_activity_lost_total", Help: "Activity that was not counted because too many counts waited."}, func() float64 {
			return float64(cfg.Tally.Lost())
		}),
	}, nil
}

// RunCounter writes what this server counted, a minute at a time, and follows what is to be counted. A crash loses what was counted
// within the minute.
func (s *Service) RunCounter(ctx context.Context) error {
	s.follow(ctx)
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			s.warn(ctx, s.flush(context.WithoutCancel(ctx), activity.Minute(time.Now())+1))
			return nil
		case <-tick.C:
			s.follow(ctx)
			s.warn(ctx, s.flush(ctx, activity.Minute(time.Now())))
		}
	}
}

func (s *Service) warn(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		s.log.Warn("activity is not kept yet", "err", err)
	}
}

// Follow reads which kinds the rules need.
func (s *Service) follow(ctx context.Context) {
	groups, err := s.cfg.Groups(ctx)
	if err != nil {
		if ctx.Err() == nil {
			s.log.Warn("the security groups are not known; what is counted stays", "err", err)
		}
		return
	}
	var wanted []activity.Kind
	for _, c := range groups {
		for _, w := range c.Windows {
			wanted = append(wanted, w.Kind)
		}
	}
	s.cfg.Tally.Want(wanted...)
}

func (s *Service) flush(ctx context.Context, before int64) error {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	counts := s.cfg.Tally.Take(before)
	if len(counts) == 0 {
		return nil
	}
	if err := s.cfg.Store.AddActivity(ctx, counts); err != nil {
		s.cfg.Tally.Put(counts)
		return fmt.Errorf("%d counts of activity wait for the store: %w", len(counts), err)
	}
	return nil
}

// progress is what the judge remembers.
type progress struct {
	Seen time.Time `json:"seen"` // when it last judged
	// Next is the beginning of the next window to judge, of each rule.
	Next map[string]int64 `json:"next"`
}

const progressSetting = "defender/windows"

// RunJudge judges windows until ctx ends.
func (s *Service) RunJudge(ctx context.Context) error {
	p := progress{}
	text, err := s.cfg.Settings.Setting(ctx, progressSetting)
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil && !fault.Is(err, fault.NotFound) {
		if ctx.Err() != nil {
			return nil
		}
		s.log.Error("the place of the rules over time is not known; they begin anew", "err", err)
		p = progress{}
	}
	if time.Since(p.Seen) > unwatched {
		p.Next = nil
	}
	saved := time.Time{}
	var forgotten int64
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		now := time.Now()
		changed, err := s.judge(ctx, &p, now)
		if err != nil && ctx.Err() == nil {
			s.log.Warn("rules over time are judged later", "err", err)
		}
		if err == nil && (changed || now.Sub(saved) >= time.Minute) {
			p.Seen = now.UTC()
			text, err := json.Marshal(p)
			if err == nil {
				err = s.cfg.Settings.PutSetting(ctx, progressSetting, text)
			}
			if err == nil {
				saved = now
			} else if ctx.Err() == nil {
				s.log.Warn("the place of the rules over time is not kept", "err", err)
			}
		}
		// A window has a day at most, and may have begun a day before it is judged.
		if minute := activity.Minute(now) - 2*24*60; err == nil && minute > forgotten+10 {
			if err := s.cfg.Store.ForgetActivity(ctx, minute); err == nil {
				forgotten = minute
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// judge judges every window that ended.
func (s *Service) judge(ctx context.Context, p *progress, now time.Time) (changed bool, err error) {
	// What this server counted is judged, even when the store was away for a while.
	if err := s.flush(ctx, activity.Minute(now)); err != nil {
		return false, err
	}
	groups, err := s.cfg.Groups(ctx)
	if err != nil {
		return false, err
	}
	next := make(map[string]int64)
	for name, c := range groups {
		for _, w := range c.Windows {
			size := int64(w.Size / time.Minute)
			key := fmt.Sprintf("%s/%s/%d/%d/%d", name, w.Kind, size, w.Min, w.Max)
			begin, ok := p.Next[key]
			if !ok { // the first whole one
				begin = (activity.Minute(now)/size + 1) * size
				changed = true
			}
			for end := begin + size; !now.Before(time.Unix(end*60, 0).Add(grace)); end += size {
				if err := s.rule(ctx, name, w, begin, end); err != nil {
					return changed, fmt.Errorf("judge %s of group %s: %w", group.WindowType(w.Kind), name, err)
				}
				begin, changed = end, true
				if p.Next == nil {
					p.Next = map[string]int64{}
				}
				p.Next[key] = end // what was judged is, whatever comes next
			}
			next[key] = begin
		}
	}
	changed = changed || len(next) != len(p.Next)
	p.Next = next
	return changed, nil
}

// rule judges one window of one rule.
func (s *Service) rule(ctx context.Context, name string, w group.Window, begin, end int64) error {
	var found []Sum
	broken := 0
	add := func(v Sum) {
		if broken++; len(found) < maxAlerts {
			found = append(found, v)
		}
	}
	loud, err := s.cfg.Store.Activity(ctx, w.Kind, begin, end, w.Max+1)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(loud, 500) {
		devices := make([]string, len(part))
		for i, v := range part {
			devices[i] = v.Device
		}
		of, err := s.cfg.Store.SecurityGroups(ctx, devices)
		if err != nil {
			return err
		}
		for _, v := range part {
			if groupOf(of, v.Device) == name {
				add(v)
			}
		}
	}
	if w.Min > 0 { // silence is judged, too: of every member
		active, err := s.cfg.Store.Activity(ctx, w.Kind, begin, end, 1)
		if err != nil {
			return err
		}
		counts := make(map[string]int, len(active))
		for _, v := range active {
			counts[v.Device] = v.N
		}
		const page = 5000
		for after := ""; ; {
			members, err := s.cfg.Store.GroupMembers(ctx, name, name == group.Default, after, page)
			if err != nil {
				return err
			}
			for _, d := range members {
				if n := counts[d]; n < w.Min {
					add(Sum{d, n})
				}
			}
			if len(members) < page {
				break
			}
			after = members[len(members)-1]
		}
	}
	if broken == 0 {
		return nil
	}
	s.broken.Add(float64(broken))
	if left := broken - len(found); left > 0 {
		s.left.Add(float64(left))
		s.log.Warn("a rule has more alerts than are raised", "group", name, "rule", group.WindowType(w.Kind), "left", left)
	}
	alerts := make([]alert.Alert, 0, len(found))
	for _, v := range found {
		alerts = append(alerts, newAlert(name, w, v, time.Unix(begin*60, 0).UTC(), time.Unix(end*60, 0).UTC()))
	}
	return s.cfg.Raise(ctx, alerts)
}

func groupOf(of map[string]string, device string) string {
	if name, ok := of[device]; ok {
		return name
	}
	return group.Default
}

func newAlert(name string, w group.Window, v Sum, begin, end time.Time) alert.Alert {
	rule := group.WindowType(w.Kind)
	kind := alert.Lookup(alert.Custom(rule))
	details, err := json.Marshal(map[string]any{
		"ruleType": rule, "securityGroup": name, "windowStart": begin, "windowEnd": end, "count": v.N, "minThreshold": w.Min, "maxThreshold": w.Max,
	})
	if err != nil {
		panic(err) // texts, times and numbers always marshal
	}
	a := alert.Alert{
		ID: nonce.New(), Type: kind.Name, Severity: kind.Severity, Title: kind.Title, Device: v.Device, Group: name, Indicator: rule, Source: "security group " + name,
		Description: fmt.Sprintf("Device %s: %s was %d from %s to %s; the security group %s allows %d to %d.",
			v.Device, w.Kind, v.N, begin.Format(time.DateTime), end.Format(time.DateTime), name, w.Min, w.Max),
		Day: begin.Format(time.DateOnly), Count: 1, FirstSeen: begin, LastSeen: end,
	}
	a.Add(alert.Evidence{Time: end, Event: rule, Details: details})
	return a
}

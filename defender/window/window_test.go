package window

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/activity"
	"github.com/vauban-iot/vauban/internal/conform"
)

// world is a store in memory, with a service on it.
type world struct {
	mu     sync.Mutex
	counts map[activity.Count]int // N is 0
	groups map[string]string      // of devices that exist; "": no tag
	text   []byte
	fail   error
	raised []alert.Alert
	rules  map[string]*group.Compiled
	tally  *activity.Tally
	*Service
}

func newWorld(t *testing.T, rules map[string]string, devices map[string]string) *world {
	t.Helper()
	w := &world{counts: map[activity.Count]int{}, groups: devices, tally: new(activity.Tally), rules: map[string]*group.Compiled{}}
	for name, text := range rules {
		r, err := group.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if w.rules[name], err = group.Compile(r, nil); err != nil {
			t.Fatal(err)
		}
	}
	w.Service = w.service(t)
	return w
}

func (w *world) service(t *testing.T) *Service {
	t.Helper()
	s, err := New(Config{
		Store: w, Settings: w, Tally: w.tally, Logger: slog.New(slog.DiscardHandler),
		Groups: func(context.Context) (map[string]*group.Compiled, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.rules, w.fail
		},
		Raise: func(_ context.Context, as []alert.Alert) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.raised = append(w.raised, as...)
			return w.fail
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (w *world) AddActivity(_ context.Context, counts []activity.Count) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail != nil {
		return w.fail
	}
	for _, c := range counts {
		n := c.N
		c.N = 0
		if c.Kind.Peak() {
			w.counts[c] = max(w.counts[c], n)
		} else {
			w.counts[c] += n
		}
	}
	return nil
}

func (w *world) Activity(_ context.Context, k activity.Kind, from, to int64, atLeast int) ([]Sum, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	sums := map[string]int{}
	for c, n := range w.counts {
		if c.Kind == k && c.Minute >= from && c.Minute < to {
			if k.Peak() {
				sums[c.Device] = max(sums[c.Device], n)
			} else {
				sums[c.Device] += n
			}
		}
	}
	var all []Sum
	for d, n := range sums {
		if n >= atLeast {
			all = append(all, Sum{d, n})
		}
	}
	slices.SortFunc(all, func(a, b Sum) int { return cmp.Compare(a.Device, b.Device) })
	return all, w.fail
}

func (w *world) ForgetActivity(_ context.Context, before int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.counts {
		if c.Minute < before {
			delete(w.counts, c)
		}
	}
	return nil
}

func (w *world) SecurityGroups(_ context.Context, devices []string) (map[string]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := map[string]string{}
	for _, d := range devices {
		if g := w.groups[d]; g != "" {
			all[d] = g
		}
	}
	return all, nil
}

func (w *world) GroupMembers(_ context.Context, name string, byDefault bool, after string, limit int) (all []string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for d, g := range w.groups {
		if d > after && (g == name || g == "" && byDefault) {
			all = append(all, d)
		}
	}
	slices.Sort(all)
	return all[:min(len(all), limit)], nil
}

func (w *world) Setting(context.Context, string) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.text == nil {
		return nil, fault.New(fault.NotFound, "none")
	}
	return w.text, nil
}

func (w *world) PutSetting(_ context.Context, _ string, text []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = text
	return nil
}

// run starts both parts; stop ends them.
func run(s *Service) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.RunCounter(ctx) })
	wg.Go(func() { _ = s.RunJudge(ctx) })
	return func() {
		cancel()
		wg.Wait()
	}
}

// take returns the alerts since the last call, in short.
func (w *world) take() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []string
	for _, a := range w.raised {
		var n int
		_, after, _ := strings.Cut(a.Description, " was ")
		if _, err := fmt.Sscanf(after, "%d", &n); err != nil {
			panic(err)
		}
		all = append(all, fmt.Sprintf("%s %s %s %d", a.Device, a.Group, strings.TrimSuffix(strings.TrimPrefix(a.Type, "IoT_CA_"), "NotInAllowedRange"), n))
	}
	w.raised = nil
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func rule(name string, least, most int, window string) string {
	return fmt.Sprintf(`{"timeWindowRules":[{"ruleType":"%sNotInAllowedRange","isEnabled":true,"minThreshold":%d,"maxThreshold":%d,"timeWindowSize":%q}]}`, name, least, most, window)
}

// Time in a bubble begins at midnight UTC, 2000-01-01, which is also where windows begin.

func TestService_EveryRule(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-22") // with group.TestEmpty_ListsEveryRuleDisabled and TestCompiled_*, on which it stands
	for _, k := range activity.Kinds() {
		t.Run(k.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, map[string]string{"default": rule(k.String(), 0, 2, "PT5M")}, map[string]string{"loud": "", "calm": "", "other": "lab"})
				stop := run(w.Service)
				defer stop()
				time.Sleep(6 * time.Minute) // into the first whole window, from 5 to 10
				for range 3 {
					w.tally.Add("calm", k, 1)
					w.tally.Add("other", k, 9)
					if !k.Peak() {
						w.tally.Add("loud", k, 1)
						w.tally.Add("calm", k, 0)
					}
				}
				if k.Peak() { // the largest number counts, not the sum
					w.tally.Add("loud", k, 3)
				} else {
					w.mu.Lock()
					w.groups["calm"] = "lab" // a group without rules, at the moment of judging
					w.mu.Unlock()
				}
				time.Sleep(4 * time.Minute)
				if got := w.take(); got != "" {
					t.Errorf("before its end the window raised %s", got)
				}
				time.Sleep(30 * time.Second)
				if got, want := w.take(), "loud default "+k.String()+" 3"; got != want {
					t.Errorf("got %s, want %s", got, want)
				}
				time.Sleep(time.Hour)
				if got := w.take(); got != "" {
					t.Errorf("silence raised %s", got)
				}
			})
		})
	}
}

func TestService_TooFewIsAnAlertToo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, map[string]string{"plant": rule("MqttD2CMessages", 2, 5, "PT1M"), "default": rule("TwinUpdates", 1, 9, "PT1M")},
			map[string]string{"quiet": "plant", "good": "plant", "free": ""})
		stop := run(w.Service)
		defer stop()
		time.Sleep(61 * time.Second)
		w.tally.Add("good", activity.MqttD2CMessages, 2)
		w.tally.Add("quiet", activity.MqttD2CMessages, 1)
		w.tally.Add("free", activity.TwinUpdates, 1)
		time.Sleep(80 * time.Second) // the window from 1 to 2 is judged, no other
		if got, want := w.take(), "quiet plant MqttD2CMessages 1"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		time.Sleep(time.Minute)
		if got, want := w.take(), "free default TwinUpdates 0, good plant MqttD2CMessages 0, quiet plant MqttD2CMessages 0"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestService_WindowsNobodyWatchedAreNotJudged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, map[string]string{"default": rule("TwinUpdates", 1, 9, "PT10M")}, map[string]string{"d": ""})
		stop := run(w.Service)
		time.Sleep(25 * time.Minute)
		if got := w.take(); got != "d default TwinUpdates 0" { // 10 to 20
			t.Errorf("got %q", got)
		}
		stop()
		time.Sleep(time.Minute) // a restart; the window from 20 to 30 goes on
		stop = run(w.service(t))
		time.Sleep(5 * time.Minute)
		if got := w.take(); got != "d default TwinUpdates 0" {
			t.Errorf("after a restart: %q", got)
		}
		stop()
		time.Sleep(3 * time.Hour) // no server ran
		stop = run(w.service(t))
		defer stop()
		time.Sleep(9 * time.Minute)
		if got := w.take(); got != "" {
			t.Errorf("what nobody watched raised %s", got)
		}
	})
}

func TestService_AStoreThatFailsLosesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, map[string]string{"default": rule("QueuePurges", 0, 2, "PT1M")}, map[string]string{"d": ""})
		stop := run(w.Service)
		defer stop()
		time.Sleep(61 * time.Second)
		w.tally.Add("d", activity.QueuePurges, 3)
		w.mu.Lock()
		w.fail = errors.New("the disk is full")
		w.mu.Unlock()
		time.Sleep(5 * time.Minute)
		w.mu.Lock()
		w.fail, w.raised = nil, nil
		w.mu.Unlock()
		time.Sleep(30 * time.Second)
		if got := w.take(); got != "d default QueuePurges 3" {
			t.Errorf("got %q", got)
		}
	})
}

func TestService_AlertsOfAWindowAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		devices := map[string]string{}
		for i := range maxAlerts + 500 {
			devices[fmt.Sprintf("d%05d", i)] = ""
		}
		w := newWorld(t, map[string]string{"default": rule("TwinUpdates", 1, 9, "PT1M")}, devices)
		stop := run(w.Service)
		defer stop()
		time.Sleep(2*time.Minute + 20*time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.raised) != maxAlerts {
			t.Errorf("%d alerts", len(w.raised))
		}
	})
}

package live

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/iot"
)

// memoryLog is a log in memory. It counts its readers.
type memoryLog struct {
	mu      sync.Mutex
	next    uint64
	readers map[chan bus.Entry]struct{}
	opened  int
	broken  error // of the next Follow
}

func (l *memoryLog) Append(_ context.Context, data []byte) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next++
	for r := range l.readers {
		r <- bus.Entry{Sequence: l.next, Data: slices.Clone(data)}
	}
	return l.next, nil
}

func (l *memoryLog) Follow(ctx context.Context, _ bus.Start, ready func(), handle func(bus.Entry) error) error {
	in := make(chan bus.Entry, 4096)
	l.mu.Lock()
	l.opened++
	if err := l.broken; err != nil {
		l.broken = nil
		l.mu.Unlock()
		return err
	}
	if l.readers == nil {
		l.readers = make(map[chan bus.Entry]struct{})
	}
	l.readers[in] = struct{}{}
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.readers, in)
		l.mu.Unlock()
	}()
	ready()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-in:
			if err := handle(e); err != nil {
				return err
			}
			clear(e.Data) // the entry is the reader's only until handle returns
		}
	}
}

func (l *memoryLog) state() (readers, opened int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.readers), l.opened
}

// world is a feed over a log in memory, inside a bubble.
type world struct {
	log    *memoryLog
	feed   *Feed
	intake *telemetry.Intake
}

// bubble runs test with a served feed and stops everything before it returns.
func bubble(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{log: &memoryLog{}}
		w.feed = New(w.log, slog.New(slog.DiscardHandler))
		w.intake = telemetry.NewIntake(w.log, nil)
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := w.feed.Run(ctx); err != nil {
				t.Errorf("Run = %v, want nil", err)
			}
		})
		wg.Go(func() { w.intake.Run(ctx) })
		test(t, w)
		stop()
		wg.Wait()
	})
}

type ignored struct{}

func (ignored) Acked(uint64, error) {}

func (w *world) send(device, module string, body []byte) {
	w.intake.Submit(&iot.Message{Source: iot.Telemetry, From: iot.ID{Device: device, Module: module}, Enqueued: time.Now(), Body: body}, ignored{}, 0)
	synctest.Wait()
}

func (w *world) subscribe(t *testing.T, device string) *Subscription {
	t.Helper()
	s, err := w.feed.Subscribe(t.Context(), device)
	if err != nil {
		t.Fatalf("Subscribe(%q) = %v", device, err)
	}
	return s
}

func bodies(ms []*iot.Message) []string {
	var bs []string
	for _, m := range ms {
		bs = append(bs, m.From.String()+":"+string(m.Body))
	}
	return bs
}

func TestFeed_FiltersByDevice(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		w.send("lamp", "", []byte("before"))
		all, lamp := w.subscribe(t, ""), w.subscribe(t, "lamp")
		w.send("lamp", "", []byte("1"))
		w.send("Lamp", "", []byte("2")) // ids are case-sensitive
		w.send("lamp", "sensor", []byte("3"))
		for name, c := range map[string]struct {
			sub  *Subscription
			want []string
		}{
			"all":  {all, []string{"lamp:1", "Lamp:2", "lamp/sensor:3"}},
			"lamp": {lamp, []string{"lamp:1", "lamp/sensor:3"}},
		} {
			select {
			case <-c.sub.Ready():
			default:
				t.Errorf("%s: not ready though messages wait", name)
			}
			ms, lost := c.sub.Take()
			if got := bodies(ms); !slices.Equal(got, c.want) || lost != 0 {
				t.Errorf("%s: took %q and lost %d, want %q and 0", name, got, lost, c.want)
			}
			if ms, _ := c.sub.Take(); len(ms) != 0 {
				t.Errorf("%s: %d messages were given twice", name, len(ms))
			}
		}
	})
}

// Events of the hub stand on the same log; who watches messages does not see them.
func TestFeed_LeavesEventsOut(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		s := w.subscribe(t, "")
		for _, source := range []iot.MessageSource{iot.TwinChange, iot.Telemetry, iot.DeviceLifecycle, iot.DeviceConnectionState} {
			if _, err := w.log.Append(t.Context(), telemetry.Batch(&iot.Message{Source: source, From: iot.ID{Device: "d"}, Body: []byte(source)})); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if ms, _ := s.Take(); len(ms) != 1 || ms[0].Source != iot.Telemetry {
			t.Errorf("a watcher sees %q, want the message alone", bodies(ms))
		}
		s.Close()
	})
}

func TestFeed_ReadsOnlyWhileWatched(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		w.send("lamp", "", []byte("nobody sees this"))
		if _, opened := w.log.state(); opened != 0 {
			t.Errorf("the log was opened %d times without a subscription, want 0", opened)
		}
		a, b := w.subscribe(t, ""), w.subscribe(t, "")
		if readers, opened := w.log.state(); readers != 1 || opened != 1 {
			t.Errorf("%d readers, opened %d times, for two subscriptions; want one reader for both", readers, opened)
		}
		a.Close()
		a.Close()
		b.Close()
		c := w.subscribe(t, "") // at once, while the old reader still stops
		synctest.Wait()
		w.send("lamp", "", []byte("seen"))
		if ms, _ := c.Take(); len(ms) != 1 {
			t.Errorf("took %d messages after subscribing again, want 1", len(ms))
		}
		c.Close()
		synctest.Wait()
		if readers, _ := w.log.state(); readers != 0 {
			t.Errorf("%d readers are left after the last Close, want 0", readers)
		}
	})
}

func TestSubscription_DropsTheOldest(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		size, sent, kept int
	}{
		"by count": {10, maxQueued + 7, maxQueued},
		"by bytes": {256 << 10, 20, 16},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, w *world) {
				s, quick := w.subscribe(t, ""), w.subscribe(t, "")
				for i := range c.sent {
					body := make([]byte, c.size)
					copy(body, fmt.Sprint(i))
					w.send("lamp", "", body)
					if ms, lost := quick.Take(); len(ms) != 1 || lost != 0 {
						t.Fatalf("a quick reader took %d messages and lost %d, want 1 and 0", len(ms), lost)
					}
				}
				ms, lost := s.Take()
				if len(ms) != c.kept || lost != c.sent-c.kept {
					t.Fatalf("kept %d, lost %d of %d; want %d kept", len(ms), lost, c.sent, c.kept)
				}
				if want := fmt.Sprint(c.sent - c.kept); string(ms[0].Body[:len(want)]) != want {
					t.Errorf("the first kept message is not number %s", want)
				}
				w.send("lamp", "", nil)
				if ms, lost := s.Take(); len(ms) != 1 || lost != 0 {
					t.Errorf("afterwards took %d and lost %d, want 1 and 0", len(ms), lost)
				}
			})
		})
	}
}

func TestFeed_SurvivesAFailingLogAndDamage(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		w.log.broken = errors.New("disk on fire")
		s := w.subscribe(t, "") // waits until the second attempt
		if _, err := w.log.Append(t.Context(), []byte("damaged")); err != nil {
			t.Fatal(err)
		}
		w.send("lamp", "", []byte("1"))
		if ms, _ := s.Take(); len(ms) != 1 {
			t.Errorf("took %d messages after a failure of the log and a damaged entry, want 1", len(ms))
		}
	})
}

func TestFeed_SubscribeRefuses(t *testing.T) {
	t.Parallel()
	t.Run("too many", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(t *testing.T, w *world) {
			first := w.subscribe(t, "")
			for range maxSubscriptions - 1 {
				w.subscribe(t, "")
			}
			if _, err := w.feed.Subscribe(t.Context(), ""); !fault.Is(err, fault.Throttled) {
				t.Errorf("subscription %d: error %v, want fault.Throttled", maxSubscriptions+1, err)
			}
			first.Close()
			w.subscribe(t, "")
		})
	})
	t.Run("without a log", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			f := New(&memoryLog{}, slog.New(slog.DiscardHandler)) // not running
			if _, err := f.Subscribe(t.Context(), ""); !fault.Is(err, fault.Unavailable) {
				t.Errorf("error %v, want fault.Unavailable", err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := f.Subscribe(ctx, ""); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v, want context.Canceled", err)
			}
			if len(f.subs) != 0 {
				t.Errorf("%d refused subscriptions are kept", len(f.subs))
			}
		})
	})
}

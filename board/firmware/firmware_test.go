package firmware_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vauban-iot/vauban/board"
	"github.com/vauban-iot/vauban/board/firmware"
	"github.com/vauban-iot/vauban/rtos"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// rig is a board whose firmware is a few functions, each the entry of a thread.
type rig struct {
	*board.Board
	*firmware.Caller
	trace []string
}

func (r *rig) Event(e rtos.Event) {
	r.trace = append(r.trace, fmt.Sprintf("%d %d %x %v", e.Time, e.ID, e.Thread, e.Info))
}
func (*rig) Created(rtos.ObjectInfo) {}
func (*rig) Deleted(uint32)          {}

func newRig(t *testing.T, cfg board.Config, threads func(k *rtos.Kernel, r *rig) []func()) *rig {
	t.Helper()
	r := &rig{}
	cfg.Name = "rig"
	cfg.Profile = board.Profile{Name: "rig", ClockHz: 80_000_000, TicksPerSecond: 1000, RAM: []board.Memory{{Name: "RAM", Bytes: 1 << 20}}, Flash: 1 << 20}
	cfg.Tracer = r
	b, err := board.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.Board, r.Caller = b, firmware.New(t.Context(), b)
	err = b.Load(board.Firmware{Name: "rig", Define: func(k *rtos.Kernel) {
		for i, f := range threads(k, r) {
			c := rtos.ThreadConfig{Name: fmt.Sprint("thread ", i), Entry: func(uint32) { f() }, Stack: k.Reserve(1024), Priority: uint32(10 + i), Start: rtos.AutoStart}
			if status := k.CreateThread(new(rtos.Thread), c); status != rtos.Success {
				t.Error(status)
			}
		}
	}})
	if err == nil {
		err = b.PowerOn()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return r
}

// run plays the board until done is closed, in its kind of time.
func (r *rig) run(t *testing.T, done <-chan struct{}) error {
	t.Helper()
	if !r.Config().RealTime {
		for range 100_000 {
			select {
			case <-done:
				return nil
			default:
			}
			if err := r.RunFor(10 * time.Millisecond); err != nil {
				return err
			}
		}
		t.Fatal("the firmware does not come to its end")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		select {
		case <-done:
		case <-ctx.Done():
		}
		cancel()
	}()
	err := r.Run(ctx)
	select {
	case <-done:
		if errors.Is(err, context.Canceled) {
			err = nil
		}
	default:
	}
	return err
}

// inBothTimes runs a test with boards in virtual and in real time.
func inBothTimes(t *testing.T, f func(t *testing.T, cfg board.Config)) {
	t.Parallel()
	for name, real := range map[string]bool{"virtual": false, "real": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, board.Config{RealTime: real, Seed: 7})
		})
	}
}

func TestAwait_GivesTheAnswer(t *testing.T) {
	inBothTimes(t, func(t *testing.T, cfg board.Config) {
		want, done := errors.New("no"), make(chan struct{})
		var answers []error
		r := newRig(t, cfg, func(k *rtos.Kernel, r *rig) []func() {
			return []func(){func() {
				for i := range 3 {
					answers = append(answers, r.Await(time.Millisecond, func(context.Context) error {
						if i == 1 {
							return want
						}
						return nil
					}))
				}
				close(done)
			}}
		})
		if err := r.run(t, done); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(answers, []error{nil, want, nil}) {
			t.Errorf("got %v", answers)
		}
	})
}

// In real time the other threads go on: the call waits for one of them.
func TestAwait_OthersGoOn(t *testing.T) {
	t.Parallel()
	open, done := make(chan struct{}), make(chan struct{})
	r := newRig(t, board.Config{RealTime: true}, func(k *rtos.Kernel, r *rig) []func() {
		return []func(){
			func() {
				r.Await(0, func(context.Context) error { <-open; return nil })
				close(done)
			},
			func() {
				k.Sleep(2)
				close(open)
			},
		}
	})
	if err := r.run(t, done); err != nil {
		t.Fatal(err)
	}
}

// In virtual time the clock stands still during the call, and a latency of the seed's passes after it, in which others go on.
func TestAwait_VirtualLatency(t *testing.T) {
	t.Parallel()
	play := func(seed uint64, slow time.Duration) (*rig, []time.Duration) {
		var took []time.Duration
		ticks, done := 0, make(chan struct{})
		r := newRig(t, board.Config{Seed: seed}, func(k *rtos.Kernel, r *rig) []func() {
			return []func(){
				func() {
					for range 50 {
						before := r.Uptime()
						var during time.Duration
						r.Await(100*time.Millisecond, func(context.Context) error {
							time.Sleep(slow)
							during = r.Uptime()
							return nil
						})
						if during != before {
							t.Errorf("the clock went on by %v during the call", during-before)
						}
						took = append(took, r.Uptime()-before)
					}
					close(done)
				},
				func() {
					for {
						k.Sleep(1)
						ticks++
					}
				},
			}
		})
		if err := r.run(t, done); err != nil {
			t.Fatal(err)
		}
		if ticks < 50*50 {
			t.Errorf("the other thread ran %d times meanwhile", ticks)
		}
		return r, took
	}
	a, took := play(1, 0)
	for _, d := range took {
		if d < 50*time.Millisecond || d > 152*time.Millisecond {
			t.Errorf("a call took %v, typical are 100 ms", d)
		}
	}
	if slices.Min(took) > 70*time.Millisecond || slices.Max(took) < 130*time.Millisecond {
		t.Errorf("latencies between %v and %v: they hardly differ", slices.Min(took), slices.Max(took))
	}
	b, _ := play(1, time.Millisecond)
	n := min(len(a.trace), len(b.trace))
	if n < 1000 || !slices.Equal(a.trace[:n], b.trace[:n]) {
		t.Errorf("the same seed and answers gave another run (%d events)", n)
	}
	if c, other := play(2, 0); slices.Equal(took, other) || slices.Equal(a.trace[:n], c.trace[:n]) {
		t.Error("another seed gave the same latencies")
	}
}

// A panic in a call is the firmware's crash.
func TestAwait_Panic(t *testing.T) {
	inBothTimes(t, func(t *testing.T, cfg board.Config) {
		r := newRig(t, cfg, func(k *rtos.Kernel, r *rig) []func() {
			return []func(){func() {
				r.Await(0, func(context.Context) error { panic("out of paper") })
			}}
		})
		err := r.run(t, make(chan struct{}))
		crash, ok := errors.AsType[*board.CrashError](err)
		if !ok || crash.Report.Thread != "thread 0" || !strings.HasPrefix(crash.Report.Value, "out of paper") {
			t.Fatalf("got %v", err)
		}
	})
}

func TestAwait_OnlyThreads(t *testing.T) {
	t.Parallel()
	b, err := board.New(board.Config{Name: "rig", Profile: board.Profile{Name: "rig", ClockHz: 1_000_000, RAM: []board.Memory{{Name: "RAM", Bytes: 1 << 20}}, Flash: 1}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if recover() == nil {
			t.Error("a call outside of a thread was taken")
		}
	}()
	firmware.New(t.Context(), b).Await(0, func(context.Context) error { return nil })
}

// A wait that another thread aborts ends the call.
func TestAwait_Aborted(t *testing.T) {
	t.Parallel()
	done := make(chan struct{})
	var ended atomic.Bool
	var first, second error
	r := newRig(t, board.Config{RealTime: true}, func(k *rtos.Kernel, r *rig) []func() {
		var waiting *rtos.Thread
		return []func(){
			func() {
				waiting = k.Identify()
				first = r.Await(0, func(ctx context.Context) error {
					<-ctx.Done()
					ended.Store(true)
					return ctx.Err()
				})
				second = r.Await(0, func(context.Context) error { return nil })
				close(done)
			},
			func() {
				for waiting.WaitAbort() != rtos.Success {
					k.Sleep(1)
				}
			},
		}
	})
	if err := r.run(t, done); err != nil {
		t.Fatal(err)
	}
	if first == nil || !ended.Load() || second != nil {
		t.Errorf("the aborted call: %v (ended %v), the next one: %v", first, ended.Load(), second)
	}
}

// When the context of the whole firmware ends, so do its calls.
func TestAwait_ContextEnds(t *testing.T) {
	inBothTimes(t, func(t *testing.T, cfg board.Config) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		done := make(chan struct{})
		var got error
		r := newRig(t, cfg, func(k *rtos.Kernel, r *rig) []func() {
			return []func(){func() {
				got = firmware.New(ctx, r.Board).Await(0, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
				close(done)
			}}
		})
		if err := r.run(t, done); err != nil {
			t.Fatal(err)
		}
		if !errors.Is(got, context.Canceled) {
			t.Errorf("got %v", got)
		}
	})
}

// What a firmware has open when its board is reset is closed, a thousand times over; so is what it waits for; TestMain finds goroutines.
func TestAwait_Resets(t *testing.T) {
	inBothTimes(t, func(t *testing.T, cfg board.Config) {
		const resets = 1000
		done := make(chan struct{})
		var open, opened, calls atomic.Int64
		r := newRig(t, cfg, func(k *rtos.Kernel, r *rig) []func() {
			use := func() {
				defer open.Add(-1)
				r.Await(0, func(context.Context) error {
					open.Add(1)
					opened.Add(1)
					return nil
				})
				if r.Config().RealTime {
					r.Await(0, func(ctx context.Context) error {
						calls.Add(1)
						defer calls.Add(-1)
						<-ctx.Done()
						return ctx.Err()
					})
				}
				k.Sleep(rtos.WaitForever)
			}
			return []func(){use, use, func() {
				k.Sleep(2)
				if r.Resets(board.SoftwareReset) == resets {
					close(done)
					k.Sleep(rtos.WaitForever)
				}
				r.Reset(board.SoftwareReset)
			}}
		})
		if err := r.run(t, done); err != nil {
			t.Fatal(err)
		}
		r.Close()
		if open.Load() != 0 || calls.Load() != 0 || opened.Load() < resets {
			t.Errorf("%d of %d are still open, %d calls are still under way", open.Load(), opened.Load(), calls.Load())
		}
	})
}

func TestInbox(t *testing.T) {
	inBothTimes(t, func(t *testing.T, cfg board.Config) {
		var inbox *firmware.Inbox[int]
		var got []int
		done := make(chan struct{})
		r := newRig(t, cfg, func(k *rtos.Kernel, r *rig) []func() {
			inbox = firmware.NewInbox[int](k, "inbox", 3)
			return []func(){func() {
				if _, ok := inbox.Get(rtos.NoWait); ok {
					t.Error("something was there before anything was put")
				}
				k.Sleep(2) // what is put while the board is not looking waits
				for range 4 {
					v, ok := inbox.Get(rtos.WaitForever)
					if !ok {
						t.Error("nothing came")
					}
					got = append(got, v)
				}
				close(done)
			}}
		})
		if cfg.RealTime { // its thread begins with Run
			go func() {
				for i := range 4 {
					for inbox.Put(i) != nil {
						time.Sleep(time.Millisecond)
					}
				}
			}()
		} else {
			if err := r.RunFor(time.Millisecond); err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				if err := inbox.Put(i); err != nil {
					t.Error(err)
				}
			}
			if err := inbox.Put(3); !errors.Is(err, firmware.ErrFull) {
				t.Errorf("a full inbox took one more: %v", err)
			}
			if err := r.RunFor(10 * time.Millisecond); err != nil {
				t.Fatal(err)
			}
			if err := inbox.Put(3); err != nil {
				t.Error(err)
			}
		}
		if err := r.run(t, done); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, []int{0, 1, 2, 3}) {
			t.Errorf("got %v", got)
		}
	})
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	b := firmware.Backoff{Least: 3 * time.Second, Most: 10 * time.Minute, Jitter: 0.6, Seed: 1}
	for round := range 2 {
		for i, base := range []time.Duration{3, 6, 12, 24, 48, 96, 192, 384, 600, 600, 600} {
			base *= time.Second
			if d := b.Next(); d < base || d > base*8/5 {
				t.Errorf("round %d, failure %d: %v, want %v and up to 60 %% more", round, i, d, base)
			}
		}
		b.Reset()
	}
	other := firmware.Backoff{Least: 3 * time.Second, Most: 10 * time.Minute, Jitter: 0.6, Seed: 2}
	if b.Next() == other.Next() {
		t.Error("two boards wait equally long")
	}
	never := firmware.Backoff{Least: time.Second, Most: time.Second}
	for range 100 {
		if d := never.Next(); d != time.Second {
			t.Errorf("%v", d)
		}
	}
}

func TestTicks(t *testing.T) {
	t.Parallel()
	k, err := rtos.New(rtos.Config{TicksPerSecond: 100})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	for d, want := range map[time.Duration]uint32{0: 1, -time.Second: 1, time.Nanosecond: 1, 10 * time.Millisecond: 1, 11 * time.Millisecond: 2, time.Second: 100, 1 << 62: rtos.WaitForever - 1} {
		if got := firmware.Ticks(k, d); got != want {
			t.Errorf("%v is %d ticks, want %d", d, got, want)
		}
	}
}

package telemetry

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/iot"
)

// disk is a log that takes its time.
type disk struct {
	slow time.Duration

	mu      sync.Mutex
	entries [][]byte
	fail    error
	busy    int // appends under way
	most    int
}

func (d *disk) Append(ctx context.Context, data []byte) (uint64, error) {
	d.mu.Lock()
	d.busy++
	d.most = max(d.most, d.busy)
	d.mu.Unlock()
	select {
	case <-time.After(d.slow):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.busy--
	if d.fail != nil {
		return 0, d.fail
	}
	d.entries = append(d.entries, slices.Clone(data))
	return uint64(len(d.entries)), nil
}

func (d *disk) setFail(err error) {
	d.mu.Lock()
	d.fail = err
	d.mu.Unlock()
}

// messages returns what is on the disk.
func (d *disk) messages(t testing.TB) (all []iot.Message, perEntry []int) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, e := range d.entries {
		ms := decode(t, uint64(i+1), e)
		all = append(all, ms...)
		perEntry = append(perEntry, len(ms))
	}
	return all, perEntry
}

// acks remembers what became of each message, and when.
type acks struct {
	mu     sync.Mutex
	tokens []uint64
	errs   []error
	at     []time.Time
}

func (a *acks) Acked(token uint64, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tokens, a.errs, a.at = append(a.tokens, token), append(a.errs, err), append(a.at, time.Now())
}

func (a *acks) failed() (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, err := range a.errs {
		if err != nil {
			n++
		}
	}
	return n
}

// run starts an intake in a bubble; stop ends it and waits.
func run(t *testing.T, d *disk) (in *Intake, stop func()) {
	t.Helper()
	in = NewIntake(d, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- in.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return in, stop
}

func body(i int) *iot.Message {
	return &iot.Message{Body: fmt.Append(nil, i), Enqueued: time.Unix(0, 0)}
}

// An idle hub writes at once; while the disk is busy, what comes is gathered into the next append.
func TestIntake_BatchesGrowWithTheLoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{slow: 10 * time.Millisecond}
		in, _ := run(t, d)
		var a acks
		begin := time.Now()
		in.Submit(body(0), &a, 0)
		synctest.Wait()
		for i := 1; i <= 1000; i++ { // a message every 10 µs: all while the first is being written
			in.Submit(body(i), &a, uint64(i))
			time.Sleep(5 * time.Microsecond)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		ms, per := d.messages(t)
		if fmt.Sprint(per) != "[1 1000]" {
			t.Errorf("appends of %v messages, want [1 1000]", per)
		}
		for i, m := range ms {
			if string(m.Body) != fmt.Sprint(i) {
				t.Fatalf("message %d holds %q", i, m.Body)
			}
		}
		if at := a.at[0].Sub(begin); at != 10*time.Millisecond {
			t.Errorf("a single message waited %v, want no more than the disk's 10 ms", at)
		}
		if at := a.at[1000].Sub(begin); at != 20*time.Millisecond {
			t.Errorf("the last message waited until %v, want 20 ms", at)
		}
		if len(a.tokens) != 1001 || !slices.IsSorted(a.tokens) || a.failed() != 0 {
			t.Errorf("%d acks, sorted %v, %d failed", len(a.tokens), slices.IsSorted(a.tokens), a.failed())
		}
		if d.most != 1 {
			t.Errorf("%d appends at once would lose the order", d.most)
		}
	})
}

func TestIntake_BatchesAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{slow: time.Second}
		in, _ := run(t, d)
		var a acks
		in.Submit(body(0), &a, 0)
		synctest.Wait()
		for i := range 2*maxBatchMessages + 5 {
			in.Submit(body(i), &a, uint64(i))
		}
		big := &iot.Message{Body: make([]byte, 256<<10)}
		for i := range 10 {
			in.Submit(big, &a, uint64(i))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		d.mu.Lock()
		for i, e := range d.entries {
			if len(e) > maxBatchBytes+257<<10 {
				t.Errorf("append %d has %d bytes", i, len(e))
			}
		}
		d.mu.Unlock()
		ms, per := d.messages(t)
		if slices.Max(per) > maxBatchMessages || len(ms) != 2*maxBatchMessages+16 {
			t.Errorf("%d messages in appends of %v", len(ms), per)
		}
	})
}

// A failure reaches everyone whose message was in the append, and nobody else.
func TestIntake_FailureReachesEveryAcker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{slow: 10 * time.Millisecond}
		in, _ := run(t, d)
		var before, during, after acks
		in.Submit(body(1), &before, 1)
		time.Sleep(20 * time.Millisecond)
		broken := fault.New(fault.Unavailable, "the disk is full")
		d.setFail(broken)
		for i := range 50 {
			in.Submit(body(i), &during, uint64(i))
		}
		time.Sleep(time.Second)
		d.setFail(nil)
		in.Submit(body(2), &after, 2)
		time.Sleep(time.Second)
		synctest.Wait()
		if before.failed() != 0 || after.failed() != 0 || len(after.tokens) != 1 {
			t.Errorf("%d and %d others failed", before.failed(), after.failed())
		}
		if len(during.tokens) != 50 || during.failed() != 50 || !errors.Is(during.errs[7], broken) {
			t.Errorf("%d of %d acks failed, want 50 of 50; %v", during.failed(), len(during.tokens), during.errs[7])
		}
		if ms, _ := d.messages(t); len(ms) != 2 {
			t.Errorf("%d messages on the disk, want 2", len(ms))
		}
	})
}

// A stop writes what was accepted, even what the disk is slow with, and refuses what comes later.
func TestIntake_StopDrains(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{slow: 3 * time.Second}
		in, stop := run(t, d)
		var a, late acks
		for i := range 3 {
			in.Submit(body(i), &a, uint64(i))
			synctest.Wait()
		}
		stop()
		if ms, _ := d.messages(t); len(ms) != 3 || len(a.tokens) != 3 || a.failed() != 0 {
			t.Errorf("%d messages written, %d acks, %d failed; want 3, 3, 0", len(ms), len(a.tokens), a.failed())
		}
		in.Submit(body(9), &late, 9)
		if late.failed() != 1 || !fault.Is(late.errs[0], fault.Unavailable) {
			t.Errorf("after the stop: %v, want unavailable", late.errs)
		}
	})
}

// Full means refused, at once and only while it is full.
func TestIntake_Throttles(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{slow: time.Minute}
		in, _ := run(t, d)
		var a, refused acks
		big := &iot.Message{Body: make([]byte, 256<<10)}
		n := 0
		for ; refused.failed() == 0 && n < 1000; n++ {
			in.mu.Lock()
			full := in.bytes > maxWaitingBytes
			in.mu.Unlock()
			if full {
				in.Submit(big, &refused, 0)
			} else {
				in.Submit(big, &a, uint64(n))
			}
		}
		if n < 60 || n > 70 || !fault.Is(refused.errs[0], fault.Throttled) {
			t.Errorf("message %d of 256 KiB was refused (%v), want about the 65th as throttled", n, refused.errs)
		}
		time.Sleep(30 * time.Minute)
		var again acks
		in.Submit(big, &again, 0)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if a.failed() != 0 || again.failed() != 0 || len(again.tokens) != 1 {
			t.Errorf("%d accepted messages failed; later %v", a.failed(), again.errs)
		}
	})
}

// m is copied: the caller uses it again at once.
func TestIntake_CopiesTheMessage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{slow: time.Second}
		in, stop := run(t, d)
		var a acks
		m := &iot.Message{Body: []byte("aaaa")}
		for _, c := range "bcd" {
			in.Submit(m, &a, 0)
			copy(m.Body, strings.Repeat(string(c), 4))
		}
		stop()
		ms, _ := d.messages(t)
		var got []string
		for _, m := range ms {
			got = append(got, string(m.Body))
		}
		if fmt.Sprint(got) != "[aaaa bbbb cccc]" {
			t.Errorf("got %v", got)
		}
	})
}

func TestIntake_Reports(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{}
		var lines []string
		in := NewIntake(d, func(messages, bytes int, err error) {
			lines = append(lines, fmt.Sprintf("%d %v %v", messages, bytes > 10*messages, err))
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		var a acks
		in.Submit(body(1), &a, 1)
		in.Submit(body(2), &a, 2)
		go func() { done <- in.Run(ctx) }()
		synctest.Wait()
		d.setFail(errors.New("broken"))
		in.Submit(body(3), &a, 3)
		synctest.Wait()
		cancel()
		<-done
		if got := strings.Join(lines, "; "); got != "2 true <nil>; 1 true broken" {
			t.Errorf("got %s", got)
		}
	})
}

// Many connections at once: every one keeps its order, and nothing is lost or doubled.
func TestIntake_Concurrent(t *testing.T) {
	t.Parallel()
	d := &disk{slow: 100 * time.Microsecond}
	in, stop := run(t, d)
	const conns, each = 16, 500
	var a acks
	var wg sync.WaitGroup
	for c := range conns {
		wg.Go(func() {
			for i := range each {
				in.Submit(&iot.Message{From: iot.ID{Device: fmt.Sprint(c)}, Body: fmt.Append(nil, i)}, &a, 0)
				if i%50 == 0 {
					runtime.Gosched()
				}
			}
		})
	}
	wg.Wait()
	stop()
	next := map[string]int{}
	ms, _ := d.messages(t)
	for _, m := range ms {
		if want := fmt.Sprint(next[m.From.Device]); string(m.Body) != want {
			t.Fatalf("connection %s: got %q, want %s", m.From.Device, m.Body, want)
		}
		next[m.From.Device]++
	}
	if len(ms) != conns*each || len(a.tokens) != conns*each || a.failed() != 0 {
		t.Errorf("%d messages, %d acks, %d failed; want %d", len(ms), len(a.tokens), a.failed(), conns*each)
	}
}

type count struct{ n atomic.Int64 }

func (c *count) Acked(uint64, error) { c.n.Add(1) }

type nowhere struct{}

func (nowhere) Append(context.Context, []byte) (uint64, error) { return 1, nil }

// BenchmarkSubmit is the hot path of a message without the disk: 256 B with two properties.
func BenchmarkSubmit(b *testing.B) {
	in := NewIntake(nowhere{}, nil)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- in.Run(ctx) }()
	m := sample(0)
	m.Body = make([]byte, 256)
	var c count
	b.ReportAllocs()
	b.SetBytes(256)
	n := int64(0)
	for b.Loop() {
		in.Submit(&m, &c, 0)
		if n++; n%1000 == 0 {
			for n-c.n.Load() > 20000 { // as heads do: never more than the intake takes
				runtime.Gosched()
			}
		}
	}
	cancel()
	<-done
}

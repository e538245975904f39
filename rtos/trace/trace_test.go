package trace

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/rtos"
)

// board starts a kernel, and plays it until its threads stop it.
func board(t testing.TB, cfg rtos.Config, define func(k *rtos.Kernel)) {
	t.Helper()
	k, err := rtos.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if err := k.Start(define); err != nil {
		t.Fatal(err)
	}
	run := func() error { return k.RunFor(time.Hour) }
	if cfg.RealTime {
		run = func() error { return k.Run(t.Context()) }
	}
	if err := run(); !errors.Is(err, rtos.ErrStopped) {
		t.Fatal(err)
	}
}

func thread(k *rtos.Kernel, t *rtos.Thread, name string, priority uint32, entry func()) {
	k.CreateThread(t, rtos.ThreadConfig{Name: name, Stack: k.Reserve(1024), Priority: priority, Start: rtos.AutoStart, Entry: func(uint32) { entry() }})
}

func TestRecorder_WritesWhatTraceXReads(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "RTOS-30")
	for _, order := range []Order{binary.LittleEndian, binary.BigEndian} {
		t.Run(order.String(), func(t *testing.T) {
			var r *Recorder
			var area rtos.Region
			var s rtos.Semaphore
			var worker rtos.Thread
			var stamp rtos.Cycles
			board(t, rtos.Config{MaxPriorities: 1024}, func(k *rtos.Kernel) {
				r = NewRecorder(k, order)
				area = k.Reserve(HeaderSize + 6*EntrySize + 10*EventSize + 7) // what is left over is not used
				k.CreateSemaphore(&s, "a name that is longer than the room there is for it", 3)
				if got := r.Enable(area, 6); got != rtos.Success {
					t.Error(got)
				}
				thread(k, &worker, "worker", 700, func() {
					s.Get(5)
					stamp = k.Now()
					k.Interrupt(func() { r.ISREnter(9) })
					r.UserEvent(5000, 1, 2, 3, 4)
					r.Disable()
					k.Stop()
				})
			})
			b := r.Bytes()
			u32 := func(at int) uint32 { return order.Uint32(b[at:]) }
			base := area.Start
			start := uint32(HeaderSize + 6*EntrySize)
			size := start + 10*EventSize
			if len(b) != int(size) {
				t.Fatalf("%d bytes", len(b))
			}
			// What happened since Enable: 2 x running, thread create, resume; running, get, ISR enter, numbered ISR enter, ISR exit, user event: 10, so it wrapped.
			for at, want := range map[int]uint32{
				0: 0x54585442, 4: 0xFFFFFFFF, 8: base, 12: base + 48, 20: base + start, 24: base + start, 28: base + size, 32: base + start,
				36: 0xAAAAAAAA, 40: 0xBBBBBBBB, 44: 0xCCCCCCCC,
			} {
				if got := u32(at); got != want {
					t.Errorf("header offset %d: %#x, want %#x", at, got, want)
				}
			}
			if reserved, name := order.Uint16(b[16:]), order.Uint16(b[18:]); reserved != 0 || name != 32 {
				t.Errorf("name size: %d %d", reserved, name)
			}
			entry := func(i int) []byte { return b[48+48*i : 96+48*i] }
			// The timer thread, the semaphore, the worker; the rest is free.
			if e := entry(1); e[0] != 0 || e[1] != 4 || e[2] != 0 || e[3] != 0 || order.Uint32(e[4:]) != s.Address() || string(e[16:]) != "a name that is longer than the r\x00"[:31]+"\x00" {
				t.Errorf("semaphore: % x %q", e[:16], e[16:])
			}
			if e := entry(2); e[0] != 0 || e[1] != 1 || e[2] != 0x80|700>>8 || e[3] != 700&0xFF || order.Uint32(e[4:]) != worker.Address() || order.Uint32(e[12:]) != 1024 {
				t.Errorf("worker: % x", e[:16])
			}
			if e := entry(3); e[0] != 1 || slices.Max(e[1:]) != 0 {
				t.Errorf("a free entry: % x", e)
			}
			event := func(i int) (w [8]uint32) {
				for j := range w {
					w[j] = u32(int(start) + 32*i + 4*j)
				}
				return w
			}
			if e := event(0); e[0] != 0xF0F0F0F0 || e[1] != 0 || e[2] != 6 || e != event(1) {
				t.Errorf("running: %x", e)
			}
			if e := event(2); e[2] != 100 || e[4] != worker.Address() || e[5] != 700 || e[7] != 1024 {
				t.Errorf("thread create: %x", e)
			}
			if e := event(5); e[0] != worker.Address() || e[1] != 0x80000000|700<<16|700 || e[2] != 83 || e[3] != uint32(stamp) || e[4] != s.Address() || e[5] != 5 || e[6] != 3 {
				t.Errorf("semaphore get: %x", e)
			}
			if e := event(7); e[0] != 0xFFFFFFFF || e[1] != worker.Address() || e[2] != 3 || e[5] != 9 || e[6] != 1 {
				t.Errorf("ISR enter: %x", e)
			}
			if e := event(9); e[2] != 5000 || [4]uint32(e[4:]) != [4]uint32{1, 2, 3, 4} {
				t.Errorf("user event: %x", e)
			}
			// The reader says the same.
			tr, err := Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			if tr.Order != order || tr.Free != 0 || len(tr.Objects) != 3 || len(tr.Events) != 10 {
				t.Fatalf("%v, %d free, %d objects, %d events", tr.Order, tr.Free, len(tr.Objects), len(tr.Events))
			}
			if o := tr.Objects[2]; o.Name != "worker" || o.Priority != 700 || o.Kind != rtos.KindThread || o.Address != worker.Address() || o.Deleted {
				t.Errorf("%+v", o)
			}
			if e := tr.Events[9]; e.ID != 5000 || e.Info != [4]uint32{1, 2, 3, 4} || e.Thread != worker.Address() {
				t.Errorf("%+v", e)
			}
		})
	}
}

// S74: sixteen registry entries, forty times around the ring; the statuses of what may not be done.
func TestRecorder_TraceBasic(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		cfg  rtos.Config
		item string // of the register, with the other scenarios
	}{
		{"all windows", rtos.Config{Windows: rtos.AllWindows}, "RTOS-31"},
		{"not interruptable", rtos.Config{Windows: rtos.NotInterruptableWindows}, "RTOS-31"},
		{"real time", rtos.Config{Windows: rtos.AllWindows, RealTime: true}, "RTOS-32"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			conform.Covers(t, c.item)
			traceBasic(t, c.cfg)
		})
	}
}

func traceBasic(t *testing.T, cfg rtos.Config) {
	var files [][]byte
	var r *Recorder
	want := func(want, got rtos.Status) {
		t.Helper()
		if got != want {
			t.Errorf("%v, want %v", got, want)
		}
	}
	var names rtos.Semaphore
	board(t, cfg, func(k *rtos.Kernel) {
		r = NewRecorder(k, nil)
		area := k.Reserve(HeaderSize + 16*EntrySize + 64*EventSize)
		want(rtos.NotDone, r.UserEvent(4096, 1, 2, 3, 4))
		want(rtos.NotDone, r.Disable())
		want(rtos.SizeError, r.Enable(rtos.Region{Start: area.Start, Size: HeaderSize + 16*EntrySize + EventSize - 1}, 16))
		want(rtos.SizeError, r.Enable(area, 0xFFFFFFFF))
		want(rtos.SizeError, r.Enable(rtos.Region{}, 0))
		if r.Bytes() != nil {
			t.Error("a trace without Enable")
		}
		want(rtos.Success, r.Enable(area, 16))
		want(rtos.NotDone, r.Enable(area, 16))
		want(rtos.SizeError, r.Enable(rtos.Region{Start: 1, Size: 10}, 16)) // looked at first
		var t0, t1 rtos.Thread
		thread(k, &t1, "thread 1", 16, func() {
			for {
				k.Relinquish()
			}
		})
		thread(k, &t0, "thread 0", 16, func() {
			// More objects than entries: the oldest deleted ones go.
			ss := make([]rtos.Semaphore, 16)
			for i := range ss {
				want(rtos.Success, k.CreateSemaphore(&ss[i], fmt.Sprintf("semaphore %d", i+1), 1))
			}
			for i := range ss {
				want(rtos.Success, ss[i].Delete())
			}
			want(rtos.Success, k.CreateSemaphore(&names, "named", 1))
			want(rtos.Success, r.Filter(AllEvents))
			before := r.Wraps()
			for range 200 {
				k.Relinquish()
			}
			if r.Wraps() != before {
				t.Error("filtered events are kept")
			}
			want(rtos.Success, r.UserEvent(4100, 1, 0, 0, 0))
			want(rtos.Success, r.Filter(UserEvents))
			want(rtos.Success, r.Unfilter(ThreadEvents))
			want(rtos.Success, r.FullNotify(func(b []byte) { files = append(files, slices.Clone(b)) }))
			for len(files) < 40 {
				k.Relinquish()
				r.UserEvent(4101, 0, 0, 0, 0)
			}
			want(rtos.Success, r.FullNotify(nil))
			want(rtos.Success, r.Disable())
			want(rtos.NotDone, r.Disable())
			want(rtos.NotDone, r.UserEvent(4096, 0, 0, 0, 0))
			k.Stop()
		})
	})
	// A board without tracing.
	var none *Recorder
	want(rtos.FeatureNotEnabled, none.Enable(rtos.Region{Start: 1, Size: 1 << 20}, 16))
	want(rtos.FeatureNotEnabled, none.Disable())
	want(rtos.FeatureNotEnabled, none.Filter(0))
	want(rtos.FeatureNotEnabled, none.Unfilter(0))
	want(rtos.FeatureNotEnabled, none.UserEvent(4096, 0, 0, 0, 0))
	want(rtos.FeatureNotEnabled, none.FullNotify(nil))
	none.ISREnter(1)

	var last rtos.Cycles
	for i, f := range files {
		tr, err := Parse(f)
		if err != nil {
			t.Fatal(err)
		}
		if len(tr.Events) != 64 || len(tr.Objects) != 16 {
			t.Fatalf("file %d: %d events, %d objects", i, len(tr.Events), len(tr.Objects))
		}
		if first := rtos.Cycles(tr.Events[0].Stamp); i > 0 && (first < last || first == last && !cfg.RealTime) {
			t.Errorf("file %d does not follow the one before", i)
		}
		last = rtos.Cycles(tr.Events[63].Stamp)
		for _, e := range tr.Events {
			if i > 0 && e.ID != rtos.EventThreadRelinquish {
				t.Fatalf("file %d: %s is filtered", i, EventWord(e.ID))
			}
		}
		found := false
		for _, o := range tr.Objects {
			found = found || o.Name == "named" && !o.Deleted && o.Address == names.Address()
		}
		if !found {
			t.Fatalf("file %d does not know the object that was created last: %+v", i, tr.Objects)
		}
	}
}

// scenario is a board with threads, interrupts at drawn times and everything else that happens; it answers its .trx file and its drawing.
func scenario(t testing.TB, seed uint64) (trx, drawn []byte) {
	random := rand.New(rand.NewPCG(seed, 7))
	var s rtos.Semaphore
	var m rtos.Mutex
	var q rtos.Queue
	var tick rtos.Timer
	k, err := rtos.New(rtos.Config{Seed: seed, Windows: rtos.AllWindows})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	r := NewRecorder(k, nil)
	if err := k.Start(func(k *rtos.Kernel) {
		k.CreateSemaphore(&s, "data", 0)
		k.CreateMutex(&m, "bus", rtos.Inherit)
		k.CreateQueue(&q, "mail", 1, make([]byte, 16))
		k.CreateTimer(&tick, "beat", func(uint32) { q.Send([]uint32{1}, rtos.NoWait) }, 0, 2, 3, rtos.AutoActivate)
		if got := r.Enable(k.Reserve(1<<16), 12); got != rtos.Success {
			t.Fatal(got)
		}
		for i := range uint32(3) {
			own := rand.New(rand.NewPCG(seed, uint64(i)+10))
			thread(k, new(rtos.Thread), fmt.Sprintf("worker \"%d\"", i), 10+i, func() {
				for {
					switch own.IntN(4) {
					case 0:
						s.Get(3)
					case 1:
						if m.Get(2) == rtos.Success {
							k.Compute(rtos.Cycles(own.IntN(900_000)))
							m.Put()
						}
					case 2:
						q.Receive(make([]uint32, 1), 4)
					case 3:
						k.Sleep(1 + own.Uint32N(3))
						r.UserEvent(5000+rtos.EventID(i), i, 0, 0, 0)
					}
				}
			})
		}
		var isr func()
		isr = func() {
			s.Put()
			k.At(k.Now()+1+rtos.Cycles(random.IntN(2_000_000)), isr)
		}
		k.At(0, isr)
	}); err != nil {
		t.Fatal(err)
	}
	if err := k.RunFor(2 * time.Second); err != nil {
		t.Fatal(err)
	}
	trx = r.Bytes()
	tr, err := Parse(trx)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := tr.Chrome(&b, "lamp", 80_000_000); err != nil {
		t.Fatal(err)
	}
	return trx, b.Bytes()
}

// Not parallel: it changes how many processors there are.
func TestTrace_SameSeedSameBytes(t *testing.T) {
	conform.Covers(t, "RTOS-33")
	trx, drawn := scenario(t, 42)
	if other, _ := scenario(t, 43); bytes.Equal(trx, other) {
		t.Error("another seed makes no difference")
	}
	for _, procs := range []int{1, 2} {
		before := runtime.GOMAXPROCS(procs)
		gotTrx, gotDrawn := scenario(t, 42)
		runtime.GOMAXPROCS(before)
		if !bytes.Equal(trx, gotTrx) || !bytes.Equal(drawn, gotDrawn) {
			t.Errorf("with GOMAXPROCS %d the files differ", procs)
		}
	}
	// What another machine wrote, as a sum of its bytes.
	if got := checksum(trx); got != scenarioSum {
		t.Errorf("the trace's checksum is %#x, it was %#x: a change of the kernel changes it, another machine may not", got, scenarioSum)
	}
}

const scenarioSum = 0x4d666d6cbbb69a92

func checksum(b []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

func TestChrome_TracksAndStretches(t *testing.T) {
	t.Parallel()
	_, drawn := scenario(t, 42)
	var doc struct {
		TraceEvents []struct {
			Name  string
			Phase string `json:"ph"`
			TID   int
			TS    float64
			Dur   float64
			Cat   string
			Args  map[string]any
		}
	}
	if err := json.Unmarshal(drawn, &doc); err != nil {
		t.Fatal(err)
	}
	tracks := map[int]string{}
	ran := map[string]float64{}
	ends, depth, seen := 0.0, 0, map[string]int{}
	for _, e := range doc.TraceEvents {
		seen[e.Phase+" "+e.Name]++
		switch e.Phase {
		case "M":
			if e.Name == "thread_name" {
				tracks[e.TID] = e.Args["name"].(string)
			}
		case "X":
			if e.TS < ends-0.0015 { // to the nanosecond, twice rounded
				t.Fatalf("%s begins to run at %f, another until %f", tracks[e.TID], e.TS, ends)
			}
			ends = e.TS + e.Dur
			ran[tracks[e.TID]] += e.Dur
		case "B":
			depth++
		case "E":
			depth--
		case "i":
			if user := strings.HasPrefix(e.Name, "user "); user != (e.Cat == "user") {
				t.Fatalf("%+v", e)
			}
			if e.Name == "mutex get" && e.Args["mutex"] != "bus" || e.Name == "suspend" && !strings.HasPrefix(e.Args["state"].(string), "TX_") {
				t.Fatalf("%+v", e)
			}
		}
	}
	if depth != 0 {
		t.Errorf("%d interrupts do not end", depth)
	}
	for _, name := range []string{`worker "0"`, `worker "1"`, `worker "2"`} {
		if ran[name] == 0 {
			t.Errorf("%s never ran: %v", name, ran)
		}
	}
	for _, want := range []string{"B interrupt", "i semaphore put", "i queue send", "i sleep", "i user 5001"} {
		if seen[want] == 0 {
			t.Errorf("no %q in %v", want, seen)
		}
	}
	if err := new(Trace).Chrome(&bytes.Buffer{}, "x", 0); err == nil {
		t.Error("a clock of 0 Hz")
	}
}

func small(t testing.TB) []byte {
	var r *Recorder
	board(t, rtos.Config{}, func(k *rtos.Kernel) {
		r = NewRecorder(k, nil)
		r.Enable(k.Reserve(HeaderSize+2*EntrySize+5*EventSize), 2)
		thread(k, new(rtos.Thread), "t", 1, func() { k.Stop() })
	})
	return r.Bytes()
}

func TestParse_Refusals(t *testing.T) {
	t.Parallel()
	good := small(t)
	if _, err := Parse(good); err != nil {
		t.Fatal(err)
	}
	put := func(at int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte {
			binary.LittleEndian.PutUint32(b[at:], v)
			return b
		}
	}
	base := binary.LittleEndian.Uint32(good[8:])
	for _, c := range []struct {
		change func([]byte) []byte
		want   string
	}{
		{func(b []byte) []byte { return nil }, "do not hold a header"},
		{func(b []byte) []byte { return b[:HeaderSize+EventSize-1] }, "do not hold a header"},
		{func(b []byte) []byte { return make([]byte, MaxSize+1) }, "at most 268435456"},
		{put(0, 0x12345678), "instead of TXTB"},
		{put(12, base+uint32(len(good))+1), "registry's start"},
		{put(12, base), "registry's start"},
		{put(20, base+48+47), "not made of entries of 48"},
		{put(24, base+48), "reaches into the ring"},
		{put(28, base+48), "not made of events"},
		{put(28, base+uint32(len(good))-1), "not made of events"},
		{put(28, base-4), "ring's end"},
		{put(32, base+uint32(len(good))), "current event is not in the ring"},
		{put(32, binary.LittleEndian.Uint32(good[32:])+1), "current event is not in the ring"},
		{put(16, 0), "no room"},
		{func(b []byte) []byte { return b[:len(b)-1] }, "ring's end"},
	} {
		b := c.change(bytes.Clone(good))
		if _, err := Parse(b); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(small(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		tr, err := Parse(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Error(err)
			}
			return
		}
		if n := len(tr.Events); n*EventSize > len(b) || n > 0 && tr.Events[0].Time != 0 {
			t.Errorf("%d events in %d bytes", n, len(b))
		}
		var out bytes.Buffer
		if err := tr.Chrome(&out, "fuzz", 80_000_000); err != nil || !json.Valid(out.Bytes()) {
			t.Errorf("%v: %s", err, out.Bytes())
		}
	})
}

package metric

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/rtos"
)

// The totals of a virtual second on a board of 80 MHz with the default costs. They change when the kernel's work, or what it costs, changes.
var constants = map[string]uint64{
	"basic": 8680, "cooperative": 571374, "preemptive": 357111, "interrupt": 769169, "interrupt-preemption": 263137,
	"message": 666612, "synchronization": 999918, "memory": 999918,
}

func TestVirtual_TotalsAreConstants(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "RTOS-37")
	if len(Tests()) != 8 {
		t.Fatalf("%d tests, Thread-Metric has 8", len(Tests()))
	}
	for _, test := range Tests() {
		t.Run(test.Name, func(t *testing.T) {
			t.Parallel()
			r, err := Virtual(test, time.Second, rtos.Costs{})
			if err != nil {
				t.Fatal(err)
			}
			if r.Total != constants[test.Name] {
				t.Errorf("%d units in a virtual second, the constant is %d", r.Total, constants[test.Name])
			}
			if d := r.Period - time.Second; d < -10*time.Millisecond || d > time.Millisecond {
				t.Errorf("the period was %v", r.Period)
			}
			// A kernel whose calls cost more does less.
			dear := rtos.DefaultCosts()
			dear.Thread, dear.Semaphore, dear.Queue, dear.Block, dear.Switch, dear.Interrupt, dear.Tick = 600, 400, 560, 400, 800, 240, 30000
			slow, err := Virtual(test, 100*time.Millisecond, dear)
			if err != nil {
				t.Fatal(err)
			}
			if 10*slow.Total >= r.Total {
				t.Errorf("%d units in a tenth of a second with higher costs", slow.Total)
			}
		})
	}
}

func TestReal_CountsWork(t *testing.T) {
	t.Parallel()
	for _, test := range Tests() {
		r, err := Real(t.Context(), test, 20*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if r.Total == 0 || r.Period < 5*time.Millisecond || r.PerUnit() <= 0 {
			t.Errorf("%s: %+v", test.Name, r)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Real(ctx, tests[0], time.Minute); err == nil {
		t.Error("an interrupted test has a result")
	}
}

func TestRun_Refusals(t *testing.T) {
	t.Parallel()
	for _, period := range []time.Duration{0, time.Millisecond, -1, 2 * time.Hour} {
		if _, err := Virtual(tests[0], period, rtos.Costs{}); err == nil || !strings.Contains(err.Error(), "period") {
			t.Errorf("%v: %v", period, err)
		}
	}
	// What fails in a test is told, not counted.
	broken := Test{"broken", "Broken", "", false, func(p *port) (func() uint64, func() string) {
		p.thread(0, 10, func() {
			for {
				p.must(p.gate.Put()) // there is none
				p.passed()
			}
		})
		p.resume(0)
		return func() uint64 { return 1 }, nothing
	}}
	if _, err := Virtual(broken, time.Second, rtos.Costs{}); err == nil || !strings.Contains(err.Error(), "TX_SEMAPHORE_ERROR") {
		t.Error(err)
	}
	unfair := alike([]uint64{5, 5, 9})
	if s := unfair(); !strings.Contains(s, "counter 2 is at 9") {
		t.Error(s)
	}
}

func TestParseReport(t *testing.T) {
	t.Parallel()
	text := `ThreadX starts
**** Thread-Metric Cooperative Scheduling Test **** Relative Time: 30
tm_cooperative_thread_0_counter: 2278
Time Period Total:  11389

**** Thread-Metric Cooperative Scheduling Test **** Relative Time: 60
Time Period Total:  11411
**** Thread-Metric Memory Allocation Test **** Relative Time: 2
Time Period Total:  36238452
`
	got, err := ParseReport(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []Result{
		{Test: "cooperative", Title: "Cooperative Scheduling", Total: 22800, Period: time.Minute},
		{Test: "memory", Title: "Memory Allocation", Total: 36238452, Period: 2 * time.Second},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	title := "**** Thread-Metric Memory Allocation Test **** Relative Time: "
	for _, c := range []struct{ text, want string }{
		{"", "no report"},
		{"hello\n", "no report"},
		{title + "30\n", "no report"},
		{"**** Thread-Metric Paint Drying Test **** Relative Time: 30\n", `line 1: "Paint Drying" is no test`},
		{title + "0\n", "line 1: a relative time of 0"},
		{title + "4000000000\n", "line 1: a relative time of 4000000000"},
		{title + "99999999999\n", "line 1: a relative time of"},
		{title + "30\nERROR: Invalid counter value(s).\n", "line 2: the test failed there"},
		{title + "30\nTime Period Total:  0\n", "line 2: a total of 0"},
		{title + "30\nTime Period Total:  99999999999999999999\n", "line 2: a total of"},
		{title + "3000000\nTime Period Total:  1\n" + title + "3000000\nTime Period Total:  1\n", "line 4: that is more"},
		{strings.Repeat("x\n", maxReport), "more than 1048576 bytes"},
	} {
		if _, err := ParseReport(strings.NewReader(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60q: %v, want %q", c.text, err, c.want)
		}
	}
}

func FuzzParseReport(f *testing.F) {
	f.Add("**** Thread-Metric Memory Allocation Test **** Relative Time: 2\nTime Period Total:  36238452\n")
	f.Fuzz(func(t *testing.T, text string) {
		rs, err := ParseReport(strings.NewReader(text))
		if err == nil && (len(rs) == 0 || len(rs) > len(tests)) {
			t.Errorf("%d results", len(rs))
		}
		for _, r := range rs {
			if r.Total == 0 || r.Period <= 0 {
				t.Errorf("%+v", r)
			}
		}
	})
}

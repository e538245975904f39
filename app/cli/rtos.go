package cli

import (
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/internal/atomicfile"
	"github.com/vauban-iot/vauban/rtos"
	"github.com/vauban-iot/vauban/rtos/metric"
	"github.com/vauban-iot/vauban/rtos/response"
	"github.com/vauban-iot/vauban/rtos/trace"
)

func rtosCommand() *cobra.Command {
	c := group("rtos", "Measure, analyze and trace the real-time kernel", rtosMetric(), rtosAnalyze(), rtosTrace())
	c.Long = `Measure the real-time kernel of the virtual boards, bound the response times of a board's threads,
and look at its traces. No installation is needed, and none is touched.`
	return c
}

// metricRow is one test as JSON.
type metricRow struct {
	metric.Result
	PerSecond float64  `json:"unitsPerSecond"`
	PerUnit   float64  `json:"nsPerUnit"`
	Peer      *float64 `json:"peerNsPerUnit,omitempty"`
	Ratio     *float64 `json:"timesAsFast,omitempty"` // the peer's time of a unit by ours
}

func rtosMetric() *cobra.Command {
	var out output
	var name, peer string
	var virtual bool
	period := time.Second
	c := &cobra.Command{
		Use:   "metric",
		Short: "Run Thread-Metric's eight tests on the kernel",
		Long: `Run Thread-Metric's eight tests on the kernel and print how many units of work each does in
a second, and how long one takes. With --virtual they run in virtual time instead: totals are
then constants of the kernel, and no speed.

--peer names a file with what Thread-Metric printed on another kernel, on this machine and at the
same time if the comparison is to mean something; its tests get a ratio.`,
		Example: `  vauban rtos metric
  vauban rtos metric --test cooperative --duration 30s
  vauban rtos metric --peer threadx.txt --output json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			tests := metric.Tests()
			if name != "" {
				t, ok := metric.Find(name)
				if !ok {
					return misuse("there is no test %q (want one of %s)", name, testNames())
				}
				tests = []metric.Test{t}
			}
			others := map[string]float64{}
			if peer != "" {
				if virtual {
					return misuse("virtual time has no speed to compare: either --virtual or --peer")
				}
				f, err := os.Open(peer)
				if err != nil {
					return err
				}
				defer f.Close()
				rs, err := metric.ParseReport(f)
				if err != nil {
					return fmt.Errorf("%s: %w", peer, err)
				}
				for _, r := range rs {
					others[r.Test] = r.PerUnit()
				}
			}
			var rows []metricRow
			for _, t := range tests {
				run := func() (metric.Result, error) { return metric.Real(c.Context(), t, period) }
				if virtual {
					run = func() (metric.Result, error) { return metric.Virtual(t, period, rtos.Costs{}) }
				}
				r, err := run()
				if err != nil {
					return err
				}
				row := metricRow{Result: r, PerUnit: r.PerUnit(), PerSecond: 1e9 / max(r.PerUnit(), 1e-9)}
				if p, ok := others[t.Name]; ok && row.PerUnit > 0 {
					row.Peer, row.Ratio = &p, new(p/row.PerUnit)
				}
				rows = append(rows, row)
			}
			if out == "json" {
				return printJSON(c.OutOrStdout(), map[string]any{"tests": rows, "virtual": virtual, "note": metric.Sentence})
			}
			return printMetric(c.OutOrStdout(), rows, virtual)
		},
	}
	f := c.Flags()
	f.StringVar(&name, "test", "", "run one test only: "+testNames())
	f.DurationVar(&period, "duration", period, "how long each test runs")
	f.BoolVar(&virtual, "virtual", false, "run in virtual time")
	f.StringVar(&peer, "peer", "", "`file` with another kernel's report")
	out.register(c)
	return c
}

func testNames() (s string) {
	for i, t := range metric.Tests() {
		if i > 0 {
			s += " "
		}
		s += t.Name
	}
	return s
}

func printMetric(w io.Writer, rows []metricRow, virtual bool) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if virtual {
		fmt.Fprintln(t, "TEST\tTOTAL\tIN VIRTUAL TIME")
	} else {
		fmt.Fprintln(t, "TEST\tUNITS/S\tNS/UNIT\tPEER NS/UNIT\tTIMES AS FAST")
	}
	for _, r := range rows {
		switch {
		case virtual:
			fmt.Fprintf(t, "%s\t%d\t%v\n", r.Test, r.Total, r.Period)
		case r.Peer != nil:
			fmt.Fprintf(t, "%s\t%.0f\t%.1f\t%.1f\t%.1f\n", r.Test, r.PerSecond, r.PerUnit, *r.Peer, *r.Ratio)
		default:
			fmt.Fprintf(t, "%s\t%.0f\t%.1f\t-\t-\n", r.Test, r.PerSecond, r.PerUnit)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, "\n"+metric.Sentence)
	return err
}

// readBounded reads a file of at most most bytes.
func readBounded(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%s has more than %d bytes", path, most)
	}
	return b, err
}

// answered is one thread of an analysis as JSON.
type answered struct {
	response.Bound
	ResponseMicros float64           `json:"responseMicros"`
	DeadlineMicros float64           `json:"deadlineMicros"`
	ObservedMicros float64           `json:"observedMicros"`
	Observed       response.Observed `json:"observed"`
}

func rtosAnalyze() *cobra.Command {
	var out output
	var file string
	seed, length := uint64(1), 10*time.Second
	c := &cobra.Command{
		Use:   "analyze MODEL",
		Short: "Bound the response times of a board's threads",
		Long: `Bound how long each thread of a board may take from the arrival of a job to its end, from a
model of the threads, and print it beside the longest time that a simulation of the model on
the kernel showed. The bound holds as far as the model does; the simulation only saw what it saw.
A thread that may miss its deadline is explained. The exit code is 3 when one may.

MODEL is a TOML file. Costs are worst cases in cycles:

  board = "stm32l475"
  [[mutex]]
  name = "i2c"
  [[thread]]
  name = "sampler"
  priority = 8
  period = "10ms"
  deadline = "5ms"
  cost = 120000
  [[thread.section]]
  mutex = "i2c"
  cost = 40000

Threads may have threshold, time_slice, jitter and byte_pool_fragments, a mutex no_inherit, a
section nested; [[timer]] has name, period_ticks and cost; [costs] those of the kernel.`,
		Example: `  vauban rtos analyze model.toml
  vauban rtos analyze model.toml --time 1m --seed 7 --trace worst.trx
  vauban rtos analyze model.toml --output json`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			text, err := readBounded(args[0], response.MaxModel)
			if err != nil {
				return err
			}
			m, err := response.Load(args[0], text)
			if err != nil {
				return err
			}
			a := m.Analyze()
			s, err := m.Simulate(length, seed, file != "")
			if err != nil {
				return err
			}
			if file != "" && s.Trace != nil {
				if err := atomicfile.Write(file, s.Trace, 0o644); err != nil {
					return err
				}
			}
			var rows []answered
			misses := 0
			for i, b := range a.Bounds {
				o := s.Threads[i]
				rows = append(rows, answered{b, m.Micros(b.Response), m.Micros(b.Deadline), m.Micros(o.Worst.Response()), o})
				if !b.Meets {
					misses++
				}
			}
			if out == "json" {
				err = printJSON(c.OutOrStdout(), map[string]any{
					"threads": rows, "warnings": a.Warnings, "utilization": a.Utilization, "clockHz": m.ClockHz, "seed": seed, "virtualTime": length.String(), "traceOf": s.Of,
				})
			} else {
				err = printAnalysis(c.OutOrStdout(), m, a, rows, length, seed)
			}
			if err == nil && misses > 0 {
				err = foundError{fmt.Errorf("%d of %d threads may miss their deadlines", misses, len(rows))}
			}
			return err
		},
	}
	f := c.Flags()
	f.DurationVar(&length, "time", length, "virtual time of the simulation")
	f.Uint64Var(&seed, "seed", seed, "seed of the simulation")
	f.StringVar(&file, "trace", "", "`file` (.trx) that gets the trace up to the longest response, by its deadline")
	out.register(c)
	return c
}

func printAnalysis(w io.Writer, m *response.Model, a response.Analysis, rows []answered, length time.Duration, seed uint64) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "THREAD\tBOUND US\tOBSERVED US\tDEADLINE US\tJOBS\tMISSED\tVERDICT")
	for _, r := range rows {
		bound, verdict := fmt.Sprintf("%.1f", r.ResponseMicros), "in time"
		switch {
		case !r.Bounded:
			bound, verdict = "none", "no bound"
		case !r.Meets:
			verdict = "may miss"
		}
		fmt.Fprintf(t, "%s\t%s\t%.1f\t%.1f\t%d\t%d\t%s\n", r.Thread, bound, r.ObservedMicros, r.DeadlineMicros, r.Observed.Jobs, r.Observed.Missed, verdict)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nThe processor is used by %.1f %%. Observed in %v of virtual time with seed %d.\n", 100*a.Utilization, length, seed)
	for _, x := range a.Warnings {
		fmt.Fprintf(w, "warning: %s\n", x)
	}
	for _, r := range rows {
		if r.Meets {
			continue
		}
		fmt.Fprintf(w, "\n%s: %s\n", r.Thread, r.Why)
		for _, x := range r.Terms {
			fmt.Fprintf(w, "  %10.1f us  %d x %s\n", m.Micros(x.Cycles), x.Count, x.What)
		}
	}
	return nil
}

func rtosTrace() *cobra.Command {
	var out output
	var chrome, board string
	hz := uint64(80_000_000)
	c := &cobra.Command{
		Use:   "trace FILE",
		Short: "Look at a trace of TraceX's format",
		Long: `Say what is in a trace of TraceX's format (.trx), of a virtual board or of any other: its objects
and how often each event happened. With --chrome the trace is also written as Chrome's trace
events, which ui.perfetto.dev and chrome://tracing draw.`,
		Example: `  vauban rtos trace worst.trx
  vauban rtos trace worst.trx --chrome worst.json
  vauban rtos trace chip.trx --clock 216000000 --chrome chip.json --output json`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			if hz == 0 {
				return misuse("--clock 0 is no clock")
			}
			b, err := readBounded(args[0], trace.MaxSize)
			if err != nil {
				return err
			}
			t, err := trace.Parse(b)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if chrome != "" {
				f, err := os.Create(chrome)
				if err != nil {
					return err
				}
				if err := t.Chrome(f, board, hz); err != nil {
					f.Close()
					return err
				}
				if err := f.Close(); err != nil {
					return err
				}
			}
			return printTrace(c.OutOrStdout(), t, out == "json", hz)
		},
	}
	f := c.Flags()
	f.StringVar(&chrome, "chrome", "", "`file` that gets the drawing, in JSON")
	f.StringVar(&board, "board", "board", "what the drawing calls the board")
	f.Uint64Var(&hz, "clock", hz, "rate of the trace's clock in Hz")
	out.register(c)
	return c
}

// counted is how often an event is in a trace.
type counted struct {
	Event string `json:"event"`
	ID    uint32 `json:"id"`
	Count int    `json:"count"`
}

type tracedObject struct {
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Address uint32 `json:"address"`
	Deleted bool   `json:"deleted"`
}

func printTrace(w io.Writer, t *trace.Trace, asJSON bool, hz uint64) error {
	objects := []tracedObject{}
	for _, o := range t.Objects {
		objects = append(objects, tracedObject{trace.KindWord(o.Kind), o.Name, o.Address, o.Deleted})
	}
	events := []counted{}
	at := map[rtos.EventID]int{}
	var last rtos.Cycles
	for i := range t.Events {
		id := t.Events[i].ID
		last = t.Events[i].Time
		n, ok := at[id]
		if !ok {
			n = len(events)
			at[id] = n
			events = append(events, counted{trace.EventWord(id), uint32(id), 0})
		}
		events[n].Count++
	}
	seconds := float64(last) / float64(hz)
	if asJSON {
		return printJSON(w, map[string]any{"byteOrder": t.Order.String(), "objects": objects, "events": events, "seconds": seconds, "free": t.Free})
	}
	fmt.Fprintf(w, "%d events in %.6f s, %s, room for %d more\n\n", len(t.Events), seconds, t.Order, t.Free)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "OBJECT\tKIND\tADDRESS")
	for _, o := range objects {
		fmt.Fprintf(tw, "%q\t%s\t%#x\n", o.Name, o.Kind, o.Address)
	}
	fmt.Fprintln(tw, "\nEVENT\tID\tCOUNT")
	for _, e := range events {
		fmt.Fprintf(tw, "%s\t%d\t%d\n", e.Event, e.ID, e.Count)
	}
	return tw.Flush()
}

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/vauban-iot/vauban/app/fleetd"
	"github.com/vauban-iot/vauban/internal/atomicfile"
	"github.com/vauban-iot/vauban/sim/fleet"
)

func simCommand() *cobra.Command {
	c := group("sim", "Run fleets of virtual boards", simRun(), simCheck())
	c.Long = `Run fleets of virtual boards, as a file describes them: boards with their firmware, sites, links,
faults and attacks (docs/fleets.md).`
	return c
}

// loadFleet reads a fleet file; one that is wrong is a finding.
func loadFleet(path string) (*fleet.File, error) {
	f, err := fleet.Load(path)
	if _, ok := errors.AsType[fleet.Problems](err); ok {
		return nil, foundError{err}
	}
	return f, err
}

func simRun() *cobra.Command {
	var data, report string
	var seed uint64
	var dry bool
	var workers int
	c := &cobra.Command{
		Use:   "run FILE",
		Short: "Run a fleet of virtual boards",
		Long: `Run a fleet of virtual boards against a throw-away installation in this process, or against the one
whose data folder --data names. In virtual time the boards' clocks go as fast as this machine
can; with time = "real" in the file they go as clocks do.

What the boards did is printed at the end, and with --report written as JSON and as a page with
plots. What depends on this machine stands apart: two runs of the same file with the same seed and
epoch do the same. Interrupt once to end the run early; the report is written nevertheless.

The throw-away installation keeps its data in a temporary folder; with TMPDIR in memory, such as
/dev/shm, small fleets run faster.`,
		Example: `  vauban sim run examples/fleet/plant.toml
  vauban sim run examples/fleet/plant.toml --seed 7 --report out
  vauban sim run fleet.toml --data /var/lib/vauban --report run.html
  vauban sim run fleet.toml --dry-run --output json`,
		Args: cobra.ExactArgs(1),
	}
	f := c.Flags()
	f.StringVar(&data, "data", "", "data `folder` of the installation (default: a throw-away one is started)")
	f.StringVar(&report, "report", "", "where the report goes: a `folder`, or a file that ends in .json or .html")
	f.Uint64Var(&seed, "seed", 0, "seed, in the place of the file's")
	f.BoolVar(&dry, "dry-run", false, "show what would happen, and run nothing")
	f.IntVar(&workers, "workers", 0, "boards that run at the same time in virtual time; 0: 256")
	var out output
	out.register(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := out.check(); err != nil {
			return err
		}
		if workers < 0 || workers > 4096 {
			return misuse("--workers is 0 to 4096")
		}
		file, err := loadFleet(args[0])
		if err != nil {
			return err
		}
		if c.Flags().Changed("seed") {
			file.Seed = seed
		}
		if dry {
			return printPlan(c.OutOrStdout(), file.Plan(), out)
		}
		if report != "" { // before hours are spent
			if err := os.MkdirAll(reportFolder(report), 0o755); err != nil {
				return err
			}
			if err := writable(reportFiles(report)[0]); err != nil {
				return err
			}
		}
		say := newTicker(c.ErrOrStderr())
		rep, err := fleetd.Run(c.Context(), fleetd.Config{
			File: file, Data: data, Workers: workers, Progress: say.progress, Version: version(),
			Logger: slog.New(slog.NewTextHandler(c.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelError})),
		})
		say.end()
		if errors.Is(err, context.Canceled) && c.Context().Err() != nil {
			return errors.New("the run was interrupted before it began")
		}
		if err != nil {
			return err
		}
		if out == "json" {
			err = printJSON(c.OutOrStdout(), rep)
		} else {
			err = printFleet(c.OutOrStdout(), rep)
		}
		if report != "" {
			err = errors.Join(err, writeReport(report, rep))
		}
		if err == nil && rep.Fleet.Reached < rep.Fleet.Duration {
			err = fmt.Errorf("the run was interrupted after %s of %s", seconds(rep.Fleet.Reached), seconds(rep.Fleet.Duration))
		}
		return err
	}
	return c
}

func simCheck() *cobra.Command {
	c := &cobra.Command{
		Use:   "check FILE",
		Short: "Say what is wrong with a fleet file",
		Long: `Say everything that is wrong with a fleet file, each with its line, what is wrong and what would be
right. The exit code is 3 when there is something.`,
		Example: `  vauban sim check fleet.toml`,
		Args:    cobra.ExactArgs(1),
	}
	var out output
	out.register(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := out.check(); err != nil {
			return err
		}
		f, err := fleet.Load(args[0])
		problems, ok := errors.AsType[fleet.Problems](err)
		if err != nil && (!ok || out != "json") {
			if ok {
				return foundError{err}
			}
			return err
		}
		if out == "json" {
			lines := []map[string]any{}
			for _, p := range problems {
				lines = append(lines, map[string]any{"line": p.Line, "key": p.Key, "text": p.Text})
			}
			if err := printJSON(c.OutOrStdout(), map[string]any{"problems": lines}); err != nil {
				return err
			}
			if len(problems) > 0 {
				return foundError{fmt.Errorf("%d problems in %s", len(problems), args[0])}
			}
			return nil
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "%s: %d boards for %v: nothing is wrong\n", args[0], f.Total(), f.Duration)
		return err
	}
	return c
}

// seconds is a number of them for people.
func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(time.Second)
}

// planned is a board of a plan as JSON.
type planned struct {
	ID       string         `json:"id"`
	Entry    string         `json:"entry"`
	Group    string         `json:"group,omitempty"`
	Site     string         `json:"site,omitempty"`
	Link     string         `json:"link,omitempty"`
	Network  fleet.Network  `json:"network"`
	Address  string         `json:"address,omitempty"`
	Seed     string         `json:"seed"`
	DriftPPM float64        `json:"driftPpm"`
	Events   []plannedEvent `json:"events"`
}

type plannedEvent struct {
	At    float64 `json:"atSeconds"`
	What  string  `json:"what"` // a fault, or an attack
	Lasts float64 `json:"lastsSeconds,omitempty"`
}

func printPlan(w io.Writer, p *fleet.Plan, out output) error {
	if out == "json" {
		boards := []planned{}
		for i := range p.Boards {
			b := &p.Boards[i]
			v := planned{ID: b.ID, Entry: b.Of.Name, Group: b.Of.Group, Site: b.Of.Site, Link: b.Of.Link, Network: b.Of.Network, Seed: fmt.Sprintf("%016x", b.Seed), DriftPPM: b.DriftPPM, Events: []plannedEvent{}}
			if b.Address.IsValid() {
				v.Address = b.Address.Addr().String()
			}
			for _, e := range b.Events {
				v.Events = append(v.Events, plannedEvent{e.At.Seconds(), string(e.Kind), e.Lasts.Seconds()})
			}
			for _, a := range b.Attacks {
				v.Events = append(v.Events, plannedEvent{a.At.Seconds(), "attack " + a.Name, 0})
			}
			boards = append(boards, v)
		}
		return printJSON(w, map[string]any{"name": p.File.Name, "seed": p.File.Seed, "durationSeconds": p.File.Duration.Seconds(), "boards": boards})
	}
	fmt.Fprintf(w, "%s: %d boards for %v, seed %d\n\n", p.File.Name, len(p.Boards), p.File.Duration, p.File.Seed)
	t := table(w)
	fmt.Fprintf(t, "ENTRY\tBOARDS\tGROUP\tSITE\tLINK\tNETWORK\tTELEMETRY\tFAULTS\tATTACKED\n")
	for i := range p.File.Boards {
		of := &p.File.Boards[i]
		faults, attacked := 0, 0
		for _, b := range p.Boards {
			if b.Of == of {
				faults += len(b.Events)
				attacked += min(len(b.Attacks), 1)
			}
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\t%v\t%d\t%d\n", of.Name, of.Count, of.Group, of.Site, of.Link, of.Network, of.Interval, faults, attacked)
	}
	return t.Flush()
}

func printFleet(w io.Writer, r *fleet.Report) error {
	d := &r.Fleet
	fmt.Fprintf(w, "%s: %d boards, %s of %s time in %s, %.0f times real time\n\n", d.Name, d.Boards, seconds(d.Reached), d.Time, time.Duration(r.Run.Took*float64(time.Second)).Round(10*time.Millisecond), r.Run.Speed)
	t := table(w)
	fmt.Fprintf(t, "GROUP\tBOARDS\tTELEMETRY\tSECURITY\tCONNECTS\tFAILED\tLOST\tRESETS\tCRASHES\n")
	row := func(name string, boards int, c *fleet.Counts) {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n", name, boards, c.Telemetry, c.Security, c.Connects, c.Failed, c.Lost, c.Resets, c.Crashes)
	}
	for i := range d.Groups {
		g := &d.Groups[i]
		name := g.Name
		if name == "" {
			name = "(none)"
		}
		row(name, g.Boards, &g.Counts)
	}
	if len(d.Groups) > 1 {
		row("all", d.Boards, &d.Counts)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(r.Run.Detections) > 0 {
		fmt.Fprintln(w)
		t := table(w)
		fmt.Fprintf(t, "ATTACK\tBOARDS\tFOUND\tMEDIAN\tALERTS\n")
		for _, x := range r.Run.Detections {
			median := ""
			if x.Found > 0 {
				median = seconds(x.Median).String()
			}
			fmt.Fprintf(t, "%s\t%d\t%d\t%s\t%s\n", x.Attack, x.Boards, x.Found, median, strings.Join(x.Types, ", "))
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "\n%d alerts, %d of them about boards without an attack; acknowledged after %.1f ms (p50), %.1f ms (p99)\n",
		len(r.Run.Alerts)+r.Run.Unlisted, r.Run.FalseAlerts, r.Run.Latency.P50, r.Run.Latency.P99)
	return err
}

// reportFolder is where the files of a report are.
func reportFolder(path string) string {
	if isReportFile(path) {
		return filepath.Dir(path)
	}
	return path
}

func isReportFile(path string) bool {
	return strings.HasSuffix(path, ".json") || strings.HasSuffix(path, ".html")
}

// reportFiles are those of a report.
func reportFiles(path string) []string {
	if isReportFile(path) {
		return []string{path}
	}
	return []string{under(path, "fleet.json"), under(path, "run.json"), under(path, "report.html")}
}

// writeReport writes a file, or fleet.json, which repeats, run.json, which does not, and report.html into a folder.
func writeReport(path string, r *fleet.Report) error {
	put := func(path string, v any) error {
		data, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return err
		}
		return atomicfile.Write(path, append(data, '\n'), 0o644)
	}
	page := func(path string) error {
		var b bytes.Buffer
		if err := r.HTML(&b); err != nil {
			return err
		}
		return atomicfile.Write(path, b.Bytes(), 0o644)
	}
	switch {
	case strings.HasSuffix(path, ".json"):
		return put(path, r)
	case strings.HasSuffix(path, ".html"):
		return page(path)
	}
	files := reportFiles(path)
	return errors.Join(put(files[0], r.Fleet), put(files[1], r.Run), page(files[2]))
}

// ticker tells how a run goes: in one line that changes on a terminal, else now and then in a new one.
type ticker struct {
	w        io.Writer
	terminal bool
	said     time.Time
	wrote    bool
}

const sayEvery = 10 * time.Second

func newTicker(w io.Writer) *ticker {
	f, ok := w.(*os.File)
	return &ticker{w: w, terminal: ok && term.IsTerminal(int(f.Fd()))}
}

func (t *ticker) progress(p fleet.Progress) {
	text := fmt.Sprintf("%v of %v, %.0f times real time; %d of %d boards up, %d messages, %d connects, %d resets, %d alerts",
		p.Time.Round(time.Second), p.Duration, p.Speed(), p.Up, p.Boards, p.Messages, p.Connects, p.Resets, p.Alerts)
	switch {
	case t.terminal:
		fmt.Fprintf(t.w, "\r\033[K%s", text)
		t.wrote = true
	case time.Since(t.said) >= sayEvery:
		fmt.Fprintln(t.w, "sim: "+text)
		t.said = time.Now()
	}
}

func (t *ticker) end() {
	if t.wrote {
		fmt.Fprintln(t.w)
	}
}

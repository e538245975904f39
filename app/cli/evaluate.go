package cli

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/sim/evaluate"
	"github.com/vauban-iot/vauban/sim/traffic"
)

// evaluation is what the command prints as JSON.
type evaluation struct {
	Captures []evaluate.Report `json:"captures"`
	Total    *evaluate.Report  `json:"total,omitempty"` // of several
}

func evaluateCommand() *cobra.Command {
	cfg := traffic.Config{Seed: 1, Honest: 100, Attacks: 4, Days: 3}
	var synthetic, all bool
	var hosts []string
	var out output
	c := &cobra.Command{
		Use:   "evaluate [FILE...]",
		Short: "Measure the detectors on recorded or made traffic",
		Long: `Run the detectors of behaviour, as they are in this binary, over traffic of which it is known
what is an attack, and say per device-day how many infected devices were found, how soon, and
how often honest ones were accused. No installation is needed, and none is touched.

FILE is a log of connections: conn.log.labeled of the IoT-23 set, conn.log of Zeek, or a
network CSV of the TON_IoT set. Each file is judged by detectors that know nothing
before it, as if it were a device of its own, and all files together. Connections are first
turned into what a board tells: sums of bytes in windows of ten seconds, at most 64
flows of each family. Lines that cannot be read are counted and left out. Files may have any
number of lines; beyond 262,144, they need space for temporary files, 67 bytes a line.

With --synthetic the traffic is made from a seed instead; the same one makes the same traffic.

The detectors have no parameters to fit: they are constants of the program.`,
		Example: `  vauban evaluate --synthetic --seed 7
  vauban evaluate CTU-IoT-Malware-Capture-*/bro/conn.log.labeled
  vauban evaluate --all-hosts Network_dataset_*.csv --output json
  vauban evaluate --host 192.168.1.195 conn.log`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			var done evaluation
			switch {
			case synthetic && len(args) > 0:
				return misuse("either --synthetic or files")
			case !synthetic && len(args) == 0:
				return misuse("name files, or give --synthetic")
			case synthetic:
				f, err := traffic.New(cfg)
				if err != nil {
					return misuse("%w", err)
				}
				r, err := evaluate.Synthetic(c.Context(), f)
				if err != nil {
					return err
				}
				done.Captures = []evaluate.Report{r}
			default:
				watched, err := parseHosts(hosts)
				if err != nil {
					return err
				}
				if all && len(watched) > 0 {
					return misuse("either --host or --all-hosts")
				}
				if done, err = evaluateFiles(c, args, watched, all); err != nil {
					return err
				}
			}
			if out == "json" {
				return printJSON(c.OutOrStdout(), done)
			}
			for i := range done.Captures {
				if err := done.Captures[i].Print(c.OutOrStdout()); err != nil {
					return err
				}
				fmt.Fprintln(c.OutOrStdout())
			}
			if done.Total != nil {
				return done.Total.Print(c.OutOrStdout())
			}
			return nil
		},
	}
	f := c.Flags()
	f.BoolVar(&synthetic, "synthetic", false, "make the traffic")
	f.Uint64Var(&cfg.Seed, "seed", cfg.Seed, "seed of made traffic")
	f.IntVar(&cfg.Honest, "honest", cfg.Honest, "honest devices of made traffic")
	f.IntVar(&cfg.Attacks, "attacked", cfg.Attacks, "devices of each attack")
	f.IntVar(&cfg.Days, "days", cfg.Days, "days of made traffic, the first of which is honest everywhere")
	f.StringArrayVar(&hosts, "host", nil, "address of the device in the files, in place of the one that is most active; may be given again")
	f.BoolVar(&all, "all-hosts", false, "take every private address in the files for a device")
	out.register(c)
	return c
}

func parseHosts(texts []string) (all []netip.Addr, err error) {
	for _, t := range texts {
		a, err := netip.ParseAddr(t)
		if err != nil {
			return nil, misuse("--host %s is no IP address", t)
		}
		all = append(all, a.Unmap())
	}
	return all, nil
}

func evaluateFiles(c *cobra.Command, files []string, hosts []netip.Addr, all bool) (evaluation, error) {
	done := evaluation{Captures: []evaluate.Report{}}
	run := evaluate.NewRun()
	for _, name := range files {
		r, err := evaluateFile(c, run, name, hosts, all)
		if err != nil {
			return done, err
		}
		done.Captures = append(done.Captures, r)
	}
	if len(files) > 1 {
		done.Total = new(run.Total())
	}
	return done, nil
}

func evaluateFile(c *cobra.Command, run *evaluate.Run, name string, hosts []netip.Addr, all bool) (evaluate.Report, error) {
	in, err := os.Open(name)
	if err != nil {
		return evaluate.Report{}, err
	}
	defer in.Close()
	// The files of IoT-23 have all the same name, in folders that tell them apart.
	short := name
	if abs, err := filepath.Abs(name); err == nil {
		short = filepath.Join(filepath.Base(filepath.Dir(abs)), filepath.Base(abs))
		if filepath.Base(filepath.Dir(abs)) == "bro" {
			short = filepath.Join(filepath.Base(filepath.Dir(filepath.Dir(abs))), short)
		}
	}
	return run.Capture(c.Context(), evaluate.Capture{
		Name: short, Log: in, Hosts: hosts, All: all,
		Progress: func(lines, broken int) {
			fmt.Fprintf(c.ErrOrStderr(), "%s: %d lines read, %d of them broken\n", short, lines, broken)
		},
	})
}

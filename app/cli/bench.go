package cli

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/app/benchd"
)

func benchCommand() *cobra.Command {
	cfg := benchd.Default()
	var out output
	c := &cobra.Command{
		Use:   "bench",
		Short: "Measure throughput, latency and memory on this machine",
		Long: `Start a throw-away installation on free ports of the loopback and load it with MQTT
publishers over TLS with SAS tokens, QoS 1. The load is open: latency counts from the
moment a message should have been sent. Measured are the latency at --half, the
throughput at --rate (choose it beyond what the machine can do), idle sessions and
direct methods; with --security, the latency beside security messages, the same beside as
many others that nobody judges, and the time from a flow with a listed address to its
alert. Afterwards the log is read back: every acknowledged message
must be in it. With --mosquitto the same load runs on Debian's mosquitto, too.

Nothing of it is kept.`,
		Example: `  vauban bench
  vauban bench --mosquitto --duration 20s
  vauban bench --security 10000 --idle 0 --methods 0
  vauban bench --postgres postgres://postgres@127.0.0.1/postgres
  vauban bench --devices 200 --half 5000 --idle 0 --methods 0 --output json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			bin, err := os.Executable()
			if err != nil {
				return err
			}
			cfg.Binary, cfg.Progress = bin, c.ErrOrStderr()
			rep, err := benchd.Run(c.Context(), cfg)
			if err != nil {
				return err
			}
			if out == "json" {
				return printJSON(c.OutOrStdout(), rep)
			}
			if err := printReport(c.OutOrStdout(), cfg, rep); err != nil {
				return err
			}
			if lost := rep.Ingest.Lost + rep.Latency.Lost; lost > 0 {
				return fmt.Errorf("%d acknowledged messages are not in the log", lost)
			}
			return nil
		},
	}
	f := c.Flags()
	f.IntVar(&cfg.Devices, "devices", cfg.Devices, "publishing devices")
	f.IntVar(&cfg.Size, "size", cfg.Size, "bytes of a message")
	f.IntVar(&cfg.InFlight, "in-flight", cfg.InFlight, "unacknowledged messages a device may have")
	f.Float64Var(&cfg.Rate, "rate", cfg.Rate, "messages per second offered in the throughput run")
	f.Float64Var(&cfg.Half, "half", cfg.Half, "messages per second offered in the latency run")
	f.DurationVar(&cfg.Duration, "duration", cfg.Duration, "measured time of a run")
	f.DurationVar(&cfg.Warmup, "warmup", cfg.Warmup, "time before measuring")
	f.IntVar(&cfg.Idle, "idle", cfg.Idle, "idle sessions to weigh; 0: none")
	f.IntVar(&cfg.Methods, "methods", cfg.Methods, "direct methods to call; 0: none")
	f.Float64Var(&cfg.Security, "security", 0, "security messages per second beside the latency run, which is made again then; 0: none")
	f.BoolVar(&cfg.Mosquitto, "mosquitto", false, "run mosquitto on the same load and print the ratio")
	f.StringVar(&cfg.Postgres, "postgres", "", "measure `vauban serve` over PostgreSQL: the `URL` of a server where a database may be made")
	out.register(c)
	return c
}

func printReport(w io.Writer, cfg benchd.Config, r *benchd.Report) error {
	t := table(w)
	fmt.Fprintf(t, "RUN\tACKED/S\tP50\tP99\tP99.9\tMAX\tLATE P99\tACKED\tLOST\n")
	row := func(name string, i benchd.Ingest, lost string) {
		fmt.Fprintf(t, "%s\t%.0f\t%.2f ms\t%.2f ms\t%.2f ms\t%.2f ms\t%.2f ms\t%d\t%s\n", name, i.Acked, i.P50, i.P99, i.P999, i.Max, i.Late, i.AckedMessages, lost)
	}
	row("vauban, throughput, fsync before PUBACK", r.Ingest, fmt.Sprint(r.Ingest.Lost))
	row(fmt.Sprintf("vauban, %.0f msg/s offered", r.Latency.Offered), r.Latency, fmt.Sprint(r.Latency.Lost))
	if s := r.Security; s != nil {
		row(fmt.Sprintf("vauban, beside %.0f other messages/s", s.Messages.Offered), s.Plain, fmt.Sprint(s.Plain.Lost))
		row(fmt.Sprintf("vauban, beside %.0f security messages/s", s.Messages.Offered), s.Telemetry, fmt.Sprint(s.Telemetry.Lost))
	}
	if r.Peer != nil {
		row("mosquitto, throughput, no persistence", *r.Peer, "not kept")
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if s := r.Security; s != nil {
		fmt.Fprintf(w, "security messages         %.0f/s acknowledged; p99 of PUBACKs of telemetry beside them %.2f of that alone, %.2f of that beside others\n", s.Messages.Acked, s.Ratio, s.Telemetry.P99/s.Plain.P99)
		fmt.Fprintf(w, "flow to alert             p50 %.0f ms  p99 %.0f ms  (%d alerts); all judged %.1f s after the last message\n", s.Alerts.P50, s.Alerts.P99, s.Alerts.Count, s.CaughtUp)
	}
	if r.Methods != nil {
		fmt.Fprintf(w, "direct method round trip  p50 %.2f ms  p99 %.2f ms  (%d calls)\n", r.Methods.P50, r.Methods.P99, r.Methods.Count)
	}
	if r.Idle != nil {
		fmt.Fprintf(w, "idle TLS session          %.1f KB resident  (%d sessions)\n", r.Idle.BytesPerSession/1024, r.Idle.Sessions)
		fmt.Fprintf(w, "full TLS connect, SAS     %.0f/s  (all cut at once: back after %.1f s)\n", r.Idle.Connects, r.Idle.Back)
	}
	if r.Peer != nil {
		fmt.Fprintf(w, "vauban / mosquitto        %.2f\n", r.Ratio)
	}
	return nil
}

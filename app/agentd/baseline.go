package agentd

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/agent/baseline"
)

func baselineCommand(name string) *cobra.Command {
	var cfg baseline.Config
	var output string
	c := &cobra.Command{
		Use:   "baseline",
		Short: "Check how this machine is set up, and show what fails",
		Long: `Check how this machine, or the files of a device below --root, are set up, and show what fails and
what could not be found out. Nothing is sent and nothing is changed. Root sees all; others are told
what they may not read. With --output json all results are printed, in the form of the older agents'
scanner.`,
		Example: `  ` + name + ` baseline
  ` + name + ` baseline --root /mnt/image --output json
  ` + name + ` baseline --custom /etc/site.xml --custom-sha256 "$(sha256sum /etc/site.xml)"`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := (&flags{output: output}).check(); err != nil {
				return err
			}
			if cfg.CustomFile == "" && cfg.CustomSHA256 != "" {
				return usageError{fmt.Errorf("--custom-sha256 needs --custom")}
			}
			cfg.CustomSHA256, _, _ = strings.Cut(cfg.CustomSHA256, " ") // sha256sum names the file beside it
			s, err := baseline.New(cfg)
			if err != nil {
				return err
			}
			r, err := s.Scan(c.Context())
			if err != nil {
				return err
			}
			if output == "json" {
				return printJSON(c.OutOrStdout(), r)
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "RESULT\tSEVERITY\tCHECK\tSHOULD BE\tIS")
			for _, x := range r.Results {
				if x.Outcome == baseline.Fail || x.Outcome == baseline.Error {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", x.Outcome.Word(), x.Audit.Severity, x.Audit.ID, x.Audit.Description, x.Text)
				}
			}
			if err := w.Flush(); err != nil {
				return err
			}
			sum := r.Summary()
			_, err = fmt.Fprintf(c.OutOrStdout(), "%d of %d checks passed (%d %%); failed: %d critical or important, %d warnings, %d informational; %d skipped\n",
				sum.Passed, sum.Assessed, sum.Percent, sum.Critical, sum.Warning, sum.Informational, len(r.Results)-sum.Assessed)
			return err
		},
	}
	c.Flags().StringVar(&cfg.Root, "root", "/", "`folder` where the device's files lie")
	c.Flags().StringVar(&cfg.CustomFile, "custom", "", "a baseline `file` of your own, below the root, run beside ours")
	c.Flags().StringVar(&cfg.CustomSHA256, "custom-sha256", "", "its `hash`, without which it is not run")
	c.Flags().StringVarP(&output, "output", "o", "table", `"table" for people or "json" for programs`)
	return c
}

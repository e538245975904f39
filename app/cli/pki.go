package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/pki"
)

func pkiCommand() *cobra.Command {
	return group("pki", "Look at the installation's certificates", pkiShow())
}

func pkiShow() *cobra.Command {
	var data string
	var out output
	c := &cobra.Command{
		Use:   "show",
		Short: "List the installation's CA and server certificates",
		Long: `List the certificates of the installation: the root that devices trust, the
intermediates, and the server certificates with the time of their renewal. It
reads public files only and needs no running server.`,
		Example: `  vauban pki show
  vauban pki show --output json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			list, err := pki.List(under(data, "pki"), time.Now())
			if err != nil {
				return err
			}
			if out == "json" {
				return printJSON(c.OutOrStdout(), list)
			}
			w := table(c.OutOrStdout())
			fmt.Fprintln(w, "NAME\tSUBJECT\tNAMES\tKEY\tVALID UNTIL\tRENEWED\tSHA-256")
			for _, i := range list {
				renewed := "-"
				if !i.RenewAt.IsZero() {
					renewed = i.RenewAt.Local().Format("2006-01-02")
				}
				names := strings.Join(append(append([]string(nil), i.DNSNames...), i.IPs...), " ")
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%.16s…\n", i.Name, i.Subject, names, i.KeyType, i.NotAfter.Local().Format("2006-01-02"), renewed, i.SHA256)
			}
			return w.Flush()
		},
	}
	dataFlag(c, &data)
	out.register(c)
	return c
}

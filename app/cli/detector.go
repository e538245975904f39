package cli

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/central/api"
)

const detectorsPath = "/api/detectors"

func detectorCommand() *cobra.Command {
	return group("detector", "What is looked for in the behaviour of devices", detectorList(), detectorSwitch("enable", true), detectorSwitch("disable", false))
}

func detectorList() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List the detectors, and which are on",
		Example: `  vauban detector list
  vauban detector list --output json`,
		Args: cobra.NoArgs,
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, _ []string, out output) error {
		var list struct{ Value []api.Detector }
		if err := callList(c, r, detectorsPath, nil, &list); err != nil {
			return err
		}
		return printDetectors(c, out, list.Value)
	})
}

func detectorSwitch(verb string, on bool) *cobra.Command {
	short, long := "Switch a detector on", `Switch a detector on. It learned while it was off, and begins with what it knows.`
	if !on {
		short, long = "Switch a detector off", `Switch a detector off: it raises no alert, and learns on. To be spared the alerts of one
device, or for a time, suppress them instead (vauban alert suppress).`
	}
	c := &cobra.Command{
		Use:     verb + " NAME",
		Short:   short,
		Long:    long,
		Example: "  vauban detector " + verb + " drip",
		Args:    cobra.ExactArgs(1),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		var d api.Detector
		body := strings.NewReader(fmt.Sprintf(`{"enabled":%t}`, on))
		if _, err := call(c, r, http.MethodPut, detectorsPath+"/"+url.PathEscape(args[0]), nil, body, &d); err != nil {
			return err
		}
		return printDetectors(c, out, []api.Detector{d})
	})
}

func printDetectors(c *cobra.Command, out output, all []api.Detector) error {
	if out == "json" {
		return printJSON(c.OutOrStdout(), all)
	}
	w := table(c.OutOrStdout())
	fmt.Fprintln(w, "DETECTOR\tSTATE\tALERTS\tLOOKS FOR")
	for _, d := range all {
		state := "on"
		if !d.Enabled {
			state = "off"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", d.Name, state, strings.Join(d.Types, ", "), d.Title)
	}
	return w.Flush()
}

package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/central/api"
)

// readArgument reads a small file that an argument names; - is standard input.
func readArgument(c *cobra.Command, name string) ([]byte, error) {
	in := c.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	return io.ReadAll(io.LimitReader(in, maxArgument))
}

func networkCommand() *cobra.Command {
	return group("network", "Say from where devices and programs may come", networkShow(), networkSet())
}

func networkShow() *cobra.Command {
	c := &cobra.Command{
		Use:   "show",
		Short: "Show the IP filter",
		Example: `  vauban network show
  vauban network show --output json > network.json`,
		Args: cobra.NoArgs,
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, _ []string, out output) error {
		var n api.Network
		if _, err := call(c, r, http.MethodGet, "/api/network", nil, nil, &n); err != nil {
			return err
		}
		return printNetwork(c, out, n)
	})
}

func networkSet() *cobra.Command {
	var accept bool
	c := &cobra.Command{
		Use:   "set FILE",
		Short: "Replace the IP filter",
		Long: `Replace the IP filter by that of a JSON file; - reads standard input. It has one of
Azure's two forms. In the classic one the first rule that holds an address decides, and
whoever is in none is accepted:

  {"ipFilterRules": [{"filterName": "plant",  "action": "Accept", "ipMask": "10.0.0.0/8"},
                     {"filterName": "others", "action": "Reject", "ipMask": "0.0.0.0/0"}]}

In the newer one rules only allow, and the default action is for all others:

  {"networkRuleSets": {"defaultAction": "Deny", "ipRules":
                     [{"filterName": "plant",  "action": "Allow",  "ipMask": "10.0.0.0/8"}]}}

A rule may have a "target": deviceApi (MQTT, HTTPS, WebSocket, files), serviceApi, or all.
Devices that the new filter refuses are disconnected. Console and operator's API are not
filtered, so the filter can always be changed; but commands that call the service API, such
as vauban device, are. A filter that would refuse them is not taken without --accept-lockout.
An empty object {} removes the filter.`,
		Example: `  vauban network set network.json
  echo '{}' | vauban network set -`,
		Args: cobra.ExactArgs(1),
	}
	c.Flags().BoolVar(&accept, "accept-lockout", false, "set it even if this machine may not call the service API any longer")
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		text, err := readArgument(c, args[0])
		if err != nil {
			return err
		}
		query := url.Values{}
		if accept {
			query.Set("lockout", "accept")
		}
		var n api.Network
		if _, err := call(c, r, http.MethodPut, "/api/network", query, bytes.NewReader(text), &n); err != nil {
			return err
		}
		return printNetwork(c, out, n)
	})
}

func printNetwork(c *cobra.Command, out output, n api.Network) error {
	for _, warning := range n.Warnings {
		fmt.Fprintln(c.ErrOrStderr(), "vauban: "+warning)
	}
	if out == "json" {
		return printJSON(c.OutOrStdout(), n.Config)
	}
	rules, others := n.Rules, "Accept"
	if n.RuleSet != nil {
		rules, others = n.RuleSet.Rules, n.RuleSet.DefaultAction
	}
	w := table(c.OutOrStdout())
	fmt.Fprintln(w, "RULE\tADDRESSES\tTARGET\tACTION")
	for _, r := range rules {
		target := string(r.Target)
		if target == "" {
			target = "all"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.Name, r.Mask, target, r.Action)
	}
	fmt.Fprintf(w, "(others)\t\tall\t%s\n", others)
	return w.Flush()
}

func throttleCommand() *cobra.Command {
	return group("throttle", "Limit how often things may be asked of the hub", throttleShow(), throttleSet(), throttleReset())
}

func throttleShow() *cobra.Command {
	c := &cobra.Command{
		Use:   "show",
		Short: "Show the limits in force",
		Example: `  vauban throttle show
  vauban throttle show --output json`,
		Args: cobra.NoArgs,
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, _ []string, out output) error {
		return throttleCall(c, r, out, http.MethodGet, nil)
	})
}

func throttleSet() *cobra.Command {
	var tier string
	var units int
	var limits []string
	c := &cobra.Command{
		Use:   "set",
		Short: "Set limits, in place of those of the configuration file",
		Long: `Set limits: those of a tier of Azure, exceptions, or both. What is not named is not limited.
They hold for each server by itself, from now on and after restarts; the messages of a day
are counted over all servers.

Limits: connections, telemetry, cloudToDeviceSends, cloudToDeviceReceives, fileUploads,
directMethods, twinReads, twinUpdates, twinQueries, registry, jobs, jobDevices,
configurations (each as 100/s or 20/min) and dailyMessages (as 400000/day); off is none.`,
		Example: `  vauban throttle set --tier S1 --units 2
  vauban throttle set --limit telemetry=500/s --limit twinReads=50/s
  vauban throttle set --tier S3 --limit dailyMessages=off --output json`,
		Args: cobra.NoArgs,
	}
	c.Flags().StringVar(&tier, "tier", "", "F1, S1, S2 or S3")
	c.Flags().IntVar(&units, "units", 0, "units of the tier")
	c.Flags().StringArrayVar(&limits, "limit", nil, "a limit as NAME=RATE; may be given again")
	return apiCommand(c, func(c *cobra.Command, r *remote, _ []string, out output) error {
		body := struct {
			Tier   string            `json:"tier,omitempty"`
			Units  int               `json:"units,omitempty"`
			Limits map[string]string `json:"limits,omitempty"`
		}{tier, units, map[string]string{}}
		for _, l := range limits {
			name, rate, ok := strings.Cut(l, "=")
			if !ok || name == "" || rate == "" {
				return misuse("a limit is NAME=RATE, such as telemetry=500/s, not %q", l)
			}
			body.Limits[name] = rate
		}
		if tier == "" && len(limits) == 0 {
			return misuse("say which limits: --tier, --limit or both; `vauban throttle reset` removes what was set")
		}
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		return throttleCall(c, r, out, http.MethodPut, bytes.NewReader(text))
	})
}

func throttleReset() *cobra.Command {
	c := &cobra.Command{
		Use:   "reset",
		Short: "Return to the limits of the configuration file, or to none",
		Example: `  vauban throttle reset
  vauban throttle reset --output json`,
		Args: cobra.NoArgs,
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, _ []string, out output) error {
		return throttleCall(c, r, out, http.MethodDelete, nil)
	})
}

func throttleCall(c *cobra.Command, r *remote, out output, method string, body io.Reader) error {
	var t api.Throttles
	if _, err := call(c, r, method, "/api/throttles", nil, body, &t); err != nil {
		return err
	}
	if out == "json" {
		return printJSON(c.OutOrStdout(), t)
	}
	w := table(c.OutOrStdout())
	fmt.Fprintln(w, "LIMIT\tRATE")
	for _, name := range sortedNames(t.Effective) {
		fmt.Fprintf(w, "%s\t%s\n", name, t.Effective[name])
	}
	return w.Flush()
}

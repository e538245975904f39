package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/central/api"
	"github.com/vauban-iot/vauban/hub/registry"
)

func containCommand() *cobra.Command {
	return group("contain", "Hold back a device while you find out what it does", containList(), containShow(), containPreview(), containSet(), containUndo())
}

func containmentPath(device, below string) string {
	return "/api/containment/" + url.PathEscape(device) + below
}

func containList() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List the devices that are held back or observed",
		Example: `  vauban contain list
  vauban contain list --output json`,
		Args: cobra.NoArgs,
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, _ []string, out output) error {
		all := []registry.Containment{}
		for after := ""; ; {
			var p api.ContainmentPage
			if _, err := call(c, r, http.MethodGet, "/api/containment", url.Values{"after": {after}, "limit": {"1000"}}, nil, &p); err != nil {
				return err
			}
			all = append(all, p.Contained...)
			if after = p.Next; after == "" {
				break
			}
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), all)
		}
		w := table(c.OutOrStdout())
		fmt.Fprintln(w, "DEVICE\tLEVEL\tSINCE\tBY\tREASON")
		for _, x := range all {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", x.Device, x.Level, x.Since.Format(time.RFC3339), x.By, x.Reason)
		}
		return w.Flush()
	})
}

func containShow() *cobra.Command {
	c := &cobra.Command{
		Use:   "show DEVICE",
		Short: "Show how a device is held back, and what an undo returns to",
		Example: `  vauban contain show pump-7
  vauban contain show pump-7 --output json`,
		Args: cobra.ExactArgs(1),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		return containCall(c, r, out, http.MethodGet, containmentPath(args[0], ""), nil)
	})
}

func containPreview() *cobra.Command {
	c := &cobra.Command{
		Use:     "preview DEVICE LEVEL",
		Short:   "Show what a level would do to a device at this moment; nothing is changed",
		Example: `  vauban contain preview pump-7 cut`,
		Args:    cobra.ExactArgs(2),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		var e registry.Effect
		if _, err := call(c, r, http.MethodGet, containmentPath(args[0], "/effect"), url.Values{"level": {args[1]}}, nil, &e); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), e)
		}
		return printEffect(c, e)
	})
}

func printEffect(c *cobra.Command, e registry.Effect) error {
	orNone := func(ss []string) string {
		if len(ss) == 0 {
			return "none"
		}
		return strings.Join(ss, ", ")
	}
	w := table(c.OutOrStdout())
	fmt.Fprintf(w, "device\t%s\n", e.Device)
	fmt.Fprintf(w, "level\t%s -> %s\n", e.From, e.To)
	fmt.Fprintf(w, "connections that end\t%s\n", orNone(e.Sessions))
	fmt.Fprintf(w, "refused\t%s\n", orNone(e.Refused))
	fmt.Fprintf(w, "allowed\t%s\n", orNone(e.Allowed))
	fmt.Fprintf(w, "messages that wait\t%d, kept until they expire\n", e.Waiting)
	if e.Below > 0 {
		fmt.Fprintf(w, "devices below\t%d, %d connected; those that connect through it share its level\n", e.Below, e.BelowConnected)
	}
	return w.Flush()
}

func containSet() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "set DEVICE LEVEL",
		Short: "Hold a device back, or release it",
		Long: `Hold a device back, or release it. Its modules share its level, and so do devices that connect
through it. Levels:

  none            nothing is held back
  observe         nothing is, but everything the device does is logged
  telemetry-only  it may send telemetry and security messages; twin, methods, messages to it,
                  files and certificates are refused
  cut             it may not connect

Connections whose rights change end at once; a device that may connects again by itself. Its
identity, keys and twin stay as they are. See the effect first with vauban contain preview,
and take it back with vauban contain undo.`,
		Example: `  vauban contain preview pump-7 telemetry-only
  vauban contain set pump-7 telemetry-only --reason "scans the plant, ticket 4711"
  vauban contain set pump-7 none`,
		Args: cobra.ExactArgs(2),
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for whoever looks at it later")
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		body, err := json.Marshal(map[string]string{"level": args[1], "reason": reason})
		if err != nil {
			return err
		}
		return containCall(c, r, out, http.MethodPut, containmentPath(args[0], ""), body)
	})
}

func containUndo() *cobra.Command {
	c := &cobra.Command{
		Use:     "undo DEVICE",
		Short:   "Return a device to the level before the last change",
		Example: `  vauban contain undo pump-7`,
		Args:    cobra.ExactArgs(1),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		return containCall(c, r, out, http.MethodPost, containmentPath(args[0], "/undo"), nil)
	})
}

func containCall(c *cobra.Command, r *remote, out output, method, path string, body []byte) error {
	var x registry.Containment
	if _, err := call(c, r, method, path, nil, bytes.NewReader(body), &x); err != nil {
		return err
	}
	if out == "json" {
		return printJSON(c.OutOrStdout(), x)
	}
	w := table(c.OutOrStdout())
	fmt.Fprintf(w, "device\t%s\n", x.Device)
	fmt.Fprintf(w, "level\t%s\n", x.Level)
	if !x.Since.IsZero() {
		fmt.Fprintf(w, "since\t%s, by %s\n", x.Since.Format(time.RFC3339), x.By)
	}
	if x.Reason != "" {
		fmt.Fprintf(w, "reason\t%s\n", x.Reason)
	}
	if x.Before != nil {
		fmt.Fprintf(w, "undo returns to\t%s\n", x.Before.Level)
	}
	return w.Flush()
}

package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/central/api"
	"github.com/vauban-iot/vauban/defender/posture"
)

const (
	recommendationsPath     = "/api/recommendations"
	recommendationTypesPath = "/api/recommendation-types"
)

func recommendationCommand() *cobra.Command {
	return group("recommendation", "See what devices and the hub should do better", recommendationList(), recommendationShow(), recommendationTypes(),
		recommendationSwitch("enable", "Evaluate types of recommendations again", `Evaluate types of recommendations again, which were disabled. What the hub knows is judged within
moments, what agents report when they report it the next time.`, true),
		recommendationSwitch("disable", "Evaluate types of recommendations no more", `Evaluate types of recommendations no more. What is active of them is resolved, and counts no more in
the score. IoT_CISBenchmarks disables all checks, IoT_CISBenchmarks_ and a check's id one.`, false),
		recommendationScore())
}

func recommendationList() *cobra.Command {
	var device, securityGroup, kind, state, severity string
	var hub bool
	var limit int
	var before uint64
	c := &cobra.Command{
		Use:   "list",
		Short: "List recommendations, the last changed first",
		Long: `List recommendations, the last changed first: those that are active, unless --state says otherwise.
A recommendation resolves itself when what it recommends is done.`,
		Example: `  vauban recommendation list
  vauban recommendation list --device lamp-1 --state all
  vauban recommendation list --type IoT_OpenPorts --output json`,
		Args: cobra.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&device, "device", "", "only those about this device and its modules")
	f.StringVar(&securityGroup, "group", "", "only those about devices of this security group")
	f.BoolVar(&hub, "hub", false, "only those about the hub itself")
	f.StringVar(&kind, "type", "", "only those of this type, such as IoT_OpenPorts")
	f.StringVar(&state, "state", "Active", "Active, Resolved or all")
	f.StringVar(&severity, "severity", "", "only those of this severity: High, Medium, Low, Informational")
	f.Uint64Var(&before, "before", 0, "only those before this sequence, with which a full page ends")
	f.IntVar(&limit, "limit", 100, "at most this many, 1 to 1000")
	return apiCommand(c, func(c *cobra.Command, r *remote, _ []string, out output) error {
		query := url.Values{"limit": {strconv.Itoa(limit)}}
		if state == "all" {
			state = ""
		}
		for name, value := range map[string]string{"device": device, "group": securityGroup, "type": kind, "state": state, "severity": severity} {
			if value != "" {
				query.Set(name, value)
			}
		}
		if hub {
			query.Set("hub", "true")
		}
		if before > 0 {
			query.Set("before", strconv.FormatUint(before, 10))
		}
		var list struct {
			Recommendations []posture.Recommendation `json:"recommendations"`
		}
		if err := callList(c, r, recommendationsPath, query, &list); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), list.Recommendations)
		}
		if len(list.Recommendations) == 0 {
			fmt.Fprintln(c.ErrOrStderr(), "no recommendation")
			return nil
		}
		w := table(c.OutOrStdout())
		fmt.Fprintln(w, "SINCE\tSEVERITY\tSTATE\tDEVICE\tTYPE\tTITLE\tID")
		for i := range list.Recommendations {
			v := &list.Recommendations[i]
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", v.StatusChanged.Local().Format(time.DateTime), v.Severity, v.State, aboutWhat(v), v.Type, v.Title, v.ID)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		if n := len(list.Recommendations); n == limit {
			fmt.Fprintf(c.ErrOrStderr(), "there may be more: --before %d\n", list.Recommendations[n-1].Sequence)
		}
		return nil
	})
}

func aboutWhat(r *posture.Recommendation) string {
	if r.Device == "" {
		return "(hub)"
	}
	return r.Of().String()
}

func recommendationShow() *cobra.Command {
	c := &cobra.Command{
		Use:   "show ID",
		Short: "Show a recommendation with why it stands and what to do",
		Example: `  vauban recommendation show 6f1d5c1e-2d0b-8c55-9a4e-0f6c1f0b7a21
  vauban recommendation show 6f1d5c1e-2d0b-8c55-9a4e-0f6c1f0b7a21 --output json`,
		Args: cobra.ExactArgs(1),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		var v posture.Recommendation
		if _, err := call(c, r, http.MethodGet, recommendationsPath+"/"+url.PathEscape(args[0]), nil, nil, &v); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), v)
		}
		w := table(c.OutOrStdout())
		line := func(name, value string) {
			if value != "" {
				fmt.Fprintf(w, "%s\t%s\n", name, value)
			}
		}
		when := func(t time.Time) string {
			if t.IsZero() {
				return ""
			}
			return t.Local().Format(time.DateTime)
		}
		line("Title", v.Title)
		line("Type", v.Type)
		line("Severity", string(v.Severity))
		line("State", string(v.State))
		line("Device", aboutWhat(&v))
		line("First evaluated", when(v.FirstEvaluated))
		line("Discovered", when(v.Discovered))
		line("Resolved", when(v.Resolved))
		if err := w.Flush(); err != nil {
			return err
		}
		fmt.Fprintf(c.OutOrStdout(), "\n%s\n", v.Description)
		for _, step := range v.Remediation {
			fmt.Fprintf(c.OutOrStdout(), "- %s\n", step)
		}
		if len(v.Data) > 0 {
			var b bytes.Buffer
			if err := json.Indent(&b, v.Data, "", "  "); err != nil {
				return fmt.Errorf("unreadable answer: %w", err)
			}
			fmt.Fprintf(c.OutOrStdout(), "\nWhy:\n%s\n", safeLines(b.String()))
		}
		return nil
	})
}

// safeLines keeps what a device chose from moving the cursor; JSON escapes all control characters but those of C1.
func safeLines(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 0x7f && r < 0xa0 {
			return '\uFFFD'
		}
		return r
	}, s)
}

func recommendationTypes() *cobra.Command {
	c := &cobra.Command{
		Use:   "types",
		Short: "List the types of recommendations, and how many devices each concerns",
		Example: `  vauban recommendation types
  vauban recommendation types --output json`,
		Args: cobra.NoArgs,
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, _ []string, out output) error {
		var list struct {
			Types []posture.TypeState `json:"recommendationTypes"`
		}
		if err := callList(c, r, recommendationTypesPath, nil, &list); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), list.Types)
		}
		w := table(c.OutOrStdout())
		fmt.Fprintln(w, "TYPE\tSEVERITY\tENABLED\tDEVICES\tNEEDS\tTITLE")
		for _, t := range list.Types {
			enabled, devices := "yes", strconv.Itoa(t.Devices)
			if !t.Enabled {
				enabled = "no"
			}
			if t.Hub {
				devices = "(hub)"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", t.Name, t.Severity, enabled, devices, t.Needs, t.Title)
		}
		return w.Flush()
	})
}

func recommendationSwitch(name, short, long string, enabled bool) *cobra.Command {
	c := &cobra.Command{
		Use:   name + " TYPE...",
		Short: short,
		Long:  long,
		Example: fmt.Sprintf(`  vauban recommendation %[1]s IoT_InstallAgent
  vauban recommendation %[1]s IoT_OpenPorts IoT_CISBenchmarks --output json`, name),
		Args: cobra.MinimumNArgs(1),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		all := []api.Switched{}
		for _, kind := range args {
			body, err := json.Marshal(api.Switch{Enabled: &enabled})
			if err != nil {
				return err
			}
			var done api.Switched
			if _, err := call(c, r, http.MethodPut, recommendationTypesPath+"/"+url.PathEscape(kind), nil, bytes.NewReader(body), &done); err != nil {
				return err
			}
			all = append(all, done)
			switch {
			case out == "json":
			case enabled:
				fmt.Fprintf(c.OutOrStdout(), "%s is evaluated\n", kind)
			default:
				fmt.Fprintf(c.OutOrStdout(), "%s is not evaluated; %d were resolved\n", kind, done.Resolved)
			}
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), all)
		}
		return nil
	})
}

func recommendationScore() *cobra.Command {
	var device, securityGroup string
	c := &cobra.Command{
		Use:   "score",
		Short: "Show the security score of the fleet, a group or a device, and how it came about",
		Long: `Show the security score of the fleet, of a security group or of a device, 0 to 100, and what took
how much of it. A device loses 30 points for each type of recommendation of high severity that is
active for it, 12 for medium, 4 for low and 1 for informational ones; it has none less than 0. A
group has the mean of its devices, and the fleet that, less what concerns the hub itself.`,
		Example: `  vauban recommendation score
  vauban recommendation score --group plant
  vauban recommendation score --device lamp-1 --output json`,
		Args: cobra.NoArgs,
	}
	c.Flags().StringVar(&device, "device", "", "of this device")
	c.Flags().StringVar(&securityGroup, "group", "", "of this security group")
	return apiCommand(c, func(c *cobra.Command, r *remote, _ []string, out output) error {
		query := url.Values{}
		for name, value := range map[string]string{"device": device, "group": securityGroup} {
			if value != "" {
				query.Set(name, value)
			}
		}
		var s posture.Score
		if _, err := call(c, r, http.MethodGet, "/api/security-score", query, nil, &s); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), s)
		}
		fmt.Fprintf(c.OutOrStdout(), "%d of 100; %d of %d devices have recommendations\n\n", s.Score, s.Unhealthy, s.Devices)
		w := table(c.OutOrStdout())
		fmt.Fprintln(w, "TAKES\tWEIGHT\tDEVICES\tSEVERITY\tTYPE")
		for _, l := range s.Lines {
			devices := strconv.Itoa(l.Devices)
			if l.Hub {
				devices = "(hub)"
			}
			fmt.Fprintf(w, "-%.2f\t%d\t%s\t%s\t%s\n", l.Takes, l.Weight, devices, l.Severity, l.Type)
		}
		if s.GivenBack > 0 {
			fmt.Fprintf(w, "+%.2f\t\t\t\tnothing has less than 0\n", s.GivenBack)
		}
		return w.Flush()
	})
}

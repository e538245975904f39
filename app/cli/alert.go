package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/central/api"
	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/record"
)

const alertsPath = "/api/alerts"

func alertCommand() *cobra.Command {
	return group("alert", "Read and judge Defender's alerts", alertList(), alertShow(),
		alertJudge("dismiss", "Dismiss alerts for good", `Dismiss alerts for good: they count on when the same is seen again on that day, and are not
open again. To hear no more of something on later days either, suppress it.`, "dismissed"),
		alertJudge("resolve", "Say that alerts are dealt with", `Say that alerts are dealt with. One is open again when the same is seen again on that day.`, "resolved"),
		alertSuppress(), alertReplay(),
		group("suppression", "Look at what is held back, and end it", suppressionList(), suppressionDelete()))
}

// maxList bounds the answer of a list.
const maxList = 64 << 20

// callList is call for answers that may be long.
func callList(c *cobra.Command, r *remote, path string, query url.Values, into any) error {
	res, err := r.api(c.Context(), http.MethodGet, path, query, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(io.LimitReader(res.Body, maxList)).Decode(into); err != nil {
		return fmt.Errorf("unreadable answer: %w", err)
	}
	return nil
}

func alertList() *cobra.Command {
	var device, kind, status, severity, group string
	var limit int
	c := &cobra.Command{
		Use:   "list",
		Short: "List alerts, newest first",
		Example: `  vauban alert list
  vauban alert list --status open --severity High
  vauban alert list --device lamp-1 --output json`,
		Args: cobra.NoArgs,
	}
	c.Flags().StringVar(&device, "device", "", "only alerts about this device")
	c.Flags().StringVar(&kind, "type", "", "only alerts of this type, such as IoT_TiConnection")
	c.Flags().StringVar(&status, "status", "", "only alerts that are open, dismissed, resolved or suppressed")
	c.Flags().StringVar(&group, "group", "", "only alerts about devices of this security group")
	c.Flags().StringVar(&severity, "severity", "", "only alerts of this severity: High, Medium, Low")
	c.Flags().IntVar(&limit, "limit", 100, "at most this many, 1 to 1000")
	return apiCommand(c, func(c *cobra.Command, r *remote, _ []string, out output) error {
		query := url.Values{"limit": {strconv.Itoa(limit)}}
		for name, value := range map[string]string{"device": device, "type": kind, "status": status, "severity": severity, "group": group} {
			if value != "" {
				query.Set(name, value)
			}
		}
		var list struct {
			Alerts []alert.Alert `json:"alerts"`
		}
		if err := callList(c, r, alertsPath, query, &list); err != nil {
			return err
		}
		return printAlerts(c, out, list.Alerts)
	})
}

func printAlerts(c *cobra.Command, out output, list []alert.Alert) error {
	if out == "json" {
		if list == nil {
			list = []alert.Alert{}
		}
		return printJSON(c.OutOrStdout(), list)
	}
	if len(list) == 0 {
		fmt.Fprintln(c.ErrOrStderr(), "no alert")
		return nil
	}
	w := table(c.OutOrStdout())
	fmt.Fprintln(w, "LAST SEEN\tSEVERITY\tSTATUS\tDEVICE\tINDICATOR\tCOUNT\tTITLE\tID")
	for _, a := range list {
		of := a.Of().String()
		if of == "" {
			of = "(hub)"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", a.LastSeen.Local().Format("2006-01-02 15:04:05"), a.Severity, a.Status, of, a.Indicator, a.Count, a.Title, a.ID)
	}
	return w.Flush()
}

func alertShow() *cobra.Command {
	c := &cobra.Command{
		Use:   "show ID",
		Short: "Show an alert with its evidence and what to do",
		Example: `  vauban alert show 0b1c2d3e4f5a69788796a5b4c3d2e1f0
  vauban alert show 0b1c2d3e4f5a69788796a5b4c3d2e1f0 --output json`,
		Args: cobra.ExactArgs(1),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		var a alert.Alert
		if err := callList(c, r, alertsPath+"/"+url.PathEscape(args[0]), nil, &a); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), a)
		}
		w := table(c.OutOrStdout())
		line := func(name, value string) {
			if value != "" {
				fmt.Fprintf(w, "%s\t%s\n", name, value)
			}
		}
		line("Alert", a.ID)
		line("Type", a.Type)
		line("Severity", string(a.Severity))
		line("Title", a.Title)
		status := string(a.Status)
		if a.Status == alert.Suppressed {
			status += " until " + a.SuppressedUntil.Local().Format(time.DateTime)
		}
		if a.StatusBy != "" {
			status += ", by " + a.StatusBy + " at " + a.StatusTime.Local().Format(time.DateTime)
		}
		line("Status", status)
		line("Comment", a.Comment)
		line("Device", a.Of().String())
		line("Security group", a.Group)
		line("Indicator", a.Indicator)
		line("Source", a.Source)
		line("Seen", fmt.Sprintf("%d times, %s to %s", a.Count, a.FirstSeen.Local().Format(time.DateTime), a.LastSeen.Local().Format(time.DateTime)))
		line("ATT&CK for ICS", alert.Label(a.Tactics))
		line("Techniques", alert.Label(a.Techniques))
		if err := w.Flush(); err != nil {
			return err
		}
		fmt.Fprintf(c.OutOrStdout(), "\n%s\n", a.Description)
		for _, step := range a.Remediation {
			fmt.Fprintf(c.OutOrStdout(), "- %s\n", step)
		}
		for i, e := range a.Evidence {
			if i == 0 {
				fmt.Fprintln(c.OutOrStdout(), "\nEvidence:")
			}
			fmt.Fprintf(c.OutOrStdout(), "%s  %s  %s\n", e.Time.Local().Format(time.DateTime), e.Event, e.Details)
		}
		return nil
	})
}

// alertJudge is a command that gives alerts a status.
func alertJudge(name, short, long, done string) *cobra.Command {
	var comment string
	c := &cobra.Command{
		Use:   name + " ID...",
		Short: short,
		Long:  long,
		Example: fmt.Sprintf(`  vauban alert %[1]s 0b1c2d3e4f5a69788796a5b4c3d2e1f0
  vauban alert %[1]s 0b1c2d3e4f5a69788796a5b4c3d2e1f0 --comment "maintenance of the 4th"`, name),
		Args: cobra.MinimumNArgs(1),
	}
	c.Flags().StringVar(&comment, "comment", "", "why")
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		var judged []alert.Alert
		for _, id := range args {
			body, err := json.Marshal(api.Comment{Comment: comment})
			if err != nil {
				return err
			}
			var a alert.Alert
			if _, err := call(c, r, http.MethodPost, alertsPath+"/"+url.PathEscape(id)+"/"+name, nil, bytes.NewReader(body), &a); err != nil {
				return err
			}
			judged = append(judged, a)
			if out != "json" {
				fmt.Fprintf(c.OutOrStdout(), "%s %s\n", id, done)
			}
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), judged)
		}
		return nil
	})
}

// parseSpan reads a duration that may be in days.
func parseSpan(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, misuse("%q is no time such as 12h or 7d", s)
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, misuse("%q is no time such as 12h or 7d", s)
	}
	return d, nil
}

func alertSuppress() *cobra.Command {
	var kind, device, indicator, reason, span string
	c := &cobra.Command{
		Use:   "suppress [ID]",
		Short: "Hold back alerts until a time",
		Long: `Hold back alerts until a time: those like the alert ID (of its type, device and indicator),
or those of a type, a device, an indicator, or of several of these at once. Alerts that are
held back are raised and counted all the same; they are open again when the time is over, or
when the suppression is deleted.`,
		Example: `  vauban alert suppress 0b1c2d3e4f5a69788796a5b4c3d2e1f0 --for 12h
  vauban alert suppress --type IoT_Expired_SAS_Token --device lamp-1 --for 7d --reason battery`,
		Args: cobra.MaximumNArgs(1),
	}
	f := c.Flags()
	f.StringVar(&kind, "type", "", "alerts of this type")
	f.StringVar(&device, "device", "", "alerts about this device")
	f.StringVar(&indicator, "indicator", "", "alerts about this indicator")
	f.StringVar(&reason, "reason", "", "why")
	f.StringVar(&span, "for", "24h", "for how long: hours as 12h, days as 7d; a year at most")
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		d, err := parseSpan(span)
		if err != nil {
			return err
		}
		named := kind != "" || device != "" || indicator != ""
		if named == (len(args) == 1) {
			return misuse("give the id of an alert, or --type, --device or --indicator")
		}
		path, v := "/api/suppressions", any(alert.Suppression{Type: kind, Device: device, Indicator: indicator, Reason: reason, Expires: time.Now().Add(d)})
		if len(args) == 1 {
			path, v = alertsPath+"/"+url.PathEscape(args[0])+"/suppress", api.Until{Expires: time.Now().Add(d), Reason: reason}
		}
		body, err := json.Marshal(v)
		if err != nil {
			return err
		}
		var made api.Suppressed
		if _, err := call(c, r, http.MethodPost, path, nil, bytes.NewReader(body), &made); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), made)
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "suppression %s until %s holds back %d alerts\n", made.ID, made.Expires.Local().Format(time.DateTime), made.Alerts)
		return err
	})
}

func alertReplay() *cobra.Command {
	c := &cobra.Command{
		Use:   "replay ID",
		Short: "Judge the evidence of an alert by the lists and rules of this moment",
		Long: `Judge the evidence of an alert by the lists and rules of this moment, and list what would be
raised. Nothing is raised: this shows whether a changed rule or list would still find it.`,
		Example: `  vauban alert replay 0b1c2d3e4f5a69788796a5b4c3d2e1f0`,
		Args:    cobra.ExactArgs(1),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		var list struct {
			Alerts []alert.Alert `json:"alerts"`
		}
		if _, err := call(c, r, http.MethodPost, alertsPath+"/"+url.PathEscape(args[0])+"/replay", nil, nil, &list); err != nil {
			return err
		}
		return printAlerts(c, out, list.Alerts)
	})
}

func suppressionList() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List what is held back, the first to expire first",
		Example: `  vauban alert suppression list
  vauban alert suppression list --output json`,
		Args: cobra.NoArgs,
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, _ []string, out output) error {
		var list struct {
			Suppressions []alert.Suppression `json:"suppressions"`
		}
		if err := callList(c, r, "/api/suppressions", nil, &list); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), list.Suppressions)
		}
		w := table(c.OutOrStdout())
		fmt.Fprintln(w, "ID\tEXPIRES\tTYPE\tDEVICE\tINDICATOR\tBY\tREASON")
		for _, s := range list.Suppressions {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.ID, s.Expires.Local().Format(time.DateTime), s.Type, s.Device, s.Indicator, s.By, s.Reason)
		}
		return w.Flush()
	})
}

func suppressionDelete() *cobra.Command {
	c := &cobra.Command{
		Use:     "delete ID",
		Short:   "End a suppression before its time",
		Example: `  vauban alert suppression delete 0b1c2d3e4f5a69788796a5b4c3d2e1f0`,
		Args:    cobra.ExactArgs(1),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		var answer struct {
			Alerts int `json:"alerts"`
		}
		if _, err := call(c, r, http.MethodDelete, "/api/suppressions/"+url.PathEscape(args[0]), nil, nil, &answer); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), answer)
		}
		_, err := fmt.Fprintf(c.OutOrStdout(), "%d alerts are open again\n", answer.Alerts)
		return err
	})
}

func securityEventCommand() *cobra.Command {
	return group("security-event", "Read what security agents reported", securityEventList())
}

func securityEventList() *cobra.Command {
	var device, name, since, before string
	var invalid bool
	var limit int
	c := &cobra.Command{
		Use:   "list",
		Short: "List security events, newest first",
		Long: `List what security agents reported, newest first, one row for each payload item. Messages that
cannot be read are rows of the name InvalidMessage, with the reason. Events of 7 days are kept,
a million in all and 50,000 of one device.`,
		Example: `  vauban security-event list --device lamp-1
  vauban security-event list --name NetworkActivity --since 1h --output json
  vauban security-event list --invalid`,
		Args: cobra.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&device, "device", "", "only events of this device")
	f.StringVar(&name, "name", "", "only events of this name, such as NetworkActivity")
	f.BoolVar(&invalid, "invalid", false, "only messages that could not be read")
	f.StringVar(&since, "since", "", "only events of this time: hours as 12h, days as 7d")
	f.StringVar(&before, "before", "", "only events before this place, which a full page ends with")
	f.IntVar(&limit, "limit", 100, "at most this many events, 1 to 1000")
	return apiCommand(c, func(c *cobra.Command, r *remote, _ []string, out output) error {
		query := url.Values{"limit": {strconv.Itoa(limit)}}
		if since != "" {
			d, err := parseSpan(since)
			if err != nil {
				return err
			}
			query.Set("from", time.Now().Add(-d).UTC().Format(time.RFC3339))
		}
		for key, value := range map[string]string{"device": device, "name": name, "before": before} {
			if value != "" {
				query.Set(key, value)
			}
		}
		if invalid {
			query.Set("invalid", "true")
		}
		var list struct {
			Events []record.Row `json:"events"`
			Next   string       `json:"next"`
		}
		if err := callList(c, r, "/api/security-events", query, &list); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), list.Events)
		}
		if len(list.Events) == 0 {
			fmt.Fprintln(c.ErrOrStderr(), "no event")
			return nil
		}
		w := table(c.OutOrStdout())
		fmt.Fprintln(w, "TIME\tFROM\tNAME\tDETAILS")
		for i := range list.Events {
			e := &list.Events[i]
			from, details := e.DeviceID, string(e.Details)
			if e.ModuleID != "" {
				from += "/" + e.ModuleID
			}
			if e.Problem != "" {
				details = "(" + e.Problem + ") " + details
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", e.Generated.Local().Format(time.DateTime), from, e.Name, printable(details))
		}
		if err := w.Flush(); err != nil {
			return err
		}
		if list.Next != "" {
			fmt.Fprintf(c.ErrOrStderr(), "there may be more: --before %s\n", list.Next)
		}
		return nil
	})
}

// inert takes the place of a character that would command a terminal.
func inert(r rune) rune {
	if unicode.IsControl(r) {
		return '\uFFFD'
	}
	return r
}

// printable keeps what a device chose from moving the cursor or running over.
func printable(s string) string {
	const longest = 160
	s = strings.Map(inert, s)
	if r := []rune(s); len(r) > longest {
		return string(r[:longest]) + "..."
	}
	return s
}

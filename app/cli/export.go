package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/export"
	workspace "github.com/vauban-iot/vauban/defender/table"
)

func exportCommand() *cobra.Command {
	return group("export", "Send alerts, recommendations and security events to a SIEM, and read them as tables",
		exportCreate(), exportList(), exportShow(), exportUpdate(), exportDelete(), exportTest(), exportTables())
}

func exportPath(name string) string { return "/api/exports/" + url.PathEscape(name) }

// exportFlags are what an operator may set, each a flag.
type exportFlags struct {
	cfg                          export.Config
	kind, format, severity       string
	data, headers                []string
	ca, certificate, key, config string
	token, signingKey, sharedKey string
	disabled                     bool
}

func (x *exportFlags) register(f *pflag.FlagSet) {
	f.StringVar(&x.kind, "kind", "", "files, webhook, syslog or loganalytics")
	f.StringSliceVar(&x.data, "send", nil, "what is sent: alerts, recommendations, events (default the first two)")
	f.StringVar(&x.format, "format", "", "table, ocsf or cef (default: syslog cef, webhook ocsf, others table)")
	f.StringVar(&x.severity, "min-severity", "", "leave out alerts and recommendations that are less grave")
	f.StringVar(&x.cfg.Product, "product", "", `ProductName of rows: "vauban", or "azure" for queries made for Azure`)
	f.StringVar(&x.cfg.From, "from", "", `where a new export begins: "now" (default) or "beginning"`)
	f.StringVar(&x.cfg.GiveUpAfter, "give-up-after", "", "how long a failing export holds on to an item (default 72h)")
	f.BoolVar(&x.disabled, "disabled", false, "send nothing until it is enabled, and go on then")
	f.Int64Var(&x.cfg.MaxBytes, "max-bytes", 0, "files: of all of them; the oldest go (default 10 GiB)")
	f.StringVar(&x.cfg.URL, "url", "", "webhook, loganalytics: address")
	f.StringVar(&x.cfg.Body, "body", "", `webhook: "array" of JSON (default) or "ndjson"`)
	f.StringVar(&x.token, "token", "", "webhook: bearer token, or @FILE")
	f.StringArrayVar(&x.headers, "header", nil, `webhook: one more header, "Name: value" or "Name: @FILE"; may be given again`)
	f.StringVar(&x.signingKey, "signing-key", "", "webhook: key of the header Vauban-Signature, or @FILE")
	f.StringVar(&x.cfg.Workspace, "workspace", "", "loganalytics: id of the workspace")
	f.StringVar(&x.sharedKey, "shared-key", "", "loganalytics: key of the workspace, or @FILE")
	f.StringVar(&x.cfg.Address, "address", "", "syslog: host:port")
	f.StringVar(&x.cfg.Transport, "transport", "", `syslog: "tls" (default); for laboratories "tcp" or "udp"`)
	f.StringVar(&x.cfg.ServerName, "server-name", "", "syslog: name in the server's certificate, when it is not the host")
	f.StringVar(&x.ca, "ca", "", "PEM file of the CA that the server is trusted by, in place of the system's")
	f.StringVar(&x.certificate, "cert", "", "syslog: PEM file of the certificate to show, with its chain")
	f.StringVar(&x.key, "key", "", "syslog: PEM file of its key")
	f.StringVar(&x.config, "config", "", "JSON file with all of this; - reads standard input")
}

// apply puts what was given on the command line over c.
func (x *exportFlags) apply(cmd *cobra.Command, c *export.Config) error {
	f := cmd.Flags()
	if x.config != "" {
		text, err := readArgument(cmd, x.config)
		if err != nil {
			return err
		}
		*c = export.Config{}
		if err := json.Unmarshal(text, c); err != nil {
			return fmt.Errorf("%s is no export: %w", x.config, err)
		}
	}
	for name, set := range map[string]func(){
		"kind": func() { c.Kind = export.Kind(x.kind) }, "format": func() { c.Format = export.Format(x.format) }, "min-severity": func() { c.MinSeverity = alert.Severity(x.severity) },
		"send": func() {
			c.Data = nil
			for _, d := range x.data {
				c.Data = append(c.Data, export.Data(d))
			}
		},
		"product": func() { c.Product = x.cfg.Product }, "from": func() { c.From = x.cfg.From }, "give-up-after": func() { c.GiveUpAfter = x.cfg.GiveUpAfter },
		"disabled": func() { c.Disabled = x.disabled }, "max-bytes": func() { c.MaxBytes = x.cfg.MaxBytes }, "url": func() { c.URL = x.cfg.URL }, "body": func() { c.Body = x.cfg.Body },
		"workspace": func() { c.Workspace = x.cfg.Workspace }, "address": func() { c.Address = x.cfg.Address }, "transport": func() { c.Transport = x.cfg.Transport },
		"server-name": func() { c.ServerName = x.cfg.ServerName },
	} {
		if f.Changed(name) {
			set()
		}
	}
	for name, s := range map[string]struct {
		from string
		to   *string
	}{"token": {x.token, &c.Token}, "signing-key": {x.signingKey, &c.SigningKey}, "shared-key": {x.sharedKey, &c.SharedKey}} {
		if f.Changed(name) {
			var err error
			if *s.to, err = secretArgument(s.from); err != nil {
				return err
			}
		}
	}
	for name, s := range map[string]struct {
		from string
		to   *string
	}{"ca": {x.ca, &c.CA}, "cert": {x.certificate, &c.Certificate}, "key": {x.key, &c.Key}} {
		if f.Changed(name) {
			*s.to = ""
			if s.from != "" {
				pem, err := os.ReadFile(s.from)
				if err != nil {
					return err
				}
				*s.to = string(pem)
			}
		}
	}
	if f.Changed("header") {
		c.Headers = make(map[string]string)
	}
	for _, h := range x.headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return misuse("a header is \"Name: value\", not %q", h)
		}
		var err error
		if c.Headers[strings.TrimSpace(name)], err = secretArgument(strings.TrimSpace(value)); err != nil {
			return err
		}
	}
	return nil
}

func putExport(c *cobra.Command, r *remote, out output, cfg export.Config) error {
	body, err := json.Marshal(cfg)
	if err != nil {
		return err
	}
	var set export.Export
	if _, err := call(c, r, http.MethodPut, exportPath(cfg.Name), nil, bytes.NewReader(body), &set); err != nil {
		return err
	}
	return printExports(c, out, []export.Export{set})
}

func listExports(c *cobra.Command, r *remote) ([]export.Export, error) {
	var list struct{ Exports []export.Export }
	err := callList(c, r, "/api/exports", nil, &list)
	return list.Exports, err
}

func exportCreate() *cobra.Command {
	var x exportFlags
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Begin to send alerts, recommendations or security events somewhere",
		Long: `Begin to send what Defender finds somewhere, from now on, in order and at least once:

  files         lines of JSON below the folder of routed messages, a file for each table and day
  webhook       POST with a JSON array or lines of JSON; a bearer token, headers, a signature
  syslog        RFC 5424 over TLS (RFC 5425), the server verified, a client certificate if wanted
  loganalytics  the HTTP data collector API of Azure Monitor

in the rows of the workspace tables of Azure, as OCSF, or, to syslog, as CEF. An export that
fails is tried again, later and later; what is older than --give-up-after is given up then, and
counted. A key or token with @ before it is read from that file. --config takes all of it from a
JSON file, with the members that "export show --output json" shows.`,
		Example: `  vauban export create siem --kind syslog --address siem.example:6514 --ca ca.pem
  vauban export create soc --kind webhook --url https://soc.example/in --token @token.txt
  vauban export create raw --kind files --send alerts,events --from beginning`,
		Args: cobra.ExactArgs(1),
	}
	x.register(c.Flags())
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		all, err := listExports(c, r)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(all, func(e export.Export) bool { return e.Name == args[0] }) {
			return fmt.Errorf("there is an export %s already; change it with `vauban export update`", args[0])
		}
		var cfg export.Config
		if err := x.apply(c, &cfg); err != nil {
			return err
		}
		cfg.Name = args[0]
		return putExport(c, r, out, cfg)
	})
}

func exportUpdate() *cobra.Command {
	var x exportFlags
	c := &cobra.Command{
		Use:   "update NAME",
		Short: "Change an export, which goes on where it was",
		Long: `Change what is given of an export; the rest stays, secrets included, unless it goes to another
place now: then they must be given again. It goes on where it was.`,
		Example: `  vauban export update siem --min-severity High
  vauban export update siem --disabled
  vauban export update siem --disabled=false`,
		Args: cobra.ExactArgs(1),
	}
	x.register(c.Flags())
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		var e export.Export
		if _, err := call(c, r, http.MethodGet, exportPath(args[0]), nil, nil, &e); err != nil {
			return err
		}
		if err := x.apply(c, &e.Config); err != nil {
			return err
		}
		e.Name = args[0]
		return putExport(c, r, out, e.Config)
	})
}

func exportList() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List the exports and how they do",
		Example: `  vauban export list
  vauban export list --output json`,
		Args: cobra.NoArgs,
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, _ []string, out output) error {
		all, err := listExports(c, r)
		if err != nil {
			return err
		}
		return printExports(c, out, all)
	})
}

func exportShow() *cobra.Command {
	c := &cobra.Command{
		Use:   "show NAME",
		Short: "Show an export, how far it is and what went wrong last",
		Example: `  vauban export show siem
  vauban export show siem --output json`,
		Args: cobra.ExactArgs(1),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		var e export.Export
		if _, err := call(c, r, http.MethodGet, exportPath(args[0]), nil, nil, &e); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), e)
		}
		w := table(c.OutOrStdout())
		line := func(name string, value any) { fmt.Fprintf(w, "%s\t%v\n", name, value) }
		line("export", e.Name)
		line("to", string(e.Kind)+" "+e.URL+e.Address)
		line("format", e.Format)
		line("data", e.Data)
		line("state", exportState(&e))
		line("sent", e.State.Sent)
		line("waiting", fmt.Sprintf("%d alerts, %d recommendations, %d events", e.Waiting.Alerts, e.Waiting.Recommendations, e.Waiting.Events))
		line("given up", e.State.GivenUp)
		if e.State.LastGivenUp != "" {
			line("last given up", printable(e.State.LastGivenUp))
		}
		line("last success", dated(e.State.LastSuccess))
		line("last attempt", dated(e.State.LastAttempt))
		if e.State.Error != "" {
			line("next attempt", dated(e.State.NextAttempt))
			line("error", printable(e.State.Error))
		}
		return w.Flush()
	})
}

func exportDelete() *cobra.Command {
	c := &cobra.Command{
		Use:     "delete NAME",
		Short:   "End an export; what it wrote to files stays",
		Example: `  vauban export delete siem`,
		Args:    cobra.ExactArgs(1),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		if _, err := call(c, r, http.MethodDelete, exportPath(args[0]), nil, nil, nil); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), map[string]string{"deleted": args[0]})
		}
		_, err := fmt.Fprintf(c.OutOrStdout(), "%s deleted\n", args[0])
		return err
	})
}

func exportTest() *cobra.Command {
	c := &cobra.Command{
		Use:   "test NAME",
		Short: "Send an alert that says that it is a test",
		Long: `Send an alert Vauban_Test of severity Informational to where an export goes, at once, and tell
what the receiver said. The export's own place does not change.`,
		Example: `  vauban export test siem`,
		Args:    cobra.ExactArgs(1),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		var sent map[string]string
		if _, err := call(c, r, http.MethodPost, exportPath(args[0])+"/test", nil, nil, &sent); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), sent)
		}
		_, err := fmt.Fprintf(c.OutOrStdout(), "%s took the test\n", args[0])
		return err
	})
}

func exportState(e *export.Export) string {
	switch {
	case e.Disabled:
		return "disabled"
	case e.State.Failures > 0:
		return fmt.Sprintf("fails since %s", dated(e.State.FailedSince))
	case e.Waiting != (export.Waiting{}):
		return "behind"
	}
	return "ok"
}

func printExports(c *cobra.Command, out output, all []export.Export) error {
	if out == "json" {
		return printJSON(c.OutOrStdout(), all)
	}
	w := table(c.OutOrStdout())
	fmt.Fprintln(w, "EXPORT\tKIND\tFORMAT\tTO\tSTATE\tSENT\tWAITING\tGIVEN UP")
	for i := range all {
		e := &all[i]
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\n", e.Name, e.Kind, e.Format, e.URL+e.Address, exportState(e), e.State.Sent,
			e.Waiting.Alerts+e.Waiting.Recommendations+e.Waiting.Events, e.State.GivenUp)
	}
	return w.Flush()
}

func exportTables() *cobra.Command {
	var name, product, from, to string
	c := &cobra.Command{
		Use:   "tables",
		Short: "Print a table as Azure's workspace has it",
		Long: `Print the rows of a table with all columns of Azure's, oldest first: SecurityAlert (each alert
as it stands now), SecurityIoTRawEvent (one row for each payload item) or
SecurityRecommendation. They are lines of JSON; with --output json, one array, which is what the
data collector API of Log Analytics takes.`,
		Example: `  vauban export tables --table SecurityAlert --from 7d
  vauban export tables --table SecurityIoTRawEvent --from 2026-01-02T00:00:00Z --to 1h > e.ndjson
  vauban export tables --table SecurityAlert --product azure --output json`,
		Args: cobra.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&name, "table", string(workspace.Alerts), "SecurityAlert, SecurityIoTRawEvent or SecurityRecommendation")
	f.StringVar(&from, "from", "", "only rows since then: a time as 2026-01-02T15:04:05Z, or how long ago as 12h or 7d")
	f.StringVar(&to, "to", "", "only rows before then; idem")
	f.StringVar(&product, "product", "", `ProductName: "vauban" (default), or "azure" for queries made for Azure`)
	return apiCommand(c, func(c *cobra.Command, r *remote, _ []string, out output) error {
		query := url.Values{}
		for key, text := range map[string]string{"from": from, "to": to} {
			if text == "" {
				continue
			}
			at, err := time.Parse(time.RFC3339, text)
			if err != nil {
				ago, err := parseSpan(text)
				if err != nil {
					return err
				}
				at = time.Now().Add(-ago)
			}
			query.Set(key, at.UTC().Format(time.RFC3339Nano))
		}
		if product != "" {
			query.Set("product", product)
		}
		return printTable(c, r, name, query, out == "json")
	})
}

// printTable prints page after page, none of which is kept.
func printTable(c *cobra.Command, r *remote, name string, query url.Values, array bool) error {
	w := c.OutOrStdout()
	rows := 0
	for {
		res, err := r.api(c.Context(), http.MethodGet, "/api/tables/"+url.PathEscape(name), query, nil)
		if err != nil {
			return err
		}
		err = func() error {
			defer res.Body.Close()
			if !array {
				_, err := io.Copy(w, res.Body)
				return err
			}
			for dec := json.NewDecoder(res.Body); ; rows++ {
				var row json.RawMessage
				if err := dec.Decode(&row); errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return fmt.Errorf("unreadable answer: %w", err)
				}
				before := "[\n"
				if rows > 0 {
					before = ",\n"
				}
				if _, err := fmt.Fprintf(w, "%s%s", before, row); err != nil {
					return err
				}
			}
		}()
		if err != nil {
			return err
		}
		next := nextPage(res.Header.Get("Link"))
		if next == "" {
			break
		}
		query.Set("after", next)
	}
	if !array {
		return nil
	}
	end := "\n]\n"
	if rows == 0 {
		end = "[]\n"
	}
	_, err := io.WriteString(w, end)
	return err
}

// nextPage is the place at which the page that a header Link names begins; empty: there is none.
func nextPage(link string) string {
	target, rel, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	if !ok || !strings.Contains(rel, `rel="next"`) {
		return ""
	}
	u, err := url.Parse(target)
	if err != nil {
		return ""
	}
	return u.Query().Get("after")
}

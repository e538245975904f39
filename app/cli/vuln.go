package cli

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/vauban-iot/vauban/central/api"
	"github.com/vauban-iot/vauban/defender/vuln"
)

const vulnDatabasePath = "/api/vulnerability-database"

func vulnCommand() *cobra.Command {
	return group("vuln", "Known vulnerabilities of the software on devices, by an offline database", vulnStatus(), vulnImport(), vulnRemove(), vulnList(), vulnShow(),
		group("vex", "Documents that say which vulnerabilities do not concern a product", vexPut(), vexList(), vexShow(), vexDelete()))
}

func vulnStatus() *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "Show what the database is made of, how old it is, and what stands against the fleet",
		Example: `  vauban vuln status
  vauban vuln status --output json`,
		Args: cobra.NoArgs,
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, _ []string, out output) error {
		var s api.VulnerabilityStatus
		if _, err := call(c, r, http.MethodGet, vulnDatabasePath, nil, nil, &s); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), s)
		}
		fmt.Fprintf(c.OutOrStdout(), "%d vulnerabilities, %d of them exploited, on %d devices with known software (%d different); %d are suppressed\n\n", s.Vulnerabilities, s.Exploited, s.Devices, s.Totals.Sets, s.Suppressed)
		if s.NotCompared > 0 {
			fmt.Fprintf(c.OutOrStdout(), "%d packages cannot be compared: their ecosystem, or their distribution's release, is not known\n\n", s.NotCompared)
		}
		if s.Import != nil {
			fmt.Fprintf(c.OutOrStdout(), "importing %s: %d records so far\n\n", s.Import.Name, s.Import.Records)
		}
		if len(s.Sources) == 0 {
			fmt.Fprintln(c.ErrOrStderr(), "the database is empty: vauban vuln import FILE")
			return nil
		}
		return printSources(c.OutOrStdout(), s.Sources)
	})
}

func printSources(to io.Writer, sources []api.AgedSource) error {
	w := table(to)
	fmt.Fprintln(w, "SOURCE\tKIND\tRECORDS\tBROKEN\tLEFT OUT\tAGE\tIMPORTED")
	for _, s := range sources {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d days\t%s\n", s.Name, s.Kind, s.Records, s.Broken, s.Left, s.AgeHours/24, s.Imported.Local().Format(time.DateTime))
	}
	return w.Flush()
}

func vulnImport() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use:   "import FILE...",
		Short: "Put files into the database of vulnerabilities",
		Long: `Put files into the database of vulnerabilities. A file replaces what the file of the same name gave
before. Nothing is ever fetched: bring the files by hand, as the operator's guide says. Formats:

  OSV    all.zip of an ecosystem, records as JSON or JSON lines (also .gz)
  KEV    CISA's known_exploited_vulnerabilities.json
  EPSS   epss_scores-DATE.csv, also .gz

Without --name the source is called by what it holds: debian, kev, epss.`,
		Example: `  vauban vuln import debian/all.zip alpine/all.zip
  vauban vuln import known_exploited_vulnerabilities.json epss_scores-current.csv.gz
  vauban vuln import own.jsonl --name own --output json`,
		Args: cobra.MinimumNArgs(1),
	}
	c.Flags().StringVar(&name, "name", "", "name of the source; for one file")
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		if name != "" && len(args) > 1 {
			return misuse("--name is for one file")
		}
		all := []vuln.Source{}
		for _, file := range args {
			f, err := os.Open(file)
			if err != nil {
				return err
			}
			query := url.Values{}
			if name != "" {
				query.Set("name", name)
			}
			var s vuln.Source
			_, err = call(c, r, http.MethodPost, vulnDatabasePath, query, &progressReader{r: f, file: file, to: c.ErrOrStderr()}, &s)
			f.Close()
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			all = append(all, s)
			if out != "json" {
				fmt.Fprintf(c.OutOrStdout(), "%s: %d records of %s as %s; %d broken, %d left out\n", file, s.Records, s.Kind, s.Name, s.Broken, s.Left)
				for _, p := range s.Problems {
					fmt.Fprintf(c.ErrOrStderr(), "  %s\n", safeLines(p))
				}
			}
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), all)
		}
		return nil
	})
}

// progressReader tells every 64 MiB how much was sent.
type progressReader struct {
	r          io.Reader
	file       string
	to         io.Writer
	sent, told int64
}

func (p *progressReader) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	const step = 64 << 20
	if p.sent += int64(n); p.sent-p.told >= step {
		p.told = p.sent
		fmt.Fprintf(p.to, "%s: %d MiB sent\n", p.file, p.sent>>20)
	}
	return n, err
}

// removing makes a command that deletes what names stand for.
func removing(use, short, example, path, what string) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Example: example, Args: cobra.MinimumNArgs(1)}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		for _, name := range args {
			if _, err := call(c, r, http.MethodDelete, path+"/"+url.PathEscape(name), nil, nil, nil); err != nil {
				return err
			}
			if out != "json" {
				fmt.Fprintf(c.OutOrStdout(), "%s %s is gone\n", what, name)
			}
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), args)
		}
		return nil
	})
}

func vulnRemove() *cobra.Command {
	return removing("remove SOURCE...", "Take sources out of the database", `  vauban vuln remove own
  vauban vuln remove debian alpine --output json`, vulnDatabasePath, "source")
}

func vulnList() *cobra.Command {
	var f vuln.Filter
	c := &cobra.Command{
		Use:   "list",
		Short: "List vulnerabilities of the fleet or of a device, what is to be mended first",
		Long: `List vulnerabilities of the fleet or of a device. Those that are exploited (KEV) stand first, then
the greatest score: the probability of EPSS, multiplied by the base score of CVSS, 0 to 10. What
nobody rated counts as 5.0, and what EPSS does not have as 0. Those that a VEX document suppresses
are left out, unless --status says otherwise.`,
		Example: `  vauban vuln list
  vauban vuln list --device cam-1 --status all
  vauban vuln list --exploited --output json`,
		Args: cobra.NoArgs,
	}
	fl := c.Flags()
	fl.StringVar(&f.Device, "device", "", "only of this device")
	fl.StringVar(&f.Vulnerability, "cve", "", "only this vulnerability")
	fl.StringVar(&f.Package, "package", "", "only of this package")
	fl.StringVar(&f.Status, "status", vuln.Unsuppressed, "open, suppressed or all")
	fl.BoolVar(&f.Exploited, "exploited", false, "only those that are known to be exploited")
	fl.StringVar(&f.After, "after", "", "only those after this place, with which a full page ends")
	fl.IntVar(&f.Limit, "limit", 100, "at most this many, 1 to 1000")
	return apiCommand(c, func(c *cobra.Command, r *remote, _ []string, out output) error {
		query := url.Values{"limit": {strconv.Itoa(f.Limit)}}
		if f.Status == "all" {
			f.Status = ""
		}
		if f.Exploited {
			query.Set("exploited", "true")
		}
		for name, value := range map[string]string{"device": f.Device, "vulnerability": f.Vulnerability, "package": f.Package, "status": f.Status, "after": f.After} {
			if value != "" {
				query.Set(name, value)
			}
		}
		var list struct {
			Vulnerabilities []vuln.Row `json:"vulnerabilities"`
		}
		if err := callList(c, r, "/api/vulnerabilities", query, &list); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), list.Vulnerabilities)
		}
		if len(list.Vulnerabilities) == 0 {
			fmt.Fprintln(c.ErrOrStderr(), "no vulnerability, as far as the imported database knows")
			return nil
		}
		if err := printFindings(c.OutOrStdout(), list.Vulnerabilities); err != nil {
			return err
		}
		if n := len(list.Vulnerabilities); n == f.Limit {
			fmt.Fprintf(c.ErrOrStderr(), "there may be more: --after '%s'\n", list.Vulnerabilities[n-1].Place)
		}
		return nil
	})
}

func printFindings(to io.Writer, rows []vuln.Row) error {
	w := table(to)
	fmt.Fprintln(w, "VULNERABILITY\tSEVERITY\tSCORE\tEXPLOITED\tPACKAGE\tINSTALLED\tFIXED IN\tDEVICES\tSTATUS")
	for i := range rows {
		v := &rows[i]
		exploited := ""
		if x := v.Exploited; x != nil {
			exploited = "since " + x.Added
			if x.Ransomware {
				exploited += ", ransomware"
			}
		}
		status := v.Status
		if v.VEXStatus != "" {
			status += " (" + strings.TrimSpace(v.VEXStatus+" "+v.Justification) + ")"
		}
		fmt.Fprintf(w, "%s\t%s %.1f\t%.3f\t%s\t%s\t%s\t%s\t%d\t%s\n", safeLines(v.ID), v.Severity, v.CVSS, v.Priority.Score, exploited, safeLines(v.Package), safeLines(v.Installed), safeLines(v.Fixed), v.Devices, status)
	}
	return w.Flush()
}

func vulnShow() *cobra.Command {
	c := &cobra.Command{
		Use:   "show VULNERABILITY",
		Short: "Show a vulnerability with its priority and the devices that have it",
		Example: `  vauban vuln show CVE-2021-44228
  vauban vuln show CVE-2021-44228 --output json`,
		Args: cobra.ExactArgs(1),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		var v api.Vulnerability
		if _, err := call(c, r, http.MethodGet, "/api/vulnerabilities/"+url.PathEscape(args[0]), nil, nil, &v); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), v)
		}
		f := &v.Findings[0]
		fmt.Fprintf(c.OutOrStdout(), "%s  %s\n%s\n\nPriority: %s\n", v.ID, safeLines(f.Summary), f.Vector, f.Priority.How)
		if x := f.Exploited; x != nil {
			fmt.Fprintf(c.OutOrStdout(), "Exploited: %s; to be mended by %s. %s\n", safeLines(x.Name), x.Due, safeLines(x.Action))
		}
		fmt.Fprintln(c.OutOrStdout())
		if err := printFindings(c.OutOrStdout(), v.Findings); err != nil {
			return err
		}
		fmt.Fprintf(c.OutOrStdout(), "\nDevices: %s\n", strings.Join(v.Devices, ", "))
		return nil
	})
}

// scopeFlags are for which devices a document is.
func scopeFlags(f *pflag.FlagSet, s *vuln.Scope) {
	f.StringVar(&s.Device, "device", "", "for this device")
	f.StringVar(&s.Group, "group", "", "for devices of this security group")
	f.StringVar(&s.Product, "product", "", "for devices of this product: maker and model, or the model's id, as they report it")
	f.StringVar(&s.Firmware, "firmware", "", "for devices that report this version of their firmware")
}

func scopeQuery(s vuln.Scope) url.Values {
	query := url.Values{}
	for name, value := range map[string]string{"device": s.Device, "group": s.Group, "product": s.Product, "firmware": s.Firmware} {
		if value != "" {
			query.Set(name, value)
		}
	}
	return query
}

func scopeText(s vuln.Scope) string {
	var parts []string
	for _, p := range []struct{ name, value string }{{"device", s.Device}, {"group", s.Group}, {"product", s.Product}, {"firmware", s.Firmware}} {
		if p.value != "" {
			parts = append(parts, p.name+" "+p.value)
		}
	}
	if len(parts) == 0 {
		return "all devices"
	}
	return strings.Join(parts, ", ")
}

// documentName is a file's name without its endings.
func documentName(name, file string) string {
	if name != "" {
		return name
	}
	base := filepath.Base(file)
	base, _, _ = strings.Cut(base, ".")
	return base
}

func vexPut() *cobra.Command {
	var name string
	var s vuln.Scope
	c := &cobra.Command{
		Use:   "put FILE",
		Short: "Keep a document of VEX: OpenVEX, or CycloneDX as JSON",
		Long: `Keep a document of VEX, which replaces the one of the same name. What it says is not_affected or
fixed is suppressed from then on: it is shown as such, and counts no more. Flags narrow the devices
that it speaks of; a statement about a product that is no package speaks of all of those devices.`,
		Example: `  vauban vuln vex put camera-2.1.openvex.json --product "Acme Cam" --firmware 2.1.0
  vauban vuln vex put plant.json --group plant --name plant-vex --output json`,
		Args: cobra.ExactArgs(1),
	}
	c.Flags().StringVar(&name, "name", "", "name of the document; the file's when not given")
	scopeFlags(c.Flags(), &s)
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		text, err := os.ReadFile(args[0])
		if err != nil {
			return err
		}
		var v api.VEXSummary
		if _, err := call(c, r, http.MethodPut, "/api/vex/"+url.PathEscape(documentName(name, args[0])), scopeQuery(s), bytes.NewReader(text), &v); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), v)
		}
		fmt.Fprintf(c.OutOrStdout(), "%s: %d statements for %s\n", v.Name, v.Statements, scopeText(v.Scope))
		return nil
	})
}

func vexList() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List the documents of VEX",
		Example: `  vauban vuln vex list
  vauban vuln vex list --output json`,
		Args: cobra.NoArgs,
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, _ []string, out output) error {
		var list struct {
			Documents []api.VEXSummary `json:"documents"`
		}
		if err := callList(c, r, "/api/vex", nil, &list); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), list.Documents)
		}
		w := table(c.OutOrStdout())
		fmt.Fprintln(w, "NAME\tSTATEMENTS\tFOR\tUPDATED")
		for _, d := range list.Documents {
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", d.Name, d.Statements, scopeText(d.Scope), d.Updated.Local().Format(time.DateTime))
		}
		return w.Flush()
	})
}

func vexShow() *cobra.Command {
	c := &cobra.Command{
		Use:   "show NAME",
		Short: "Show a document of VEX with its statements",
		Example: `  vauban vuln vex show plant-vex
  vauban vuln vex show plant-vex --output json`,
		Args: cobra.ExactArgs(1),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		var v vuln.VEX
		if _, err := call(c, r, http.MethodGet, "/api/vex/"+url.PathEscape(args[0]), nil, nil, &v); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), v)
		}
		fmt.Fprintf(c.OutOrStdout(), "%s, for %s\n\n", v.Name, scopeText(v.Scope))
		w := table(c.OutOrStdout())
		fmt.Fprintln(w, "VULNERABILITY\tSTATUS\tJUSTIFICATION\tPRODUCTS")
		for _, s := range v.Statements {
			var products []string
			for _, p := range s.Products {
				products = append(products, strings.Join(append([]string{p.ID}, p.Components...), " with "))
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", safeLines(strings.Join(s.Vulnerabilities, " ")), s.Status, safeLines(s.Justification), safeLines(strings.Join(products, ", ")))
		}
		return w.Flush()
	})
}

func vexDelete() *cobra.Command {
	return removing("delete NAME...", "Delete documents of VEX: what they suppressed counts again", `  vauban vuln vex delete plant-vex
  vauban vuln vex delete plant-vex --output json`, "/api/vex", "document")
}

func sbomCommand() *cobra.Command {
	return group("sbom", "The software of devices: bills of materials", sbomShow(), sbomPut(), sbomList(), sbomDelete())
}

func sbomShow() *cobra.Command {
	c := &cobra.Command{
		Use:   "show DEVICE",
		Short: "Show the software of a device",
		Long: `Show the software of a device, as its agent told of it and as documents for it say. As JSON it is a
CycloneDX document.`,
		Example: `  vauban sbom show cam-1
  vauban sbom show cam-1 --output json`,
		Args: cobra.ExactArgs(1),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		var b api.SBOM
		if err := callList(c, r, "/api/device-sboms/"+url.PathEscape(args[0]), nil, &b); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), b)
		}
		w := table(c.OutOrStdout())
		fmt.Fprintln(w, "NAME\tVERSION\tPACKAGE URL")
		for _, p := range b.Components {
			fmt.Fprintf(w, "%s\t%s\t%s\n", safeLines(p.Name), safeLines(p.Version), p.PURL)
		}
		return w.Flush()
	})
}

func sbomPut() *cobra.Command {
	var name, file string
	var s vuln.Scope
	c := &cobra.Command{
		Use:   "put [DEVICE]",
		Short: "Keep a bill of materials for a device, a group or a firmware: CycloneDX or SPDX 2, as JSON",
		Example: `  vauban sbom put cam-1 --file cam.cdx.json
  vauban sbom put --file fw.spdx.json --product "Acme Cam" --firmware 2.1.0 --output json`,
		Args: cobra.MaximumNArgs(1),
	}
	c.Flags().StringVar(&file, "file", "", "the document (required)")
	c.Flags().StringVar(&name, "name", "", "name of the document; the file's when not given")
	scopeFlags(c.Flags(), &s)
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		if file == "" {
			return misuse("--file is required")
		}
		if len(args) == 1 {
			s.Device = args[0]
		}
		if s == (vuln.Scope{}) {
			return misuse("say for which devices it is: DEVICE, --group, or --product and --firmware")
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var d api.KeptSBOM
		if _, err := call(c, r, http.MethodPut, "/api/sboms/"+url.PathEscape(documentName(name, file)), scopeQuery(s), bytes.NewReader(text), &d); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), d)
		}
		fmt.Fprintf(c.OutOrStdout(), "%s: %d packages for %s; %d are too many and left out\n", d.Name, d.Packages, scopeText(d.Scope), d.Left)
		return nil
	})
}

func sbomList() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List the uploaded bills of materials",
		Example: `  vauban sbom list
  vauban sbom list --output json`,
		Args: cobra.NoArgs,
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, _ []string, out output) error {
		var list struct {
			Documents []vuln.Document `json:"documents"`
		}
		if err := callList(c, r, "/api/sboms", nil, &list); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), list.Documents)
		}
		w := table(c.OutOrStdout())
		fmt.Fprintln(w, "NAME\tFORMAT\tPACKAGES\tFOR\tUPDATED")
		for _, d := range list.Documents {
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", d.Name, d.Format, d.Packages, scopeText(d.Scope), d.Updated.Local().Format(time.DateTime))
		}
		return w.Flush()
	})
}

func sbomDelete() *cobra.Command {
	return removing("delete NAME...", "Delete uploaded bills of materials", `  vauban sbom delete fw
  vauban sbom delete fw cam --output json`, "/api/sboms", "bill of materials")
}

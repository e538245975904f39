package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/defender/intel/feed"
	"github.com/vauban-iot/vauban/defender/intel/format"
)

func intelCommand() *cobra.Command {
	return group("intel", "Threat intelligence: feeds, what is exempt from them, and what they say",
		group("feed", "Published indicators that traffic is compared with", intelFeedAdd(), intelFeedList(), intelFeedShow(), intelFeedRemove(), intelFeedRefresh()),
		group("allow", "Addresses and names that never raise an alert", intelAllowAdd(), intelAllowList(), intelAllowRemove()),
		intelLookup())
}

func feedPath(name string) string { return "/api/intel/feeds/" + url.PathEscape(name) }

func intelFeedAdd() *cobra.Command {
	var cfg feed.Config
	var kind, file, ca string
	var headers []string
	c := &cobra.Command{
		Use:   "add NAME",
		Short: "Add a feed, or change one",
		Long: `Add a feed of indicators, by its address or as a file below the folder of lists of the server,
which needs no Internet. Nothing is fetched before a feed is added. Formats:

  list         addresses, prefixes, domains and URLs, one a line; hosts files
  iprep        reputation lists of Suricata           zeek   files of Zeek's intel framework
  stix         a bundle of STIX 2.1                   taxii  a collection of a TAXII 2.1 server
  misp         a folder with manifest.json            warninglist  MISP's warning lists: exemptions
  feodo, threatfox, urlhaus                           exports of abuse.ch, JSON or CSV

Files may be packed with gzip or zip. What a feed gave stays in use while it cannot be fetched,
also after a restart, and when it shrinks by more than half. --config takes all of it from a
JSON file, in which it has the members that "feed show --output json" shows. A header
or token with @ before it is read from that file, so that it is not in the shell's history.`,
		Example: `  vauban intel feed add drop --url https://lists.example/drop.txt --interval 12h
  vauban intel feed add isac --format taxii --url https://x.example/api1/collections/9/ --token @f
  vauban intel feed add offline --format stix --file bundle.json`,
		Args: cobra.ExactArgs(1),
	}
	f := c.Flags()
	f.StringVar(&kind, "format", "", "format; list when not given")
	f.StringVar(&cfg.URL, "url", "", "address; of TAXII the collection, of MISP the folder")
	f.StringVar(&cfg.File, "file", "", "in place of an address, a file (MISP: a folder) below the server's folder of lists")
	f.StringVar(&cfg.Use, "use", "", `"match" compares traffic with it, "allow" exempts its values from other feeds`)
	f.StringVar(&cfg.Interval, "interval", "", "from one fetch to the next, such as 30m (default 1h)")
	f.IntVar(&cfg.Confidence, "confidence", 0, "confidence of indicators that say none (default 75)")
	f.IntVar(&cfg.MinConfidence, "min-confidence", 0, "leave out indicators that are less sure")
	f.Int64Var(&cfg.MaxBytes, "max-bytes", 0, "the most that it may have, unpacked (default 1 GiB)")
	f.StringArrayVar(&headers, "header", nil, `one more header, as "Name: value" or "Name: @FILE"; may be given again`)
	f.StringVar(&cfg.User, "user", "", "user name")
	f.StringVar(&cfg.Password, "password", "", "its password, or @FILE")
	f.StringVar(&cfg.Token, "token", "", "bearer token, or @FILE")
	f.StringVar(&ca, "ca", "", "PEM file of the CA that the server's certificate is trusted by, in place of the system's")
	f.BoolVar(&cfg.Disabled, "disabled", false, "neither fetch it nor match with it")
	f.StringVar(&file, "config", "", "JSON file with all of this; - reads standard input")
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		var body []byte
		var err error
		if file != "" {
			if body, err = readArgument(c, file); err != nil {
				return err
			}
		} else {
			cfg.Format = format.Kind(kind)
			if kind == "" {
				cfg.Format = format.List
			}
			for _, h := range headers {
				name, value, ok := strings.Cut(h, ":")
				if !ok {
					return misuse("a header is \"Name: value\", not %q", h)
				}
				if cfg.Headers == nil {
					cfg.Headers = make(map[string]string)
				}
				if cfg.Headers[strings.TrimSpace(name)], err = secretArgument(strings.TrimSpace(value)); err != nil {
					return err
				}
			}
			for _, s := range []*string{&cfg.Password, &cfg.Token} {
				if *s, err = secretArgument(*s); err != nil {
					return err
				}
			}
			if ca != "" {
				pem, err := os.ReadFile(ca)
				if err != nil {
					return err
				}
				cfg.CA = string(pem)
			}
			if body, err = json.Marshal(cfg); err != nil {
				return err
			}
		}
		var set feed.Feed
		if _, err := call(c, r, http.MethodPut, feedPath(args[0]), nil, bytes.NewReader(body), &set); err != nil {
			return err
		}
		return printFeeds(c, out, []feed.Feed{set})
	})
}

// secretArgument reads what @FILE names.
func secretArgument(s string) (string, error) {
	name, ok := strings.CutPrefix(s, "@")
	if !ok {
		return s, nil
	}
	text, err := os.ReadFile(name)
	return strings.TrimSpace(string(text)), err
}

func intelFeedList() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List the feeds with what they gave",
		Example: `  vauban intel feed list
  vauban intel feed list --output json`,
		Args: cobra.NoArgs,
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, _ []string, out output) error {
		var list struct{ Feeds []feed.Feed }
		if _, err := call(c, r, http.MethodGet, "/api/intel/feeds", nil, nil, &list); err != nil {
			return err
		}
		return printFeeds(c, out, list.Feeds)
	})
}

func intelFeedShow() *cobra.Command {
	c := &cobra.Command{
		Use:   "show NAME",
		Short: "Show a feed, its state and what was wrong with it",
		Example: `  vauban intel feed show feodo
  vauban intel feed show feodo --output json`,
		Args: cobra.ExactArgs(1),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		var f feed.Feed
		if _, err := call(c, r, http.MethodGet, feedPath(args[0]), nil, nil, &f); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), f)
		}
		w := table(c.OutOrStdout())
		line := func(name string, value any) { fmt.Fprintf(w, "%s\t%v\n", name, value) }
		line("feed", f.Name)
		line("format", f.Format)
		line("from", f.URL+f.File)
		line("use", f.Use)
		line("indicators", f.State.Indicators)
		line("left out", fmt.Sprintf("%d bad, %d not comparable, %d unsure, %d revoked", f.State.BadLines, f.State.Unsupported, f.State.Unsure, f.State.Revoked))
		line("last success", dated(f.State.LastSuccess))
		line("last attempt", dated(f.State.LastAttempt))
		line("next attempt", dated(f.State.NextAttempt))
		if f.State.ETag != "" {
			line("etag", f.State.ETag)
		}
		if f.State.Cursor != "" {
			line("cursor", f.State.Cursor)
		}
		if f.State.Error != "" {
			line("error", fmt.Sprintf("%s (%d in a row)", f.State.Error, f.State.Failures))
		}
		if f.State.Warning != "" {
			line("warning", f.State.Warning)
		}
		for _, p := range f.State.Problems {
			line("problem", p)
		}
		return w.Flush()
	})
}

func dated(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Local().Format(time.DateTime)
}

func intelFeedRemove() *cobra.Command {
	c := &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a feed and its indicators",
		Example: `  vauban intel feed remove feodo
  vauban intel feed remove feodo --output json`,
		Args: cobra.ExactArgs(1),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		if _, err := call(c, r, http.MethodDelete, feedPath(args[0]), nil, nil, nil); err != nil {
			return err
		}
		return printDone(c, out, "removed", args[0])
	})
}

func intelFeedRefresh() *cobra.Command {
	var accept bool
	c := &cobra.Command{
		Use:   "refresh NAME",
		Short: "Fetch a feed now",
		Example: `  vauban intel feed refresh feodo
  vauban intel feed refresh feodo --accept-shrink`,
		Args: cobra.ExactArgs(1),
	}
	c.Flags().BoolVar(&accept, "accept-shrink", false, "take it even if it has less than half of what it had")
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		query := url.Values{}
		if accept {
			query.Set("shrink", "accept")
		}
		if _, err := call(c, r, http.MethodPost, feedPath(args[0])+"/refresh", query, nil, nil); err != nil {
			return err
		}
		return printDone(c, out, "refreshing", args[0])
	})
}

func printDone(c *cobra.Command, out output, what, name string) error {
	if out == "json" {
		return printJSON(c.OutOrStdout(), map[string]string{what: name})
	}
	_, err := fmt.Fprintf(c.OutOrStdout(), "%s %s\n", name, what)
	return err
}

func printFeeds(c *cobra.Command, out output, list []feed.Feed) error {
	if out == "json" {
		return printJSON(c.OutOrStdout(), list)
	}
	w := table(c.OutOrStdout())
	fmt.Fprintln(w, "FEED\tFORMAT\tUSE\tSTATE\tINDICATORS\tBAD\tLAST SUCCESS")
	for _, f := range list {
		state := "ok"
		switch {
		case f.Disabled:
			state = "disabled"
		case f.State.Error != "":
			state = "failing"
		case f.State.Warning != "":
			state = "kept"
		case f.State.LastSuccess.IsZero():
			state = "new"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%s\n", f.Name, f.Format, f.Use, state, f.State.Indicators, f.State.BadLines, dated(f.State.LastSuccess))
	}
	return w.Flush()
}

func intelAllowAdd() *cobra.Command {
	var note string
	c := &cobra.Command{
		Use:   "add VALUE",
		Short: "Exempt an address, a prefix or a domain",
		Long: `Exempt an address, a prefix, or a domain with the names below it: traffic with it matches nothing,
neither feeds nor your own lists, however specific those are. Lists of exemptions that are
published, such as MISP's warning lists, are feeds; they exempt from other feeds only.`,
		Example: `  vauban intel allow add 198.51.100.7 --note "our own scanner"
  vauban intel allow add cdn.example`,
		Args: cobra.ExactArgs(1),
	}
	c.Flags().StringVar(&note, "note", "", "why")
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		body, err := json.Marshal(feed.Exemption{Value: args[0], Note: note})
		if err != nil {
			return err
		}
		var e feed.Exemption
		if _, err := call(c, r, http.MethodPut, "/api/intel/exemptions", nil, bytes.NewReader(body), &e); err != nil {
			return err
		}
		return printExemptions(c, out, []feed.Exemption{e})
	})
}

func intelAllowList() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List what is exempt",
		Example: `  vauban intel allow list
  vauban intel allow list --output json`,
		Args: cobra.NoArgs,
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, _ []string, out output) error {
		var list struct{ Exemptions []feed.Exemption }
		if _, err := call(c, r, http.MethodGet, "/api/intel/exemptions", nil, nil, &list); err != nil {
			return err
		}
		return printExemptions(c, out, list.Exemptions)
	})
}

func printExemptions(c *cobra.Command, out output, list []feed.Exemption) error {
	if out == "json" {
		return printJSON(c.OutOrStdout(), list)
	}
	w := table(c.OutOrStdout())
	fmt.Fprintln(w, "VALUE\tSINCE\tNOTE")
	for _, e := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\n", e.Value, dated(e.Added), e.Note)
	}
	return w.Flush()
}

func intelAllowRemove() *cobra.Command {
	c := &cobra.Command{
		Use:   "remove VALUE",
		Short: "End an exemption",
		Example: `  vauban intel allow remove 198.51.100.7
  vauban intel allow remove cdn.example --output json`,
		Args: cobra.ExactArgs(1),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		if _, err := call(c, r, http.MethodDelete, "/api/intel/exemptions", url.Values{"value": {args[0]}}, nil, nil); err != nil {
			return err
		}
		return printDone(c, out, "removed", args[0])
	})
}

func intelLookup() *cobra.Command {
	c := &cobra.Command{
		Use:   "lookup VALUE",
		Short: "Say what is known of an address, with or without a port, or of a domain",
		Long: `Say which lists and feeds hold an address or a domain, and what traffic with it would match.
Exit code 3 says that it would match something.`,
		Example: `  vauban intel lookup 203.0.113.5:4444
  vauban intel lookup evil.example --output json`,
		Args: cobra.ExactArgs(1),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		var v intel.Verdict
		if _, err := call(c, r, http.MethodGet, "/api/intel/lookup", url.Values{"value": {args[0]}}, nil, &v); err != nil {
			return err
		}
		if out == "json" {
			if err := printJSON(c.OutOrStdout(), v); err != nil {
				return err
			}
		} else {
			w := table(c.OutOrStdout())
			fmt.Fprintln(w, "INDICATOR\tSOURCE\tCONFIDENCE\tUNTIL\tLABELS\tIGNORED")
			for _, l := range v.Listed {
				until := "-"
				if !l.ValidUntil.IsZero() {
					until = dated(l.ValidUntil)
				}
				fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\n", l.String(), l.Place(), l.Confidence, until, strings.Join(l.Labels, ", "), l.Ignored)
			}
			if err := w.Flush(); err != nil {
				return err
			}
		}
		if v.Match != nil {
			return foundError{fmt.Errorf("%s is listed: %s of %s", v.Query, v.Match, v.Match.Place())}
		}
		return nil
	})
}

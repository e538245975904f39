package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/defender/baseline"
)

func baselineCommand() *cobra.Command {
	return group("baseline", "Learn what devices usually do, and hear when one does otherwise",
		baselineList(), baselineShow(), baselineLearn(), baselineStep("propose", "Make a proposal of what was learned, for people to read",
			`Make a proposal of what was learned, when it has learned for long enough and from enough
devices. Each entry says how many devices did it, how often and since when. What too few devices
did is held until you accept it (vauban baseline edit); what threat intelligence lists is never
accepted. Proposing anew keeps what people decided and added.`),
		baselineEdit(), baselinePreview(),
		baselineStep("enforce", "Raise an alert for each deviation from a proposal", `Raise an alert for each deviation: one for each device, kind and peer and day, which says what
was expected, what was seen and since when. See vauban baseline preview first.`),
		baselineStep("relax", "Make an enforced baseline a proposal again", `Make an enforced baseline a proposal again: deviations raise no alerts, and it goes on learning.`),
		baselinePromote(), baselineOff(), group("mud", "What makers say of their devices (RFC 8520)", baselineImport(), baselineExport()))
}

func baselinePath(parts ...string) string {
	path := "/api/baselines"
	for _, p := range parts {
		path += "/" + url.PathEscape(p)
	}
	return path
}

// callBaseline is call for answers as long as a baseline.
func callBaseline(c *cobra.Command, r *remote, method, path string, query url.Values, body io.Reader, into any) error {
	res, err := r.api(c.Context(), method, path, query, body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(io.LimitReader(res.Body, maxList)).Decode(into); err != nil {
		return fmt.Errorf("unreadable answer: %w", err)
	}
	return nil
}

func baselineList() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List the security groups with a baseline, and in which state it is",
		Example: `  vauban baseline list
  vauban baseline list --output json`,
		Args: cobra.NoArgs,
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, _ []string, out output) error {
		var list struct{ Value []baseline.Baseline }
		if err := callBaseline(c, r, http.MethodGet, baselinePath(), nil, nil, &list); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), list.Value)
		}
		w := table(c.OutOrStdout())
		fmt.Fprintln(w, "GROUP\tSTATE\tSINCE\tDEVICES\tACCEPTED\tHELD\tREJECTED")
		for _, b := range list.Value {
			n := map[baseline.Decision]int{}
			for _, e := range b.Entries {
				n[e.Decision]++
			}
			devices := "-"
			if b.Learned != nil {
				devices = strconv.Itoa(b.Learned.Devices)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%d\n", b.Group, b.State, b.Since.Local().Format(time.DateTime), devices, n[baseline.Accepted], n[baseline.Held], n[baseline.Rejected])
		}
		return w.Flush()
	})
}

func baselineShow() *cobra.Command {
	c := &cobra.Command{
		Use:   "show GROUP",
		Short: "Show a baseline entry by entry; of one that learns, how far it is",
		Example: `  vauban baseline show plant
  vauban baseline show plant --output json`,
		Args: cobra.ExactArgs(1),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		return printBaseline(c, r, out, http.MethodGet, baselinePath(args[0]), nil, nil)
	})
}

// printBaseline calls and prints the baseline that it gets.
func printBaseline(c *cobra.Command, r *remote, out output, method, path string, query url.Values, body io.Reader) error {
	var b baseline.Baseline
	if err := callBaseline(c, r, method, path, query, body, &b); err != nil {
		return err
	}
	if out == "json" {
		return printJSON(c.OutOrStdout(), b)
	}
	o := c.OutOrStdout()
	fmt.Fprintf(o, "%s is %s since %s (version %d, by %s)\n", b.Group, b.State, b.Since.Local().Format(time.DateTime), b.Version, b.By)
	if l := b.Learned; l != nil {
		fmt.Fprintf(o, "learned from %d devices, %d messages, %d flows; what %d devices do is proposed\n", l.Devices, l.Messages, l.Flows, l.Threshold)
		for _, what := range slices.Sorted(maps.Keys(l.Overflow)) {
			fmt.Fprintf(o, "too many %s: %d times something was not kept\n", what, l.Overflow[what])
		}
		for _, text := range l.Waits {
			fmt.Fprintf(o, "it waits: %s\n", text)
		}
	}
	if m := b.MUD; m != nil {
		fmt.Fprintf(o, "MUD file %s, of %s\n", m.URL, m.LastUpdate.Format(time.DateOnly))
		for _, n := range m.Notes {
			fmt.Fprintf(o, "  not used: %s\n", n)
		}
	}
	w := table(o)
	if len(b.Entries) > 0 {
		fmt.Fprintln(w, "\nDECISION\tWHAT\tDEVICES\tCOVERAGE\tTIMES\tDAYS\tLAST SEEN\tWHY\tID")
	}
	for _, e := range b.Entries {
		last := "-"
		if !e.Last.IsZero() {
			last = e.Last.Local().Format(time.DateTime)
		}
		why := e.Reason
		if e.DecidedBy != "" {
			why = "by " + e.DecidedBy
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%.0f %%\t%d\t%d\t%s\t%s\t%s\n", e.Decision, e.Says(), e.Devices, 100*e.Coverage, e.Count, e.Days, last, why, e.ID)
	}
	if len(b.Limits) > 0 {
		fmt.Fprintln(w, "\nDECISION\tMEASURE\tMIN AN HOUR\tMAX AN HOUR\tMEDIAN\t99 %\tWHY")
	}
	for _, l := range b.Limits {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%s\n", l.Decision, l.Measure, l.Min, l.Max, l.Median, l.P99, l.Reason)
	}
	return w.Flush()
}

func baselineLearn() *cobra.Command {
	var t baseline.Terms
	c := &cobra.Command{
		Use:   "learn GROUP",
		Short: "Begin to learn what the devices of a group do, or begin anew",
		Long: `Begin to learn what the devices of a security group do: peers, ports, protocols, direction,
hours, volumes, message rates, programs and users, from security messages and telemetry. What was
learned before, and the baseline that stood, are forgotten. Devices belong to the group that their
tag SecurityGroup names; those without it to the group default.`,
		Example: `  vauban baseline learn plant
  vauban baseline learn plant --min-time 336h --min-devices 10 --min-share 0.1`,
		Args: cobra.ExactArgs(1),
	}
	c.Flags().StringVar(&t.MinTime, "min-time", "", "learn at least so long before it may be proposed (default 168h)")
	c.Flags().IntVar(&t.MinDevices, "min-devices", 0, "and from at least so many devices (default 3)")
	c.Flags().Float64Var(&t.MinShare, "min-share", 0, "share of devices that have to do something so that it is proposed (default 0.05)")
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		body, err := json.Marshal(t)
		if err != nil {
			return err
		}
		return printBaseline(c, r, out, http.MethodPost, baselinePath(args[0], "learn"), nil, bytes.NewReader(body))
	})
}

// baselineStep is a command that brings a baseline into another state.
func baselineStep(verb, short, long string) *cobra.Command {
	c := &cobra.Command{
		Use:     verb + " GROUP",
		Short:   short,
		Long:    long,
		Example: "  vauban baseline " + verb + " plant\n  vauban baseline " + verb + " plant --output json",
		Args:    cobra.ExactArgs(1),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		return printBaseline(c, r, out, http.MethodPost, baselinePath(args[0], verb), nil, nil)
	})
}

func baselineEdit() *cobra.Command {
	var accept, reject, hold, remove, peers, processes, users, limits, names []string
	var file string
	c := &cobra.Command{
		Use:   "edit GROUP",
		Short: "Accept, reject, add and remove entries of a proposal or of what is enforced",
		Long: `Accept, reject, add and remove entries of a proposal or of what is enforced, whole or not at all.

A peer is "DIRECTION PROTOCOL PEER [PORTS]": Out when the device begins, else In; TCP, UDP, ICMP or
any; an address, a prefix, a name, any, local-networks or my-controller (this hub). The indicator
of an alert, with address and port, is one as it stands. Names are not looked up on the network:
their addresses are those that agents tell of, and those that --resolve gives. A limit is
MEASURE=MAX or MEASURE=MIN-MAX of one device and hour: bytesIn, bytesOut, connections, messages.
--config takes all of it from a JSON file, in the shape of BaselineEdit in the API's document.`,
		Example: `  vauban baseline edit plant --accept 3f0a11c2d4e5 --reject 77aa00bb11cc
  vauban baseline edit plant --add-peer "Out TCP 203.0.113.7:443" --add-peer "In UDP 10.0.0.0/8 161"
  vauban baseline edit plant --limit messages=10-600 --resolve time.example=192.0.2.1,192.0.2.2`,
		Args: cobra.ExactArgs(1),
	}
	f := c.Flags()
	f.StringSliceVar(&accept, "accept", nil, "accept the entry with this id; as all, may be given again")
	f.StringSliceVar(&reject, "reject", nil, "reject the entry with this id")
	f.StringSliceVar(&hold, "hold", nil, "hold the entry with this id, which then is not expected")
	f.StringSliceVar(&remove, "remove", nil, "remove the entry with this id")
	f.StringArrayVar(&peers, "add-peer", nil, "add a peer that is expected")
	f.StringArrayVar(&processes, "add-process", nil, "add a program that is expected")
	f.StringArrayVar(&users, "add-user", nil, "add a user who is expected")
	f.StringArrayVar(&limits, "limit", nil, "set a limit: MEASURE=MAX or MEASURE=MIN-MAX")
	f.StringArrayVar(&names, "resolve", nil, "NAME=ADDRESS,ADDRESS of a peer; without addresses, forget them")
	f.StringVar(&file, "config", "", "JSON file with the edit; - reads standard input")
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		if file != "" {
			body, err := readArgument(c, file)
			if err != nil {
				return err
			}
			return printBaseline(c, r, out, http.MethodPatch, baselinePath(args[0]), nil, bytes.NewReader(body))
		}
		e := baseline.Edit{Remove: remove, Decisions: map[string]baseline.Decision{}, Names: map[string][]string{}}
		for d, ids := range map[baseline.Decision][]string{baseline.Accepted: accept, baseline.Rejected: reject, baseline.Held: hold} {
			for _, id := range ids {
				if _, twice := e.Decisions[id]; twice {
					return misuse("the entry %s is decided twice", id)
				}
				e.Decisions[id] = d
			}
		}
		for _, p := range peers {
			entry, err := parsePeer(p)
			if err != nil {
				return err
			}
			e.Add = append(e.Add, entry)
		}
		for _, n := range processes {
			e.Add = append(e.Add, baseline.Entry{Kind: baseline.Process, Name: n})
		}
		for _, n := range users {
			e.Add = append(e.Add, baseline.Entry{Kind: baseline.User, Name: n})
		}
		for _, text := range limits {
			l, err := parseLimit(text)
			if err != nil {
				return err
			}
			e.Limits = append(e.Limits, l)
		}
		for _, text := range names {
			name, addresses, ok := strings.Cut(text, "=")
			if !ok {
				return misuse("--resolve is NAME=ADDRESS,ADDRESS, not %q", text)
			}
			e.Names[name] = []string{}
			if addresses != "" {
				e.Names[name] = strings.Split(addresses, ",")
			}
		}
		body, err := json.Marshal(e)
		if err != nil {
			return err
		}
		return printBaseline(c, r, out, http.MethodPatch, baselinePath(args[0]), nil, bytes.NewReader(body))
	})
}

func parsePeer(s string) (baseline.Entry, error) {
	parts := strings.Fields(s)
	if len(parts) != 3 && len(parts) != 4 {
		return baseline.Entry{}, misuse("a peer is \"DIRECTION PROTOCOL PEER [PORTS]\", such as \"Out TCP 203.0.113.7 443\", not %q", s)
	}
	e := baseline.Entry{Kind: baseline.Peer, Direction: parts[0], Protocol: parts[1], Peer: parts[2]}
	if len(parts) == 4 {
		e.Ports = parts[3]
	} else if ap, err := netip.ParseAddrPort(parts[2]); err == nil { // as alerts have it; port 0: none
		if e.Peer = ap.Addr().String(); ap.Port() != 0 {
			e.Ports = strconv.Itoa(int(ap.Port()))
		}
	}
	return e, nil
}

func parseLimit(s string) (baseline.LimitEdit, error) {
	bad := misuse("a limit is MEASURE=MAX or MEASURE=MIN-MAX, such as messages=10-600, not %q", s)
	measure, bounds, ok := strings.Cut(s, "=")
	if !ok {
		return baseline.LimitEdit{}, bad
	}
	l := baseline.LimitEdit{Measure: measure, Decision: baseline.Accepted}
	least, most, both := strings.Cut(bounds, "-")
	if !both {
		most = least
	}
	n, err := strconv.ParseUint(most, 10, 63)
	if err != nil {
		return l, bad
	}
	l.Max = &n
	if both {
		m, err := strconv.ParseUint(least, 10, 63)
		if err != nil {
			return l, bad
		}
		l.Min = &m
	}
	return l, nil
}

func baselinePreview() *cobra.Command {
	var days int
	c := &cobra.Command{
		Use:   "preview GROUP",
		Short: "Tell which alerts a baseline would have raised in the last days",
		Long: `Tell which alerts a baseline would have raised in the last days, on how many devices. It reads the
messages that the log still has, which takes up to two minutes, and raises nothing.`,
		Example: `  vauban baseline preview plant
  vauban baseline preview plant --days 2 --output json`,
		Args: cobra.ExactArgs(1),
	}
	c.Flags().IntVar(&days, "days", baseline.MaxPreviewDays, "how many days back, 1 to 7")
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		var p baseline.Preview
		if err := callBaseline(c, r, http.MethodGet, baselinePath(args[0], "preview"), url.Values{"days": {strconv.Itoa(days)}}, nil, &p); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), p)
		}
		o := c.OutOrStdout()
		fmt.Fprintf(o, "from %s to %s it would have raised %d alerts on %d of %d devices (%d messages)\n",
			p.From.Local().Format(time.DateTime), p.To.Local().Format(time.DateTime), p.Alerts, p.Alerting, p.Devices, p.Messages)
		if p.Partial {
			fmt.Fprintln(o, "it did not read all: time or room ended before")
		}
		if len(p.Unresolved) > 0 {
			fmt.Fprintf(o, "no address is given of %s\n", strings.Join(p.Unresolved, ", "))
		}
		w := table(o)
		for _, kind := range slices.Sorted(maps.Keys(p.Types)) {
			fmt.Fprintf(w, "%d\t%s\n", p.Types[kind], kind)
		}
		for _, d := range p.Loudest {
			fmt.Fprintf(w, "%d\ton %s\n", d.Alerts, d.Device)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		for _, a := range p.Examples {
			fmt.Fprintf(o, "\n%s %s\n%s\n", a.Day, a.Title, a.Description)
		}
		return nil
	})
}

func baselinePromote() *cobra.Command {
	c := &cobra.Command{
		Use:   "promote GROUP",
		Short: "Write the peers of an enforced baseline into the group's allow list",
		Long: `Write the addresses to which an enforced baseline lets devices connect into the rule
ConnectionToIpNotAllowed of the group (vauban security-group), beside those that it has, and enable
it. The rule knows no ports and no names.`,
		Example: `  vauban baseline promote plant
  vauban baseline promote plant --output json`,
		Args: cobra.ExactArgs(1),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		var p baseline.Promotion
		if err := callBaseline(c, r, http.MethodPost, baselinePath(args[0], "promote"), nil, nil, &p); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), p)
		}
		_, err := fmt.Fprintf(c.OutOrStdout(), "the rule %s of %s allows %d ranges, %d of them new\n", p.Rule, p.Group, len(p.Values), p.Added)
		return err
	})
}

func baselineOff() *cobra.Command {
	c := &cobra.Command{
		Use:     "off GROUP",
		Short:   "Turn a baseline off, and forget what was learned",
		Example: `  vauban baseline off plant`,
		Args:    cobra.ExactArgs(1),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		if _, err := call(c, r, http.MethodDelete, baselinePath(args[0]), nil, nil, nil); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), map[string]string{"off": args[0]})
		}
		_, err := fmt.Fprintf(c.OutOrStdout(), "%s has no baseline\n", args[0])
		return err
	})
}

func baselineImport() *cobra.Command {
	var merge bool
	c := &cobra.Command{
		Use:   "import GROUP FILE",
		Short: "Make a proposal of a MUD file",
		Long: `Make a proposal of a MUD file (RFC 8520): what the maker of the group's devices says that they need.
It stands alone, or, with --merge, beside what was learned. Nothing is fetched, no name is looked up
on the network, and a signature is not checked: get the file from its maker. - reads standard input.`,
		Example: `  vauban baseline mud import plant thermostat.json
  vauban baseline mud import plant thermostat.json --merge --output json`,
		Args: cobra.ExactArgs(2),
	}
	c.Flags().BoolVar(&merge, "merge", false, "add it to what was learned")
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		body, err := readArgument(c, args[1])
		if err != nil {
			return err
		}
		return printBaseline(c, r, out, http.MethodPut, baselinePath(args[0], "mud"), url.Values{"merge": {strconv.FormatBool(merge)}}, bytes.NewReader(body))
	})
}

func baselineExport() *cobra.Command {
	var address, info string
	c := &cobra.Command{
		Use:   "export GROUP",
		Short: "Write the accepted peers of a baseline as a MUD file (always JSON)",
		Long: `Write the accepted peers of a baseline as a MUD file (RFC 8520), for firewalls and switches that
read these. This hub is my-controller there. Hours, volumes, programs and users have no words in it.`,
		Example: `  vauban baseline mud export plant > plant.json
  vauban baseline mud export plant --url https://things.example/pump --systeminfo "Pump, model 7"`,
		Args: cobra.ExactArgs(1),
	}
	c.Flags().StringVar(&address, "url", "", "its mud-url (default: that of the imported file, or one at this hub)")
	c.Flags().StringVar(&info, "systeminfo", "", "what the devices are, in 60 bytes")
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, _ output) error {
		text, err := call(c, r, http.MethodGet, baselinePath(args[0], "mud"), url.Values{"url": {address}, "systeminfo": {info}}, nil, nil)
		if err != nil {
			return err
		}
		_, err = c.OutOrStdout().Write(text)
		return err
	})
}

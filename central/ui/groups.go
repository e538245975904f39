package ui

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/defender/privacy"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
)

// Groups keeps the rules of security groups; see [group.Book].
type Groups interface {
	Groups(ctx context.Context) (names []string, rules map[string]group.Rules, err error)
	Group(ctx context.Context, name string) (group.Rules, error)
	Change(ctx context.Context, name string, change func(group.Rules) (group.Rules, error)) (created bool, err error)
	Delete(ctx context.Context, name string) (existed bool, err error)
}

// GroupSizes counts the devices of security groups.
type GroupSizes interface {
	// GroupSizes lists the largest that devices name, at most limit, and how many devices name none.
	GroupSizes(ctx context.Context, limit int) (sizes []group.Size, untagged int, err error)
}

// Privacy keeps what is masked in the security messages of which group; see [privacy.Guard].
type Privacy interface {
	Policies(ctx context.Context) (map[string]privacy.Policy, error)
	Put(ctx context.Context, group string, p privacy.Policy) error
}

const (
	groupsPerPage = 25
	maxGroupSizes = 1000
	maxRuleForm   = 3 * group.MaxSize // values are escaped in a form
)

// sizes are how many devices each group has.
type sizes struct {
	of    map[string]int
	names []string
	most  bool // there are more groups than were counted
}

func (c *Console) loadSizes(ctx context.Context) (sizes, error) {
	list, untagged, err := c.cfg.GroupSizes.GroupSizes(ctx, maxGroupSizes)
	if err != nil {
		return sizes{}, err
	}
	s := sizes{of: map[string]int{group.Default: untagged}, most: len(list) == maxGroupSizes}
	for _, one := range list {
		s.of[one.Name] += one.Devices
		s.names = append(s.names, one.Name)
	}
	return s, nil
}

// groupRow is a group as the list shows it.
type groupRow struct {
	Name     string
	Devices  int
	Rules    int // that are enabled
	Masked   string
	Baseline string
}

// groupsBody is the page of groups.
type groupsBody struct {
	Rows  []groupRow
	Total int
	Most  bool
	Next  string
}

func enabledRules(r group.Rules) (n int) {
	count := func(on bool) {
		if on {
			n++
		}
	}
	for _, x := range r.Window {
		count(x.IsEnabled)
	}
	for _, x := range r.Threshold {
		count(x.IsEnabled)
	}
	for _, x := range r.Allow {
		count(x.IsEnabled)
	}
	for _, x := range r.Deny {
		count(x.IsEnabled)
	}
	return n
}

func masked(p privacy.Policy) string {
	switch {
	case p.UserNames && p.CommandLines:
		return "user names, command lines"
	case p.UserNames:
		return "user names"
	case p.CommandLines:
		return "command lines"
	}
	return "nothing"
}

func (c *Console) groupsPage(w http.ResponseWriter, r *http.Request, _ *session) error {
	names, rules, err := c.cfg.Groups.Groups(r.Context())
	if err != nil {
		return err
	}
	known, err := c.sizes.get(r.Context())
	if err != nil {
		return err
	}
	policies, err := c.cfg.Privacy.Policies(r.Context())
	if err != nil {
		return err
	}
	all := slices.Concat(names, known.names)
	slices.Sort(all)
	all = slices.Compact(all)
	body := groupsBody{Total: len(all), Most: known.most}
	after := r.URL.Query().Get("after")
	all = all[min(len(all), firstBehind(all, after)):]
	for _, name := range all[:min(len(all), groupsPerPage)] {
		state, err := c.cfg.Baselines.State(r.Context(), name)
		if err != nil {
			return err
		}
		body.Rows = append(body.Rows, groupRow{name, known.of[name], enabledRules(rules[name]), masked(policies[name]), string(state)})
	}
	if len(all) > groupsPerPage {
		body.Next = at(groupsPath, query("after", all[groupsPerPage-1]))
	}
	c.render(w, r, http.StatusOK, "groups", frame{Title: "Security groups", Section: "groups"}, body)
	return nil
}

// firstBehind is the index of the first of sorted names that comes after one.
func firstBehind(names []string, after string) int {
	i, found := slices.BinarySearch(names, after)
	if found {
		i++
	}
	return i
}

// ruleView is a rule with the form that changes it.
type ruleView struct {
	Group, List, Type string
	Title, Says       string
	Enabled           bool
	Min, Max          int
	Window            string
	Values            string // one a line
	Ranged, Timed     bool
	Addresses         bool // the values are addresses and ranges
}

// Was tells whether the rule is still what a form showed.
func (v ruleView) Was() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%t %d %d %q %q", v.Enabled, v.Min, v.Max, v.Window, v.Values))
	return hex.EncodeToString(sum[:8])
}

// groupBody is the page of one group.
type groupBody struct {
	Name     string
	Devices  int
	Baseline string
	Privacy  privacy.Policy
	Lists    []ruleList
	New      bool // it has no rules yet
}

type ruleList struct {
	ID, Title, Says string
	Rules           []ruleView
}

// The lists of rules, as forms name them.
const (
	windowList    = "window"
	thresholdList = "threshold"
	allowList     = "allow"
	denyList      = "deny"
)

func ruleLists(name string, r group.Rules) []ruleList {
	all := r.All()
	lists := []ruleList{
		{ID: windowList, Title: "Over time", Says: "How often something may happen in a time: an alert below the minimum, and above the maximum."},
		{ID: thresholdList, Title: "In every message", Says: "What one security message may tell of."},
		{ID: allowList, Title: "Allowed alone", Says: "An alert about everything that is not listed."},
		{ID: denyList, Title: "Denied", Says: "An alert about what is listed."},
	}
	for _, x := range all.Window {
		lists[0].Rules = append(lists[0].Rules, ruleView{Group: name, List: windowList, Type: x.RuleType, Title: x.DisplayName, Says: x.Description, Enabled: x.IsEnabled, Min: x.Min, Max: x.Max, Window: x.Window, Ranged: true, Timed: true})
	}
	for _, x := range all.Threshold {
		lists[1].Rules = append(lists[1].Rules, ruleView{Group: name, List: thresholdList, Type: x.RuleType, Title: x.DisplayName, Says: x.Description, Enabled: x.IsEnabled, Min: x.Min, Max: x.Max, Ranged: true})
	}
	for _, x := range all.Allow {
		lists[2].Rules = append(lists[2].Rules, ruleView{Group: name, List: allowList, Type: x.RuleType, Title: x.DisplayName, Says: x.Description, Enabled: x.IsEnabled, Values: strings.Join(x.Values, "\n"), Addresses: x.ValueType == "IpCidr"})
	}
	for _, x := range all.Deny {
		lists[3].Rules = append(lists[3].Rules, ruleView{Group: name, List: denyList, Type: x.RuleType, Title: x.DisplayName, Says: x.Description, Enabled: x.IsEnabled, Values: strings.Join(x.Values, "\n"), Addresses: x.ValueType == "IpCidr"})
	}
	return lists
}

// rulesOf are those of a group; one that was never set has none.
func (c *Console) rulesOf(ctx context.Context, name string) (rules group.Rules, isNew bool, err error) {
	rules, err = c.cfg.Groups.Group(ctx, name)
	if fault.Is(err, fault.NotFound) {
		return group.Empty(), true, nil
	}
	return rules, false, err
}

func (c *Console) groupPage(w http.ResponseWriter, r *http.Request, _ *session) error {
	name := strings.TrimSpace(r.URL.Query().Get("name"))
	if err := group.CheckName(name); err != nil {
		return err
	}
	rules, isNew, err := c.rulesOf(r.Context(), name)
	if err != nil {
		return err
	}
	known, err := c.sizes.get(r.Context())
	if err != nil {
		return err
	}
	policies, err := c.cfg.Privacy.Policies(r.Context())
	if err != nil {
		return err
	}
	state, err := c.cfg.Baselines.State(r.Context(), name)
	if err != nil {
		return err
	}
	body := groupBody{Name: name, Devices: known.of[name], Baseline: string(state), Privacy: policies[name], Lists: ruleLists(name, rules), New: isNew}
	c.render(w, r, http.StatusOK, "group", frame{Title: "Security group " + name, Section: "groups"}, body)
	return nil
}

// changeGroup carries out what the forms of a group's page ask for.
func (c *Console) changeGroup(w http.ResponseWriter, r *http.Request, _ *session) error {
	ctx, form := r.Context(), r.PostForm
	name := form.Get("name")
	if err := group.CheckName(name); err != nil {
		return err
	}
	rest.Note(ctx, "group", name, "do", form.Get("do"))
	switch form.Get("do") {
	case "rule":
		if err := c.changeRule(r, name); err != nil {
			return err
		}
	case "privacy":
		p := privacy.Policy{UserNames: form.Get("userNames") != "", CommandLines: form.Get("commandLines") != ""}
		rest.Note(ctx, "userNames", p.UserNames, "commandLines", p.CommandLines)
		if err := c.cfg.Privacy.Put(ctx, name, p); err != nil {
			return err
		}
	case "delete":
		if _, err := c.cfg.Groups.Delete(ctx, name); err != nil {
			return err
		}
		http.Redirect(w, r, groupsPath, http.StatusSeeOther)
		return nil
	default:
		return errNothingToDo
	}
	http.Redirect(w, r, at(groupPath, query("name", name)), http.StatusSeeOther)
	return nil
}

// changeRule puts one rule of a form into those of a group, which are checked as the API's are. Whoever saw another rule than the one that
// stands changes nothing.
func (c *Console) changeRule(r *http.Request, name string) error {
	ctx, form := r.Context(), r.PostForm
	list, kind, on := form.Get("list"), form.Get("rule"), form.Get("enabled") != ""
	rest.Note(ctx, "rule", kind, "enabled", on)
	var least, most int
	var values []string
	window := strings.TrimSpace(form.Get("window"))
	switch list {
	case windowList, thresholdList:
		var err error
		if least, err = wholeNumber(form.Get("min"), "minimum"); err != nil {
			return err
		}
		if most, err = wholeNumber(form.Get("max"), "maximum"); err != nil {
			return err
		}
		rest.Note(ctx, "min", least, "max", most)
		if list == windowList {
			rest.Note(ctx, "window", window)
		}
	case allowList, denyList:
		values = lines(form.Get("values"))
		rest.Note(ctx, "values", len(values))
	}
	_, err := c.cfg.Groups.Change(ctx, name, func(rules group.Rules) (group.Rules, error) {
		stands, ok := ruleOf(rules, list, kind)
		if !ok {
			return rules, fault.New(fault.NotFound, "There is no such rule.")
		}
		if stands.Was() != form.Get("was") {
			return rules, fault.New(fault.PreconditionFailed, "Meanwhile somebody changed this rule. Look at it again.")
		}
		rules = rules.All()
		for i := range rules.Window {
			if x := &rules.Window[i]; list == windowList && x.RuleType == kind {
				x.IsEnabled, x.Min, x.Max, x.Window = on, least, most, window
			}
		}
		for i := range rules.Threshold {
			if x := &rules.Threshold[i]; list == thresholdList && x.RuleType == kind {
				x.IsEnabled, x.Min, x.Max = on, least, most
			}
		}
		for i := range rules.Allow {
			if x := &rules.Allow[i]; list == allowList && x.RuleType == kind {
				x.IsEnabled, x.Values = on, values
			}
		}
		for i := range rules.Deny {
			if x := &rules.Deny[i]; list == denyList && x.RuleType == kind {
				x.IsEnabled, x.Values = on, values
			}
		}
		text, err := rules.Text()
		if err != nil {
			return rules, err
		}
		return group.Parse(text)
	})
	return err
}

// ruleOf is a rule as it stands.
func ruleOf(rules group.Rules, list, kind string) (ruleView, bool) {
	for _, l := range ruleLists("", rules) {
		for _, v := range l.Rules {
			if l.ID == list && v.Type == kind {
				return v, true
			}
		}
	}
	return ruleView{}, false
}

func wholeNumber(s, what string) (int, error) {
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil || n < 0 {
		return 0, fault.New(fault.Invalid, "The %s must be a whole number, 0 or more.", what)
	}
	return n, nil
}

// lines are those of a text that are not empty, without the space around them.
func lines(s string) []string {
	all := []string{}
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			all = append(all, line)
		}
	}
	return all
}

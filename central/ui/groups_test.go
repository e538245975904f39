package ui

import (
	"bytes"
	"fmt"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/defender/baseline"
	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/wire/mud"
)

func TestGroups_ArePaged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range groupsPerPage {
		w.sizes = append(w.sizes, group.Size{Name: fmt.Sprintf("g%02d", i), Devices: i})
	}
	first := w.page(t, "/console/groups")
	if !strings.Contains(text(t, first), "default 3 0 nothing off") || !strings.Contains(first, "name=g23") || strings.Contains(first, "name=g24") || !strings.Contains(first, `href="/console/groups?after=g23"`) {
		t.Error("the first page does not hold 25 groups, with a way to the next")
	}
	if next := w.page(t, "/console/groups?after=g23"); !strings.Contains(next, "name=g24") || strings.Contains(next, "name=g23") {
		t.Error("the second page does not hold the last group alone")
	}
}

func TestGroup_RulesAreChangedByForms(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.cookie(t)
	page := w.page(t, "/console/group?name=plant")
	if n := strings.Count(page, `name="window"`); n != 16 {
		t.Errorf("the page has %d rules over time, want 16", n)
	}
	const rule = "MqttD2CMessagesNotInAllowedRange"
	// was is what the page shows of a rule.
	was := func(list, kind string) string {
		t.Helper()
		_, rest, _ := strings.Cut(w.page(t, "/console/group?name=plant"), `name="list" value="`+list+`"><input type="hidden" name="rule" value="`+kind+`"><input type="hidden" name="was" value="`)
		v, _, _ := strings.Cut(rest, `"`)
		return v
	}
	post := func(pairs ...string) (int, string) {
		rec := w.ask("POST", "/console/group", query(append([]string{"name", "plant"}, pairs...)...).Encode(), with(c))
		return rec.Code, rec.Body.String()
	}
	send := func(pairs ...string) (int, string) {
		if len(pairs) > 5 && pairs[1] == "rule" {
			pairs = append(slices.Clone(pairs), "was", was(pairs[3], pairs[5]))
		}
		return post(pairs...)
	}
	for name, tc := range map[string]struct {
		form   []string
		status int
		says   string
	}{
		"nothing to do":    {nil, 400, "nothing that can be done"},
		"no such rule":     {[]string{"do", "rule", "list", "window", "rule", "x", "min", "0", "max", "1"}, 404, "no such rule"},
		"of another list":  {[]string{"do", "rule", "list", "threshold", "rule", rule, "min", "0", "max", "1"}, 404, "no such rule"},
		"no number":        {[]string{"do", "rule", "list", "window", "rule", rule, "min", "-1", "max", "1"}, 400, "The minimum must be a whole number"},
		"no range":         {[]string{"do", "rule", "list", "window", "rule", rule, "enabled", "on", "min", "9", "max", "1", "window", "PT5M"}, 400, "minThreshold 9 and maxThreshold 1 are no range"},
		"no time":          {[]string{"do", "rule", "list", "window", "rule", rule, "min", "0", "max", "1", "window", "5m"}, 400, "is not a duration of whole minutes"},
		"no address":       {[]string{"do", "rule", "list", "allow", "rule", group.ToIPNotAllowed, "values", "10.0.0.0/8\nhere"}, 400, "is no range of addresses"},
		"more than a form": {[]string{"do", "rule", "list", "deny", "rule", group.UserDenied, "values", strings.Repeat("x", maxRuleForm)}, 413, "The form is over"},
	} {
		if status, body := send(tc.form...); status != tc.status || !strings.Contains(text(t, body), tc.says) {
			t.Errorf("%s: %d %s; want %d, %q", name, status, text(t, body), tc.status, tc.says)
		}
	}
	if names, _, err := w.groups.Groups(t.Context()); err != nil || len(names) != 1 {
		t.Fatalf("refused forms made groups: %q, %v", names, err)
	}
	for _, form := range [][]string{
		{"do", "rule", "list", "window", "rule", rule, "enabled", "on", "min", "1", "max", "50", "window", "PT5M"},
		{"do", "rule", "list", "threshold", "rule", group.BytesOutInRange, "enabled", "on", "min", "0", "max", "9000"},
		{"do", "rule", "list", "allow", "rule", group.ToIPNotAllowed, "enabled", "on", "values", " 10.0.0.0/8 \r\n\r\n192.0.2.7\r\n"},
		{"do", "rule", "list", "deny", "rule", group.UserDenied, "values", "root"},
		{"do", "privacy", "userNames", "on"},
	} {
		if status, body := send(form...); status != 303 {
			t.Fatalf("%q: %d %s", form, status, text(t, body))
		}
	}
	// Of two who saw the same rule the second changes nothing, and of two rules none is lost.
	saw, other := was("deny", group.UserDenied), was("window", rule)
	if status, _ := post("do", "rule", "list", "deny", "rule", group.UserDenied, "values", "mallory", "was", saw); status != 303 {
		t.Errorf("the first: %d", status)
	}
	for name, seen := range map[string]string{"the second": saw, "who saw nothing": ""} {
		if status, body := post("do", "rule", "list", "deny", "rule", group.UserDenied, "values", "eve", "was", seen); status != 412 || !strings.Contains(text(t, body), "Meanwhile somebody changed this rule.") {
			t.Errorf("%s: %d %s", name, status, text(t, body))
		}
	}
	if status, _ := post("do", "rule", "list", "window", "rule", rule, "enabled", "on", "min", "1", "max", "50", "window", "PT5M", "was", other); status != 303 {
		t.Errorf("another rule: %d", status)
	}
	if r, err := w.groups.Group(t.Context(), "plant"); err != nil || fmt.Sprint(r.All().Deny[2].Values) != "[mallory]" {
		t.Errorf("both are there: %+v, %v", r.All().Deny[2], err)
	}
	if status, _ := send("do", "rule", "list", "deny", "rule", group.UserDenied, "values", "root"); status != 303 {
		t.Errorf("who looks again: %d", status)
	}
	r, err := w.groups.Group(t.Context(), "plant")
	if err != nil {
		t.Fatal(err)
	}
	r = r.All()
	if enabledRules(r) != 3 || fmt.Sprint(r.Allow[0].Values) != "[10.0.0.0/8 192.0.2.7]" || fmt.Sprint(r.Deny[2].Values) != "[root]" || r.Deny[2].IsEnabled || r.Threshold[1].Max != 9000 {
		t.Errorf("the rules are %+v", r)
	}
	for _, x := range r.Window {
		if x.RuleType == rule && (x.Min != 1 || x.Max != 50 || x.Window != "PT5M" || !x.IsEnabled) {
			t.Errorf("the rule is %+v", x)
		}
	}
	if got := text(t, w.page(t, "/console/groups")); !strings.Contains(got, "plant 0 3 user names off") {
		t.Errorf("the list does not tell of it: %s", got)
	}
	if !strings.Contains(w.logged.String(), `status=303 group=plant do=rule rule=`+rule+` enabled=true min=1 max=50 window=PT5M`) {
		t.Error("the audit has no record")
	}
	if status, _ := send("do", "delete"); status != 303 {
		t.Errorf("deleting: %d", status)
	}
	if names, _, _ := w.groups.Groups(t.Context()); len(names) != 1 {
		t.Errorf("it is still there: %q", names)
	}
}

func TestBaseline_IsReviewed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.cookie(t)
	if got := text(t, w.page(t, "/console/baseline?group=plant")); !strings.Contains(got, "Nothing is learned yet") || !strings.Contains(got, "vauban baseline learn plant") {
		t.Errorf("without a baseline: %s", got)
	}
	send := func(pairs ...string) (int, string) {
		rec := w.ask("POST", "/console/baseline", query(append([]string{"group", "plant"}, pairs...)...).Encode(), with(c))
		return rec.Code, text(t, rec.Body.String())
	}
	if status, _ := send("do", "learn", "hours", "24", "devices", "2", "share", "10"); status != 303 {
		t.Fatalf("learning: %d", status)
	}
	if b := w.baselines.all["plant"]; b.State != baseline.Learning || b.Terms.MinTime != "24h" || b.Terms.MinDevices != 2 || b.Terms.MinShare != 0.1 || b.By != "admin" {
		t.Errorf("it learns as %+v", b)
	}
	b := baseline.Baseline{Group: "plant", State: baseline.Proposed, Version: 7, Limits: []baseline.Limit{{Measure: "messages", Decision: baseline.Held}}}
	for i := range entriesPerPage + 1 {
		b.Entries = append(b.Entries, baseline.Entry{ID: fmt.Sprint("e", i), Kind: baseline.Process, Name: fmt.Sprint("program", i), Decision: baseline.Held})
	}
	b.Entries[0].Decision = baseline.Accepted
	w.baselines.all["plant"] = b
	page := w.page(t, "/console/baseline?group=plant")
	if strings.Count(page, `name="id"`) != entriesPerPage || !strings.Contains(page, `href="/console/baseline?from=50&amp;group=plant"`) || !strings.Contains(text(t, page), "50 held · 1 accepted · 0 rejected") {
		t.Error("the first page does not hold 50 entries, with a way to the next")
	}
	if next := w.page(t, "/console/baseline?group=plant&from=50"); strings.Count(next, `name="id"`) != 1 || !strings.Contains(next, "program50") {
		t.Error("the second page does not hold the last entry alone")
	}
	if held := w.page(t, "/console/baseline?group=plant&decision=held"); strings.Contains(held, `value="e0"`) || !strings.Contains(held, `value="e50"`) {
		t.Error("what is held is not chosen")
	}
	for name, tc := range map[string]struct {
		form   []string
		status int
		says   string
	}{
		"nothing to do":   {[]string{"version", "7"}, 400, "nothing that can be done"},
		"none is chosen":  {[]string{"do", "accept", "version", "7"}, 400, "Choose entries first."},
		"an older one":    {[]string{"do", "accept", "version", "6", "id", "e1"}, 412, "Meanwhile somebody changed this baseline."},
		"without a look":  {[]string{"do", "enforce"}, 412, "Meanwhile somebody changed this baseline."},
		"no such group":   {[]string{"do", "relax", "group", "other"}, 404, ""},
		"half a day":      {[]string{"do", "learn", "hours", "0.5", "devices", "2", "share", "10"}, 400, "The number of hours must be a whole number"},
		"an invalid name": {[]string{"do", "propose", "group", "a/b"}, 400, "a security group's name"},
	} {
		form := query(append([]string{"group", "plant"}, tc.form...)...)
		rec := w.ask("POST", "/console/baseline", form.Encode(), with(c))
		if rec.Code != tc.status || !strings.Contains(text(t, rec.Body.String()), tc.says) {
			t.Errorf("%s: %d %s; want %d, %q", name, rec.Code, text(t, rec.Body.String()), tc.status, tc.says)
		}
	}
	form := url.Values{"group": {"plant"}, "do": {"reject"}, "version": {"7"}, "decision": {"held"}, "id": {"e1", "e2"}}
	if rec := w.ask("POST", "/console/baseline", form.Encode(), with(c)); rec.Code != 303 || rec.Header().Get("Location") != "/console/baseline?decision=held&group=plant" {
		t.Fatalf("rejecting: %d %s", rec.Code, rec.Body)
	}
	if status, _ := send("do", "accept-limit", "version", "8", "measure", "messages"); status != 303 {
		t.Fatalf("accepting a limit: %d", status)
	}
	b = w.baselines.all["plant"]
	if b.Entries[1].Decision != baseline.Rejected || b.Entries[2].DecidedBy != "admin" || b.Entries[3].Decision != baseline.Held || b.Limits[0].Decision != baseline.Accepted {
		t.Errorf("decided: %+v", b)
	}
	preview := w.page(t, "/console/baseline/preview?group=plant&days=2")
	if got := text(t, preview); !strings.Contains(got, "6 alerts about 2 devices") || !strings.Contains(got, "70 messages of 4 devices") || !strings.Contains(preview, `name="version" value="9"`) {
		t.Errorf("the preview has no figure, or cannot be enforced: %s", got)
	}
	for _, step := range []struct {
		do   string
		want baseline.State
	}{{"enforce", baseline.Enforced}, {"relax", baseline.Proposed}, {"propose", baseline.Proposed}, {"off", ""}} {
		if status, body := send("do", step.do, "version", "9"); status != 303 || w.baselines.all["plant"].State != step.want {
			t.Fatalf("%s: %d %s, then %q", step.do, status, body, w.baselines.all["plant"].State)
		}
	}
	if !strings.Contains(w.logged.String(), `status=303 group=plant do=enforce state=enforced version=10`) {
		t.Error("the audit has no record")
	}
}

func TestBaseline_MUD(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.cookie(t)
	upload := func(file string, merge bool) (int, string) {
		var body bytes.Buffer
		m := multipart.NewWriter(&body)
		_ = m.WriteField("group", "plant")
		if merge {
			_ = m.WriteField("merge", "on")
		}
		if file != "" {
			part, err := m.CreateFormFile("file", "x.json")
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(part, file)
		}
		m.Close()
		rec := w.ask("POST", "/console/baseline/mud", body.String(), with(c), func(r *http.Request) { r.Header.Set("Content-Type", m.FormDataContentType()) })
		return rec.Code, text(t, rec.Body.String())
	}
	if status, says := upload("", false); status != 400 || !strings.Contains(says, "Choose a file first.") {
		t.Errorf("no file: %d %s", status, says)
	}
	if status, says := upload(strings.Repeat("x", mud.MaxSize+maxForm), false); status != 413 {
		t.Errorf("too large a file: %d %s", status, says)
	}
	if status, says := upload(`{"x":1}`, true); status != 303 || string(w.baselines.mud) != `{"x":1}` || !w.baselines.all["plant"].MUD.Supported {
		t.Errorf("a file: %d %s; got %q", status, says, w.baselines.mud)
	}
	rec := w.ask("GET", "/console/baseline/mud?group=plant", "", with(c))
	if rec.Code != 200 || rec.Header().Get("Content-Type") != "application/mud+json" || rec.Header().Get("Content-Disposition") != `attachment; filename="mud.json"` || rec.Body.String() != `{"ietf-mud:mud":{}}` {
		t.Errorf("downloaded %d %v %s", rec.Code, rec.Header(), rec.Body)
	}
	if rec := w.ask("GET", "/console/baseline/mud?group=other", "", with(c)); rec.Code != 404 {
		t.Errorf("one that is not there: %d", rec.Code)
	}
}

//go:build linux

package baseline

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

const customXML = `<?xml version="1.0" encoding="utf-8"?>
<baseline BaselineId="Site.1" BaseOrigId="7">
  <baselines><baseline id="SSH.Linux"/></baselines>
  <audits>
    <audit description="The site's motd" msid="1" cceid="SITE-1" severity="Critical" impact="i" remediation="Write it." ruleId="a87f15ed-1115-a22d-6f43-17db97c91111">
      <check distro="*" command="CheckMatchingLines" path="/etc/motd" regex="^Site A$"/>
    </audit>
    <audit description="Only with rsyslog" msid="2" severity="Warning">
      <dependency type="FileExists">/etc/rsyslog.conf</dependency>
      <check distro="*" command="CheckFileExists" path="/var/log/syslog"/>
    </audit>
    <audit description="inetd" msid="3" severity="NotApplicable">
      <check distro="Debian>=9" command="CheckNoMatchingLinesIfExists" path="/etc/inetd.conf" regex="."/>
      <check distro="SLES" command="CheckFileExists" path="/nowhere"/>
    </audit>
    <audit description="misspelt" msid="4" severity="Important"><check distro="*" command="CheckMatchingLines" path="/etc/motd" regx="a" regex="b"/></audit>
    <audit description="of others" msid="5"><check distro="SLES" command="CheckFileExists" path="/nowhere"/></audit>
    <audit description="two" msid="6"><check distro="*" command="CheckFileExists" path="/etc/motd"/><check distro="*" command="CheckFileExists" path="/nowhere"/></audit>
  </audits>
  <remediations><remediation id="x" msids="1"><action distro="*" action="Script" script="rm -rf /"/></remediation></remediations>
</baseline>`

func hash(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) }

func scan(t *testing.T, cfg Config) *Report {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Scan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// of returns the results of audits that are not ours.
func of(r *Report) map[string]string {
	out := map[string]string{}
	for _, x := range r.Results {
		if x.Audit.Group == "" {
			out[x.Audit.ID] = x.Outcome.ScannerWord()
		}
	}
	return out
}

var small = map[string]string{
	"etc/os-release": "ID=debian\nVERSION_ID=\"12\"\n", "etc/motd": "Site A\n", "etc/passwd": "root:x:0:0::/root:/bin/sh\n", "etc/group": "root:x:0:\n",
	"etc/custom.xml": customXML,
}

func TestScan_Custom(t *testing.T) {
	t.Parallel()
	root := device(t, small)
	r := scan(t, Config{Root: root, CustomFile: "/etc/custom.xml", CustomSHA256: strings.ToUpper(hash(customXML))})
	want := map[string]string{"SITE-1": "PASS", "Site.1-2": "SKIP", "Site.1-3": "MISS", "Site.1-4": "ERR", "Site.1-5": "SKIP", "Site.1-6": "FAIL"}
	if d := cmp.Diff(want, of(r)); d != "" {
		t.Error(d)
	}
	for _, x := range r.Results {
		if x.Audit.ID == "Site.1-4" && !strings.Contains(x.Text, `unknown attribute "regx"`) {
			t.Errorf("misspelt: %q", x.Text)
		}
	}
	r = scan(t, Config{Root: root, CustomFile: "/etc/custom.xml", CustomSHA256: hash(customXML), ChecksDisabled: []string{"site-1"}})
	if of(r)["SITE-1"] != "SKIP" {
		t.Errorf("a disabled check of a custom file is %s", of(r)["SITE-1"])
	}
}

func TestScan_CustomRefused(t *testing.T) {
	t.Parallel()
	unknown := strings.Replace(customXML, "SSH.Linux", "Other.Linux", 1)
	files := map[string]string{"etc/os-release": "", "pipe": "pipe", "good.xml": customXML, "other.xml": unknown, "broken.xml": "<baseline", "huge.xml": strings.Repeat(" ", maxXML+1)}
	root := device(t, files)
	for _, tt := range []struct{ path, sum, why string }{
		{"/good.xml", hash("x"), "its SHA-256 is " + hash(customXML)},
		{"/good.xml", "", "not given as 64 hex digits"},
		{"/good.xml", "abcd", "not given as 64 hex digits"},
		{"good.xml", hash(customXML), "absolute"},
		{"/none.xml", hash("x"), "no such file"},
		{"/pipe", hash("x"), "not a regular file"},
		{"/huge.xml", hash(files["huge.xml"]), "larger than"},
		{"/broken.xml", hash("<baseline"), "no XML"},
		{"/other.xml", hash(unknown), `includes the baseline "Other.Linux"; this agent has Vauban.Linux and SSH.Linux`},
	} {
		r := scan(t, Config{Root: root, CustomFile: tt.path, CustomSHA256: tt.sum})
		last := r.Results[len(r.Results)-1]
		if last.Audit.ID != CustomCheck || last.Outcome != Error || !strings.Contains(last.Text, tt.why) || r.Error == "" {
			t.Errorf("%s: %s %s %q, want an error with %q", tt.path, last.Audit.ID, last.Outcome.Word(), last.Text, tt.why)
		}
		if len(of(r)) != 1 {
			t.Errorf("%s: some of it was run: %v", tt.path, of(r))
		}
	}
}

func TestScan_Disabled(t *testing.T) {
	t.Parallel()
	r := scan(t, Config{Root: device(t, small), GroupsDisabled: []string{"ssh", " Filesystem "}, ChecksDisabled: []string{"Users-6.2.5", "cis-debian-12-users-6.2.7"}})
	for _, x := range r.Results {
		off := x.Audit.Group == "SSH" || x.Audit.Group == "Filesystem" || x.Audit.ID == "CIS-debian-12-Users-6.2.5" || x.Audit.ID == "CIS-debian-12-Users-6.2.7"
		if is := x.Text == "it is disabled by the configuration"; is != off || off && x.Outcome.Word() != "SKIP" {
			t.Errorf("%s: %s %q", x.Audit.ID, x.Outcome.Word(), x.Text)
		}
	}
}

// The document is that of the v1 agents' scanner, member by member, and the figures are those of its summary.
func TestReport(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-40") // with TestCommands, which fails when a command of the reference has no case
	a := func(n, cce, severity string) *Audit {
		return &Audit{ID: cce, Number: n, CCE: cce, Severity: severity, Description: "d" + n, RuleID: "r" + n}
	}
	r := &Report{Baseline: "OMS.Linux.1", Orig: "1", Time: time.Date(2016, 9, 21, 10, 19, 0, 662055920, time.UTC), Results: []Result{
		{a("2.1", "CCE-3522-0", "Important"), Pass, ""},
		{a("2.2", "CCE-4275-4", "Warning"), Fail, "f"},
		{a("2.3", "CCE-4042-8", "Important"), Missing, ""},
		{a("5", "CCE-4368-7", "Critical"), Fail, ""},
		{a("7", "CCE-XXXXX-1", "Informational"), Error, "e"},
		{a("77", "CCE-4308-3", "Important"), Fail, ""},
		{a("78", "CCE-1", "Critical"), NotApplicable, ""},
	}}
	got, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"baseline_id":"OMS.Linux.1","base_orig_id":"1","setting_count":7,"scan_time":"2016-09-21T10:19:00.66205592Z","error":"","results":[` +
		`{"msid":"2.1","result":"PASS","error_text":"","cceid":"CCE-3522-0","severity":"Important","description":"d2.1","ruleId":"r2.1"},` +
		`{"msid":"2.2","result":"FAIL","error_text":"f","cceid":"CCE-4275-4","severity":"Warning","description":"d2.2","ruleId":"r2.2"},` +
		`{"msid":"2.3","result":"MISS","error_text":"","cceid":"CCE-4042-8","severity":"Important","description":"d2.3","ruleId":"r2.3"},` +
		`{"msid":"5","result":"FAIL","error_text":"","cceid":"CCE-4368-7","severity":"Critical","description":"d5","ruleId":"r5"},` +
		`{"msid":"7","result":"ERR","error_text":"e","cceid":"CCE-XXXXX-1","severity":"Informational","description":"d7","ruleId":"r7"},` +
		`{"msid":"77","result":"FAIL","error_text":"","cceid":"CCE-4308-3","severity":"Important","description":"d77","ruleId":"r77"},` +
		`{"msid":"78","result":"SKIP","error_text":"","cceid":"CCE-1","severity":"Critical","description":"d78","ruleId":"r78"}]}`
	if d := cmp.Diff(want, string(got)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(Summary{Assessed: 5, Passed: 1, Critical: 2, Warning: 1, Informational: 1, Percent: 20}, r.Summary()); d != "" {
		t.Error(d)
	}
	if got := (&Report{}).Summary(); got != (Summary{}) {
		t.Errorf("nothing assessed: %+v", got)
	}
	half := &Report{Results: slices.Concat(slices.Repeat([]Result{{a("1", "c", warning), Pass, ""}}, 5), slices.Repeat([]Result{{a("1", "c", warning), Fail, ""}}, 3))}
	if got := half.Summary().Percent; got != 63 { // 62.5
		t.Errorf("5 of 8 are %d %%", got)
	}
}

func TestTake(t *testing.T) {
	t.Parallel()
	s, err := New(Config{Root: device(t, small), CustomFile: "/etc/custom.xml", CustomSHA256: hash(customXML)})
	if err != nil {
		t.Fatal(err)
	}
	obs, err := s.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(obs, func(o collect.Observation) bool { return o.Check.ID == "Site.1-6" })
	want := &secmsg.BaselineCheck{ID: "Site.1-6", Result: "FAIL", Error: "open /nowhere: no such file or directory", Description: "two", Severity: "INFORMATIONAL"}
	if d := cmp.Diff(want, obs[at].Check); d != "" {
		t.Error(d)
	}
	for _, o := range obs {
		if o.Event != "Baseline" || o.Hits != 1 || o.Time.IsZero() || !slices.Contains([]string{"PASS", "FAIL", "ERROR", "SKIP"}, o.Check.Result) ||
			!slices.Contains([]string{"CRITICAL", "IMPORTANT", "WARNING", "INFORMATIONAL"}, o.Check.Severity) {
			t.Errorf("%+v %+v", o, o.Check)
		}
	}
}

// The file of the self test makes the check fail that becomes the recommendation IoT_CISBenchmarks_DIoTTest.
func TestSelfTest(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]string{"x": "PASS", SelfTestFile: "FAIL"} {
		s, err := New(Config{Root: device(t, map[string]string{"var/tmp/" + file: ""}), TempDir: "/var/tmp"})
		if err != nil {
			t.Fatal(err)
		}
		obs, err := s.Take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, o := range obs {
			if "IoT_CISBenchmarks_"+o.Check.ID == "IoT_CISBenchmarks_DIoTTest" {
				if n++; o.Check.Result != want {
					t.Errorf("with %s: %s %q", file, o.Check.Result, o.Check.Error)
				}
			}
		}
		if n != 1 {
			t.Errorf("with %s the check stands there %d times", file, n)
		}
	}
}

var builtinName = regexp.MustCompile(`^CIS-[a-z0-9._]+-[a-z0-9._]+-[A-Za-z]+-[1-6](\.[0-9]+)+$`)

func TestBuiltin(t *testing.T) {
	t.Parallel()
	b := builtin(distro{id: "debian", number: "12"}, "/tmp")
	if len(b.Audits) < 80 {
		t.Errorf("%d audits", len(b.Audits))
	}
	seen := map[string]bool{}
	for _, a := range b.Audits {
		if seen[a.ID] || seen[a.RuleID] {
			t.Errorf("%s stands there twice", a.ID)
		}
		seen[a.ID], seen[a.RuleID] = true, true
		if a.ID != SelfTest && !builtinName.MatchString(a.ID) || a.Description == "" || a.Remediation == "" || !slices.Contains(severities, a.Severity) || len(a.Checks) == 0 {
			t.Errorf("%+v", a)
		}
		for _, c := range a.Checks {
			cmd, ok := commands[c.Command]
			if !ok {
				t.Errorf("%s: no command %s", a.ID, c.Command)
			}
			for n := range strings.FieldsSeq(cmd.needs) {
				if attribute(&c, n) == "" {
					t.Errorf("%s: %s without %s", a.ID, c.Command, n)
				}
			}
			for _, re := range []string{c.Regex, c.Filter} {
				if _, err := regexp.Compile(re); err != nil {
					t.Errorf("%s: %v", a.ID, err)
				}
			}
		}
	}
	if !seen["CIS-debian-12-Filesystem-1.1.2"] {
		t.Error("ids are not as documented")
	}
}

// On the machine that tests run on, whatever it is, no check of ours ends with an error, but for what only root may read.
func TestScan_ThisMachine(t *testing.T) {
	t.Parallel()
	r := scan(t, Config{})
	for _, x := range r.Results {
		if x.Outcome == Error && !strings.Contains(x.Text, "run the agent as root") {
			t.Errorf("%s (%s): %s", x.Audit.ID, x.Audit.Description, x.Text)
		}
	}
	if s := r.Summary(); s.Assessed < 40 {
		t.Errorf("only %d of %d were assessed", s.Assessed, len(r.Results))
	}
}

func TestNew_Refuses(t *testing.T) {
	t.Parallel()
	root := device(t, map[string]string{"f": ""})
	for _, cfg := range []Config{{Root: root + "/none"}, {Root: root + "/f"}, {ChecksDisabled: make([]string, maxDisabled+1)}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%q is taken", cfg.Root)
		}
	}
}

func TestParse_Refuses(t *testing.T) {
	t.Parallel()
	one := func(audit string) string { return `<baseline BaselineId="x"><audits>` + audit + `</audits></baseline>` }
	check := `<check distro="*" command="CheckAlwaysPass"/>`
	for doc, why := range map[string]string{
		"":                                   "no baseline",
		"<other/>":                           "no baseline",
		`<baseline><audits/></baseline>`:     "no BaselineId",
		one(""):                              "no audits",
		one(`<audit msid="1"/>`):             "1 to 64 checks",
		one(`<audit>` + check + `</audit>`):  "neither msid nor cceid",
		one(strings.Repeat("<a>", maxDepth)): "deep",
		`<!DOCTYPE x [<!ENTITY a "b">]>` + one(""):                                              "document type",
		one(strings.Repeat(`<audit msid="1">`+check+`</audit>`, maxAudits+1)):                   "more than 1000 audits",
		one(`<audit msid="1">` + strings.Repeat(check, maxChecks+1) + `</audit>`):               "1 to 64 checks",
		one(`<audit msid="1"><check regex="` + strings.Repeat("a", maxValue+1) + `"/></audit>`): "has more than",
		`<?xml version="1.0" encoding="utf-16"?>` + one(""):                                     "utf-16",
		one(strings.Repeat("<a/>", maxElements)):                                                "elements",
		strings.Repeat(" ", maxXML+1):                                                           "bytes",
	} {
		if _, err := Parse([]byte(doc)); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%.60q: %v, want %q", doc, err, why)
		}
	}
}

// FuzzParse: whatever is taken is bounded, its audits can be told apart, and can be run.
func FuzzParse(f *testing.F) {
	f.Add([]byte(customXML))
	f.Add([]byte(`<baseline BaselineId="x"><audits><audit msid="1"><check distro="and|!A|B&gt;=7" command="CheckNoMatchingLines" path="/etc/fstab" regex="a" filter="b"/></audit></audits></baseline>`))
	tr, err := openTree(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(tr.close)
	f.Fuzz(func(t *testing.T, b []byte) {
		base, err := Parse(b)
		if err != nil {
			if base != nil {
				t.Error("a baseline beside an error")
			}
			return
		}
		m := newMachine(t.Context(), tr, &Config{})
		seen := map[string]bool{}
		for i := range base.Audits {
			a := &base.Audits[i]
			if a.ID == "" || seen[a.ID] || !slices.Contains(severities, a.Severity) {
				t.Errorf("%+v", a)
			}
			seen[a.ID] = true
			m.verdict(a)
		}
	})
}

func BenchmarkScan(b *testing.B) {
	s, err := New(Config{})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := s.Scan(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

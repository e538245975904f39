package group

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// azure are the names of the rules of a new group, as the example of the ARM reference lists them, with the one that later models have.
var azure = struct{ windows, allow []string }{
	[]string{
		"ActiveConnectionsNotInAllowedRange", "FailedLocalLoginsNotInAllowedRange", "AmqpC2DMessagesNotInAllowedRange", "MqttC2DMessagesNotInAllowedRange",
		"HttpC2DMessagesNotInAllowedRange", "AmqpC2DRejectedMessagesNotInAllowedRange", "MqttC2DRejectedMessagesNotInAllowedRange",
		"HttpC2DRejectedMessagesNotInAllowedRange", "AmqpD2CMessagesNotInAllowedRange", "MqttD2CMessagesNotInAllowedRange", "HttpD2CMessagesNotInAllowedRange",
		"DirectMethodInvokesNotInAllowedRange", "FileUploadsNotInAllowedRange", "QueuePurgesNotInAllowedRange", "TwinUpdatesNotInAllowedRange",
		"UnauthorizedOperationsNotInAllowedRange",
	},
	[]string{"ConnectionToIpNotAllowed", "ConnectionFromIpNotAllowed", "LocalUserNotAllowed", "ProcessNotAllowed"},
}

func TestEmpty_ListsEveryRuleDisabled(t *testing.T) {
	t.Parallel()
	r := Empty()
	var windows, allow []string
	for _, w := range r.Window {
		windows = append(windows, w.RuleType)
		if w.IsEnabled || w.Min != 0 || w.Max != 0 || w.Window != "PT15M" || w.DisplayName == "" || w.Description == "" {
			t.Errorf("%+v", w)
		}
	}
	for _, a := range r.Allow {
		allow = append(allow, a.RuleType)
		if a.IsEnabled || a.Values == nil || len(a.Values) > 0 || a.ValueType != map[bool]string{true: "IpCidr", false: "String"}[strings.HasPrefix(a.RuleType, "Connection")] {
			t.Errorf("%+v", a)
		}
	}
	if !slices.Equal(windows, azure.windows) || !slices.Equal(allow, azure.allow) {
		t.Errorf("got %q and %q", windows, allow)
	}
	text, err := json.Marshal(r)
	if err != nil || !strings.Contains(string(text), `"thresholdRules":[]`) || !strings.Contains(string(text), `"denylistRules":[]`) ||
		!strings.Contains(string(text), `"allowlistValues":[]`) {
		t.Errorf("%s, %v", text, err)
	}
	c, err := Compile(r, nil)
	if err != nil || c.Judges() || len(c.Windows) > 0 {
		t.Errorf("a new group judges: %+v, %v", c, err)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	r, err := Parse([]byte(`{"properties":{"timeWindowRules":[{"ruleType":"activeConnectionsNotInAllowedRange","isEnabled":true,"minThreshold":0,"maxThreshold":30,"timeWindowSize":"PT5M","displayName":"mine"}],
		"allowlistRules":[{"ruleType":"ConnectionToIpNotAllowed","isEnabled":true,"allowlistValues":["10.0.0.0/8","2001:db8::/32"]}],
		"thresholdRules":[{"ruleType":"BytesOutNotInAllowedRange","isEnabled":true,"minThreshold":0,"maxThreshold":10}],
		"denylistRules":[{"ruleType":"ProcessDenied","isEnabled":false,"denylistValues":["nc"]}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Window) != 16 || len(r.Allow) != 4 || len(r.Threshold) != 1 || len(r.Deny) != 1 {
		t.Errorf("%+v", r)
	}
	if w := r.Window[0]; w.RuleType != "ActiveConnectionsNotInAllowedRange" || !w.IsEnabled || w.Max != 30 || w.Window != "PT5M" || w.DisplayName != "Number of active connections is not in allowed range" {
		t.Errorf("%+v", w)
	}
	text, _ := r.Text()
	again, err := Parse(text)
	if text2, _ := again.Text(); err != nil || string(text) != string(text2) {
		t.Errorf("what was answered is not taken: %v", err)
	}
	for name, bad := range map[string]string{
		"no JSON":                `{`,
		"an unknown list":        `{"rules":[]}`,
		"an unknown rule":        `{"timeWindowRules":[{"ruleType":"Nothing"}]}`,
		"a rule of another list": `{"denylistRules":[{"ruleType":"ProcessNotAllowed"}]}`,
		"twice":                  `{"denylistRules":[{"ruleType":"ProcessDenied"},{"ruleType":"ProcessDenied"}]}`,
		"no range":               `{"timeWindowRules":[{"ruleType":"TwinUpdatesNotInAllowedRange","isEnabled":true,"minThreshold":3,"maxThreshold":2}]}`,
		"negative":               `{"timeWindowRules":[{"ruleType":"TwinUpdatesNotInAllowedRange","minThreshold":-1}]}`,
		"too short":              `{"timeWindowRules":[{"ruleType":"TwinUpdatesNotInAllowedRange","timeWindowSize":"PT30S"}]}`,
		"a host name":            `{"allowlistRules":[{"ruleType":"ConnectionToIpNotAllowed","allowlistValues":["example.com"]}]}`,
		"an empty value":         `{"allowlistRules":[{"ruleType":"LocalUserNotAllowed","allowlistValues":[""]}]}`,
		"something behind":       `{} {}`,
	} {
		if _, err := Parse([]byte(bad)); !fault.Is(err, fault.Invalid) && !fault.Is(err, fault.Malformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseWindow(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"PT1M": time.Minute, "PT60S": time.Minute, "PT15M": 15 * time.Minute, "PT1H30M": 90 * time.Minute, "P1D": 24 * time.Hour, "PT24H": 24 * time.Hour,
	} {
		if got, err := ParseWindow(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "P", "PT", "15M", "PT1.5M", "PT30S", "PT61S", "P1DT1M", "PT25H", "P1W", "P1M", "PT1M1M", "PT1M2H3", "PT-1M", "P1DT", "PT99999999999M", "pt1m"} {
		if got, err := ParseWindow(bad); err == nil {
			t.Errorf("%q is %v", bad, got)
		}
	}
}

func flow(local, remote, direction string, in, out uint64) secmsg.Flow {
	return secmsg.Flow{Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote), Protocol: "TCP", Direction: direction, BytesIn: in, BytesOut: out}
}

// began is a flow of schema 3.0 whose ports and bytes tell nothing.
func began(direction string) secmsg.Flow {
	f := flow("10.0.0.1:5000", "192.0.2.8:5000", direction, 70, 90)
	f.Began = true
	return f
}

func TestCompiled_Addresses(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-23")
	r, err := Parse([]byte(`{"allowlistRules":[{"ruleType":"ConnectionToIpNotAllowed","isEnabled":true,"allowlistValues":["10.0.0.0/8","2001:db8::/32","192.0.2.7"]},
		{"ruleType":"ConnectionFromIpNotAllowed","isEnabled":true,"allowlistValues":["10.1.0.0/16","::ffff:172.16.0.0/108"]}],
		"denylistRules":[{"ruleType":"ConnectionToIpDenied","isEnabled":true,"denylistValues":["10.9.0.0/16"]},{"ruleType":"ConnectionFromIpDenied","isEnabled":true,"denylistValues":["10.1.9.9/32"]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	c, err := Compile(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		flow secmsg.Flow
		want string
	}{
		"allowed, IPv4":                  {flow("10.0.0.1:40000", "10.2.3.4:443", "", 1, 1), ""},
		"allowed, IPv6":                  {flow("[fd00::1]:40000", "[2001:db8::5]:443", "", 1, 1), ""},
		"allowed, one address":           {flow("10.0.0.1:40000", "192.0.2.7:443", "", 1, 1), ""},
		"allowed, IPv4 in IPv6":          {flow("10.0.0.1:40000", "[::ffff:10.2.3.4]:443", "", 1, 1), ""},
		"not allowed":                    {flow("10.0.0.1:40000", "192.0.2.8:443", "", 1, 1), "ConnectionToIpNotAllowed"},
		"not allowed, IPv6":              {flow("[fd00::1]:40000", "[2001:db9::5]:443", "", 1, 1), "ConnectionToIpNotAllowed"},
		"denied among allowed":           {flow("10.0.0.1:40000", "10.9.0.1:443", "", 1, 1), "ConnectionToIpDenied"},
		"inbound by its ports":           {flow("10.0.0.1:22", "192.0.2.8:50000", "", 1, 1), "ConnectionFromIpNotAllowed"},
		"inbound, allowed":               {flow("10.0.0.1:22", "172.16.3.4:50000", "", 1, 1), ""},
		"inbound, denied":                {flow("10.0.0.1:22", "10.1.9.9:50000", "", 1, 1), "ConnectionFromIpDenied"},
		"inbound, as the agent says":     {flow("10.0.0.1:40000", "192.0.2.8:443", "In", 0, 0), "ConnectionFromIpNotAllowed"},
		"outbound, as the agent says":    {flow("10.0.0.1:22", "192.0.2.8:50000", "Out", 0, 0), "ConnectionToIpNotAllowed"},
		"inbound, says Linux":            {began(secmsg.In), "ConnectionFromIpNotAllowed"},
		"outbound, says Linux":           {began(secmsg.Out), "ConnectionToIpNotAllowed"},
		"ICMP that was only received":    {flow("10.0.0.1:0", "192.0.2.8:0", "In", 64, 0), "ConnectionFromIpNotAllowed"},
		"loopback is nobody's business":  {flow("127.0.0.1:1", "127.0.0.1:2", "Out", 0, 0), ""},
		"an address that was not given":  {secmsg.Flow{Protocol: "TCP"}, ""},
		"ports tell nothing: outbound":   {flow("10.0.0.1:5000", "192.0.2.8:5000", "", 1, 1), "ConnectionToIpNotAllowed"},
		"multicast must be allowed, too": {flow("10.0.0.1:5353", "224.0.0.251:5353", "", 0, 1), "ConnectionToIpNotAllowed"},
	} {
		var got []string
		for _, f := range c.Judge(&secmsg.Report{Events: []secmsg.Event{{Name: "NetworkActivity", Flows: []secmsg.Flow{tc.flow}}}}) {
			got = append(got, f.Rule)
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}

func TestCompiled_UsersProcessesAndThresholds(t *testing.T) {
	t.Parallel()
	r, err := Parse([]byte(`{"allowlistRules":[{"ruleType":"LocalUserNotAllowed","isEnabled":true,"allowlistValues":["root"]},{"ruleType":"ProcessNotAllowed","isEnabled":true,"allowlistValues":["sh","/opt/app"]}],
		"denylistRules":[{"ruleType":"LocalUserDenied","isEnabled":true,"denylistValues":["eve"]},{"ruleType":"ProcessDenied","isEnabled":true,"denylistValues":["nc"]}],
		"thresholdRules":[{"ruleType":"DistinctRemoteAddressesNotInAllowedRange","isEnabled":true,"minThreshold":0,"maxThreshold":1},{"ruleType":"BytesOutNotInAllowedRange","isEnabled":true,"minThreshold":0,"maxThreshold":10}]}`))
	if err != nil {
		t.Fatal(err)
	}
	c, err := Compile(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	report, err := secmsg.Decode("", []byte(`[{"Name":"Login","Payload":[{"Operation":"Login","Result":"Success","UserName":"root"},{"Operation":"Login","Result":"Fail","UserName":"mallory"},
		{"Operation":"Login","Result":"Success","UserName":"eve","ExtraDetails":{"HitCount":4}}]},
		{"Name":"ProcessCreate","Payload":[{"Executable":"/bin/sh"},{"Executable":"/opt/app"},{"Executable":"/usr/bin/nc"},{"Executable":"C:\\sh"}]}]`))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range c.Judge(&report) {
		got = append(got, fmt.Sprintf("%s %d %v %s", f.Rule, f.Count, f.Items, f.Text))
	}
	want := []string{
		`LocalUserNotAllowed 4 [[0 2]] had a login by user "eve"`, `LocalUserDenied 4 [[0 2]] had a login by user "eve"`,
		`ProcessNotAllowed 1 [[1 2]] started "/usr/bin/nc"`, `ProcessDenied 1 [[1 2]] started "/usr/bin/nc"`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	linux, err := secmsg.Decode(secmsg.IndicatorJSON, secmsg.AppendJSON(nil, secmsg.Report{Events: []secmsg.Event{
		{Name: "Login", Payload: []secmsg.Item{
			secmsg.LoginRecord{Operation: secmsg.LoggedOut, UserName: "eve"}, secmsg.LoginRecord{Operation: secmsg.LoggedIn, UserName: "eve", HitCount: 4},
			secmsg.LoginRecord{Operation: secmsg.LoginFailed, UserName: "mallory", HitCount: 3},
		}},
		{Name: "Process", Payload: []secmsg.Item{
			secmsg.Process{Executable: "/bin/sh", EventType: "EXEC"}, secmsg.Process{Executable: "/bin/nc", EventType: "EXIT"}, secmsg.Process{Executable: "/usr/bin/nc", EventType: "EXEC", HitCount: 1},
		}},
		{Name: "NetworkActivity", Flows: []secmsg.Flow{{Hits: 2}, {Hits: 0}}}, // the other one was told of before, and goes on
	}}))
	if err != nil {
		t.Fatal(err)
	}
	got, want[0], want[1] = nil, strings.Replace(want[0], "[0 2]", "[0 1]", 1), strings.Replace(want[1], "[0 2]", "[0 1]", 1)
	for _, f := range c.Judge(&linux) {
		got = append(got, fmt.Sprintf("%s %d %v %s", f.Rule, f.Count, f.Items, f.Text))
	}
	if !slices.Equal(got[:min(len(got), 4)], want) {
		t.Errorf("of Linux: got  %q\nwant %q", got, want)
	}
	if connections, failed := Count(&linux); connections != 3 || failed != 3 {
		t.Errorf("of Linux: %d connections, %d failed logins", connections, failed)
	}
	if connections, failed := Count(&report); connections != 0 || failed != 1 {
		t.Errorf("%d connections, %d failed logins", connections, failed)
	}
	many := secmsg.Report{Events: []secmsg.Event{{Flows: []secmsg.Flow{flow("10.0.0.1:40000", "10.0.0.2:1", "", 0, 5), flow("10.0.0.1:40000", "10.0.0.2:2", "", 0, 5), flow("10.0.0.1:40000", "10.0.0.3:1", "", 0, 1)}}}}
	got = nil
	for _, f := range c.Judge(&many) {
		got = append(got, f.Rule+": "+f.Text)
	}
	want = []string{
		"DistinctRemoteAddressesNotInAllowedRange: reported 2 remote addresses where 0 to 1 are allowed",
		"BytesOutNotInAllowedRange: reported 11 bytes sent where 0 to 10 are allowed",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if connections, _ := Count(&many); connections != 3 {
		t.Errorf("%d connections", connections)
	}
}

type memory struct {
	text []byte
	err  error
}

func (m *memory) Setting(context.Context, string) ([]byte, error) {
	if m.text == nil && m.err == nil {
		return nil, fault.New(fault.NotFound, "none")
	}
	return m.text, m.err
}

func (m *memory) UpdateSetting(_ context.Context, _ string, change func([]byte) ([]byte, error)) error {
	text, err := change(m.text)
	if err == nil {
		m.text = text
	}
	return err
}

func TestBook(t *testing.T) {
	t.Parallel()
	s, ctx := &memory{}, t.Context()
	b := NewBook(s, nil)
	names, _, err := b.Groups(ctx)
	if err != nil || !slices.Equal(names, []string{"default"}) {
		t.Errorf("%q, %v", names, err)
	}
	if c, err := b.Compiled(ctx); err != nil || len(c) != 0 {
		t.Errorf("%v, %v", c, err)
	}
	r := Empty()
	r.Window[0].IsEnabled = true
	for _, tc := range []struct {
		name string
		want bool
	}{{"plant", true}, {"plant", false}, {"default", false}} {
		if created, err := b.Put(ctx, tc.name, r); err != nil || created != tc.want {
			t.Errorf("%s: created %v, %v", tc.name, created, err)
		}
	}
	if c, err := b.Compiled(ctx); err != nil || len(c) != 2 || len(c["plant"].Windows) != 1 {
		t.Errorf("a change does not hold at once: %v, %v", c, err)
	}
	if _, err := b.Group(ctx, "nobody"); !fault.Is(err, fault.NotFound) {
		t.Errorf("unknown: %v", err)
	}
	if existed, err := b.Delete(ctx, "plant"); err != nil || !existed {
		t.Errorf("delete: %v, %v", existed, err)
	}
	if existed, err := b.Delete(ctx, "plant"); err != nil || existed {
		t.Errorf("delete again: %v, %v", existed, err)
	}
	if _, err := b.Put(ctx, "a/b", r); !fault.Is(err, fault.Invalid) {
		t.Errorf("a name with a slash: %v", err)
	}
	s.err = errors.New("the disk is away")
	time.Sleep(time.Millisecond)
	b.read = time.Time{}
	if _, err := b.Compiled(ctx); err == nil {
		t.Error("a store that fails is no error")
	}
}

func FuzzParse(f *testing.F) {
	text, _ := Empty().Text()
	f.Add([]byte(text))
	f.Add([]byte(`{"properties":{"timeWindowRules":[{"ruleType":"ActiveConnectionsNotInAllowedRange","isEnabled":true,"maxThreshold":30,"timeWindowSize":"P1D"}]}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := Parse(body)
		if err != nil {
			return
		}
		text, err := r.Text()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(text)
		if err != nil {
			t.Fatalf("what was parsed is refused: %v", err)
		}
		if text2, _ := again.Text(); string(text) != string(text2) {
			t.Errorf("%s became %s", text, text2)
		}
	})
}

func TestAll_ListsEveryRule(t *testing.T) {
	t.Parallel()
	r, err := Parse([]byte(`{"thresholdRules":[{"ruleType":"BytesOutNotInAllowedRange","isEnabled":true,"maxThreshold":9}],"denylistRules":[{"ruleType":"ProcessDenied","isEnabled":true,"denylistValues":["nc"]}],
		"timeWindowRules":[{"ruleType":"TwinUpdatesNotInAllowedRange","isEnabled":true,"maxThreshold":3}],"allowlistRules":[{"ruleType":"ProcessNotAllowed","isEnabled":true,"allowlistValues":["init"]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	all := r.All()
	if len(all.Window) != 16 || len(all.Threshold) != 2 || len(all.Allow) != 4 || len(all.Deny) != 4 {
		t.Fatalf("there are %d, %d, %d and %d rules", len(all.Window), len(all.Threshold), len(all.Allow), len(all.Deny))
	}
	text, err := all.Text()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(text)
	if err != nil {
		t.Fatalf("what is listed is no group: %v", err)
	}
	if !reflect.DeepEqual(again, all) {
		t.Errorf("got %+v, want %+v", again, all)
	}
	on := 0
	for _, x := range all.Window {
		if x.IsEnabled {
			on += x.Max
		}
	}
	for _, x := range all.Threshold {
		if x.IsEnabled {
			on += x.Max
		}
	}
	for _, x := range all.Allow {
		if x.IsEnabled {
			on += 100 * len(x.Values)
		}
	}
	for _, x := range all.Deny {
		if x.IsEnabled {
			on += 1000 * len(x.Values)
		}
	}
	if on != 3+9+100+1000 {
		t.Errorf("what was set is not what is listed: %+v", all)
	}
}

// atomic is a store that several servers share.
type atomic struct {
	mu   sync.Mutex
	text []byte
}

func (s *atomic) Setting(context.Context, string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text, nil
}

func (s *atomic) UpdateSetting(_ context.Context, _ string, change func([]byte) ([]byte, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, err := change(s.text)
	if err == nil {
		s.text = text
	}
	return err
}

// Changes that two servers make at once are both there.
func TestBook_ChangesAtOnce(t *testing.T) {
	t.Parallel()
	s := &atomic{}
	var wg sync.WaitGroup
	for n := range 2 {
		b := NewBook(s, nil)
		wg.Go(func() {
			for i := range 50 {
				if _, err := b.Change(t.Context(), "plant", func(r Rules) (Rules, error) {
					r = r.All()
					r.Deny[0].Values = append(slices.Clone(r.Deny[0].Values), fmt.Sprintf("%d-%d", n, i))
					return r, nil
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b := NewBook(s, nil)
	r, err := b.Group(t.Context(), "plant")
	if err != nil || len(r.Deny[0].Values) != 100 {
		t.Errorf("%d of 100 values are there, %v", len(r.Deny[0].Values), err)
	}
	if _, err := b.Change(t.Context(), "plant", func(r Rules) (Rules, error) { return Rules{}, fault.New(fault.PreconditionFailed, "no") }); !fault.Is(err, fault.PreconditionFailed) {
		t.Errorf("refused: %v", err)
	}
	if again, err := b.Group(t.Context(), "plant"); err != nil || !reflect.DeepEqual(again, r) {
		t.Errorf("after a refusal: %+v, %v", again, err)
	}
}

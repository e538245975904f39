package config

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestFlat(t *testing.T) {
	t.Parallel()
	type change = func(*Settings)
	collector := func(name string, c Collector) change { return func(s *Settings) { s.Collectors[name] = c } }
	for name, tt := range map[string]struct {
		desired string
		change  change
	}{
		"nothing":            {`{}`, func(*Settings) {}},
		"no text":            {``, func(*Settings) {}},
		"null":               {`null`, func(*Settings) {}},
		"unknown keys":       {`{"$version":7,"Foo_Disabled":1,"Process_Foo":[]}`, func(*Settings) {}},
		"null is default":    {`{"Process_Mode":null,"Baseline_Disabled":null}`, func(*Settings) {}},
		"intervals":          {`{"CollectorsCore_PriorityIntervals":"1, 2,4"}`, func(s *Settings) { s.Intervals = [4]time.Duration{4 * minute, 4 * minute, 2 * minute, minute} }},
		"not multiples":      {`{"CollectorsCore_PriorityIntervals":"2,3,5"}`, func(s *Settings) { s.Intervals = [4]time.Duration{5 * minute, 5 * minute, 3 * minute, 2 * minute} }},
		"disabled":           {`{"SBoM_Disabled":true}`, collector(SBoM, Collector{})},
		"disabled as text":   {`{"SBoM_Disabled":"True"}`, collector(SBoM, Collector{})},
		"disabled and often": {`{"SBoM_MessageFrequency":"High","SBoM_Disabled":true}`, collector(SBoM, Collector{})},
		"not disabled":       {`{"SBoM_Disabled":false}`, func(*Settings) {}},
		"frequency":          {`{"Heartbeat_MessageFrequency":"High"}`, collector(Heartbeat, Collector{Priority: High})},
		"one of ours":        {`{"ListeningPorts_MessageFrequency":"Medium"}`, collector(ListeningPorts, Collector{Priority: Medium})},
		"lists": {`{"Baseline_GroupsDisabled":"a, b,,c","FileSystem_Paths":"/etc,/opt"}`, func(s *Settings) {
			s.BaselineGroupsDisabled, s.FilePaths = []string{"a", "b", "c"}, []string{"/etc", "/opt"}
		}},
		"hardware":       {`{"SystemInformation_HardwareVendor":"Acme","SystemInformation_HardwareSerialNumber":"7"}`, func(s *Settings) { s.Hardware = Hardware{Vendor: "Acme", SerialNumber: "7"} }},
		"number as text": {`{"Process_CacheSize":"12"}`, func(s *Settings) { s.CacheSize[Process] = 12 }},
		"timeout":        {`{"IothubModule_MessageTimeout":60,"Process_PollingInterval":50000}`, func(s *Settings) { s.MessageTimeout, s.ProcessPolling = time.Hour, 50*time.Millisecond }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := Default()
			tt.change(&want)
			got, err := Flat([]byte(tt.desired), Settings{})
			if err != nil || got.Invalid != nil {
				t.Fatalf("%v, invalid %q", err, got.Invalid)
			}
			if d := cmp.Diff(want, got.Settings); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if r := FlatReport(got); r["latest_state"] != "success" || r["latest_invalid_fields"] != nil {
				t.Errorf("reports %v", r)
			}
		})
	}
}

// What is invalid changes nothing, not even what is valid beside it.
func TestFlat_Invalid(t *testing.T) {
	t.Parallel()
	current := Default()
	current.ProcessMode = 3
	for _, tt := range []struct {
		desired string
		invalid []string
	}{
		{`{"Process_Mode":0}`, []string{"Process_Mode"}},
		{`{"Process_Mode":2.5,"SBoM_Disabled":true}`, []string{"Process_Mode"}},
		{`{"SBoM_Disabled":1,"Login_UsePAM":"maybe"}`, []string{"Login_UsePAM", "SBoM_Disabled"}},
		{`{"Heartbeat_MessageFrequency":"Often"}`, []string{"Heartbeat_MessageFrequency"}},
		{`{"Heartbeat_MessageFrequency":"Off"}`, []string{"Heartbeat_MessageFrequency"}},
		{`{"CollectorsCore_PriorityIntervals":"1,2"}`, []string{"CollectorsCore_PriorityIntervals"}},
		{`{"CollectorsCore_PriorityIntervals":"0,1,2"}`, []string{"CollectorsCore_PriorityIntervals"}},
		{`{"CollectorsCore_PriorityIntervals":"4,2,8"}`, []string{"CollectorsCore_PriorityIntervals"}},
		{`{"CollectorsCore_PriorityIntervals":7}`, []string{"CollectorsCore_PriorityIntervals"}},
		{`{"Process_CacheSize":0}`, []string{"Process_CacheSize"}},
		{`{"Process_CacheSize":1000000000}`, []string{"Process_CacheSize"}},
		{`{"FileSystem_Paths":["/etc"]}`, []string{"FileSystem_Paths"}},
		{`{"FileSystem_Paths":"` + strings.Repeat(",", 300) + `"}`, []string{"FileSystem_Paths"}},
		{`{"IothubModule_MessageTimeout":-1}`, []string{"IothubModule_MessageTimeout"}},
	} {
		got, err := Flat([]byte(tt.desired), current)
		if err != nil || !slices.Equal(got.Invalid, tt.invalid) {
			t.Errorf("%s: invalid %q, %v", tt.desired, got.Invalid, err)
		}
		if d := cmp.Diff(current, got.Settings); d != "" {
			t.Errorf("%s changed the settings (-want +got):\n%s", tt.desired, d)
		}
		if r := FlatReport(got); r["latest_state"] != "failed" || r["latest_invalid_fields"] != strings.Join(tt.invalid, ",") {
			t.Errorf("%s: reports %v", tt.desired, r)
		}
	}
	for _, text := range []string{`[]`, `7`, `{"a":`, `"x"`} {
		if _, err := Flat([]byte(text), current); err == nil {
			t.Errorf("%s was taken", text)
		}
	}
}

func v1Text(t *testing.T, properties string) []byte {
	t.Helper()
	return []byte(`{"` + Section + `":{` + properties + `},"$version":3}`)
}

func TestEffectiveV1(t *testing.T) {
	t.Parallel()
	a, section, err := EffectiveV1([]byte(`{}`), nil)
	if err != nil || a.Invalid != nil {
		t.Fatal(err, a.Invalid)
	}
	text, err := json.Marshal(section)
	if err != nil {
		t.Fatal(err)
	}
	// The whole section, with the defaults of defender §1.5.
	var got map[string]struct{ Value any }
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"highPriorityMessageFrequency": "PT7M", "lowPriorityMessageFrequency": "PT5H", "snapshotFrequency": "PT13H",
		"maxLocalCacheSizeInBytes": 2560000.0, "maxMessageSizeInBytes": 204800.0, "hubResourceId": "",
		"baselineCustomChecksEnabled": false, "baselineCustomChecksFilePath": nil, "baselineCustomChecksFileHash": nil,
	}
	for _, e := range []string{"ConnectedHardware", "ProcessCreate", "ProcessTerminate", "SystemInformation", "ConnectionCreate", "FirewallConfiguration", "OSBaseline", "ConfigurationError", "DroppedEventsStatistics", "MessageStatistics", "Diagnostic"} {
		want["eventPriority"+e] = "Low"
	}
	for _, e := range []string{"ListeningPorts", "LocalUsers", "Login"} {
		want["eventPriority"+e] = "High"
	}
	for _, e := range []string{"ProcessCreate", "ConnectionCreate", "ProcessTerminate"} {
		want["aggregationEnabled"+e], want["aggregationInterval"+e] = true, "PT1H"
	}
	values := make(map[string]any)
	for k, v := range got {
		values[k] = v.Value
	}
	if d := cmp.Diff(want, values); d != "" {
		t.Errorf("the defaults (-want +got):\n%s", d)
	}
	s := a.Settings
	if s.Interval(Login) != 7*time.Minute || s.Interval(ListeningPorts) != 13*time.Hour || s.Interval(Process) != 5*time.Hour || s.MaxMessageBytes != 204800 || s.MaxCacheBytes != 2560000 {
		t.Errorf("settings %+v", s)
	}
}

func TestEffectiveV1_Changes(t *testing.T) {
	t.Parallel()
	a, section, err := EffectiveV1(v1Text(t, `
		"highPriorityMessageFrequency":{"value":"PT2M"}, "eventPriorityProcessCreate":{"value":"high"}, "aggregationEnabledProcessCreate":{"value":false},
		"eventPriorityOSBaseline":{"value":"Off"}, "snapshotFrequency":{"value":"P1DT1H"}, "maxMessageSizeInBytes":{"value":8192},
		"hubResourceId":{"value":"/hub"}, "baselineCustomChecksEnabled":{"value":null}, "somethingElse":{"value":1}`), nil)
	if err != nil || a.Invalid != nil {
		t.Fatal(err, a.Invalid)
	}
	s := a.Settings
	if c := s.Collectors[Process]; c != (Collector{Priority: High, Apart: true}) || s.Interval(Process) != 2*time.Minute {
		t.Errorf("Process %+v every %v", c, s.Interval(Process))
	}
	if s.Collectors[Baseline].Priority != Off || s.Interval(ListeningPorts) != 25*time.Hour || s.MaxMessageBytes != 8192 || s.HubResourceID != "/hub" {
		t.Errorf("settings %+v", s)
	}
	// What is invalid keeps the value that was in force; what is valid beside it is applied.
	a, section, err = EffectiveV1(v1Text(t, `"highPriorityMessageFrequency":{"value":7}, "eventPriorityLogin":"High", "snapshotFrequency":{"value":"PT20H"}, "maxMessageSizeInBytes":{"value":100}`), section)
	if err != nil || !slices.Equal(a.Invalid, []string{"eventPriorityLogin", "highPriorityMessageFrequency", "maxMessageSizeInBytes"}) {
		t.Fatal(err, a.Invalid)
	}
	if s := a.Settings; s.Intervals[High] != 2*time.Minute || s.Interval(ListeningPorts) != 20*time.Hour || s.MaxMessageBytes != 8192 {
		t.Errorf("settings %+v", s)
	}
	a, _, err = EffectiveV1([]byte(`{"`+Section+`":7}`), section)
	if err != nil || !slices.Equal(a.Invalid, []string{Section}) || a.Settings.Intervals[High] != 2*time.Minute {
		t.Errorf("a section that is none: %v %q %v", err, a.Invalid, a.Settings.Intervals)
	}
	for _, p := range []string{
		`"snapshotFrequency":{"value":"P1Y"}`, `"snapshotFrequency":{"value":"PT"}`, `"snapshotFrequency":{"value":"PT1S"}`, `"snapshotFrequency":{}`,
		`"maxLocalCacheSizeInBytes":{"value":8191}`, `"maxMessageSizeInBytes":{"value":262145}`, `"eventPriorityLogin":{"value":"Medium"}`,
		`"aggregationEnabledProcessCreate":{"value":"true"}`, `"baselineCustomChecksFileHash":{"value":"zz"}`, `"hubResourceId":{"value":[]}`,
	} {
		if a, _, err := EffectiveV1(v1Text(t, p), nil); err != nil || len(a.Invalid) != 1 {
			t.Errorf("%s: %v, invalid %q", p, err, a.Invalid)
		}
	}
}

func TestDifferences(t *testing.T) {
	t.Parallel()
	desired := v1Text(t, `"snapshotFrequency":{"value":"PT20H"},"maxMessageSizeInBytes":{"value":100},"hubResourceId":{"value":null},"unknown":{"value":1}`)
	_, section, err := EffectiveV1(desired, nil)
	if err != nil {
		t.Fatal(err)
	}
	reported, err := json.Marshal(map[string]any{Section: section})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Differences(desired, reported); err != nil || !slices.Equal(got, []string{"maxMessageSizeInBytes"}) {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := Differences(desired, []byte(`{}`)); err != nil || !slices.Equal(got, []string{"maxMessageSizeInBytes", "snapshotFrequency"}) {
		t.Errorf("nothing reported: %q, %v", got, err)
	}
	if _, err := Differences([]byte(`[]`), reported); err == nil {
		t.Error("a list was taken")
	}
}

// Whatever a twin says, settings stay within their limits, and what is refused is named.
func FuzzDesired(f *testing.F) {
	f.Add([]byte(`{"CollectorsCore_PriorityIntervals":"30,120,1440","Process_CacheSize":7,"SBoM_Disabled":true}`))
	f.Add([]byte(`{"` + Section + `":{"snapshotFrequency":{"value":"P1DT2H"},"maxMessageSizeInBytes":{"value":9000}}}`))
	f.Add([]byte(`{"FileSystem_Paths":"/etc,/opt","Process_Mode":"2"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		check := func(s Settings) {
			for _, d := range s.Intervals {
				if d < time.Minute || d > 60*24*time.Hour {
					t.Fatalf("intervals %v", s.Intervals)
				}
			}
			for n, size := range s.CacheSize {
				if size < 1 || size > maxSize {
					t.Fatalf("cache of %s: %d", n, size)
				}
			}
			if s.MaxMessageBytes < minV1Message || s.MaxMessageBytes > maxMessage || s.MessageTimeout < time.Minute || len(s.Collectors) != len(Names) || len(s.FilePaths) > maxList {
				t.Fatalf("settings %+v", s)
			}
		}
		current := Default()
		current.ProcessMode = 3
		if a, err := Flat(text, current); err == nil {
			check(a.Settings)
			if len(a.Invalid) > 0 && a.Settings.ProcessMode != 3 {
				t.Fatal("an invalid twin was applied")
			}
		}
		a, section, err := EffectiveV1(text, nil)
		if err != nil {
			return
		}
		check(a.Settings)
		if len(section) != len(v1Properties) {
			t.Fatalf("%d properties are reported of %d", len(section), len(v1Properties))
		}
		// What is reported, desired again, is valid and comes to the same.
		report, err := json.Marshal(map[string]any{Section: section})
		if err != nil {
			t.Fatal(err)
		}
		again, _, err := EffectiveV1(report, nil)
		if err != nil || len(again.Invalid) > 0 {
			t.Fatalf("%s: %v, invalid %q", report, err, again.Invalid)
		}
		if d := cmp.Diff(a.Settings, again.Settings); d != "" {
			t.Fatal(d)
		}
	})
}

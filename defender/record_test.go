package defender

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/internal/conform"
)

func TestDetector_KeepsEveryEvent(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-12")
	b := newBench(t, setOf("203.0.113.5"))
	broken := []byte("\x00\x01not a message")
	submit(t, b.log,
		message("d1", "", "2.3-1-0-0", noon, activity(flow("10.0.0.1:1", "203.0.113.5:1", "TCP", 1, 2), flow("10.0.0.1:1", "192.0.2.1:2", "UDP", 3, 4))),
		message("d2", "m", "2.3-1-0-0", noon, broken),
		message("d3", "azureiotsecurity", "", noon, []byte(`{"AgentVersion":"0.0.5","AgentId":"asc_security_module","MessageSchemaVersion":"1.0","Events":[
			{"EventType":"Operational","Category":"Aggregated","Name":"MessageStatistics","Id":"1","TimestampUTC":"2020-05-01T00:00:00","Payload":[{"MessagesSent":1},{"MessagesSent":2}]},
			{"EventType":"Security","Category":"Periodic","Name":"SystemInformation","Id":"2","TimestampUTC":"2020-05-01T00:00:00","Payload":[]}, 7]}`)),
		message("d4", "", "", noon, []byte(`{"AgentVersion":"1","AgentId":"x","MessageSchemaVersion":"1.0","Events":[7]}`)),
	)
	b.work(t)
	var all []record.Row
	for i := range b.alerts.events {
		all = append(all, b.alerts.events[i].Rows("hub.example")...)
	}
	if len(all) != 7 {
		t.Fatalf("%d rows: %+v", len(all), all)
	}
	first, _ := json.Marshal(all[0])
	for _, want := range []string{
		`"TimeGenerated":"2026-03-04T12:00:00Z"`, `"TimeStamp":"1970-01-01T00:00:07Z"`, `"AssociatedResourceId":"hub.example"`, `"DeviceId":"d1"`, `"RawEventName":"NetworkActivity"`,
		`"RawEventType":"Security"`, `"AgentVersion":"3.5.4"`, `"remote_address":"203.0.113.5"`, `"bytes_out":2`,
	} {
		if !strings.Contains(string(first), want) {
			t.Errorf("%s lacks %s", first, want)
		}
	}
	bad := all[2]
	var kept struct {
		MTI  string
		Size int `json:"bodySizeInBytes"`
		Body string
	}
	if err := json.Unmarshal(bad.Details, &kept); err != nil || bad.Name != record.InvalidMessage || bad.DeviceID != "d2" || bad.ModuleID != "m" || !strings.HasPrefix(bad.Problem, "secmsg: malformed message: offset ") ||
		kept.MTI != "2.3-1-0-0" || kept.Size != len(broken) || kept.Body != base64.StdEncoding.EncodeToString(broken) {
		t.Errorf("the message that cannot be read: %+v, %+v, %v", bad, kept, err)
	}
	if r := all[3]; r.SchemaValid == nil || *r.SchemaValid || !strings.Contains(strings.Join(r.Notes, "\n"), `message.AgentId: "asc_security_module" is no GUID`) ||
		!strings.Contains(strings.Join(r.Notes, "\n"), "an event was left out") || string(r.Details) != `{"MessagesSent":1}` || r.Kind != "Operational" || r.Category != "Aggregated" {
		t.Errorf("the first row of JSON: %+v", r)
	}
	if string(all[4].Details) != `{"MessagesSent":2}` || all[4].Notes != nil || !all[5].IsEmpty || all[5].Details != nil {
		t.Errorf("its others: %+v, %+v", all[4], all[5])
	}
	if all[6].Problem == "" || all[6].DeviceID != "d4" {
		t.Errorf("a message without a readable event: %+v", all[6])
	}
	for name, want := range map[string]float64{"malformed_messages": 1, "schema_broken_messages": 2, "events": 5} {
		if got := b.counter(t, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

func TestDetector_EvidenceIsReplayable(t *testing.T) {
	t.Parallel()
	b := newBench(t, setOf("203.0.113.5"))
	submit(t, b.log, message("d", "", "2.3-1-0-0", noon, activity(flow("10.0.0.1:1", "192.0.2.1:2", "UDP", 3, 4), flow("10.0.0.1:1", "203.0.113.5:1", "TCP", 1, 2))))
	b.work(t)
	if len(b.alerts.evidence) != 1 || b.alerts.evidence[0].Message != telemetry.Sequence(1, 0) || !strings.Contains(string(b.alerts.evidence[0].Details), `"203.0.113.5"`) {
		t.Fatalf("evidence %+v", b.alerts.evidence)
	}
	a := b.alerts.alerts[0]
	a.Evidence = b.alerts.evidence
	for set, want := range map[string]int{"203.0.113.0/24": 1, "198.51.100.1": 0} {
		again := newBench(t, setOf(set))
		found, err := again.Replay(t.Context(), a)
		if err != nil || len(found) != want || want == 1 && (found[0].Type != TiConnection || found[0].Indicator != set) {
			t.Errorf("with %s: %+v, %v", set, found, err)
		}
		if len(again.alerts.alerts) > 0 {
			t.Error("a replay raised an alert")
		}
	}
}

// groupsOf makes a detector that judges by groups.
func (b *bench) groups(t *testing.T, rules map[string]string, tags map[string]string) {
	t.Helper()
	all := map[string]*group.Compiled{}
	for name, text := range rules {
		r, err := group.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if all[name], err = group.Compile(r, nil); err != nil {
			t.Fatal(err)
		}
	}
	b.cfg.Groups = func(context.Context) (map[string]*group.Compiled, error) { return all, nil }
	b.cfg.Members = func(_ context.Context, devices []string) (map[string]string, error) {
		found := map[string]string{}
		for _, d := range devices {
			if name, ok := tags[d]; ok {
				found[d] = name
			}
		}
		return found, nil
	}
}

func TestDetector_RulesOfTheGroupAtThisMoment(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-21")
	b := newBench(t, setOf("198.51.100.9"))
	tags := map[string]string{"a": "plant", "c": "unknown"}
	b.groups(t, map[string]string{
		"plant":   `{"allowlistRules":[{"ruleType":"ConnectionToIpNotAllowed","isEnabled":true,"allowlistValues":["10.0.0.0/8"]}]}`,
		"default": `{"denylistRules":[{"ruleType":"ConnectionToIpDenied","isEnabled":true,"denylistValues":["192.0.2.0/24"]}]}`,
	}, tags)
	out := activity(flow("10.0.0.1:40000", "192.0.2.1:443", "TCP", 1, 1), flow("10.0.0.1:40001", "192.0.2.2:443", "TCP", 1, 1), flow("10.0.0.1:40001", "10.2.2.2:443", "TCP", 1, 1))
	send := func(device string) []alert.Alert {
		t.Helper()
		before, entries := len(b.alerts.alerts), len(b.log.entries)
		submit(t, b.log, message(device, "", "2.3-1-0-0", noon, out))
		for _, e := range b.log.entries[entries:] {
			if err := b.entry(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
		return b.alerts.alerts[before:]
	}
	got := send("a")
	if len(got) != 1 || got[0].Type != "IoT_CA_ConnectionToIpNotAllowed" || got[0].Group != "plant" || got[0].Count != 2 || got[0].Severity != alert.Low ||
		got[0].Remote != "192.0.2.1" || got[0].Day != noon.Format(time.DateOnly) {
		t.Errorf("in plant: %+v", got)
	}
	if got := send("b"); len(got) != 1 || got[0].Type != "IoT_CA_ConnectionToIpDenied" || got[0].Group != "default" {
		t.Errorf("without the tag: %+v", got)
	}
	if got := send("c"); len(got) != 0 {
		t.Errorf("in a group without rules: %+v", got)
	}
	tags["c"] = "plant"
	if got := send("c"); len(got) != 1 || got[0].Group != "plant" {
		t.Errorf("after it moved: %+v", got)
	}
	if n := len(b.alerts.evidence); n != 6 {
		t.Errorf("%d rows of evidence, want two for each", n)
	}
}

func TestDetector_TellsOfActivity(t *testing.T) {
	t.Parallel()
	b := newBench(t, setOf("198.51.100.9"))
	type count struct {
		device              string
		connections, failed int
	}
	var got []count
	b.cfg.Active = func(device string, at time.Time, connections, failed int) {
		if !at.Equal(noon) {
			t.Errorf("at %v", at)
		}
		got = append(got, count{device, connections, failed})
	}
	submit(t, b.log, message("a", "", "", noon, activity(flow("10.0.0.1:1", "192.0.2.1:2", "UDP", 3, 4))),
		message("b", "", "", noon, []byte(`[{"Name":"Login","Payload":[{"Operation":"LoginFailed","user_name":"eve"}]}]`)))
	b.alerts.fail = map[int]bool{}
	b.work(t)
	if len(got) != 2 || got[0] != (count{"a", 1, 0}) || got[1] != (count{"b", 0, 1}) {
		t.Errorf("got %v", got)
	}
}

// An alert's text, and the events', must fit every store whatever a device sent.
func TestDetector_HostileTexts(t *testing.T) {
	t.Parallel()
	b := newBench(t, setOf("203.0.113.5"))
	submit(t, b.log, message("d", "", "", noon, []byte(`[{"Name":"ConnectionCreate\u0000\ud800","Id":"`+strings.Repeat("x", 5000)+`","Payload":[{"RemoteAddress":"203.0.113.5","CommandLine":"`+"\xff"+`\u0000"}]}]`)))
	b.work(t)
	e := b.alerts.events[0]
	if strings.ContainsRune(e.Name, 0) || len(e.ID) > 300 || !json.Valid(e.Details[0]) || strings.Contains(string(e.Details[0]), "\xff") {
		t.Errorf("%+v", e)
	}
}

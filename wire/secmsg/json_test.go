package secmsg

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/internal/conform"
)

// samples are messages in the forms of the agents that defender §1.3 describes.
var samples = []struct {
	name, mti, body string
	want            Report
}{
	{
		name: "C# agent, aggregated",
		body: `{"AgentVersion":"0.0.4.0","AgentId":"0c4b7b4a-2f3d-4b0e-8a5f-0f8b2f0b8f11","MessageSchemaVersion":"1.0","Events":[{
			"EventType":"Security","Category":"Aggregated","Name":"ConnectionCreate","IsEmpty":false,"PayloadSchemaVersion":"1.0",
			"Id":"b5c8a9c2-79c5-4d8a-9ea6-4a9fef3e6c5b","TimestampLocal":"2019-01-27T17:48:52","TimestampUTC":"2019-01-27T15:48:52","IsOperational":false,
			"Payload":[{"Executable":"/usr/bin/curl","CommandLine":"curl x","ProcessId":1234,"UserId":"0","Direction":"Out","Protocol":"Tcp",
			"LocalAddress":"10.0.0.4","LocalPort":"51000","RemoteAddress":"203.0.113.5","RemotePort":"443",
			"ExtraDetails":{"HitCount":"5","StartTimeUtc":"01/27/2019 15:00:00","EndTimeUtc":"01/27/2019 15:48:52"}}]}]}`,
		want: Report{Agent: "0c4b7b4a-2f3d-4b0e-8a5f-0f8b2f0b8f11", AgentVersion: "0.0.4.0", Events: []Event{{
			ID: "b5c8a9c2-79c5-4d8a-9ea6-4a9fef3e6c5b", Name: "ConnectionCreate", Time: time.Date(2019, 1, 27, 15, 48, 52, 0, time.UTC), Category: "Aggregated", Kind: "Security",
			Flows: []Flow{{
				Local: ap("10.0.0.4:51000"), Remote: ap("203.0.113.5:443"), Protocol: "TCP", Direction: Out, Executable: "/usr/bin/curl", CommandLine: "curl x", ProcessID: 1234,
				Hits: 5, First: time.Date(2019, 1, 27, 15, 0, 0, 0, time.UTC), Last: time.Date(2019, 1, 27, 15, 48, 52, 0, time.UTC),
			}},
		}}},
	},
	{
		name: "C agent: integers, a Z on the local time, a socket of another family, FAIL",
		mti:  "1.0-0-1-0",
		body: `{"AgentVersion":"0.0.5","AgentId":"a","MessageSchemaVersion":"1.0","Events":[
			{"EventType":"Security","Category":"Triggered","Name":"ConnectionCreate","Id":"1","TimestampLocal":"2019-01-27T17:48:52Z","TimestampUTC":"2019-01-27T15:48:52Z",
			"Payload":[{"Direction":"in","Protocol":"udp","RemoteAddress":"::ffff:203.0.113.5","RemotePort":0,"LocalAddress":"fe80::1%eth0","LocalPort":"53","ProcessId":"7","ExtraDetails":{"HitCount":3}},
			{"ExtraDetails":{"familyName":"netlink","saddr":"00ff"}}]},
			{"EventType":"Security","Category":"Periodic","Name":"OSBaseline","Id":"2","TimestampUTC":"2019-01-27T15:48:52Z",
			"Payload":[{"CceId":"CCE-1","Result":"FAIL","Error":"","Description":"d","Severity":"Critical"},{"CceId":"CCE-2","Result":"Err","Severity":"Warning"}]}]}`,
		want: Report{Agent: "a", AgentVersion: "0.0.5", Events: []Event{
			{
				ID: "1", Name: "ConnectionCreate", Time: time.Date(2019, 1, 27, 15, 48, 52, 0, time.UTC), Category: "Triggered", Kind: "Security",
				Flows: []Flow{{Local: ap("[fe80::1]:53"), Remote: ap("203.0.113.5:0"), Protocol: "UDP", Direction: In, ProcessID: 7, Hits: 3}},
			},
			{
				ID: "2", Name: "OSBaseline", Time: time.Date(2019, 1, 27, 15, 48, 52, 0, time.UTC), Category: "Periodic", Kind: "Security",
				Checks: []BaselineCheck{{ID: "CCE-1", Result: "FAIL", Description: "d", Severity: "CRITICAL"}, {ID: "CCE-2", Result: "ERROR", Severity: "WARNING"}},
			},
		}},
	},
	{
		name: "RTOS preview: both directions, ICMP without ports, no zone",
		body: ` {"AgentVersion":"0.0.1","AgentId":"asc_security_module","MessageSchemaVersion":"1.0","Events":[
			{"Id":"x","Name":"ConnectionCreate","PayloadSchemaVersion":"1.0","Category":"Triggered","EventType":"Security","TimestampLocal":"2020-05-01T00:00:00","TimestampUTC":"2020-05-01 00:00:00Z",
			"Payload":[{"LocalAddress":"10.0.0.4","RemoteAddress":"203.0.113.5","Direction":"In","Protocol":"ICMP"},{"LocalAddress":"10.0.0.4","RemoteAddress":"203.0.113.5","Direction":"Out","Protocol":"ICMP"}],"IsEmpty":false},
			{"Id":"y","Name":"SystemInformation","Category":"Periodic","EventType":"Security","TimestampLocal":"2020-05-01T00:00:01","Payload":[],"IsEmpty":true}]}`,
		want: Report{Agent: "asc_security_module", AgentVersion: "0.0.1", Events: []Event{
			{
				ID: "x", Name: "ConnectionCreate", Time: time.Date(2020, 5, 1, 0, 0, 0, 0, time.UTC), Category: "Triggered", Kind: "Security",
				Flows: []Flow{
					{Local: ap("10.0.0.4:0"), Remote: ap("203.0.113.5:0"), Protocol: "ICMP", Direction: In},
					{Local: ap("10.0.0.4:0"), Remote: ap("203.0.113.5:0"), Protocol: "ICMP", Direction: Out},
				},
			},
			{ID: "y", Name: "SystemInformation", Time: time.Date(2020, 5, 1, 0, 0, 1, 0, time.UTC), Category: "Periodic", Kind: "Security", Empty: true},
		}},
	},
	{
		name: "JSON form of the later schema",
		mti:  "2.3-0-0-0",
		body: `{"security_module_id":"m","security_module_version":50659332,"timezone":0,"events":[
			{"id":{"value":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]},"time":1700000000,"collection_interval":10,"payload_type":"NetworkActivity","payload":{
			"ipv4_activity":[{"addresses":{"local_address":167880896,"remote_address":91291851},"common":{"local_port":49152,"remote_port":8883,"bytes_in":1200}}],
			"ipv6_activity":[{"addresses":{"local_address":[253,0,0,268435456],"remote_address":[3087860000,0,0,83886080]},"common":{"protocol":"ICMP"}}]}},
			{"payload_type":4},{"payload_type":"Process","payload":{"executable":"x"}},{"payload_type":"Novelty"}]}`,
		want: Report{
			Agent: "m", AgentVersion: "3.5.4", Skipped: 1, Notes: []string{`an event was left out: secmsg: malformed message: its payload is of the unknown type "Novelty"`},
			Events: []Event{
				{ID: builtID, Name: "NetworkActivity", Time: at(1700000000), Interval: 10 * time.Second, Flows: []Flow{
					{Local: ap("192.168.1.10:49152"), Remote: ap("203.0.113.5:8883"), Protocol: "TCP", Direction: In, BytesIn: 1200},
					{Local: ap("[fd00::10]:0"), Remote: ap("[2001:db8::5]:0"), Protocol: "ICMP"},
				}},
				{Name: "Heartbeat", Time: at(0), Empty: true},
				{Name: "Process", Time: at(0), Payload: []Item{Process{Executable: "x", EventType: "FORK", HitCount: 1}}},
			},
		},
	},
}

func TestDecode_JSON(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-10")
	for _, s := range samples {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			got, err := Decode(s.mti, []byte("\ufeff"+s.body))
			if err != nil {
				t.Fatal(err)
			}
			for i := range got.Events {
				for _, item := range got.Events[i].Payload {
					if raw, ok := item.(Raw); ok {
						if b, err := json.Marshal(raw); err != nil || !json.Valid(b) || !strings.Contains(s.body, string(raw)) {
							t.Errorf("payload %s is not as it came (%v)", raw, err)
						}
					}
				}
				if s.mti != "2.3-0-0-0" {
					got.Events[i].Payload = nil
				}
			}
			want := s.want
			want.Encoding = JSON
			same(t, "report", got, want)
		})
	}
}

func TestDecode_JSONKeepsTheGoodEvents(t *testing.T) {
	t.Parallel()
	got, err := Decode("", []byte(`{"MessageSchemaVersion":"1.0","Events":[7,{"Id":"no name"},{"Name":"Login","TimestampUTC":"yesterday","Payload":{"Operation":"Login"}},
		{"Name":"X","TimestampUTC":"2020-05-01T00:00:00Z","Payload":["text",{}]},
		{"Name":"ConnectionCreate","TimestampUTC":"2020-05-01T00:00:00Z","Payload":[{"RemoteAddress":"nowhere","RemotePort":"99999","Protocol":"t\u0000p"},{"RemoteAddress":[1]}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if got.Skipped != 2 || len(got.Events) != 3 || len(got.Notes) != 6 {
		t.Errorf("skipped %d, events %d, notes %d: %q", got.Skipped, len(got.Events), len(got.Notes), got.Notes)
	}
	same(t, "the flow that says little", got.Events[2].Flows, []Flow{{Protocol: "UNKNOWN"}})

	got, err = Decode("", []byte(`[{"MessageSchemaVersion":"1.0","AgentId":"a","Events":[{"Name":"A","TimestampUTC":"2020-05-01T00:00:00Z"}]},{"Name":"B","TimestampUTC":"2020-05-01T00:00:00Z"},{"Events":3}]`))
	if err != nil || len(got.Events) != 2 || got.Agent != "a" || got.Skipped != 1 {
		t.Errorf("a list of messages and events: %+v, %v", got, err)
	}
	for _, bad := range []string{`{`, `{}`, `{"Events":null}`, `{"Events":{}}`, `[1`, `{"security_module_id":1}`, `"text"`, strings.Repeat("[", 200000)} {
		if _, err := Decode("1.0-0-1-0", []byte(bad)); !errors.Is(err, ErrMalformed) || len(err.Error()) > 200 {
			t.Errorf("%.20s: got %v, want a short ErrMalformed", bad, err)
		}
	}
}

func TestDecode_Dispatch(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-4")
	fb, js := string(vector(t)), samples[0].body
	for _, tt := range []struct {
		name, mti, body, encoding string
		unknown                   bool
		err                       error
	}{
		{"no mti, JSON", "", "\r\n\t " + js, JSON, false, nil},
		{"no mti, FlatBuffers", "", fb, FlatBuffers, false, nil},
		{"6.1", "2.0-1-0-0", fb, FlatBuffers, false, nil},
		{"6.3", "2.3-1-0-0", fb, FlatBuffers, false, nil},
		{"Linux", "2.3-1-1-0", fb, FlatBuffers, false, nil},
		{"mti decides against the first byte", "2.3-1-0-0", js, "", false, ErrMalformed},
		{"mti says JSON", "1.0-0-1-0", fb, "", false, ErrMalformed},
		{"a later schema", "2.4-1-0-0", fb, FlatBuffers, true, nil},
		{"the Linux agent's", "3.0-0-1-0", string(AppendJSON(nil, linuxReport)), JSON, false, nil},
		{"FlatBuffers of that version", "3.0-1-1-0", fb, FlatBuffers, true, nil},
		{"a version after it", "3.1-0-1-0", string(AppendJSON(nil, linuxReport)), JSON, true, nil},
		{"a much later schema", "4.0-0-1-0", js, JSON, true, nil},
		{"an unknown type", "2.3-1-0-1", fb, FlatBuffers, true, nil},
		{"an unknown encoding", "2.3-9-0-0", js, JSON, true, nil},
		{"an unknown encoding of FlatBuffers", "2.3-9-0-0", fb, FlatBuffers, true, nil},
		{"not an mti", "2.3", fb, FlatBuffers, true, nil},
		{"nor this", "a.b-c-d-e\x00", js, JSON, true, nil},
		{"nor numbers that large", "2.3-1-0-99999999999999999999", fb, FlatBuffers, true, nil},
		{"a schema version of JSON", "", strings.Replace(js, `"MessageSchemaVersion":"1.0"`, `"MessageSchemaVersion":"1.1"`, 1), JSON, true, nil},
	} {
		r, err := Decode(tt.mti, []byte(tt.body))
		if !errors.Is(err, tt.err) || r.Encoding != tt.encoding || r.UnknownVersion != tt.unknown || err == nil && len(r.Events) == 0 {
			t.Errorf("%s: %s, unknown version %v, %d events, %v; want %s, %v, %v", tt.name, r.Encoding, r.UnknownVersion, len(r.Events), err, tt.encoding, tt.unknown, tt.err)
		}
	}
}

func TestParseTime(t *testing.T) {
	t.Parallel()
	want := time.Date(2019, 1, 27, 15, 48, 52, 0, time.UTC)
	for _, s := range []string{
		"2019-01-27T15:48:52", "2019-01-27T15:48:52Z", "2019-01-27T17:48:52+02:00", "2019-01-27 15:48:52Z", "2019-01-27 15:48:52",
		"01/27/2019 15:48:52", "2019-01-27T15:48:52.0000000Z",
	} {
		if got, ok := parseTime(s); !ok || !got.Equal(want) {
			t.Errorf("parseTime(%q) = %v, %v; want %v", s, got, ok, want)
		}
	}
	for _, s := range []string{
		"", "27/01/2019 15:48:52", "1548604132", "9999-12-31T23:59:59-14:00", "9999-12-31 23:59:59-00:01", "0000-01-01T00:00:00+14:00", "0000-06-01T00:00:00", "01/01/0000 00:00:00",
	} {
		if got, ok := parseTime(s); ok {
			t.Errorf("parseTime(%q) = %v, want nothing", s, got)
		}
	}
}

package ocsf_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/ocsf"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// These are the attributes of OCSF 1.4.0 that we use, as the schema defines them, written down by hand: the published schema could not be had here.
// A type is a primitive or an object of below; "!" marks what is required, "[]" a list.
var (
	base = `activity_id:int! activity_name:string category_uid:int! category_name:string class_uid:int! class_name:string type_uid:int! type_name:string severity_id:int!
		severity:string time:int! start_time:int end_time:int count:int message:string status_id:int status:string metadata:metadata! observables:[]observable unmapped:any raw_data:string`
	finding  = base + ` finding_info:finding_info! device:device comment:string`
	activity = base + ` device:device actor:actor`
	schemas  = map[int]string{
		ocsf.BaseEvent:         base + ` device:device resources:[]resource`,
		ocsf.DetectionFinding:  finding + ` resources:[]resource evidences:[]evidence remediation:remediation is_alert:bool`,
		ocsf.ComplianceFinding: finding + ` resources:[]resource compliance:compliance! remediation:remediation`,
		ocsf.NetworkActivity:   activity + ` connection_info:connection src_endpoint:endpoint dst_endpoint:endpoint traffic:traffic`,
		ocsf.DNSActivity:       activity + ` query:query! src_endpoint:endpoint dst_endpoint:endpoint`,
		ocsf.Authentication:    activity + ` user:user! src_endpoint:endpoint dst_endpoint:endpoint is_remote:bool`,
		ocsf.ProcessActivity:   base + ` device:device! actor:actor! process:process!`,
		ocsf.FileSystem:        base + ` device:device! actor:actor! file:file!`,
		ocsf.DeviceInventory:   base + ` device:device! actor:actor`,
	}
	objects = map[string]string{
		"metadata": `version:string! uid:string product:product! profiles:[]string log_name:string original_time:string`,
		"product":  `name:string vendor_name:string! version:string`, "observable": `name:string type:string type_id:int! value:string`,
		"device": `uid:string name:string type:string type_id:int! os:os groups:[]named`, "os": `name:string! type:string type_id:int!`, "named": `uid:string name:string`,
		"resource":     `uid:string name:string type:string`,
		"finding_info": `uid:string! title:string! desc:string types:[]string created_time:int modified_time:int first_seen_time:int last_seen_time:int attacks:[]attack analytic:analytic`,
		"attack":       `tactic:named technique:named sub_technique:named`, "analytic": `uid:string name:string type:string type_id:int!`,
		"compliance":  `standards:[]string control:string status:string status_id:int status_detail:string`,
		"remediation": `desc:string!`, "evidence": `data:any connection_info:connection src_endpoint:endpoint dst_endpoint:endpoint process:process actor:actor`,
		"connection": `protocol_name:string protocol_num:int direction:string direction_id:int!`, "endpoint": `ip:string port:int hostname:string uid:string name:string`,
		"query": `hostname:string! type:string`, "traffic": `bytes:int bytes_in:int bytes_out:int`, "user": `name:string uid:string`, "actor": `process:process user:user app_name:string`,
		"process": `name:string pid:int cmd_line:string file:file user:user parent_process:process`, "file": `name:string! path:string type:string type_id:int!`,
	}
	// of these objects at least one attribute must be there
	atLeastOne = []string{"endpoint", "user", "actor", "process", "attack", "evidence", "named", "resource"}
)

// judge compares a document with a definition.
func judge(t *testing.T, at, definition string, got map[string]any) {
	t.Helper()
	known := make(map[string]string)
	for f := range strings.FieldsSeq(definition) {
		name, kind, _ := strings.Cut(f, ":")
		kind, required := strings.CutSuffix(kind, "!")
		known[name] = kind
		if _, ok := got[name]; required && !ok {
			t.Errorf("%s lacks %s", at, name)
		}
	}
	for name, v := range got {
		kind, ok := known[name]
		if !ok {
			t.Errorf("%s has %s, which the schema does not know", at, name)
			continue
		}
		judgeValue(t, at+"."+name, kind, v)
	}
}

func judgeValue(t *testing.T, at, kind string, v any) {
	t.Helper()
	if of, ok := strings.CutPrefix(kind, "[]"); ok {
		list, ok := v.([]any)
		if !ok {
			t.Errorf("%s is %v", at, v)
		}
		for i, it := range list {
			judgeValue(t, fmt.Sprintf("%s[%d]", at, i), of, it)
		}
		return
	}
	switch kind {
	case "any":
	case "string":
		if s, ok := v.(string); !ok || s == "" {
			t.Errorf("%s is %v", at, v)
		}
	case "int":
		if n, ok := v.(float64); !ok || n != float64(int64(n)) {
			t.Errorf("%s is %v", at, v)
		}
	case "bool":
		if _, ok := v.(bool); !ok {
			t.Errorf("%s is %v", at, v)
		}
	default:
		o, ok := v.(map[string]any)
		if !ok || slices.Contains(atLeastOne, kind) && len(o) == 0 {
			t.Errorf("%s is %v", at, v)
			return
		}
		judge(t, at, objects[kind], o)
	}
}

// read judges an event and returns it.
func read(t *testing.T, text []byte) map[string]any {
	t.Helper()
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	number := func(name string) int { n, _ := got[name].(float64); return int(n) }
	class := number("class_uid")
	definition, ok := schemas[class]
	if !ok {
		t.Fatalf("there is no class %d", class)
	}
	judge(t, fmt.Sprint(got["class_name"]), definition, got)
	if number("category_uid") != class/1000 || number("type_uid") != class*100+number("activity_id") || got["activity_name"] == "" || got["class_name"] == "" || got["category_name"] == "" {
		t.Errorf("numbers of class %d: %s", class, text)
	}
	if n := number("severity_id"); n < 0 || n > 6 || got["severity"] == "" {
		t.Errorf("severity %d", n)
	}
	switch class { // what one of several must say
	case ocsf.NetworkActivity:
		if got["src_endpoint"] == nil && got["dst_endpoint"] == nil {
			t.Errorf("nobody talks: %s", text)
		}
	case ocsf.Authentication:
		if got["dst_endpoint"] == nil {
			t.Errorf("nobody is signed in to: %s", text)
		}
	}
	return got
}

func marshal(t *testing.T, e ocsf.Event) []byte {
	t.Helper()
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// dig follows a path of members and numbers of lists.
func dig(v any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[p]
		case int:
			l, _ := v.([]any)
			if p >= len(l) {
				return nil
			}
			v = l[p]
		}
	}
	return v
}

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func sample(kind string) *alert.Change {
	c := &alert.Change{At: noon.Add(time.Hour), Place: alert.Place{Change: 7, Sequence: 3}, Alert: alert.Alert{
		ID: "0b1c", Type: kind, Severity: alert.High, Title: "t", Description: "d", Device: "lamp", Module: "m", Group: "plant", Indicator: "203.0.113.0/24", Source: "x.txt:1",
		Remote: "203.0.113.5", Count: 3, FirstSeen: noon, LastSeen: noon.Add(time.Minute), Status: alert.Open,
		Evidence: []alert.Evidence{
			{Event: "ConnectionCreate", Form: secmsg.JSON, Details: json.RawMessage(`{"RemoteAddress":"203.0.113.5","RemotePort":"4444","LocalAddress":"10.0.0.1","LocalPort":"22","Direction":"In","Protocol":"tcp","Executable":"/usr/bin/nc","CommandLine":"nc -l"}`)},
			{Event: "Login", Form: secmsg.JSON, Details: json.RawMessage(`{"Operation":"Login","Result":"Fail","UserName":"root","RemoteAddress":"bad.example"}`)},
			{Event: "IoT_Invalid_SAS_Token", Details: json.RawMessage(`{"remoteAddress":"198.51.100.9","protocol":"mqtt"}`)},
			{Event: "Process", Form: secmsg.FlatBuffers, Details: json.RawMessage(`{"executable":"/bin/x","commandline":"x","event_type":"EXEC","hit_count":1,"user_name":"u"}`)},
		},
	}}
	c.Explain()
	return c
}

func TestMaker_Alert(t *testing.T) {
	t.Parallel()
	m := ocsf.Maker{Host: "hub.example", Version: "1.2.3"}
	got := read(t, marshal(t, m.Alert(sample("IoT_ReverseShell"), ocsf.Create)))
	for _, c := range []struct {
		want any
		path []any
	}{
		{2004.0, []any{"class_uid"}}, {200401.0, []any{"type_uid"}}, {4.0, []any{"severity_id"}}, {1.0, []any{"status_id"}}, {true, []any{"is_alert"}}, {3.0, []any{"count"}},
		{"0b1c", []any{"finding_info", "uid"}}, {"IoT_ReverseShell", []any{"finding_info", "types", 0}}, {float64(noon.UnixMilli()), []any{"finding_info", "first_seen_time"}},
		{"TA0104", []any{"finding_info", "attacks", 0, "tactic", "uid"}}, {"Execution", []any{"finding_info", "attacks", 0, "tactic", "name"}},
		{"T0807", []any{"finding_info", "attacks", 2, "technique", "uid"}}, {"T1059", []any{"finding_info", "attacks", 3, "technique", "uid"}}, {"T1059.004", []any{"finding_info", "attacks", 3, "sub_technique", "uid"}},
		{"lamp", []any{"device", "uid"}}, {7.0, []any{"device", "type_id"}}, {"plant", []any{"device", "groups", 0, "name"}}, {"lamp/m", []any{"resources", 0, "uid"}},
		{"203.0.113.5", []any{"evidences", 0, "src_endpoint", "ip"}}, {22.0, []any{"evidences", 0, "dst_endpoint", "port"}}, {1.0, []any{"evidences", 0, "connection_info", "direction_id"}},
		{6.0, []any{"evidences", 0, "connection_info", "protocol_num"}}, {"nc", []any{"evidences", 0, "process", "name"}}, {"nc -l", []any{"evidences", 0, "data", "CommandLine"}},
		{"bad.example", []any{"evidences", 1, "src_endpoint", "hostname"}}, {"root", []any{"evidences", 1, "actor", "user", "name"}}, {"0b1c/7.3/1", []any{"metadata", "uid"}}, {"1.4.0", []any{"metadata", "version"}},
	} {
		if have := dig(got, c.path...); have != c.want {
			t.Errorf("%v is %v, want %v", c.path, have, c.want)
		}
	}
	observed := make(map[string]bool)
	list, _ := got["observables"].([]any)
	for _, o := range list {
		observed[fmt.Sprint(dig(o, "type"), " ", dig(o, "value"))] = true
	}
	for _, want := range []string{"IP Address 203.0.113.5", "IP Address 198.51.100.9", "Hostname bad.example", "User Name root", "Resource UID lamp", "Process Name nc"} {
		if !observed[want] {
			t.Errorf("%q is not among the observables %v", want, slices.Sorted(maps.Keys(observed)))
		}
	}
	for status, id := range map[alert.Status]float64{alert.Open: 1, alert.Suppressed: 3, alert.Resolved: 4, alert.Dismissed: 99} {
		c := sample("IoT_TiConnection")
		c.Status, c.Device, c.Module, c.Comment = status, "", "", "why"
		got := read(t, marshal(t, m.Alert(c, ocsf.Close)))
		if got["status_id"] != id || got["type_uid"] != 200403.0 || got["comment"] != "why" || dig(got, "resources", 0, "uid") != "hub.example" {
			t.Errorf("%s: %v, %v, %v", status, got["status_id"], got["type_uid"], got["resources"])
		}
	}
	for s, id := range map[alert.Severity]float64{alert.High: 4, alert.Medium: 3, alert.Low: 2, alert.Informational: 1, "": 0} {
		c := sample("IoT_TiConnection")
		c.Severity = s
		if got := read(t, marshal(t, m.Alert(c, ocsf.Update))); got["severity_id"] != id {
			t.Errorf("%s is %v", s, got["severity_id"])
		}
	}
	// Every alert there is has a tactic and a technique that the schema knows.
	for _, k := range alert.Types() {
		attacks, _ := dig(read(t, marshal(t, m.Alert(sample(k.Name), ocsf.Create))), "finding_info", "attacks").([]any)
		var tactic, technique bool
		for _, a := range attacks {
			id, _ := dig(a, "tactic", "uid").(string)
			tactic = tactic || strings.HasPrefix(id, "TA01")
			technique = technique || dig(a, "technique", "uid") != nil
		}
		if !tactic || !technique {
			t.Errorf("%s: %v", k.Name, attacks)
		}
	}
}

func TestMaker_Recommendation(t *testing.T) {
	t.Parallel()
	m := ocsf.Maker{Host: "hub.example"}
	r := &posture.Recommendation{ID: "id", Sequence: 4, Type: posture.OpenPorts, Device: "lamp", Severity: alert.Medium, State: posture.Active, Discovered: noon, FirstEvaluated: noon, StatusChanged: noon, Data: json.RawMessage(`{"a":1}`)}
	r.Explain()
	got := read(t, marshal(t, m.Recommendation(r)))
	if got["type_uid"] != 200301.0 || dig(got, "compliance", "status_id") != 3.0 || dig(got, "compliance", "control") != "IoT_OpenPorts" || dig(got, "compliance", "status_detail") != `{"a":1}` || dig(got, "device", "uid") != "lamp" {
		t.Errorf("active: %v", got)
	}
	r.State, r.Resolved = posture.Resolved, noon.Add(time.Hour)
	got = read(t, marshal(t, m.Recommendation(r)))
	if got["type_uid"] != 200303.0 || dig(got, "compliance", "status_id") != 1.0 || got["status_id"] != 4.0 {
		t.Errorf("resolved: %v", got)
	}
}

func TestMaker_Events(t *testing.T) {
	t.Parallel()
	m := ocsf.Maker{Host: "hub.example"}
	for _, c := range []struct {
		name, form, details string
		class               int
		activity            float64
		path                []any
		want                any
	}{
		{"NetworkActivity", secmsg.FlatBuffers, `{"local_address":"10.0.0.1","local_port":40000,"remote_address":"2001:db8::5","remote_port":443,"protocol":"TCP","bytes_in":5,"bytes_out":6}`, ocsf.NetworkActivity, 6, []any{"traffic", "bytes"}, 11.0},
		{"NetworkActivity", secmsg.FlatBuffers, `{"local_address":"10.0.0.1","protocol":"ICMP"}`, ocsf.NetworkActivity, 6, []any{"dst_endpoint", "ip"}, "10.0.0.1"},
		{"ConnectionCreate", secmsg.JSON, `{"RemoteAddress":"192.0.2.1","RemotePort":"22","LocalAddress":"10.0.0.1","LocalPort":"4","Direction":"In","Protocol":"TCP"}`, ocsf.NetworkActivity, 6, []any{"src_endpoint", "ip"}, "192.0.2.1"},
		{"ListeningPorts", secmsg.FlatBuffers, `{"local_address":"0.0.0.0","local_port":80,"protocol":"TCP"}`, ocsf.NetworkActivity, 7, []any{"dst_endpoint", "port"}, 80.0},
		{"ListeningPorts", secmsg.JSON, `{"Protocol":"tcp","LocalPort":"81","LocalAddress":"::"}`, ocsf.NetworkActivity, 7, []any{"dst_endpoint", "port"}, 81.0},
		{"Login", secmsg.JSON, `{"Operation":"Login","Result":"Fail","UserName":"root","RemoteAddress":"192.0.2.1"}`, ocsf.Authentication, 1, []any{"status_id"}, 2.0},
		{"Login", secmsg.JSON, `{"operation":"Logout","user_name":"root"}`, ocsf.Authentication, 2, []any{"user", "name"}, "root"},
		{"Login", secmsg.JSON, `{"Operation":"Login","Result":"Success"}`, ocsf.Authentication, 1, []any{"is_remote"}, false},
		{"Process", secmsg.FlatBuffers, `{"executable":"/bin/x","process_id":7,"parent_process_id":1,"user_id":0,"commandline":"x y","event_type":"EXEC","hit_count":2}`, ocsf.ProcessActivity, 1, []any{"process", "parent_process", "pid"}, 1.0},
		{"Process", secmsg.FlatBuffers, `{"event_type":"EXIT"}`, ocsf.ProcessActivity, 2, []any{"process", "name"}, "unknown"},
		{"ProcessTerminate", secmsg.JSON, `{"Executable":"x","ProcessId":5,"ExitStatus":0}`, ocsf.ProcessActivity, 2, []any{"process", "pid"}, 5.0},
		{"Baseline", secmsg.FlatBuffers, `{"BaselineCheckId":"CIS-1","BaselineCheckResult":"FAIL","BaselineCheckSeverity":"CRITICAL","BaselineCheckRemediation":"fix"}`, ocsf.ComplianceFinding, 1, []any{"compliance", "status_id"}, 3.0},
		{"FileSystem", secmsg.JSON, `{"path":"/etc/passwd","operation":"modified","hit_count":2}`, ocsf.FileSystem, 3, []any{"file", "name"}, "passwd"},
		{"Dns", secmsg.FlatBuffers, `{"name":"bad.example","type":"A","server":"192.0.2.53","process_id":7,"executable":"/bin/x","hit_count":3}`, ocsf.DNSActivity, 1, []any{"query", "hostname"}, "bad.example"},
		{"NetworkActivity", secmsg.FlatBuffers, `{"local_address":"10.0.0.1","local_port":22,"remote_address":"192.0.2.1","remote_port":5,"protocol":"TCP","bytes_in":5,"bytes_out":6,"direction":"In","executable":"/usr/sbin/sshd"}`, ocsf.NetworkActivity, 6, []any{"src_endpoint", "ip"}, "192.0.2.1"},
		{"ListeningPorts", secmsg.FlatBuffers, `{"local_address":"0.0.0.0","local_port":80,"protocol":"TCP","process_id":7,"executable":"/usr/sbin/nginx"}`, ocsf.NetworkActivity, 7, []any{"actor", "process", "name"}, "nginx"},
		{"Login", secmsg.FlatBuffers, `{"operation":"Logout","user_name":"ada","hit_count":1}`, ocsf.Authentication, 2, []any{"user", "name"}, "ada"},
		{"SystemInformation", secmsg.FlatBuffers, `{"os_info":"Debian GNU/Linux 12","kernel_info":"6.1.0","host_name":"h","hardware_vendor":"Acme"}`, ocsf.DeviceInventory, 2, []any{"device", "os", "type_id"}, 200.0},
		{"SBoM", secmsg.FlatBuffers, `{"name":"libc6","version":"2.36-9","type":"deb"}`, ocsf.BaseEvent, 0, []any{"unmapped", "event_name"}, "SBoM"},
		{"Login", secmsg.FlatBuffers, `{"operation":"LoginFailed","user_name":"root","executable":"sshd","remote_address":"192.0.2.1","hit_count":2}`, ocsf.Authentication, 1, []any{"status_id"}, 2.0},
		{"FileSystem", secmsg.FlatBuffers, `{"mask":256,"action":"Created","path":"/etc/x","hit_count":1}`, ocsf.FileSystem, 1, []any{"file", "path"}, "/etc/x"},
		{"FileSystem", secmsg.JSON, `{}`, ocsf.FileSystem, 99, []any{"file", "name"}, "unknown"},
		{"SystemInformation", secmsg.FlatBuffers, `{"os_info":"Azure RTOS 6.3"}`, ocsf.DeviceInventory, 2, []any{"device", "os", "name"}, "Azure RTOS 6.3"},
		{"SystemInformation", secmsg.JSON, `{"OSName":"Linux","OSVersion":"6.1"}`, ocsf.DeviceInventory, 2, []any{"device", "os", "type_id"}, 200.0},
		{"LocalUsers", secmsg.JSON, `{"UserName":"x"}`, ocsf.BaseEvent, 0, []any{"unmapped", "event_name"}, "LocalUsers"},
		{"Heartbeat", secmsg.FlatBuffers, ``, ocsf.BaseEvent, 0, []any{"message"}, "Heartbeat"},
	} {
		e := &record.Event{Place: record.Place{Message: 9, Ordinal: 1}, Device: "lamp", Enqueued: noon, Time: noon, Name: c.name, Form: c.form, Agent: "a"}
		if c.details != "" {
			e.Details = []json.RawMessage{json.RawMessage(c.details)}
		}
		es := m.Events(e)
		if len(es) != 1 {
			t.Fatalf("%s: %d events", c.name, len(es))
		}
		got := read(t, marshal(t, es[0]))
		if es[0].ClassUID != c.class || got["activity_id"] != c.activity || dig(got, c.path...) != c.want || dig(got, "device", "uid") != "lamp" || dig(got, "metadata", "uid") != "9.1/0" {
			t.Errorf("%s %s: class %d, activity %v, %v is %v (want %v): %v", c.name, c.details, es[0].ClassUID, got["activity_id"], c.path, dig(got, c.path...), c.want, got)
		}
	}
}

// However long an event is, syslog gets one that is whole and true to the schema.
func TestEvent_Text(t *testing.T) {
	t.Parallel()
	m := ocsf.Maker{Host: "hub.example"}
	long := strings.Repeat("☂x", 30_000)
	c := sample("IoT_TiConnection")
	c.Evidence[3].Details = json.RawMessage(`{"executable":"` + long[:6000] + `","event_type":"EXEC"}`)
	c.Description, c.Title = long, long
	for i := range c.Evidence {
		c.Evidence[i].Details = append(c.Evidence[i].Details[:len(c.Evidence[i].Details)-1:len(c.Evidence[i].Details)-1], `,"pad":"`+strings.Repeat("x", 5000)+`"}`...)
	}
	details, err := json.Marshal(map[string]string{"executable": "/" + long, "commandline": long, "event_type": "EXEC", "user_name": long})
	if err != nil {
		t.Fatal(err)
	}
	file, _ := json.Marshal(map[string]string{"path": "/" + long})
	check, _ := json.Marshal(map[string]string{"BaselineCheckId": long, "BaselineCheckDescription": long, "BaselineCheckError": long})
	events := []ocsf.Event{m.Alert(c, ocsf.Create)}
	for name, d := range map[string][]byte{"Process": details, "FileSystem": file, "Baseline": check} {
		events = append(events, m.Events(&record.Event{Device: "lamp", Enqueued: noon, Name: name, Form: secmsg.FlatBuffers, Details: []json.RawMessage{d}})...)
		events = append(events, m.Events(&record.Event{Device: "lamp", Enqueued: noon, Name: name, Form: secmsg.JSON, Details: []json.RawMessage{d}})...)
	}
	for _, e := range events {
		text := e.Text(8000)
		if len(text) > 8000 || !utf8.Valid(text) {
			t.Errorf("%s: %d bytes", e.ClassName, len(text))
		}
		read(t, text)
	}
	short := m.Alert(sample("IoT_TiConnection"), ocsf.Create)
	if got := short.Text(100_000); !strings.Contains(string(got), `"CommandLine":"nc -l"`) {
		t.Errorf("a short one lost something: %s", got)
	}
}

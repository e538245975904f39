package secmsg

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/internal/conform"
)

func rows(e *Event) []string {
	var all []string
	details, _ := e.Details()
	for _, r := range details {
		all = append(all, string(r))
	}
	return all
}

// Every event of JSON 1.0 keeps its name and every member of every payload item.
func TestDetails_JSONStandsAsItCame(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-13")
	for name, items := range map[string][]string{
		"ProcessCreate":           {`{"Executable":"/bin/sh","ProcessId":7,"ParentProcessId":1,"UserId":"0","UserName":"root","CommandLine":"sh -c <x>","ExtraDetails":{"Hash":"ab"}}`},
		"ProcessTerminate":        {`{"Executable":"a.exe","ProcessId":7,"ExitStatus":-1}`},
		"ConnectionCreate":        {`{"RemoteAddress":"203.0.113.5","RemotePort":"1","LocalAddress":"10.0.0.1","LocalPort":"2","Direction":"In","Protocol":"tcp","ProcessId":1,"UserId":"0","Executable":"e","CommandLine":"c"}`, `{"ExtraDetails":{"familyName":"netlink","saddr":"00ff"}}`},
		"Login":                   {`{"ProcessId":1,"Operation":"Login","Executable":"sshd","Result":"Fail","UserName":"eve","RemoteAddress":"203.0.113.5","RemotePort":"22","LocalPort":"1"}`},
		"ListeningPorts":          {`{"Protocol":"tcp","LocalPort":"22","LocalAddress":"0.0.0.0","RemoteAddress":"*","RemotePort":"*","ExtraDetails":{"Pid":"7"}}`},
		"LocalUsers":              {`{"UserName":"root","UserId":"0","GroupNames":"root;adm","GroupIds":"0;4"}`},
		"FirewallConfiguration":   {`{"Enabled":true,"Action":"Allow","Priority":1,"Direction":"In","ChainName":"INPUT","Application":"a","SourceAddress":"*","SourcePort":"1-2","DestinationAddress":"10.0.0.0/8","DestinationPort":"22","Protocol":"tcp"}`},
		"OSBaseline":              {`{"Description":"d","CceId":"c","Result":"FAIL","Error":"e","Severity":"Critical"}`},
		"SystemInformation":       {`{"OSName":"Linux","TotalPhysicalMemoryInKB":12345678901234}`},
		"ConnectedHardware":       {`{"ConnectedHardware":"usb"}`},
		"Diagnostic":              {`{"Severity":"Fatal","Message":"m","ProcessId":1,"ThreadId":2,"CorrelationId":"c"}`},
		"ConfigurationError":      {`{"ConfigurationName":"n","ErrorType":"Conflict","UsedConfiguration":"u","Message":"m"}`},
		"DroppedEventsStatistics": {`{"Queue":"High","CollectedEvents":1,"DroppedEvents":2}`},
		"MessageStatistics":       {`{"MessagesSent":1,"MessagesUnder4KB":2,"TotalFailed":3}`},
		"Heartbeat":               nil,
	} {
		body := `{"AgentVersion":"1","AgentId":"a","MessageSchemaVersion":"1.0","Events":[{"EventType":"Security","Category":"Triggered","Name":"` + name +
			`","Id":"1","TimestampUTC":"2020-05-01T00:00:00Z","Payload":[` + strings.Join(items, " ,\n") + `]}]}`
		r, err := Decode("", []byte(body))
		if err != nil || len(r.Events) != 1 || r.Events[0].Name != name {
			t.Fatalf("%s: %+v, %v", name, r, err)
		}
		got := rows(&r.Events[0])
		same(t, name, got, items)
		for _, row := range got {
			back, err := DecodeDetails(JSON, name, []byte(row))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			same(t, name+" read back", rows(&back), []string{row})
		}
	}
}

func TestDetails_EveryTableReadsBack(t *testing.T) {
	t.Parallel()
	body, _ := everything()
	r, err := Decode("2.3-1-0-0", body)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{
		"NetworkActivity": {`{"local_address":"192.168.1.10","local_port":0,"remote_address":"203.0.113.5","remote_port":0,"protocol":"TCP","bytes_in":0,"bytes_out":0,"process_id":0,"user_id":0}`},
		"ListeningPorts": {
			`{"local_address":"10.0.0.1","local_port":8883,"protocol":"TCP"}`, `{"local_address":"10.0.0.1","local_port":53,"protocol":"UDP"}`,
			`{"local_address":"2001:db8::1","local_port":0,"protocol":"ICMP"}`,
		},
		"Baseline": {`{"BaselineCheckId":"CIS-1.1","BaselineCheckResult":"FAIL","BaselineCheckError":"e","BaselineCheckDescription":"d","BaselineCheckSeverity":"WARNING","BaselineCheckRemediation":"r"}`},
		"Process":  {`{"executable":"/bin/sh","process_id":100,"parent_process_id":1,"user_id":1000,"user_name":"root","commandline":"sh -c x` + "\uFFFD" + `","event_type":"EXEC","hit_count":1}`},
		"Log":      {`{"message":"m","level":"UNKNOWN(9)","timestamp":1099511627776,"line":7,"filename":"f.c"}`},
	}
	for i := range r.Events {
		e := &r.Events[i]
		got := rows(e)
		if w, ok := want[e.Name]; ok {
			same(t, e.Name, got, w)
		}
		for _, row := range got {
			back, err := DecodeDetails(FlatBuffers, e.Name, []byte(row))
			if err != nil {
				t.Fatalf("%s: %v", e.Name, err)
			}
			same(t, e.Name+" read back", rows(&back), []string{row})
		}
	}
	if _, err := DecodeDetails(FlatBuffers, "Novelty", []byte("{}")); !errors.Is(err, ErrMalformed) {
		t.Errorf("unknown details: %v", err)
	}
	for _, bad := range []string{"", "{", "{},{}", "]"} {
		for _, encoding := range []string{JSON, FlatBuffers} {
			if e, err := DecodeDetails(encoding, "Process", []byte(bad)); err == nil {
				t.Errorf("%s %q became %+v", encoding, bad, e)
			}
		}
	}
}

func TestEvent_LoginsAndProcesses(t *testing.T) {
	t.Parallel()
	r, err := Decode("", []byte(`[{"Name":"Login","Payload":[
		{"Operation":"Login","Result":"Fail","UserName":"eve","RemoteAddress":"203.0.113.5","Executable":"/usr/sbin/sshd","ExtraDetails":{"HitCount":3}},
		{"Operation":"UserAuth","Result":"Success","UserId":"0"},{"operation":"x","Operation":"Logout"},{"Operation":"LoginFailed","user_name":"ada","remote_address":"::1"}]},
		{"Name":"ProcessCreate","Payload":[{"Executable":"/bin/sh","CommandLine":"sh","ProcessId":7,"ParentProcessId":"6","UserId":"33","ExtraDetails":{"HitCount":"2"}}]},
		{"Name":"ProcessTerminate","Payload":[{"Executable":"/bin/sh"}]}]`))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "logins", r.Events[0].Logins(), []Login{{"eve", true, "203.0.113.5", 3, 0, "/usr/sbin/sshd"}, {"0", false, "", 1, 1, ""}, {"ada", true, "::1", 1, 3, ""}})
	same(t, "processes", r.Events[1].Started(), []Process{{Executable: "/bin/sh", CommandLine: "sh", ProcessID: 7, ParentProcessID: 6, UserID: 33, EventType: "EXEC", HitCount: 2}})
	if r.Events[2].Started() != nil || r.Events[1].Logins() != nil {
		t.Error("an event of another kind has logins or processes")
	}
}

func TestDetails_ItemsOfFlows(t *testing.T) {
	t.Parallel()
	bodies := map[string]string{"1.0-0-1-0": `[{"Name":"ConnectionCreate","Payload":[{"ExtraDetails":{}},{"RemoteAddress":"203.0.113.5"},{"RemoteAddress":"203.0.113.6"}]}]`}
	bodies["2.3-1-0-0"] = string(AppendFlatBuffers(nil, Report{Events: []Event{{Name: "NetworkActivity", Flows: []Flow{
		{Local: ap("[fd00::1]:1"), Remote: ap("[2001:db8::6]:1"), Protocol: "TCP"}, {Local: ap("10.0.0.1:1"), Remote: ap("203.0.113.5:1"), Protocol: "TCP"},
	}}}}))
	for mti, body := range bodies {
		r, err := Decode(mti, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		details, _ := r.Events[0].Details()
		for _, f := range r.Events[0].Flows {
			if !strings.Contains(string(details[f.Item]), `"`+f.Remote.Addr().String()+`"`) {
				t.Errorf("%s: the flow with %v is item %d of %s", mti, f.Remote, f.Item, details)
			}
		}
	}
}

const strictSample = `{"AgentVersion":"0.0.4.0","AgentId":"0c4b7b4a-2f3d-4b0e-8a5f-0f8b2f0b8f11","MessageSchemaVersion":"1.0","Events":[{
	"EventType":"Security","Category":"Triggered","Name":"ConnectionCreate","IsEmpty":false,"PayloadSchemaVersion":"1.0",
	"Id":"b5c8a9c2-79c5-4d8a-9ea6-4a9fef3e6c5b","TimestampLocal":"2019-01-27T17:48:52+02:00","TimestampUTC":"2019-01-27T15:48:52Z",
	"Payload":[{"Executable":"/usr/bin/curl","CommandLine":"curl x","ProcessId":1234,"UserId":"0","Direction":"Out","Protocol":"Tcp",
	"LocalAddress":"10.0.0.4","LocalPort":"51000","RemoteAddress":"203.0.113.5","RemotePort":"443","ExtraDetails":{"HitCount":"5"}}]}]}`

func TestStrict(t *testing.T) {
	t.Parallel()
	if problems, applies := Strict([]byte(strictSample)); len(problems) > 0 || !applies {
		t.Errorf("a message of the schema: %q, applies %v", problems, applies)
	}
	for name, c := range map[string]struct{ old, fresh, want string }{
		"what agents send when they aggregate": {`"Triggered"`, `"Aggregated"`, `Events[0].Category: "Aggregated" is none of Periodic, Triggered`},
		"times without a zone":                 {`2019-01-27T15:48:52Z`, `2019-01-27T15:48:52`, `Events[0].TimestampUTC: "2019-01-27T15:48:52" is no time of RFC 3339`},
		"an id that is no GUID":                {`0c4b7b4a-2f3d-4b0e-8a5f-0f8b2f0b8f11`, `asc_security_module`, `message.AgentId: "asc_security_module" is no GUID`},
		"a count that is an integer":           {`"HitCount":"5"`, `"HitCount":5`, `Events[0].Payload[0].ExtraDetails."HitCount": not a string`},
		"a member that lacks":                  {`"ProcessId":1234,`, ``, `Events[0].Payload[0].ProcessId: missing`},
		"a number that is a string":            {`"ProcessId":1234`, `"ProcessId":"1234"`, `Events[0].Payload[0].ProcessId: not an integer`},
		"a member too many":                    {`"IsEmpty":false`, `"IsEmpty":false,"IsOperational":true`, `Events[0]: an unknown member "IsOperational"`},
		"empty, and not":                       {`"IsEmpty":false`, `"IsEmpty":true`, `Events[0].IsEmpty: true with 1 payloads`},
		"an event of no name":                  {`ConnectionCreate`, `Novelty`, `Events[0].Name: "Novelty" is no event of the schema`},
	} {
		body := strings.Replace(strictSample, c.old, c.fresh, 1)
		problems, _ := Strict([]byte(body))
		if len(problems) != 1 || problems[0] != c.want {
			t.Errorf("%s: got %q, want %q", name, problems, c.want)
		}
		if _, err := Decode("", []byte(body)); err != nil {
			t.Errorf("%s: Decode refuses it: %v", name, err)
		}
	}
	if _, applies := Strict(vector(t)); applies {
		t.Error("FlatBuffers have a verdict of JSON 1.0")
	}
}

// FuzzDetails requires that rows are JSON objects that read back as they are.
func FuzzDetails(f *testing.F) {
	all, _ := everything()
	f.Add("2.3-1-0-0", all)
	for _, s := range samples {
		f.Add(s.mti, []byte(s.body))
	}
	f.Fuzz(func(t *testing.T, mti string, body []byte) {
		if problems, _ := Strict(body); len(problems) > maxNotes {
			t.Errorf("%d problems", len(problems))
		}
		r, err := Decode(mti, body)
		if err != nil {
			return
		}
		for i := range r.Events {
			e := &r.Events[i]
			e.Logins()
			e.Started()
			details, form := e.Details()
			for _, row := range details {
				if !json.Valid(row) || row[0] != '{' {
					t.Fatalf("a row is %q", row)
				}
				back, err := DecodeDetails(form, e.Name, row)
				if errors.Is(err, ErrTooLarge) {
					continue
				}
				if err != nil {
					t.Fatalf("%s %s: %v", e.Name, row, err)
				}
				if again := rows(&back); len(again) != 1 || again[0] != string(row) {
					t.Errorf("%s became %q", row, again)
				}
			}
		}
	})
}

// The rows of flows are written by hand; encoding/json is the judge.
func TestDetails_FlowsAsEncodingJSONWritesThem(t *testing.T) {
	t.Parallel()
	addresses := []netip.AddrPort{{}, netip.MustParseAddrPort("192.168.1.10:49152"), netip.MustParseAddrPort("[2001:db8::5]:0"), netip.MustParseAddrPort("[::ffff:1.2.3.4]:1"), netip.MustParseAddrPort(`[fe80::1%e"0]:65535`)}
	texts := []string{"", "/bin/sh", `a "quoted" \ path`, "tab\tline\nnull\x00", "<&>", "ü\u2028", "\x7f", "broken \xff", "UNKNOWN(9)"}
	n := 0
	for _, local := range addresses {
		for _, text := range texts {
			for _, count := range []uint64{0, 1, 1<<64 - 1} {
				f := Flow{
					Local: local, Remote: addresses[n%len(addresses)], Protocol: texts[(n+3)%len(texts)], Direction: []string{"", In, Out}[n%3], Began: n%2 == 0,
					BytesIn: count, BytesOut: uint64(n % 3), Executable: text, CommandLine: texts[(n+5)%len(texts)], ProcessID: int64(n%5) - 2, UserID: uint32(count), Hits: count / 2,
				}
				n++
				d := flowDetails{
					text4(f.Local.Addr()), f.Local.Port(), text4(f.Remote.Addr()), f.Remote.Port(), f.Protocol, f.BytesIn, f.BytesOut,
					f.ProcessID, f.UserID, f.Executable, f.CommandLine, nil, f.Hits,
				}
				if f.Began || f.Direction != direction(f.BytesIn, f.BytesOut) {
					d.Direction = &f.Direction
				}
				var want bytes.Buffer
				enc := json.NewEncoder(&want)
				enc.SetEscapeHTML(false)
				if err := enc.Encode(d); err != nil {
					t.Fatal(err)
				}
				if got := string(f.appendDetails(nil)) + "\n"; got != want.String() {
					t.Fatalf("%+v:\n%s, want\n%s", f, got, want.String())
				}
			}
		}
	}
}

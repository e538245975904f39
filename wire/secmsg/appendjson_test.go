package secmsg

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// linuxReport has every event of schema 3.0, and every member of every item.
var linuxReport = Report{Agent: "DefenderIotMicroAgent", AgentVersion: "0.9.0-rc1", Encoding: JSON, Events: []Event{
	{ID: "0b0a", Name: "NetworkActivity", Time: at(1700000000), Interval: 30 * time.Minute, Flows: []Flow{
		{Local: ap("192.0.2.1:22"), Remote: ap("203.0.113.5:50000"), Protocol: "TCP", Direction: In, Began: true, BytesIn: 1 << 40, BytesOut: 2, ProcessID: 7, UserID: 70000, Executable: "/usr/sbin/sshd", CommandLine: "sshd <x>", Hits: 3},
		{Local: ap("[fd00::1]:0"), Remote: ap("[2001:db8::5]:0"), Protocol: "ICMP", Direction: Out, Began: true, BytesIn: 64, Item: 1},
		{Local: ap("[fd00::1]:5353"), Remote: ap("[2001:db8::5]:53"), Protocol: "UDP", BytesOut: 64, Item: 2}, // nobody knows who began
	}},
	{Name: "SystemInformation", Time: at(1), Payload: []Item{SystemInformation{
		OS: "Debian GNU/Linux 12", Kernel: "6.1.0", Hardware: "Acme Board", HostName: "h", HardwareVendor: "Acme", HardwareModel: "Board", HardwareSerial: "1", FirmwareVendor: "f",
		FirmwareVersion: "2", OSDistribution: "debian", OSVersion: "12", OSPlatform: "Linux", OSArchitecture: "x86_64", AgentType: "Standalone", AgentVersion: "3", PhysicalMemoryKB: 1 << 33,
		NICs: []NIC{{Name: "eth0", Type: "ETH", Vendor: "v", VLANs: []uint16{7}, MAC: "02:00:00:00:00:01", IPv4: []string{"192.0.2.1/24"}, IPv6: []string{"fd00::1/64"}}},
	}}},
	{Name: "ListeningPorts", Time: at(2), Payload: []Item{ListeningPort{Local: ap("[::]:22"), Protocol: "TCP", ProcessID: 7, Executable: "/usr/sbin/sshd"}, ListeningPort{Local: ap("0.0.0.0:53"), Protocol: "UDP"}}},
	{Name: "Heartbeat", Time: at(3), Empty: true},
	{Name: "Baseline", Time: at(4), Checks: []BaselineCheck{{ID: "CIS-debian-9-Filesystem-1.1.2", Result: "SKIP", Error: "e", Description: "d", Severity: "WARNING", Remediation: "r"}}},
	{Name: "Process", Time: at(5), Payload: []Item{
		Process{Executable: "/bin/sh", ProcessID: 1, ParentProcessID: 2, UserID: 3, UserName: "u", CommandLine: "sh -c \u2028 & <x>", EventType: "EXEC", HitCount: 4},
		Process{Executable: "/bin/sh", EventType: "EXIT", HitCount: 1},
	}},
	{Name: "Log", Time: at(6), Payload: []Item{Record{Message: "m", Level: "WARN", Timestamp: 1 << 40, Line: 7, File: "f.go"}}},
	{Name: "Login", Time: at(7), Payload: []Item{
		LoginRecord{Operation: LoggedIn, ProcessID: 1, UserName: "ada", Executable: "sshd", Terminal: "pts/0", RemoteAddress: "203.0.113.5", HitCount: 1},
		LoginRecord{Operation: LoggedOut, UserName: "ada", HitCount: 1}, LoginRecord{Operation: LoginFailed, UserName: "eve", HitCount: 9},
	}},
	{Name: "SBoM", Time: at(8), Payload: []Item{Package{Name: "libc6", Version: "2.36-9", Vendor: "Debian <x@example.org>", Type: "deb", Arch: "amd64", Source: "glibc"}}},
	{Name: "Peripheral", Time: at(9), Payload: []Item{
		Peripheral{Type: USB, Action: Connect, BusNumber: 1, DeviceNumber: 2, DeviceClass: "00", DeviceSubclass: "01", DeviceProtocol: "02", InterfaceClass: "08", InterfaceSubclass: "06", InterfaceProtocol: "50", Product: "951/1666/110", HitCount: 1},
		Peripheral{Type: Ethernet, Action: Disconnect, InterfaceName: "eth1", HitCount: 2},
	}},
	{Name: "FileSystem", Time: at(10), Payload: []Item{FileChange{Mask: 256, Action: Created, Path: "/etc/x", SHA256: "ab", HitCount: 1}}},
	{Name: "Statistics", Time: at(11), Payload: []Item{Statistic{Collector: "Process", Events: []StatisticEvent{{"sent", 1 << 40}, {"dropped: the cache was full", 2}}}}},
	{Name: "Dns", Time: at(12), Payload: []Item{DNSQuery{Name: "example.org", Type: "AAAA", Server: "192.0.2.53", ProcessID: 1, Executable: "/x", HitCount: 5}}},
	{Name: "LocalUsers", Time: at(13), Payload: []Item{LocalUser{UserName: "ada", UserID: "1000", GroupNames: "ada;sudo", GroupIDs: "1000;27"}}},
	{Name: "FirewallConfiguration", Time: at(14), Payload: []Item{FirewallRule{
		Enabled: true, Action: Allow, Priority: 1, Direction: In, ChainName: "INPUT", Application: "a", SourceAddress: "192.0.2.0/24", SourcePort: "1-2", DestinationAddress: "*", DestinationPort: "22", Protocol: "tcp",
	}}},
}}

func TestAppendJSON_RoundTrip(t *testing.T) {
	t.Parallel()
	var seen []string
	for i := range linuxReport.Events {
		seen = append(seen, linuxReport.Events[i].Name)
		for _, item := range linuxReport.Events[i].Payload {
			// A member that lost its way would be zero on both sides.
			if v := reflect.ValueOf(item); i != 2 && i != 5 && i != 7 && i != 9 {
				for f := range v.NumField() {
					if v.Field(f).IsZero() && v.Type().Field(f).Name != "Item" {
						t.Errorf("%T.%s is not tested", item, v.Type().Field(f).Name)
					}
				}
			}
		}
	}
	for _, name := range append(events3, payloads[1:]...) {
		if !slices.Contains(seen, name) {
			t.Errorf("the event %s is not tested", name)
		}
	}
	body := AppendJSON([]byte("before"), linuxReport)
	if !bytes.HasPrefix(body, []byte("before{")) {
		t.Fatalf("it does not append: %.20s", body)
	}
	got, err := Decode(IndicatorJSON, body[len("before"):])
	if err != nil {
		t.Fatal(err)
	}
	same(t, "report", got, linuxReport)
	for i := range got.Events {
		e := &got.Events[i]
		for _, row := range rows(e) {
			back, err := DecodeDetails(FlatBuffers, e.Name, []byte(row))
			if err != nil {
				t.Fatalf("%s: %v", row, err)
			}
			same(t, e.Name+" read back", rows(&back), []string{row})
		}
	}
}

// Whatever a report says comes back, as long as it is text and the wire has room for it.
func TestAppendJSON_RoundTripOfAnything(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for n := range 300 {
		want := Report{Agent: randomText(random), AgentVersion: randomText(random), Encoding: JSON}
		for range random.IntN(6) {
			e := Event{ID: randomText(random), Time: at(int64(random.Uint32())), Interval: time.Duration(random.IntN(1e6)) * time.Second}
			template := linuxReport.Events[random.IntN(len(linuxReport.Events))]
			e.Name = template.Name
			for i := range template.Flows {
				f := Flow{Local: randomAddress(random), Remote: randomAddress(random), Protocol: []string{"TCP", "UDP", "ICMP", "SCTP", "UNKNOWN(9)"}[random.IntN(5)], Item: i}
				f.Direction = []string{"", In, Out}[random.IntN(3)]
				f.Began = f.Direction != ""
				f.BytesIn, f.BytesOut, f.Hits = random.Uint64()>>random.IntN(64), random.Uint64()>>random.IntN(64), uint64(random.IntN(3))
				f.ProcessID, f.UserID, f.Executable, f.CommandLine = random.Int64(), random.Uint32(), randomText(random), randomText(random)
				e.Flows = append(e.Flows, f)
			}
			for range template.Checks {
				var c BaselineCheck
				randomize(random, reflect.ValueOf(&c).Elem())
				e.Checks = append(e.Checks, c)
			}
			for _, item := range template.Payload {
				v := reflect.New(reflect.TypeOf(item)).Elem()
				randomize(random, v)
				e.Payload = append(e.Payload, v.Interface().(Item))
			}
			e.Empty = len(e.Flows)+len(e.Checks)+len(e.Payload) == 0
			want.Events = append(want.Events, e)
		}
		got, err := Decode(IndicatorJSON, AppendJSON(nil, want))
		if err != nil {
			t.Fatal(err)
		}
		if want.Events == nil {
			want.Events = got.Events[:0]
		}
		same(t, fmt.Sprintf("report %d", n), got, want)
		if t.Failed() {
			return
		}
	}
}

func randomText(random *rand.Rand) string {
	alphabet := []rune("aZ09 \"\\/<>&\u2028\u00e9\U0001F600\x00\n;=")
	b := make([]rune, random.IntN(12))
	for i := range b {
		b[i] = alphabet[random.IntN(len(alphabet))]
	}
	return string(b)
}

func randomAddress(random *rand.Rand) netip.AddrPort {
	b := make([]byte, []int{4, 16}[random.IntN(2)])
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a, uint16(random.Uint32()))
}

func randomize(random *rand.Rand, v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(randomText(random))
	case reflect.Bool:
		v.SetBool(random.IntN(2) == 0)
	case reflect.Int:
		v.SetInt(int64(random.Int32()))
	case reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(random.Uint64() >> (64 - v.Type().Bits()))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1+random.IntN(2), 3))
		for i := range v.Len() {
			randomize(random, v.Index(i))
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[netip.AddrPort]() {
			v.Set(reflect.ValueOf(randomAddress(random)))
			return
		}
		for i := range v.NumField() {
			switch v.Type().Field(i).Name {
			case "Item":
			case "Protocol":
				if v.Type() != reflect.TypeFor[FirewallRule]() {
					v.Field(i).SetString("TCP")
				}
			default:
				randomize(random, v.Field(i))
			}
		}
	default:
		panic(v.Kind())
	}
}

func TestAppendJSON_LeavesOutWhatItHasNoFormFor(t *testing.T) {
	t.Parallel()
	body := AppendJSON(nil, Report{Events: []Event{
		{Name: "Novelty"}, {Name: "NONE"}, {Name: "Login", Payload: []Item{Raw(`{"Operation":"Login"}`)}}, {Name: "Heartbeat", Time: time.Unix(-5, 0)}, {Name: "ProcessCreate"},
	}})
	if want := `{"security_module_id":"","security_module_version":"","events":[{"time":0,"payload_type":"Heartbeat"}]}`; string(body) != want {
		t.Errorf("got %s, want %s", body, want)
	}
}

func TestDecode_LinuxKeepsTheGoodItems(t *testing.T) {
	t.Parallel()
	const head = `{"security_module_id":"m","events":[`
	r, err := Decode(IndicatorJSON, []byte(head+`{"payload_type":"Login","payload":[{"operation":1},7,{"operation":"LoginFailed","user_name":"eve"}]},
		{"payload_type":"Novelty","payload":[{}]},{"payload_type":"SBoM","payload":{}},{"payload_type":"Login"},
		{"payload_type":"NetworkActivity","payload":[{"local_address":"fe80::1%eth0","remote_address":"::ffff:203.0.113.5","remote_port":1,"protocol":"tcp","direction":"Sideways"}]},
		{"payload_type":"Process","payload":[{"executable":"x"}]},{"payload_type":"Process","payload":{"executable":"y"}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "report", r, Report{Agent: "m", Encoding: JSON, Skipped: 4, Notes: r.Notes, Events: []Event{
		{Name: "Login", Time: at(0), Payload: []Item{LoginRecord{Operation: LoginFailed, UserName: "eve", HitCount: 1}}},
		{Name: "Login", Time: at(0), Empty: true},
		{Name: "NetworkActivity", Time: at(0), Flows: []Flow{{Local: ap("[fe80::1]:0"), Remote: ap("203.0.113.5:1"), Protocol: "TCP"}}},
		{Name: "Process", Time: at(0), Payload: []Item{Process{Executable: "x", EventType: "FORK", HitCount: 1}}},
		{Name: "Process", Time: at(0), Payload: []Item{Process{Executable: "y", EventType: "FORK", HitCount: 1}}},
	}})
	if len(r.Notes) != 4 {
		t.Errorf("notes %q", r.Notes)
	}
	many := head + `{"payload_type":"Login","payload":[{}` + strings.Repeat(",{}", 80000) + `]},{"payload_type":"Login","payload":[{}]}]}`
	if r, err = Decode(IndicatorJSON, []byte(many)); err != nil || len(r.Events) != 2 || len(r.Events[0].Payload) != maxItems3 || len(r.Events[1].Payload) != 0 || r.Skipped != 2 {
		t.Errorf("a message of too many items: %d events, %d skipped, %v", len(r.Events), r.Skipped, err)
	}
	for _, bad := range []string{head + `{"payload_type":"Login","payload":[{]}]}`, `{"security_module_id":"m","security_module_version":-1}`, `{"security_module_id":"m","security_module_version":[]}`} {
		if _, err := Decode(IndicatorJSON, []byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestEvent_LoginsAndProcessesOfLinux(t *testing.T) {
	t.Parallel()
	for i := range linuxReport.Events {
		e := &linuxReport.Events[i]
		switch e.Name {
		case "Login":
			same(t, "logins", e.Logins(), []Login{{"ada", false, "203.0.113.5", 1, 0, "sshd"}, {"eve", true, "", 9, 2, ""}})
		case "Process":
			want := e.Payload[0].(Process)
			same(t, "processes", e.Started(), []Process{want})
		default:
			if e.Logins() != nil || e.Started() != nil {
				t.Errorf("%s has logins or processes", e.Name)
			}
		}
	}
}

// What names people is masked in the Linux agent's messages as in the others'.
func TestRewrite_Linux(t *testing.T) {
	t.Parallel()
	masked, err := Rewrite(IndicatorJSON, AppendJSON(nil, linuxReport), masks)
	if err != nil {
		t.Fatal(err)
	}
	for _, private := range []string{`"ada"`, `"eve"`, "ada;sudo", "sshd <x>", "sh -c", `"message":"m"`} {
		if !bytes.Contains(AppendJSON(nil, linuxReport), []byte(private)) || bytes.Contains(masked, []byte(private)) {
			t.Errorf("%s is not masked: %s", private, masked)
		}
	}
	r, err := Decode(IndicatorJSON, masked)
	if err != nil || len(r.Events) != len(linuxReport.Events) {
		t.Fatalf("%d events, %v", len(r.Events), err)
	}
	for i := range r.Events {
		if r.Events[i].Name == "Login" {
			same(t, "logins", r.Events[i].Logins(), []Login{{"SOMEBODY", false, "203.0.113.5", 1, 0, "sshd"}, {"SOMEBODY", true, "", 9, 2, ""}})
		}
	}
}

// FuzzAppendJSON requires that what was once read can be written and read again, whatever its first form.
func FuzzAppendJSON(f *testing.F) {
	all, _ := everything()
	f.Add("2.3-1-0-0", all)
	f.Add(IndicatorJSON, AppendJSON(nil, linuxReport))
	for i := range linuxReport.Events {
		f.Add(IndicatorJSON, AppendJSON(nil, Report{Agent: "a", Events: linuxReport.Events[i : i+1]}))
	}
	for _, s := range samples {
		f.Add(s.mti, []byte(s.body))
	}
	f.Fuzz(func(t *testing.T, mti string, body []byte) {
		once, err := Decode(mti, body)
		if err != nil {
			return
		}
		written := AppendJSON(nil, once)
		if !json.Valid(written) {
			t.Fatalf("wrote %q", written)
		}
		again, err := Decode(IndicatorJSON, written)
		if errors.Is(err, ErrTooLarge) {
			return
		}
		if err != nil {
			t.Fatalf("%q: %v", written, err)
		}
		if rewritten := AppendJSON(nil, again); !bytes.Equal(rewritten, written) && again.Skipped == 0 {
			t.Errorf("%s became %s", written, rewritten)
		}
		if once.Encoding == FlatBuffers && len(again.Events) != len(once.Events) && again.Skipped == 0 {
			t.Errorf("%d events became %d", len(once.Events), len(again.Events))
		}
	})
}

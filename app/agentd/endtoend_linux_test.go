package agentd

import (
	"crypto/sha256"
	"debug/elf"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/vauban-iot/vauban/agent"
	"github.com/vauban-iot/vauban/agent/baseline"
	"github.com/vauban-iot/vauban/agent/collect/netnstest"
	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/internal/conform"
)

// mostResident is what the agent may have resident at most, in KiB: 30 MB.
const mostResident = 30_000_000 / 1024

// The agent as it is shipped, on a machine of its own, against a whole server: what really happens on the machine is an alert or a
// recommendation there.
func TestAgent_EndToEnd(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds the agent and needs root for namespaces: run without -short")
	}
	// DEF-39 with cmd/vauban-agent.TestCrossBuild, which builds for the other processors, and gather.TestCache_EvictsTheOldest.
	conform.Covers(t, "DEF-18", "DEF-19", "DEF-30", "DEF-39")
	m := newMachine(t, newWorld(t))
	static(t, m.bin)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]string{} // by protocol, direction and family
	var lines []string
	for i, what := range []string{"TCP Out", "UDP Out", "ICMP Out", "TCP In", "UDP In"} {
		for family, format := range map[string]string{"4": "198.51.100.%d", "6": "2001:db8:7::%d"} {
			a := fmt.Sprintf(format, 61+i)
			listed[what+family] = a
			lines = append(lines, a)
		}
	}
	m.names(lines...)
	if err := os.WriteFile(filepath.Join(m.Dir, "intel", "mine.txt"), []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.put("/etc/defender_iot_micro_agent/sysinfo.json", `{"HardwareVendor":"Acme","HardwareModel":"Pump 7","HardwareSerialNumber":"s-1","FirmwareVersion":"7.1"}`)
	watched := m.mkdir("watched")
	trigger := filepath.Join(m.mkdir("tmp"), baseline.SelfTestFile)
	if err := os.WriteFile(trigger, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	g := m.configure(agent.Module)
	settings := func(more string) string {
		// All programs of the computer are seen, and the others start many.
		return fmt.Sprintf(`{"CollectorsCore_PriorityIntervals":"30,60,120","Process_CacheSize":65536,"Login_UsePAM":true,"FileSystem_Paths":%q,"LogCollector_Disabled":true%s}`, watched, more)
	}
	m.desire(agent.Module, settings(""))
	g.start()
	g.connect()

	// The twin says what is watched; a change holds at once, and a bad one changes nothing.
	eventually(t, "the twin in force", func() bool {
		return m.reported(agent.Module, "latest_state") == `"success"` && strings.HasSuffix(g.source("Process"), "every 1h0m0s") && g.source("LogCollector") == "missing"
	})
	m.desire(agent.Module, `{"Process_Mode":7,"Heartbeat_Disabled":true}`)
	eventually(t, "the refusal", func() bool {
		return m.reported(agent.Module, "latest_state") == `"failed"` && m.reported(agent.Module, "latest_invalid_fields") == `"Process_Mode"`
	})
	if s := g.source("Heartbeat"); s == "missing" {
		t.Error("a part of what was refused is in force")
	}
	m.desire(agent.Module, `{"Process_Mode":1,"CollectorsCore_PriorityIntervals":"7,14,28"}`)
	eventually(t, "the change", func() bool {
		return m.reported(agent.Module, "latest_state") == `"success"` && strings.HasSuffix(g.source("Process"), "every 14m0s") && g.source("Heartbeat") == "missing"
	})
	g.watching("FileSystem", "every 28m0s")
	if p, n := g.source("Process"), g.source("NetworkActivity"); !strings.HasPrefix(p, "eBPF every") || !strings.HasPrefix(n, "eBPF, ") {
		t.Errorf("processes by %s, traffic by %s", p, n)
	}

	// The trigger script of the first agents.
	var door net.Listener
	m.pair.Here.Do(t, func() (err error) { door, err = net.Listen("tcp", "0.0.0.0:8888"); return err })
	state := func(kind string, want posture.State) func() bool {
		return func() bool { return m.recommendation(kind).State == want }
	}
	g.until("the open port", state(posture.OpenPorts, posture.Active), "ListeningPorts")
	if r := m.recommendation(posture.OpenPorts); !strings.Contains(string(r.Data), fmt.Sprintf(`"LocalPort":8888,"Executable":%q`, self)) {
		t.Errorf("additional data %s", r.Data)
	}
	door.Close()
	g.until("its end", state(posture.OpenPorts, posture.Resolved), "ListeningPorts")
	if a := m.alert("IoT_CryptoMiner", ""); a.ID != "" {
		t.Errorf("before the command: %+v", a)
	}
	if out, err := m.command("sh", "-c", "echo cpuminer-multi").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	g.until("the miner", func() bool { return m.alert("IoT_CryptoMiner", "name: cpuminer-multi").ID != "" }, "Process")
	if a := m.alert("IoT_CryptoMiner", "name: cpuminer-multi"); !evident(a, `"commandline":"sh -c echo cpuminer-multi"`, `"user_name":"root"`) {
		t.Errorf("evidence %+v", a.Evidence)
	}

	traffic(t, g, listed, self)
	logins(t, g)
	things(t, g, watched)

	// The self test of the micro agent: the file was there when the agent started.
	const selfTest = posture.CISBenchmarks + "_" + baseline.SelfTest
	eventually(t, "the recommendation of the self test, by itself", func() bool {
		r := m.recommendation(selfTest)
		return r.State == posture.Active
	})
	if err := os.Remove(trigger); err != nil {
		t.Fatal(err)
	}
	g.stop()
	g.start()
	g.connect()
	g.until("the end of the self test", state(selfTest, posture.Resolved), "Baseline")

	outage(t, g)
	eviction(t, g, settings(""))
	g.stop()
	fallback(t, g)
	custom(t, m)
	if g.most == 0 || g.most > mostResident {
		t.Errorf("the agent had %d KiB resident, at most %d are right", g.most, mostResident)
	}
	t.Logf("%d KiB were resident at most", g.most)
}

// static fails unless a program needs no other file.
func static(t *testing.T, path string) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("%s needs a loader", path)
		}
	}
}

// evident reports whether a row of an alert's evidence has all the texts.
func evident(a alert.Alert, texts ...string) bool {
	return slices.ContainsFunc(a.Evidence, func(e alert.Evidence) bool {
		return !slices.ContainsFunc(texts, func(x string) bool { return !strings.Contains(string(e.Details), x) })
	})
}

func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
		}()
	}
}

func echoPackets(c net.PacketConn) {
	b := make([]byte, 2048)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		_, _ = c.WriteTo(b[:n], from)
	}
}

// dialFrom connects out of a namespace from one of its addresses.
func dialFrom(t *testing.T, n netnstest.Namespace, network, from, to string) net.Conn {
	t.Helper()
	host := net.ParseIP(from)
	var local net.Addr = &net.TCPAddr{IP: host}
	if strings.HasPrefix(network, "udp") {
		local = &net.UDPAddr{IP: host}
	}
	var c net.Conn
	n.Do(t, func() (err error) { c, err = (&net.Dialer{LocalAddr: local}).Dial(network, to); return err })
	t.Cleanup(func() { c.Close() })
	return c
}

func exchange(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write(make([]byte, 700)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 700)); err != nil {
		t.Fatal(err)
	}
}

func ping(t *testing.T, n netnstest.Namespace, to string) {
	t.Helper()
	network, kind := "ip4:icmp", icmp.Type(ipv4.ICMPTypeEcho)
	if strings.Contains(to, ":") {
		network, kind = "ip6:ipv6-icmp", ipv6.ICMPTypeEchoRequest
	}
	b, err := (&icmp.Message{Type: kind, Body: &icmp.Echo{ID: 7, Seq: 1, Data: make([]byte, 48)}}).Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := n.Dial(t, network, to)
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1500)); err != nil {
		t.Fatal(err)
	}
}

// traffic talks with addresses that are listed, over each protocol and family and in both directions.
func traffic(t *testing.T, g *guard, listed map[string]string, self string) {
	t.Helper()
	here, there := g.pair.Here, g.pair.There
	for _, v := range []string{"4", "6"} {
		own, any := here.IPv4, "0.0.0.0"
		if v == "6" {
			own, any = here.IPv6, "::"
		}
		l := there.Listen(t, "tcp"+v, net.JoinHostPort(listed["TCP Out"+v], "0"))
		go echo(l)
		exchange(t, here.Dial(t, "tcp"+v, l.Addr().String()))
		p := there.ListenPacket(t, "udp"+v, net.JoinHostPort(listed["UDP Out"+v], "0"))
		go echoPackets(p)
		exchange(t, here.Dial(t, "udp"+v, p.LocalAddr().String()))
		ping(t, here, listed["ICMP Out"+v])

		_, port, err := net.SplitHostPort(func() string {
			l := here.Listen(t, "tcp"+v, net.JoinHostPort(any, "0"))
			go echo(l)
			return l.Addr().String()
		}())
		if err != nil {
			t.Fatal(err)
		}
		exchange(t, dialFrom(t, there, "tcp"+v, listed["TCP In"+v], net.JoinHostPort(own, port)))
		q := here.ListenPacket(t, "udp"+v, net.JoinHostPort(own, "0"))
		go echoPackets(q)
		exchange(t, dialFrom(t, there, "udp"+v, listed["UDP In"+v], q.LocalAddr().String()))
	}
	for what, address := range listed {
		g.until(what+" with "+address, func() bool { return g.alert("IoT_TiConnection", address).ID != "" }, "NetworkActivity")
		a := g.alert("IoT_TiConnection", address)
		protocol, direction, _ := strings.Cut(what[:len(what)-1], " ")
		texts := []string{fmt.Sprintf(`"remote_address":%q`, address), fmt.Sprintf(`"protocol":%q`, protocol), fmt.Sprintf(`"direction":%q`, direction)}
		if protocol != "ICMP" { // whose sockets have no port
			texts = append(texts, fmt.Sprintf(`"executable":%q`, self), fmt.Sprintf(`"process_id":%d,`, os.Getpid()))
		}
		if !evident(a, texts...) || a.Protocol != protocol || a.Direction != direction || netip.MustParseAddr(a.Remote) != netip.MustParseAddr(address) {
			for _, e := range a.Evidence {
				t.Logf("evidence %s", e.Details)
			}
			t.Errorf("%s: %s %s %s", what, a.Protocol, a.Direction, a.Remote)
		}
	}
}

// logins signs in by PAM, fails to, and is seen.
func logins(t *testing.T, g *guard) {
	t.Helper()
	g.put("/etc/pam.d/su", strings.ReplaceAll(`auth sufficient pam_rootok.so
auth [success=2 default=ignore] pam_unix.so
auth optional pam_exec.so quiet seteuid BIN pam 2
auth requisite pam_deny.so
auth required pam_permit.so
account required pam_permit.so
session optional pam_exec.so quiet seteuid type=open_session BIN pam 0
session optional pam_exec.so quiet seteuid type=close_session BIN pam 1
`, "BIN", g.bin))
	if out, err := g.command("su", "-s", "/bin/sh", "-c", "true", "daemon").CombinedOutput(); err != nil {
		t.Fatalf("su: %v %s", err, out)
	}
	wrong := g.command("setpriv", "--reuid=1", "--regid=1", "--clear-groups", "su", "-c", "true", "root")
	wrong.Stdin = strings.NewReader("not the password\n")
	if out, err := wrong.CombinedOutput(); err == nil {
		t.Fatalf("su with a wrong password: %s", out)
	}
	g.until("the failed login", func() bool {
		return g.told("Login", `"operation":"LoginFailed"`, `"user_name":"root"`, `"executable":"su"`)
	}, "Login")
	for _, operation := range []string{"Login", "Logout"} {
		g.until("the "+operation, func() bool { return g.told("Login", `"operation":"`+operation+`"`, `"user_name":"daemon"`) }, "Login")
	}
	for kind, user := range map[string]string{alert.FailedLocalLogin: "user: root", alert.SuccessfulLocalLogin: "user: daemon"} {
		eventually(t, kind, func() bool { return g.alert(kind, user).ID != "" })
	}
}

// things are what else changes on a machine: a package, a file, a network card; and what it is.
func things(t *testing.T, g *guard, watched string) {
	t.Helper()
	if g.told("SBoM", "vauban-end-to-end") {
		t.Error("a package is told of that is not there")
	}
	g.add("/var/lib/dpkg/status", "\nPackage: vauban-end-to-end\nStatus: install ok installed\nArchitecture: all\nMaintainer: Ada <ada@example.org>\nVersion: 1.2.3\nDescription: a test\n")
	g.until("the package", func() bool {
		return g.told("SBoM", `"name":"vauban-end-to-end"`, `"version":"1.2.3"`, `"type":"deb"`)
	}, "SBoM")

	file := filepath.Join(watched, "config.txt")
	for _, step := range []struct {
		kind string
		do   func() error
	}{
		{"IoT_FileCreated", func() error { return os.WriteFile(file, []byte("1"), 0o600) }},
		{"IoT_FileModified", func() error { return os.WriteFile(file, []byte("2"), 0o600) }},
		{"IoT_FileDeleted", func() error { return os.Remove(file) }},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		g.until(step.kind, func() bool { return g.alert(step.kind, file).ID != "" }, "FileSystem")
	}

	g.plug("plug0", true)
	g.until("the card", func() bool { return g.alert("IoT_EthernetConnection", "network card: plug0").ID != "" }, "Peripheral")
	g.plug("plug0", false)
	g.until("the card's end", func() bool { return g.alert("IoT_EthernetDisconnection", "network card: plug0").ID != "" }, "Peripheral")

	g.until("what the machine is", func() bool {
		return g.told("SystemInformation", `"hardware_vendor":"Acme"`, `"hardware_model":"Pump 7"`, `"hardware_serial_number":"s-1"`, `"firmware_version":"7.1"`)
	}, "SystemInformation")
}

// outage takes the hub away and kills the agent: what it saw before comes all the same.
func outage(t *testing.T, g *guard) {
	t.Helper()
	g.Stop()
	eventually(t, "the loss of the connection", func() bool { return !g.status().Connected })
	begin := func(from, to int) {
		for i := from; i < to; i++ {
			if out, err := exec.Command("/bin/true", fmt.Sprintf("vauban-outage-%d-", i)).CombinedOutput(); err != nil {
				t.Fatalf("%v %s", err, out)
			}
		}
		for i := from; i < to; i++ {
			g.until(fmt.Sprintf("program %d in the queue", i), func() bool { return g.queued(fmt.Sprintf("vauban-outage-%d-", i)) }, "Process")
		}
	}
	begin(0, 20)
	g.kill()
	g.start()
	eventually(t, "the queue, after kill -9", func() bool {
		s := g.status()
		return s.Queued > 0 && !s.Connected
	})
	begin(20, 40)
	g.Start()
	g.connect()
	for i := range 40 {
		line := fmt.Sprintf(`"commandline":"/bin/true vauban-outage-%d-"`, i)
		eventually(t, line, func() bool { return g.told("Process", line) })
	}
}

// eviction sees more than a cache holds: what goes is counted, and the rest is told.
func eviction(t *testing.T, g *guard, settings string) {
	t.Helper()
	g.desire(agent.Module, `{"FileSystem_CacheSize":3,"CollectorsCore_PriorityIntervals":"8,16,32"}`)
	dir := filepath.Join(g.dir, "watched")
	g.watching("FileSystem", "every 32m0s")
	round := 0
	g.until("what was dropped", func() bool {
		round++
		for i := range 8 {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("evicted-%d-%d", round, i)), []byte("1"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(100 * time.Millisecond)
		g.flush("FileSystem", "Statistics")
		return g.told("Statistics", `"collector_name":"FileSystem"`, "the cache was full") && g.told("FileSystem", "evicted-")
	}, "FileSystem")
	g.desire(agent.Module, settings)
}

// fallback takes capabilities away: the agent looks elsewhere, and still sees. The kernel tells of processes over netlink in the
// computer's own network alone, so there the agent is with the hub's own address; on the machine's it has to poll.
func fallback(t *testing.T, g *guard) {
	t.Helper()
	text, err := os.ReadFile(g.config)
	if err != nil {
		t.Fatal(err)
	}
	near := write(t, filepath.Dir(g.config), "near.toml", strings.Replace(string(text), g.hub, g.Address(g.Ports.MQTT), 1))
	const without = "-bpf,-sys_admin,-perfmon"
	weak := []string{"setpriv", "--inh-caps=" + without, "--bounding-set=" + without, g.bin, "run", "--config"}
	for source, c := range map[string]*exec.Cmd{
		"netlink":       exec.Command("nsenter", append([]string{"--target", g.pid, "--mount", "--"}, append(weak, near)...)...),
		"polling /proc": g.command(append(weak, g.config)...),
	} {
		g.run(c)
		g.connect()
		if s := g.source("Process"); !strings.HasPrefix(s, source+" (no eBPF: ") {
			t.Errorf("processes by %s, want %s", s, source)
		}
		mark := "vauban-fallback-" + source
		c := exec.Command("/bin/sleep", "60.5")
		c.Args = []string{mark, "60.5"}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		g.until(mark, func() bool { return g.told("Process", mark) }, "Process")
		_ = c.Process.Kill()
		_ = c.Wait()
		g.stop()
	}
}

const ownBaseline = `<baseline BaselineId="Site.1" BaseOrigId="1"><audits>
<audit description="The site's file says yes" msid="9.1" cceid="SITE-9.1" severity="Critical" impact="x" remediation="Say yes" ruleId="6b0a6a0e-6c0b-4b7e-8d3f-000000000001">
<check distro="*" command="CheckMatchingLines" path="/etc/vauban-site" regex="^yes$"/></audit></audits></baseline>`

// custom runs a baseline file of one's own, by the twin of the older agents, and refuses it when its hash is another.
func custom(t *testing.T, m *machine) {
	t.Helper()
	m.put("/etc/vauban-site", "no\n")
	m.put("/etc/vauban-site.xml", ownBaseline)
	g := m.configure(agent.ModuleV1)
	section := func(hash string) {
		m.desire(agent.ModuleV1, fmt.Sprintf(`{"ms_iotn:urn_azureiot_Security_SecurityAgentConfiguration":{"baselineCustomChecksEnabled":{"value":true},"baselineCustomChecksFilePath":{"value":"/etc/vauban-site.xml"},"baselineCustomChecksFileHash":{"value":%q}}}`, hash))
	}
	section(fmt.Sprintf("%x", sha256.Sum256([]byte(ownBaseline))))
	g.start()
	g.connect()
	const kind = posture.CISBenchmarks + "_SITE-9.1"
	g.until("the failure of the site's check", func() bool { return m.recommendation(kind).State == posture.Active }, "Baseline")
	m.put("/etc/vauban-site", "yes\n")
	g.until("its end", func() bool { return m.recommendation(kind).State == posture.Resolved }, "Baseline")
	section(strings.Repeat("0", 64))
	g.until("the refusal", func() bool {
		return m.told("Baseline", `"BaselineCheckId":"CustomBaseline"`, `"BaselineCheckResult":"ERROR"`, "not the one that was given")
	}, "Baseline")
	g.stop()
}

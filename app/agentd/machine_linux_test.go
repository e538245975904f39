package agentd

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/vauban-iot/vauban/agent"
	"github.com/vauban-iot/vauban/agent/collect/netnstest"
	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/defender/record"
)

// build builds the agent as it is shipped.
func build(t *testing.T, out string) {
	t.Helper()
	c := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, "github.com/vauban-iot/vauban/cmd/vauban-agent")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
}

// machine is a device: a network of its own that reaches the hub over a cable, and folders /etc, /var/lib and /var/log of its own.
type machine struct {
	*world
	pair netnstest.Pair
	dir  string // of what the test writes
	bin  string // the agent
	pid  string // of the process that holds it
	hub  string // address of MQTT, at the other end of the cable
}

func newMachine(t *testing.T, w *world) *machine {
	t.Helper()
	m := &machine{world: w, pair: netnstest.New(t), dir: t.TempDir()}
	m.bin = m.path("vauban-agent")
	build(t, m.bin)
	c := exec.Command("/bin/sh", "-ec", `mount -t tmpfs none "$1"
for d in etc var/lib var/log; do
	mkdir -p "$1/$d.new" "$1/$d.work"
	mount -t overlay none -o "lowerdir=/$d,upperdir=$1/$d.new,workdir=$1/$d.work" "/$d"
done
echo ready; exec cat`, "sh", m.path("over"))
	m.mkdir("over")
	c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	var complaint bytes.Buffer
	c.Stderr = &complaint
	in, err := c.StdinPipe() // it lives as long as the test does
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	m.pair.Here.Do(t, c.Start)
	t.Cleanup(func() {
		in.Close()
		_ = c.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the machine's folders: %v %s", err, complaint.String())
	}
	m.pid = strconv.Itoa(c.Process.Pid)
	l := m.pair.There.Listen(t, "tcp4", net.JoinHostPort(m.pair.There.IPv4, "0"))
	m.hub = l.Addr().String()
	hub := w.Address(w.Ports.MQTT) // which stays when the hub starts anew
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { l.Close() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { splice(c, hub) })
		}
	})
	return m
}

// splice joins a connection with one to an address.
func splice(c net.Conn, to string) {
	defer c.Close()
	up, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer up.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		defer c.Close()
		_, _ = io.Copy(c, up)
	})
	_, _ = io.Copy(up, c)
	up.Close()
	wg.Wait()
}

func (m *machine) path(name string) string { return filepath.Join(m.dir, name) }

func (m *machine) mkdir(name string) string {
	m.t.Helper()
	if err := os.MkdirAll(m.path(name), 0o755); err != nil {
		m.t.Fatal(err)
	}
	return m.path(name)
}

// put writes a file of the machine; add writes behind what it holds.
func (m *machine) put(path, text string) { m.write(path, text, os.O_TRUNC) }
func (m *machine) add(path, text string) { m.write(path, text, os.O_APPEND) }

func (m *machine) write(path, text string, how int) {
	m.t.Helper()
	path = filepath.Join("/proc", m.pid, "root", path)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		var f *os.File
		if f, err = os.OpenFile(path, os.O_CREATE|os.O_WRONLY|how, 0o644); err == nil {
			_, err = f.WriteString(text)
			f.Close()
		}
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

// command is one that runs on the machine.
func (m *machine) command(words ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--target", m.pid, "--mount", "--net", "--"}, words...)...)
}

// guard is an agent that runs on a machine.
type guard struct {
	*machine
	config, state string
	cmd           *exec.Cmd
	log           *bytes.Buffer
	most          int // KiB that it had resident at most, of all its processes that ended
}

// configure makes an agent that is a module of the device.
func (m *machine) configure(module string) *guard {
	m.t.Helper()
	made := m.do(http.MethodPut, "/devices/pump/modules/"+module, map[string]string{"deviceId": "pump", "moduleId": module})
	dir := m.mkdir(module)
	write(m.t, dir, "cs", fmt.Sprintf("HostName=%s;DeviceId=pump;ModuleId=%s;SharedAccessKey=%s", m.Hub.Hostname, module, made.Authentication.SymmetricKey.PrimaryKey))
	g := &guard{machine: m, state: filepath.Join(dir, "state")}
	g.config = write(m.t, dir, "agent.toml", fmt.Sprintf("module = %q\nstate_dir = \"state\"\n[identity]\nconnection_string_file = \"cs\"\n[hub]\naddress = %q\nca_file = %q\n[collect]\nvirtual_cards = true\n", module, m.hub, m.CA))
	m.t.Cleanup(func() {
		if g.cmd != nil {
			g.kill()
		}
	})
	return g
}

// start starts it behind the words of a wrapper, and waits until it runs.
func (g *guard) start(wrapper ...string) {
	g.t.Helper()
	g.run(g.command(append(wrapper, g.bin, "run", "--config", g.config)...))
}

func (g *guard) run(c *exec.Cmd) {
	g.t.Helper()
	g.cmd = c
	g.cmd.Env = append(os.Environ(), "TMPDIR="+g.mkdir("tmp"))
	g.log = &bytes.Buffer{}
	g.cmd.Stderr = g.log
	if err := g.cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	eventually(g.t, "the agent's start", func() bool {
		s, err := agent.ReadStatus(g.state)
		return err == nil && s.PID == g.cmd.Process.Pid && len(s.Sources) > 0
	})
	g.watching("Process", "")
}

func (g *guard) connect() {
	g.t.Helper()
	eventually(g.t, "the connection", func() bool { return g.status().Connected })
}

// kill is kill -9.
func (g *guard) kill() {
	g.resident()
	_ = g.cmd.Process.Kill()
	_ = g.cmd.Wait()
	g.ended()
}

func (g *guard) stop() {
	g.t.Helper()
	g.resident()
	err := g.cmd.Process.Signal(syscall.SIGTERM)
	if err == nil {
		err = g.cmd.Wait()
	}
	if err != nil {
		g.t.Errorf("the agent ended with %v", err)
	}
	g.ended()
}

func (g *guard) ended() {
	g.cmd = nil
	if g.t.Failed() {
		g.t.Logf("the agent said: %s", g.log)
	}
}

// resident notes the most memory that the process had resident, by the kernel's count.
func (g *guard) resident() {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid))
	if err != nil {
		return
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmHWM:" {
			n, _ := strconv.Atoi(f[1])
			g.most = max(g.most, n)
		}
	}
}

func (g *guard) status() agent.Status {
	s, err := agent.ReadStatus(g.state)
	if err != nil {
		g.t.Logf("status: %v; the agent said: %s", err, g.log)
	}
	return s
}

// source is where a collector looks; missing: it does not run.
func (g *guard) source(name string) string {
	for _, s := range g.status().Sources {
		if s.Name == name {
			return s.From + " every " + s.Every
		}
	}
	return "missing"
}

// watching waits until a collector works as often as a twin says, and all that watch do: what happens from then on is seen.
func (g *guard) watching(collector, every string) {
	g.t.Helper()
	eventually(g.t, collector+" "+every, func() bool {
		return strings.HasSuffix(g.source(collector), every) && !slices.ContainsFunc(g.status().Sources, func(s agent.SourceStatus) bool {
			return strings.Contains(s.From, "not started") && s.Error == ""
		})
	})
}

// flush is the command.
func (g *guard) flush(collectors ...string) {
	g.t.Helper()
	c := exec.Command(g.bin, append([]string{"flush", "--config", g.config}, collectors...)...)
	if out, err := c.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "Looked; ") {
		g.t.Fatalf("flush %q: %v %s; the agent said: %s", collectors, err, out, g.log)
	}
}

// until flushes collectors until something is so.
func (g *guard) until(what string, ok func() bool, collectors ...string) {
	g.t.Helper()
	eventually(g.t, what, func() bool {
		if ok() {
			return true
		}
		g.flush(collectors...)
		time.Sleep(200 * time.Millisecond)
		return ok()
	})
}

// queued reports whether a text is in the agent's queue on disk.
func (g *guard) queued(text string) bool {
	files, err := filepath.Glob(filepath.Join(g.state, "queue", "*"))
	if err != nil {
		g.t.Fatal(err)
	}
	return slices.ContainsFunc(files, func(name string) bool {
		b, _ := os.ReadFile(name) // it may be gone
		return bytes.Contains(b, []byte(text))
	})
}

// operator reads the operator's API.
func (m *machine) operator(path string, query url.Values, into any) {
	m.t.Helper()
	req, err := http.NewRequestWithContext(m.t.Context(), http.MethodGet, "https://"+m.Address(m.Ports.HTTPS)+path+"?"+query.Encode(), nil)
	if err != nil {
		m.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+m.API.Token)
	res, err := m.HTTP().Do(req)
	if err != nil {
		m.t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(into); err != nil || res.StatusCode != http.StatusOK {
		m.t.Fatalf("%s: %s %v", path, res.Status, err)
	}
}

// recommendation is the state of one about the device.
func (m *machine) recommendation(kind string) (r posture.Recommendation) {
	m.t.Helper()
	var list struct{ Recommendations []posture.Recommendation }
	m.operator("/api/recommendations", url.Values{"device": {"pump"}, "type": {kind}}, &list)
	if len(list.Recommendations) > 0 {
		r = list.Recommendations[0]
	}
	return r
}

// alert is the one of a type and indicator, with its evidence; without an ID: there is none.
func (m *machine) alert(kind, indicator string) (a alert.Alert) {
	m.t.Helper()
	var list struct{ Alerts []alert.Alert }
	m.operator("/api/alerts", url.Values{"device": {"pump"}, "limit": {"1000"}}, &list)
	i := slices.IndexFunc(list.Alerts, func(a alert.Alert) bool { return a.Type == kind && strings.HasPrefix(a.Indicator, indicator) })
	if i >= 0 {
		m.operator("/api/alerts/"+list.Alerts[i].ID, nil, &a)
	}
	return a
}

// details are what events of a name told of, the newest first.
func (m *machine) details(name string) (all []string) {
	m.t.Helper()
	query := url.Values{"device": {"pump"}, "name": {name}, "limit": {"200"}}
	for {
		var page struct{ Events []record.Row }
		m.operator("/api/security-events", query, &page)
		if len(page.Events) == 0 {
			return all
		}
		for _, e := range page.Events {
			all = append(all, string(e.Details))
			query.Set("before", e.Place)
		}
	}
}

// told reports whether an event of a name told of something that has all the texts.
func (m *machine) told(name string, texts ...string) bool {
	m.t.Helper()
	return slices.ContainsFunc(m.details(name), func(d string) bool {
		return !slices.ContainsFunc(texts, func(x string) bool { return !strings.Contains(d, x) })
	})
}

func (m *machine) desire(module, desired string) {
	m.t.Helper()
	if _, err := m.Service().Do(m.t.Context(), http.MethodPatch, "/twins/pump/modules/"+module, "", nil, []byte(`{"properties":{"desired":`+desired+`}}`)); err != nil {
		m.t.Fatal(err)
	}
}

// reported is a member of the twin's reported part.
func (m *machine) reported(module, name string) string {
	m.t.Helper()
	text, err := m.Service().Do(m.t.Context(), http.MethodGet, "/twins/pump/modules/"+module, "", nil, nil)
	var twin struct {
		Properties struct{ Reported map[string]json.RawMessage }
	}
	if err == nil {
		err = json.Unmarshal(text, &twin)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	return string(twin.Properties.Reported[name])
}

// plug makes a network card of the machine, or takes it away.
func (m *machine) plug(name string, in bool) {
	m.t.Helper()
	m.pair.Here.Do(m.t, func() error {
		card := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "p"}
		if !in {
			return netlink.LinkDel(card)
		}
		if err := netlink.LinkAdd(card); err != nil {
			return err
		}
		for _, n := range []string{card.PeerName, name} { // a cable counts when both ends are up
			l, err := netlink.LinkByName(n)
			if err == nil {
				err = netlink.LinkSetUp(l)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// names gives the other end of the cable more addresses.
func (m *machine) names(addresses ...string) {
	m.t.Helper()
	m.pair.There.Do(m.t, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		for _, a := range addresses {
			bits := "/24"
			if strings.Contains(a, ":") {
				bits = "/64"
			}
			addr, err := netlink.ParseAddr(a + bits)
			if err != nil {
				return err
			}
			addr.Flags = syscall.IFA_F_NODAD
			if err := netlink.AddrAdd(l, addr); err != nil {
				return err
			}
		}
		return nil
	})
}

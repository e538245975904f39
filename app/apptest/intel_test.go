package apptest_test

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/app/cli"
	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// vauban runs a command line as an operator types it.
func vauban(t *testing.T, v *apptest.Vauban, args ...string) (out string, code int) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	c := cli.New(strings.NewReader(""), &stdout, &stderr)
	c.SetArgs(append(args, "--data", v.Dir))
	code = cli.Code(c.ExecuteContext(t.Context()), &stderr)
	return stdout.String() + stderr.String(), code
}

func must(t *testing.T, v *apptest.Vauban, args ...string) string {
	t.Helper()
	out, code := vauban(t, v, args...)
	if code != 0 {
		t.Fatalf("vauban %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// A feed that is served over HTTPS is added on the command line; traffic of a device with what it lists is an alert. What the feed lists later meets
// the traffic that was before. Exemptions go first, and after a restart without the server all of it is still there.
func TestVauban_ThreatIntelligence(t *testing.T) {
	conform.Covers(t, "DEF-29", "DEF-33")
	t.Parallel()
	v := apptest.Start(t)
	var mu sync.Mutex
	listing := "# c2\n203.0.113.5:4444\n198.51.100.0/24\n"
	feeds := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.Header.Get("Auth-Key") != "s3cret" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		io.WriteString(w, listing)
	}))
	t.Cleanup(feeds.Close)
	dir := t.TempDir()
	ca, key := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "key")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: feeds.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	d := v.Device("cam-1")
	c, _ := connect(t, v, d)
	send := func(remotes ...string) {
		t.Helper()
		var flows []secmsg.Flow
		for _, r := range remotes {
			flows = append(flows, secmsg.Flow{Local: netip.MustParseAddrPort("192.168.1.2:40000"), Remote: netip.MustParseAddrPort(r), Protocol: "TCP", BytesOut: 9})
		}
		c.Publish("devices/cam-1/messages/events/mti=2.3-1-0-0&%24.ifid=urn%3Aazureiot%3ASecurity%3ASecurityAgent%3A1", secmsg.AppendFlatBuffers(nil, secmsg.Report{
			Agent: "defender-iot-micro-agent", AgentVersion: "3.5.4",
			Events: []secmsg.Event{{Name: "NetworkActivity", Time: time.Now(), Interval: 10 * time.Second, Flows: flows}},
		}))
	}
	alerts := func() map[string]alert.Alert {
		t.Helper()
		var list struct{ Alerts []alert.Alert }
		_, text := ask(t, v, v.HTTP(), "GET", "/api/alerts", "")
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			t.Fatal(err)
		}
		all := make(map[string]alert.Alert)
		for _, a := range list.Alerts {
			all[a.Indicator] = a
		}
		return all
	}
	send("203.0.113.6:80", "203.0.113.5:4445") // nobody lists them yet

	if out := must(t, v, "intel", "feed", "list"); strings.Contains(out, "c2") {
		t.Errorf("before any feed: %s", out)
	}
	out := must(t, v, "intel", "feed", "add", "c2", "--url", feeds.URL+"/c2.txt", "--header", "Auth-Key: @"+key, "--ca", ca, "--interval", "30m")
	if strings.Contains(out, "s3cret") {
		t.Errorf("a secret is printed: %s", out)
	}
	hubtest.Until(t, "the feed in use", func() bool {
		_, code := vauban(t, v, "intel", "lookup", "203.0.113.5:4444")
		return code == 3
	})
	if out := must(t, v, "intel", "feed", "list"); !strings.Contains(out, "c2") || !strings.Contains(out, "ok") {
		t.Errorf("the list: %s", out)
	}
	if out := must(t, v, "intel", "feed", "show", "c2", "--output", "json"); !strings.Contains(out, `"indicators": 2`) || strings.Contains(out, "s3cret") {
		t.Errorf("the feed: %s", out)
	}
	must(t, v, "intel", "allow", "add", "198.51.100.7", "--note", "our own")
	hubtest.Until(t, "the exemption in use", func() bool {
		_, code := vauban(t, v, "intel", "lookup", "198.51.100.7")
		return code == 0
	})
	send("203.0.113.5:4444", "198.51.100.7:443", "198.51.100.8:443")
	hubtest.Until(t, "the alerts", func() bool { return len(alerts()) == 2 })
	got := alerts()
	if a := got["203.0.113.5:4444"]; a.Source != "c2:2" || a.Device != "cam-1" || a.Count != 1 || a.Remote != "203.0.113.5" {
		t.Errorf("alert %+v", a)
	}
	if a := got["198.51.100.0/24"]; a.Remote != "198.51.100.8" || a.Count != 1 {
		t.Errorf("alert %+v", a)
	}

	// The feed grows: traffic that was before is found.
	mu.Lock()
	listing += "203.0.113.6\n"
	mu.Unlock()
	must(t, v, "intel", "feed", "refresh", "c2")
	for end := time.Now().Add(45 * time.Second); ; time.Sleep(200 * time.Millisecond) { // passes have a pause between them
		if a, ok := alerts()["203.0.113.6"]; ok {
			if a.Source != "c2:4" || a.Count != 1 || !strings.Contains(a.Description, "younger than the traffic") {
				t.Errorf("alert %+v", a)
			}
			break
		}
		if time.Now().After(end) {
			t.Fatalf("traffic from before the indicator was not found: %v", alerts())
		}
	}

	c.Drop()
	feeds.Close()
	v.Restart()
	if out, code := vauban(t, v, "intel", "lookup", "203.0.113.6", "--output", "json"); code != 3 || !strings.Contains(out, `"source": "c2"`) {
		t.Errorf("after a restart without the feed's server: %d %s", code, out)
	}
	if out, code := vauban(t, v, "intel", "lookup", "198.51.100.7"); code != 0 || !strings.Contains(out, "allowed by the operator") {
		t.Errorf("the exemption after a restart: %d %s", code, out)
	}
	must(t, v, "intel", "allow", "remove", "198.51.100.7")
	must(t, v, "intel", "feed", "remove", "c2")
	hubtest.Until(t, "the feed out of use", func() bool {
		_, code := vauban(t, v, "intel", "lookup", "203.0.113.6")
		return code == 0
	})
	for _, wrong := range [][]string{{"intel", "feed", "show", "c2"}, {"intel", "feed", "add", "x"}, {"intel", "lookup", "com"}, {"intel", "allow", "add", "com"}, {"intel", "feed", "add", "X", "--url", "https://x.example"}} {
		if out, code := vauban(t, v, wrong...); code == 0 {
			t.Errorf("%v: %s", wrong, out)
		}
	}
}

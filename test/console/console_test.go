// Package console_test drives the console of a real installation with Debian's Chromium: it signs in,
// sees a device connect, a message arrive and an alert appear, on wide and narrow screens, light
// and dark, and leaves screenshots in the folder screenshots.
package console_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/bag"
	"github.com/vauban-iot/vauban/wire/sas"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

const (
	device   = "lamp-1"
	listed   = "203.0.113.66" // documentation space (RFC 5737)
	patience = 20 * time.Second
)

// others are ids at the edges of what a device may be called.
var others = []string{
	strings.Repeat("Wide", 32),
	"..",
	`a%2F?b=#c'(*)!;@$`,
}

func TestConsole(t *testing.T) {
	if testing.Short() {
		t.Skip("drives a browser for up to a minute")
	}
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("Chromium is missing (%v): run `make deps`", err)
	}
	if _, err := os.Stat("node_modules/playwright-core/package.json"); err != nil {
		t.Fatalf("the browser's driver is missing (%v): run `make deps`", err)
	}
	v := start(t)
	shots, err := filepath.Abs("screenshots")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	script := exec.CommandContext(ctx, "node", "console.mjs")
	script.Env = append(os.Environ(),
		"CONSOLE_URL="+v.conn.Console.URL, "CONSOLE_PASSWORD="+v.conn.Console.Password, "CHROMIUM="+chromium, "SCREENSHOTS="+shots)
	var complaints bytes.Buffer
	script.Stderr = &complaints
	in, err := script.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := script.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := script.Start(); err != nil {
		t.Fatalf("%v: run `make deps`", err)
	}
	done := false
	for lines := bufio.NewScanner(out); !done && lines.Scan(); {
		var r request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Errorf("the script says %q: %v", lines.Text(), err)
			break
		}
		answer, err := v.carryOut(ctx, r)
		if err != nil {
			answer = map[string]any{"error": err.Error()}
		}
		if err := json.NewEncoder(in).Encode(answer); err != nil {
			break // its end says why
		}
		done = r.Do == "done"
	}
	in.Close() // node ends when it has nothing left to read
	if err := script.Wait(); err != nil || !done {
		t.Fatalf("the browser's script: %v\n%s\nthe installation's log:\n%s", err, &complaints, &v.log)
	}
}

// installation is a running `vauban up`, and the one device the test plays.
type installation struct {
	binary, data string
	conn         struct {
		Hub     struct{ Hostname string }
		Console struct{ URL, Password string }
		CA      string
		Ports   struct{ MQTT int }
	}
	log  bytes.Buffer
	key  []byte
	mqtt paho.Client
	rid  int
}

// start builds and starts an installation on free ports in a new folder.
func start(t *testing.T) *installation {
	t.Helper()
	dir := t.TempDir()
	v := &installation{binary: filepath.Join(dir, "vauban"), data: filepath.Join(dir, "data")}
	if text, err := exec.Command("go", "build", "-o", v.binary, "github.com/vauban-iot/vauban/cmd/vauban").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, text)
	}
	if err := os.MkdirAll(filepath.Join(v.data, "intel"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(v.data, "intel", "x.txt"), []byte("# for the test\n"+listed+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	up := exec.Command(v.binary, "up", "--data", v.data, "--mqtt-port", "0", "--https-port", "0", "--amqp-port", "0", "--output", "json")
	up.Stderr = &v.log
	out, err := up.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if v.mqtt != nil {
			v.mqtt.Disconnect(0)
		}
		if err := up.Process.Signal(syscall.SIGINT); err != nil {
			t.Errorf("the installation ended early: %v\n%s", err, &v.log)
		}
		if err := up.Wait(); err != nil {
			t.Errorf("the installation ended with %v\n%s", err, &v.log)
		}
		if strings.Contains(v.log.String(), v.conn.Console.Password) {
			t.Error("the log holds the administrator's password")
		}
	})
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatalf("the installation does not start: %v\n%s", err, &v.log)
	}
	if err := json.Unmarshal(line, &v.conn); err != nil {
		t.Fatalf("%v in %s", err, line)
	}
	go io.Copy(io.Discard, out)
	return v
}

// request is what the script wants to happen.
type request struct {
	Do         string
	Device     string
	Body       string
	Count      int
	Properties map[string]string
}

func (v *installation) carryOut(ctx context.Context, r request) (answer map[string]any, err error) {
	answer = map[string]any{"ok": true}
	switch r.Do {
	case "create":
		err = v.create(ctx)
		answer["device"], answer["others"] = device, others
	case "connect":
		err = v.connect()
	case "telemetry":
		var ps []bag.Property
		for name, value := range r.Properties {
			ps = append(ps, bag.Property{Name: name, Value: value})
		}
		err = v.publish(ps, []byte(r.Body), r.Count)
	case "report":
		v.rid++
		err = wait(v.mqtt.Publish("$iothub/twin/PATCH/properties/reported/?$rid="+strconv.Itoa(v.rid), 0, false, r.Body))
	case "security":
		err = v.publish([]bag.Property{{Name: "mti", Value: "2.3-1-0-0"}, {Name: "$.ifid", Value: iot.SecurityInterface}}, flow(), 1)
	case "agent": // a security message in JSON
		err = v.publish([]bag.Property{{Name: "$.ifid", Value: iot.SecurityInterface}}, []byte(r.Body), 1)
	case "feed": // one whose file is not there
		_, err = v.command(ctx, "intel", "feed", "add", "broken", "--file", "absent.txt", "--header", "Auth-Key: s3cret")
	case "exports": // one that works, and one that nobody listens to
		if _, err = v.command(ctx, "export", "create", "disk", "--kind", "files"); err == nil {
			_, err = v.command(ctx, "export", "create", "nobody", "--kind", "webhook", "--url", "https://127.0.0.1:1/s3cret", "--token", "s3cret", "--from", "beginning")
		}
	case "disconnect":
		v.mqtt.Disconnect(100)
	case "delete":
		_, err = v.command(ctx, "device", "delete", r.Device)
	case "done":
	default:
		err = errors.New("unknown request " + r.Do)
	}
	return answer, err
}

// command runs the operator's command line.
func (v *installation) command(ctx context.Context, args ...string) ([]byte, error) {
	c := exec.CommandContext(ctx, v.binary, append(args, "--data", v.data, "--output", "json")...)
	out, err := c.Output()
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil, fmt.Errorf("vauban %s: %s", strings.Join(args, " "), e.Stderr)
	}
	return out, err
}

func (v *installation) create(ctx context.Context) error {
	for _, id := range append([]string{device}, others...) {
		out, err := v.command(ctx, "device", "create", id)
		if err != nil {
			return err
		}
		var created struct{ ConnectionString string }
		if err := json.Unmarshal(out, &created); err != nil {
			return err
		}
		if id == device {
			_, text, _ := strings.Cut(created.ConnectionString, "SharedAccessKey=")
			if v.key, err = base64.StdEncoding.DecodeString(text); err != nil {
				return err
			}
		}
	}
	return nil
}

// connect is what a device does: MQTT over TLS with a shared access signature.
func (v *installation) connect() error {
	root, err := os.ReadFile(v.conn.CA)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	host := v.conn.Hub.Hostname
	v.mqtt = paho.NewClient(paho.NewClientOptions().
		AddBroker("ssl://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(v.conn.Ports.MQTT))).
		SetTLSConfig(&tls.Config{RootCAs: pool, ServerName: host, MinVersion: tls.VersionTLS12}).
		SetClientID(device).SetUsername(host + "/" + device + "/?api-version=2021-04-12").
		SetPassword(sas.Sign(host+"/devices/"+device, v.key, time.Now().Add(time.Hour), "")).
		SetProtocolVersion(4).SetAutoReconnect(false).SetConnectTimeout(patience))
	return wait(v.mqtt.Connect())
}

// publish sends the same message count times and returns when all are acknowledged.
func (v *installation) publish(properties []bag.Property, body []byte, count int) error {
	topic := "devices/" + device + "/messages/events/" + string(bag.Append(nil, properties))
	tokens := make([]paho.Token, count)
	for i := range tokens {
		tokens[i] = v.mqtt.Publish(topic, 1, false, body)
	}
	for _, token := range tokens {
		if err := wait(token); err != nil {
			return err
		}
	}
	return nil
}

// flow is the security message of a device that talked to the listed address.
func flow() []byte {
	return secmsg.AppendFlatBuffers(nil, secmsg.Report{
		Agent: "defender-iot-micro-agent", AgentVersion: "3.5.4",
		Events: []secmsg.Event{{Name: "NetworkActivity", Time: time.Now(), Interval: 10 * time.Second, Flows: []secmsg.Flow{{
			Local: netip.MustParseAddrPort("192.168.1.20:50123"), Remote: netip.MustParseAddrPort(listed + ":4444"),
			Protocol: "TCP", BytesIn: 310, BytesOut: 52000,
		}}}},
	})
}

func wait(t paho.Token) error {
	if !t.WaitTimeout(patience) {
		return errors.New("the installation does not answer in time")
	}
	return t.Error()
}

package agentd

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/agent"
	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/sdk/provisioning"
	"github.com/vauban-iot/vauban/sdk/service"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

func TestMain(m *testing.M) { apptest.Main(m) }

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := write(t, dir, "agent.toml", `
state_dir = "state"
module = "azureiotsecurity"
[identity]
connection_string_file = "cs"
[hub]
transport = "websocket"
proxy = "http://me:secret@10.0.0.1:3128"
`)
	f, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if f.StateDir != filepath.Join(dir, "state") || f.Module != agent.ModuleV1 || f.Identity.ConnectionStringFile != filepath.Join(dir, "cs") || f.LogLevel != "info" {
		t.Errorf("%+v", f)
	}
	cfg, err := f.base()
	if err != nil || !cfg.WebSocket || cfg.Proxy.Host != "10.0.0.1:3128" {
		t.Errorf("%v %v", cfg.Proxy, err)
	}
	for text, want := range map[string]string{
		"state_dir = 7":                        "bad.toml:1:",
		"nonsense = 1\n[hub]\nspeed = 2":       "bad.toml:3:1: unknown setting hub.speed",
		"":                                     "says who the agent is",
		"module = \"other\"":                   `module: "other" is not one of DefenderIotMicroAgent, azureiotsecurity`,
		"log_level = \"loud\"":                 "log_level",
		"[identity]\ncertificate_file = \"x\"": "go together",
		"[identity]\nconnection_string_file = \"x\"\n[provisioning]\nid_scope = \"0ne\"": "exclude each other",
		"[provisioning]\nid_scope = \"0ne\"":                                             "registration_id",
		"[provisioning]\nid_scope = \"0ne\"\nregistration_id = \"a\"":                    "one of key_file",
		"[hub]\nproxy = \"me:secret@x\"":                                                 "has the form http://",
		"[hub]\naddress = \"x\"":                                                         "not host:port",
		"max_queue_bytes = 5":                                                            "524288",
	} {
		_, err := Load(write(t, dir, "bad.toml", text))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	if _, err := Load(filepath.Join(dir, "none.toml")); err == nil {
		t.Error("a file that is not there was read")
	}
}

// What Microsoft's micro agent is configured with is read where there is no file of ours.
func TestLoad_MicroAgent(t *testing.T) {
	t.Parallel()
	legacy, none := t.TempDir(), filepath.Join(t.TempDir(), "agent.toml")
	if _, err := load("", none, legacy); err == nil || !strings.Contains(err.Error(), "--config") {
		t.Errorf("nothing is there: %v", err)
	}
	write(t, legacy, "connection_string.txt", "HostName=h;DeviceId=d;ModuleId=DefenderIotMicroAgent;x509=true\n")
	f, err := load("", none, legacy)
	if err != nil || f.Identity.CertificateFile != filepath.Join(legacy, "certificate_public.pem") || f.Identity.KeyFile != filepath.Join(legacy, "certificate_private.pem") || f.Hub.Transport != "mqtt" || f.StateDir != DefaultState {
		t.Errorf("%+v %v", f, err)
	}
	write(t, legacy, "connection_string.txt", "HostName=h;DeviceId=d;ModuleId=DefenderIotMicroAgent;SharedAccessKey=AAAA")
	write(t, legacy, "conf.json", `{"IothubModule_ProxyConfig":"10.0.0.1,3128,me,secret","IothubModule_TransportProtocol":"MQTT_WebSocket_Protocol","Other":1}`)
	f, err = load("", none, legacy)
	if err != nil || f.Hub.Transport != "websocket" || f.Hub.Proxy != "http://me:secret@10.0.0.1:3128" || f.Identity.CertificateFile != "" {
		t.Errorf("%+v %v", f, err)
	}
	for _, text := range []string{`{`, `{"IothubModule_TransportProtocol":"Pigeon"}`, `{"IothubModule_ProxyConfig":"10.0.0.1"}`} {
		write(t, legacy, "conf.json", text)
		if _, err := load("", none, legacy); err == nil {
			t.Errorf("%s was taken", text)
		}
	}
}

// world is a server with a device and, unless a test makes it later, its module.
type world struct {
	*apptest.Vauban
	t   *testing.T
	key string // of the device
}

func newWorld(t *testing.T) *world {
	t.Helper()
	v := apptest.Start(t)
	return &world{v, t, v.Device("pump").Authentication.SymmetricKey.PrimaryKey}
}

func (w *world) do(method, path string, body any) (id service.Identity) {
	w.t.Helper()
	match := ""
	if method == http.MethodDelete {
		match = "*"
	}
	text, err := w.Service().Do(w.t.Context(), method, path, match, nil, body)
	if err == nil && len(text) > 0 {
		err = json.Unmarshal(text, &id)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

func (w *world) module(device string) service.Identity {
	w.t.Helper()
	return w.do(http.MethodPut, service.DevicePath(device)+"/modules/"+agent.Module, map[string]string{"deviceId": device, "moduleId": agent.Module})
}

// file is a configuration for the server, with more of it.
func (w *world) file(more string) string {
	w.t.Helper()
	return write(w.t, w.t.TempDir(), "agent.toml", fmt.Sprintf("state_dir = \"state\"\n%s\n[hub]\naddress = %q\nhttps_address = %q\nca_file = %q\n",
		more, w.Address(w.Ports.MQTT), w.Address(w.Ports.HTTPS), w.CA))
}

// start runs an agent until the test ends.
func start(t *testing.T, path string) (f File, stop func()) {
	t.Helper()
	f, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, f, options{version: "1.2.3", handler: slog.DiscardHandler, first: time.Hour, again: 50 * time.Millisecond})
	}()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	return f, stop
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not happen", what)
		}
	}
}

func connected(f File, device string) func() bool {
	return func() bool {
		s, err := agent.ReadStatus(f.StateDir)
		return err == nil && s.Connected && s.Device == device && s.Module == agent.Module
	}
}

// An agent that holds its device's key reads the module's with it, keeps it, and asks again when the hub no longer takes it.
func TestRun_DeviceIdentity(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	path := w.file("[identity]\nconnection_string_file = \"cs\"")
	write(t, filepath.Dir(path), "cs", fmt.Sprintf("HostName=%s;DeviceId=pump;SharedAccessKey=%s", w.Hub.Hostname, w.key))
	f, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	// Nothing is made silently.
	if _, derived, err := f.identify(t.Context(), false); !derived || err == nil || !strings.Contains(err.Error(), "vauban module create pump DefenderIotMicroAgent") {
		t.Fatalf("without a module: %v", err)
	}
	f, stop := start(t, path)
	w.module("pump") // and then it goes on by itself
	eventually(t, "the connection", connected(f, "pump"))
	stop()
	info, err := os.Stat(filepath.Join(f.StateDir, "identity.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("what is kept: %v %v", info, err)
	}
	// A key that is kept serves a start without HTTPS; one that is no longer good is asked for again.
	w.do(http.MethodDelete, service.DevicePath("pump")+"/modules/"+agent.Module, nil)
	w.module("pump")
	_, stop = start(t, path)
	eventually(t, "the connection with the new key", connected(f, "pump"))
	stop()
	wrong := base64.StdEncoding.EncodeToString(make([]byte, 32))
	write(t, filepath.Dir(path), "cs", fmt.Sprintf("HostName=%s;DeviceId=pump;SharedAccessKey=%s", w.Hub.Hostname, wrong))
	if _, _, err := f.identify(t.Context(), false); err == nil || !strings.Contains(err.Error(), "refuses the credentials of device pump") || strings.Contains(err.Error(), wrong) {
		t.Errorf("with a wrong key: %v", err)
	}
}

func TestRun_ModuleIdentity(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.module("pump")
	path := w.file("[identity]\nconnection_string_file = \"cs\"")
	write(t, filepath.Dir(path), "cs", fmt.Sprintf("HostName=%s;DeviceId=pump;ModuleId=%s;SharedAccessKey=%s\n", w.Hub.Hostname, agent.Module, m.Authentication.SymmetricKey.PrimaryKey))
	f, _ := start(t, path)
	eventually(t, "the connection", connected(f, "pump"))

	// The commands of people, beside the agent that runs.
	var out, errs bytes.Buffer
	if code := Main(t.Context(), "1.2.3", []string{"status", "--config", path, "--output", "json"}, &out, &errs); code != 0 {
		t.Fatalf("status: %d %s", code, errs.String())
	}
	var s agent.Status
	if err := json.Unmarshal(out.Bytes(), &s); err != nil || s.Device != "pump" || s.Version != "1.2.3" || len(s.Sources) < 9 {
		t.Errorf("status %s %v", out.String(), err)
	}
	out.Reset()
	if code := Main(t.Context(), "1.2.3", []string{"status", "--state", f.StateDir}, &out, &errs); code != 0 || !strings.Contains(strings.Join(strings.Fields(out.String()), " "), "NetworkActivity Medium 2h0m0s") {
		t.Errorf("status: %d %s %s", code, out.String(), errs.String())
	}
	out.Reset()
	if code := Main(t.Context(), "1.2.3", []string{"check-config", "--config", path}, &out, &errs); code != 0 || !strings.Contains(out.String(), "module DefenderIotMicroAgent of device pump at "+w.Hub.Hostname) {
		t.Errorf("check-config: %d %s %s", code, out.String(), errs.String())
	}
	if strings.Contains(out.String(), m.Authentication.SymmetricKey.PrimaryKey) {
		t.Error("check-config shows the key")
	}
}

const groupKey = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw=="

func TestRun_Provisioned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dps, err := provisioning.New(provisioning.Config{ConnectionString: w.DPS.ConnectionString, TLS: w.TLS(), Address: w.Address(w.Ports.HTTPS)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dps.Close() })
	body := fmt.Sprintf(`{"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":%q,"secondaryKey":%q}}}`, groupKey, groupKey)
	if _, err := dps.Do(t.Context(), http.MethodPut, provisioning.GroupPath("g"), "", []byte(body)); err != nil {
		t.Fatal(err)
	}
	path := w.file(fmt.Sprintf("[provisioning]\nendpoint = %q\naddress = %q\nid_scope = %q\nregistration_id = \"valve-1\"\ngroup_key_file = \"key\"", w.DPS.Hostname, w.Address(w.Ports.MQTT), w.DPS.IDScope))
	write(t, filepath.Dir(path), "key", groupKey+"\n")
	f, _ := start(t, path)
	// Provisioning makes the device; the module is an operator's matter.
	eventually(t, "the device", func() bool { _, err := w.Service().Device(t.Context(), "valve-1"); return err == nil })
	w.module("valve-1")
	eventually(t, "the connection", connected(f, "valve-1"))
}

// What once prints is what would be sent.
func TestOnce(t *testing.T) {
	t.Parallel()
	var out, errs bytes.Buffer
	if code := Main(t.Context(), "1.2.3", []string{"once", "--watch", "0s", "--output", "json"}, &out, &errs); code != 0 {
		t.Fatalf("%d %s", code, errs.String())
	}
	var one bytes.Buffer
	if err := json.Compact(&one, out.Bytes()); err != nil {
		t.Fatal(err)
	}
	var r struct {
		Agent  string `json:"security_module_id"`
		Events []struct {
			Type string `json:"payload_type"`
		} `json:"events"`
	}
	if err := json.Unmarshal(one.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if one.Len() < secmsg.MaxSize {
		if _, err := secmsg.Decode(secmsg.IndicatorJSON, one.Bytes()); err != nil {
			t.Error(err)
		}
	}
	seen := map[string]bool{}
	for _, e := range r.Events {
		seen[e.Type] = true
	}
	if r.Agent != agent.Module || !seen["SystemInformation"] || !seen["LocalUsers"] {
		t.Errorf("agent %q, events %v", r.Agent, seen)
	}
}

func TestMain_Misuse(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"run", "--nonsense"}, {"status", "--output", "xml"}, {"run", "extra"}} {
		var out, errs bytes.Buffer
		if code := Main(t.Context(), "1", args, &out, &errs); code != exitMisuse {
			t.Errorf("%q: code %d, %s", args, code, errs.String())
		}
	}
	var out, errs bytes.Buffer
	if code := Main(t.Context(), "1", []string{"status", "--state", t.TempDir()}, &out, &errs); code != exitFailed || !strings.Contains(errs.String(), "no agent runs") {
		t.Errorf("status of none: %d %s", code, errs.String())
	}
}

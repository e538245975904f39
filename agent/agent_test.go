package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"crypto/tls"
	"crypto/x509"

	"github.com/vauban-iot/vauban/agent"
	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/agent/config"
	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/sdk/device"
	"github.com/vauban-iot/vauban/sdk/service"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// helper is the environment variable that makes this test binary an agent, which another test kills.
const helper = "VAUBAN_TEST_AGENT"

func TestMain(m *testing.M) {
	if text := os.Getenv(helper); text != "" {
		beAgent(text)
	}
	apptest.Main(m)
}

// world is a server with a device and a module of it.
type world struct {
	*apptest.Vauban
	t       *testing.T
	module  string
	connstr string
}

func newWorld(t *testing.T, module string) *world {
	t.Helper()
	v := apptest.Start(t)
	v.Device("pump")
	w := &world{Vauban: v, t: t, module: module}
	text, err := v.Service().Do(t.Context(), http.MethodPut, service.DevicePath("pump")+"/modules/"+module, "", nil, map[string]string{"deviceId": "pump", "moduleId": module})
	if err != nil {
		t.Fatal(err)
	}
	var id service.Identity
	if err := json.Unmarshal(text, &id); err != nil {
		t.Fatal(err)
	}
	w.connstr = fmt.Sprintf("HostName=%s;DeviceId=pump;ModuleId=%s;SharedAccessKey=%s", v.Hub.Hostname, module, id.Authentication.SymmetricKey.PrimaryKey)
	return w
}

func (w *world) twin() (doc struct {
	Properties struct{ Desired, Reported json.RawMessage }
}) {
	w.t.Helper()
	text, err := w.Service().Do(w.t.Context(), http.MethodGet, "/twins/pump/modules/"+w.module, "", nil, nil)
	if err == nil {
		err = json.Unmarshal(text, &doc)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return doc
}

func (w *world) desire(text string) {
	w.t.Helper()
	if _, err := w.Service().Do(w.t.Context(), http.MethodPatch, "/twins/pump/modules/"+w.module, "", nil, []byte(`{"properties":{"desired":`+text+`}}`)); err != nil {
		w.t.Fatal(err)
	}
}

// events are what Defender has of the module, by the operator's API.
func (w *world) events(name string) []record.Row {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, "https://"+w.Address(w.Ports.HTTPS)+"/api/security-events?device=pump&name="+name, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.API.Token)
	res, err := w.HTTP().Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	var list struct{ Events []record.Row }
	if err == nil {
		err = json.Unmarshal(text, &list)
	}
	if err != nil {
		w.t.Fatalf("%s: %v", text, err)
	}
	return list.Events
}

// waitFor waits for an event with a text in its details.
func (w *world) waitFor(name, text string) record.Row {
	w.t.Helper()
	var found record.Row
	eventually(w.t, name+" with "+text, func() bool {
		i := slices.IndexFunc(w.events(name), func(r record.Row) bool { return strings.Contains(string(r.Details), text) })
		if i >= 0 {
			found = w.events(name)[i]
		}
		return i >= 0
	})
	return found
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not happen", what)
		}
	}
}

func (w *world) config(dir string) agent.Config {
	return agent.Config{
		Dir: dir, Device: device.Config{ConnectionString: w.connstr, TLS: w.TLS(), Address: w.Address(w.Ports.MQTT), MinBackoff: 10 * time.Millisecond, MaxBackoff: 100 * time.Millisecond},
		Version: "1.2.3", First: 10 * time.Millisecond, Sources: func(config.Settings) []agent.Source { return nil }, Logger: slog.New(slog.DiscardHandler),
	}
}

// run runs an agent until the test ends, or until stop is called.
func run(t *testing.T, cfg agent.Config) (a *agent.Agent, stop func()) {
	t.Helper()
	a, err := agent.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return a, stop
}

// processes is a watcher that sees what a test puts into it.
type processes chan collect.Observation

func (p processes) Run(ctx context.Context, emit func(collect.Observation)) error {
	for {
		select {
		case o := <-p:
			emit(o)
		case <-ctx.Done():
			return nil
		}
	}
}
func (processes) Source() string { return "a test" }

// packages is a snapshot of one package, whose name is the text.
type packages string

func (p packages) Take(context.Context) ([]collect.Observation, error) {
	return []collect.Observation{{Event: "SBoM", Time: time.Now(), Hits: 1, Item: secmsg.Package{Name: string(p), Version: "1", Type: "deb"}}}, nil
}

func TestAgent(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-15")
	w := newWorld(t, agent.Module)
	seen := make(processes)
	cfg := w.config(t.TempDir())
	var settings []config.Settings // each time collectors were made; only read when the agent is over
	cfg.Sources = func(s config.Settings) []agent.Source {
		settings = append(settings, s)
		return []agent.Source{{Name: config.Process, Watcher: seen}, {Name: config.SBoM, Snapshot: packages("busybox")}}
	}
	_, stop := run(t, cfg)

	// Snapshots, the heartbeat, and what is reported of a twin that says nothing.
	w.waitFor("SBoM", `"busybox"`)
	beat := w.waitFor("Heartbeat", "")
	if beat.ModuleID != agent.Module || beat.AgentVersion != "1.2.3" {
		t.Errorf("heartbeat %+v", beat)
	}
	reported := func(want string) {
		t.Helper()
		eventually(t, "reporting "+want, func() bool { return strings.Contains(string(w.twin().Properties.Reported), want) })
	}
	reported(`"latest_state":"success"`)

	// On a change, what was gathered is sent at once, counted by key.
	for range 3 {
		seen <- collect.Observation{Event: "Process", Key: "sh -c x", Time: time.Now(), Hits: 2, Item: secmsg.Process{CommandLine: "sh -c x", EventType: "EXEC"}}
	}
	w.desire(`{"CollectorsCore_PriorityIntervals":"1,2,4","Process_CacheSize":2,"SomethingElse":1}`)
	if r := w.waitFor("Process", `"sh -c x"`); !strings.Contains(string(r.Details), `"hit_count":6`) {
		t.Errorf("details %s", r.Details)
	}
	eventually(t, "the new intervals", func() bool {
		s, err := agent.ReadStatus(cfg.Dir)
		return err == nil && len(s.Sources) == 4 && slices.ContainsFunc(s.Sources, func(s agent.SourceStatus) bool {
			return s.Name == config.Process && s.Every == "2m0s" && s.From == "a test" && s.Priority == "Medium"
		})
	})

	// Invalid: what was in force stays.
	w.desire(`{"Process_Mode":9,"Process_CacheSize":"x","SBoM_Disabled":true}`)
	reported(`"latest_state":"failed"`)
	reported(`"latest_invalid_fields":"Process_CacheSize,Process_Mode"`)
	w.desire(`{"Process_Mode":null,"Process_CacheSize":3,"SBoM_Disabled":null}`)
	reported(`"latest_state":"success"`)
	if got := string(w.twin().Properties.Reported); strings.Contains(got, "latest_invalid_fields\":\"") {
		t.Errorf("reported %s", got)
	}
	// A collector that is disabled stands still; the cache is bounded.
	for i := range 5 {
		seen <- collect.Observation{Event: "Process", Key: fmt.Sprint(i), Time: time.Now(), Hits: 1, Item: secmsg.Process{CommandLine: fmt.Sprintf("run %d.", i), EventType: "EXEC"}}
	}
	w.desire(`{"Process_Disabled":true}`)
	w.waitFor("Process", `"run 4."`)
	for _, r := range w.events("Process") {
		if strings.Contains(string(r.Details), `"run 1."`) {
			t.Errorf("more than the cache holds was sent: %s", r.Details)
		}
	}
	eventually(t, "the end of the collector", func() bool {
		s, err := agent.ReadStatus(cfg.Dir)
		return err == nil && len(s.Sources) == 3
	})
	// A second agent in the folder is refused, and this one goes on.
	other, err := agent.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Run(t.Context()); !errors.Is(err, agent.ErrRunning) {
		t.Errorf("a second agent: %v", err)
	}
	stop()
	if _, err := agent.ReadStatus(cfg.Dir); !errors.Is(err, agent.ErrNotRunning) {
		t.Errorf("status of none: %v", err)
	}
	if s := settings[1]; s.Intervals[config.High] != time.Minute || s.CacheSize[config.Process] != 2 {
		t.Errorf("settings %+v", s)
	}
	// It starts as it was configured, before it has heard anything.
	w.Stop()
	settings = nil
	_, stop = run(t, cfg)
	eventually(t, "the start", func() bool { _, err := agent.ReadStatus(cfg.Dir); return err == nil })
	stop()
	if s := settings[0]; s.Intervals[config.High] != time.Minute || s.Collectors[config.Process].Priority != config.Off {
		t.Errorf("settings without a network %+v", s)
	}
}

func TestAgent_V1(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-14")
	w := newWorld(t, agent.ModuleV1)
	w.desire(`{"` + config.Section + `":{"hubResourceId":{"value":"/the/hub"},"eventPriorityOSBaseline":{"value":"Off"}}}`)
	cfg := w.config(t.TempDir())
	cfg.Sources = func(config.Settings) []agent.Source {
		return []agent.Source{{Name: config.SBoM, Snapshot: packages("busybox")}, {Name: config.Baseline, Snapshot: packages("never")}}
	}
	run(t, cfg)
	w.waitFor("SBoM", `"busybox"`)
	value := func(name string) any {
		t.Helper()
		var doc map[string]map[string]struct{ Value any }
		var all map[string]json.RawMessage
		if err := json.Unmarshal(w.twin().Properties.Reported, &all); err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(map[string]json.RawMessage{config.Section: all[config.Section]})
		if err == nil && all[config.Section] != nil {
			err = json.Unmarshal(text, &doc)
		}
		if err != nil {
			t.Fatal(err)
		}
		return doc[config.Section][name].Value
	}
	// The whole effective section: what is desired, and defaults.
	eventually(t, "the report", func() bool { return value("hubResourceId") == "/the/hub" })
	for name, want := range map[string]any{"highPriorityMessageFrequency": "PT7M", "snapshotFrequency": "PT13H", "eventPriorityOSBaseline": "Off", "eventPriorityLogin": "High", "maxMessageSizeInBytes": 204800.0, "aggregationEnabledProcessCreate": true} {
		if got := value(name); got != want {
			t.Errorf("%s is reported as %v, want %v", name, got, want)
		}
	}
	w.desire(`{"` + config.Section + `":{"snapshotFrequency":{"value":"PT1H"},"maxMessageSizeInBytes":{"value":"much"}}}`)
	eventually(t, "the change", func() bool { return value("snapshotFrequency") == "PT1H" })
	r := w.waitFor("ConfigurationError", `"maxMessageSizeInBytes"`)
	for _, want := range []string{`"ErrorType":"TypeMismatch"`, `"UsedConfiguration":"204800"`} {
		if !strings.Contains(string(r.Details), want) {
			t.Errorf("%s lacks %s", r.Details, want)
		}
	}
	tw := w.twin().Properties
	if got, err := config.Differences(tw.Desired, tw.Reported); err != nil || !slices.Equal(got, []string{"maxMessageSizeInBytes"}) {
		t.Errorf("differences %q, %v", got, err)
	}
	if s, err := agent.ReadStatus(cfg.Dir); err != nil || slices.ContainsFunc(s.Sources, func(s agent.SourceStatus) bool { return s.Name == config.Baseline }) {
		t.Errorf("the baseline is off: %+v, %v", s.Sources, err)
	}
	if n := len(slices.DeleteFunc(w.events("SBoM"), func(r record.Row) bool { return !strings.Contains(string(r.Details), "busybox") })); n != 1 {
		t.Errorf("a snapshot was taken %d times", n)
	}
}

// beAgent runs the agent that text describes until it is killed.
func beAgent(text string) {
	var in struct{ Dir, ConnectionString, Address, CA, Package string }
	if err := json.Unmarshal([]byte(text), &in); err != nil {
		panic(err)
	}
	pem, err := os.ReadFile(in.CA)
	if err != nil {
		panic(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	a, err := agent.New(agent.Config{
		Dir: in.Dir, First: 10 * time.Millisecond, Version: "1.2.3", Logger: slog.New(slog.DiscardHandler),
		Device: device.Config{ConnectionString: in.ConnectionString, Address: in.Address, TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}},
		Sources: func(config.Settings) []agent.Source {
			return []agent.Source{{Name: config.SBoM, Snapshot: packages(in.Package)}}
		},
	})
	if err == nil {
		err = a.Run(context.Background())
	}
	panic(err)
}

// What was gathered without a network is sent after kill -9, by the next agent.
func TestAgent_Killed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, agent.Module)
	dir := t.TempDir()
	address, ca := w.Address(w.Ports.MQTT), w.CA
	w.Stop()
	start := func(name string) *exec.Cmd {
		t.Helper()
		text, err := json.Marshal(map[string]string{"Dir": dir, "ConnectionString": w.connstr, "Address": address, "CA": ca, "Package": name})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), helper+"="+string(text))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
		})
		return cmd
	}
	cmd := start("first")
	eventually(t, "the queue", func() bool {
		s, err := agent.ReadStatus(dir)
		return err == nil && s.Queued > 0 && !s.Connected && slices.ContainsFunc(s.Sources, func(s agent.SourceStatus) bool { return s.Name == config.SBoM && !s.Last.IsZero() })
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	w.Start()
	start("second")
	defer func() {
		s, err := agent.ReadStatus(dir)
		t.Logf("%+v %v", s, err)
	}()
	w.waitFor("SBoM", `"first"`)
	w.waitFor("SBoM", `"second"`)
	eventually(t, "an empty queue", func() bool {
		s, err := agent.ReadStatus(dir)
		return err == nil && s.Queued == 0 && s.Connected && s.Sent >= 2
	})
}

func TestNew_Refuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ connstr, want string }{
		{"HostName=h;DeviceId=pump;SharedAccessKey=AAAA", "vauban module create pump DefenderIotMicroAgent"},
		{"HostName=h;DeviceId=pump;ModuleId=other;SharedAccessKey=AAAA", "vauban module create pump DefenderIotMicroAgent"},
		{"HostName=h;DeviceId=pump;ModuleId=DefenderIotMicroAgent", "SharedAccessKey"},
	} {
		_, err := agent.New(agent.Config{Device: device.Config{ConnectionString: tt.connstr}})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.connstr, err)
		}
	}
}

// A module that does not exist is not made: the agent says who does it.
func TestAgent_NoModule(t *testing.T) {
	t.Parallel()
	w := newWorld(t, agent.Module)
	if _, err := w.Service().Do(t.Context(), http.MethodDelete, service.DevicePath("pump")+"/modules/"+agent.Module, "*", nil, nil); err != nil {
		t.Fatal(err)
	}
	cfg := w.config(t.TempDir())
	run(t, cfg)
	eventually(t, "the hint", func() bool {
		s, err := agent.ReadStatus(cfg.Dir)
		return err == nil && strings.Contains(s.ConnectionError, "vauban module create pump DefenderIotMicroAgent")
	})
	if _, err := w.Service().Do(t.Context(), http.MethodGet, service.DevicePath("pump")+"/modules/"+agent.Module, "", nil, nil); err == nil {
		t.Error("the module is back")
	}
}

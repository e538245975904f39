package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/board/firmware/quickstart"
	"github.com/vauban-iot/vauban/rtos"
	"github.com/vauban-iot/vauban/rtos/trace"
	"github.com/vauban-iot/vauban/sdk/provisioning"
)

// boardLine is a line of `vauban board run --output json`.
type boardLine struct {
	Event, Board, Text, Error, Pin, Cable string
	On                                    bool
	Status, Sent, Connected, Resets       int
	Uptime                                float64
	Time                                  time.Time
	Body                                  map[string]float64
}

func boardLines(t *testing.T, out string) []boardLine {
	t.Helper()
	var lines []boardLine
	for text := range strings.Lines(out) {
		var l boardLine
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		lines = append(lines, l)
	}
	return lines
}

func countEvents(lines []boardLine, event string) (n int) {
	for _, l := range lines {
		if l.Event == event {
			n++
		}
	}
	return n
}

// runBoard runs the command until it ends.
func runBoard(ctx context.Context, stdin io.Reader, stdout io.Writer, args ...string) (code int, stderr string) {
	var errs bytes.Buffer
	root := New(stdin, stdout, &errs)
	root.SetArgs(append([]string{"board", "run"}, args...))
	return Code(root.ExecuteContext(ctx), &errs), errs.String()
}

func TestBoardRun_VirtualTime(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	file := filepath.Join(t.TempDir(), "board.trx")
	var out bytes.Buffer
	code, errs := runBoard(t.Context(), strings.NewReader(""), &out, "--data", v.Dir, "--speed", "max", "--duration", "10m", "--seed", "3", "--trace", file, "--output", "json")
	if code != exitOK || errs != "" {
		t.Fatalf("%d: %s", code, errs)
	}
	lines := boardLines(t, out.String())
	last := lines[len(lines)-1]
	if countEvents(lines, "sent") != 59 || last.Event != "end" || last.Sent != 59 || last.Connected != 1 || last.Resets != 0 || last.Uptime < 600 || last.Uptime > 600.1 {
		t.Errorf("%d messages; at the end %+v", countEvents(lines, "sent"), last)
	}
	if late := time.Since(last.Time); late < 0 || late > 5*time.Minute {
		t.Errorf("the board's time ended %v ago", late)
	}
	if countEvents(lines, "console") < 59 {
		t.Error("the console is not shown")
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	events, err := trace.Parse(data)
	if err != nil || len(events.Events) < 500 {
		t.Errorf("the trace: %v", err)
	}
	twin, err := v.Service().Twin(t.Context(), "stm32l475-1")
	if err != nil || !strings.Contains(string(twin), `"modelId":"dtmi:azurertos:devkit:gsgstml4s5;2"`) {
		t.Errorf("the twin of the device that was made: %s, %v", twin, err)
	}
	// As text, and the device that exists is taken.
	out.Reset()
	code, errs = runBoard(t.Context(), strings.NewReader(""), &out, "--data", v.Dir, "--speed", "max", "--duration", "1m", "--seed", "3")
	for _, text := range []string{"IP address: 10.0.1.0/16\n", "Model id: dtmi:azurertos:devkit:gsgstml4s5;2\n", "stm32l475-1 ran for 1m0s: messages 5, connections 1, losses 0, resets 0"} {
		if code != exitOK || !strings.Contains(out.String(), text) {
			t.Errorf("%d: %s without %q: %s", code, out.String(), text, errs)
		}
	}
}

// screen is a terminal that a test reads while the command writes.
type screen struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func (s *screen) await(t *testing.T, text string, times int) {
	t.Helper()
	for end := time.Now().Add(40 * time.Second); strings.Count(s.String(), text) < times; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%q did not come %d times:\n%s", text, times, s.String())
		}
	}
}

func TestBoardRun_RealTime(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	const groupKey = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw=="
	dps, err := provisioning.New(provisioning.Config{ConnectionString: v.DPS.ConnectionString, TLS: v.TLS(), Address: v.Address(v.Ports.HTTPS)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dps.Close() })
	body := `{"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"` + groupKey + `","secondaryKey":"` + groupKey + `"}}}`
	if _, err := dps.Do(t.Context(), http.MethodPut, provisioning.GroupPath("g"), "", []byte(body)); err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"facade", "netstack"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			stdin, keys := io.Pipe()
			defer keys.Close()
			ctx, interrupt := context.WithCancel(t.Context())
			defer interrupt()
			var out screen
			type ended struct {
				code int
				errs string
			}
			done := make(chan ended, 1)
			go func() {
				code, errs := runBoard(ctx, stdin, &out, "--data", v.Dir, "--network", network, "--interval", "1s", "--id-scope", v.DPS.IDScope, "--registration-id", network, "--group-key", groupKey)
				done <- ended{code, errs}
			}()
			out.await(t, "Telemetry message sent", 2)
			if r, err := v.Service().InvokeMethod(t.Context(), network, "setLedState", json.RawMessage("true"), 30*time.Second, 0); err != nil || r.Status != http.StatusOK {
				t.Errorf("setLedState: %+v, %v", r, err)
			}
			out.await(t, "[LED2 on PB14 is on]", 1)
			io.WriteString(keys, strings.Repeat("a cat on the keyboard ", 10_000)+"\nn\n")
			out.await(t, "[the cable is out]", 1)
			out.await(t, "The connection is lost", 1)
			io.WriteString(keys, "n\n")
			out.await(t, "SUCCESS: connected to the hub", 2)
			io.WriteString(keys, "r\n")
			out.await(t, "last reset: reset pin", 1)
			out.await(t, "SUCCESS: connected to the hub", 3)
			interrupt()
			if e := <-done; e.code != exitOK || e.errs != "" {
				t.Errorf("it ended with %d: %s", e.code, e.errs)
			}
			if text := out.String(); !strings.Contains(text, network+" ran for ") || !strings.Contains(text, "connections 3, ") {
				t.Errorf("at its end it says:\n%s", text[max(0, len(text)-300):])
			}
		})
	}
}

func TestBoardRun_Crash(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	for _, asJSON := range []bool{false, true} {
		var out, errs bytes.Buffer
		c := boardRun()
		c.SetIn(strings.NewReader(""))
		c.SetOut(&out)
		c.SetContext(t.Context())
		b := boardFlags{data: v.Dir, device: "lamp", network: "facade", speed: "max", duration: time.Minute, interval: 10 * time.Second, trace: filepath.Join(t.TempDir(), "crash.trx")}
		cfg, err := b.config(c)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Firmware.Define = func(k *rtos.Kernel, _ *quickstart.Device) {
			k.CreateThread(new(rtos.Thread), rtos.ThreadConfig{Name: "App", Stack: k.Reserve(1024), Priority: 12, Start: rtos.AutoStart, Entry: func(uint32) {
				k.Sleep(500)
				panic("the app is broken")
			}})
		}
		err = b.run(c, cfg, &terminal{w: &out, json: asJSON, name: cfg.Name})
		if code := Code(err, &errs); code != exitFound || !strings.Contains(errs.String(), "the app is broken") {
			t.Errorf("%d: %s", code, errs.String())
		}
		if !asJSON {
			if text := out.String(); !strings.Contains(text, "thread App, stack ") || !strings.Contains(text, "Azure IoT Client") || !strings.Contains(text, "lamp ran for 5.") {
				t.Errorf("it says:\n%s", text)
			}
			continue
		}
		crash := struct {
			Event  string
			Report struct{ Thread, Value string }
		}{}
		for text := range strings.Lines(out.String()) {
			if strings.Contains(text, `"event":"crash"`) {
				if err := json.Unmarshal([]byte(text), &crash); err != nil {
					t.Fatal(err)
				}
			}
		}
		if crash.Report.Thread != "App" || crash.Report.Value != "the app is broken" {
			t.Errorf("the report is %+v in\n%s", crash, out.String())
		}
		if data, err := os.ReadFile(b.trace); err != nil {
			t.Error(err)
		} else if _, err := trace.Parse(data); err != nil {
			t.Error(err)
		}
	}
}

func TestBoardRun_Refuses(t *testing.T) {
	t.Parallel()
	const text = "HostName=localhost;DeviceId=d;SharedAccessKey=a2V5"
	for name, tt := range map[string]struct {
		args []string
		want string
		code int
	}{
		"no installation":         {[]string{"--data", t.TempDir()}, "vauban up", exitFailed},
		"two identities":          {[]string{"--connection-string", text, "--id-scope", "1", "--registration-id", "r"}, "none of the others can be", exitMisuse},
		"a broken string":         {[]string{"--connection-string", "HostName"}, "--connection-string", exitMisuse},
		"a scope alone":           {[]string{"--id-scope", "1"}, "registration-id", exitMisuse},
		"no key":                  {[]string{"--id-scope", "1", "--registration-id", "r"}, "one of --key", exitMisuse},
		"a key alone":             {[]string{"--key", "a2V5"}, "go with --id-scope", exitMisuse},
		"no such network":         {[]string{"--network", "wifi"}, "want facade or netstack", exitMisuse},
		"no such speed":           {[]string{"--speed", "100"}, "want real or max", exitMisuse},
		"no such TLS":             {[]string{"--tls", "1.0"}, "--tls", exitMisuse},
		"packets in virtual time": {[]string{"--speed", "max", "--duration", "1s", "--network", "netstack"}, "real time", exitMisuse},
		"virtual time for ever":   {[]string{"--speed", "max"}, "--duration", exitMisuse},
		"half a second":           {[]string{"--interval", "500ms"}, "whole seconds", exitMisuse},
		"no time":                 {[]string{"--epoch", "yesterday"}, "2031-02-03", exitMisuse},
		"before it begins":        {[]string{"--duration", "-1s"}, "not negative", exitMisuse},
		"a time long ago":         {[]string{"--epoch", "0001-01-01T00:00:00Z"}, "the year 2000", exitMisuse},
		"no name":                 {[]string{"--device", ""}, "--device", exitMisuse},
		"no port":                 {[]string{"--connection-string", text, "--address", "nonsense"}, "--address is host:port", exitMisuse},
		"no base64":               {[]string{"--id-scope", "1", "--registration-id", "r", "--dps-host", "localhost", "--group-key", "no key"}, "are base64", exitMisuse},
		"no such certificate":     {[]string{"--connection-string", "HostName=localhost;DeviceId=d;x509=true", "--cert", "missing.pem", "--cert-key", "missing.key"}, "missing.pem", exitFailed},
		"nowhere for a trace":     {[]string{"--connection-string", text, "--trace", "missing/t.trx"}, "missing/t.trx cannot be written", exitFailed},
		"a folder as a trace":     {[]string{"--connection-string", text, "--trace", t.TempDir()}, "name a file", exitFailed},
		"no such CA":              {[]string{"--connection-string", text, "--ca", "missing.pem"}, "missing.pem", exitFailed},
		"packets to an address":   {[]string{"--connection-string", strings.Replace(text, "localhost", "127.0.0.1", 1), "--network", "netstack"}, "needs its platform to have a name", exitFailed},
		"packets to elsewhere":    {[]string{"--connection-string", text, "--address", "192.0.2.1:8883", "--network", "netstack"}, "not on this machine's loopback", exitFailed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			code, errs := runBoard(t.Context(), strings.NewReader(""), &out, tt.args...)
			if code != tt.code || !strings.Contains(errs, tt.want) {
				t.Errorf("%d: %s", code, errs)
			}
		})
	}
}

// Nothing of a console's line is lost, however long it is.
func TestTerminal_LongLines(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	term := &terminal{w: &out, json: true, name: "b"}
	text := strings.Repeat("0123456789", 1000)
	term.console([]byte(text + "\r\n"))
	got := ""
	for line := range strings.Lines(out.String()) {
		var e struct{ Text string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		got += e.Text
	}
	if got != text {
		t.Errorf("%d of %d bytes are there", len(got), len(text))
	}
}

// What a hub says through a board's console does nothing to the terminal.
func TestBoardRun_HostileConsole(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	term := &terminal{w: &out, name: "lamp"}
	for _, part := range []string{"Received command: \x1b]0;owned\a\x1b[2J\x9b1m\x7f\t\xc3", "\xbc\xe2\x82", "\xac\xc2", "\x9b\r\n"} {
		term.console([]byte(part))
	}
	if got, want := out.String(), "Received command: \uFFFD]0;owned\uFFFD\uFFFD[2J\uFFFD1m\uFFFD\tü€\uFFFD\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

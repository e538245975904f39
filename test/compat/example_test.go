package compat_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestExample walks the README's five minutes: examples/node-device, as it stands, with the command line.
func TestExample(t *testing.T) {
	if testing.Short() {
		t.Skip("drives npm packages; run without -short")
	}
	if _, err := os.Stat("node_modules/azure-iot-device/package.json"); err != nil {
		t.Fatalf("Azure's packages are not installed: %v; run `make deps`", err)
	}
	s := start(t, build(t))
	vauban := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), s.bin, args...)
		cmd.Env = append(os.Environ(), "VAUBAN_DATA="+s.data)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("vauban %s: %v\n%s", strings.Join(args, " "), err, stderr.Bytes())
		}
		return string(out)
	}
	var created struct{ ConnectionString string }
	if err := json.Unmarshal([]byte(vauban("device", "create", "lamp-1", "--output", "json")), &created); err != nil {
		t.Fatal(err)
	}
	modules, err := filepath.Abs("node_modules")
	if err != nil {
		t.Fatal(err)
	}
	device := exec.CommandContext(t.Context(), "node", "../../examples/node-device/device.js", created.ConnectionString)
	device.Env = append(os.Environ(), "NODE_PATH="+modules, "NODE_EXTRA_CA_CERTS="+filepath.Join(s.data, "pki", "root.pem"))
	said := &logBuffer{}
	device.Stdout, device.Stderr = said, said
	if err := device.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		device.Process.Kill()
		device.Wait()
	}()
	says := func(what string) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); !strings.Contains(said.String(), what); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the device does not say %q but:\n%s", what, said)
			}
		}
	}
	says("connected")
	vauban("twin", "update", "lamp-1", "--desired", `{"interval":1}`)
	says("interval is now 1")
	if out := vauban("method", "invoke", "lamp-1", "blink", "--payload", `{"times":3}`); out != "status 200\n{\"blinked\":3}\n" {
		t.Errorf("the method answered %q", out)
	}
	says("blink { times: 3 }")
	if out := vauban("monitor", "--device", "lamp-1", "--count", "1"); !strings.Contains(out, `lamp-1  {unit=C}  {"temperature":`) {
		t.Errorf("monitor printed %q", out)
	}
	if out := vauban("device", "list"); !strings.Contains(out, "lamp-1   Connected   enabled   sas") {
		t.Errorf("the list is %q", out)
	}
	if twin := vauban("twin", "show", "lamp-1"); !strings.Contains(twin, `"interval": 1`) {
		t.Errorf("the twin is %s", twin)
	}
}

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/sim/fleet"
)

func simulate(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	root := New(strings.NewReader(""), &out, &errs)
	root.SetArgs(append([]string{"sim"}, args...))
	code = Code(root.ExecuteContext(t.Context()), &errs)
	return code, out.String(), errs.String()
}

const twoLamps = `duration = "1m"
[[board]]
name = "lamp"
count = 2
[[fault]]
kind = "reset"
every = "20s"
`

func fleetFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fleet.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A file's problems are told with their lines and are a finding, to people and to programs.
func TestSim_Check(t *testing.T) {
	t.Parallel()
	good, bad := fleetFile(t, twoLamps), fleetFile(t, twoLamps+"often = 1\n")
	if code, out, errs := simulate(t, "check", good); code != exitOK || !strings.Contains(out, "2 boards for 1m0s: nothing is wrong") {
		t.Errorf("%d: %s%s", code, out, errs)
	}
	for _, command := range []string{"check", "run"} {
		if code, _, errs := simulate(t, command, bad); code != exitFound || !strings.Contains(errs, "fleet.toml:8: often: unknown key") {
			t.Errorf("%s: %d: %s", command, code, errs)
		}
	}
	var doc struct {
		Problems []struct {
			Line int
			Key  string
		}
	}
	code, out, errs := simulate(t, "check", bad, "--output", "json")
	if err := json.Unmarshal([]byte(out), &doc); err != nil || code != exitFound || len(doc.Problems) != 1 || doc.Problems[0].Line != 8 || doc.Problems[0].Key != "often" {
		t.Errorf("%d: %v: %s%s", code, err, out, errs)
	}
}

// What would happen is said without an installation, and --seed counts.
func TestSim_DryRun(t *testing.T) {
	t.Parallel()
	file := fleetFile(t, twoLamps)
	plans := map[string]string{}
	for _, seed := range []string{"1", "7"} {
		code, out, errs := simulate(t, "run", file, "--dry-run", "--output", "json", "--seed", seed)
		var doc struct {
			Boards []struct{ ID, Address string }
		}
		if err := json.Unmarshal([]byte(out), &doc); err != nil || code != exitOK || len(doc.Boards) != 2 || doc.Boards[1].ID != "lamp-0002" || doc.Boards[1].Address != "10.16.1.1" {
			t.Fatalf("%d: %v: %s%s", code, err, out, errs)
		}
		plans[out] = seed
	}
	if len(plans) != 2 {
		t.Error("two seeds make the same plan")
	}
	if code, out, errs := simulate(t, "run", file, "--dry-run"); code != exitOK || !strings.Contains(out, "lamp") || !strings.Contains(out, "10s") {
		t.Errorf("%d: %s%s", code, out, errs)
	}
}

// What cannot end well does not begin.
func TestSim_Refuses(t *testing.T) {
	t.Parallel()
	file := fleetFile(t, twoLamps)
	folder := filepath.Join(t.TempDir(), "x.json")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		args []string
		want string
		code int
	}{
		"no file":                {[]string{"run"}, "accepts 1 arg", exitMisuse},
		"a file that is missing": {[]string{"run", "none.toml"}, "there is no fleet file none.toml", exitFailed},
		"too many workers":       {[]string{"run", file, "--workers", "5000"}, "0 to 4096", exitMisuse},
		"no installation":        {[]string{"run", file, "--data", t.TempDir()}, "vauban up", exitFailed},
		"a report into a file":   {[]string{"run", file, "--report", file}, file, exitFailed},
		"a report onto a folder": {[]string{"run", file, "--report", folder}, "is a folder", exitFailed},
		"a report into nowhere":  {[]string{"run", file, "--report", "/proc/self/run.html"}, "cannot be written", exitFailed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if code, out, errs := simulate(t, tt.args...); code != tt.code || !strings.Contains(errs, tt.want) || out != "" {
				t.Errorf("%d: %s%s", code, out, errs)
			}
		})
	}
}

// A run against a throw-away installation leaves its report and nothing else.
func TestSim_Run(t *testing.T) {
	tmp, report := t.TempDir(), filepath.Join(t.TempDir(), "out")
	t.Setenv("TMPDIR", tmp)
	code, out, errs := simulate(t, "run", fleetFile(t, twoLamps), "--report", report, "--output", "json")
	var printed fleet.Report
	if err := json.Unmarshal([]byte(out), &printed); err != nil || code != exitOK || printed.Fleet.Telemetry == 0 || printed.Fleet.Resets == 0 || printed.Fleet.Reached != 60 {
		t.Fatalf("%d: %v: %s%s", code, err, out, errs)
	}
	var did fleet.Did
	data, err := os.ReadFile(filepath.Join(report, "fleet.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &did); err != nil || did.Counts != printed.Fleet.Counts {
		t.Errorf("%v: %+v, but %+v was printed", err, did.Counts, printed.Fleet.Counts)
	}
	for folder, want := range map[string]int{report: 3, tmp: 0} {
		if files, err := os.ReadDir(folder); err != nil || len(files) != want {
			t.Errorf("%s: %v, %v", folder, files, err)
		}
	}
}

// Who interrupts it at once is told so, and nothing is left.
func TestSim_Interrupted(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var errs bytes.Buffer
	root := New(strings.NewReader(""), io.Discard, &errs)
	root.SetArgs([]string{"sim", "run", fleetFile(t, twoLamps)})
	if code := Code(root.ExecuteContext(ctx), &errs); code != exitFailed || errs.String() != "vauban: the run was interrupted before it began\n" {
		t.Errorf("%d: %s", code, errs.String())
	}
	if files, err := os.ReadDir(tmp); err != nil || len(files) > 0 {
		t.Errorf("left are %v, %v", files, err)
	}
}

package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// One command measures the detectors on files that a user has, and says what it could not read.
func TestEvaluate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text := "#separator \\x09\n#unset_field\t-\n#fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tservice\tduration\torig_bytes\tresp_bytes\tconn_state\tlocal_orig\tlocal_resp\tmissed_bytes\thistory\torig_pkts\torig_ip_bytes\tresp_pkts\tresp_ip_bytes\ttunnel_parents   label   detailed-label\n"
	for i := range 300 {
		text += fmt.Sprintf("15454038%02d.5\tC%d\t192.168.1.195\t41040\t203.0.%d.%d\t23\ttcp\t-\t-\t-\t-\tS0\t-\t-\t0\tS\t1\t60\t0\t0\t-   Malicious   PartOfAHorizontalPortScan\n", i/10, i, i/100, 1+i%100)
	}
	file := filepath.Join(dir, "conn.log.labeled")
	if err := os.WriteFile(file, []byte(text+"broken\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		root := New(strings.NewReader(""), &out, &bytes.Buffer{})
		root.SetArgs(append([]string{"evaluate"}, args...))
		err := root.ExecuteContext(t.Context())
		return out.String(), err
	}
	out, err := run(file, file, "--output", "json")
	if err != nil {
		t.Fatal(err)
	}
	var got evaluation
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v of %s", err, out)
	}
	if len(got.Captures) != 2 || got.Total == nil || len(got.Total.Attacks) != 1 || got.Total.Attacks[0].Name != "partofahorizontalportscan" || got.Total.Attacks[0].Found != 1 {
		t.Errorf("%s", out)
	}
	out, err = run(file)
	if err != nil || !strings.Contains(out, "304 lines, 1 of them broken") || !strings.Contains(out, "the watched device is 192.168.1.195") || !strings.Contains(out, "partofahorizontalportscan  1") {
		t.Errorf("%v: %s", err, out)
	}
	for want, args := range map[string][]string{
		"name files, or give --synthetic": nil, "either --synthetic or files": {"--synthetic", file}, "is no IP address": {"--host", "x", file}, "no such file": {filepath.Join(dir, "none")},
		"a fleet has": {"--synthetic", "--days", "1"},
	} {
		if _, err := run(args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", args, err, want)
		}
	}
}

//go:build linux

package agentd

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBaselineCommand(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for p, content := range map[string]string{
		"etc/os-release": "ID=poky\nVERSION_ID=4.0\n", "etc/passwd": "root:x:0:0::/root:/bin/sh\ntoor:x:0:0::/root:/bin/sh\n", "etc/group": "root:x:0:\n",
	} {
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(p)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, p), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) (string, string, int) {
		var out, errs bytes.Buffer
		code := Main(t.Context(), "v1", append([]string{"baseline"}, args...), &out, &errs)
		return out.String(), errs.String(), code
	}
	out, errs, code := run("--root", root)
	if code != 0 || !strings.Contains(out, "CIS-poky-4.0-Users-6.2.5") || !strings.Contains(out, "toor has user id 0") || !strings.Contains(out, "checks passed (") {
		t.Errorf("%d %s\n%s", code, errs, out)
	}
	out, errs, code = run("--root", root, "--output", "json", "--custom", "/none.xml", "--custom-sha256", strings.Repeat("0", 64))
	var doc struct {
		Count   int `json:"setting_count"`
		Error   string
		Results []struct{ MSID, Result string }
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil || code != 0 {
		t.Fatalf("%d %v %s", code, err, errs)
	}
	if doc.Count != len(doc.Results) || doc.Count < 100 || !strings.Contains(doc.Error, "/none.xml was not run") {
		t.Errorf("%d of %d results, error %q", len(doc.Results), doc.Count, doc.Error)
	}
	for _, args := range [][]string{{"--output", "xml"}, {"--custom-sha256", "00"}, {"more"}} {
		if _, errs, code := run(args...); code != exitMisuse {
			t.Errorf("%q: %d %s", args, code, errs)
		}
	}
	if _, errs, code := run("--root", root+"/none"); code != exitFailed || !strings.Contains(errs, "no such file") {
		t.Errorf("no root: %d %s", code, errs)
	}
}

package export

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/defender/table"
)

func lines(n int, name table.Name) (all []item) {
	for i := range n {
		all = append(all, item{table: name, text: fmt.Appendf(nil, `{"n":%d,"pad":%q}`, i, strings.Repeat("x", 100))})
	}
	return all
}

func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func TestFiles(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 23, 59, 0, 0, time.UTC)
	dir := filepath.Join(t.TempDir(), "x")
	s := &files{dir: dir, maxBytes: 1 << 30, rotate: 1000, now: func() time.Time { return now }}
	send := func(items ...item) {
		t.Helper()
		if err := s.send(t.Context(), items); err != nil {
			t.Fatal(err)
		}
	}
	send(append(lines(3, table.Alerts), lines(2, table.RawEvents)...)...)
	send(lines(3, table.Alerts)...) // beside the first
	send(lines(6, table.Alerts)...) // no room
	now = now.Add(time.Hour)
	send(lines(1, table.Alerts)...)
	want := []string{"SecurityAlert-2026-01-02-0001.ndjson", "SecurityAlert-2026-01-02-0002.ndjson", "SecurityAlert-2026-01-03-0001.ndjson", "SecurityIoTRawEvent-2026-01-02-0001.ndjson"}
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
	// A crash left half a line; whoever reads the file meets whole ones.
	last := filepath.Join(dir, want[2])
	f, err := os.OpenFile(last, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"n":1,"pa`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	send(lines(2, table.Alerts)...)
	data, err := os.ReadFile(last)
	if err != nil || bytes.Count(data, []byte("\n")) != 3 {
		t.Errorf("%v: %s", err, data)
	}
	for line := range bytes.Lines(data) {
		if !json.Valid(line) {
			t.Errorf("no JSON: %s", line)
		}
	}
}

func TestFiles_Bound(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := &files{dir: dir, maxBytes: 5000, rotate: rotateAt, now: func() time.Time { return time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC) }}
	if err := os.WriteFile(filepath.Join(dir, "mine.txt"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if err := s.send(t.Context(), lines(5, table.Alerts)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond) // files are told apart by their age
	}
	var total int64
	all := names(t, dir)
	for _, n := range all {
		info, err := os.Stat(filepath.Join(dir, n))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(n, extension) {
			total += info.Size()
		}
	}
	if total > 5000 || total < 2500 || all[len(all)-1] != "mine.txt" || all[0] == "SecurityAlert-2026-01-02-0001.ndjson" {
		t.Errorf("%d bytes in %q", total, all)
	}
}

// Python reads what an export wrote, line by line.
func TestManager_FilesReadByPython(t *testing.T) {
	t.Parallel()
	m, store := over(t, Config{Kind: Files, From: "beginning"})
	store.raise(numbers(1, 120)...)
	store.changes[0].Description = "line\nbreak ☂ \u2028 <&>"
	runs(t, m)
	eventually(t, "the rows", func() bool { return store.state("x").Sent == 120 })
	out, err := exec.Command("/usr/bin/python3", "-c", `import sys, json, glob
rows = [json.loads(l) for f in sorted(glob.glob(sys.argv[1] + "/x/*.ndjson")) for l in open(f, encoding="utf-8", newline="\n")]
print(rows[0]["Description"] == "line\nbreak \u2602 \u2028 <&>", " ".join(r["SystemAlertId"] for r in rows))`, m.cfg.Dir).CombinedOutput()
	if want := "True " + strings.Join(numbers(1, 120), " ") + "\n"; err != nil || string(out) != want {
		t.Errorf("%v: %s", err, out)
	}
}

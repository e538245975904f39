package rooms

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite testdata/imports.txt")

const module = "github.com/vauban-iot/vauban/"

// strata from the ground up. A room may import those of its own line and of lines above it here.
var strata = [][]string{
	{"internal", "wire", "fault"},
	{"iot", "bus", "config"},
	{"access", "pki"},
	{"hub", "dps", "sphere", "defender", "rtos", "board", "agent/baseline", "agent/collect", "agent/config", "agent/gather", "agent/queue"},
	{"bus/diskbus", "bus/natsbus", "storage", "head", "sink", "sdk", "agent", "sim", "board/firmware"},
	{"central"},
	{"app"},
	{"cmd", "test"},
}

// forTests reports rooms that only tests import, such as hub/hubtest. They may build a world of anything.
func forTests(room string) bool {
	return strings.HasSuffix(room, "test") && path.Base(room) != "attest" // which is a word of its own
}

func stratum(room string) (int, bool) {
	if forTests(room) {
		return len(strata) - 1, true
	}
	best, level := "", 0
	for i, names := range strata {
		for _, n := range names {
			if (room == n || strings.HasPrefix(room, n+"/")) && len(n) > len(best) {
				best, level = n, i
			}
		}
	}
	return level, best != ""
}

// goPackage is what `go list` says of a package.
type goPackage struct {
	ImportPath string
	Doc        string
	GoFiles    []string
	Imports    []string
}

func list(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Doc,GoFiles,Imports", module+"...")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var ps []goPackage
	for dec := json.NewDecoder(out); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return ps
}

func TestImports(t *testing.T) {
	var drawing strings.Builder
	for _, p := range list(t) {
		room := strings.TrimPrefix(p.ImportPath, module)
		if len(p.GoFiles) == 0 {
			continue // tests only
		}
		if p.Doc == "" {
			t.Errorf("%s has no package comment", room)
		}
		level, ok := stratum(room)
		if !ok {
			t.Errorf("%s stands in no stratum; add it here and to docs/architecture.md", room)
		}
		var below []string
		for _, imp := range p.Imports {
			to, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			below = append(below, to)
			if l, _ := stratum(to); l > level || forTests(to) && !forTests(room) {
				t.Errorf("%s imports %s, which stands above it", room, to)
			}
			if path.Dir(to) == "app" && !strings.HasPrefix(room, "app/") && !strings.HasPrefix(room, "cmd/") {
				t.Errorf("%s imports %s; nobody below imports assembly", room, to)
			}
		}
		slices.Sort(below)
		fmt.Fprintf(&drawing, "%s\n", room)
		for _, b := range below {
			fmt.Fprintf(&drawing, "\t%s\n", b)
		}
	}
	const golden = "testdata/imports.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(drawing.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), drawing.String()); d != "" {
		t.Errorf("the rooms import each other differently than drawn; look at it, then run: go test ./internal/rooms -update\n%s", d)
	}
}

// Command report turns the output of `go test -json` into the conformance report: which items of
// the wire references' checklists are proven, by which tests (docs/conformance.md).
//
//	go test -json ./... | go run ./internal/conform/report -o docs/conformance.md
//
// It prints one line per reference, such as "HD 61/106", and exits with 1 when a test that names
// items failed, or when the tests themselves did.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/vauban-iot/vauban/internal/atomicfile"
	"github.com/vauban-iot/vauban/internal/conform"
)

func main() {
	out := flag.String("o", "", "write the whole report to this `file`")
	flag.Parse()
	r, err := read(os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
	if *out != "" {
		if err := atomicfile.Write(*out, []byte(r.markdown()), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, "report:", err)
			os.Exit(1)
		}
	}
	fmt.Print(r.summary())
	for _, f := range r.failures {
		fmt.Fprintln(os.Stderr, "report: failed:", f)
	}
	if len(r.failures) > 0 {
		os.Exit(1)
	}
}

// event is a line of `go test -json`.
type event struct{ Action, Package, Test, Output string }

// register is what the tests said.
type register struct {
	proofs   map[string][]string // item -> tests that passed
	broken   map[string][]string // item -> tests that failed
	failures []string
}

func read(in io.Reader) (*register, error) {
	r := &register{proofs: map[string][]string{}, broken: map[string][]string{}}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			continue // the go command prints build output between the events
		}
		test := strings.TrimPrefix(e.Package, "github.com/vauban-iot/vauban/") + "." + e.Test
		if e.Action == "fail" {
			r.failures = append(r.failures, strings.TrimSuffix(test, "."))
		}
		_, rest, ok := strings.Cut(e.Output, conform.Marker+" ")
		if !ok {
			continue
		}
		words := strings.Fields(rest)
		if len(words) < 2 {
			continue
		}
		for _, id := range words[1:] {
			switch words[0] {
			case "pass":
				r.proofs[id] = append(r.proofs[id], test)
			case "fail":
				r.broken[id] = append(r.broken[id], test)
			}
		}
	}
	return r, lines.Err()
}

// count returns how many items of a reference are proven.
func (r *register) count(s conform.Spec) (n int) {
	for _, it := range s.Items {
		if len(r.proofs[it.ID]) > 0 && len(r.broken[it.ID]) == 0 {
			n++
		}
	}
	return n
}

func (r *register) summary() string {
	var b strings.Builder
	for _, s := range conform.Specs() {
		fmt.Fprintf(&b, "%s %d/%d\n", s.Prefix, r.count(s), len(s.Items))
	}
	return b.String()
}

func (r *register) markdown() string {
	var b strings.Builder
	b.WriteString("# Conformance\n\nWritten by `make conformance`; do not edit. An item counts when a test that would fail without the behaviour passes.\n")
	for _, s := range conform.Specs() {
		fmt.Fprintf(&b, "\n## %s: %d of %d\n\n", s.Name, r.count(s), len(s.Items))
		var open []string
		header := false
		for _, it := range s.Items {
			proofs, broken := unique(r.proofs[it.ID]), unique(r.broken[it.ID])
			if len(proofs)+len(broken) == 0 {
				open = append(open, it.ID)
				continue
			}
			if !header {
				b.WriteString("| item | | what | proven by |\n|---|---|---|---|\n")
				header = true
			}
			state := "proven"
			if len(broken) > 0 {
				state, proofs = "**failed**", broken
			}
			fmt.Fprintf(&b, "| %s | %s | %s | `%s` |\n", it.ID, state, strings.ReplaceAll(it.Text, "|", "\\|"), strings.Join(proofs, "`, `"))
		}
		if len(open) > 0 {
			fmt.Fprintf(&b, "\nNot covered: %s.\n", strings.Join(open, ", "))
		}
	}
	b.WriteString("\n```text\n" + r.summary() + "```\n")
	return b.String()
}

func unique(tests []string) []string {
	slices.Sort(tests)
	return slices.Compact(tests)
}

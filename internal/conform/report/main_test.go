package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/internal/conform"
)

func TestRead(t *testing.T) {
	line := func(action, test, output string) string {
		return fmt.Sprintf(`{"Action":%q,"Package":"github.com/vauban-iot/vauban/hub/twin","Test":%q,"Output":%q}`, action, test, output)
	}
	r, err := read(strings.NewReader(strings.Join([]string{
		"# some/package", // build output
		line("output", "TestA", "    conform.go:31: conform: pass HD-1 HD-2\n"),
		line("output", "TestB", "    conform.go:31: conform: pass HD-2\n"),
		line("output", "TestC", "    conform.go:31: conform: fail HD-2 HD-3\n"),
		line("output", "TestD", "    conform.go:31: conform: skip HD-4\n"),
		line("fail", "TestC", ""),
		line("pass", "TestA", ""),
	}, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	total := len(conform.Specs()[0].Items)
	if want := fmt.Sprintf("HD 1/%d\n", total); !strings.HasPrefix(r.summary(), want) {
		t.Errorf("summary starts %q, want %q: HD-1 alone is proven", strings.SplitAfter(r.summary(), "\n")[0], want)
	}
	if got := r.failures; len(got) != 1 || got[0] != "hub/twin.TestC" {
		t.Errorf("failures are %q, want hub/twin.TestC", got)
	}
	md := r.markdown()
	for _, want := range []string{"| HD-1 | proven |", "`hub/twin.TestA` |", "| HD-2 | **failed** |", "| HD-3 | **failed** |", "Not covered: HD-4, HD-5,"} {
		if !strings.Contains(md, want) {
			t.Errorf("the report lacks %q", want)
		}
	}
}

func TestSpecs(t *testing.T) {
	specs := conform.Specs()
	if len(specs) != 8 {
		t.Fatalf("%d references, want 8", len(specs))
	}
	seen := map[string]bool{}
	for _, s := range specs {
		for _, it := range s.Items {
			if seen[it.ID] || it.Text == "" || !strings.HasPrefix(it.ID, s.Prefix+"-") {
				t.Errorf("%s: item %q is doubled, empty or of another reference", s.Name, it.ID)
			}
			seen[it.ID] = true
		}
	}
}

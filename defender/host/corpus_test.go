package host

import (
	_ "embed"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/defender/alert"
)

//go:embed corpus.txt
var corpusText string

func corpus() (all []example) {
	for l := range strings.Lines(corpusText) {
		l = strings.TrimSuffix(l, "\n")
		if l == "" || l[0] == '#' {
			continue
		}
		if program, line, ok := strings.Cut(l, "\t"); ok && !strings.Contains(program, " ") {
			all = append(all, example{program, line})
		} else {
			all = append(all, run(l))
		}
	}
	return all
}

func TestRules_OrdinaryLifeRaisesNothingHigh(t *testing.T) {
	t.Parallel()
	all := corpus()
	if len(all) < 300 {
		t.Fatalf("%d lines", len(all))
	}
	medium := 0
	for _, e := range all {
		for _, kind := range judged(t, e, "root") {
			switch alert.Lookup(kind).Severity {
			case alert.High:
				t.Errorf("%s by %q of %q\n%s", kind, e.line, e.program, show(e))
			case alert.Medium:
				medium++
				t.Logf("%s by %q", kind, e.line)
			}
		}
	}
	// Two lines pipe a download into a shell, and one makes a user a master of containers: those are to be told.
	if medium > 4 {
		t.Errorf("%d alerts of severity Medium", medium)
	}
}

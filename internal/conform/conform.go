// Package conform records which items of the wire references' checklists a test
// proves. A test names them with [Covers]; `make conformance` reads the lines back and
// counts (docs/conformance.md).
package conform

import (
	"strings"
	"testing"
)

// Marker starts the log line of a covered item.
const Marker = "conform:"

// Covers says that t would fail if the named items' behaviour went away.
// The line is written when the test ends, with its outcome.
func Covers(t testing.TB, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if !known(id) {
			t.Fatalf("conform.Covers: %q is in no checklist (internal/conform/items)", id)
		}
	}
	t.Cleanup(func() {
		outcome := "pass"
		switch {
		case t.Failed():
			outcome = "fail"
		case t.Skipped():
			outcome = "skip"
		}
		t.Logf("%s %s %s", Marker, outcome, strings.Join(ids, " "))
	})
}

package nearest

import (
	"fmt"
	"strings"
	"testing"
)

func TestHint(t *testing.T) {
	t.Parallel()
	words := []string{"seed", "speed", "share", "telemetry", "is"}
	for word, want := range map[string]string{
		"sed": "seed", "spee": "speed", "shere": "share", "telemtry": "telemetry", "seed": "seed",
		"": "", "x": "", "xyz": "", "telemetries-and-more": "", strings.Repeat("s", 1<<20): "",
	} {
		if want != "" {
			want = fmt.Sprintf("; did you mean %q?", want)
		}
		if got := Hint(word, words); got != want {
			t.Errorf("%.20q: %q, want %q", word, got, want)
		}
	}
}

package linefile_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/internal/linefile"
)

func TestAppend(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 200<<10)
	for name, c := range map[string]struct{ before, want string }{
		"a new file":           {"", "b\nc\n"},
		"behind lines":         {"a\n", "a\nb\nc\n"},
		"behind half a line":   {"a\nhal", "a\nb\nc\n"},
		"behind nothing whole": {"hal", "b\nc\n"},
		"behind a long rest":   {"a\n" + long, "a\nb\nc\n"},
		"behind a long line":   {long + "\n", long + "\nb\nc\n"},
		"behind an empty line": {"\n", "\nb\nc\n"},
	} {
		path := filepath.Join(t.TempDir(), "f")
		if c.before != "" {
			if err := os.WriteFile(path, []byte(c.before), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, line := range []string{"b\n", "c\n"} {
			if err := linefile.Append(path, []byte(line), 0o600); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != c.want {
			t.Errorf("%s: %d bytes, %v, want %d", name, len(got), err, len(c.want))
		}
	}
	if err := linefile.Append(filepath.Join(t.TempDir(), "absent", "f"), []byte("a\n"), 0o600); err == nil {
		t.Error("a folder that is not there was written to")
	}
}

package upload

import (
	"path"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/vauban-iot/vauban/fault"
)

// FuzzCheckName: a name that passes is a path below its device, and as it will be read everywhere.
func FuzzCheckName(f *testing.F) {
	for _, s := range []string{"a", "a/b.txt", "../a", "a/..", "a//b", "a/", "/a", ".", `a\b`, "ü", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		blob := "d/" + name
		if err := checkName(name, blob); err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("%q: %v", name, err)
			}
			return
		}
		if path.Clean(blob) != blob || !strings.HasPrefix(blob, "d/") || len(blob) < 3 || !utf8.ValidString(name) || strings.ContainsAny(name, "\x00\n\r\\") {
			t.Errorf("%q was taken", name)
		}
	})
}

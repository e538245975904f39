package sphere_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/internal/conform"
)

// tests are the names of a folder's tests.
func tests(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") {
				names[fn.Name.Name] = true
			}
		}
	}
	return names
}

// Each of the seven properties (sphere §2) has tests, and the page that says so is true.
func TestSevenProperties(t *testing.T) {
	conform.Covers(t, "SPH-32")
	page, err := os.ReadFile("../docs/seven-properties.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`([a-z/]+)\\.(Test\\w+)`")
	for n := 1; n <= 7; n++ {
		row := regexp.MustCompile(fmt.Sprintf(`(?m)^\| %d\. .*\|$`, n)).Find(page)
		all := named.FindAllSubmatch(row, -1)
		if len(all) == 0 {
			t.Errorf("property %d has no test", n)
		}
		for _, m := range all {
			if room, test := string(m[1]), string(m[2]); !tests(t, filepath.Join("..", room))[test] {
				t.Errorf("property %d: %s has no %s", n, room, test)
			}
		}
	}
}

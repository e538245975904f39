package board

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Boards repeat by their seed: they do not look at the machine's clock, draw from no source but their own, and start no goroutines.
// Real time, real entropy and what firmwares hear from outside have files of their own.
func TestSources_AreDeterministic(t *testing.T) {
	t.Parallel()
	allowed := map[string]string{"realtime.go": "time", "stm32l475/rng.go": "crypto/rand", "firmware/realtime.go": ":", "firmware/quickstart/outside.go": ":"} // ":" is everything
	files := 0
	err := filepath.WalkDir(".", func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && path == "network" {
			return fs.SkipDir // talks to the world, in its time: docs/board-network.md says what repeats
		}
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		files++
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, problem := range undetermined(t, path, src) {
			if ok := allowed[filepath.ToSlash(path)]; ok == "" || !strings.Contains(problem, ok) {
				t.Error(problem)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 20 {
		t.Errorf("only %d files were looked at", files)
	}
	bad := `package x
		import ("time"; "math/rand"; "math/rand/v2"; "crypto/rand")
		func f() { time.Now(); time.Sleep(1); time.AfterFunc(1, nil); go f(); select {}; rand.IntN(3) }`
	if got := undetermined(t, "bad.go", []byte(bad)); len(got) != 8 {
		t.Errorf("the rules find %q", got)
	}
}

func undetermined(t *testing.T, name string, src []byte) (problems []string) {
	t.Helper()
	files := token.NewFileSet()
	f, err := parser.ParseFile(files, name, src, 0)
	if err != nil {
		t.Fatal(err)
	}
	say := func(n ast.Node, what string) { problems = append(problems, files.Position(n.Pos()).String()+": "+what) }
	for _, i := range f.Imports {
		if path := strings.Trim(i.Path.Value, `"`); path == "math/rand" || path == "crypto/rand" {
			say(i, "imports "+path)
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			say(n, "a goroutine")
		case *ast.SelectStmt:
			say(n, "a select (of what time or goroutines do)")
		case *ast.SelectorExpr:
			pkg, ok := n.X.(*ast.Ident)
			if !ok || pkg.Obj != nil {
				break
			}
			switch full := pkg.Name + "." + n.Sel.Name; full {
			case "time.Now", "time.Since", "time.Until", "time.Sleep", "time.After", "time.AfterFunc", "time.NewTimer", "time.NewTicker", "time.Tick":
				say(n, "uses "+full)
			case "rand.New", "rand.NewPCG", "rand.NewChaCha8", "rand.Rand", "rand.Source":
			default:
				if pkg.Name == "rand" {
					say(n, "uses "+full)
				}
			}
		}
		return true
	})
	return problems
}

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func goTool(t *testing.T, env []string, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// The agent's binary holds nothing of the server's.
func TestDependencies(t *testing.T) {
	t.Parallel()
	for dep := range strings.Lines(goTool(t, nil, "list", "-deps", ".")) {
		for _, heavy := range []string{"modernc.org/", "nats-io/", "prometheus/", "jackc/", "gocloud.dev", "vauban/hub", "vauban/storage", "vauban/head", "vauban/defender", "app/cli", "app/up"} {
			if strings.Contains(dep, heavy) {
				t.Errorf("it imports %s", dep)
			}
		}
	}
}

// It builds without C where devices are: a 32-bit big-endian processor without floating point, and a 64-bit one of another family.
func TestCrossBuild(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("compiles for other processors: run without -short, or make agents")
	}
	for _, arch := range []string{"mips", "riscv64"} {
		out := filepath.Join(t.TempDir(), "vauban-agent")
		goTool(t, []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + arch, "GOMIPS=softfloat"}, "build", "-trimpath", "-o", out, ".")
		head := make([]byte, 20)
		f, err := os.Open(out)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Read(head); err != nil || string(head[:4]) != "\x7fELF" {
			t.Errorf("%s: %x %v", arch, head, err)
		}
		f.Close()
	}
}

package main

import (
	"debug/elf"
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

// It builds without C for the processors of devices, some of which are 32-bit, big-endian or without floating point, and needs no other file.
func TestCrossBuild(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("compiles for other processors: run without -short, or make agents")
	}
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "arm": elf.EM_ARM, "riscv64": elf.EM_RISCV, "mips": elf.EM_MIPS} {
		out := filepath.Join(t.TempDir(), "vauban-agent")
		goTool(t, []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + arch, "GOMIPS=softfloat"}, "build", "-trimpath", "-o", out, ".")
		f, err := elf.Open(out)
		if err != nil {
			t.Fatal(err)
		}
		if f.Machine != machine || f.Type != elf.ET_EXEC {
			t.Errorf("%s: a %v of %v", arch, f.Type, f.Machine)
		}
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
				t.Errorf("%s: it needs a loader", arch)
			}
		}
		f.Close()
	}
}

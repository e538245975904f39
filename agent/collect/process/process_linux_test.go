package process

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/agent/collect/proc"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// watch runs a watcher until the test ends and returns what finds the observation of a process that started since.
func watch(t *testing.T, cfg Config) (w *Watcher, find func(line string) secmsg.Process) {
	t.Helper()
	w = New(cfg)
	var mu sync.Mutex
	var all []collect.Observation
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- w.Run(ctx, func(o collect.Observation) {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, o)
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	for deadline := time.Now().Add(20 * time.Second); w.Source() == "not started"; time.Sleep(5 * time.Millisecond) {
		select {
		case err := <-done:
			done <- nil
			t.Fatalf("Run: %v", err)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not start")
		}
	}
	return w, func(line string) secmsg.Process {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			mu.Lock()
			for _, o := range all {
				if p := o.Item.(secmsg.Process); strings.Contains(p.CommandLine, line) {
					if o.Event != "Process" || o.Hits != 1 || time.Since(o.Time) > time.Minute || !strings.Contains(o.Key, p.CommandLine) {
						t.Errorf("the observation is %+v", o)
					}
					mu.Unlock()
					return p
				}
			}
			mu.Unlock()
			if time.Now().After(deadline) {
				t.Fatalf("%s: %q was not seen among %d processes", w.Source(), line, len(all))
			}
		}
	}
}

func check(t *testing.T, p secmsg.Process, cmd *exec.Cmd, executable, line string) {
	t.Helper()
	want := secmsg.Process{
		Executable: executable, ProcessID: uint32(cmd.Process.Pid), ParentProcessID: uint32(os.Getpid()), UserID: uint32(os.Getuid()), UserName: "root",
		CommandLine: line, EventType: "EXEC", HitCount: 1,
	}
	if p != want {
		t.Errorf("got %+v, want %+v", p, want)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: run it as sudo go test")
	}
}

// A program that is over within a millisecond is seen whole: nothing of it has to be looked up later.
func TestEBPF_SeesTheShortest(t *testing.T) {
	needRoot(t)
	w, find := watch(t, Config{})
	if w.Source() != "eBPF" {
		t.Fatalf("the source is %s", w.Source())
	}
	for i := range 20 {
		mark := "vauban-ebpf-" + strconv.Itoa(i)
		cmd := exec.Command("/bin/true", mark, "two words")
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		check(t, find(mark), cmd, "/bin/true", "/bin/true "+mark+" two words")
	}
	if w.Lost() != 0 {
		t.Errorf("%d were lost", w.Lost())
	}
}

func TestEBPF_LongArgumentsAreCut(t *testing.T) {
	needRoot(t)
	_, find := watch(t, Config{})
	mark := "vauban-long-"
	if err := exec.Command("/bin/true", mark, strings.Repeat("x", 100_000)).Run(); err != nil {
		t.Fatal(err)
	}
	if p := find(mark); len(p.CommandLine) != argsSize || !strings.HasSuffix(p.CommandLine, "xxx") {
		t.Errorf("%d bytes: %.40s", len(p.CommandLine), p.CommandLine)
	}
}

func TestNetlink_SeesPrograms(t *testing.T) {
	needRoot(t)
	w, find := watch(t, Config{Mode: Netlink})
	if w.Source() != "netlink" {
		t.Fatalf("the source is %s", w.Source())
	}
	cmd := exec.Command("/bin/sh", "-c", "read x; : vauban-netlink")
	hold(t, cmd)
	sh, _ := filepath.EvalSymlinks("/bin/sh")
	check(t, find("vauban-netlink"), cmd, sh, "/bin/sh -c read x; : vauban-netlink")
}

func TestPolling_SeesPrograms(t *testing.T) {
	w, find := watch(t, Config{Mode: Polling, PollingInterval: 20 * time.Millisecond})
	if w.Source() != "polling /proc" {
		t.Fatalf("the source is %s", w.Source())
	}
	cmd := exec.Command("/bin/sh", "-c", "read x; : vauban-polling")
	hold(t, cmd)
	p := find("vauban-polling")
	if p.ProcessID != uint32(cmd.Process.Pid) || p.UserID != uint32(os.Getuid()) || p.EventType != "EXEC" {
		t.Errorf("got %+v", p)
	}
}

// hold runs cmd until the test ends.
func hold(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
}

// Without its better sources it falls back and says why; with none it fails and says what helps.
func TestRun_FallsBack(t *testing.T) {
	w := New(Config{Mode: Polling, FS: proc.FS(t.TempDir() + "/none")})
	err := w.Run(t.Context(), func(collect.Observation) {})
	if err == nil || !strings.Contains(err.Error(), "no polling") || !strings.Contains(err.Error(), "run the agent as root") {
		t.Errorf("got %v", err)
	}
	needRoot(t)
	if os.Getenv("VAUBAN_TEST_UNPRIVILEGED") == "" {
		// The same test in a process without rights: eBPF and the connector refuse, /proc is left.
		cmd := exec.Command(testBinary(t), "-test.run", "^TestRun_FallsBackToPolling$", "-test.v")
		cmd.Env = append(os.Environ(), "VAUBAN_TEST_UNPRIVILEGED=1")
		asNobody(cmd)
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Errorf("%v:\n%s", err, out)
		}
	}
}

func TestRun_FallsBackToPolling(t *testing.T) {
	if os.Getenv("VAUBAN_TEST_UNPRIVILEGED") == "" {
		t.Skip("run by TestRun_FallsBack in a process of its own")
	}
	w, find := watch(t, Config{PollingInterval: 20 * time.Millisecond})
	if s := w.Source(); !strings.HasPrefix(s, "polling /proc (no eBPF: ") || !strings.Contains(s, "; no netlink: ") {
		t.Errorf("the source is %s", s)
	}
	cmd := exec.Command("/bin/sh", "-c", "read x; : vauban-fallback")
	hold(t, cmd)
	if p := find("vauban-fallback"); p.UserID != uint32(os.Getuid()) {
		t.Errorf("got %+v", p)
	}
}

// testBinary copies this binary to where others may run it.
func testBinary(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "vauban-process-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "test")
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

package proc

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestProcess_Itself(t *testing.T) {
	t.Parallel()
	me := uint32(os.Getpid())
	pids, err := Root.PIDs()
	if err != nil || !slices.Contains(pids, me) || !slices.Contains(pids, 1) {
		t.Fatalf("%v, %v", pids, err)
	}
	p, err := Root.Process(me)
	self, _ := os.Executable()
	if err != nil || p.Parent != uint32(os.Getppid()) || p.UserID != uint32(os.Getuid()) || p.Executable != self || p.Start == 0 || p.CommandLine != strings.Join(os.Args, " ") {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err := Root.Process(1 << 30); err == nil {
		t.Errorf("nobody is %+v", p)
	}
}

// A program may have any name, and may be deleted while it runs.
func TestProcess_OddName(t *testing.T) {
	t.Parallel()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), ") 9 R 8 (")
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	p, err := Root.Process(uint32(cmd.Process.Pid))
	if err != nil || p.Parent != uint32(os.Getpid()) || p.Executable != path || p.CommandLine != path+" 1000" {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestSockets(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sockets, left, err := Root.Sockets()
	if err != nil || left != 0 {
		t.Fatalf("%d left, %v", left, err)
	}
	n := 0
	for _, pid := range sockets {
		if pid == uint32(os.Getpid()) {
			n++
		}
	}
	if n == 0 {
		t.Error("our own socket is not among them")
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	var n Names
	if n.Name(0) != "root" || n.Name(4000000000) != "" {
		t.Errorf("%q, %q", n.Name(0), n.Name(4000000000))
	}
	none := Names{Path: filepath.Join(t.TempDir(), "none")}
	if none.Name(0) != "" {
		t.Error("a name without a file")
	}
	if got := parseNames(strings.NewReader("a:x:7:\nb:x:7:\nc\nd:x:no:\n" + strings.Repeat("e:x:9:\n", 10))); len(got) != 2 || got[7] != "a" {
		t.Errorf("got %v", got)
	}
}

func FuzzParsers(f *testing.F) {
	f.Add([]byte("7 (a) b) S 3 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 0 0\n"))
	f.Add([]byte("Name:\tx\nUid:\t1000\t0\t0\t0\n"))
	f.Add([]byte("sh\x00-c\x00a b\x00\x00"))
	if p, start, err := parseStat([]byte("7 (a) b) S 3 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 0 0\n")); p != 3 || start != 12345 || err != nil {
		f.Errorf("%d, %d, %v", p, start, err)
	}
	if uid := parseUID([]byte("Name:\tx\nUid:\t1000\t0\t0\t0\n")); uid != 1000 {
		f.Errorf("user %d", uid)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, _ = parseStat(b)
		parseUID(b)
		if s := JoinArguments(b); len(s) > 3*MaxCommandLine || strings.Contains(s, "\x00") {
			t.Errorf("%q", s)
		}
	})
}

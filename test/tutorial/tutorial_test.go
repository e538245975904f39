// Package tutorial runs the tutorials of docs/ as they are printed: every line of their console blocks is typed, and what it is said
// to print must be printed.
package tutorial

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/bus/diskbus"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/iot"
)

// step is a command and what it prints.
type step struct {
	line    int
	command string
	prints  []string // lines that must come in this order, among others; … stands for anything
	repeat  bool     // until it prints that
}

// read returns the commands of a page. A fence of "console" holds commands, each after "$ ", with what they print below; "console wait"
// says that they are typed again until they print it.
func read(t *testing.T, path string) []step {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []step
	inside, repeat := false, false
	for s, n := bufio.NewScanner(bytes.NewReader(text)), 1; s.Scan(); n++ {
		line := s.Text()
		if info, fence := strings.CutPrefix(line, "```"); fence {
			inside = !inside && strings.HasPrefix(info, "console")
			repeat = info == "console wait"
			continue
		}
		switch command, isCommand := strings.CutPrefix(line, "$ "); {
		case !inside:
		case isCommand:
			all = append(all, step{line: n, command: command, repeat: repeat})
		case len(all) > 0 && strings.HasSuffix(all[len(all)-1].command, `\`):
			last := &all[len(all)-1]
			last.command = strings.TrimSuffix(last.command, `\`) + strings.TrimSpace(line)
		case strings.TrimSpace(line) != "":
			last := &all[len(all)-1]
			last.prints = append(last.prints, strings.TrimSpace(line))
		}
	}
	return all
}

// missing returns the first line that output does not hold in its place, or "".
func missing(prints []string, output string) string {
	lines := strings.Split(output, "\n")
	for _, want := range prints {
		parts := strings.Split(want, "…")
		for i := range parts {
			parts[i] = regexp.MustCompile(`\s+`).ReplaceAllString(regexp.QuoteMeta(parts[i]), `\s+`)
		}
		re := regexp.MustCompile("^" + strings.Join(parts, ".*") + "$")
		at := slices.IndexFunc(lines, func(l string) bool { return re.MatchString(strings.TrimSpace(l)) })
		if at < 0 {
			return want
		}
		lines = lines[at+1:]
	}
	return ""
}

// terminal is where a reader types.
type terminal struct {
	t      *testing.T
	dir    string
	env    []string
	behind []*exec.Cmd // commands that go on
}

const patience = time.Minute

// output is what a command that goes on printed so far.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func (term *terminal) shell(ctx context.Context, command string) *exec.Cmd {
	c := exec.CommandContext(ctx, "bash", "-c", command)
	c.Dir, c.Env = term.dir, term.env
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	return c
}

// do types a command and returns what it printed, with an error when that is not what the page says.
func (term *terminal) do(s step) (string, error) {
	if command, goesOn := strings.CutSuffix(s.command, " &"); goesOn {
		o := new(output)
		c := term.shell(context.Background(), "exec "+command)
		c.Stdout, c.Stderr = o, o
		if err := c.Start(); err != nil {
			return "", err
		}
		term.behind = append(term.behind, c)
		for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
			lacks := missing(s.prints, o.String())
			if lacks == "" {
				return o.String(), nil
			}
			if time.Now().After(end) {
				return o.String(), fmt.Errorf("it does not print %q", lacks)
			}
		}
	}
	for end := time.Now().Add(patience); ; time.Sleep(300 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		text, err := term.shell(ctx, s.command).CombinedOutput()
		cancel()
		if lacks := missing(s.prints, string(text)); lacks != "" {
			err = fmt.Errorf("it does not print %q (%v)", lacks, err)
		} else if err == nil || strings.HasPrefix(s.command, "! ") {
			return string(text), nil
		}
		if !s.repeat || time.Now().After(end) {
			return string(text), err
		}
	}
}

// leave ends what goes on, the latest first, as a reader does with Ctrl-C.
func (term *terminal) leave() {
	behind := term.behind
	term.behind = nil
	for _, c := range slices.Backward(behind) {
		c.Process.Signal(syscall.SIGINT)
		done := make(chan struct{})
		go func() { c.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
			<-done
		}
	}
}

// open makes a terminal in an empty folder where the program is installed, also under its other name.
func open(t *testing.T) *terminal {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(bin, "vauban"), "./cmd/vauban")
	build.Dir = root
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if err := os.Symlink("vauban", filepath.Join(bin, "azsphere")); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	term := &terminal{t: t, dir: dir, env: append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "HOME="+dir, "XDG_CONFIG_HOME="+dir+"/.config", "DISPLAY=", "NO_COLOR=1")}
	t.Cleanup(term.leave)
	return term
}

// kept checks that the log holds every message that the board said was acknowledged, over changes of its certificate and of its CA.
func kept(t *testing.T, dir string) {
	t.Helper()
	said, err := os.ReadFile(filepath.Join(dir, "board.log"))
	if err != nil {
		t.Fatal(err)
	}
	acknowledged := 0
	for _, m := range regexp.MustCompile(`(\d+) messages are acknowledged`).FindAllSubmatch(said, -1) {
		if acknowledged, err = strconv.Atoi(string(m[1])); err != nil {
			t.Fatal(err)
		}
	}
	if acknowledged == 0 {
		t.Fatal("the board says of no message that it was acknowledged")
	}
	b, err := diskbus.Open(diskbus.Config{Dir: filepath.Join(dir, "vauban-data", "bus")})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	log, err := b.Log(t.Context(), bus.LogConfig{Name: "telemetry"})
	if err != nil {
		t.Fatal(err)
	}
	last, err := log.Append(t.Context(), telemetry.EmptyBatch())
	if err != nil {
		t.Fatal(err)
	}
	var found []int
	end := errors.New("end of the log")
	err = log.Follow(t.Context(), bus.Earliest, nil, func(e bus.Entry) error {
		err := telemetry.Decode(e.Sequence, e.Data, func(m *iot.Message) error {
			var body struct{ N int }
			if json.Unmarshal(m.Body, &body) == nil && body.N > 0 {
				found = append(found, body.N)
			}
			return nil
		})
		if err == nil && e.Sequence >= last {
			err = end
		}
		return err
	})
	if !errors.Is(err, end) {
		t.Fatal(err)
	}
	for n := 1; n <= acknowledged; n++ {
		if !slices.Contains(found, n) {
			t.Errorf("message %d of %d was acknowledged and is not in the log", n, acknowledged)
		}
	}
}

// languages of a tutorial; all have the same commands.
var languages = []string{"", ".fr"}

func TestTutorials(t *testing.T) {
	for _, name := range []string{"tutorial-sphere"} {
		t.Run(name, func(t *testing.T) {
			page := func(language string) string { return filepath.Join("../../docs", name+language+".md") }
			steps := read(t, page(languages[0]))
			if len(steps) == 0 {
				t.Fatal("the page has no commands")
			}
			for _, language := range languages[1:] {
				others := read(t, page(language))
				for i := range max(len(steps), len(others)) {
					if i >= len(steps) || i >= len(others) || steps[i].command != others[i].command || !slices.Equal(steps[i].prints, others[i].prints) || steps[i].repeat != others[i].repeat {
						t.Fatalf("%s: command %d differs from that of %s", page(language), i+1, page(languages[0]))
					}
				}
			}
			if testing.Short() {
				t.Skip("starts servers and waits for certificates; run without -short")
			}
			term := open(t)
			for _, s := range steps {
				start := time.Now()
				text, err := term.do(s)
				t.Logf("line %d: %s (%v)\n%s", s.line, s.command, time.Since(start).Round(time.Millisecond), text)
				if err != nil {
					t.Fatalf("%s:%d: %s: %v", page(languages[0]), s.line, s.command, err)
				}
			}
			term.leave()
			kept(t, term.dir)
		})
	}
}

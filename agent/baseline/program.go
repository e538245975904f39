package baseline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"time"
)

// allowed are the programs that checks may run, with all of their arguments. They only show something. Checks choose among
// them; what a custom file says never becomes a command line, but for the format that docker prints in.
var allowed = [][]string{
	{"sshd", "-T"},
	{"iptables", "-n", "-L"},
	{"nft", "list", "chains"},
	{"rpm", "-qa", "--queryformat", `%{NAME}\n`},
	{"docker", "version", "--format", "{{.Client.Version}}/{{.Server.Version}}"},
	{"docker", "info"},
	{"docker", "ps", "--quiet", "--no-trunc"},
	{"docker", "network", "ls", "--quiet", "--no-trunc"},
	{"docker", "swarm", "unlock-key"},
	{"docker", "inspect", "--type", "container", "--format", format},
	{"docker", "network", "inspect", "--format", format},
}

// format stands for a format of a check, and for the ids after it.
const format = "\x00"

// How long a program may take, and how much it may print.
const (
	programTime   = 10 * time.Second
	programOutput = 1 << 20
)

// programDirs is where programs are looked for; never along a PATH.
var programDirs = []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"}

var errNoProgram = errors.New("is not installed")

type output struct {
	lines []string
	err   error
}

func mayRun(argv []string) bool {
	return slices.ContainsFunc(allowed, func(a []string) bool {
		i := slices.Index(a, format)
		if i < 0 {
			return slices.Equal(a, argv)
		}
		return len(argv) > i && slices.Equal(a[:i], argv[:i]) && !strings.HasPrefix(argv[i], "-") &&
			!slices.ContainsFunc(argv[i+1:], func(id string) bool { return !plainID64(id) })
	})
}

// plainID64 reports an id as Docker makes them, or the name of its default network.
func plainID64(s string) bool {
	return s == "bridge" || len(s) >= 12 && len(s) <= 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// output runs an allowed program once in a scan and returns the lines that it printed.
func (m *machine) output(name string, args ...string) ([]string, error) {
	argv := append([]string{name}, args...)
	if !mayRun(argv) {
		return nil, fmt.Errorf("this agent does not run %q", argv)
	}
	if !m.live {
		return nil, errNotRunning
	}
	key := strings.Join(argv, "\x00")
	o, ok := m.outputs[key]
	if !ok {
		o.lines, o.err = m.runProgram(argv)
		m.outputs[key] = o
	}
	return o.lines, o.err
}

func (m *machine) runProgram(argv []string) ([]string, error) {
	file, err := m.program(argv[0])
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(m.ctx, programTime)
	defer cancel()
	var out, errs limited
	out.full, errs.full = cancel, cancel
	cmd := exec.CommandContext(ctx, file, argv[1:]...)
	cmd.Dir = "/"
	// No HOME: docker would look for plugins there.
	cmd.Env = []string{"PATH=" + strings.Join(programDirs, ":"), "LC_ALL=C", "DOCKER_CONFIG=/nonexistent", "DOCKER_CLI_HINTS=false"}
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	switch {
	case out.over || errs.over:
		return nil, fmt.Errorf("%s printed more than %d bytes and was ended", argv[0], programOutput)
	case m.ctx.Err() != nil:
		return nil, m.ctx.Err()
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s took longer than %s and was ended", argv[0], programTime)
	case err != nil:
		text, _, _ := strings.Cut(strings.TrimSpace(errs.buf.String()), "\n")
		return nil, fmt.Errorf("%s: %w: %s", argv[0], err, shorten(text))
	}
	return splitLines(out.buf.Bytes())
}

// program finds the file of a program that nobody but root, or who runs the agent, could have changed.
func (m *machine) program(name string) (string, error) {
	for _, d := range m.dirs {
		p := path.Join(d, name)
		i, err := m.tree.stat(p)
		if err != nil || !i.regular() || i.mode&0o111 == 0 {
			continue
		}
		if i.uid != 0 && int(i.uid) != os.Getuid() || i.mode&0o022 != 0 {
			return "", fmt.Errorf("%s was not run: others may change it", p)
		}
		return path.Join(m.tree.root, p), nil
	}
	return "", fmt.Errorf("%s %w", name, errNoProgram)
}

// limited keeps what a program prints, up to programOutput, and ends it then. The buffer is not embedded: its ReadFrom would
// take everything.
type limited struct {
	buf  bytes.Buffer
	over bool
	full func()
}

func (l *limited) Write(b []byte) (int, error) {
	if l.buf.Len()+len(b) > programOutput {
		l.over = true
		l.full()
		return 0, errors.New("too much")
	}
	return l.buf.Write(b)
}

package azsphere_test

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/vauban-iot/vauban/app/cli"
	"github.com/vauban-iot/vauban/app/up"
)

// The binary is vauban, and azsphere when it is called so.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"vauban":   func() { os.Exit(cli.Main()) },
		"azsphere": func() { os.Exit(cli.Main()) },
	})
}

// TestScripts runs testdata/*.txt: the command line as its users type it, against a real installation and a board.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("VAUBAN_DATA", filepath.Join(e.WorkDir, "data"))
			e.Setenv("XDG_CONFIG_HOME", filepath.Join(e.WorkDir, "config"))
			// A socket's path is short, and the work folder's is not.
			dir, err := os.MkdirTemp("", "board")
			if err != nil {
				return err
			}
			e.Defer(func() { os.RemoveAll(dir) })
			e.Setenv("AZSPHERE_DEVICE", "unix:"+filepath.Join(dir, "s"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"waitup": waitUp, "waitfor": waitFor, "until": until},
	})
}

const patience = 30 * time.Second

func poll(ts *testscript.TestScript, what string, done func() bool) {
	for end := time.Now().Add(patience); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			ts.Fatalf("%s does not come", what)
		}
	}
}

// waitUp: the installation answers.
func waitUp(ts *testscript.TestScript, _ bool, _ []string) {
	poll(ts, "the installation", func() bool {
		c, err := up.LoadConnection(filepath.Join(ts.Getenv("VAUBAN_DATA"), up.ConnectionFile))
		if err != nil {
			return false
		}
		nc, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(c.Ports.HTTPS)))
		if err == nil {
			nc.Close()
		}
		return err == nil
	})
}

// waitFor FILE TEXT: the file holds the text.
func waitFor(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: waitfor FILE TEXT")
	}
	poll(ts, args[1]+" in "+args[0], func() bool {
		b, err := os.ReadFile(ts.MkAbs(args[0]))
		return err == nil && bytes.Contains(b, []byte(args[1]))
	})
}

// until COMMAND...: it succeeds, sooner or later.
func until(ts *testscript.TestScript, _ bool, args []string) {
	poll(ts, args[0], func() bool { return ts.Exec(args[0], args[1:]...) == nil })
}

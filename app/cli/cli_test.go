package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/app/up"
	"github.com/vauban-iot/vauban/wire/topic"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"vauban": func() { os.Exit(Main()) },
		"device": func() { os.Exit(runDevice()) },
	})
}

// TestScripts runs testdata/*.txt: the command line as its users type it, against real
// installations.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("VAUBAN_DATA", filepath.Join(e.WorkDir, "data"))
			e.Setenv("PORTS", "--mqtt-port=0 --https-port=0 --amqp-port=0")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"waitup": waitUp, "waitfor": waitFor, "json": jsonMember, "same": sameMember, "busyport": busyPort,
		},
	})
}

const patience = 20 * time.Second

// waitUp [folder]: an installation in the folder answers.
func waitUp(ts *testscript.TestScript, neg bool, args []string) {
	data := ts.Getenv("VAUBAN_DATA")
	if len(args) == 1 {
		data = ts.MkAbs(args[0])
	}
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		c, err := up.LoadConnection(filepath.Join(data, up.ConnectionFile))
		if err == nil {
			var nc net.Conn
			if nc, err = net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(c.Ports.MQTT))); err == nil {
				nc.Close()
				return
			}
		}
		if time.Now().After(end) {
			ts.Fatalf("the installation in %s does not come up: %v", data, err)
		}
	}
}

// waitFor FILE TEXT: the file holds the text.
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: waitfor FILE TEXT")
	}
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		data, err := os.ReadFile(ts.MkAbs(args[0]))
		if err == nil && bytes.Contains(data, []byte(args[1])) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%s does not come to hold %q; it has:\n%s", args[0], args[1], data)
		}
	}
}

// member finds a.b.0.c in a JSON document.
func member(ts *testscript.TestScript, file, path string) string {
	var v any
	if err := json.Unmarshal([]byte(ts.ReadFile(file)), &v); err != nil {
		ts.Fatalf("%s is no JSON: %v", file, err)
	}
	for _, name := range strings.Split(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[name]
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i >= len(x) {
				ts.Fatalf("%s has no element %s (%d elements)", file, name, len(x))
			}
			v = x[i]
		default:
			ts.Fatalf("%s has no %s", file, path)
		}
	}
	return fmt.Sprint(v)
}

// jsonMember FILE PATH WANT: a member of a JSON document has this value.
func jsonMember(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: json FILE PATH WANT")
	}
	if got := member(ts, args[0], args[1]); (got == args[2]) == neg {
		ts.Fatalf("%s: %s is %q, want %q (negated: %v)", args[0], args[1], got, args[2], neg)
	}
}

// sameMember FILE1 FILE2 PATH...: members are equal in both documents.
func sameMember(ts *testscript.TestScript, neg bool, args []string) {
	for _, path := range args[2:] {
		a, b := member(ts, args[0], path), member(ts, args[1], path)
		if (a == b) == neg || a == "" || a == "<nil>" {
			ts.Fatalf("%s is %q in %s and %q in %s (negated: %v)", path, a, args[0], b, args[1], neg)
		}
	}
}

// busyPort NAME: a port that another program holds, in the environment.
func busyPort(ts *testscript.TestScript, neg bool, args []string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { ln.Close() })
	ts.Setenv(args[0], strconv.Itoa(ln.Addr().(*net.TCPAddr).Port))
}

// runDevice is the program `device CONNECTION-STRING`: it prints what the hub sends, answers every method with its
// payload, and publishes the lines it reads: TOPIC-BAG TAB BODY.
func runDevice() int {
	conn, err := up.LoadConnection(filepath.Join(os.Getenv("VAUBAN_DATA"), up.ConnectionFile))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	c, id, err := dialDevice(conn, os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	show := func(_ paho.Client, m paho.Message) { fmt.Printf("%s %s\n", m.Topic(), m.Payload()) }
	for filter, handle := range map[string]paho.MessageHandler{
		"$iothub/methods/POST/#": func(c paho.Client, m paho.Message) {
			show(c, m)
			if r, err := topic.ParseResponse(m.Topic()); err == nil {
				c.Publish(string(topic.AppendMethodResult(nil, 200, r.RID)), 0, false, m.Payload())
			}
		},
		"$iothub/twin/PATCH/properties/desired/#":   show,
		"devices/" + id + "/messages/devicebound/#": show,
	} {
		if tok := c.Subscribe(filter, 1, handle); tok.Wait() && tok.Error() != nil {
			fmt.Fprintln(os.Stderr, tok.Error())
			return 1
		}
	}
	for _, line := range os.Args[2:] {
		bag, body, _ := strings.Cut(line, "|")
		if tok := c.Publish(string(topic.AppendTelemetry(nil, id, ""))+bag, 1, false, body); tok.Wait() && tok.Error() != nil {
			fmt.Fprintln(os.Stderr, tok.Error())
			return 1
		}
	}
	fmt.Println("ready")
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	<-stop
	c.Disconnect(250)
	return 0
}

// Every command teaches: an example in its help, which names only flags that exist.
func TestHelp(t *testing.T) {
	t.Parallel()
	for _, c := range all(New(strings.NewReader(""), &bytes.Buffer{}, &bytes.Buffer{})) {
		if c.Short == "" {
			t.Errorf("%s has no short help", c.CommandPath())
		}
		if !c.Runnable() || c.HasSubCommands() {
			continue
		}
		if c.Example == "" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		for _, word := range strings.Fields(c.Example) {
			name, ok := strings.CutPrefix(word, "--")
			if name, _, _ = strings.Cut(name, "="); ok && c.Flags().Lookup(name) == nil {
				t.Errorf("an example of %s uses --%s, which does not exist", c.CommandPath(), name)
			}
		}
		for _, text := range []string{c.Long, c.Example} {
			for _, line := range strings.Split(text, "\n") {
				if len(line) > 100 {
					t.Errorf("%s: a help line has %d columns: %s", c.CommandPath(), len(line), line)
				}
			}
		}
	}
}

// What a program prints is JSON wherever a command has --output.
func TestOutputFlag(t *testing.T) {
	t.Parallel()
	for _, c := range all(New(strings.NewReader(""), &bytes.Buffer{}, &bytes.Buffer{})) {
		if c.HasSubCommands() || !c.Runnable() {
			continue
		}
		if c.Flags().Lookup("output") == nil {
			t.Errorf("%s has no --output", c.CommandPath())
			continue
		}
		root := New(strings.NewReader(""), &bytes.Buffer{}, &bytes.Buffer{})
		root.SetArgs(append(strings.Fields(strings.TrimPrefix(c.CommandPath(), "vauban ")), append(arguments(c), "--output", "xml")...))
		if err := root.Execute(); Code(err, &bytes.Buffer{}) != exitMisuse {
			t.Errorf("%s --output xml: got %v, want a refusal", c.CommandPath(), err)
		}
	}
}

// arguments are as many words as the command's usage line names, and what it requires.
func arguments(c *cobra.Command) []string {
	args := strings.Fields(c.Use)[1:]
	if c.Name() == "update" {
		args = append(args, "--tags", "{}")
	}
	return args
}

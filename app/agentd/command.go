package agentd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/agent"
	"github.com/vauban-iot/vauban/agent/config"
	"github.com/vauban-iot/vauban/wire/connstr"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Exit codes, as app/cli has them.
const (
	exitOK     = 0
	exitFailed = 1
	exitMisuse = 2
)

type usageError struct{ error }

// IsMisuse reports whether an error of the tree is a command line that cannot be understood.
func IsMisuse(err error) bool {
	_, ok := errors.AsType[usageError](err)
	return ok
}

// Main runs the agent's own command line and returns its exit code.
func Main(ctx context.Context, version string, args []string, stdout, stderr io.Writer) int {
	root := New("vauban-agent", version)
	root.Version = version
	root.SetVersionTemplate("vauban-agent {{.Version}}\n")
	root.SilenceUsage, root.SilenceErrors = true, true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	for _, c := range root.Commands() {
		if check := c.Args; check != nil {
			c.Args = func(c *cobra.Command, args []string) error {
				if err := check(c, args); err != nil {
					return usageError{err}
				}
				return nil
			}
		}
	}
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "vauban-agent: %v\n", err)
	if IsMisuse(err) {
		fmt.Fprintln(stderr, "vauban-agent: run the command with --help for examples")
		return exitMisuse
	}
	return exitFailed
}

// New returns the tree under the name that people type: "vauban agent" or "vauban-agent".
func New(name, version string) *cobra.Command {
	words := strings.Fields(name)
	root := &cobra.Command{
		Use:   words[len(words)-1],
		Short: "Watch this machine and tell the hub's Defender",
		Long: `Watch this machine (processes, traffic, software, accounts, firewall...) and tell the hub's
Defender, as module DefenderIotMicroAgent or azureiotsecurity of its device. The module's twin says
what is watched and how often.

Start with:  ` + name + ` check-config
             ` + name + ` run`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.AddCommand(runCommand(name, version), onceCommand(name, version), statusCommand(name), flushCommand(name), pamCommand(name), checkCommand(name), baselineCommand(name))
	return root
}

// flags are those of every command.
type flags struct{ config, state, output string }

func (f *flags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.config, "config", "", "configuration `file` (default "+DefaultFile+", then "+MicroAgent+")")
	c.Flags().StringVar(&f.state, "state", "", "`folder` of queue and state, instead of the configuration's")
	c.Flags().StringVarP(&f.output, "output", "o", "table", `"table" for people or "json" for programs`)
}

func (f *flags) check() error {
	if f.output != "table" && f.output != "json" {
		return usageError{fmt.Errorf("unknown output %q (want \"table\" or \"json\")", f.output)}
	}
	return nil
}

func (f *flags) load() (File, error) {
	if err := f.check(); err != nil {
		return File{}, err
	}
	file, err := Load(f.config)
	if f.state != "" {
		file.StateDir = f.state
	}
	return file, err
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func level(name string) slog.Level {
	var l slog.Level
	_ = l.UnmarshalText([]byte(name)) // it was checked when the file was read
	return l
}

func runCommand(name, version string) *cobra.Command {
	var f flags
	c := &cobra.Command{
		Use:   "run",
		Short: "Watch until interrupted",
		Long: `Watch until interrupted. Messages wait in the state folder until the hub has them, over restarts.
Log lines go to standard error, with --output json as JSON.

The agent's module is never made silently: when it does not exist the agent says which command
makes it, and waits.`,
		Example: "  " + name + " run\n  " + name + " run --config agent.toml --state /var/lib/vauban-agent",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			file, err := f.load()
			if err != nil {
				return err
			}
			o := &slog.HandlerOptions{Level: level(file.LogLevel)}
			var h slog.Handler = slog.NewTextHandler(c.ErrOrStderr(), o)
			if f.output == "json" {
				h = slog.NewJSONHandler(c.ErrOrStderr(), o)
			}
			return run(c.Context(), file, options{version: version, handler: h})
		},
	}
	f.register(c)
	return c
}

func onceCommand(name, version string) *cobra.Command {
	var f flags
	var watch time.Duration
	c := &cobra.Command{
		Use:   "once",
		Short: "Look at everything once and print it, without sending",
		Long: `Take every snapshot, watch for a moment, and print the security message that would be sent, as JSON.
Nothing is sent, and neither configuration nor network is needed: this is how to see what would
leave the machine.`,
		Example: "  " + name + " once\n  " + name + " once --watch 30s | less",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			file := File{}
			if f.config != "" {
				var err error
				if file, err = f.load(); err != nil {
					return err
				}
			}
			file.resolve(".")
			frugal()
			s := config.Default()
			events, err := agent.Once(c.Context(), sources(&file, version, slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil)))(s), s, watch)
			body := secmsg.AppendJSON(nil, secmsg.Report{Agent: file.Module, AgentVersion: version, Events: events})
			if err := printJSON(c.OutOrStdout(), json.RawMessage(body)); err != nil {
				return err
			}
			if err != nil {
				fmt.Fprintf(c.ErrOrStderr(), "%s: not everything could be seen:\n%v\n", strings.Fields(name)[0], err)
			}
			return nil
		},
	}
	f.register(c)
	c.Flags().DurationVar(&watch, "watch", 2*time.Second, "how long to watch what happens")
	return c
}

func statusCommand(name string) *cobra.Command {
	var f flags
	c := &cobra.Command{
		Use:     "status",
		Short:   "Say what the running agent watches, and what waits to be sent",
		Example: "  " + name + " status\n  " + name + " status --output json",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			dir, err := f.folder()
			if err != nil {
				return err
			}
			s, err := agent.ReadStatus(dir)
			if err != nil {
				return fmt.Errorf("%s: %w", dir, err)
			}
			if f.output == "json" {
				return printJSON(c.OutOrStdout(), s)
			}
			return printStatus(c.OutOrStdout(), s)
		},
	}
	f.register(c)
	return c
}

// folder is where the running agent's state is.
func (f *flags) folder() (string, error) {
	if f.state != "" {
		return f.state, nil
	}
	file, err := f.load()
	switch {
	case err == nil:
		return file.StateDir, nil
	case f.config != "":
		return "", err
	}
	return DefaultState, nil
}

func flushCommand(name string) *cobra.Command {
	var f flags
	c := &cobra.Command{
		Use:   "flush [COLLECTOR...]",
		Short: "Make the running agent look now, and send what it sees",
		Long: `Make the running agent look now, rather than when the intervals of its twin end, and send what it
sees. It returns when all of it is in the queue on disk. Without names all collectors look; status
lists them.`,
		Example: "  " + name + " flush\n  " + name + " flush ListeningPorts Process --config agent.toml",
		Args:    cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, names []string) error {
			if err := f.check(); err != nil {
				return err
			}
			dir, err := f.folder()
			if err != nil {
				return err
			}
			s, err := agent.Flush(dir, names...)
			if err != nil {
				return fmt.Errorf("%s: %w", dir, err)
			}
			if f.output == "json" {
				return printJSON(c.OutOrStdout(), s)
			}
			where := "connected to " + s.Hub
			if !s.Connected {
				where = "not connected: " + s.ConnectionError
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "Looked; %d messages wait to be sent (%s)\n", s.Queued, where)
			return err
		},
	}
	f.register(c)
	return c
}

func printStatus(out io.Writer, s agent.Status) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	when := func(t time.Time) string {
		if t.IsZero() {
			return "never"
		}
		return t.Local().Format(time.DateTime)
	}
	line("Identity", "module %s of %s at %s", s.Module, s.Device, s.Hub)
	connection := "connected"
	if !s.Connected {
		connection = "not connected: " + s.ConnectionError
	}
	line("Hub", "%s", connection)
	line("Waiting", "%d messages, %d bytes", s.Queued, s.QueuedBytes)
	line("Sent", "%d messages, the last %s", s.Sent, when(s.LastSent))
	if s.Dropped+s.Expired > 0 {
		line("Lost", "%d messages because the queue was full, %d because they were too old", s.Dropped, s.Expired)
	}
	if len(s.InvalidProperties) > 0 {
		line("Twin", "invalid: %s", strings.Join(s.InvalidProperties, ", "))
	}
	line("Version", "%s, running since %s as process %d", s.Version, when(s.Started), s.PID)
	fmt.Fprintln(w)
	fmt.Fprintln(w, "COLLECTOR\tPRIORITY\tEVERY\tLAST\tFROM\tPROBLEM")
	for _, c := range s.Sources {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", c.Name, c.Priority, c.Every, when(c.Last), c.From, strings.ReplaceAll(c.Error, "\n", "; "))
	}
	return w.Flush()
}

func checkCommand(name string) *cobra.Command {
	var f flags
	c := &cobra.Command{
		Use:     "check-config",
		Short:   "Read the configuration and say what it means, without connecting",
		Example: "  " + name + " check-config\n  " + name + " check-config --config agent.toml --output json",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			file, err := f.load()
			if err != nil {
				return err
			}
			v, err := file.summary()
			if err != nil {
				return err
			}
			if f.output == "json" {
				return printJSON(c.OutOrStdout(), v)
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintf(w, "Configuration\t%s\nIdentity\t%s\nTransport\t%s\nState\t%s\n", v.File, v.Identity, v.Transport, v.StateDir)
			return w.Flush()
		},
	}
	f.register(c)
	return c
}

// summary is what a configuration means. It holds no secret.
type summary struct {
	File      string `json:"file"`
	Identity  string `json:"identity"`
	Transport string `json:"transport"`
	StateDir  string `json:"stateDir"`
}

// summary checks what can be checked without the network.
func (f *File) summary() (summary, error) {
	s := summary{File: f.from, Transport: f.Hub.Transport, StateDir: f.StateDir}
	base, err := f.base()
	if err != nil {
		return s, err
	}
	for _, path := range []string{base.CertificateFile, base.KeyFile, f.Provisioning.KeyFile, f.Provisioning.GroupKeyFile} {
		if path == "" {
			continue
		}
		if _, err := os.Stat(path); err != nil {
			return s, err
		}
	}
	if f.Identity.ConnectionStringFile == "" {
		s.Identity = fmt.Sprintf("module %s of the device that %s is provisioned as", f.Module, f.Provisioning.RegistrationID)
		return s, nil
	}
	text, err := secretFile(f.Identity.ConnectionStringFile)
	if err != nil {
		return s, fmt.Errorf("the connection string: %w", err)
	}
	cs, err := connstr.Parse(text)
	if err != nil {
		return s, fmt.Errorf("%s: %w", f.Identity.ConnectionStringFile, err)
	}
	if cs.ModuleID == "" {
		s.Identity = fmt.Sprintf("module %s of device %s at %s, whose key is read with the device's", f.Module, cs.DeviceID, cs.HostName)
		return s, nil
	}
	base.ConnectionString = text
	if _, err := agent.New(agent.Config{Device: base}); err != nil {
		return s, err
	}
	s.Identity = fmt.Sprintf("module %s of device %s at %s", cs.ModuleID, cs.DeviceID, cs.HostName)
	return s, nil
}

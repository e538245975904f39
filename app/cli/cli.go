// Package cli is the command tree of the vauban binary. Beside it only app/azsphere and app/agentd, whose trees are part of this one, know cobra.
package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/app/agentd"
	"github.com/vauban-iot/vauban/app/azsphere"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitMisuse = 2
	exitFound  = 3 // checked, and found problems
	exitForced = 4 // by a second interrupt
)

// usageError is a command line that cannot be understood.
type usageError struct{ error }

func misuse(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// foundError is a check that found problems.
type foundError struct{ error }

// Main runs the command line of this process and returns its exit code. A process that is called azsphere, by a link to the
// binary, is that command line.
func Main() int {
	ctx, stop := interruptible(context.Background())
	defer stop()
	if strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe") == azsphere.Standalone {
		return azsphere.Main(ctx, version())
	}
	root := New(os.Stdin, os.Stdout, os.Stderr)
	root.SetArgs(os.Args[1:])
	return Code(root.ExecuteContext(ctx), os.Stderr)
}

// Code reports err to stderr and turns it into an exit code.
func Code(err error, stderr io.Writer) int {
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "vauban: %v\n", err)
	if _, ok := errors.AsType[usageError](err); ok || azsphere.IsMisuse(err) || agentd.IsMisuse(err) {
		fmt.Fprintln(stderr, "vauban: run the command with --help for examples")
		return exitMisuse
	}
	if _, ok := errors.AsType[foundError](err); ok {
		return exitFound
	}
	return exitFailed
}

// interruptible ends the context at the first interrupt and the process at the second.
func interruptible(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		select {
		case <-signals:
			cancel()
		case <-ctx.Done():
			return
		}
		<-signals
		os.Exit(exitForced)
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel()
	}
}

// New returns the command tree.
func New(stdin io.Reader, stdout, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "vauban",
		Short: "An IoT cloud on a machine you own",
		Long: `Vauban is a self-hosted platform for connected devices: an IoT hub, its device
provisioning service and a first line of defence in one binary, on the wire
protocols of Azure IoT, so that devices and programs written for those connect
unchanged.

Start with:  vauban up`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
		Version:       version(),
	}
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetVersionTemplate("vauban {{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(upCommand(), boardCommand(), deviceCommand(), twinCommand(), methodCommand(), messageCommand(), monitorCommand(), alertCommand(), securityEventCommand(), securityGroupCommand(), baselineCommand(), recommendationCommand(), vulnCommand(), sbomCommand(), exportCommand(), intelCommand(), routeCommand(),
		certificateCommand(), dpsCommand(), policyCommand(), networkCommand(), containCommand(), throttleCommand(), subscriptionCommand(), pkiCommand(), serveCommand(), configCommand(), benchCommand(), azsphere.New(azsphere.Below, version()))
	root.AddCommand(agentd.New("vauban agent", version()), moduleCommand())
	root.AddCommand(detectorCommand(), evaluateCommand(), rtosCommand(), simCommand())
	// Wrong arguments are misuse, wherever they are found, and so are flags that do not go together.
	for _, c := range all(root) {
		if check := c.Args; check != nil {
			c.Args = func(c *cobra.Command, args []string) error {
				if err := cmp.Or(check(c, args), c.ValidateRequiredFlags(), c.ValidateFlagGroups()); err != nil {
					return usageError{err}
				}
				return nil
			}
		}
	}
	return root
}

func all(c *cobra.Command) []*cobra.Command {
	cs := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		cs = append(cs, all(sub)...)
	}
	return cs
}

func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.AddCommand(subs...)
	return c
}

// version is the module's, or the commit it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel-" + s.Value[:12]
		}
	}
	return "devel"
}

// output is the flag every command that prints has.
type output string

func (o *output) register(c *cobra.Command) {
	c.Flags().StringVarP((*string)(o), "output", "o", "table", `"table" for people or "json" for programs`)
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
}

func (o output) check() error {
	if o != "table" && o != "json" {
		return misuse("unknown output %q (want \"table\" or \"json\")", string(o))
	}
	return nil
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// dataFlag names the folder of the installation that a command talks to.
func dataFlag(c *cobra.Command, data *string) {
	c.Flags().StringVar(data, "data", defaultData(), "data folder of the installation; its connection.json says where it is")
}

func defaultData() string {
	if d := os.Getenv("VAUBAN_DATA"); d != "" {
		return d
	}
	return "vauban-data"
}

func under(dir, name string) string { return filepath.Join(dir, name) }

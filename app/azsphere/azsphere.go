// Package azsphere is the azsphere command line: tenants, products, device groups, devices and certificate authorities of a Security
// Service, in the words of Azure's legacy azsphere and of its integrated `az sphere` (sphere §12). It is `vauban sphere`, and the
// whole command line when the binary is called azsphere.
//
// It calls a server through sdk/sphere, as whoever signed in, and a device at hand through the device's local servicing API. What
// it keeps between commands (tokens, the selected tenant) is in one file of its user.
//
// Domain rooms below know nothing of cobra; this room and app/cli do.
package azsphere

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/sdk/sphere"
)

// Exit codes, as app/cli has them.
const (
	exitOK     = 0
	exitFailed = 1
	exitMisuse = 2
)

// usageError is a command line that cannot be understood.
type usageError struct{ error }

// IsMisuse reports whether an error of the tree is a command line that cannot be understood.
func IsMisuse(err error) bool {
	_, ok := errors.AsType[usageError](err)
	return ok
}

func misuse(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// Main runs the command line of a process that was called azsphere and returns its exit code.
func Main(ctx context.Context, version string) int {
	root := New(Standalone, version)
	root.SetIn(os.Stdin)
	root.SetOut(os.Stdout)
	root.SetErr(os.Stderr)
	root.SetArgs(os.Args[1:])
	return Code(root.ExecuteContext(ctx), os.Stderr)
}

// Code reports err to stderr and turns it into an exit code.
func Code(err error, stderr io.Writer) int {
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "azsphere: %v\n", err)
	if IsMisuse(err) {
		fmt.Fprintln(stderr, "azsphere: run the command with --help for examples")
		return exitMisuse
	}
	return exitFailed
}

// Names under which the tree is reached: what people type before its commands.
const (
	Standalone = "azsphere"
	Below      = "vauban sphere"
)

// tool is one command line.
type tool struct {
	name    string // as people type it, for hints and examples
	version string
	now     func() time.Time
	browse  func(ctx context.Context, url string) error // shows an address to somebody
	secret  func(r *run, prompt string) ([]byte, error) // asks for a password
}

// New returns the tree under one of its names.
func New(name, version string) *cobra.Command {
	return (&tool{name: name, version: version, now: time.Now, browse: browse, secret: readSecret}).root()
}

func (t *tool) root() *cobra.Command {
	words := strings.Fields(t.name)
	root := &cobra.Command{
		Use:   words[len(words)-1],
		Short: "Manage devices, tenants and trust, in the words of azsphere",
		Long: `Manage tenants (catalogs), products, device groups, devices and their certificate
authorities, with the commands of azsphere and of az sphere.

Start with:  ` + t.name + ` login
             ` + t.name + ` tenant create --name Contoso
             ` + t.name + ` tenant select --tenant Contoso

Where the original talks to hardware over USB, this talks to a device's local
servicing API: its address is the --device of a command, or is in AZSPHERE_DEVICE, as
unix:PATH or 127.0.0.1:PORT.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	if t.name == Standalone {
		root.Version = t.version
		root.SetVersionTemplate("azsphere {{.Version}}\n")
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(t.registerUser(), t.login(), t.logout(), t.showUser(), t.tenantCommand(), t.catalogCommand(), t.roleCommand(), t.productCommand(),
		t.deviceGroupCommand(), t.deploymentCommand(), t.deviceCommand(), t.caCommand(), t.supportData(), t.settingCommand(), t.showVersion("show-version"), t.showVersion("show-sdk-version"))
	for _, c := range all(root) {
		if check := c.Args; check != nil {
			c.Args = func(c *cobra.Command, args []string) error {
				err := check(c, args)
				if err == nil {
					err = c.ValidateFlagGroups() // cobra does, too, but its error would count as a failure
				}
				if err != nil {
					return usageError{err}
				}
				return nil
			}
		}
		c.Example = strings.ReplaceAll(c.Example, "azsphere ", t.name+" ")
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

// run is a command at work.
type run struct {
	*cobra.Command
	t      *tool
	output string
	where  place  // flags that name the server
	tenant string // flag
	device string // flag

	acc    *account
	server *server // once a command asked for it
}

// out prints v as JSON, or lets people have their form of it.
func (r *run) out(v any, people func(w io.Writer) error) error {
	if r.output == "json" {
		enc := json.NewEncoder(r.OutOrStdout())
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	w := tabwriter.NewWriter(r.OutOrStdout(), 0, 8, 2, ' ', 0)
	if err := people(w); err != nil {
		return err
	}
	return w.Flush()
}

// say prints a line for people; programs get v.
func (r *run) say(v any, format string, args ...any) error {
	return r.out(v, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, format+"\n", args...)
		return err
	})
}

// note tells people something beside the answer.
func (r *run) note(format string, args ...any) { fmt.Fprintf(r.ErrOrStderr(), format+"\n", args...) }

// hint is a command of this tree as it is typed.
func (r *run) hint(command string) string { return r.t.name + " " + command }

// lines prints names with values, and leaves out what has none.
func lines(w io.Writer, pairs ...string) {
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			fmt.Fprintf(w, "%s\t%s\n", pairs[i], pairs[i+1])
		}
	}
}

// command is what a command is made of beside its texts.
type command struct {
	*cobra.Command
	required []string // flags
	oneOf    []string // flags of which one is wanted
	server   bool     // it calls the server
	tenant   bool     // in a tenant
	device   bool     // about one device
	do       func(r *run) error
}

// make adds the flags that commands share, and the run.
func (t *tool) make(c command) *cobra.Command {
	r := &run{Command: c.Command, t: t}
	f := c.Flags()
	if c.Args == nil {
		c.Args = cobra.NoArgs
	}
	if c.device {
		f.StringVarP(&r.device, "device", "d", "", "device: its id of 128 hex digits, or where a device at hand is serviced\n(unix:PATH, 127.0.0.1:PORT); AZSPHERE_DEVICE when absent")
	}
	if c.tenant {
		f.StringVarP(&r.tenant, "tenant", "t", "", "tenant, by name or id; the selected one when absent")
		f.StringVarP(&r.tenant, "catalog", "c", "", "the same as --tenant, in the integrated spelling")
		resourceGroup(c.Command)
	}
	if c.server || c.tenant {
		r.where.flags(c.Command)
	}
	f.StringVarP(&r.output, "output", "o", "table", `"table" for people or "json" for programs`)
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if r.output != "table" && r.output != "json" {
			return misuse("unknown output %q (want \"table\" or \"json\")", r.output)
		}
		for _, name := range c.required {
			if f := cmd.Flag(name); f.Value.String() == "" {
				return misuse("--%s is required", name)
			}
		}
		if len(c.oneOf) > 0 {
			given := false
			for _, name := range c.oneOf {
				given = given || cmd.Flag(name).Changed
			}
			if !given {
				return misuse("give --%s", strings.Join(c.oneOf, ", --"))
			}
		}
		return r.explain(c.do(r))
	}
	return c.Command
}

// resourceGroup takes the parameters that az has for where a catalog is in a subscription; here there is one place.
func resourceGroup(c *cobra.Command) {
	for name, short := range map[string]string{"resource-group": "g", "subscription": ""} {
		c.Flags().StringP(name, short, "", "accepted for scripts of az sphere; makes no difference")
	}
}

// oneOf completes a flag that takes few words, and says which.
func oneOf(c *cobra.Command, name string, words ...string) {
	_ = c.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// among finds a word without regard to case.
func among(flag, value string, words ...string) (string, error) {
	for _, w := range words {
		if strings.EqualFold(w, value) {
			return w, nil
		}
	}
	return "", misuse("--%s is %q (want %s)", flag, value, strings.Join(words, ", "))
}

// when prints a time for people.
func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// client calls the API of the server.
func (r *run) client() (*sphere.Client, error) {
	s, err := r.find()
	if err != nil {
		return nil, err
	}
	return s.client()
}

func join[T ~string](words []T) string {
	all := make([]string, len(words))
	for i, w := range words {
		all[i] = string(w)
	}
	return strings.Join(all, ", ")
}

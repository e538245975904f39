package agentd

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/agent/collect/login"
)

// pamCommand is the helper that PAM calls (defender §3.3). pam_exec.so says the rest in the environment.
func pamCommand(name string) *cobra.Command {
	var path, output string
	c := &cobra.Command{
		Use:   "pam CODE",
		Short: "Note a login for the agent: what pam_exec.so calls",
		Long: `Note a login for the agent, which reads it when its twin says Login_UsePAM. This is what pam_exec.so
calls: CODE is 0 for a session that is opened, 1 for one that is closed, 2 for a login that failed.`,
		Example: "  " + `session optional pam_exec.so quiet seteuid type=open_session /usr/bin/` + name + ` pam 0
  session optional pam_exec.so quiet seteuid type=close_session /usr/bin/` + name + ` pam 1
  auth optional pam_exec.so quiet seteuid /usr/bin/` + name + ` pam 2`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := (&flags{output: output}).check(); err != nil {
				return err
			}
			code, err := strconv.Atoi(args[0])
			if err != nil {
				return usageError{fmt.Errorf("%q is no code of the helper: 0 is a login, 1 a logout, 2 a login that failed", args[0])}
			}
			return login.AppendPAM(path, code, os.Getenv, time.Now())
		},
	}
	c.Flags().StringVar(&path, "file", login.DefaultPAMLog, "the `file` that the agent reads")
	c.Flags().StringVarP(&output, "output", "o", "table", `"table" or "json": nothing is printed either way`)
	return c
}

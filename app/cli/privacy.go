package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/central/api"
)

func securityGroupPrivacy() *cobra.Command {
	var users, commands bool
	c := &cobra.Command{
		Use:   "privacy NAME",
		Short: "Show or say what is masked in the security messages of a group",
		Long: `Show what is masked in the security messages of a group, or set it with flags. Messages are
masked when they arrive, before they are stored or sent on anywhere.

  --user-names     names of users and of their groups become pseudonyms. The same name is
                   always the same one, and rules about users still find their users.
  --command-lines  of a command line the first word is left, so rules about what stands
                   behind it find nothing any more.

With either, lines of the agent's own log are masked too, and messages that cannot be read
are not kept. Paths of files and numbers of users stay.`,
		Example: `  vauban security-group privacy office
  vauban security-group privacy office --user-names --command-lines
  vauban security-group privacy office --user-names=false`,
		Args: cobra.ExactArgs(1),
	}
	c.Flags().BoolVar(&users, "user-names", false, "mask names of users")
	c.Flags().BoolVar(&commands, "command-lines", false, "mask command lines")
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		path := groupsPath + "/" + url.PathEscape(args[0]) + "/privacy"
		var p api.Privacy
		if err := callList(c, r, path, nil, &p); err != nil {
			return err
		}
		if c.Flags().Changed("user-names") || c.Flags().Changed("command-lines") {
			if c.Flags().Changed("user-names") {
				p.UserNames = users
			}
			if c.Flags().Changed("command-lines") {
				p.CommandLines = commands
			}
			body, err := json.Marshal(p)
			if err != nil {
				return err
			}
			if _, err := call(c, r, http.MethodPut, path, nil, bytes.NewReader(body), &p); err != nil {
				return err
			}
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), p)
		}
		masked := func(b bool) string {
			if b {
				return "masked"
			}
			return "kept"
		}
		fmt.Fprintf(c.OutOrStdout(), "user names are %s, command lines are %s\n", masked(p.UserNames), masked(p.CommandLines))
		return nil
	})
}

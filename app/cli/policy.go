package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/central/api"
)

func policyCommand() *cobra.Command {
	return group("policy", "List shared access policies and rotate their keys", policyList(), policyShow(), policyRotate())
}

// call asks the operator's API and reads its answer, also as it stands.
func call(c *cobra.Command, r *remote, method, path string, query url.Values, body io.Reader, into any) (raw []byte, err error) {
	res, err := r.api(c.Context(), method, path, query, body)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if raw, err = io.ReadAll(io.LimitReader(res.Body, maxArgument)); err != nil {
		return nil, err
	}
	if len(raw) == 0 || into == nil {
		return raw, nil
	}
	return raw, json.Unmarshal(raw, into)
}

func policyList() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List the policies of hub and provisioning with their rights",
		Example: `  vauban policy list
  vauban policy list --output json`,
		Args: cobra.NoArgs,
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, _ []string, out output) error {
		var list struct{ Policies []api.Policy }
		if _, err := call(c, r, http.MethodGet, "/api/policies", nil, nil, &list); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), list.Policies)
		}
		w := table(c.OutOrStdout())
		fmt.Fprintln(w, "POLICY\tSERVICE\tRIGHTS")
		for _, p := range list.Policies {
			fmt.Fprintf(w, "%s\t%s\t%s\n", p.Name, p.Service, p.Rights)
		}
		return w.Flush()
	})
}

func policyShow() *cobra.Command {
	c := &cobra.Command{
		Use:   "show NAME",
		Short: "Show a policy with its keys and connection strings",
		Example: `  vauban policy show service
  vauban policy show service --output json | jq -r .primaryConnectionString`,
		Args: cobra.ExactArgs(1),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		var p api.Policy
		if _, err := call(c, r, http.MethodGet, "/api/policies/"+url.PathEscape(args[0]), nil, nil, &p); err != nil {
			return err
		}
		return printPolicy(c, out, p)
	})
}

func policyRotate() *cobra.Command {
	var key string
	c := &cobra.Command{
		Use:   "rotate NAME",
		Short: "Give a policy a new key",
		Long: `Give a policy a new primary or secondary key, or swap the two. The key that goes signs
nothing from then on; sessions that devices opened with it stay. Both keys are good for
everything, so programs move without a pause:

  1. configure them with the secondary key, 2. rotate the primary key,
  3. configure them with the primary key, 4. rotate the secondary key.

connection.json follows at once.`,
		Example: `  vauban policy rotate service --key primary
  vauban policy rotate iothubowner --key swap --output json`,
		Args: cobra.ExactArgs(1),
	}
	c.Flags().StringVar(&key, "key", "", `"primary", "secondary" or "swap"`)
	_ = c.RegisterFlagCompletionFunc("key", cobra.FixedCompletions([]string{"primary", "secondary", "swap"}, cobra.ShellCompDirectiveNoFileComp))
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		if key == "" {
			return misuse("say which key: --key primary, --key secondary or --key swap")
		}
		body, err := json.Marshal(map[string]string{"key": key})
		if err != nil {
			return err
		}
		var p api.Policy
		if _, err := call(c, r, http.MethodPost, "/api/policies/"+url.PathEscape(args[0])+"/rotate", nil, bytes.NewReader(body), &p); err != nil {
			return err
		}
		return printPolicy(c, out, p)
	})
}

func printPolicy(c *cobra.Command, out output, p api.Policy) error {
	if out == "json" {
		return printJSON(c.OutOrStdout(), p)
	}
	_, err := fmt.Fprintf(c.OutOrStdout(), "%s (%s): %s\n\n  primary    %s\n  secondary  %s\n", p.Name, p.Service, p.Rights, p.PrimaryConnectionString, p.SecondaryConnectionString)
	return err
}

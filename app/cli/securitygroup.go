package cli

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/central/api"
)

const groupsPath = "/api/security-groups"

func securityGroupCommand() *cobra.Command {
	return group("security-group", "Say what the devices of a group may do", securityGroupList(), securityGroupShow(), securityGroupSet(), securityGroupDelete(), securityGroupPrivacy())
}

func securityGroupList() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List security groups and how many of their rules are enabled",
		Example: `  vauban security-group list
  vauban security-group list --output json`,
		Args: cobra.NoArgs,
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, _ []string, out output) error {
		var list struct{ Value []api.SecurityGroup }
		if err := callList(c, r, groupsPath, nil, &list); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), list.Value)
		}
		w := table(c.OutOrStdout())
		fmt.Fprintln(w, "GROUP\tOVER TIME\tTHRESHOLDS\tALLOW LISTS\tDENY LISTS")
		for _, g := range list.Value {
			var n [4]int
			p := g.Properties
			for _, x := range p.Window {
				n[0] += count(x.IsEnabled)
			}
			for _, x := range p.Threshold {
				n[1] += count(x.IsEnabled)
			}
			for _, x := range p.Allow {
				n[2] += count(x.IsEnabled)
			}
			for _, x := range p.Deny {
				n[3] += count(x.IsEnabled)
			}
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\n", g.Name, n[0], n[1], n[2], n[3])
		}
		return w.Flush()
	})
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

func securityGroupShow() *cobra.Command {
	c := &cobra.Command{
		Use:     "show NAME",
		Short:   "Show the rules of a security group (always JSON)",
		Example: `  vauban security-group show default > rules.json`,
		Args:    cobra.ExactArgs(1),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, _ output) error {
		var g api.SecurityGroup
		if err := callList(c, r, groupsPath+"/"+url.PathEscape(args[0]), nil, &g); err != nil {
			return err
		}
		return printJSON(c.OutOrStdout(), g)
	})
}

func securityGroupSet() *cobra.Command {
	c := &cobra.Command{
		Use:   "set NAME FILE",
		Short: "Set the rules of a security group",
		Long: `Set the rules of the devices whose tag SecurityGroup is NAME; those without the tag are in the
group default. FILE is JSON in the shape of Azure's deviceSecurityGroups, as vauban
security-group show prints it; - reads standard input. Rules it does not name are disabled.

  {"properties": {
    "timeWindowRules": [{"ruleType": "MqttD2CMessagesNotInAllowedRange", "isEnabled": true,
                         "minThreshold": 1, "maxThreshold": 600, "timeWindowSize": "PT10M"}],
    "allowlistRules":  [{"ruleType": "ConnectionToIpNotAllowed", "isEnabled": true,
                         "allowlistValues": ["10.0.0.0/8", "2001:db8::/32"]}]}}

A device that moves to another group (vauban twin update) is judged by that group's rules at
once.`,
		Example: `  vauban security-group set plant rules.json
  vauban security-group set default - < rules.json`,
		Args: cobra.ExactArgs(2),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		body, err := readArgument(c, args[1])
		if err != nil {
			return err
		}
		var g api.SecurityGroup
		if _, err := call(c, r, http.MethodPut, groupsPath+"/"+url.PathEscape(args[0]), nil, bytes.NewReader(body), &g); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), g)
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "the rules of %s hold\n", g.Name)
		return err
	})
}

func securityGroupDelete() *cobra.Command {
	c := &cobra.Command{
		Use:     "delete NAME",
		Short:   "Forget the rules of a security group",
		Example: `  vauban security-group delete plant`,
		Args:    cobra.ExactArgs(1),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		if _, err := call(c, r, http.MethodDelete, groupsPath+"/"+url.PathEscape(args[0]), nil, nil, nil); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), map[string]string{"deleted": args[0]})
		}
		_, err := fmt.Fprintf(c.OutOrStdout(), "%s has no rules\n", args[0])
		return err
	})
}

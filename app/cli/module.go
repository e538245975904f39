package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/sdk/service"
)

func moduleCommand() *cobra.Command {
	return group("module", "Manage the modules of devices", moduleCreate(), moduleList(), moduleDelete())
}

func modulePath(device, module string) string {
	return service.DevicePath(device) + "/modules/" + url.PathEscape(module)
}

// moduleIdentity is the hub's record of a module.
type moduleIdentity struct {
	service.Identity
	ModuleID string `json:"moduleId"`
}

func moduleCreate() *cobra.Command {
	c := &cobra.Command{
		Use:   "create DEVICE MODULE",
		Short: "Add a module to a device",
		Long: `Add a module to a device and print how it connects. It gets two new symmetric keys. The Linux agent
is the module DefenderIotMicroAgent, or azureiotsecurity, of its device.`,
		Example: `  vauban module create lamp-1 DefenderIotMicroAgent
  vauban module create lamp-1 azureiotsecurity --output json`,
		Args: cobra.ExactArgs(2),
	}
	return hubCommand(c, func(c *cobra.Command, hub *service.Client, r *remote, args []string, out output) error {
		text, err := hub.Do(c.Context(), http.MethodPut, modulePath(args[0], args[1]), "", nil, map[string]string{"deviceId": args[0], "moduleId": args[1]})
		if err != nil {
			return err
		}
		var id moduleIdentity
		if err := json.Unmarshal(text, &id); err != nil {
			return fmt.Errorf("unreadable answer: %w", err)
		}
		conn := fmt.Sprintf("HostName=%s;DeviceId=%s;ModuleId=%s;SharedAccessKey=%s", r.conn.Hub.Hostname, id.DeviceID, id.ModuleID, id.Authentication.SymmetricKey.PrimaryKey)
		if out == "json" {
			return printJSON(c.OutOrStdout(), struct {
				Module           json.RawMessage `json:"module"`
				ConnectionString string          `json:"connectionString"`
			}{text, conn})
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "%s of %s added. It connects with:\n\n  %s\n\nand trusts %s\n", id.ModuleID, id.DeviceID, conn, r.conn.CA)
		return err
	})
}

func moduleList() *cobra.Command {
	c := &cobra.Command{
		Use:   "list DEVICE",
		Short: "List the modules of a device",
		Example: `  vauban module list lamp-1
  vauban module list lamp-1 --output json`,
		Args: cobra.ExactArgs(1),
	}
	return hubCommand(c, func(c *cobra.Command, hub *service.Client, _ *remote, args []string, out output) error {
		text, err := hub.Do(c.Context(), http.MethodGet, service.DevicePath(args[0])+"/modules", "", nil, nil)
		if err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), json.RawMessage(text))
		}
		var list []moduleIdentity
		if err := json.Unmarshal(text, &list); err != nil {
			return fmt.Errorf("unreadable answer: %w", err)
		}
		w := table(c.OutOrStdout())
		fmt.Fprintln(w, "MODULE\tCONNECTION\tAUTHENTICATION")
		for _, m := range list {
			fmt.Fprintf(w, "%s\t%s\t%s\n", m.ModuleID, m.ConnectionState, m.Authentication.Type)
		}
		return w.Flush()
	})
}

func moduleDelete() *cobra.Command {
	c := &cobra.Command{
		Use:     "delete DEVICE MODULE",
		Short:   "Remove a module of a device, with its twin",
		Example: `  vauban module delete lamp-1 DefenderIotMicroAgent`,
		Args:    cobra.ExactArgs(2),
	}
	return hubCommand(c, func(c *cobra.Command, hub *service.Client, _ *remote, args []string, out output) error {
		if _, err := hub.Do(c.Context(), http.MethodDelete, modulePath(args[0], args[1]), "*", nil, nil); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), map[string]string{"deleted": args[0] + "/" + args[1]})
		}
		_, err := fmt.Fprintf(c.OutOrStdout(), "%s of %s is gone\n", args[1], args[0])
		return err
	})
}

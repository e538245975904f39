package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"

	"github.com/spf13/cobra"
)

func routeCommand() *cobra.Command {
	return group("route", "Say where device messages and events go", routeShow(), routeSet(), deadLettersCommand())
}

func routeShow() *cobra.Command {
	c := &cobra.Command{
		Use:   "show",
		Short: "Show where device messages go (always JSON)",
		Example: `  vauban route show
  vauban route show > routing.json`,
		Args: cobra.NoArgs,
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, _ []string, _ output) error {
		res, err := r.api(c.Context(), http.MethodGet, "/api/routing", nil, nil)
		if err != nil {
			return err
		}
		return printAnswer(c, res)
	})
}

func routeSet() *cobra.Command {
	c := &cobra.Command{
		Use:   "set FILE",
		Short: "Replace where device messages go",
		Long: `Replace routes, endpoints and enrichments by those of a JSON file; - reads standard
input. A message goes to the endpoints of every route whose condition it meets, and to
the fallback when it meets none. Conditions are those of Azure's routing queries.

  {"endpoints": [{"name": "lake", "type": "storage"},
                 {"name": "hook", "type": "webhook", "url": "https://erp.example/iot"}],
   "routes":    [{"name": "hot", "source": "DeviceMessages",
                  "condition": "$body.temperature > 80 AND $twin.tags.site = 'lyon'",
                  "endpointNames": ["hook", "lake"]}],
   "enrichments": [{"key": "site", "value": "$twin.tags.site", "endpointNames": ["hook"]}]}

Sources are DeviceMessages and the hub's events: TwinChangeEvents, DeviceLifecycleEvents,
DeviceConnectionStateEvents, DeviceJobLifecycleEvents and DigitalTwinChangeEvents.

Endpoints are of type storage (files in the folder "routed" of the data folder: lines of
JSON, or with "encoding": "Avro" object container files), webhook, nats (a subject of a
JetStream stream), and kafka (a topic). "events"
is the log that the console and monitor read; it has every message.`,
		Example: `  vauban route set routing.json
  vauban route show | jq '.routes[0].isEnabled = false' | vauban route set -`,
		Args: cobra.ExactArgs(1),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, _ output) error {
		in := c.InOrStdin()
		if args[0] != "-" {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			in = f
		}
		res, err := r.api(c.Context(), http.MethodPut, "/api/routing", nil, io.LimitReader(in, maxArgument))
		if err != nil {
			return err
		}
		return printAnswer(c, res)
	})
}

// printAnswer prints a JSON answer for people and programs alike.
func printAnswer(c *cobra.Command, res *http.Response) error {
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxArgument))
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, data, "", "  "); err != nil {
		return err
	}
	_, err = b.WriteTo(c.OutOrStdout())
	return err
}

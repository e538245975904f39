package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/hub/eventgrid"
)

func sortedNames(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

func subscriptionCommand() *cobra.Command {
	return group("event-subscription", "Send device events to webhooks, as Azure Event Grid does", subscriptionList(), subscriptionSet(), subscriptionDelete())
}

func subscriptionList() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List the webhooks that get device events",
		Example: `  vauban event-subscription list
  vauban event-subscription list --output json`,
		Args: cobra.NoArgs,
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, _ []string, out output) error {
		var list struct{ Subscriptions []eventgrid.Subscription }
		if _, err := call(c, r, http.MethodGet, "/api/event-subscriptions", nil, nil, &list); err != nil {
			return err
		}
		return printSubscriptions(c, out, list.Subscriptions)
	})
}

func subscriptionSet() *cobra.Command {
	var s eventgrid.Subscription
	c := &cobra.Command{
		Use:   "set NAME",
		Short: "Add a webhook, or change one",
		Long: `Send events to a webhook: devices that are created, deleted, connected and disconnected, and
their telemetry, in the schema of Azure Event Grid or as CloudEvents 1.0. The webhook must
agree first, by Event Grid's validation handshake: it repeats the code it is sent, or its
owner opens the address in that request within ten minutes.

A webhook that fails is tried again for a day, later and later; then its event is given up,
which vauban_azure_event_grid_deliveries_total{Result="dead"} counts.`,
		Example: `  vauban event-subscription set erp --url https://erp.example/iot
  vauban event-subscription set crm --url https://crm.example/hook --schema CloudEventSchemaV1_0
  vauban event-subscription set new --url https://x.example --type Microsoft.Devices.DeviceCreated`,
		Args: cobra.ExactArgs(1),
	}
	f := c.Flags()
	f.StringVar(&s.URL, "url", "", "address of the webhook")
	f.StringVar(&s.Header, "header", "", `one more header, as "Name: value"`)
	f.StringArrayVar(&s.Types, "type", nil, "a type of events, such as Microsoft.Devices.DeviceConnected; may be given again; all when absent")
	f.StringVar(&s.Begins, "subject-begins-with", "", "only subjects that begin so, such as devices/lamp")
	f.StringVar(&s.Ends, "subject-ends-with", "", "only subjects that end so")
	f.StringVar(&s.Schema, "schema", "", "EventGridSchema or CloudEventSchemaV1_0")
	f.IntVar(&s.BatchEvents, "batch", 0, "at most so many events in one request")
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		if s.URL == "" {
			return misuse("say where the webhook is: --url https://...")
		}
		text, err := json.Marshal(s)
		if err != nil {
			return err
		}
		var set eventgrid.Subscription
		if _, err := call(c, r, http.MethodPut, "/api/event-subscriptions/"+url.PathEscape(args[0]), nil, bytes.NewReader(text), &set); err != nil {
			return err
		}
		if set.State == eventgrid.Awaiting {
			fmt.Fprintln(c.ErrOrStderr(), "vauban: the webhook did not repeat the validation code; it gets events once somebody opens the validationUrl it was sent")
		}
		return printSubscriptions(c, out, []eventgrid.Subscription{set})
	})
}

func subscriptionDelete() *cobra.Command {
	c := &cobra.Command{
		Use:   "delete NAME",
		Short: "Send a webhook no more events",
		Example: `  vauban event-subscription delete erp
  vauban event-subscription delete erp --output json`,
		Args: cobra.ExactArgs(1),
	}
	return apiCommand(c, func(c *cobra.Command, r *remote, args []string, out output) error {
		if _, err := call(c, r, http.MethodDelete, "/api/event-subscriptions/"+url.PathEscape(args[0]), nil, nil, nil); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), map[string]string{"deleted": args[0]})
		}
		_, err := fmt.Fprintf(c.OutOrStdout(), "%s deleted\n", args[0])
		return err
	})
}

func printSubscriptions(c *cobra.Command, out output, list []eventgrid.Subscription) error {
	if out == "json" {
		return printJSON(c.OutOrStdout(), list)
	}
	w := table(c.OutOrStdout())
	fmt.Fprintln(w, "SUBSCRIPTION\tSTATE\tSCHEMA\tTYPES\tURL")
	for _, s := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", s.Name, s.State, s.Schema, len(s.Types), s.URL)
	}
	return w.Flush()
}

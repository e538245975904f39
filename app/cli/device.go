package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/sdk/service"
)

// hubCommand is a command that calls the hub.
func hubCommand(c *cobra.Command, run func(c *cobra.Command, hub *service.Client, r *remote, args []string, out output) error) *cobra.Command {
	var data string
	var out output
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := out.check(); err != nil {
			return err
		}
		r, err := dialRemote(data)
		if err != nil {
			return err
		}
		hub, err := r.hub()
		if err != nil {
			return err
		}
		return run(c, hub, r, args, out)
	}
	dataFlag(c, &data)
	out.register(c)
	return c
}

func deviceCommand() *cobra.Command {
	return group("device", "Manage device identities", deviceCreate(), deviceList(), deviceShow(), deviceDelete(), deviceImport(), deviceExport())
}

func deviceCreate() *cobra.Command {
	var d service.Device
	c := &cobra.Command{
		Use:   "create ID",
		Short: "Add a device",
		Long: `Add a device to the registry and print how it connects. Without options it gets two
new symmetric keys.`,
		Example: `  vauban device create lamp-1
  vauban device create press-7 --primary-thumbprint 5A:1F:...
  vauban device create meter-3 --ca --output json`,
		Args: cobra.ExactArgs(1),
	}
	c.Flags().StringVar(&d.PrimaryKey, "primary-key", "", "base64 key of 16 to 64 bytes; generated when absent")
	c.Flags().StringVar(&d.SecondaryKey, "secondary-key", "", "second key, likewise")
	c.Flags().StringVar(&d.PrimaryThumbprint, "primary-thumbprint", "", "SHA-1 or SHA-256 of the device's certificate, in hex")
	c.Flags().StringVar(&d.SecondaryThumbprint, "secondary-thumbprint", "", "second thumbprint")
	c.Flags().BoolVar(&d.CertificateSigned, "ca", false, "the device proves itself by a certificate of a trusted CA")
	c.Flags().BoolVar(&d.Edge, "edge", false, "the device is an IoT Edge gateway")
	c.Flags().BoolVar(&d.Disabled, "disabled", false, "add it without letting it connect yet")
	c.MarkFlagsMutuallyExclusive("ca", "primary-key")
	c.MarkFlagsMutuallyExclusive("ca", "primary-thumbprint")
	c.MarkFlagsMutuallyExclusive("primary-thumbprint", "primary-key")
	return hubCommand(c, func(c *cobra.Command, hub *service.Client, r *remote, args []string, out output) error {
		d.ID = args[0]
		id, err := hub.CreateDevice(c.Context(), d)
		if err != nil {
			return err
		}
		conn := deviceConnection(r, id)
		if out == "json" {
			return printJSON(c.OutOrStdout(), struct {
				Device           json.RawMessage `json:"device"`
				ConnectionString string          `json:"connectionString"`
			}{id.Raw, conn})
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "%s added. It connects with:\n\n  %s\n\nand trusts %s\n", id.DeviceID, conn, r.conn.CA)
		return err
	})
}

// deviceConnection is the connection string a device SDK is configured with.
func deviceConnection(r *remote, d service.Identity) string {
	s := "HostName=" + r.conn.Hub.Hostname + ";DeviceId=" + d.DeviceID
	if key := d.Authentication.SymmetricKey.PrimaryKey; key != "" {
		return s + ";SharedAccessKey=" + key
	}
	return s + ";x509=true"
}

func deviceList() *cobra.Command {
	var top int
	c := &cobra.Command{
		Use:   "list",
		Short: "List devices with their state",
		Example: `  vauban device list
  vauban device list --top 20 --output json`,
		Args: cobra.NoArgs,
	}
	c.Flags().IntVar(&top, "top", 1000, "at most this many, 1 to 1000")
	return hubCommand(c, func(c *cobra.Command, hub *service.Client, _ *remote, _ []string, out output) error {
		ds, err := hub.Devices(c.Context(), top)
		if err != nil {
			return err
		}
		if out == "json" {
			raws := make([]json.RawMessage, len(ds))
			for i := range ds {
				raws[i] = ds[i].Raw
			}
			return printJSON(c.OutOrStdout(), raws)
		}
		if len(ds) == 0 {
			fmt.Fprintln(c.ErrOrStderr(), "no device yet; add one with: vauban device create lamp-1")
			return nil
		}
		w := table(c.OutOrStdout())
		fmt.Fprintln(w, "DEVICE\tSTATE\tSTATUS\tAUTHENTICATION\tLAST ACTIVITY")
		for _, d := range ds {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", d.DeviceID, d.ConnectionState, d.Status, d.Authentication.Type, when(d.LastActivityTime))
		}
		return w.Flush()
	})
}

func table(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 0, 0, 3, ' ', 0) }

// when renders a time of the wire for people; Azure's zero is "never".
func when(s string) string {
	if s == "" || strings.HasPrefix(s, "0001-01-01") {
		return "never"
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return s
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

func deviceShow() *cobra.Command {
	var secrets bool
	c := &cobra.Command{
		Use:   "show ID",
		Short: "Show one device",
		Long:  "Show one device. Its keys are printed only with --secrets.",
		Example: `  vauban device show lamp-1
  vauban device show lamp-1 --secrets --output json`,
		Args: cobra.ExactArgs(1),
	}
	c.Flags().BoolVar(&secrets, "secrets", false, "print the keys and the connection string, too")
	return hubCommand(c, func(c *cobra.Command, hub *service.Client, r *remote, args []string, out output) error {
		d, err := hub.Device(c.Context(), args[0])
		if err != nil {
			return err
		}
		if out == "json" {
			doc := d.Raw
			if !secrets {
				if doc, err = withoutKeys(doc); err != nil {
					return err
				}
			}
			return printJSON(c.OutOrStdout(), doc)
		}
		w := table(c.OutOrStdout())
		fmt.Fprintf(w, "device\t%s\nstate\t%s\nstatus\t%s\nauthentication\t%s\nlast activity\t%s\nwaiting messages\t%d\ngeneration\t%s\n",
			d.DeviceID, d.ConnectionState, d.Status, d.Authentication.Type, when(d.LastActivityTime), d.Pending, d.GenerationID)
		if t := d.Authentication.X509Thumbprint; t.PrimaryThumbprint != "" || t.SecondaryThumbprint != "" {
			fmt.Fprintf(w, "thumbprints\t%s %s\n", t.PrimaryThumbprint, t.SecondaryThumbprint)
		}
		if secrets {
			fmt.Fprintf(w, "connection string\t%s\n", deviceConnection(r, d))
		}
		return w.Flush()
	})
}

// withoutKeys blanks the symmetric keys of an identity document.
func withoutKeys(doc json.RawMessage) (json.RawMessage, error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(doc, &m); err != nil {
		return nil, err
	}
	var auth map[string]json.RawMessage
	if err := json.Unmarshal(m["authentication"], &auth); err != nil {
		return nil, err
	}
	auth["symmetricKey"] = json.RawMessage(`{"primaryKey":null,"secondaryKey":null}`)
	var err error
	if m["authentication"], err = json.Marshal(auth); err != nil {
		return nil, err
	}
	return json.Marshal(m)
}

func deviceDelete() *cobra.Command {
	c := &cobra.Command{
		Use:     "delete ID",
		Short:   "Remove a device, its twin and its waiting messages",
		Example: `  vauban device delete lamp-1`,
		Args:    cobra.ExactArgs(1),
	}
	return hubCommand(c, func(c *cobra.Command, hub *service.Client, _ *remote, args []string, out output) error {
		if err := hub.DeleteDevice(c.Context(), args[0]); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), map[string]string{"deleted": args[0]})
		}
		_, err := fmt.Fprintf(c.OutOrStdout(), "%s removed\n", args[0])
		return err
	})
}

func twinCommand() *cobra.Command {
	return group("twin", "Read and change device twins", twinShow(), twinUpdate())
}

// twinPath is the twin of a device or, unless that is empty, of its module.
func twinPath(device, module string) string {
	if module == "" {
		return service.TwinPath(device)
	}
	return service.TwinPath(device) + "/modules/" + url.PathEscape(module)
}

func twinShow() *cobra.Command {
	var module string
	c := &cobra.Command{
		Use:   "show ID",
		Short: "Show a device's twin (always JSON)",
		Example: `  vauban twin show lamp-1
  vauban twin show lamp-1 --module DefenderIotMicroAgent`,
		Args: cobra.ExactArgs(1),
	}
	c.Flags().StringVar(&module, "module", "", "the twin of this module of the device")
	return hubCommand(c, func(c *cobra.Command, hub *service.Client, _ *remote, args []string, _ output) error {
		doc, err := hub.Do(c.Context(), http.MethodGet, twinPath(args[0], module), "", nil, nil)
		if err != nil {
			return err
		}
		return printJSON(c.OutOrStdout(), json.RawMessage(doc))
	})
}

func twinUpdate() *cobra.Command {
	var desired, tags, ifMatch, module string
	c := &cobra.Command{
		Use:   "update ID",
		Short: "Merge tags and desired properties into a device's twin",
		Long: `Merge JSON objects into the twin: a null removes a member, objects merge, other
values replace. A connected device receives the desired part at once. The new
twin is printed. A value @FILE is read from a file, @- from standard input.`,
		Example: `  vauban twin update lamp-1 --desired '{"interval":10}'
  vauban twin update lamp-1 --tags '{"site":"lyon"}' --desired @settings.json
  vauban twin update lamp-1 --module DefenderIotMicroAgent --desired '{"SBoM_Disabled":true}'`,
		Args: cobra.ExactArgs(1),
	}
	c.Flags().StringVar(&desired, "desired", "", "JSON object to merge into the desired properties")
	c.Flags().StringVar(&tags, "tags", "", "JSON object to merge into the tags")
	c.Flags().StringVar(&ifMatch, "if-match", "", "only if the twin's etag is this one")
	c.Flags().StringVar(&module, "module", "", "the twin of this module of the device")
	c.MarkFlagsOneRequired("desired", "tags")
	return hubCommand(c, func(c *cobra.Command, hub *service.Client, _ *remote, args []string, _ output) error {
		patch := map[string]any{}
		if desired != "" {
			v, err := jsonArgument(c, "--desired", desired)
			if err != nil {
				return err
			}
			patch["properties"] = map[string]any{"desired": v}
		}
		if tags != "" {
			v, err := jsonArgument(c, "--tags", tags)
			if err != nil {
				return err
			}
			patch["tags"] = v
		}
		data, err := json.Marshal(patch)
		if err != nil {
			return err
		}
		doc, err := hub.Do(c.Context(), http.MethodPatch, twinPath(args[0], module), ifMatch, nil, data)
		if err != nil {
			return err
		}
		return printJSON(c.OutOrStdout(), json.RawMessage(doc))
	})
}

// maxArgument bounds what is read of a file or standard input.
const maxArgument = 1 << 20

// jsonArgument reads a JSON value given as text, @FILE or @-.
func jsonArgument(c *cobra.Command, flag, value string) (json.RawMessage, error) {
	text := []byte(value)
	if name, ok := strings.CutPrefix(value, "@"); ok {
		var err error
		if name == "-" {
			text, err = io.ReadAll(io.LimitReader(c.InOrStdin(), maxArgument))
		} else {
			text, err = os.ReadFile(name)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", flag, err)
		}
	}
	if !json.Valid(text) {
		return nil, misuse("%s is not JSON; quote it for the shell, as in %s '{\"a\":1}'", flag, flag)
	}
	return text, nil
}

func methodCommand() *cobra.Command {
	return group("method", "Call direct methods", methodInvoke())
}

func methodInvoke() *cobra.Command {
	var payload string
	var response, connect time.Duration
	c := &cobra.Command{
		Use:   "invoke ID METHOD",
		Short: "Call a method of a device and print its answer",
		Long: `Call a direct method of a connected device and print the status and payload it
answers. With --connect-timeout a device that is not connected is waited for.`,
		Example: `  vauban method invoke lamp-1 reboot
  vauban method invoke lamp-1 setLedState --payload true --timeout 10s`,
		Args: cobra.ExactArgs(2),
	}
	c.Flags().StringVar(&payload, "payload", "null", "JSON value, @FILE or @- for standard input")
	c.Flags().DurationVar(&response, "timeout", 30*time.Second, "how long the device may take, 5s to 5m")
	c.Flags().DurationVar(&connect, "connect-timeout", 0, "how long to wait for the device to connect, up to 5m")
	return hubCommand(c, func(c *cobra.Command, hub *service.Client, _ *remote, args []string, out output) error {
		body, err := jsonArgument(c, "--payload", payload)
		if err != nil {
			return err
		}
		res, err := hub.InvokeMethod(c.Context(), args[0], args[1], body, response, connect)
		if err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), res)
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "status %d\n%s\n", res.Status, res.Payload)
		return err
	})
}

func messageCommand() *cobra.Command {
	return group("message", "Send messages to devices", messageSend())
}

func messageSend() *cobra.Command {
	c := &cobra.Command{
		Use:   "send ID TEXT",
		Short: "Queue a cloud-to-device message",
		Long: `Queue a message for a device. It waits up to an hour until the device takes it; 50 may
wait at once.`,
		Example: `  vauban message send lamp-1 'firmware 1.4 is ready'`,
		Args:    cobra.ExactArgs(2),
	}
	return hubCommand(c, func(c *cobra.Command, hub *service.Client, _ *remote, args []string, out output) error {
		path := service.DevicePath(args[0]) + "/messages/deviceBound"
		if _, err := hub.Do(c.Context(), "POST", path, "", url.Values{}, []byte(args[1])); err != nil {
			return err
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), map[string]string{"queuedFor": args[0]})
		}
		_, err := fmt.Fprintf(c.OutOrStdout(), "queued for %s\n", args[0])
		return err
	})
}

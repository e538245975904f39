package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/app/up"
)

func upCommand() *cobra.Command {
	cfg := up.Default()
	cfg.Data = defaultData()
	var out output
	var verbose bool
	c := &cobra.Command{
		Use:   "up",
		Short: "Run the whole platform on this machine",
		Long: `Run hub, provisioning, defence and console in this process, with everything they
need embedded. The first start makes a certificate authority, keys, an id scope
and an administrator's secret that belong to this installation alone, and keeps
them in the data folder; later starts find everything as it was.

When every listener answers, a summary is printed, or with --output json exactly
one line, which is also kept in DATA/connection.json (readable by you alone).

Indicator lists (one address or prefix a line, # for comments) are read from
DATA/intel/*.txt and again whenever they change.

Interrupt once to drain devices and stop; twice to exit at once.`,
		Example: `  vauban up
  vauban up --demo
  vauban up --listen 0.0.0.0 --hostname hub.plant.example --data /var/lib/vauban`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			level := slog.LevelWarn
			if verbose {
				level = slog.LevelInfo
			}
			cfg.Logger = slog.New(slog.NewTextHandler(c.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
			cfg.Version = version()
			cfg.Notice = func(text string) { fmt.Fprintln(c.ErrOrStderr(), "vauban: "+text) }
			cfg.Ready = func(conn up.Connection) error {
				if out == "json" {
					return json.NewEncoder(c.OutOrStdout()).Encode(conn)
				}
				return summary(c.OutOrStdout(), cfg, conn)
			}
			return up.Run(c.Context(), cfg)
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Data, "data", cfg.Data, "folder of everything that is kept")
	f.StringVar(&cfg.Listen, "listen", cfg.Listen, "IP address to listen on; 0.0.0.0 for all networks")
	f.StringVar(&cfg.Hostname, "hostname", cfg.Hostname, "name under which devices and programs reach this machine")
	f.IntVar(&cfg.MQTTPort, "mqtt-port", cfg.MQTTPort, "port for MQTT over TLS; 0 for any free one")
	f.IntVar(&cfg.HTTPSPort, "https-port", cfg.HTTPSPort, "port for REST and console; 0 for any free one")
	f.IntVar(&cfg.AMQPPort, "amqp-port", cfg.AMQPPort, "port where AMQP clients are told that AMQP is not served yet; 0 for any free one")
	f.StringSliceVar(&cfg.BlobHosts, "blob-hosts", nil, "hosts whose blob containers imports and exports of devices may use beside this machine, such as *.blob.core.windows.net")
	f.BoolVar(&cfg.Demo, "demo", false, "add virtual boards that provision, send telemetry and misbehave")
	f.BoolVar(&cfg.StaticRSA, "static-rsa", false, "also take TLS_RSA_WITH_AES_128_CBC_SHA256 over MQTT: old firmware has nothing else; no forward secrecy")
	f.BoolVar(&cfg.FaultInjection, "fault-injection", false, "let devices ask for broken connections and refusals (AzIoTHub_FaultOperationType), as the SDKs' end-to-end suites do; never in production")
	_ = f.MarkHidden("fault-injection") // the flag is there: it was made in the line above
	f.BoolVarP(&verbose, "verbose", "v", false, "log connections refused and changes made, too")
	out.register(c)
	return c
}

func summary(w io.Writer, cfg up.Config, c up.Connection) error {
	_, err := fmt.Fprintf(w, `Vauban %s is up.

  Console    %s   (user %s, password %s)
  Devices    mqtts://%s:%d   (id scope %s)
  Services   %s
  CA         %s
  All of it  %s

Next:  vauban device create lamp-1
`, cfg.Version, c.Console.URL, c.Console.User, c.Console.Password, c.Hub.Hostname, c.Ports.MQTT, c.DPS.IDScope,
		c.API.URL, c.CA, under(cfg.Data, up.ConnectionFile))
	return err
}

package cli

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/app/node"
	"github.com/vauban-iot/vauban/app/serve"
	"github.com/vauban-iot/vauban/config"
)

const defaultConfig = "/etc/vauban/vauban.toml"

func configFlag(c *cobra.Command, path *string) {
	c.Flags().StringVar(path, "config", defaultConfig, "configuration file")
}

func serveCommand() *cobra.Command {
	var path string
	var out output
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run a server as a configuration file says, alone or in a cluster",
		Long: `Run hub, provisioning, defence and console over the database and the log that a
configuration file names: SQLite or PostgreSQL; files, NATS inside it or a NATS cluster.
Servers that share a PostgreSQL database, a NATS cluster, the master key and a copy
of the certificates are one hub: a device on any of them is reached from all.

An external NATS server needs JetStream with sync_interval: always, since Vauban
acknowledges what is on disk, and max_payload of at least 5MB.

A reverse proxy must not end TLS: devices prove themselves in the handshake. Spread
connections over the servers by TCP.`,
		Example: `  vauban serve --config /etc/vauban/vauban.toml
  VAUBAN_LISTEN=127.0.0.2 vauban serve --config vauban.toml --output json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			cfg, err := config.Load(path, os.Environ())
			if err != nil {
				return err
			}
			return serve.Run(c.Context(), cfg, serve.Options{
				Version: version(),
				Logger:  logger(c, cfg.Log),
				Notice:  func(text string) { fmt.Fprintln(c.ErrOrStderr(), "vauban: "+text) },
				Ready: func(conn node.Connection) error {
					if out == "json" {
						return json.NewEncoder(c.OutOrStdout()).Encode(conn)
					}
					_, err := fmt.Fprintf(c.OutOrStdout(), "Vauban %s serves %s: MQTT %d, HTTPS %d, AMQP %d. Its secrets are in %s.\n",
						version(), conn.Hub.Hostname, conn.Ports.MQTT, conn.Ports.HTTPS, conn.Ports.AMQP, cfg.Connection)
					return err
				},
			})
		},
	}
	configFlag(c, &path)
	out.register(c)
	return c
}

func logger(c *cobra.Command, l config.Log) *slog.Logger {
	o := &slog.HandlerOptions{Level: l.Level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(c.ErrOrStderr(), o))
	}
	return slog.New(slog.NewTextHandler(c.ErrOrStderr(), o))
}

func configCommand() *cobra.Command {
	return group("config", "Check and show a server's configuration", configCheck(), configShow())
}

func configCheck() *cobra.Command {
	var path string
	var out output
	c := &cobra.Command{
		Use:   "check",
		Short: "Check a configuration file and print every problem with its place",
		Long: `Check a configuration file, together with VAUBAN_... in the environment, without starting
anything. Problems make the exit code 3.`,
		Example: `  vauban config check --config vauban.toml
  vauban config check --config vauban.toml --output json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			_, err := config.Load(path, os.Environ())
			problems, found := err.(config.Problems) //nolint:errorlint // Load returns it bare
			if err != nil && !found {
				return err
			}
			if out == "json" {
				type problem struct {
					Place string `json:"place"`
					Key   string `json:"key,omitempty"`
					Text  string `json:"text"`
				}
				list := []problem{}
				for _, p := range problems {
					list = append(list, problem(p))
				}
				if err := printJSON(c.OutOrStdout(), list); err != nil {
					return err
				}
			} else {
				for _, p := range problems {
					fmt.Fprintln(c.OutOrStdout(), p)
				}
			}
			if found {
				return foundError{fmt.Errorf("%s has problems: %d", path, len(problems))}
			}
			if out == "table" {
				fmt.Fprintf(c.OutOrStdout(), "%s is good\n", path)
			}
			return nil
		},
	}
	configFlag(c, &path)
	out.register(c)
	return c
}

func configShow() *cobra.Command {
	var path string
	var origin bool
	var out output
	c := &cobra.Command{
		Use:   "show",
		Short: "Show every value that a server would use",
		Example: `  vauban config show --config vauban.toml
  vauban config show --config vauban.toml --origin`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			cfg, err := config.Load(path, os.Environ())
			if err != nil {
				return err
			}
			if out == "json" {
				return printJSON(c.OutOrStdout(), cfg.Values())
			}
			w := table(c.OutOrStdout())
			for _, v := range cfg.Values() {
				if origin {
					fmt.Fprintf(w, "%s\t= %s\t# %s\n", v.Key, v.Value, v.Origin)
				} else {
					fmt.Fprintf(w, "%s\t= %s\n", v.Key, v.Value)
				}
			}
			return w.Flush()
		},
	}
	configFlag(c, &path)
	c.Flags().BoolVar(&origin, "origin", false, "tell where each value comes from")
	out.register(c)
	return c
}

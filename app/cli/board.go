package cli

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/app/up"
	"github.com/vauban-iot/vauban/sdk/sphere"
	"github.com/vauban-iot/vauban/sim/board"
	"github.com/vauban-iot/vauban/sim/device"
)

func boardCommand() *cobra.Command {
	c := group("board", "Run virtual boards", boardRun(), boardSphere())
	c.Long = `Run virtual boards: an STM32 board with a real-time kernel, sensors and the getting-started firmware,
or a board of the Security Service.`
	return c
}

func boardSphere() *cobra.Command {
	c := group("sphere", "Run a virtual board of the Security Service", boardSphereRun(), boardSphereTrust())
	c.Long = `Run a virtual board of the Security Service: it holds a key, proves itself with it and with the
hash of its own program, is claimed with "vauban sphere device claim", gets a certificate of a day
below the CA of its tenant, provisions itself with that and sends telemetry.

A board is a folder. Its key in there is a file, and proves nothing about hardware.`
	return c
}

// boardVersion is the operating system's version that boards tell unless it is set.
const boardVersion = "1.0"

func boardSphereRun() *cobra.Command {
	var data, dir, server, ca, scope, mqtt, version, servicing string
	var interval, renew time.Duration
	c := &cobra.Command{
		Use:   "run",
		Short: "Run a board until it is interrupted",
		Long: `Run a board until it is interrupted. It uses the installation whose data folder --data names, or, on
another machine, the one that --server, --ca, --id-scope and --mqtt name.

Its servicing API, which "vauban sphere device" commands use, is at the socket servicing.sock in
its folder, or at the loopback address that --servicing names.`,
		Example: `  vauban board sphere run
  vauban board sphere run --dir board-2 --interval 10s
  vauban board sphere run --server https://hub.example --ca root.pem --id-scope 0ne \
    --mqtt hub.example:8883`,
		Args: cobra.NoArgs,
	}
	dataFlag(c, &data)
	f := c.Flags()
	f.StringVar(&dir, "dir", "vauban-board", "`folder` of the board; made when it is missing")
	f.StringVar(&server, "server", "", "`URL` of the installation")
	f.StringVar(&ca, "ca", "", "`file` with the installation's CA")
	f.StringVar(&scope, "id-scope", "", "id scope of provisioning")
	f.StringVar(&mqtt, "mqtt", "", "`host:port` of MQTT")
	f.StringVar(&version, "os-version", boardVersion, "version of the operating system that the board tells")
	f.StringVar(&servicing, "servicing", "", "unix:PATH or loopback host:port, the `address` of the servicing API (default: servicing.sock in the folder)")
	f.DurationVar(&interval, "interval", 5*time.Second, "between messages")
	f.DurationVar(&renew, "renew", 0, "ask for new certificates at least so often; 0: when the service says, about twice a day")
	c.MarkFlagsRequiredTogether("server", "ca", "id-scope", "mqtt")
	var out output
	out.register(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := out.check(); err != nil {
			return err
		}
		if interval <= 0 || renew < 0 || renew > 0 && renew < time.Second {
			return misuse("--interval must be positive, and --renew 0 or at least 1s")
		}
		software, err := board.Measure(version)
		if err != nil {
			return fmt.Errorf("this program cannot be measured: %w", err)
		}
		cfg := board.Config{
			Dir: dir, Server: server, Software: software, Servicing: servicing, Interval: interval, Renew: renew, Logger: slog.New(slog.NewTextHandler(c.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn})),
			Said: func(text string) {
				if out == "json" {
					line, _ := json.Marshal(map[string]any{"time": time.Now().UTC(), "message": text}) // both always marshal
					text = string(line)
				}
				fmt.Fprintln(c.OutOrStdout(), text)
			},
		}
		if cfg.Servicing == "" {
			path, err := filepath.Abs(filepath.Join(dir, "servicing.sock"))
			if err != nil {
				return err
			}
			cfg.Servicing = "unix:" + path
		}
		if server == "" {
			conn, err := up.LoadConnection(under(data, up.ConnectionFile))
			if err != nil {
				return err
			}
			cfg.Server, ca, scope = conn.API.URL, conn.CA, conn.DPS.IDScope
			mqtt = net.JoinHostPort(conn.Hub.Hostname, strconv.Itoa(conn.Ports.MQTT))
		}
		u, err := url.Parse(cfg.Server)
		if err != nil || u.Scheme != "https" || u.Host == "" {
			return misuse("--server has the form https://host[:port]")
		}
		root, err := os.ReadFile(ca)
		if err != nil {
			return fmt.Errorf("the installation's CA cannot be read: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(root) {
			return fmt.Errorf("%s holds no certificate", ca)
		}
		cfg.Service = device.Service{Address: mqtt, Host: u.Hostname(), IDScope: scope, TLS: &tls.Config{RootCAs: cfg.RootCAs, ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}}
		return board.Run(c.Context(), cfg)
	}
	return c
}

func boardSphereTrust() *cobra.Command {
	var data, version string
	c := &cobra.Command{
		Use:   "trust",
		Short: "Have the installation trust this program as a board's software",
		Long: `Publish this program, as "vauban board sphere run" measures it, as an operating system that boards
of all tenants may run. Boards whose software nobody published get no certificates. After an update
of the program it must be published again, under another version.`,
		Example: `  vauban board sphere trust
  vauban board sphere trust --os-version 1.1`,
		Args: cobra.NoArgs,
	}
	dataFlag(c, &data)
	c.Flags().StringVar(&version, "os-version", boardVersion, "version of the operating system")
	var out output
	out.register(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := out.check(); err != nil {
			return err
		}
		r, err := dialRemote(data)
		if err != nil {
			return err
		}
		software, err := board.Measure(version)
		if err != nil {
			return fmt.Errorf("this program cannot be measured: %w", err)
		}
		client, err := sphere.New(sphere.Config{URL: r.conn.API.URL, TLS: r.tls, Tokens: sphere.Token(r.conn.API.Token)})
		if err != nil {
			return err
		}
		defer client.Close()
		release := sphere.Release{Kind: sphere.ReleaseOS, Version: version}
		for _, i := range software.Images {
			release.Images = append(release.Images, sphere.Image{ComponentID: i.Component, ImageID: i.ID, SHA256: i.SHA256})
		}
		for _, feed := range []sphere.OSFeed{sphere.Retail, sphere.RetailEval} {
			release.OSFeed = feed
			if _, err := client.PublishRelease(c.Context(), "", release); err != nil {
				if sphere.IsStatus(err, 409) {
					return errors.Join(err, errors.New("another program was published under this version; give another one with --os-version"))
				}
				return err
			}
		}
		if out == "json" {
			return printJSON(c.OutOrStdout(), map[string]any{"version": version, "images": release.Images})
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "boards may run version %s, SHA-256 %s\n", version, software.Images[0].SHA256)
		return err
	}
	return c
}

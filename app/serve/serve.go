// Package serve is `vauban serve`: a server as its configuration file says, alone or as one of several that share
// a database and a NATS cluster.
package serve

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/vauban-iot/vauban/app/node"
	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/bus/diskbus"
	"github.com/vauban-iot/vauban/bus/natsbus"
	"github.com/vauban-iot/vauban/config"
	"github.com/vauban-iot/vauban/hub/throttle"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/storage/postgres"
	"github.com/vauban-iot/vauban/storage/sqlite"
	"github.com/vauban-iot/vauban/storage/sqlstore"
)

// Options of a server beside its file.
type Options struct {
	Version string
	Logger  *slog.Logger
	Ready   func(node.Connection) error // hears of the connection data once every listener answers; may be nil
	Notice  func(text string)
}

// Run serves until ctx ends.
func Run(ctx context.Context, cfg *config.Config, o Options) error {
	name := cfg.Node
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("this machine has no name: %w; set node in the configuration", err)
		}
		name = host
	}
	people, err := signIn(cfg.SignIn)
	if err != nil {
		return err
	}
	return node.Run(ctx, node.Config{
		Name: name, Hostname: cfg.Hostname, Listen: cfg.Listen,
		MQTTPort: cfg.MQTTPort, HTTPSPort: cfg.HTTPSPort, AMQPPort: cfg.AMQPPort,
		MasterKey: cfg.MasterKey, PKI: cfg.PKI, Intel: cfg.Intel, StaticRSA: cfg.StaticRSA, RetroDays: cfg.RetroDays, AlertDays: cfg.AlertDays, Blobs: cfg.Blobs, BlobHosts: cfg.Hosts(), Routed: cfg.Routed, Connection: cfg.Connection,
		Store: func(ctx context.Context, sealer *secret.Sealer) (*sqlstore.Store, error) {
			return open(ctx, cfg, sealer, o.Logger)
		},
		Bus: func(ctx context.Context, handle func(bus.Call)) (bus.Bus, error) {
			if cfg.Bus.Dir != "" {
				return diskbus.Open(diskbus.Config{Dir: cfg.Bus.Dir, Handle: handle, Logger: o.Logger})
			}
			return natsbus.Open(ctx, natsbus.Config{Dir: cfg.Bus.NATSDir, URL: cfg.Bus.URLs, Replicas: cfg.Bus.Replicas, Handle: handle, Logger: o.Logger})
		},
		Shared:   cfg.Bus.URLs != "",
		SignIn:   people,
		Throttle: throttle.Config{Tier: cfg.Throttle.Tier, Units: cfg.Throttle.Units, Limits: cfg.Throttle.Limits},
		Version:  o.Version, Logger: o.Logger, Ready: o.Ready, Notice: o.Notice,
	})
}

func open(ctx context.Context, cfg *config.Config, sealer *secret.Sealer, log *slog.Logger) (*sqlstore.Store, error) {
	if cfg.Store.Kind == "sqlite" {
		if err := os.MkdirAll(filepath.Dir(cfg.Store.Path), 0o700); err != nil {
			return nil, fmt.Errorf("the folder of store.path cannot be made: %w", err)
		}
		return sqlite.Open(ctx, sqlite.Config{Path: cfg.Store.Path, Sealer: sealer, Logger: log})
	}
	url, err := os.ReadFile(cfg.Store.URLFile)
	if err != nil {
		return nil, fmt.Errorf("store.url_file cannot be read: %w", err)
	}
	return postgres.Open(ctx, postgres.Config{URL: strings.TrimSpace(string(url)), Sealer: sealer, Logger: log})
}

// Package up is `vauban up`: a server with everything embedded, on one machine and in one folder
// (design §6).
package up

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/vauban-iot/vauban/access/signin"
	"github.com/vauban-iot/vauban/app/node"
	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/bus/diskbus"
	"github.com/vauban-iot/vauban/dps"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/storage/sqlite"
	"github.com/vauban-iot/vauban/storage/sqlstore"
)

// Connection is everything a program needs to reach an installation.
type Connection = node.Connection

// ConnectionFile is where an installation keeps its connection data, in its data folder.
const ConnectionFile = "connection.json"

// retroDays is how many days of traffic new indicators are compared with: as many as the log keeps.
const retroDays = 7

// LoadConnection reads the connection data of the installation whose ConnectionFile is at path.
func LoadConnection(path string) (Connection, error) { return node.LoadConnection(path) }

// Config of one installation.
type Config struct {
	Data      string // folder of everything that is kept
	Listen    string // IP address to listen on
	Hostname  string // name devices and programs use
	MQTTPort  int    // 0 in any of the ports: any free one
	HTTPSPort int
	AMQPPort  int
	// BlobHosts are the hosts whose containers imports and exports may use beside this server's own and loopback.
	BlobHosts []string
	Demo      bool
	// FaultInjection lets devices ask for misbehaviour (hub-device §11); for tests of SDKs.
	FaultInjection bool
	// StaticRSA also offers TLS_RSA_WITH_AES_128_CBC_SHA256 (0x003C) to devices, for firmware that knows nothing else.
	StaticRSA bool
	// Clock is the one by which devices are judged, for virtual time; nil: the machine's.
	Clock func() time.Time
	// Registrations limits how often devices may register; zero: the defaults.
	Registrations dps.Limits

	Version string
	Logger  *slog.Logger
	// Ready hears of the connection data once every listener answers.
	Ready func(Connection) error
	// Notice tells the operator something that is no error, such as another port than usual.
	Notice func(text string)
}

// Default is what `vauban up` does without flags.
func Default() Config {
	return Config{Data: "vauban-data", Listen: "127.0.0.1", Hostname: "localhost", MQTTPort: 8883, HTTPSPort: 443, AMQPPort: 5671}
}

// Run starts everything, and ends when ctx does.
func Run(ctx context.Context, cfg Config) error {
	release, err := claim(cfg.Data)
	if err != nil {
		return err
	}
	defer release()
	in := func(name string) string { return filepath.Join(cfg.Data, name) }
	n := node.Config{
		Hostname: cfg.Hostname, Listen: cfg.Listen, MQTTPort: cfg.MQTTPort, HTTPSPort: cfg.HTTPSPort, AMQPPort: cfg.AMQPPort,
		MasterKey: in("master.key"), PKI: in("pki"), Intel: in("intel"), RetroDays: retroDays, Routed: in("routed"), Blobs: in("blobs"), BlobHosts: cfg.BlobHosts, Connection: in(ConnectionFile),
		Store: func(ctx context.Context, sealer *secret.Sealer) (*sqlstore.Store, error) {
			return sqlite.Open(ctx, sqlite.Config{Path: in("state.db"), Sealer: sealer, Logger: cfg.Logger})
		},
		Bus: func(_ context.Context, handle func(bus.Call)) (bus.Bus, error) {
			return diskbus.Open(diskbus.Config{Dir: in("bus"), Handle: handle, Logger: cfg.Logger})
		},
		SignIn:         node.SignIn{Registration: signin.FromLoopback}, // a laptop; servers invite
		FaultInjection: cfg.FaultInjection, StaticRSA: cfg.StaticRSA, Clock: cfg.Clock, Registrations: cfg.Registrations,
		Version: cfg.Version, Logger: cfg.Logger, Ready: cfg.Ready, Notice: cfg.Notice,
	}
	if cfg.Demo {
		n.Beside = func(ctx context.Context, n *node.Node) error { return runDemo(ctx, cfg, n) }
	}
	return node.Run(ctx, n)
}

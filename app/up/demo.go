package up

import (
	"context"
	"crypto/x509"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/vauban-iot/vauban/app/node"
	"github.com/vauban-iot/vauban/internal/atomicfile"
	"github.com/vauban-iot/vauban/sim/fleet"
)

//go:embed demo.toml
var demoFleet []byte

// runDemo lists the address that one of the demo's boards talks to, and runs them until ctx ends.
func runDemo(ctx context.Context, cfg Config, n *node.Node) error {
	f, err := fleet.Parse("demo.toml", demoFleet)
	if err != nil {
		return err
	}
	list := filepath.Join(cfg.Data, "intel", "demo.txt")
	if _, err := os.Stat(list); errors.Is(err, os.ErrNotExist) {
		text := fmt.Sprintf("# written by vauban up --demo: an address of RFC 5737 that one virtual board talks to\n%s\n", f.Attacks[0].Address)
		if err := atomicfile.Write(list, []byte(text), 0o600); err != nil {
			return err
		}
	}
	c := n.Connection
	at := func(port int) string { return net.JoinHostPort(c.Address(), strconv.Itoa(port)) }
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(n.PKI.RootPEM())
	// Nobody reads the report, so alerts are not followed.
	_, err = fleet.Run(ctx, fleet.Config{File: f, To: &fleet.Installation{
		Hostname: cfg.Hostname, MQTT: at(c.Ports.MQTT), HTTPS: at(c.Ports.HTTPS), IDScope: n.IDScope(), DPS: c.DPS.ConnectionString, Roots: roots,
	}})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

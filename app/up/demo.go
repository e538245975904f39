package up

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"github.com/vauban-iot/vauban/app/node"
	"github.com/vauban-iot/vauban/internal/atomicfile"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/sim/demo"
	"github.com/vauban-iot/vauban/sim/device"
)

// demoAddress is documentation space (RFC 5737): nobody's, so listing it accuses nobody.
var demoAddress = netip.MustParseAddr("203.0.113.5")

const demoGroup = "demo-boards"

// runDemo adds an enrollment group and an indicator, and runs boards that use them.
func runDemo(ctx context.Context, cfg Config, n *node.Node) error {
	list := filepath.Join(cfg.Data, "intel", "demo.txt")
	if _, err := os.Stat(list); errors.Is(err, os.ErrNotExist) {
		text := fmt.Sprintf("# written by vauban up --demo: an address of RFC 5737 that one virtual board talks to\n%s\n", demoAddress)
		if err := atomicfile.Write(list, []byte(text), 0o600); err != nil {
			return err
		}
	}
	saved, err := n.State.InitSetting(ctx, "demo/group-key", secret.Random(64).Reveal())
	if err != nil {
		return err
	}
	key := secret.New(saved)
	body := fmt.Sprintf(`{"enrollmentGroupId":%q,"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":%q,"secondaryKey":%q}},"initialTwin":{"tags":{"demo":true},"properties":{"desired":{"interval":2}}}}`,
		demoGroup, key.Base64(), key.Base64())
	if _, err := n.Provisioning.PutEnrollment(ctx, true, demoGroup, []byte(body), nil); err != nil {
		return fmt.Errorf("the demo's enrollment group cannot be made: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(n.PKI.RootPEM())
	return demo.Run(ctx, demo.Config{
		Service: device.Service{
			Address: net.JoinHostPort(n.Connection.Address(), strconv.Itoa(n.Connection.Ports.MQTT)), Host: cfg.Hostname, IDScope: n.IDScope(),
			TLS: &tls.Config{RootCAs: pool, ServerName: cfg.Hostname, MinVersion: tls.VersionTLS12},
		},
		GroupKey: key.Reveal(), Bad: demoAddress, Logger: cfg.Logger,
	})
}

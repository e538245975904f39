// Package board is a virtual board of the Security Service: it proves itself with a key in its folder and the hash of its own
// program, gets certificates of a day below its tenant's CA, provisions itself with them, and sends telemetry to the hub it is given.
package board

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
	"golang.org/x/sync/errgroup"

	"github.com/vauban-iot/vauban/sim/device"
	"github.com/vauban-iot/vauban/sphere/agent"
	"github.com/vauban-iot/vauban/wire/attestation"
	"github.com/vauban-iot/vauban/wire/bag"
	"github.com/vauban-iot/vauban/wire/topic"
)

// Config of a board. Fields are required unless they say otherwise.
type Config struct {
	Dir       string // its state: keys, certificates, counters
	Server    string // https address of the Security Service
	RootCAs   *x509.CertPool
	Service   device.Service // where it provisions itself and sends telemetry; TLS holds no certificate
	Software  agent.Software
	Servicing string              // of the servicing API: unix:PATH, or loopback host:port
	Signers   []*x509.Certificate // of capability files; none: no file counts
	Interval  time.Duration       // between messages
	Renew     time.Duration       // at most so long with a certificate; 0: as the server says
	Said      func(string)        // hears what happens, in words for people
	Logger    *slog.Logger
}

// component is the operating system of virtual boards, as component ids go: the same for every version of it.
const component = "5d0b2c46-6c43-4a1f-9b0e-2f6b7d1f0a10"

// Measure is what runs on a board: this program, which stands for its operating system.
func Measure(version string) (agent.Software, error) {
	path, err := os.Executable()
	if err != nil {
		return agent.Software{}, err
	}
	f, err := os.Open(path)
	if err != nil {
		return agent.Software{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return agent.Software{}, err
	}
	sum := hex.EncodeToString(h.Sum(nil))
	// The image's id follows its content, as version 8 of a UUID (RFC 9562 §5.8).
	id := fmt.Sprintf("%s-%s-8%s-a%s-%s", sum[:8], sum[8:12], sum[13:16], sum[17:20], sum[20:32])
	return agent.Software{OSVersion: version, Images: []agent.Image{{
		Image: attestation.Image{Component: component, ID: id, SHA256: sum}, Name: "vauban-board", Type: osImage, Size: n,
	}}}, nil
}

const osImage = 17 // type of image (sphere §5.3): a file system

// Run keeps the board alive until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	renewed := make(chan struct{}, 1)
	a, err := agent.Open(agent.Config{
		Server: cfg.Server, Dir: cfg.Dir, RootCAs: cfg.RootCAs, Signers: cfg.Signers, Logger: cfg.Logger,
		Software: func() (agent.Software, error) { return cfg.Software, nil },
		Renewed: func() {
			select {
			case renewed <- struct{}{}:
			default:
			}
		},
	})
	if err != nil {
		return err
	}
	ln, err := agent.ListenServicing(cfg.Servicing)
	if err != nil {
		return err
	}
	cfg.Said("device " + a.ID())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.ServeServicing(ctx, ln) })
	g.Go(func() error { return a.Run(ctx) })
	if cfg.Renew > 0 {
		g.Go(func() error {
			for {
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(cfg.Renew):
					if a.Ready() {
						a.Kick()
					}
				}
			}
		})
	}
	b := &board{cfg: cfg, agent: a, renewed: renewed}
	g.Go(func() error { b.run(ctx); return nil })
	return g.Wait()
}

// board is what sends.
type board struct {
	cfg     Config
	agent   *agent.Agent
	renewed <-chan struct{}
	id      string // at the hub; empty: not provisioned
	sent    int    // messages that were acknowledged
}

const pause = 2 * time.Second // before another attempt

func (b *board) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := b.session(ctx)
		switch {
		case err == nil || ctx.Err() != nil:
			continue
		case errors.Is(err, agent.ErrNoCertificate):
			select {
			case <-ctx.Done():
			case <-b.renewed:
			}
			continue
		case refused(err):
			b.id = "" // another hub may have it now
		}
		b.cfg.Said("again in a moment: " + err.Error())
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// refused reports whether the hub said no to the credentials.
func refused(err error) bool {
	return errors.Is(err, packets.ErrorRefusedNotAuthorised) || errors.Is(err, packets.ErrorRefusedBadUsernameOrPassword)
}

// session sends with the newest certificate until there is a newer one, which is nil, or the connection ends.
func (b *board) session(ctx context.Context) error {
	select {
	case <-b.renewed:
	default:
	}
	if _, err := b.agent.GetClientCertificate(nil); err != nil {
		return err
	}
	service := b.cfg.Service
	service.TLS = service.TLS.Clone()
	service.TLS.GetClientCertificate = func(i *tls.CertificateRequestInfo) (*tls.Certificate, error) { return b.agent.GetClientCertificate(i) }
	if b.id == "" {
		id, err := service.Provision(ctx, b.agent.ID(), "")
		if err != nil {
			return fmt.Errorf("provisioning: %w", err)
		}
		b.id = id
		b.cfg.Said("provisioned as " + id[:min(len(id), 8)] + "...")
	}
	gone := make(chan error, 1)
	c, err := service.Connect(ctx, b.id, "vauban-board", "", func(err error) { gone <- err })
	if err != nil {
		return fmt.Errorf("hub: %w", err)
	}
	defer c.Disconnect(200)
	b.cfg.Said("connected to " + service.Host)
	return b.send(ctx, c, gone)
}

func (b *board) send(ctx context.Context, c paho.Client, gone <-chan error) error {
	to := string(topic.AppendTelemetry(nil, b.id, "")) + string(bag.Append(nil, []bag.Property{{Name: "$.ct", Value: "application/json"}, {Name: "$.ce", Value: "utf-8"}}))
	tick := time.NewTicker(b.cfg.Interval)
	defer tick.Stop()
	for {
		if err := device.Wait(ctx, c.Publish(to, 1, false, fmt.Appendf(nil, `{"n":%d}`, b.sent+1))); err != nil {
			return err
		}
		if b.sent++; b.sent == 1 {
			b.cfg.Said("the first message is acknowledged")
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-gone:
			return err
		case <-b.renewed:
			b.cfg.Said(fmt.Sprintf("a new certificate; %d messages are acknowledged", b.sent))
			return nil
		case <-tick.C:
		}
	}
}

// Package natsbus is the bus on NATS JetStream: embedded in this process, or an
// external server or cluster. Every append is fsynced before it is acknowledged
// (sync_interval always, design §3); an external server must be configured so,
// and with a max_payload of at least bus.MaxEntry and a little.
package natsbus

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/fault"
)

// Config says where the bus lives and what it does with calls.
type Config struct {
	Dir      string // embedded: the folder of the logs
	URL      string // external: nats://host:4222; set either Dir or URL
	Replicas int    // copies of each log in a cluster; zero means 1
	// Handle receives the calls of every mailbox Listen opened, one at a time, so it must return
	// at once. Nil: Listen may not be used.
	Handle func(bus.Call)
	Logger *slog.Logger // nil: slog.Default()
}

// Bus is one connection to NATS, and the server itself when embedded.
type Bus struct {
	cfg    Config
	srv    *server.Server // nil: external
	nc     *nats.Conn
	js     jetstream.JetStream
	calls  chan *nats.Msg
	closed chan struct{}
	done   chan struct{}

	ackWait time.Duration // shorter in tests
}

var _ bus.Bus = (*Bus)(nil)

// readyTimeout bounds the start of an embedded server, which replays its logs' index.
const readyTimeout = 30 * time.Second

// Open starts or reaches NATS. Close must be called.
func Open(ctx context.Context, cfg Config) (*Bus, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Replicas == 0 {
		cfg.Replicas = 1
	}
	if (cfg.Dir == "") == (cfg.URL == "") {
		return nil, errors.New("natsbus: set either Dir or URL")
	}
	b := &Bus{cfg: cfg, ackWait: ackWait, calls: make(chan *nats.Msg, maxPendingCalls), closed: make(chan struct{}), done: make(chan struct{})}
	opts := []nats.Option{
		nats.Name("vauban"),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(200 * time.Millisecond),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			cfg.Logger.Warn("bus error", "subject", subject, "err", err)
		}),
	}
	address := cfg.URL
	if cfg.Dir != "" {
		srv, err := embed(cfg.Dir)
		if err != nil {
			return nil, err
		}
		b.srv = srv
		opts = append(opts, nats.InProcessServer(srv))
		address = nats.DefaultURL // a name only: the connection is in process
	}
	nc, err := nats.Connect(address, opts...)
	if err != nil {
		b.stopServer()
		return nil, fmt.Errorf("natsbus: connect to %s: %w", redact(cfg.URL), err)
	}
	b.nc = nc
	if b.js, err = jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(256)); err != nil {
		nc.Close()
		b.stopServer()
		return nil, fmt.Errorf("natsbus: %w", err)
	}
	go b.dispatch()
	return b, nil
}

// redact names the server without the password that may stand in its address.
func redact(address string) string {
	if address == "" {
		return "the embedded server"
	}
	u, err := url.Parse(address)
	if err != nil {
		return "the configured server"
	}
	return u.Redacted()
}

func embed(dir string) (*server.Server, error) {
	srv, err := server.NewServer(&server.Options{
		ServerName:             "vauban",
		DontListen:             true,
		JetStream:              true,
		StoreDir:               dir,
		SyncAlways:             true,
		MaxPayload:             bus.MaxEntry + 1<<10,
		MaxPending:             64 << 20,
		NoSigs:                 true,
		NoLog:                  true,
		JetStreamMaxMemory:     64 << 20,
		JetStreamMaxStore:      1 << 50, // the logs bound themselves
		DisableJetStreamBanner: true,
	})
	if err != nil {
		return nil, fmt.Errorf("natsbus: %w", err)
	}
	srv.Start()
	if !srv.ReadyForConnections(readyTimeout) {
		srv.Shutdown()
		return nil, fmt.Errorf("natsbus: the embedded server in %s did not start within %s", dir, readyTimeout)
	}
	return srv, nil
}

func (b *Bus) stopServer() {
	if b.srv != nil {
		b.srv.Shutdown()
		b.srv.WaitForShutdown()
	}
}

// Close ends every reader and, when embedded, the server.
func (b *Bus) Close() {
	b.nc.Close()
	close(b.closed)
	<-b.done
	b.stopServer()
}

// maxPendingCalls bounds the calls that wait for Handle. When it is full NATS drops
// further calls and says so in the log; their callers time out.
const maxPendingCalls = 64 << 10

func (b *Bus) dispatch() {
	defer close(b.done)
	for {
		select {
		case <-b.closed:
			return
		case m := <-b.calls:
			name, err := nameOf(m.Subject)
			if err != nil || b.cfg.Handle == nil {
				continue
			}
			b.cfg.Handle(bus.Call{Name: name, Data: m.Data, Reply: func(data []byte) {
				if m.Reply == "" {
					return
				}
				if err := b.nc.Publish(m.Reply, data); err != nil {
					b.cfg.Logger.Warn("bus reply failed", "err", err)
				}
			}})
		}
	}
}

const mailboxes = "vauban.box."

// subject encodes a mailbox name: ids may hold dots and wildcards, subjects may not.
func subject(name string) string {
	return mailboxes + base64.RawURLEncoding.EncodeToString([]byte(name))
}

func nameOf(subject string) (string, error) {
	b, err := base64.RawURLEncoding.DecodeString(subject[len(mailboxes):])
	return string(b), err
}

// Request implements bus.Post.
func (b *Bus) Request(ctx context.Context, name string, data []byte) ([]byte, error) {
	m, err := b.nc.RequestWithContext(ctx, subject(name), data)
	switch {
	case err == nil:
		return m.Data, nil
	case errors.Is(err, nats.ErrNoResponders):
		return nil, fault.New(fault.NotOnline, "the device is not connected")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return nil, fault.Wrap(fault.Timeout, err, "no answer in time")
	default:
		return nil, fault.Wrap(fault.Unavailable, err, "the bus is not available")
	}
}

// Send implements bus.Post.
func (b *Bus) Send(name string, data []byte) error {
	if err := b.nc.Publish(subject(name), data); err != nil {
		return fault.Wrap(fault.Unavailable, err, "the bus is not available")
	}
	return nil
}

// Listen implements bus.Post.
func (b *Bus) Listen(name string) (func(), error) {
	sub, err := b.nc.ChanSubscribe(subject(name), b.calls)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, err, "the bus is not available")
	}
	return func() {
		// After Close the subscription is gone already; there is nothing to do about it.
		_ = sub.Unsubscribe()
	}, nil
}

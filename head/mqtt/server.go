// Package mqtt is the device head for MQTT 3.1.1 over TLS and over WebSocket: it turns
// packets into calls on a hub and a provisioning service, which share its port and are told
// apart by the user name (hub-device §2, §3; dps §4).
//
// One goroutine reads each connection. Slow work (twins, subscriptions) runs in a
// second one that exists only while there is some, in the order the packets came;
// output is written by a third that exists only while there is some. An idle
// connection holds no buffer.
package mqtt

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/dps"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/iot"
)

// Core is the hub, or a gateway, as this head needs it.
type Core interface {
	Connect(ctx context.Context, c iot.Credentials, want iot.Opening, link iot.Link) (iot.Opened, error)
}

// Provisioner is the provisioning service as this head needs it.
type Provisioner interface {
	Authenticate(ctx context.Context, c dps.Credentials) (*dps.Caller, error)
	Register(ctx context.Context, c *dps.Caller, body []byte) dps.Reply
	Status(ctx context.Context, c *dps.Caller, operationID string) dps.Reply
}

// Config of a head. Core and TLS are required.
type Config struct {
	Core        Core
	Provisioner Provisioner // nil: provisioning is refused
	TLS         *tls.Config
	Logger      *slog.Logger // nil: slog.Default()
	Metrics     *Metrics     // nil: none
	Admit       access.Gate  // nil: devices may come from anywhere
	// FaultInjection lets devices ask this server to misbehave (hub-device §11). It is for tests of SDKs.
	FaultInjection bool
}

// Server accepts devices.
type Server struct {
	cfg Config
	log *slog.Logger
	wg  sync.WaitGroup

	mu    sync.Mutex
	ctx   context.Context // of Run; nil while it does not run
	conns map[*conn]struct{}

	faults faults
}

// Transport carries one client's bytes. A read that is interrupted by its deadline leaves writing possible,
// and Close says goodbye in the transport's own words.
type Transport interface {
	net.Conn
	// PeerCertificates are what the client showed in the TLS handshake.
	PeerCertificates() []*x509.Certificate
	// TLS is what the handshake agreed on, as crypto/tls numbers it; 0: there was none.
	TLS() (version, cipherSuite uint16)
}

// overTLS is the transport of the MQTT port. Its handshake is not done yet.
type overTLS struct{ *tls.Conn }

func (t overTLS) PeerCertificates() []*x509.Certificate { return t.ConnectionState().PeerCertificates }

func (t overTLS) TLS() (version, cipherSuite uint16) {
	s := t.ConnectionState()
	return s.Version, s.CipherSuite
}

// New returns a server; Run starts it.
func New(cfg Config) (*Server, error) {
	if cfg.Core == nil || cfg.TLS == nil {
		return nil, errors.New("head/mqtt: Core and TLS are required")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics(nil)
	}
	return &Server{cfg: cfg, log: cfg.Logger, conns: make(map[*conn]struct{})}, nil
}

// connectTimeout is how long a client may take from the TCP connection to its
// CONNECT (hub-device §2.1).
const connectTimeout = 60 * time.Second

// drainTimeout bounds how long a stop waits for messages that are on their way to the disk.
const drainTimeout = 5 * time.Second

// Run accepts devices from ln until ctx ends, then lets every connection finish
// what was accepted and closes it. Nothing it started outlives its return.
func (s *Server) Run(ctx context.Context, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	s.mu.Lock()
	s.ctx = ctx
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.ctx = nil // nothing is taken from here on
		s.mu.Unlock()
		s.wg.Wait() // every connection watches ctx
	}()
	for {
		nc, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() || errors.Is(err, errTooManyFiles) {
				s.log.Error("cannot accept connections", "err", err)
				time.Sleep(50 * time.Millisecond)
				continue
			}
			return fmt.Errorf("accept on %v: %w", ln.Addr(), err)
		}
		s.wg.Go(func() { s.open(ctx, overTLS{tls.Server(nc, s.cfg.TLS)}) })
	}
}

// Take serves a client that came another way than by Run's listener. It does not block, and
// owns the transport; while Run does not run it closes it.
func (s *Server) Take(t Transport) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx := s.ctx; ctx != nil {
		s.wg.Go(func() { s.open(ctx, t) })
		return
	}
	go t.Close()
}

// open brings a connection up to its CONNACK, then hands it to a fresh goroutine:
// the stack that the handshake grew is not kept for the session's life.
func (s *Server) open(ctx context.Context, nc Transport) {
	c := &conn{srv: s, nc: nc, started: time.Now()}
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	err := c.open(ctx)
	stop()
	if err != nil {
		s.cfg.Metrics.refused(err)
		level := slog.LevelInfo
		if errors.Is(err, errNoPacket) {
			level = slog.LevelDebug // port scans and health checks
		}
		s.log.Log(ctx, level, "connection refused", "head", "mqtt", "remote", nc.RemoteAddr().String(),
			"device", c.name, "kind", fault.KindOf(err).String(), "err", err)
		c.shut()
		return
	}
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	s.wg.Go(func() {
		c.serve(ctx)
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	})
}

// Recheck ends the sessions of devices that may not come from where they are any longer.
func (s *Server) Recheck() {
	if s.cfg.Admit == nil {
		return
	}
	s.mu.Lock()
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, c := range conns {
		if _, err := s.cfg.Admit(c.nc.RemoteAddr().String()); fault.Is(err, fault.Unauthorized) {
			c.end(err)
		}
	}
}

// Connections returns the number of open sessions.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// packetIDs hands out the ids of packets to one device, skipping zero.
type packetIDs struct{ n atomic.Uint32 }

func (p *packetIDs) next() uint16 {
	for {
		if id := uint16(p.n.Add(1)); id != 0 {
			return id
		}
	}
}

// Package amqp holds the AMQP port. AMQP is not served in this version: a client that
// connects is told so in AMQP's own words (a close with amqp:not-implemented),
// which SDKs show to their user, where a closed port would make them try for ever.
package amqp

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/access"
)

// Config of the head.
type Config struct {
	TLS    *tls.Config
	Logger *slog.Logger // nil: slog.Default()
	Admit  access.Gate  // nil: clients may come from anywhere
}

// Server refuses AMQP clients.
type Server struct {
	cfg Config
	wg  sync.WaitGroup

	mu  sync.Mutex
	ctx context.Context // of Run; nil while it does not run
}

// New returns a server; Run starts it.
func New(cfg Config) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Server{cfg: cfg}
}

// Run answers clients of ln until ctx ends. Nothing it started outlives its return.
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
		s.wg.Wait()
	}()
	for {
		nc, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept on %v: %w", ln.Addr(), err)
		}
		s.wg.Go(func() { s.answer(ctx, tls.Server(nc, s.cfg.TLS)) })
	}
}

// Take answers a client that came another way than by Run's listener. It does not block, and owns
// the connection; while Run does not run it closes it.
func (s *Server) Take(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx := s.ctx; ctx != nil {
		s.wg.Go(func() { s.answer(ctx, c) })
		return
	}
	go c.Close()
}

func (s *Server) answer(ctx context.Context, c net.Conn) {
	defer c.Close()
	if s.cfg.Admit != nil {
		// As over MQTT, who is refused learns it behind the handshake.
		if t, ok := c.(*tls.Conn); ok {
			_ = t.SetDeadline(time.Now().Add(patience))
			if err := t.HandshakeContext(ctx); err != nil {
				s.cfg.Logger.Debug("AMQP client left", "head", "amqp", "remote", c.RemoteAddr().String(), "err", err)
				return
			}
		}
		if _, err := s.cfg.Admit(c.RemoteAddr().String()); err != nil {
			s.cfg.Logger.Info("AMQP client refused", "head", "amqp", "remote", c.RemoteAddr().String(), "err", err)
			return
		}
	}
	_ = c.SetDeadline(time.Now().Add(patience)) // fails on a closed connection only, and then reading does, too
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := refuse(c); err != nil {
		s.cfg.Logger.Debug("AMQP client left", "head", "amqp", "remote", c.RemoteAddr().String(), "err", err)
		return
	}
	s.cfg.Logger.Info("AMQP client refused: AMQP is not served, use MQTT", "head", "amqp", "remote", c.RemoteAddr().String())
}

// patience is how long a client may take over the whole exchange.
const patience = 10 * time.Second

// Protocol headers (AMQP 1.0 part 2 §2.2, part 5 §5.3).
const (
	plain = "AMQP\x00\x01\x00\x00"
	sasl  = "AMQP\x03\x01\x00\x00"
)

// refuse speaks just enough AMQP to say no: after SASL, if the client starts with it, an open and a close with an error.
func refuse(c io.ReadWriter) error {
	header := make([]byte, len(plain))
	if _, err := io.ReadFull(c, header); err != nil {
		return err
	}
	switch string(header) {
	case plain:
	case sasl:
		if err := passSASL(c); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, header); err != nil {
			return err
		}
		if string(header) != plain {
			return fmt.Errorf("unknown protocol header %q", header)
		}
	default:
		// A peer that offers another version is answered with ours, and left (§2.2).
		_, err := io.WriteString(c, plain)
		return err
	}
	var out []byte
	out = append(out, plain...)
	out = appendFrame(out, frameAMQP, open())
	out = appendFrame(out, frameAMQP, closing("amqp:not-implemented", "AMQP is not served by this version of Vauban; use MQTT on port 8883"))
	if _, err := c.Write(out); err != nil {
		return err
	}
	// Reading what the client still says keeps the close frame from being lost in a reset.
	_, err := io.Copy(io.Discard, io.LimitReader(c, 64<<10))
	return err
}

// passSASL offers ANONYMOUS and PLAIN, takes any choice, and lets the client through to the AMQP layer, where it
// learns why it cannot stay: a SASL failure would look like wrong credentials.
func passSASL(c io.ReadWriter) error {
	out := appendFrame([]byte(sasl), frameSASL, list(0x40, array("ANONYMOUS", "PLAIN", "MSSBCBS")))
	if _, err := c.Write(out); err != nil {
		return err
	}
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n < 8 || n > maxFrame {
		return fmt.Errorf("a SASL frame of %d bytes", n)
	}
	if _, err := io.CopyN(io.Discard, c, int64(n-4)); err != nil {
		return err
	}
	_, err := c.Write(appendFrame(nil, frameSASL, list(0x44, []byte{0x50, 0})))
	return err
}

const (
	frameAMQP = 0
	frameSASL = 1
	maxFrame  = 16 << 10
)

func appendFrame(dst []byte, kind byte, body []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(8+len(body)))
	dst = append(dst, 2, kind, 0, 0) // data offset in words, type, channel
	return append(dst, body...)
}

func open() []byte { return list(0x10, str("vauban")) }

func closing(condition, text string) []byte {
	return list(0x18, list(0x1d, append(sym(condition), str(text)...)))
}

// list is a described list of one descriptor byte; items are already encoded.
func list(descriptor byte, items []byte) []byte {
	count := byte(1)
	if descriptor == 0x1d {
		count = 2
	}
	b := []byte{0x00, 0x53, descriptor, 0xd0}
	b = binary.BigEndian.AppendUint32(b, uint32(4+len(items)))
	b = binary.BigEndian.AppendUint32(b, uint32(count))
	return append(b, items...)
}

func str(s string) []byte { return append([]byte{0xa1, byte(len(s))}, s...) }
func sym(s string) []byte { return append([]byte{0xa3, byte(len(s))}, s...) }

func array(symbols ...string) []byte {
	var items []byte
	for _, s := range symbols {
		items = append(append(items, byte(len(s))), s...)
	}
	b := []byte{0xe0, byte(2 + len(items)), byte(len(symbols)), 0xa3}
	return append(b, items...)
}

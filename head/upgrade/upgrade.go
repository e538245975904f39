// Package upgrade turns a request for a WebSocket into the byte stream that MQTT and AMQP travel on
// (hub-device §1.2). The subprotocol alone says whose stream it is.
//
// Frames carry no meaning: a packet may span several of them, and one may hold several. A
// [Conn] is a net.Conn whose deadlines are those of the TLS connection below, so that a read they
// interrupt leaves writing possible.
package upgrade

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/head/rest"
)

// Head answers requests for a WebSocket.
type Head struct {
	takers map[string]func(*Conn)
	log    *slog.Logger
	admit  access.Gate // nil: clients may come from anywhere
}

// Admit makes the head refuse clients by where they come from. It must be called before the head serves.
func (h *Head) Admit(gate access.Gate) { h.admit = gate }

// New returns a head that hands each connection to the taker of its subprotocol, named as the standard spells it. A taker
// owns the connection and must not block. log may be nil.
func New(takers map[string]func(*Conn), log *slog.Logger) *Head {
	if log == nil {
		log = slog.Default()
	}
	return &Head{takers: takers, log: log}
}

// Wants reports whether a request is for this head: the hub's path always, and the root, where provisioning
// clients may ask too (dps §13), when it asks for a WebSocket.
func Wants(r *http.Request, segments []string) bool {
	if len(segments) == 0 {
		return strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
	}
	return rest.Is(segments, "$iothub", "websocket")
}

// maxMessage bounds what one WebSocket message may hold. It is read piece by piece; the limit only
// keeps a client from talking for ever inside one.
const maxMessage = 16 << 20

// ServeHTTP implements http.Handler.
func (h *Head) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h.admit != nil {
		if _, err := h.admit(r.RemoteAddr); err != nil {
			h.log.Info("WebSocket refused", "head", "upgrade", "remote", r.RemoteAddr, "err", err)
			http.Error(w, "unauthorized", http.StatusUnauthorized)
			return
		}
	}
	spelling, take := h.choose(r)
	if take == nil {
		h.log.Info("WebSocket refused: no known subprotocol", "head", "upgrade", "remote", r.RemoteAddr, "offered", r.Header.Values("Sec-WebSocket-Protocol"))
		http.Error(w, "Sec-WebSocket-Protocol must be one of mqtt and AMQPWSB10", http.StatusBadRequest)
		return
	}
	below := &hijacked{ResponseWriter: w}
	ws, err := websocket.Accept(below, r, &websocket.AcceptOptions{
		Subprotocols: []string{spelling}, // echoed letter by letter
		// Who connects proves itself inside the stream, with nothing that a browser adds on its own: a page of any origin
		// may carry a device.
		InsecureSkipVerify: true,
		CompressionMode:    websocket.CompressionDisabled,
	})
	if err != nil {
		h.log.Info("WebSocket refused", "head", "upgrade", "remote", r.RemoteAddr, "err", err)
		return
	}
	ws.SetReadLimit(maxMessage)
	c := &Conn{Conn: below.conn, ws: ws}
	if r.TLS != nil {
		c.peers, c.version, c.suite = r.TLS.PeerCertificates, r.TLS.Version, r.TLS.CipherSuite
	}
	take(c)
}

// choose picks the first subprotocol of the client that somebody takes, in the client's own spelling: C writes
// MQTT, everybody else mqtt.
func (h *Head) choose(r *http.Request) (spelling string, take func(*Conn)) {
	for _, header := range r.Header.Values("Sec-WebSocket-Protocol") {
		for offer := range strings.SplitSeq(header, ",") {
			offer = strings.TrimSpace(offer)
			for name, take := range h.takers {
				if strings.EqualFold(name, offer) {
					return offer, take
				}
			}
		}
	}
	return "", nil
}

// hijacked remembers the connection that the upgrade takes from the HTTP server.
type hijacked struct {
	http.ResponseWriter
	conn net.Conn
}

func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	h.conn = c
	return c, rw, err
}

// Conn is a byte stream in the binary frames of a WebSocket. One goroutine may read and several
// may write at a time. Text frames are taken for binary ones (hub-device §12).
type Conn struct {
	net.Conn // below the frames: addresses and deadlines
	ws       *websocket.Conn
	peers    []*x509.Certificate
	version  uint16 // of TLS
	suite    uint16
	message  io.Reader // the one under way; nil between two
}

// PeerCertificates are what the client showed in the TLS handshake.
func (c *Conn) PeerCertificates() []*x509.Certificate { return c.peers }

// TLS is what the handshake agreed on, as crypto/tls numbers it; 0: there was none.
func (c *Conn) TLS() (version, cipherSuite uint16) { return c.version, c.suite }

// Read implements net.Conn. Pings are answered on the way. The peer's close frame is io.EOF.
func (c *Conn) Read(p []byte) (int, error) {
	for {
		if c.message == nil {
			_, message, err := c.ws.Reader(context.Background())
			switch websocket.CloseStatus(err) {
			case websocket.StatusNormalClosure, websocket.StatusGoingAway, websocket.StatusNoStatusRcvd:
				return 0, io.EOF
			}
			if err != nil {
				return 0, err
			}
			c.message = message
		}
		n, err := c.message.Read(p)
		if errors.Is(err, io.EOF) {
			c.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// Write implements net.Conn: one frame.
func (c *Conn) Write(p []byte) (int, error) {
	if err := c.ws.Write(context.Background(), websocket.MessageBinary, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// NetConn is the TCP connection below everything.
func (c *Conn) NetConn() net.Conn {
	if t, ok := c.Conn.(*tls.Conn); ok {
		return t.NetConn()
	}
	return c.Conn
}

// closeTimeout bounds how long a close frame may take to get out.
const closeTimeout = time.Second

// Close sends a close frame and a close_notify, and waits for neither's answer.
func (c *Conn) Close() error {
	// These fail on a connection that is closed already, and so does what follows.
	_ = c.SetReadDeadline(time.Unix(1, 0))
	_ = c.SetWriteDeadline(time.Now().Add(closeTimeout))
	return c.ws.Close(websocket.StatusNormalClosure, "")
}

// Package mqtttest is an MQTT 3.1.1 client for tests that look at the bytes: it sends what it
// is told, sound or not, and hands over each packet of the server as it came.
package mqtttest

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"

	wire "github.com/vauban-iot/vauban/wire/mqtt"
)

// Patience is how long a client waits for a packet that should come.
const Patience = 10 * time.Second

// Client is one connection. Its methods fail the test, so they belong to the test's goroutine.
type Client struct {
	t       testing.TB
	conn    io.ReadWriter
	below   net.Conn    // TCP
	packets chan []byte // closed when the connection is over
	err     error       // why; to be read after packets is closed
	id      uint16      // last packet id used
}

// Dial connects, and shakes hands.
func Dial(t testing.TB, address string, cfg *tls.Config) *Client {
	t.Helper()
	nc, err := net.DialTimeout("tcp", address, Patience)
	if err != nil {
		t.Fatal(err)
	}
	return New(t, nc, cfg)
}

// New shakes hands on a connection.
func New(t testing.TB, nc net.Conn, cfg *tls.Config) *Client {
	t.Helper()
	conn := tls.Client(nc, cfg)
	c := &Client{t: t, conn: conn, below: nc, packets: make(chan []byte, 8192)}
	if err := conn.HandshakeContext(t.Context()); err != nil {
		nc.Close()
		t.Fatal(err)
	}
	c.start()
	return c
}

// DialWebSocket connects to the HTTPS port at address and asks for a WebSocket at path, with a subprotocol.
func DialWebSocket(t testing.TB, address, path, protocol string, cfg *tls.Config) *Client {
	t.Helper()
	c := &Client{t: t, packets: make(chan []byte, 8192)}
	transport := &http.Transport{TLSClientConfig: cfg, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		d := net.Dialer{Timeout: Patience}
		nc, err := d.DialContext(ctx, "tcp", address)
		c.below = nc
		return nc, err
	}}
	ws, answer, err := websocket.Dial(t.Context(), "wss://"+cfg.ServerName+path, &websocket.DialOptions{ //nolint:bodyclose // the library says never to
		Subprotocols: []string{protocol}, HTTPClient: &http.Client{Transport: transport},
	})
	if err != nil {
		t.Fatalf("no WebSocket: %v %v", answer, err)
	}
	if got := ws.Subprotocol(); got != protocol {
		t.Fatalf("the server echoes subprotocol %q, want %q", got, protocol)
	}
	c.conn = websocket.NetConn(context.Background(), ws, websocket.MessageBinary)
	c.start()
	return c
}

func (c *Client) start() {
	done := make(chan struct{})
	c.t.Cleanup(func() {
		c.below.Close()
		<-done
	})
	go func() {
		defer close(done)
		c.err = c.read()
		close(c.packets)
	}()
}

// read cuts the stream into packets.
func (c *Client) read() error {
	var buf []byte
	chunk := make([]byte, 32<<10)
	for {
		n, err := c.conn.Read(chunk)
		buf = append(buf, chunk[:n]...)
		for {
			h, size, perr := wire.ParseHeader(buf, wire.MaxLength)
			if perr != nil {
				return perr
			}
			if size == 0 || len(buf) < size+h.Length {
				break
			}
			c.packets <- bytes.Clone(buf[:size+h.Length])
			buf = buf[size+h.Length:]
		}
		if err != nil {
			return err
		}
	}
}

// Send writes bytes.
func (c *Client) Send(b []byte) {
	c.t.Helper()
	if err := c.TrySend(b); err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

// TrySend is Send for a server that may close meanwhile.
func (c *Client) TrySend(b []byte) error {
	_, err := c.conn.Write(b)
	return err
}

// Next returns the next packet.
func (c *Client) Next() []byte {
	c.t.Helper()
	select {
	case p, ok := <-c.packets:
		if !ok {
			c.t.Fatalf("the server closed the connection (%v) where a packet should come", c.err)
		}
		return p
	case <-time.After(Patience):
		c.t.Fatalf("no packet within %v", Patience)
		return nil
	}
}

// Expect fails unless the next packet is want.
func (c *Client) Expect(want []byte) {
	c.t.Helper()
	if got := c.Next(); !bytes.Equal(got, want) {
		c.t.Fatalf("got packet %x %q, want %x %q", got, got, want, want)
	}
}

// NextPublish returns the next packet, which must be a PUBLISH.
func (c *Client) NextPublish() wire.Publish {
	c.t.Helper()
	b := c.Next()
	h, n, err := wire.ParseHeader(b, wire.MaxLength)
	if err != nil || h.Type != wire.PUBLISH {
		c.t.Fatalf("got %v %x, want a PUBLISH", h.Type, b)
	}
	p, err := wire.ParsePublish(h.Flags, b[n:])
	if err != nil {
		c.t.Fatal(err)
	}
	return p
}

// Silent fails when a packet comes within d.
func (c *Client) Silent(d time.Duration) {
	c.t.Helper()
	select {
	case p, ok := <-c.packets:
		if !ok {
			c.t.Fatalf("the server closed the connection: %v", c.err)
		}
		c.t.Fatalf("got packet %x %q where none should come", p, p)
	case <-time.After(d):
	}
}

// Closed fails unless the server closes the connection, with a close_notify and without another packet.
func (c *Client) Closed() {
	c.t.Helper()
	if err := c.End(); !errors.Is(err, io.EOF) {
		c.t.Fatalf("the connection ended with %v, want an orderly close", err)
	}
}

// End waits for the end of the connection and returns how it came: io.EOF after a close_notify.
func (c *Client) End() error {
	c.t.Helper()
	select {
	case p, ok := <-c.packets:
		if ok {
			c.t.Fatalf("got packet %x %q where the connection should end", p, p)
		}
		return c.err
	case <-time.After(Patience):
		c.t.Fatalf("the connection still stands after %v", Patience)
		return nil
	}
}

// Drained reads and drops packets until the connection ends, and returns how it ended.
func (c *Client) Drained() error {
	for range c.packets {
	}
	return c.err
}

// Drop ends the connection as a lost network does: without DISCONNECT or close_notify.
func (c *Client) Drop() { c.below.Close() }

// Disconnect takes leave and waits for the server to close.
func (c *Client) Disconnect() {
	c.t.Helper()
	c.Send(wire.AppendDisconnect(nil))
	c.Closed()
}

// Connect sends a CONNECT and returns the CONNACK, which must be the first packet.
func (c *Client) Connect(hello wire.Connect) (present bool, code byte) {
	c.t.Helper()
	c.Send(wire.AppendConnect(nil, &hello))
	return c.Connack()
}

// Connack reads the CONNACK.
func (c *Client) Connack() (present bool, code byte) {
	c.t.Helper()
	b := c.Next()
	if len(b) != 4 || b[0] != byte(wire.CONNACK)<<4 || b[1] != 2 {
		c.t.Fatalf("got packet %x, want a CONNACK of four bytes", b)
	}
	present, code, err := wire.ParseConnack(b[2:])
	if err != nil {
		c.t.Fatal(err)
	}
	return present, code
}

// ID returns a packet id not used before.
func (c *Client) ID() uint16 {
	c.id++
	return c.id
}

// Subscribe subscribes to filters at one QoS and checks the grant.
func (c *Client) Subscribe(qos byte, filters ...string) {
	c.t.Helper()
	id := c.ID()
	var subs []wire.Subscription
	var codes []byte
	for _, f := range filters {
		subs = append(subs, wire.Subscription{Filter: f, QoS: qos})
		codes = append(codes, qos)
	}
	c.Send(wire.AppendSubscribe(nil, id, subs))
	c.Expect(wire.AppendSuback(nil, id, codes))
}

// Publish publishes at QoS 1 and waits for the PUBACK.
func (c *Client) Publish(topic string, payload []byte) {
	c.t.Helper()
	id := c.ID()
	c.Send(wire.AppendPublish(nil, &wire.Publish{QoS: 1, PacketID: id, Topic: []byte(topic), Payload: payload}))
	c.Expect(wire.AppendPuback(nil, id))
}

// Publish0 publishes at QoS 0.
func (c *Client) Publish0(topic string, payload []byte) {
	c.t.Helper()
	c.Send(wire.AppendPublish(nil, &wire.Publish{Topic: []byte(topic), Payload: payload}))
}

// Try returns the next packet; false when the connection is over.
func (c *Client) Try() ([]byte, bool) {
	c.t.Helper()
	select {
	case p, ok := <-c.packets:
		return p, ok
	case <-time.After(Patience):
		c.t.Fatalf("neither a packet nor the end within %v", Patience)
		return nil, false
	}
}

// TryFor is Try with another patience.
func (c *Client) TryFor(patience time.Duration) ([]byte, bool) {
	c.t.Helper()
	select {
	case p, ok := <-c.packets:
		return p, ok
	case <-time.After(patience):
		c.t.Fatalf("neither a packet nor the end within %v", patience)
		return nil, false
	}
}

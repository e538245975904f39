package upgrade_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vauban-iot/vauban/head/amqp"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/head/upgrade"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/pki/pkitest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// site is an HTTPS server whose WebSockets go to takers; everything else is 404.
type site struct{ *httptest.Server }

// start serves; takers run in goroutines of their own, which end with their clients.
func start(t *testing.T, takers map[string]func(*upgrade.Conn)) *site {
	t.Helper()
	s := &site{}
	own := make(map[string]func(*upgrade.Conn))
	for name, take := range takers {
		own[name] = func(c *upgrade.Conn) { go take(c) }
	}
	head := upgrade.New(own, slog.New(slog.DiscardHandler))
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !upgrade.Wants(r, rest.Segments(r)) {
			http.NotFound(w, r)
			return
		}
		head.ServeHTTP(w, r)
	}))
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// client is one that looks at the bytes.
type client struct {
	*tls.Conn
	t  *testing.T
	in *bufio.Reader // behind the upgrade
}

func (s *site) dial(t *testing.T, certs ...tls.Certificate) *client {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	c, err := tls.Dial("tcp", s.Listener.Addr().String(), &tls.Config{RootCAs: roots, ServerName: "example.com", Certificates: certs})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return &client{Conn: c, t: t, in: bufio.NewReader(c)}
}

// ask sends a request for a WebSocket and returns what the first read brings.
func (c *client) ask(path string, headers ...string) string {
	c.t.Helper()
	request := "GET " + path + " HTTP/1.1\r\nHost: hub.example.net\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
	for _, h := range headers {
		request += h + "\r\n"
	}
	if _, err := io.WriteString(c, request+"\r\n"); err != nil {
		c.t.Fatal(err)
	}
	b := make([]byte, 64<<10)
	n, err := c.Conn.Read(b) // one TLS record at most
	if err != nil {
		c.t.Fatal(err)
	}
	return string(b[:n])
}

// parse reads a response that must stand alone.
func parse(t *testing.T, text string) *http.Response {
	t.Helper()
	in := bufio.NewReader(strings.NewReader(text))
	r, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return r
}

// Opcodes of RFC 6455 §5.2.
const (
	opContinue = 0
	opText     = 1
	opBinary   = 2
	opClose    = 8
	opPing     = 9
	opPong     = 10
)

// frame writes a masked frame, as clients must.
func frame(fin bool, op byte, payload []byte) []byte {
	b := []byte{op, 0x80}
	if fin {
		b[0] |= 0x80
	}
	switch n := len(payload); {
	case n < 126:
		b[1] |= byte(n)
	case n < 1<<16:
		b[1] |= 126
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b[1] |= 127
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	mask := [4]byte{1, 2, 3, 4}
	b = append(b, mask[:]...)
	for i, x := range payload {
		b = append(b, x^mask[i%4])
	}
	return b
}

// next reads a frame of the server.
func (c *client) next() (op byte, payload []byte, err error) {
	var h [2]byte
	if _, err := io.ReadFull(c.in, h[:]); err != nil {
		return 0, nil, err
	}
	n := int(h[1])
	switch {
	case n > 127:
		c.t.Fatal("a server's frame must not be masked")
	case n == 126:
		var l [2]byte
		if _, err := io.ReadFull(c.in, l[:]); err != nil {
			return 0, nil, err
		}
		n = int(binary.BigEndian.Uint16(l[:]))
	case n == 127:
		c.t.Fatal("a frame over 64 KiB")
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(c.in, payload)
	return h[0] & 0x0f, payload, err
}

func (c *client) expect(op byte, payload string) {
	c.t.Helper()
	if gotOp, got, err := c.next(); err != nil || gotOp != op || string(got) != payload {
		c.t.Fatalf("got frame %d %q, error %v; want frame %d %q", gotOp, got, err, op, payload)
	}
}

func (c *client) send(b ...[]byte) {
	c.t.Helper()
	if _, err := c.Write(slices.Concat(b...)); err != nil {
		c.t.Fatal(err)
	}
}

// echo sends back what it reads until there is no more.
func echo(c *upgrade.Conn) {
	defer c.Close()
	io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
}

func TestUpgrade_Subprotocols(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HD-5")
	head := amqp.New(amqp.Config{Logger: slog.New(slog.DiscardHandler)})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- head.Run(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	s := start(t, map[string]func(*upgrade.Conn){"mqtt": echo, "AMQPWSB10": func(c *upgrade.Conn) { head.Take(c) }})
	const hub = "/$iothub/websocket"
	for _, tc := range []struct {
		name, path string
		headers    []string
		status     int
		echo       string
	}{
		{"mqtt", hub, []string{"Sec-WebSocket-Protocol: mqtt"}, 101, "mqtt"},
		{"MQTT of C", hub, []string{"Sec-WebSocket-Protocol: MQTT"}, 101, "MQTT"},
		{"AMQPWSB10", hub, []string{"Sec-WebSocket-Protocol: AMQPWSB10"}, 101, "AMQPWSB10"},
		{"amqpwsb10", hub, []string{"Sec-WebSocket-Protocol: amqpwsb10"}, 101, "amqpwsb10"},
		{"path in another case", "/$IotHub/WebSocket", []string{"Sec-WebSocket-Protocol: mqtt"}, 101, "mqtt"},
		{"path with an encoded $", "/%24iothub/websocket/", []string{"Sec-WebSocket-Protocol: mqtt"}, 101, "mqtt"},
		{"root", "/", []string{"Sec-WebSocket-Protocol: MQTT"}, 101, "MQTT"},
		{"second of several", hub, []string{"Sec-WebSocket-Protocol: mqttv3.1, mqtt"}, 101, "mqtt"},
		{"second of several headers", hub, []string{"Sec-WebSocket-Protocol: mqttv3.1", "sec-websocket-protocol: Mqtt"}, 101, "Mqtt"},
		{"browser page of elsewhere", hub, []string{"Sec-WebSocket-Protocol: mqtt", "Origin: https://elsewhere.example"}, 101, "mqtt"},
		{"compression is not taken up", hub, []string{"Sec-WebSocket-Protocol: mqtt", "Sec-WebSocket-Extensions: permessage-deflate"}, 101, "mqtt"},
		{"unknown", hub, []string{"Sec-WebSocket-Protocol: mqttv5"}, 400, ""},
		{"empty", hub, []string{"Sec-WebSocket-Protocol:"}, 400, ""},
		{"absent", hub, nil, 400, ""},
		{"absent at the root", "/", nil, 400, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := s.dial(t)
			r := parse(t, c.ask(tc.path, tc.headers...))
			if got := r.Header["Sec-Websocket-Protocol"]; r.StatusCode != tc.status || strings.Join(got, "+") != tc.echo {
				t.Errorf("status %d, subprotocol %q; want %d, %q", r.StatusCode, got, tc.status, tc.echo)
			}
			if tc.status == 101 && (r.Header.Get("Sec-Websocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" || // RFC 6455 §1.3
				!strings.EqualFold(r.Header.Get("Upgrade"), "websocket") || !strings.EqualFold(r.Header.Get("Connection"), "Upgrade") ||
				r.Header.Get("Sec-Websocket-Extensions") != "") {
				t.Errorf("headers %v", r.Header)
			}
			if !strings.EqualFold(tc.echo, "AMQPWSB10") {
				return
			}
			// The stream is AMQP's: who speaks it is told in its own words that it is not served yet.
			c.send(frame(true, opBinary, []byte("AMQP\x00\x01\x00\x00")))
			_, answer, err := c.next()
			if err != nil || !bytes.HasPrefix(answer, []byte("AMQP\x00\x01\x00\x00")) || !bytes.Contains(answer, []byte("amqp:not-implemented")) {
				t.Errorf("got %q, %v", answer, err)
			}
		})
	}
	for path, status := range map[string]int{"/": 404, hub: 400, hub + "/x": 404} {
		resp, err := s.Client().Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != status {
			t.Errorf("GET %s without an upgrade: status %d, want %d", path, resp.StatusCode, status)
		}
	}
}

// NetX Duo fails when the packet with the answer holds anything else.
func TestUpgrade_AnswerStandsAlone(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HD-7")
	s := start(t, map[string]func(*upgrade.Conn){"mqtt": func(c *upgrade.Conn) {
		c.Write([]byte("at once"))
		c.Close()
	}})
	for range 20 {
		c := s.dial(t)
		text := c.ask("/$iothub/websocket", "Sec-WebSocket-Protocol: mqtt")
		if !strings.HasPrefix(text, "HTTP/1.1 101 ") || strings.Index(text, "\r\n\r\n") != len(text)-4 {
			t.Fatalf("the first TLS record is %q, want the answer and nothing else", text)
		}
		for _, name := range []string{"Upgrade", "Connection", "Sec-WebSocket-Protocol", "Sec-WebSocket-Accept"} {
			if n := strings.Count(strings.ToLower(text), "\r\n"+strings.ToLower(name)+": "); n != 1 {
				t.Errorf("header %s comes %d times", name, n)
			}
		}
		c.expect(opBinary, "at once")
		c.expect(opClose, "\x03\xe8")
		if _, _, err := c.next(); !errors.Is(err, io.EOF) {
			t.Fatalf("behind the close frame: %v, want a close_notify", err)
		}
	}
}

func TestConn_IsAStream(t *testing.T) {
	t.Parallel()
	s := start(t, map[string]func(*upgrade.Conn){"mqtt": func(c *upgrade.Conn) {
		defer c.Close()
		b := make([]byte, 10)
		for {
			if _, err := io.ReadFull(c, b); err != nil {
				return
			}
			c.Write(b)
		}
	}})
	c := s.dial(t)
	// What came in one packet with the request is not lost either: the first frame is sent with it.
	c.ask("/$iothub/websocket", "Sec-WebSocket-Protocol: mqtt")
	c.send(frame(true, opBinary, []byte("0123")), frame(true, opBinary, nil), frame(true, opText, []byte("456789a")))
	c.expect(opBinary, "0123456789")
	// A message in fragments, with a ping between two of them.
	c.send(frame(false, opBinary, []byte("bcd")), frame(true, opPing, []byte("here?")), frame(false, opContinue, nil), frame(true, opContinue, []byte("efghij")))
	c.expect(opPong, "here?")
	c.expect(opBinary, "abcdefghij")
	c.send(frame(true, opPong, []byte("nobody asked")), frame(true, opBinary, bytes.Repeat([]byte("x"), 30)))
	for range 3 {
		c.expect(opBinary, strings.Repeat("x", 10))
	}
	c.send(frame(true, opClose, []byte{3, 0xe8}))
	c.expect(opClose, "\x03\xe8")
	if _, _, err := c.next(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want a close_notify", err)
	}
}

func TestConn_BreachesEndTheStream(t *testing.T) {
	t.Parallel()
	for name, b := range map[string][]byte{
		"no mask":                {0x82, 1, 'x'},
		"reserved bit":           append([]byte{0xc2}, frame(true, opBinary, []byte("x"))[1:]...),
		"unknown opcode":         frame(true, 3, []byte("x")),
		"long ping":              frame(true, opPing, make([]byte, 126)),
		"continuation of none":   frame(true, opContinue, []byte("x")),
		"message in a message":   slices.Concat(frame(false, opBinary, []byte("x")), frame(true, opBinary, []byte("x"))),
		"frame beyond the limit": {0x82, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ended := make(chan error, 1)
			s := start(t, map[string]func(*upgrade.Conn){"mqtt": func(c *upgrade.Conn) {
				defer c.Close()
				_, err := io.CopyN(io.Discard, struct{ io.Reader }{c}, 1<<40)
				ended <- err
			}})
			c := s.dial(t)
			c.ask("/$iothub/websocket", "Sec-WebSocket-Protocol: mqtt")
			c.send(b)
			if name == "frame beyond the limit" {
				go func() { // a stream of bytes inside one message that has no end
					chunk := make([]byte, 1<<20)
					for {
						if _, err := c.Write(chunk); err != nil {
							return
						}
					}
				}()
			}
			select {
			case err := <-ended:
				if err == nil || errors.Is(err, io.EOF) {
					t.Errorf("got %v, want an error", err)
				}
			case <-time.After(patience):
				t.Error("the stream goes on")
			}
		})
	}
}

// A reader that is interrupted leaves the stream writable: that is how a head drains.
func TestConn_InterruptedReadLeavesWriting(t *testing.T) {
	t.Parallel()
	s := start(t, map[string]func(*upgrade.Conn){"mqtt": func(c *upgrade.Conn) {
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		_, err := c.Read(make([]byte, 1))
		ne, ok := errors.AsType[net.Error](err)
		fmt.Fprint(c, ok && ne.Timeout())
	}})
	c := s.dial(t)
	c.ask("/$iothub/websocket", "Sec-WebSocket-Protocol: mqtt")
	c.expect(opBinary, "true")
	c.expect(opClose, "\x03\xe8")
}

func TestConn_PeerCertificates(t *testing.T) {
	t.Parallel()
	s := start(t, map[string]func(*upgrade.Conn){"mqtt": func(c *upgrade.Conn) {
		defer c.Close()
		for _, p := range c.PeerCertificates() {
			fmt.Fprint(c, p.Subject.CommonName)
		}
	}})
	c := s.dial(t, pkitest.SelfSigned(t, "lamp"))
	c.ask("/$iothub/websocket", "Sec-WebSocket-Protocol: mqtt")
	c.expect(opBinary, "lamp")
	s.dial(t).ask("/$iothub/websocket?iothub-no-client-cert=true", "Sec-WebSocket-Protocol: mqtt")
}

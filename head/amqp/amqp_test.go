package amqp_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vauban-iot/vauban/head/amqp"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/pki/pkitest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	plain = "AMQP\x00\x01\x00\x00"
	sasl  = "AMQP\x03\x01\x00\x00"
)

// start runs the head and returns its address; stop ends it.
func start(t *testing.T) (address string, log *hubtest.Log, stop func()) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log = &hubtest.Log{}
	cert := pkitest.SelfSigned(t, "hub")
	s := amqp.New(amqp.Config{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}, Logger: slog.New(log)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, ln) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return ln.Addr().String(), log, stop
}

func dial(t *testing.T, address string) *tls.Conn {
	t.Helper()
	c, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(hubtest.Patience))
	return c
}

func send(t *testing.T, c io.Writer, b string) {
	t.Helper()
	if _, err := io.WriteString(c, b); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, c io.Reader, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != want {
		t.Fatalf("got %q, %v; want %q", b, err, want)
	}
}

// frame reads one frame and returns its type, its descriptor and all of it.
func frame(t *testing.T, c io.Reader) (kind, descriptor byte, whole []byte) {
	t.Helper()
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		t.Fatal(err)
	}
	n := binary.BigEndian.Uint32(size[:])
	if n < 8 || n > 4096 {
		t.Fatalf("a frame of %d bytes", n)
	}
	whole = make([]byte, n-4)
	if _, err := io.ReadFull(c, whole); err != nil {
		t.Fatal(err)
	}
	// data offset, type, channel; then a described list: 00 53 descriptor d0 size count
	if whole[0] != 2 || !bytes.Equal(whole[4:6], []byte{0, 0x53}) || whole[7] != 0xd0 {
		t.Fatalf("frame %x", whole)
	}
	if size := binary.BigEndian.Uint32(whole[8:12]); int(size) != len(whole)-12 {
		t.Errorf("the list of %x says it has %d bytes, it has %d", whole, size, len(whole)-12)
	}
	return whole[1], whole[6], whole
}

// refused reads an open and a close with the reason.
func refused(t *testing.T, c *tls.Conn) {
	t.Helper()
	expect(t, c, plain)
	if kind, d, whole := frame(t, c); kind != 0 || d != 0x10 || !bytes.Contains(whole, []byte("vauban")) {
		t.Errorf("got frame type %d, descriptor %#x, want an open", kind, d)
	}
	if kind, d, whole := frame(t, c); kind != 0 || d != 0x18 || !bytes.Contains(whole, []byte("\xa3\x14amqp:not-implemented")) || !bytes.Contains(whole, []byte("MQTT")) {
		t.Errorf("got frame type %d, descriptor %#x %q, want a close with amqp:not-implemented", kind, d, whole)
	}
}

func TestRefuse_Plain(t *testing.T) {
	t.Parallel()
	address, log, _ := start(t)
	c := dial(t, address)
	send(t, c, plain)
	refused(t, c)
	send(t, c, "\x00\x00\x00\x08\x02\x00\x00\x00") // the client's answer
	c.CloseWrite()
	if rest, err := io.ReadAll(c); err != nil || len(rest) != 0 {
		t.Errorf("after the close: %q, %v", rest, err)
	}
	hubtest.Until(t, "a line in the log", func() bool { return len(log.Lines(slog.LevelInfo, "")) > 0 })
	if lines := log.Lines(slog.LevelInfo, ""); len(lines) != 1 || !strings.Contains(lines[0].Text, "MQTT") {
		t.Errorf("log: %v", lines)
	}
}

// What azure-iot-device-amqp and azure-iothub begin with: SASL, then AMQP.
func TestRefuse_SASL(t *testing.T) {
	t.Parallel()
	address, _, _ := start(t)
	c := dial(t, address)
	send(t, c, sasl)
	expect(t, c, sasl)
	kind, d, whole := frame(t, c)
	if kind != 1 || d != 0x40 {
		t.Errorf("got frame type %d, descriptor %#x, want SASL mechanisms", kind, d)
	}
	for _, m := range []string{"ANONYMOUS", "PLAIN", "MSSBCBS"} {
		if !bytes.Contains(whole, []byte(m)) {
			t.Errorf("%s is not offered: %q", m, whole)
		}
	}
	init := "\x00\x53\x41\xc0\x0d\x01\xa3\x09ANONYMOUS"
	send(t, c, "\x00\x00\x00"+string(rune(8+len(init)))+"\x02\x01\x00\x00"+init)
	if kind, d, whole = frame(t, c); kind != 1 || d != 0x44 || !bytes.HasSuffix(whole, []byte{0x50, 0}) {
		t.Errorf("got frame type %d, descriptor %#x %x, want a SASL outcome of ok", kind, d, whole)
	}
	send(t, c, plain)
	refused(t, c)
}

func TestRefuse_Strangers(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ say, answer string }{
		"another version":    {"AMQP\x00\x00\x09\x01", plain},
		"HTTP":               {"GET / HTTP/1.1\r\n\r\n", plain},
		"nothing":            {"", ""},
		"half a header":      {"AMQP", ""},
		"endless SASL":       {sasl + "\xff\xff\xff\xff", sasl},
		"SASL frame of 3":    {sasl + "\x00\x00\x00\x03", sasl},
		"SASL, then rubbish": {sasl + "\x00\x00\x00\x08\x02\x01\x00\x00" + "rubbish!", sasl},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address, log, _ := start(t)
			c := dial(t, address)
			send(t, c, tc.say)
			c.CloseWrite()
			got, _ := io.ReadAll(c)
			if !strings.HasPrefix(string(got), tc.answer) || tc.answer == "" && len(got) != 0 {
				t.Errorf("got %q, want %q", got, tc.answer)
			}
			if lines := log.Lines(slog.LevelWarn, ""); len(lines) != 0 {
				t.Errorf("log: %v", lines)
			}
		})
	}
}

// A stop does not wait for clients that say nothing.
func TestRun_Stops(t *testing.T) {
	t.Parallel()
	address, _, stop := start(t)
	c := dial(t, address)
	raw, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	begin := time.Now()
	stop()
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the stop took %v", took)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection still stands")
	}
}

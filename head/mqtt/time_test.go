package mqtt_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/mqtt"
	"github.com/vauban-iot/vauban/head/mqtt/mqtttest"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
	wire "github.com/vauban-iot/vauban/wire/mqtt"
	"github.com/vauban-iot/vauban/wire/sas"
)

// The tests of this file run in bubbles where time passes at once: the head serves pipes.

// pipes is a listener in memory.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

// bubble is a head in memory.
type bubble struct {
	t    *testing.T
	ln   *pipes
	log  *hubtest.Log
	stop func()
}

func newBubble(t *testing.T, core mqtt.Core) *bubble {
	t.Helper()
	b := &bubble{t: t, ln: &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}, log: &hubtest.Log{}}
	s, err := mqtt.New(mqtt.Config{Core: core, TLS: authority.DeviceTLS(), Logger: slog.New(b.log)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, b.ln) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(b.stop)
	return b
}

func (b *bubble) pipe() net.Conn {
	client, server := net.Pipe()
	b.ln.conns <- server
	return client
}

// dial opens a connection. The clock of a bubble starts before the certificate does.
func (b *bubble) dial() *mqtttest.Client {
	b.t.Helper()
	return mqtttest.New(b.t, b.pipe(), &tls.Config{InsecureSkipVerify: true})
}

// fake is a hub that lets everybody in, and is as slow as it is told.
type fake struct {
	slow time.Duration // of twin calls and of the log
	turn bool          // the log is done with later messages first
	fail error         // of the log

	mu    sync.Mutex
	link  iot.Link
	wills int
}

func (f *fake) Connect(_ context.Context, _ iot.Credentials, _ iot.Opening, link iot.Link) (iot.Opened, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.link = link
	return iot.Opened{Session: f}, nil
}

func (f *fake) Telemetry(m *iot.Message, ack iot.Acker, token uint64) {
	for _, p := range m.Properties {
		if p.Name == "iothub-MessageType" {
			f.mu.Lock()
			f.wills++
			f.mu.Unlock()
		}
	}
	slow := f.slow
	if f.turn {
		slow -= time.Duration(token) * time.Second
	}
	go func() {
		time.Sleep(slow)
		ack.Acked(token, f.fail)
	}()
}

func (f *fake) wait(ctx context.Context) error {
	select {
	case <-time.After(f.slow):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *fake) Twin(ctx context.Context) ([]byte, error) { return []byte("{}"), f.wait(ctx) }
func (f *fake) PatchReported(ctx context.Context, _ []byte, _ int64) (int64, error) {
	return 2, f.wait(ctx)
}
func (f *fake) Listen(iot.Feature)                                          {}
func (f *fake) Mail(context.Context, int) ([]iot.Mail, error)               { return nil, nil }
func (f *fake) Settle(context.Context, string) error                        { return nil }
func (f *fake) SaveSubscriptions(context.Context, []iot.Subscription) error { return nil }
func (f *fake) RequestCertificate(context.Context, string, []byte, string) (iot.CertificateOperation, error) {
	return iot.CertificateOperation{}, nil
}
func (f *fake) CertificateAnswer(context.Context) (iot.CertificateAnswer, time.Duration, bool, error) {
	return iot.CertificateAnswer{}, 0, false, nil
}
func (f *fake) CertificateTaken(context.Context, string) error { return nil }
func (f *fake) End(context.Context)                            {}

var anyone = iot.ID{Device: "anyone"}

func (b *bubble) connect(keepAlive uint16, will bool) *mqtttest.Client {
	b.t.Helper()
	h := hello(anyone, "token")
	h.KeepAlive = keepAlive
	if will {
		h.Will = &wire.Will{Topic: events(anyone)}
	}
	c := b.dial()
	if _, code := c.Connect(h); code != 0 {
		b.t.Fatalf("CONNACK %d", code)
	}
	return c
}

func TestTime_NoConnect(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HD-20")
	for name, talk := range map[string]func(b *bubble, nc net.Conn) func() error{
		"not even TLS": func(_ *bubble, nc net.Conn) func() error {
			return func() error { _, err := io.Copy(io.Discard, nc); return err }
		},
		"no CONNECT": func(b *bubble, nc net.Conn) func() error {
			return mqtttest.New(b.t, nc, &tls.Config{InsecureSkipVerify: true}).Drained
		},
		"half a CONNECT": func(b *bubble, nc net.Conn) func() error {
			c := mqtttest.New(b.t, nc, &tls.Config{InsecureSkipVerify: true})
			c.Send([]byte{0x10, 50, 0, 4, 'M', 'Q'})
			return c.Drained
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBubble(t, &fake{})
				begin := time.Now()
				wait := talk(b, b.pipe())
				wait()
				if took := time.Since(begin); took < 60*time.Second || took > 61*time.Second {
					t.Errorf("the connection was closed after %v, want 60 s", took)
				}
			})
		})
	}
}

func TestTime_KeepAlive(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HD-24")
	const most = 1767 * time.Second
	for keepAlive, want := range map[uint16]time.Duration{
		1: 1500 * time.Millisecond, 60: 90 * time.Second, 240: 6 * time.Minute, 1177: 1765500 * time.Millisecond, 1178: 1767 * time.Second, 0: most, 65535: most,
	} {
		t.Run(fmt.Sprint(keepAlive), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				core := &fake{}
				b := newBubble(t, core)
				c := b.connect(keepAlive, true)
				// Any packet counts as a sign of life.
				for _, p := range [][]byte{wire.AppendPingreq(nil), wire.AppendPuback(nil, 1), wire.AppendPublish(nil, &wire.Publish{Topic: []byte(events(anyone))})} {
					time.Sleep(want - time.Millisecond)
					c.Send(p)
				}
				c.Expect(wire.AppendPingresp(nil))
				begin := time.Now()
				if err := c.Drained(); !errors.Is(err, io.EOF) {
					t.Errorf("the connection ended with %v, want a close_notify", err)
				}
				if took := time.Since(begin); took < want-time.Millisecond || took > want+5*time.Second {
					t.Errorf("the connection was closed after %v of silence, want %v", took, want)
				}
				synctest.Wait()
				if core.wills != 1 {
					t.Errorf("%d wills, want 1", core.wills)
				}
				if lines := b.log.Lines(slog.LevelInfo, "anyone"); len(lines) != 1 || lines[0].Attr("kind") != "timeout" {
					t.Errorf("log: %v, want one line about the timeout", lines)
				}
			})
		})
	}
}

func TestTime_PingWhileBusy(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HD-25")
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, &fake{slow: 20 * time.Second})
		c := b.connect(240, false)
		c.Subscribe(0, twinAnswers)
		upload := bytes.Repeat([]byte("x"), 256<<10)
		begin := time.Now()
		c.Send(wire.AppendPublish(nil, &wire.Publish{QoS: 1, PacketID: 77, Topic: []byte(events(anyone)), Payload: upload}))
		c.Send(wire.AppendPublish(nil, &wire.Publish{Topic: []byte("$iothub/twin/GET/?$rid=1")}))
		c.Send(wire.AppendPublish(nil, &wire.Publish{Topic: []byte("$iothub/twin/PATCH/properties/reported/?$rid=2"), Payload: []byte("{}")}))
		for range 3 {
			at := time.Now()
			c.Send(wire.AppendPingreq(nil))
			c.Expect(wire.AppendPingresp(nil))
			if took := time.Since(at); took > 200*time.Millisecond {
				t.Errorf("PINGRESP after %v, want at most 200 ms", took)
			}
			time.Sleep(time.Second)
		}
		// The slow things happen all the same, and each waited for the store.
		time.Sleep(16 * time.Second)
		got := map[string]bool{}
		for range 2 {
			p := c.Next()
			got[fmt.Sprintf("%x", p[:1])] = true
		}
		if took := time.Since(begin); !got["40"] || !got["30"] || took < 20*time.Second {
			t.Errorf("after %v got packets %v, want the PUBACK and the twin", took, got)
		}
		time.Sleep(12 * time.Second)
		if p := c.NextPublish(); string(p.Topic) != "$iothub/twin/res/204/?$rid=2&$version=2" {
			t.Errorf("got %q", p.Topic)
		}
	})
}

// Whatever the order in which the log is done, PUBACKs keep that of the PUBLISHes, and none comes before its message is safe.
func TestTime_AcksKeepTheOrder(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HD-32")
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, &fake{slow: 20 * time.Second, turn: true})
		c := b.connect(240, false)
		begin := time.Now()
		for i := range 10 {
			p := wire.Publish{QoS: 1, PacketID: uint16(100 - i), Topic: []byte(events(anyone))}
			if i == 5 {
				p.QoS, p.PacketID = 0, 0 // nothing is owed for this one
			}
			c.Send(wire.AppendPublish(nil, &p))
		}
		time.Sleep(19 * time.Second) // all but the first are on the log
		synctest.Wait()
		c.Silent(500 * time.Millisecond)
		for i := range 10 {
			if i != 5 {
				c.Expect(wire.AppendPuback(nil, uint16(100-i)))
			}
		}
		if took := time.Since(begin); took != 20*time.Second {
			t.Errorf("the PUBACKs came after %v, want 20 s", took)
		}
	})
}

// A log that fails is no reason to acknowledge: the device is closed and will send again.
func TestTime_LogFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, &fake{slow: time.Second, fail: fault.New(fault.Unavailable, "the log cannot be written")})
		c := b.connect(240, false)
		for i := range 5 {
			c.Send(wire.AppendPublish(nil, &wire.Publish{QoS: 1, PacketID: uint16(i + 1), Topic: []byte(events(anyone))}))
		}
		c.Closed()
		synctest.Wait()
		if lines := b.log.Lines(slog.LevelInfo, "anyone"); len(lines) != 1 || lines[0].Attr("kind") != "unavailable" {
			t.Errorf("log: %v, want one line", lines)
		}
	})
}

// When the log is slow, reading stops at a bound instead of filling the memory, and goes on later.
func TestTime_BackPressure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, &fake{slow: 10 * time.Second})
		c := b.connect(240, false)
		body := make([]byte, 128<<10)
		const n = 20
		sent := make(chan time.Duration, 1)
		begin := time.Now()
		go func() {
			for i := range n {
				c.TrySend(wire.AppendPublish(nil, &wire.Publish{QoS: 1, PacketID: uint16(i + 1), Topic: []byte(events(anyone)), Payload: body}))
			}
			sent <- time.Since(begin)
		}()
		for i := range n {
			p, ok := c.TryFor(time.Minute)
			if !ok {
				t.Fatal("the connection ended")
			}
			if string(p) != string(wire.AppendPuback(nil, uint16(i+1))) {
				t.Fatalf("got %x, want PUBACK %d", p, i+1)
			}
		}
		if took := <-sent; took < 10*time.Second {
			t.Errorf("%d messages of 128 KiB were taken in after %v, while nothing was on the log", n, took)
		}
	})
}

// A stop waits for messages that are on their way to the disk, but not for ever.
func TestTime_StopDrains(t *testing.T) {
	t.Parallel()
	for slow, acked := range map[time.Duration]bool{2 * time.Second: true, time.Hour: false} {
		t.Run(fmt.Sprint(slow), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBubble(t, &fake{slow: slow})
				c := b.connect(240, false)
				c.Subscribe(0, twinAnswers)
				c.Send(wire.AppendPublish(nil, &wire.Publish{QoS: 1, PacketID: 5, Topic: []byte(events(anyone)), Payload: []byte("x")}))
				c.Send(wire.AppendPublish(nil, &wire.Publish{Topic: []byte("$iothub/twin/GET/?$rid=1")}))
				synctest.Wait()
				begin := time.Now()
				b.stop()
				if took := time.Since(begin); took > 6*time.Second {
					t.Errorf("the stop took %v, want at most 5 s", took)
				}
				n := 0
				for {
					if _, ok := c.Try(); !ok {
						break
					}
					n++
				}
				if want := map[bool]int{true: 2, false: 0}[acked]; n != want {
					t.Errorf("%d packets after the stop began, want %d", n, want)
				}
				if err := c.Drained(); !errors.Is(err, io.EOF) {
					t.Errorf("the connection ended with %v, want a close_notify", err)
				}
				time.Sleep(2 * time.Hour) // the log's late answer falls on deaf ears
			})
		})
	}
}

// A device that does not read is let go, and a stop does not wait for it.
func TestTime_DeviceDoesNotRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		core := &fake{}
		b := newBubble(t, core)
		nc := b.pipe()
		c := tls.Client(nc, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
		h := hello(anyone, "token")
		if _, err := c.Write(wire.AppendConnect(nil, &h)); err != nil {
			t.Fatal(err)
		}
		connack := make([]byte, 4)
		if _, err := io.ReadFull(c, connack); err != nil {
			t.Fatal(err)
		}
		go c.Write(wire.AppendSubscribe(nil, 1, []wire.Subscription{{Filter: methods}, {Filter: desiredOnly}}))
		synctest.Wait()
		for v := range 100 {
			core.link.Desired(int64(v), make([]byte, 64<<10))
		}
		time.Sleep(6 * time.Second) // crypto/tls gives the close_notify five
		if lines := b.log.Lines(slog.LevelInfo, "anyone"); len(lines) != 1 || lines[0].Attr("kind") != "throttled" {
			t.Errorf("log: %v, want one line about a device that does not read", lines)
		}
		begin := time.Now()
		b.stop()
		if took := time.Since(begin); took > 0 {
			t.Errorf("the stop waited %v for a device that is gone", took)
		}
		nc.Close()
	})
}

// The whole hub in a bubble: how long a token and its connection live.
func TestTime_TokenExpiry(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HD-96")
	synctest.Test(t, func(t *testing.T) {
		w := hubtest.New(t, hubtest.Options{Memory: true})
		b := newBubble(t, w.Hub)
		d := w.Device(t, iot.ID{Device: "anyone"})
		policy := w.Policies[2]
		for name, sign := range map[string]func(se time.Time) string{
			"own key": func(se time.Time) string {
				return sas.Sign(hubtest.Resource(d.ID), d.Authentication.PrimaryKey.Reveal(), se, "")
			},
			"policy key": func(se time.Time) string { return sas.Sign(hubtest.Host, policy.Primary.Reveal(), se, policy.Name) },
		} {
			se := time.Now().Add(time.Hour).Truncate(time.Second)
			h := hello(d.ID, sign(se))
			h.KeepAlive = 0
			c := b.dial()
			if _, code := c.Connect(h); code != 0 {
				t.Fatalf("%s: CONNACK %d", name, code)
			}
			ended := make(chan time.Time, 1)
			go func() {
				c.Drained()
				ended <- time.Now()
			}()
			for range 4 { // keeps itself alive
				time.Sleep(17 * time.Minute)
				c.TrySend(wire.AppendPingreq(nil))
			}
			at := <-ended
			if late := at.Sub(se); late < 9*time.Minute || late > 10*time.Minute+time.Second {
				t.Errorf("%s: the live connection was closed %v after se, want 10 min", name, late)
			}
			for after, want := range map[time.Duration]byte{4 * time.Minute: 0, 6 * time.Minute: 5} {
				h := hello(d.ID, sign(time.Now().Add(-after)))
				h.KeepAlive = 0
				c := b.dial()
				if _, code := c.Connect(h); code != want {
					t.Errorf("%s: %v after se: CONNACK %d, want %d", name, after, code, want)
				}
				begin := time.Now()
				c.Drained()
				// The grace counts from se, not from the CONNECT.
				if took := time.Since(begin); want == 0 && (took < 5*time.Minute || took > 6*time.Minute+time.Second) {
					t.Errorf("%s: the connection made 4 min after se was closed after %v, want 6 min", name, took)
				}
			}
		}
		b.stop()
	})
}

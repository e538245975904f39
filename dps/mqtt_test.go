package dps_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/dps"
	"github.com/vauban-iot/vauban/dps/dpstest"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/mqtt"
	"github.com/vauban-iot/vauban/head/mqtt/mqtttest"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/pki"
	wire "github.com/vauban-iot/vauban/wire/mqtt"
	"github.com/vauban-iot/vauban/wire/sas"
)

// The tests of this file see provisioning as devices do: over MQTT and TLS.

// noHub stands where the hub is: these connections are not for it.
type noHub struct{}

func (noHub) Connect(context.Context, iot.Credentials, iot.Opening, iot.Link) (iot.Opened, error) {
	return iot.Opened{}, errors.New("this test has no hub")
}

// broken is a service whose registrations end as told.
type broken struct {
	*dps.Service
	reply func() (dps.Reply, bool)
}

func (b broken) Register(ctx context.Context, c *dps.Caller, body []byte) dps.Reply {
	if r, ok := b.reply(); ok {
		return r
	}
	return b.Service.Register(ctx, c, body)
}

// authority is made once: RSA keys take a while.
var authority struct {
	once sync.Once
	*pki.Authority
}

type endpoint struct {
	*dpstest.World
	address string
	roots   *x509.CertPool
}

// overMQTT serves a provisioning service. reply, when not nil, may take the place of a registration.
func overMQTT(t *testing.T, reply func() (dps.Reply, bool)) *endpoint {
	t.Helper()
	authority.once.Do(func() {
		dir := t.TempDir()
		sealer, err := secret.OpenSealer(filepath.Join(dir, "master.key"))
		if err != nil {
			t.Fatal(err)
		}
		authority.Authority, err = pki.Open(pki.Config{Dir: filepath.Join(dir, "pki"), Hostname: dpstest.Host, Sealer: sealer, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
	})
	e := &endpoint{World: dpstest.New(t), roots: x509.NewCertPool()}
	e.roots.AppendCertsFromPEM(authority.RootPEM())
	var p mqtt.Provisioner = e.Service
	if reply != nil {
		p = broken{e.Service, reply}
	}
	head, err := mqtt.New(mqtt.Config{Core: noHub{}, Provisioner: p, TLS: authority.DeviceTLS(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e.address = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() {
		if err := head.Run(ctx, ln); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		run.Wait()
	})
	return e
}

func (e *endpoint) tls(certs ...tls.Certificate) *tls.Config {
	return &tls.Config{RootCAs: e.roots, ServerName: dpstest.Host, Certificates: certs, MinVersion: tls.VersionTLS12}
}

func (e *endpoint) dial(t *testing.T, certs ...tls.Certificate) *mqtttest.Client {
	t.Helper()
	return mqtttest.Dial(t, e.address, e.tls(certs...))
}

// hello is the CONNECT of a device with a key.
func (e *endpoint) hello(id string, key []byte) wire.Connect {
	return wire.Connect{
		CleanSession: true, KeepAlive: 60, ClientID: id, HasUsername: true, HasPassword: true,
		Username: dpstest.Scope + "/registrations/" + id + "/api-version=2019-03-31&ClientVersion=test%2F1",
		Password: []byte(sas.Sign(dpstest.Scope+"/registrations/"+id, key, e.Clock.Now().Add(time.Hour), "registration")),
	}
}

// connected enrolls a device and connects it.
func (e *endpoint) connected(t *testing.T, id string) *mqtttest.Client {
	t.Helper()
	put(t, e.World, false, id, symmetric(groupKey, otherKey, ""))
	c := e.dial(t)
	if present, code := c.Connect(e.hello(id, decode(t, groupKey))); present || code != 0 {
		t.Fatalf("CONNACK %v %d, want a session that was not there and 0", present, code)
	}
	return c
}

const (
	answers     = "$dps/registrations/res/#"
	registering = "$dps/registrations/PUT/iotdps-register/?$rid="
	asking      = "$dps/registrations/GET/iotdps-get-operationstatus/?$rid="
)

// operation reads the answer to a registration.
func operation(t *testing.T, p wire.Publish) string {
	t.Helper()
	var d struct{ OperationID, Status string }
	if err := json.Unmarshal(p.Payload, &d); err != nil || d.OperationID == "" || d.Status != "assigning" {
		t.Fatalf("answer %s to a registration: %v", p.Payload, err)
	}
	return d.OperationID
}

func TestMQTT_TLS(t *testing.T) {
	conform.Covers(t, "DPS-3")
	e := overMQTT(t, nil)
	put(t, e.World, false, "d1", symmetric(groupKey, otherKey, ""))
	hello := e.hello("d1", decode(t, groupKey))

	nc, err := net.Dial("tcp", e.address)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := nc.Write(wire.AppendConnect(nil, &hello)); err != nil {
		t.Fatal(err)
	}
	nc.SetReadDeadline(time.Now().Add(mqtttest.Patience))
	got, err := io.ReadAll(nc)
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		t.Error("a client without TLS is kept waiting")
	}
	if bytes.Contains(got, wire.AppendConnack(nil, false, 0)) {
		t.Error("a client without TLS is accepted")
	}
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11} {
		cfg := e.tls()
		cfg.MinVersion, cfg.MaxVersion = version, version
		c, err := tls.Dial("tcp", e.address, cfg)
		if err == nil {
			c.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "protocol version") {
			t.Errorf("%s: %v, want a refusal of the version", tls.VersionName(version), err)
		}
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cfg := e.tls()
		cfg.MinVersion, cfg.MaxVersion = version, version
		if _, code := mqtttest.Dial(t, e.address, cfg).Connect(hello); code != 0 {
			t.Errorf("%s: CONNACK %d", tls.VersionName(version), code)
		}
	}
}

func TestMQTT_Connect(t *testing.T) {
	conform.Covers(t, "DPS-4", "DPS-5")
	e := overMQTT(t, nil)
	key := decode(t, groupKey)
	put(t, e.World, false, "Board-1", symmetric(groupKey, otherKey, ""))
	ca, self := dpstest.NewCA(t, "ca"), dpstest.SelfSigned(t, "Leaf-1")
	put(t, e.World, true, "ca", fmt.Sprintf(`{"attestation":{"type":"x509","x509":{"signingCertificates":{"primary":{"certificate":%q}}}}}`, ca.PEM()))
	put(t, e.World, false, "Leaf-1", fmt.Sprintf(`{"attestation":{"type":"x509","x509":{"clientCertificates":{"primary":{"certificate":%q}}}}}`, self.PEM()))
	spelled := func(client, scope, id, signed string) wire.Connect {
		h := e.hello("Board-1", key)
		h.ClientID = client
		h.Username = scope + "/registrations/" + id + "/api-version=2019-03-31"
		h.Password = []byte(sas.Sign(signed, key, e.Clock.Now().Add(time.Hour), "registration"))
		return h
	}
	usual := dpstest.Scope + "/registrations/Board-1"
	lower, upper := strings.ToLower(dpstest.Scope), strings.ToUpper(dpstest.Scope)
	persistent := spelled("Board-1", dpstest.Scope, "Board-1", usual)
	persistent.CleanSession = false
	withCertificate := func(id string) wire.Connect {
		return wire.Connect{CleanSession: true, ClientID: id, HasUsername: true, Username: dpstest.Scope + "/registrations/" + id + "/api-version=2021-06-01"}
	}
	for _, test := range []struct {
		name  string
		hello wire.Connect
		cert  []tls.Certificate
		code  byte
	}{
		{"as enrolled", spelled("Board-1", dpstest.Scope, "Board-1", usual), nil, 0},
		{"persistent", persistent, nil, 0},
		{"persistent again", persistent, nil, 0},
		{"lower case", spelled("board-1", lower, "board-1", strings.ToLower(usual)), nil, 0},
		{"upper case", spelled("BOARD-1", upper, "BOARD-1", strings.ToUpper(usual)), nil, 0},
		{"every part its own", spelled("board-1", upper, "BOARD-1", usual), nil, 0},
		{"self-signed certificate", withCertificate("leaf-1"), []tls.Certificate{self.TLS(0)}, 0},
		{"certificate of a CA", withCertificate("FLEET-1"), []tls.Certificate{ca.Leaf(t, "fleet-1", nil).TLS(0)}, 0},

		{"another client id", spelled("Board-2", dpstest.Scope, "Board-1", usual), nil, 5},
		{"another scope", spelled("Board-1", "0ne00000000", "Board-1", usual), nil, 5},
		{"another token", spelled("Board-1", dpstest.Scope, "Board-1", dpstest.Scope+"/registrations/Board-2"), nil, 5},
		{"another key", e.hello("Board-1", bytes.Repeat([]byte("x"), 64)), nil, 5},
		{"unknown", e.hello("Board-3", key), nil, 5},
		{"neither token nor certificate", withCertificate("Board-1"), nil, 5},
		{"a stranger's certificate", withCertificate("fleet-2"), []tls.Certificate{dpstest.NewCA(t, "other").Leaf(t, "fleet-2", nil).TLS(0)}, 5},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := e.dial(t, test.cert...)
			if present, code := c.Connect(test.hello); present || code != test.code {
				t.Fatalf("CONNACK %v %d, want %d and no session", present, code, test.code)
			}
			if test.code != 0 {
				c.Closed()
				return
			}
			c.Subscribe(1, answers)
			c.Publish(registering+"1", nil)
			p := c.NextPublish()
			if op := operation(t, p); !bytes.HasPrefix(p.Topic, []byte("$dps/registrations/res/202/?$rid=1&retry-after=")) {
				t.Errorf("answer %s on %s", op, p.Topic)
			}
			c.Send(wire.AppendPuback(nil, p.PacketID))
			c.Disconnect()
		})
	}
	// One enrollment, one device, in the first spelling.
	if _, ok := e.Hub.Device("Board-1"); !ok {
		t.Error("the hub has no Board-1")
	}
	for _, id := range []string{"board-1", "BOARD-1"} {
		if _, ok := e.Hub.Device(id); ok {
			t.Errorf("the hub has a second device %s", id)
		}
	}
	reg, err := e.Registration(t.Context(), "bOARD-1")
	if err != nil || !bytes.Contains(reg.JSON, []byte(`"registrationId":"Board-1"`)) {
		t.Errorf("record %s, %v; want the first spelling", reg.JSON, err)
	}

	t.Run("disabled", func(t *testing.T) { // 5, since 3 would have .NET devices try for ever
		put(t, e.World, false, "Board-1", symmetric(groupKey, otherKey, `,"provisioningStatus":"disabled"`))
		c := e.dial(t)
		if _, code := c.Connect(e.hello("Board-1", key)); code != 5 {
			t.Errorf("CONNACK %d, want 5", code)
		}
		c.Closed()
	})
}

func TestMQTT_ForeignTopics(t *testing.T) {
	conform.Covers(t, "DPS-6")
	e := overMQTT(t, nil)
	for i, test := range []struct{ filter, topic string }{
		{filter: "#"}, {filter: "$dps/#"}, {filter: "$dps/registrations/#"}, {filter: "$dps/registrations/res/200/#"}, {filter: "$dps/registrations/PUT/#"},
		{filter: "devices/d/messages/devicebound/#"}, {filter: "$iothub/twin/res/#"},
		{topic: "devices/d/messages/events/"}, {topic: "$iothub/twin/GET/?$rid=1"}, {topic: "$dps/registrations/res/200/?$rid=1"},
		{topic: "$dps/registrations/POST/iotdps-register/?$rid=1"}, {topic: "$dps/registrations/PUT/iotdps-other/?$rid=1"}, {topic: "$dps/"}, {topic: "x"},
	} {
		t.Run(test.filter+test.topic, func(t *testing.T) {
			c := e.connected(t, fmt.Sprint("d", i))
			c.Subscribe(1, answers)
			if test.filter != "" {
				c.Send(wire.AppendSubscribe(nil, c.ID(), []wire.Subscription{{Filter: test.filter, QoS: 1}}))
			} else {
				c.Publish0(test.topic, nil)
			}
			c.Closed()
		})
	}
}

func TestMQTT_QoS(t *testing.T) {
	conform.Covers(t, "DPS-7", "DPS-8")
	e := overMQTT(t, nil)
	for _, publish := range []byte{0, 1} {
		for _, subscribe := range []byte{0, 1, 2} {
			t.Run(fmt.Sprintf("publish %d, subscribe %d", publish, subscribe), func(t *testing.T) {
				c := e.connected(t, fmt.Sprintf("d%d%d", publish, subscribe))
				id := c.ID()
				c.Send(wire.AppendSubscribe(nil, id, []wire.Subscription{{Filter: answers, QoS: subscribe}}))
				granted := min(subscribe, 1)
				c.Expect(wire.AppendSuback(nil, id, []byte{granted}))
				ask := func(topic string, body string) wire.Publish {
					t.Helper()
					if publish == 0 {
						c.Publish0(topic, []byte(body))
					} else {
						c.Publish(topic, []byte(body)) // fails unless the PUBACK is the next packet
					}
					p := c.NextPublish()
					if p.QoS != granted || p.Retain || p.Dup {
						t.Errorf("answer %+v, want QoS %d", p, granted)
					}
					if granted == 1 {
						if p.PacketID == 0 {
							t.Error("an answer without a packet id")
						}
						c.Send(wire.AppendPuback(nil, p.PacketID))
					}
					return p
				}
				op := operation(t, ask(registering+"1", ""))
				if p := ask(asking+"2&operationId="+op, " "); !bytes.Contains(p.Payload, []byte(`"status":"assigned"`)) {
					t.Errorf("answer %s", p.Payload)
				}
			})
		}
	}
	t.Run("many at once", func(t *testing.T) { // every PUBACK comes before its answer
		c := e.connected(t, "many")
		c.Subscribe(1, answers)
		const n = 50
		var b []byte
		for i := range n {
			b = wire.AppendPublish(b, &wire.Publish{QoS: 1, PacketID: uint16(100 + i), Topic: fmt.Append(nil, asking, 100+i, "&operationId=none")})
		}
		c.Send(b)
		acked := make(map[string]bool)
		for range 2 * n {
			packet := c.Next()
			h, size, err := wire.ParseHeader(packet, wire.MaxLength)
			if err != nil {
				t.Fatal(err)
			}
			if h.Type == wire.PUBACK {
				acked[fmt.Sprint(int(packet[2])<<8|int(packet[3]))] = true
				continue
			}
			p, err := wire.ParsePublish(h.Flags, packet[size:])
			if err != nil {
				t.Fatal(err)
			}
			_, rid, _ := strings.Cut(string(p.Topic), "$rid=")
			if rid, _, _ = strings.Cut(rid, "&"); !acked[rid] {
				t.Fatalf("the answer to %s came before its PUBACK", rid)
			}
		}
	})
	t.Run("QoS 2", func(t *testing.T) {
		c := e.connected(t, "two")
		c.Subscribe(1, answers)
		c.Send(wire.AppendPublish(nil, &wire.Publish{QoS: 2, PacketID: 9, Topic: []byte(registering + "1")}))
		c.Closed()
	})
}

func TestMQTT_AnswerTopics(t *testing.T) {
	conform.Covers(t, "DPS-9")
	var fail error
	var mu sync.Mutex
	e := overMQTT(t, func() (dps.Reply, bool) {
		mu.Lock()
		defer mu.Unlock()
		return dps.ErrorReply(fail), fail != nil
	})
	c := e.connected(t, "d1")
	c.Subscribe(0, answers)
	ask := func(topic, want string) wire.Publish {
		t.Helper()
		c.Publish0(topic, nil)
		p := c.NextPublish()
		if string(p.Topic) != want {
			t.Errorf("answer on %s, want %s", p.Topic, want)
		}
		if !json.Valid(p.Payload) || len(p.Payload) == 0 {
			t.Errorf("answer %q", p.Payload)
		}
		return p
	}
	var op string
	for _, rid := range []string{"1", "42", "00000000-7aec-4f2f-9d4c-1b2c3d4e5f60", "a%20b", "A-B_c.d~", "1", "1"} {
		e.Clock.Add(10 * time.Second) // so that the device does not ask too often
		op = operation(t, ask(registering+rid, "$dps/registrations/res/202/?$rid="+rid+"&retry-after=1"))
		ask(asking+rid+"&operationId="+op, "$dps/registrations/res/200/?$rid="+rid)
		ask(asking+rid+"&operationId=none", "$dps/registrations/res/404/?$rid="+rid)
	}
	c.Publish0(registering+"7", []byte("{"))
	if p := c.NextPublish(); string(p.Topic) != "$dps/registrations/res/400/?$rid=7" {
		t.Errorf("answer on %s", p.Topic)
	}
	for _, test := range []struct {
		err  error
		want string
	}{
		{&fault.Error{Kind: fault.Throttled, Public: "later", RetryAfter: 7 * time.Second}, "429/?$rid=9&retry-after=7"},
		{fault.New(fault.Throttled, "later"), "429/?$rid=9&retry-after=5"},
		{errors.New("ours"), "500/?$rid=9&retry-after=5"},
		{&fault.Error{Kind: fault.Unavailable, Public: "stopping", RetryAfter: 1500 * time.Millisecond}, "503/?$rid=9&retry-after=2"},
		{fault.New(fault.Timeout, "slow"), "504/?$rid=9&retry-after=5"},
		{fault.New(fault.Invalid, "no"), "400/?$rid=9"},
	} {
		mu.Lock()
		fail = test.err
		mu.Unlock()
		ask(registering+"9", "$dps/registrations/res/"+test.want)
	}
}

// tap keeps what arrives on a connection.
type tap struct {
	net.Conn
	mu sync.Mutex
	in []byte
}

func (c *tap) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	c.in = append(c.in, b[:n]...)
	c.mu.Unlock()
	return n, err
}

// records counts the TLS records of application data that arrived since the last call.
func (c *tap) records() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.in) >= 5 {
		size := 5 + (int(c.in[3])<<8 | int(c.in[4]))
		if len(c.in) < size {
			break
		}
		if c.in[0] == 23 {
			n++
		}
		c.in = c.in[size:]
	}
	return n
}

func TestMQTT_AnswersFitOnePacket(t *testing.T) {
	conform.Covers(t, "DPS-10")
	e := overMQTT(t, nil)
	id := strings.Repeat("r", 128)
	put(t, e.World, false, id, symmetric(groupKey, otherKey, fmt.Sprintf(`,"deviceId":%q`, strings.Repeat("d", 128))))
	nc, err := net.Dial("tcp", e.address)
	if err != nil {
		t.Fatal(err)
	}
	raw := &tap{Conn: nc}
	cfg := e.tls()
	cfg.MaxVersion = tls.VersionTLS12 // NetX Duo's; and no session tickets among the records
	c := mqtttest.New(t, raw, cfg)
	if _, code := c.Connect(e.hello(id, decode(t, groupKey))); code != 0 {
		t.Fatalf("CONNACK %d", code)
	}
	c.Subscribe(0, answers)
	raw.records()
	ask := func(topic string) []byte {
		t.Helper()
		c.Publish0(topic, nil)
		b := c.Next()
		if len(b) > 1300 {
			t.Errorf("an answer of %d bytes, want at most 1300", len(b))
		}
		if n := raw.records(); n != 1 {
			t.Errorf("an answer in %d TLS records, want 1", n)
		}
		return b
	}
	const rid = "00000000-7aec-4f2f-9d4c-1b2c3d4e5f60"
	b := ask(registering + rid)
	h, n, err := wire.ParseHeader(b, wire.MaxLength)
	if err != nil {
		t.Fatal(err)
	}
	p, err := wire.ParsePublish(h.Flags, b[n:])
	if err != nil {
		t.Fatal(err)
	}
	if b = ask(asking + rid + "&operationId=" + operation(t, p)); !bytes.Contains(b, []byte(`"assigned"`)) {
		t.Errorf("answer %q", b)
	}
	ask(asking + rid + "&operationId=none")
}

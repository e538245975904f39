package mqtt_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/dps/dpstest"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/mqtt"
	"github.com/vauban-iot/vauban/head/mqtt/mqtttest"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/internal/conform"
	wire "github.com/vauban-iot/vauban/wire/mqtt"
	"github.com/vauban-iot/vauban/wire/sas"
)

const provisioningAnswers = "$dps/registrations/res/#"

// provisioning is a head with the provisioning service behind it.
type provisioning struct {
	*server
	dps *dpstest.World
	key []byte
}

func startProvisioning(t *testing.T) *provisioning {
	t.Helper()
	p := &provisioning{dps: dpstest.New(t), key: []byte("0123456789abcdef0123456789abcdef")}
	s := &server{World: shared.World, roots: shared.roots}
	log := &hubtest.Log{}
	head, err := mqtt.New(mqtt.Config{Core: shared.Hub, Provisioner: p.dps, TLS: authority.DeviceTLS(), Logger: slog.New(log)})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- head.Run(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	var stop func()
	if s.web, stop, err = serveWeb(func() *mqtt.Server { return head }, http.NotFoundHandler(), log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	p.server = s
	return p
}

// enroll makes an individual enrollment by symmetric key.
func (p *provisioning) enroll(t *testing.T, id, more string) {
	t.Helper()
	key := base64.StdEncoding.EncodeToString(p.key)
	body := fmt.Sprintf(`{"registrationId":%q,"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":%q,"secondaryKey":%q}}%s}`, id, key, key, more)
	if _, err := p.dps.PutEnrollment(t.Context(), false, id, []byte(body), nil); err != nil {
		t.Fatal(err)
	}
}

func (p *provisioning) hello(id string) wire.Connect {
	token := sas.Sign(dpstest.Scope+"/registrations/"+id, p.key, time.Now().Add(time.Hour), "registration")
	return wire.Connect{
		ClientID: id, Username: dpstest.Scope + "/registrations/" + id + "/api-version=2019-03-31&ClientVersion=test%2F1", HasUsername: true,
		Password: []byte(token), HasPassword: true, KeepAlive: 60,
	}
}

func (p *provisioning) connect(t *testing.T, id string) *mqtttest.Client {
	t.Helper()
	c := p.dial(t)
	if present, code := c.Connect(p.hello(id)); code != 0 || present {
		t.Fatalf("CONNACK %d, session present %v; want 0, false", code, present)
	}
	return c
}

// reply reads an answer: its status, what follows it in the topic, and its body.
func reply(t *testing.T, c *mqtttest.Client) (status, query string, body map[string]any, p wire.Publish) {
	t.Helper()
	p = c.NextPublish()
	rest, ok := strings.CutPrefix(string(p.Topic), "$dps/registrations/res/")
	status, query, found := strings.Cut(rest, "/?")
	if !ok || !found {
		t.Fatalf("got %q, want an answer of the provisioning service", p.Topic)
	}
	if err := json.Unmarshal(p.Payload, &body); err != nil {
		t.Fatalf("body %s: %v", p.Payload, err)
	}
	if size := len(p.Topic) + len(p.Payload); size > 1300 {
		t.Errorf("the answer has %d bytes, a small device takes 1300", size)
	}
	if p.QoS > 0 {
		c.Send(wire.AppendPuback(nil, p.PacketID))
	}
	return status, query, body, p
}

func TestProvisioning_Register(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DPS-4", "DPS-7", "DPS-8", "DPS-9", "DPS-10")
	p := startProvisioning(t)
	for qos := range byte(2) {
		for _, rid := range []string{"1", "9f0c2a5e-7d0f-4a41-8c39-58c5d0b1c6f0", "a%20b"} {
			id := fmt.Sprintf("reg-%d-%.3s", qos, strings.ReplaceAll(rid, "%", "-"))
			p.enroll(t, id, "")
			c := p.connect(t, id)
			c.Subscribe(qos, provisioningAnswers)
			send := func(topic, body string) {
				t.Helper()
				if qos == 0 {
					c.Publish0(topic, []byte(body))
				} else {
					c.Publish(topic, []byte(body)) // the PUBACK comes before the answer
				}
			}
			send("$dps/registrations/PUT/iotdps-register/?$rid="+rid, `{"registrationId":"`+id+`"}`)
			status, query, body, pub := reply(t, c)
			op, _ := body["operationId"].(string)
			after, ok := strings.CutPrefix(query, "$rid="+rid+"&retry-after=")
			if status != "202" || !ok || strings.Trim(after, "0123456789") != "" || after == "" || body["status"] != "assigning" || op == "" {
				t.Errorf("register: %s %q %v", status, query, body)
			}
			if pub.QoS != qos || pub.Retain || pub.Dup {
				t.Errorf("answered at QoS %d, subscribed at %d", pub.QoS, qos)
			}
			send("$dps/registrations/GET/iotdps-get-operationstatus/?$rid="+rid+"&operationId="+op, " ")
			status, query, body, _ = reply(t, c)
			state, _ := body["registrationState"].(map[string]any)
			if status != "200" || query != "$rid="+rid || state["assignedHub"] != dpstest.Host || state["deviceId"] != id {
				t.Errorf("status: %s %q %v", status, query, body)
			}
			if _, ok := p.dps.Hub.Device(id); !ok {
				t.Errorf("the hub does not know %s", id)
			}
			c.Disconnect()
			c = p.connect(t, id) // clean session 0 was asked for: there is none, and the subscription is gone
			send("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=x&operationId="+op, "")
			c.Silent(20 * time.Millisecond)
			c.Disconnect()
		}
	}
	// Trouble that passes comes with a time to wait.
	for kind, want := range map[fault.Kind]string{fault.Throttled: "429", fault.Unavailable: "503", fault.Internal: "500"} {
		id := "trouble-" + want
		p.enroll(t, id, "")
		p.dps.Hub.Fail(fault.New(kind, "trouble"))
		c := p.connect(t, id)
		c.Subscribe(1, provisioningAnswers)
		c.Publish("$dps/registrations/PUT/iotdps-register/?$rid=r", nil)
		status, query, body, _ := reply(t, c)
		if op, ok := body["operationId"].(string); status == "202" && ok {
			c.Publish("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=r&operationId="+op, nil)
			status, query, body, _ = reply(t, c)
		}
		if !strings.HasPrefix(query, "$rid=r&retry-after=") {
			t.Errorf("%v: %s %q %v, want a retry-after", kind, status, query, body)
		}
		p.dps.Hub.Fail(nil)
		c.Disconnect()
	}
}

func TestProvisioning_OnlyItsTopics(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DPS-6")
	p := startProvisioning(t)
	p.enroll(t, "narrow", "")
	pub := func(topic string) []byte {
		return wire.AppendPublish(nil, &wire.Publish{QoS: 1, PacketID: 1, Topic: []byte(topic)})
	}
	sub := func(filter string) []byte { return wire.AppendSubscribe(nil, 1, []wire.Subscription{{Filter: filter}}) }
	for name, b := range map[string][]byte{
		"telemetry":               pub("devices/narrow/messages/events/"),
		"twin":                    pub("$iothub/twin/GET/?$rid=1"),
		"the answers":             pub("$dps/registrations/res/200/?$rid=1"),
		"register without rid":    pub("$dps/registrations/PUT/iotdps-register/"),
		"another method":          pub("$dps/registrations/DELETE/iotdps-register/?$rid=1"),
		"subscribe to C2D":        sub("devices/narrow/messages/devicebound/#"),
		"subscribe to everything": sub("#"),
		"subscribe to a part":     sub("$dps/registrations/#"),
		"QoS 2":                   wire.AppendPublish(nil, &wire.Publish{QoS: 2, PacketID: 1, Topic: []byte("$dps/registrations/PUT/iotdps-register/?$rid=1")}),
	} {
		t.Run(name, func(t *testing.T) {
			c := p.connect(t, "narrow")
			c.TrySend(b)
			c.Closed()
		})
	}
}

func TestProvisioning_Refusals(t *testing.T) {
	t.Parallel()
	p := startProvisioning(t)
	p.enroll(t, "Known", "")
	p.enroll(t, "off", `,"provisioningStatus":"disabled"`)
	sound := p.hello("Known")
	with := func(change func(*wire.Connect)) wire.Connect { h := sound; change(&h); return h }
	for name, h := range map[string]wire.Connect{
		"unknown registration": p.hello("stranger"),
		"disabled":             p.hello("off"),
		"another client id":    with(func(h *wire.Connect) { h.ClientID = "other" }),
		"another scope":        with(func(h *wire.Connect) { h.Username = strings.Replace(h.Username, dpstest.Scope, "0neFFFFFF", 1) }),
		"no password":          with(func(h *wire.Connect) { h.HasPassword, h.Password = false, nil }),
		"broken token":         with(func(h *wire.Connect) { h.Password = []byte("x") }),
		"with a will":          with(func(h *wire.Connect) { h.Will = &wire.Will{Topic: "t"} }),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p.refused(t, h, 5)
		})
	}
	t.Run("another case", func(t *testing.T) {
		t.Parallel()
		c := p.dial(t)
		h := p.hello("KNOWN")
		h.ClientID = "known"
		if _, code := c.Connect(h); code != 0 {
			t.Errorf("CONNACK %d", code)
		}
		c.Disconnect()
	})
	t.Run("a server that provisions nobody", func(t *testing.T) {
		t.Parallel()
		shared.refused(t, sound, 5)
	})
}

func TestTLS_NothingBelow12(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DPS-3")
	d := shared.device(t)
	h := shared.hello(d)
	nc, err := net.Dial("tcp", shared.address)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(mqtttest.Patience))
	if _, err := nc.Write(wire.AppendConnect(nil, &h)); err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(nc); len(b) > 0 && b[0] != 0x15 { // an alert is all it may get
		t.Errorf("clear text is answered with %x", b)
	}
	for _, v := range []uint16{tls.VersionTLS10, tls.VersionTLS11} {
		if c, err := tls.Dial("tcp", shared.address, &tls.Config{RootCAs: shared.roots, ServerName: hubtest.Host, MinVersion: v, MaxVersion: v}); err == nil {
			c.Close()
			t.Errorf("%s is accepted", tls.VersionName(v))
		}
	}
}

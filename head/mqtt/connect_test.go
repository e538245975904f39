package mqtt_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/pki"
	"github.com/vauban-iot/vauban/pki/pkitest"
	wire "github.com/vauban-iot/vauban/wire/mqtt"
	"github.com/vauban-iot/vauban/wire/sas"
)

// Every form of hub-device §2.2, for a device and for a module. %s is {d} or {d}/{m}.
func TestConnect_UsernameForms(t *testing.T) { overBoth(t, testConnect_UsernameForms) }

func testConnect_UsernameForms(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-10")
	client := url.QueryEscape("azsdk-c/1.6.0 (native; linux)")
	model := "dtmi:com:example:Thermostat;1"
	forms := map[string]string{
		"Node":                    "/?api-version=2021-04-12&model-id=" + model + "&DeviceClientType=" + client,
		"C":                       "/?api-version=2020-09-30&DeviceClientType=" + client + "&model-id=" + url.QueryEscape(model),
		"C without a model":       "/?api-version=2020-09-30&DeviceClientType=" + client,
		".NET with a chain of 1":  "/?api-version=2020-09-30&DeviceClientType=" + client + "&auth-chain=",
		"Java":                    "/?api-version=2020-09-30&model-id=" + url.QueryEscape(model) + "&DeviceClientType=" + client,
		"Python":                  "/?api-version=2019-10-01&DeviceClientType=" + client,
		"successor SDK":           "/?api-version=2025-08-01-preview&DeviceClientType=" + client,
		"old C without ?":         "/api-version=2016-11-14&DeviceClientType=" + client,
		"documentation without /": "?api-version=2021-04-12",
		"nothing":                 "",
	}
	for name, form := range forms {
		for _, module := range []string{"", "mod"} {
			t.Run(strings.TrimSpace(name+" "+module), func(t *testing.T) {
				t.Parallel()
				id := newID()
				shared.Device(t, id)
				if module != "" {
					id.Module = module
				} else {
					id.Device += "-x"
				}
				d := shared.Device(t, id)
				h := shared.hello(d)
				h.Username = "HUB.example.net/" + id.String() + form
				c := shared.dial(t)
				if _, code := c.Connect(h); code != 0 {
					t.Fatalf("CONNACK %d for user name %q", code, h.Username)
				}
				// The identity is the right one: what it sends carries it, and the model it announced.
				c.Publish(events(id), []byte("x"))
				m := shared.Messages(t, id, 1)[0]
				if m.From != id || m.Generation != d.Generation {
					t.Errorf("the message is from %v, generation %s; want %v, %s", m.From, m.Generation, id, d.Generation)
				}
				want := ""
				if strings.Contains(form, "model-id") {
					want = model
				}
				if m.ModelID != want {
					t.Errorf("model id %q, want %q", m.ModelID, want)
				}
				c.Disconnect()
			})
		}
	}
}

func TestConnect_IDsAreNeverDecoded(t *testing.T) { overBoth(t, testConnect_IDsAreNeverDecoded) }

func testConnect_IDsAreNeverDecoded(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-11")
	for _, ch := range "-.%_#*?!(),:=@$'" {
		t.Run(string(ch), func(t *testing.T) {
			t.Parallel()
			// %41 would become A, + a blank, if anybody decoded the id.
			id := iot.ID{Device: fmt.Sprintf("%s%c41%c%%41+z", newID().Device, ch, ch)}
			d := shared.Device(t, id)
			c := shared.connect(t, d)
			c.Subscribe(1, "devices/"+id.Device+"/messages/devicebound/#")
			c.Publish(events(id)+"k=v", []byte("up"))
			if m := shared.Messages(t, id, 1)[0]; m.From != id || string(m.Body) != "up" {
				t.Errorf("got message %q from %v", m.Body, m.From)
			}
			if _, err := shared.Send(t.Context(), iot.Mail{To: id, Body: []byte("down")}); err != nil {
				t.Fatal(err)
			}
			p := c.NextPublish()
			if prefix := "devices/" + id.Device + "/messages/devicebound/"; !strings.HasPrefix(string(p.Topic), prefix) || string(p.Payload) != "down" {
				t.Errorf("got %q on %q, want it below %q", p.Payload, p.Topic, prefix)
			}
			c.Send(wire.AppendPuback(nil, p.PacketID))
			c.Disconnect()
		})
	}
}

func TestConnect_Refusals(t *testing.T) { overBoth(t, testConnect_Refusals) }

func testConnect_Refusals(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-12", "HD-13", "HD-14", "HD-15")
	d := shared.device(t)
	other := shared.device(t)
	key := d.Authentication.PrimaryKey.Reveal()
	soon := time.Now().Add(time.Hour)
	certified := shared.DeviceWith(t, newID(), registry.Authentication{Type: registry.SelfSigned, PrimaryThumbprint: strings.Repeat("A", 40)})
	disabled := shared.device(t)
	status := registry.Disabled
	if _, err := shared.UpdateDevice(t.Context(), disabled.ID, nil, registry.Change{Status: &status}); err != nil {
		t.Fatal(err)
	}
	id := d.ID
	unknown := newID()
	token := func(h wire.Connect, text string) wire.Connect { h.Password = []byte(text); return h }
	user := func(h wire.Connect, name string) wire.Connect { h.Username = name; return h }
	client := func(h wire.Connect, name string) wire.Connect { h.ClientID = name; return h }
	sound := shared.hello(d)

	for name, tc := range map[string]struct {
		hello wire.Connect
		code  byte
		cert  *tls.Certificate
	}{
		"client id of another device":    {client(sound, other.ID.Device), 5, nil},
		"client id in another case":      {client(sound, strings.ToUpper(id.Device)), 5, nil},
		"client id with a module":        {client(sound, id.Device+"/m"), 5, nil},
		"empty client id":                {client(sound, ""), 5, nil},
		"unknown device":                 {hello(unknown, sas.Sign(hubtest.Resource(unknown), key, soon, "")), 5, nil},
		"signed with another key":        {token(sound, sas.Sign(hubtest.Resource(id), other.Authentication.PrimaryKey.Reveal(), soon, "")), 5, nil},
		"signature cut":                  {token(sound, strings.Replace(shared.Token(d), "sig=", "sig=AA", 1)), 5, nil},
		"expired token":                  {token(sound, sas.Sign(hubtest.Resource(id), key, time.Now().Add(-time.Hour), "")), 5, nil},
		"foreign host in sr":             {token(sound, sas.Sign("evil.example.net/devices/"+id.Device, key, soon, "")), 5, nil},
		"token of another device":        {token(sound, shared.Token(other)), 5, nil},
		"token for the hub":              {token(sound, sas.Sign(hubtest.Host, key, soon, "")), 5, nil},
		"token for all devices":          {token(sound, sas.Sign(hubtest.Host+"/devices", key, soon, "")), 5, nil},
		"no token and no certificate":    {hello(id, ""), 5, nil},
		"password that is no token":      {token(sound, "hunter2"), 5, nil},
		"wrong thumbprint":               {hello(certified.ID, ""), 5, new(pkitest.SelfSigned(t, certified.ID.Device))},
		"certificate for a token device": {hello(id, ""), 5, new(pkitest.SelfSigned(t, id.Device))},
		"token for a certificate device": {hello(certified.ID, sas.Sign(hubtest.Resource(certified.ID), key, soon, "")), 5, nil},
		"user name without a device":     {user(sound, hubtest.Host), 5, nil},
		"user name with an empty device": {user(sound, hubtest.Host+"//?api-version=2021-04-12"), 5, nil},
		"user name with four ids":        {user(sound, hubtest.Host+"/a/b/c/?api-version=2021-04-12"), 5, nil},
		"user name of another hub":       {user(sound, "evil.example.net/"+id.Device+"/?api-version=2021-04-12"), 5, nil},
		"no user name":                   {wire.Connect{ClientID: id.Device}, 5, nil},
		"disabled device":                {shared.hello(disabled), 3, nil},
		"will on another topic": {func() wire.Connect {
			h := sound
			h.Will = &wire.Will{Topic: "devices/" + other.ID.Device + "/messages/events/"}
			return h
		}(), 5, nil},
		"will on the twin": {func() wire.Connect {
			h := sound
			h.Will = &wire.Will{Topic: "$iothub/twin/GET/?$rid=1"}
			return h
		}(), 5, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var certs []tls.Certificate
			if tc.cert != nil {
				certs = append(certs, *tc.cert)
			}
			shared.refused(t, tc.hello, tc.code, certs...)
		})
	}
}

// A disabled device with a wrong token must not learn that it is disabled.
func TestConnect_DisabledNeedsProofFirst(t *testing.T) {
	overBoth(t, testConnect_DisabledNeedsProofFirst)
}

func testConnect_DisabledNeedsProofFirst(t *testing.T, shared *server) {
	t.Parallel()
	d := shared.device(t)
	status := registry.Disabled
	if _, err := shared.UpdateDevice(t.Context(), d.ID, nil, registry.Change{Status: &status}); err != nil {
		t.Fatal(err)
	}
	shared.refused(t, hello(d.ID, sas.Sign(hubtest.Resource(d.ID), []byte("guess"), time.Now().Add(time.Hour), "")), 5)
}

func TestConnect_OneLogLineForARefusal(t *testing.T) {
	t.Parallel()
	d := shared.device(t)
	secretPart := "sig"
	token := sas.Sign(hubtest.Resource(d.ID), d.Authentication.PrimaryKey.Reveal(), time.Now().Add(-time.Hour), "")
	shared.refused(t, hello(d.ID, token), 5)
	line := shared.oneLine(t, `device="`+d.ID.Device+`"`)
	if line.Level != slog.LevelInfo || line.Attr("kind") != "unauthorized" || !strings.Contains(line.Attr("err"), "expired") {
		t.Errorf("got line %v %s, want an info line that says the token expired", line.Level, line.Text)
	}
	if strings.Contains(line.Text, secretPart+"=") {
		t.Errorf("the line holds a signature: %s", line.Text)
	}
}

func TestConnect_ConnackIsFirstAndFourBytes(t *testing.T) {
	overBoth(t, testConnect_ConnackIsFirstAndFourBytes)
}

func testConnect_ConnackIsFirstAndFourBytes(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-16", "HD-17")
	d := shared.device(t)
	// A command waits already, and the stored session wants it: it must not come first.
	c, _ := shared.resume(t, d)
	c.Subscribe(1, "devices/"+d.ID.Device+"/messages/devicebound/#")
	c.Disconnect()
	if _, err := shared.Send(t.Context(), iot.Mail{To: d.ID, Body: []byte("early")}); err != nil {
		t.Fatal(err)
	}
	h := shared.hello(d)
	h.CleanSession = false
	b := wire.AppendConnect(nil, &h)
	b = wire.AppendSubscribe(b, 1, []wire.Subscription{{Filter: "$iothub/twin/res/#"}})
	b = wire.AppendPublish(b, &wire.Publish{Topic: []byte("$iothub/twin/GET/?$rid=7")})
	for i := range 5 {
		b = wire.AppendPublish(b, &wire.Publish{QoS: 1, PacketID: uint16(10 + i), Topic: []byte(events(d.ID)), Payload: fmt.Append(nil, i)})
	}
	b = wire.AppendPingreq(b)
	c = shared.dial(t)
	c.Send(b)
	c.Expect([]byte{0x20, 2, 1, 0})

	var order []string
	for range 9 {
		p := c.Next()
		switch h, n, _ := wire.ParseHeader(p, wire.MaxLength); h.Type {
		case wire.PUBLISH:
			pub, err := wire.ParsePublish(h.Flags, p[n:])
			if err != nil {
				t.Fatal(err)
			}
			if bytes.HasPrefix(pub.Topic, []byte("$iothub/twin/res/200/?$rid=7")) {
				order = append(order, "twin")
			}
		case wire.SUBACK:
			order = append(order, "suback")
		case wire.PUBACK:
			order = append(order, fmt.Sprintf("puback %d", p[3]))
		}
	}
	got := strings.Join(order, ",")
	if s, w := strings.Index(got, "suback"), strings.Index(got, "twin"); s < 0 || w < s {
		t.Errorf("got %s, want the SUBACK before the twin", got)
	}
	if want := "puback 10,puback 11,puback 12,puback 13,puback 14"; strings.Join(only(order, "puback"), ",") != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for i, m := range shared.Messages(t, d.ID, 5) {
		if string(m.Body) != fmt.Sprint(i) {
			t.Errorf("message %d holds %q", i, m.Body)
		}
	}
}

func only(list []string, prefix string) (out []string) {
	for _, s := range list {
		if strings.HasPrefix(s, prefix) {
			out = append(out, s)
		}
	}
	return out
}

func TestConnect_TokenDecidesBesideACertificate(t *testing.T) {
	overBoth(t, testConnect_TokenDecidesBesideACertificate)
}

func testConnect_TokenDecidesBesideACertificate(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-18")
	byToken := shared.device(t)
	cert := pkitest.SelfSigned(t, "whatever")
	one, _ := pki.Thumbprints(cert.Leaf)
	byCert := shared.DeviceWith(t, newID(), registry.Authentication{Type: registry.SelfSigned, PrimaryThumbprint: one})
	shared.accepted(t, shared.hello(byToken), cert)
	shared.accepted(t, hello(byCert.ID, ""), cert)
	// The certificate alone would do, but a token is there and is wrong.
	shared.refused(t, hello(byCert.ID, shared.Token(byToken)), 5, cert)
}

func TestConnect_CertificateNeedsNoPassword(t *testing.T) {
	overBoth(t, testConnect_CertificateNeedsNoPassword)
}

func testConnect_CertificateNeedsNoPassword(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-19")
	cert := pkitest.SelfSigned(t, "whatever")
	one, _ := pki.Thumbprints(cert.Leaf)
	d := shared.DeviceWith(t, newID(), registry.Authentication{Type: registry.SelfSigned, PrimaryThumbprint: one})
	absent := hello(d.ID, "")
	shared.accepted(t, absent, cert)
	empty := absent
	empty.HasPassword, empty.Password = true, []byte{}
	shared.accepted(t, empty, cert)
}

func TestConnect_ProtocolLevels(t *testing.T) { overBoth(t, testConnect_ProtocolLevels) }

func testConnect_ProtocolLevels(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-27")
	d := shared.device(t)
	h := shared.hello(d)
	h.Protocol, h.Level = "MQIsdp", 3
	shared.refused(t, h, 1)
	h.Protocol, h.Level = "MQTT", 6
	shared.refused(t, h, 1)
	h.Level = 5
	c := shared.dial(t)
	c.Send(wire.AppendConnect(nil, &h))
	c.Expect([]byte{0x20, 3, 0, 0x84, 0})
	c.Closed()
}

// The 60 seconds of HD-20 pass in time_test.go.
func TestConnect_OutOfPlace(t *testing.T) { overBoth(t, testConnect_OutOfPlace) }

func testConnect_OutOfPlace(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-20")
	for name, b := range map[string][]byte{
		"PUBLISH":   wire.AppendPublish(nil, &wire.Publish{Topic: []byte("t")}),
		"PINGREQ":   wire.AppendPingreq(nil),
		"SUBSCRIBE": wire.AppendSubscribe(nil, 1, []wire.Subscription{{Filter: "f"}}),
		"CONNACK":   wire.AppendConnack(nil, false, 0),
		"reserved":  {0x00, 0},
		"HTTP":      []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"too long":  {0x10, 0xff, 0xff, 0xff, 0x7f},
		"broken":    {0x10, 4, 0, 9, 'M', 'Q'},
	} {
		t.Run("first packet "+name, func(t *testing.T) {
			t.Parallel()
			c := shared.dial(t)
			c.Send(b)
			c.Closed()
		})
	}
	t.Run("second CONNECT", func(t *testing.T) {
		t.Parallel()
		d := shared.device(t)
		c := shared.connect(t, d)
		h := shared.hello(d)
		c.Send(wire.AppendConnect(nil, &h))
		c.Closed()
	})
}

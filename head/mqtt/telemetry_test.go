package mqtt_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/pki"
	"github.com/vauban-iot/vauban/pki/pkitest"
	"github.com/vauban-iot/vauban/wire/bag"
	"github.com/vauban-iot/vauban/wire/sas"
)

func TestTelemetry_TopicForms(t *testing.T) { overBoth(t, testTelemetry_TopicForms) }

func testTelemetry_TopicForms(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-37")
	d := shared.device(t)
	c := shared.connect(t, d)
	base := "devices/" + d.ID.Device + "/messages/events"
	forms := []struct {
		topic string
		bag   bool
	}{
		{base, false}, {base + "/", false}, {base + "/a=b", true}, {base + "/a=b/", true}, {base + "/?a=b", true}, {base + "/?a=b/", true},
	}
	for _, f := range forms {
		c.Publish(f.topic, []byte(f.topic))
	}
	for i, m := range shared.Messages(t, d.ID, len(forms)) {
		var want []bag.Property
		if forms[i].bag {
			want = []bag.Property{{Name: "a", Value: "b"}}
		}
		if string(m.Body) != forms[i].topic || cmp.Diff(want, m.Properties) != "" || len(m.System) != 0 {
			t.Errorf("%s: body %q, properties %v, system %v", forms[i].topic, m.Body, m.Properties, m.System)
		}
	}
	c.Disconnect()
}

func TestTelemetry_Bags(t *testing.T) { overBoth(t, testTelemetry_Bags) }

func testTelemetry_Bags(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-38", "HD-39", "HD-42")
	long := "message-id-._:1"
	for name, tc := range map[string]struct {
		bag    string
		system []bag.Property
		props  []bag.Property
	}{
		"escaped dollar":     {"%24.ct=application%2Fjson", []bag.Property{{Name: "content-type", Value: "application/json"}}, nil},
		"raw dollar":         {"$.ct=application%2Fjson", []bag.Property{{Name: "content-type", Value: "application/json"}}, nil},
		"plus and blank":     {"a=1+2%203&b+c=d", nil, []bag.Property{{Name: "a", Value: "1+2 3"}, {Name: "b+c", Value: "d"}}},
		"null and empty":     {"bare&empty=&%24.ce", []bag.Property{{Name: "content-encoding", Null: true}}, []bag.Property{{Name: "bare", Null: true}, {Name: "empty"}}},
		"last wins":          {"k=1&k=2", nil, []bag.Property{{Name: "k", Value: "2"}}},
		"lenient":            {"&&a=b=c&=x&", nil, []bag.Property{{Name: "a", Value: "b=c"}}},
		"unknown system key": {"%24.zzz=1", nil, []bag.Property{{Name: "$.zzz", Value: "1"}}},
		"everything": {
			"$.sub=thermostat1&%24.ifid=urn%3Aazureiot%3ASecurity%3ASecurityAgent%3A1&$.on=alerts&$.cid=c&$.uid=u&$.mid=" + long +
				"&$.ctime=2026-01-01T00:00:00.0000000Z&$.schema=s&$.ce=utf-8&$.diagid=di&$.diagctx=creationtimeutc%3D1",
			[]bag.Property{
				{Name: "dt-subject", Value: "thermostat1"}, {Name: "iothub-interface-id", Value: iot.SecurityInterface}, {Name: "iothub-outputname", Value: "alerts"},
				{Name: "correlation-id", Value: "c"}, {Name: "user-id", Value: "u"}, {Name: "message-id", Value: long},
				{Name: "iothub-creation-time-utc", Value: "2026-01-01T00:00:00.0000000Z"}, {Name: "iothub-message-schema", Value: "s"},
				{Name: "content-encoding", Value: "utf-8"}, {Name: "Diagnostic-Id", Value: "di"}, {Name: "Correlation-Context", Value: "creationtimeutc=1"},
			}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := shared.device(t)
			c := shared.connect(t, d)
			c.Publish(events(d.ID)+tc.bag, nil)
			c.Disconnect()
			m := shared.Messages(t, d.ID, 1)[0]
			if diff := cmp.Diff(tc.system, m.System); diff != "" {
				t.Errorf("system properties differ (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.props, m.Properties); diff != "" {
				t.Errorf("application properties differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTelemetry_StampsCannotBeForged(t *testing.T) {
	overBoth(t, testTelemetry_StampsCannotBeForged)
}

func testTelemetry_StampsCannotBeForged(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-40")
	id := newID()
	shared.Device(t, id)
	id.Module = "mod"
	d := shared.Device(t, id)
	c := shared.dial(t)
	h := shared.hello(d)
	h.Username += "&model-id=dtmi%3Acom%3Aexample%3AReal%3B1"
	if _, code := c.Connect(h); code != 0 {
		t.Fatal(code)
	}
	before := time.Now()
	forged := ""
	for _, name := range []string{
		"iothub-connection-device-id", "iothub-connection-module-id", "iothub-connection-auth-generation-id",
		"iothub-connection-auth-method", "iothub-enqueuedtime", "iothub-message-source", "dt-dataschema", "%24.cdid", "$.cmid",
	} {
		forged += name + "=forged&"
	}
	c.Publish(events(id)+forged+"honest=1&$.sub=part", []byte("x"))
	c.Disconnect()
	m := shared.Messages(t, id, 1)[0]
	if diff := cmp.Diff([]bag.Property{{Name: "honest", Value: "1"}}, m.Properties); diff != "" {
		t.Errorf("application properties differ (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]bag.Property{{Name: "dt-subject", Value: "part"}}, m.System); diff != "" {
		t.Errorf("system properties differ (-want +got):\n%s", diff)
	}
	if m.From != id || m.Generation != d.Generation || m.Source != iot.Telemetry || m.ModelID != "dtmi:com:example:Real;1" || m.AuthMethod == "" {
		t.Errorf("stamps: %+v", m)
	}
	if m.Enqueued.Before(before.Add(-time.Second)) || m.Enqueued.After(time.Now().Add(time.Second)) {
		t.Errorf("enqueued at %v", m.Enqueued)
	}
}

func TestTelemetry_AuthMethodStamp(t *testing.T) { overBoth(t, testTelemetry_AuthMethodStamp) }

func testTelemetry_AuthMethodStamp(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-41")
	ca := pkitest.NewCA(t, "stamp test root")
	shared.Trust(ca.Cert)
	for _, module := range []string{"", "mod"} {
		who := "device"
		if module != "" {
			who = "module"
		}
		for name, want := range map[string]iot.AuthMethod{
			"own key":    {Scope: who, Type: "sas", By: "iothub"},
			"policy key": {Scope: "hub", Type: "sas", By: "iothub"},
			"thumbprint": {Scope: who, Type: "x509", By: "iothub"},
			"CA":         {Scope: who, Type: "x509", By: "iothub"},
		} {
			t.Run(fmt.Sprintf("%s of %s", name, who), func(t *testing.T) {
				t.Parallel()
				id := newID()
				if module != "" {
					shared.Device(t, id)
					id.Module = module
				}
				self := pkitest.SelfSigned(t, "x")
				var auth registry.Authentication
				switch name {
				case "thumbprint":
					auth.Type = registry.SelfSigned
					_, auth.PrimaryThumbprint = pki.Thumbprints(self.Leaf)
				case "CA":
					auth.Type = registry.CertificateAuthority
				}
				d := shared.DeviceWith(t, id, auth)
				h, c := hello(id, ""), shared.dial(t)
				switch name {
				case "own key":
					h = shared.hello(d)
				case "policy key":
					p := shared.Policies[2]
					h = hello(id, sas.Sign(hubtest.Host+"/devices", p.Secondary.Reveal(), time.Now().Add(time.Hour), p.Name))
				case "thumbprint":
					c = shared.dial(t, self)
				case "CA":
					c = shared.dial(t, ca.Leaf(t, id.String()))
				}
				if _, code := c.Connect(h); code != 0 {
					t.Fatalf("CONNACK %d", code)
				}
				c.Publish(events(id), nil)
				c.Disconnect()
				var got iot.AuthMethod
				if err := json.Unmarshal([]byte(shared.Messages(t, id, 1)[0].AuthMethod), &got); err != nil || got != want {
					t.Errorf("stamp %+v (%v), want %+v", got, err, want)
				}
			})
		}
	}
}

package dps_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vauban-iot/vauban/dps"
	"github.com/vauban-iot/vauban/dps/dpstest"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/internal/secret"
)

// hook is a webhook.
type hook struct {
	asked  map[string]any // the last question
	url    string
	status int
	answer string
	err    error
}

func (h *hook) Ask(_ context.Context, url string, body []byte, limit int64) (int, []byte, error) {
	h.url, h.asked = url, nil
	if err := json.Unmarshal(body, &h.asked); err != nil {
		return 0, nil, err
	}
	return h.status, []byte(h.answer), h.err
}

// fleet is a service with three hubs: its own and two that are linked.
type fleet struct {
	*dpstest.World
	hubs map[string]*dpstest.Hub
	hook *hook
	held atomic.Pointer[string] // the device that its operator holds back
}

func connection(host string) secret.Secret {
	return secret.New([]byte("HostName=" + host + ";SharedAccessKeyName=service;SharedAccessKey=" + otherKey))
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{hubs: map[string]*dpstest.Hub{}, hook: &hook{status: 200}}
	for _, host := range []string{"a.example", "b.example"} {
		f.hubs[host] = dpstest.NewHub()
		f.hubs[host].Name = host
	}
	f.World = dpstest.NewWith(t, func(c *dps.Config) {
		c.Webhooks = f.hook
		c.Held = func(_ context.Context, device string) (bool, error) {
			held := f.held.Load()
			return held != nil && *held == device, nil
		}
		c.Dial = func(h dps.LinkedHub) (dps.Hub, error) {
			hub, ok := f.hubs[h.Host]
			if !ok {
				return nil, errors.New("no such hub")
			}
			return hub, nil
		}
	})
	f.hubs[dpstest.Host] = f.Hub
	for host := range f.hubs {
		if host != dpstest.Host {
			f.link(t, dps.LinkedHub{Host: host, ConnectionString: connection(host)})
		}
	}
	return f
}

func (f *fleet) link(t *testing.T, h dps.LinkedHub) {
	t.Helper()
	if _, err := f.LinkHub(t.Context(), h); err != nil {
		t.Fatal(err)
	}
}

// comes registers a device of the group "g" and returns its state and hub.
func (f *fleet) comes(t *testing.T, id string) (state map[string]any, hub string) {
	t.Helper()
	return f.from(t, id, netip.Addr{})
}

func (f *fleet) from(t *testing.T, id string, address netip.Addr) (map[string]any, string) {
	t.Helper()
	f.Clock.Add(time.Second)
	c := byToken(id, token(f.World, id, decode(t, derivedOf(t, id))))
	c.Address = address
	s := register(t, f.World, c).state(t)
	host, _ := s["assignedHub"].(string)
	if s["status"] == "assigned" {
		if _, ok := f.hubs[host].Device(id); !ok {
			t.Errorf("%s was assigned to %s, which does not know it", id, host)
		}
	}
	return s, host
}

// at lists the hubs that know a device.
func (f *fleet) at(id string) (hosts []string) {
	for _, h := range []string{"a.example", "b.example", dpstest.Host} {
		if _, ok := f.hubs[h].Device(id); ok {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

func TestAllocation(t *testing.T) {
	conform.Covers(t, "DPS-26")
	t.Run("hashed: by weight, and every device stays", func(t *testing.T) {
		f := newFleet(t)
		f.link(t, dps.LinkedHub{Host: "a.example", Weight: 3})
		put(t, f.World, true, "g", symmetric(groupKey, otherKey, ""))
		count, first := map[string]int{}, map[string]string{}
		const n = 400
		for i := range n {
			id := fmt.Sprintf("d%d", i)
			_, first[id] = f.comes(t, id)
			count[first[id]]++
		}
		// 3:1:1 of 400 are 240, 80, 80; three standard deviations are 30 and 24.
		if a, b, own := count["a.example"], count["b.example"], count[dpstest.Host]; a < 210 || a > 270 || b < 56 || b > 104 || own < 56 || own > 104 {
			t.Errorf("spread %v, want about 240, 80, 80", count)
		}
		// A hub that takes no more loses its devices, and nobody else moves.
		f.link(t, dps.LinkedHub{Host: "b.example", Excluded: true})
		for id, was := range first {
			if _, now := f.comes(t, id); was != "b.example" && now != was || now == "b.example" {
				t.Fatalf("%s went from %s to %s", id, was, now)
			}
			if at := f.at(id); len(at) != 1 {
				t.Fatalf("%s is at %v", id, at)
			}
		}
	})
	t.Run("an enrollment names its hubs", func(t *testing.T) {
		f := newFleet(t)
		f.link(t, dps.LinkedHub{Host: "b.example", Excluded: true})
		put(t, f.World, true, "g", symmetric(groupKey, otherKey, `,"iotHubs":["B.example"]`))
		for i := range 10 {
			if _, hub := f.comes(t, fmt.Sprintf("d%d", i)); hub != "b.example" {
				t.Fatalf("assigned to %s", hub)
			}
		}
	})
	t.Run("static", func(t *testing.T) {
		f := newFleet(t)
		put(t, f.World, true, "g", symmetric(groupKey, otherKey, `,"allocationPolicy":"static","iotHubs":["b.example","a.example"]`))
		if _, hub := f.comes(t, "d"); hub != "b.example" {
			t.Errorf("assigned to %s, want the first", hub)
		}
		put(t, f.World, true, "g", symmetric(groupKey, otherKey, `,"allocationPolicy":"Static","iotHubHostName":"a.example","iotHubs":["b.example","a.example"]`))
		if _, hub := f.comes(t, "e"); hub != "a.example" {
			t.Errorf("assigned to %s, want iotHubHostName", hub)
		}
		put(t, f.World, true, "g", symmetric(groupKey, otherKey, `,"allocationPolicy":"static"`))
		if s, _ := f.comes(t, "h"); s["status"] != "failed" || s["errorCode"] != 400208.0 || s["assignedHub"] != nil {
			t.Errorf("three hubs and none named: %v", s)
		}
	})
	t.Run("geoLatency: the narrowest network", func(t *testing.T) {
		f := newFleet(t)
		f.link(t, dps.LinkedHub{Host: "a.example", Networks: []string{"10.0.0.0/8"}})
		f.link(t, dps.LinkedHub{Host: "b.example", Networks: []string{"10.7.0.0/16", "2001:db8::/32"}})
		put(t, f.World, true, "g", symmetric(groupKey, otherKey, `,"allocationPolicy":"geoLatency"`))
		for address, want := range map[string]string{
			"10.1.2.3": "a.example", "10.7.9.9": "b.example", "::ffff:10.7.0.1": "b.example", "2001:db8::7": "b.example",
		} {
			if _, hub := f.from(t, "d"+strings.NewReplacer(".", "-", ":", "-").Replace(address), netip.MustParseAddr(address)); hub != want {
				t.Errorf("%s went to %s, want %s", address, hub, want)
			}
		}
		count := map[string]int{}
		for i := range 60 {
			_, hub := f.from(t, fmt.Sprintf("x%d", i), netip.MustParseAddr("192.0.2.1"))
			count[hub]++
		}
		if len(count) != 3 {
			t.Errorf("from nowhere in particular all went to %v, want them spread", count)
		}
	})
	t.Run("custom", func(t *testing.T) {
		f := newFleet(t)
		custom := `,"allocationPolicy":"custom","customAllocationDefinition":{"webhookUrl":"https://hook.example/a?code=1","apiVersion":"2021-10-01"}`
		put(t, f.World, true, "g", symmetric(groupKey, otherKey, `,"iotHubs":["a.example","b.example"],"initialTwin":{"tags":{"from":"dps"}}`+custom))
		f.hook.answer = `{"iotHubHostName":"B.EXAMPLE","initialTwin":{"tags":{"from":"hook"},"properties":{"desired":{"n":1}}},"payload":{"hello":"you"}}`
		who := caller(t, f.World, byToken("Dev", token(f.World, "Dev", decode(t, derivedOf(t, "Dev")))))
		r := f.Register(t.Context(), who, []byte(`{"payload":{"modelId":"dtmi:x;1"}}`))
		s := answer{f.Status(t.Context(), who, r.OperationID)}.state(t)
		if diff := cmp.Diff(map[string]any{"hello": "you"}, s["payload"]); diff != "" || s["assignedHub"] != "b.example" {
			t.Errorf("state %v: %s", s, diff)
		}
		if a, _ := f.hubs["b.example"].Device("Dev"); string(a.Tags) != `{"from":"hook"}` || string(a.Desired) != `{"n":1}` {
			t.Errorf("the hub has %s %s, want the webhook's twin", a.Tags, a.Desired)
		}
		group, _ := f.hook.asked["enrollmentGroup"].(map[string]any)
		if f.hook.url != "https://hook.example/a?code=1" || group["enrollmentGroupId"] != "g" || f.hook.asked["individualEnrollment"] != nil {
			t.Errorf("%s was asked %v", f.hook.url, f.hook.asked)
		}
		if text, _ := json.Marshal(f.hook.asked); strings.Contains(string(text), groupKey) {
			t.Error("the webhook is told the key")
		}
		if diff := cmp.Diff([]any{"a.example", "b.example"}, f.hook.asked["linkedHubs"]); diff != "" {
			t.Error(diff)
		}
		want := map[string]any{"registrationId": "Dev", "symmetricKey": map[string]any{}, "payload": map[string]any{"modelId": "dtmi:x;1"}}
		if diff := cmp.Diff(want, f.hook.asked["deviceRuntimeContext"]); diff != "" {
			t.Error(diff)
		}
		// The record keeps the payload, and the next question says where the device is.
		if d, err := f.Registration(t.Context(), "dev"); err != nil || !strings.Contains(string(d.JSON), `"payload":{"hello":"you"}`) {
			t.Errorf("record %s, %v", d.JSON, err)
		}
		f.hook.answer = `{"iotHubHostName":"a.example"}`
		if s, hub := f.comes(t, "Dev"); hub != "a.example" || s["substatus"] != "deviceDataMigrated" || s["payload"] != nil {
			t.Errorf("moved: %v", s)
		}
		at, _ := f.hook.asked["deviceRuntimeContext"].(map[string]any)
		if at["currentIotHubHostName"] != "b.example" || at["currentDeviceId"] != "Dev" {
			t.Errorf("the webhook was told %v", at)
		}
		if a, _ := f.hubs["a.example"].Device("Dev"); string(a.Tags) != `{"from":"hook"}` {
			t.Errorf("tags %s did not come along", a.Tags)
		}

		for i, test := range []struct {
			name, answer string
			status       int
			err          error
			message      string
		}{
			{"an error status", `{"iotHubHostName":"a.example"}`, 400, nil, "Custom allocation failed with status code: 400"},
			{"a redirect", `{"iotHubHostName":"a.example"}`, 302, nil, "Custom allocation failed with status code: 302"},
			{"no answer", ``, 0, errors.New("connection refused"), "custom allocation failed: the webhook did not answer"},
			{"no JSON", `<html>`, 200, nil, "custom allocation failed: the webhook's answer is not the JSON of an allocation"},
			{"nothing", `{}`, 200, nil, "custom allocation failed: the webhook named no hub"},
			{"an unlinked hub", `{"iotHubHostName":"evil.example"}`, 200, nil, "custom allocation failed: the webhook named a hub that is not linked or not the enrollment's"},
			{"a linked hub that is not the enrollment's", `{"iotHubHostName":"` + dpstest.Host + `"}`, 200, nil, "custom allocation failed: the webhook named a hub that is not linked or not the enrollment's"},
			{"a payload that is no object", `{"iotHubHostName":"a.example","payload":[1]}`, 200, nil, "custom allocation failed: the webhook's payload is no object"},
			{"a twin that is none", `{"iotHubHostName":"a.example","initialTwin":{"tags":7}}`, 200, nil, "custom allocation failed: the webhook's initialTwin.tags must be an object"},
		} {
			f.hook.answer, f.hook.status, f.hook.err = test.answer, test.status, test.err
			id := fmt.Sprintf("bad%d", i)
			s, _ := f.comes(t, id)
			if s["status"] != "failed" || s["errorCode"] != 400207.0 || s["errorMessage"] != test.message || s["assignedHub"] != nil || s["deviceId"] != nil || len(f.at(id)) > 0 {
				t.Errorf("%s: %v at %v", test.name, s, f.at(id))
			}
		}
	})
	t.Run("custom: an individual with a certificate", func(t *testing.T) {
		f := newFleet(t)
		leaf := dpstest.SelfSigned(t, "x")
		put(t, f.World, false, "x", leaves(leaf.PEM(), "", `,"allocationPolicy":"custom","customAllocationDefinition":{"webhookUrl":"https://h"}`))
		f.hook.answer = `{"iotHubHostName":"a.example"}`
		register(t, f.World, byCertificate("x", leaf.Chain(0)))
		at, _ := f.hook.asked["deviceRuntimeContext"].(map[string]any)
		text, _ := json.Marshal(at["x509"])
		if !strings.Contains(string(text), print256(leaf)) || f.hook.asked["individualEnrollment"] == nil {
			t.Errorf("asked %v", f.hook.asked)
		}
	})
}

// Whom its operator holds back does not get away by coming to another hub, neither from this one nor at first.
func TestAllocation_Held(t *testing.T) {
	f := newFleet(t)
	at := func(hub string) {
		put(t, f.World, true, "g", symmetric(groupKey, otherKey, `,"allocationPolicy":"static","iotHubs":["`+hub+`"]`))
	}
	at(dpstest.Host)
	f.comes(t, "d")
	f.held.Store(new("d"))
	if s, hub := f.comes(t, "d"); hub != dpstest.Host {
		t.Errorf("at the hub that holds it back: %v", s)
	}
	at("b.example")
	if s, _ := f.comes(t, "d"); s["status"] != "failed" || s["errorCode"] != 401002.0 || !strings.Contains(fmt.Sprint(s["errorMessage"]), "contained") {
		t.Errorf("moving: %v", s)
	}
	f.Hub.Delete("d")
	if s, _ := f.comes(t, "d"); s["status"] != "failed" || len(f.at("d")) > 0 {
		t.Errorf("deleted: %v, at %v", s, f.at("d"))
	}
	if s, hub := f.comes(t, "other"); hub != "b.example" {
		t.Errorf("another device: %v", s)
	}
	f.held.Store(nil)
	if s, hub := f.comes(t, "d"); hub != "b.example" {
		t.Errorf("released: %v", s)
	}
}

func TestReprovisioning_BetweenHubs(t *testing.T) {
	conform.Covers(t, "DPS-27")
	policy := func(update, migrate bool) string {
		return fmt.Sprintf(`,"reprovisionPolicy":{"updateHubAssignment":%v,"migrateDeviceData":%v}`, update, migrate)
	}
	twin := `,"initialTwin":{"tags":{"from":"dps"}},"allocationPolicy":"static","iotHubs":`
	for _, test := range []struct {
		name, policy, substatus, tags, hub string
		gone                               bool // the device was deleted at its hub
	}{
		{"migrate", policy(true, true), "deviceDataMigrated", "changed", "b.example", false},
		{"reset", policy(true, false), "deviceDataReset", "dps", "b.example", false},
		{"never", policy(false, false), "initialAssignment", "changed", "a.example", false},
		{"migrate what is gone", policy(true, true), "deviceDataMigrated", "dps", "b.example", true},
		{"never, but it is gone", policy(false, true), "reprovisionedToInitialAssignment", "dps", "a.example", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFleet(t)
			put(t, f.World, true, "g", symmetric(groupKey, otherKey, twin+`["a.example"]`+test.policy))
			f.comes(t, "d")
			f.hubs["a.example"].SetTags("d", `{"from":"changed"}`)
			if test.gone {
				f.hubs["a.example"].Delete("d")
			}
			put(t, f.World, true, "g", symmetric(groupKey, otherKey, twin+`["b.example"]`+test.policy))
			s, hub := f.comes(t, "d")
			if hub != test.hub || s["substatus"] != test.substatus {
				t.Errorf("%v, want %s at %s", s, test.substatus, test.hub)
			}
			if diff := cmp.Diff([]string{test.hub}, f.at("d")); diff != "" {
				t.Errorf("it is known at %v", f.at("d"))
			}
			if a, _ := f.hubs[test.hub].Device("d"); string(a.Tags) != `{"from":"`+test.tags+`"}` {
				t.Errorf("tags %s, want those from %s", a.Tags, test.tags)
			}
		})
	}
	t.Run("the hub it leaves does not answer", func(t *testing.T) {
		f := newFleet(t)
		put(t, f.World, true, "g", symmetric(groupKey, otherKey, twin+`["a.example"]`))
		f.comes(t, "d")
		put(t, f.World, true, "g", symmetric(groupKey, otherKey, twin+`["b.example"]`))
		f.hubs["a.example"].Fail(fault.New(fault.Unavailable, "no route"))
		f.Clock.Add(time.Second)
		who := caller(t, f.World, byToken("d", token(f.World, "d", decode(t, derivedOf(t, "d")))))
		if r := f.Register(t.Context(), who, nil); r.Status != 503 || r.RetryAfter == 0 || len(f.at("d")) != 1 {
			t.Errorf("%d %s, at %v; it should try again and lose nothing", r.Status, r.Body, f.at("d"))
		}
		f.hubs["a.example"].Fail(nil)
		if s, hub := f.comes(t, "d"); hub != "b.example" || s["substatus"] != "deviceDataMigrated" {
			t.Errorf("later: %v", s)
		}
	})
	t.Run("a hub that was unlinked", func(t *testing.T) {
		f := newFleet(t)
		put(t, f.World, true, "g", symmetric(groupKey, otherKey, twin+`["a.example"]`+policy(false, false)))
		f.comes(t, "d")
		put(t, f.World, true, "g", symmetric(groupKey, otherKey, twin+`["b.example"]`+policy(false, false)))
		if err := f.UnlinkHub(t.Context(), "a.example"); err != nil {
			t.Fatal(err)
		}
		if _, hub := f.comes(t, "d"); hub != "b.example" {
			t.Errorf("assigned to %s", hub)
		}
	})
}

func TestLinkedHubs(t *testing.T) {
	f, ctx := newFleet(t), t.Context()
	f.hubs["a.example"].Fail(fmt.Errorf("%w: 401", dps.ErrHubRefuses))
	put(t, f.World, true, "g", symmetric(groupKey, otherKey, `,"iotHubs":["a.example"]`))
	if s, _ := f.comes(t, "d"); s["status"] != "failed" || s["errorCode"] != 400209.0 {
		t.Errorf("a hub that does not know us: %v", s)
	}
	if err := f.UnlinkHub(ctx, "A.example"); !fault.Is(err, fault.AlreadyExists) || !strings.Contains(fault.Public(err), `"g"`) {
		t.Errorf("unlink a hub that an enrollment names: %v", err)
	}
	if err := f.UnlinkHub(ctx, "x.example"); !fault.Is(err, fault.NotFound) {
		t.Errorf("unlink an unknown hub: %v", err)
	}
	for _, test := range []struct {
		name    string
		hub     dps.LinkedHub
		message string
	}{
		{"no connection string", dps.LinkedHub{Host: "c.example"}, "is missing"},
		{"another host's", dps.LinkedHub{Host: "c.example", ConnectionString: connection("a.example")}, "not of c.example"},
		{"a device's", dps.LinkedHub{ConnectionString: secret.New([]byte("HostName=c.example;DeviceId=d;SharedAccessKey=" + otherKey))}, "that of a policy"},
		{"nonsense", dps.LinkedHub{ConnectionString: secret.New([]byte("nonsense"))}, "that of a policy"},
		{"one that cannot be dialed", dps.LinkedHub{ConnectionString: connection("nowhere.example")}, "cannot be linked"},
		{"our own, over the network", dps.LinkedHub{ConnectionString: connection(dpstest.Host)}, "own hub"},
		{"our own, at an address", dps.LinkedHub{Host: dpstest.Host, Address: "x:1"}, "own hub"},
		{"a weight", dps.LinkedHub{Host: "a.example", Weight: 1001}, "weight"},
		{"a network", dps.LinkedHub{Host: "a.example", Networks: []string{"10.0.0.1"}}, "no network"},
		{"an address", dps.LinkedHub{Host: "a.example", Address: "10.0.0.1"}, "host:port"},
		{"an authority", dps.LinkedHub{Host: "a.example", Authority: "PEM"}, "CA of hub"},
		{"a name", dps.LinkedHub{Host: "a b"}, "name of a hub"},
	} {
		if _, err := f.LinkHub(ctx, test.hub); !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Public(err), test.message) || strings.Contains(fmt.Sprint(err), otherKey) {
			t.Errorf("%s: %v, want %q", test.name, err, test.message)
		}
	}
	// What is not given of a linked hub stays; weight and networks are as they are given.
	f.link(t, dps.LinkedHub{Host: "a.example", Address: "10.0.0.1:8443", Weight: 5, Networks: []string{"10.1.2.3/8"}})
	f.link(t, dps.LinkedHub{Host: "A.EXAMPLE", Excluded: true})
	f.link(t, dps.LinkedHub{Host: strings.ToUpper(dpstest.Host), Weight: 9})
	hubs, err := f.LinkedHubs(ctx)
	if err != nil || len(hubs) != 3 {
		t.Fatalf("%v, %v", hubs, err)
	}
	a, own := hubs[0], hubs[2]
	if a.Host != "a.example" || a.ConnectionString.IsZero() || a.Address != "10.0.0.1:8443" || a.Weight != 1 || !a.Excluded || a.Networks != nil {
		t.Errorf("a.example is %+v", a)
	}
	if own.Host != dpstest.Host || own.Weight != 9 {
		t.Errorf("our own is %+v", own)
	}
	if err := f.UnlinkHub(ctx, dpstest.Host); err != nil {
		t.Fatal(err)
	}
	if hubs, err = f.LinkedHubs(ctx); err != nil || len(hubs) != 3 || hubs[2].Weight != 1 {
		t.Errorf("our own cannot be unlinked: %v, %v", hubs, err)
	}
}

package mqtt_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/pki"
	"github.com/vauban-iot/vauban/pki/pkitest"
	wire "github.com/vauban-iot/vauban/wire/mqtt"
	"github.com/vauban-iot/vauban/wire/sas"
	"github.com/vauban-iot/vauban/wire/topic"
)

// edge is an edge device with the identity of its $edgeHub, which has keys.
type edge struct{ device, hub registry.Identity }

// edge creates one below parents.
func (s *server) edge(t *testing.T, parents ...edge) edge {
	t.Helper()
	d := registry.Identity{ID: newID(), Edge: true}
	for _, p := range parents {
		d.ParentScopes = append(d.ParentScopes, p.device.Scope)
	}
	d, err := s.CreateDevice(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	hub, err := s.UpdateDevice(t.Context(), iot.ID{Device: d.ID.Device, Module: "$edgeHub"}, nil,
		registry.Change{Authentication: &registry.Authentication{Type: registry.SAS}})
	if err != nil {
		t.Fatal(err)
	}
	return edge{d, hub}
}

// leaf creates a device below parent that has no key of its own to be of use.
func (s *server) leaf(t *testing.T, parent edge) registry.Identity {
	t.Helper()
	d, err := s.CreateDevice(t.Context(), registry.Identity{ID: newID(), Scope: parent.device.Scope})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (s *server) status(t *testing.T, id iot.ID, status registry.Status) {
	t.Helper()
	if _, err := s.UpdateDevice(t.Context(), id, nil, registry.Change{Status: &status}); err != nil {
		t.Fatal(err)
	}
}

// onBehalf is a CONNECT of target by who holds the token.
func onBehalf(target iot.ID, token string, chain ...string) wire.Connect {
	h := hello(target, token)
	h.Username = topic.Username{Host: hubtest.Host, Device: target.Device, Module: target.Module, APIVersion: "2020-09-30", AuthChain: strings.Join(chain, ";")}.String()
	return h
}

func TestOnBehalf(t *testing.T) { overBoth(t, testOnBehalf) }

func testOnBehalf(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-100")
	top := shared.edge(t)
	middle := shared.edge(t, top)
	leaf := shared.leaf(t, middle)
	module := shared.Device(t, iot.ID{Device: leaf.ID.Device, Module: "m"})
	other := shared.edge(t) // above nobody here
	dev := func(e edge) string { return e.device.ID.Device }
	l := leaf.ID.Device

	accepted := map[string]struct {
		target iot.ID
		by     edge
		chain  []string
	}{
		"leaf by its parent":               {leaf.ID, middle, []string{l, dev(middle)}},
		"leaf by the edge above":           {leaf.ID, top, []string{l, dev(middle), dev(top)}},
		"edge device by its parent":        {middle.device.ID, top, []string{dev(middle), dev(top)}},
		"$edgeHub by the edge above":       {middle.hub.ID, top, []string{dev(middle) + "/$edgeHub", dev(middle), dev(top)}},
		"module of a leaf":                 {module.ID, middle, []string{l + "/m", l, dev(middle)}},
		"module of a leaf, by the topmost": {module.ID, top, []string{l + "/m", l, dev(middle), dev(top)}},
	}
	for name, tc := range accepted {
		t.Run(name, func(t *testing.T) {
			c := shared.dial(t)
			if _, code := c.Connect(onBehalf(tc.target, shared.Token(tc.by.hub), tc.chain...)); code != 0 {
				t.Fatalf("CONNACK %d", code)
			}
			before := 0
			c.Publish(events(tc.target)+"n="+fmt.Sprint(before), []byte(name))
			ms := shared.Messages(t, tc.target, 1)
			m := ms[len(ms)-1]
			if m.From != tc.target || m.AuthMethod != `{"scope":"module","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}` {
				t.Errorf("the message is stamped %v %s", m.From, m.AuthMethod)
			}
			shared.connected(t, tc.target, true)
			c.Disconnect()
			shared.connected(t, tc.target, false)
		})
	}

	soon := time.Now().Add(time.Hour)
	sign := func(sr iot.ID, key registry.Identity) string {
		return sas.Sign(hubtest.Resource(sr), key.Authentication.PrimaryKey.Reveal(), soon, "")
	}
	good := shared.Token(middle.hub)
	direct := []string{l, dev(middle)}
	policy := shared.Policies[2]
	long := []string{l}
	for range 20 {
		long = append(long, dev(middle))
	}
	for name, h := range map[string]wire.Connect{
		"actor outside the stored chain":          onBehalf(leaf.ID, shared.Token(other.hub), l, dev(other)),
		"actor outside, behind the stored parent": onBehalf(leaf.ID, shared.Token(other.hub), l, dev(middle), dev(other)),
		"actor left of the target":                onBehalf(middle.device.ID, shared.Token(top.hub), dev(middle), dev(middle), dev(top)),
		"a link left out":                         onBehalf(leaf.ID, shared.Token(top.hub), l, dev(top)),
		"a link too many":                         onBehalf(leaf.ID, shared.Token(top.hub), l, dev(middle), l, dev(middle), dev(top)),
		"chain that begins with another":          onBehalf(leaf.ID, good, dev(other), dev(middle)),
		"chain of a module for its device":        onBehalf(leaf.ID, good, l+"/m", l, dev(middle)),
		"chain of a device for its module":        onBehalf(module.ID, good, l, dev(middle)),
		"chain upside down":                       onBehalf(leaf.ID, good, dev(middle), l),
		"child on behalf of its parent":           onBehalf(middle.device.ID, shared.Token(leaf), dev(middle), l),
		"unknown device in the chain":             onBehalf(leaf.ID, good, l, "nobody", dev(middle)),
		"unknown target":                          onBehalf(iot.ID{Device: "nobody"}, good, "nobody", dev(middle)),
		"endless chain":                           onBehalf(leaf.ID, good, long...),
		"chain of the target alone":               onBehalf(leaf.ID, good, l),
		"no chain":                                onBehalf(leaf.ID, good),
		"device token of the parent":              onBehalf(leaf.ID, shared.Token(middle.device), direct...),
		"device token of the actor for its hub":   onBehalf(leaf.ID, sign(middle.hub.ID, middle.device), direct...),
		"hub's key for the actor device":          onBehalf(leaf.ID, sign(middle.device.ID, middle.hub), direct...),
		"hub's key for the target":                onBehalf(leaf.ID, sign(leaf.ID, middle.hub), direct...),
		"the leaf's own token":                    onBehalf(leaf.ID, shared.Token(leaf), direct...),
		"token of a link that is not the actor":   onBehalf(leaf.ID, good, l, dev(middle), dev(top)),
		"policy token":                            onBehalf(leaf.ID, sas.Sign(hubtest.Host, policy.Primary.Reveal(), soon, policy.Name), direct...),
		"expired token":                           onBehalf(leaf.ID, sas.Sign(hubtest.Resource(middle.hub.ID), middle.hub.Authentication.PrimaryKey.Reveal(), time.Now().Add(-time.Hour), ""), direct...),
		"no token":                                onBehalf(leaf.ID, "", direct...),
		"no token that can be read":               onBehalf(leaf.ID, "x", direct...),
		"leaf as an actor":                        onBehalf(module.ID, shared.Token(module), l+"/m", l),
		"$edgeAgent's token":                      onBehalf(leaf.ID, sign(iot.ID{Device: dev(middle), Module: "$edgeAgent"}, middle.hub), direct...),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shared.refused(t, h, 5)
		})
	}
	t.Run("a certificate is no token", func(t *testing.T) {
		t.Parallel()
		cert := pkitest.SelfSigned(t, "leaf")
		one, _ := pki.Thumbprints(cert.Leaf)
		d, err := shared.CreateDevice(t.Context(), registry.Identity{ID: newID(), Scope: middle.device.Scope,
			Authentication: registry.Authentication{Type: registry.SelfSigned, PrimaryThumbprint: one}})
		if err != nil {
			t.Fatal(err)
		}
		shared.accepted(t, hello(d.ID, ""), cert)
		shared.refused(t, onBehalf(d.ID, "", d.ID.Device, dev(middle)), 5, cert)
		// Whatever it authenticates with itself, its parent may speak for it.
		shared.accepted(t, onBehalf(d.ID, good, d.ID.Device, dev(middle)))
	})

	// Any disabled link on the way refuses, the target itself, too; a wrong token has the first word.
	t.Run("disabled links", func(t *testing.T) {
		top := shared.edge(t)
		middle := shared.edge(t, top)
		leaf := shared.leaf(t, middle)
		l := leaf.ID.Device
		connect := onBehalf(leaf.ID, shared.Token(top.hub), l, dev(middle), dev(top))
		for _, id := range []iot.ID{leaf.ID, middle.device.ID, top.device.ID} {
			live := shared.dial(t)
			if _, code := live.Connect(connect); code != 0 {
				t.Fatalf("CONNACK %d", code)
			}
			shared.status(t, id, registry.Disabled)
			live.Closed()
			shared.refused(t, connect, 3)
			shared.refused(t, onBehalf(leaf.ID, shared.Token(middle.device), l, dev(middle), dev(top)), 5)
			shared.status(t, id, registry.Enabled)
		}
		shared.accepted(t, connect)
		// A leaf that moved away is nobody's any more.
		none := ""
		if _, err := shared.UpdateDevice(t.Context(), leaf.ID, nil, registry.Change{Scope: &none}); err != nil {
			t.Fatal(err)
		}
		shared.refused(t, connect, 5)
	})
	t.Run("a deleted actor", func(t *testing.T) {
		e := shared.edge(t)
		leaf, own := shared.leaf(t, e), shared.leaf(t, e)
		through, direct := shared.dial(t), shared.connect(t, own)
		connect := onBehalf(leaf.ID, shared.Token(e.hub), leaf.ID.Device, e.device.ID.Device)
		if _, code := through.Connect(connect); code != 0 {
			t.Fatalf("CONNACK %d", code)
		}
		if err := shared.DeleteDevice(t.Context(), e.device.ID, nil); err != nil {
			t.Fatal(err)
		}
		through.Closed()
		shared.refused(t, connect, 5)
		direct.Publish(events(own.ID), []byte("who came by itself stays"))
		direct.Disconnect()
	})
	t.Run("an actor that is no edge device any more", func(t *testing.T) {
		e := shared.edge(t)
		leaf := shared.leaf(t, e)
		connect := onBehalf(leaf.ID, shared.Token(e.hub), leaf.ID.Device, e.device.ID.Device)
		shared.accepted(t, connect)
		no := false
		if _, err := shared.UpdateDevice(t.Context(), e.device.ID, nil, registry.Change{Edge: &no}); err != nil {
			t.Fatal(err)
		}
		shared.refused(t, connect, 5)
	})
}

func TestAuth_RefusedKindsOfTokens(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HD-101")
	s := start(t, hubtest.Options{})
	e := s.edge(t)
	device, leaf := s.device(t), s.leaf(t, e)
	module := s.Device(t, iot.ID{Device: device.ID.Device, Module: "m"})
	policy := s.Policies[2]
	cert := pkitest.SelfSigned(t, "x")
	one, _ := pki.Thumbprints(cert.Leaf)
	byCert := s.DeviceWith(t, newID(), registry.Authentication{Type: registry.SelfSigned, PrimaryThumbprint: one})

	ways := map[string]wire.Connect{
		"device": s.hello(device), "module": s.hello(module), "edge device": s.hello(e.device),
		"on behalf": onBehalf(leaf.ID, s.Token(e.hub), leaf.ID.Device, e.device.ID.Device),
		"policy":    hello(leaf.ID, sas.Sign(hubtest.Host, policy.Primary.Reveal(), time.Now().Add(time.Hour), policy.Name)),
	}
	live := s.connect(t, device)
	for _, tc := range []struct {
		refused access.Refused
		out     []string
	}{
		{access.Refused{}, nil},
		{access.Refused{DeviceSAS: true}, []string{"device", "edge device"}},
		{access.Refused{ModuleSAS: true}, []string{"module", "on behalf"}},
		{access.Refused{Policies: true}, []string{"policy"}},
		{access.Refused{DeviceSAS: true, ModuleSAS: true, Policies: true}, []string{"device", "edge device", "module", "on behalf", "policy"}},
		{access.Refused{}, nil},
	} {
		s.Refuse(tc.refused)
		if tc.refused.DeviceSAS {
			live.Publish(events(device.ID), []byte("who is in stays in"))
		}
		for name, h := range ways {
			want := byte(0)
			if strings.Contains(" "+strings.Join(tc.out, ", ")+",", " "+name+",") {
				want = 5
			}
			if name == "device" && want == 0 {
				live.Drop()
			}
			c := s.dial(t)
			if _, code := c.Connect(h); code != want {
				t.Errorf("refused %+v: CONNACK %d for %s, want %d", tc.refused, code, name, want)
			}
			if name == "device" && want == 0 {
				live = c
				continue
			}
			c.Drop()
		}
		s.accepted(t, hello(byCert.ID, ""), cert)
	}
}

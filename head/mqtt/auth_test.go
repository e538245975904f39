package mqtt_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/pki"
	"github.com/vauban-iot/vauban/pki/pkitest"
	"github.com/vauban-iot/vauban/wire/sas"
)

// signature is sig over a resource exactly as it is written.
func signature(key secret.Secret, sr, se string) string {
	h := hmac.New(sha256.New, key.Reveal())
	h.Write([]byte(sr + "\n" + se))
	return url.QueryEscape(base64.StdEncoding.EncodeToString(h.Sum(nil)))
}

func inAnHour() string { return strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10) }

func TestAuth_ResourceSpellings(t *testing.T) { overBoth(t, testAuth_ResourceSpellings) }

func testAuth_ResourceSpellings(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-93")
	id := newID()
	id.Device += ":a=z" // needs escaping
	d := shared.Device(t, id)
	key, se := d.Authentication.PrimaryKey, inAnHour()
	once := url.QueryEscape(id.Device)
	for name, sr := range map[string]string{
		"lower-case hex":             hubtest.Host + "%2fdevices%2f" + strings.ToLower(once),
		"upper-case hex":             hubtest.Host + "%2Fdevices%2F" + once,
		"unencoded":                  hubtest.Host + "/devices/" + id.Device,
		"only the id encoded":        hubtest.Host + "/devices/" + once,
		"id encoded twice":           hubtest.Host + "%2Fdevices%2F" + url.QueryEscape(once),
		"trailing slash":             hubtest.Host + "/devices/" + id.Device + "/",
		"encoded trailing slash":     hubtest.Host + "%2Fdevices%2F" + once + "%2F",
		"host in another case":       "HUB.Example.NET/devices/" + id.Device,
		"scheme":                     "https%3A%2F%2F" + hubtest.Host + "%2Fdevices%2F" + once,
		"version of a documentation": hubtest.Host + "/devices/" + id.Device + "/api-version=2016-11-14",
	} {
		t.Run(name, func(t *testing.T) {
			shared.welcomes(t, d, fmt.Sprintf("SharedAccessSignature sr=%s&sig=%s&se=%s", sr, signature(key, sr, se), se))
		})
	}
	// The signature is over the text as it came: another spelling of the same resource does not verify.
	upper, lower := hubtest.Host+"%2Fdevices%2F"+once, hubtest.Host+"%2fdevices%2f"+once
	shared.refused(t, hello(id, fmt.Sprintf("SharedAccessSignature sr=%s&sig=%s&se=%s", lower, signature(key, upper, se), se)), 5)
}

// welcomes connects d with a token text. Each test has its device to itself, but its subtests share it:
// whoever comes later takes over, so only the CONNACK counts.
func (s *server) welcomes(t *testing.T, d registry.Identity, token string) {
	t.Helper()
	c := s.dial(t)
	if _, code := c.Connect(hello(d.ID, token)); code != 0 {
		t.Errorf("CONNACK %d for token %q", code, token)
	}
	c.Drop()
}

func TestAuth_TokenFields(t *testing.T) { overBoth(t, testAuth_TokenFields) }

func testAuth_TokenFields(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-94", "HD-95")
	d := shared.device(t)
	sr, se := hubtest.Resource(d.ID), inAnHour()
	fields := func(key secret.Secret, policy *string) []string {
		fs := []string{"sr=" + sr, "sig=" + signature(key, sr, se), "se=" + se}
		if policy != nil {
			fs = append(fs, "skn="+*policy)
		}
		return fs
	}
	own := d.Authentication.PrimaryKey
	for name, fs := range map[string][]string{
		"skn absent": fields(own, nil), "skn empty": fields(own, new("")),
		"skn device": fields(shared.Policies[2].Primary, new("device")), "skn iothubowner": fields(shared.Policies[0].Secondary, new("iothubowner")),
	} {
		for i, order := range orders(fs) {
			text := "SharedAccessSignature " + strings.Join(order, "&")
			if i%2 == 1 {
				text = strings.NewReplacer("sr=", "SR=", "sig=", "Sig=", "se=", "sE=", "skn=", "SKN=").Replace(text)
			}
			t.Run(fmt.Sprint(name, " ", i), func(t *testing.T) { shared.welcomes(t, d, text) })
		}
	}
	for name, token := range map[string]string{
		"unknown policy":                 strings.Join(fields(shared.Policies[0].Primary, new("nobody")), "&"),
		"policy name in another case":    strings.Join(fields(shared.Policies[2].Primary, new("Device")), "&"),
		"device key under a policy name": strings.Join(fields(own, new("device")), "&"),
		"policy key without its name":    strings.Join(fields(shared.Policies[2].Primary, nil), "&"),
		"service policy":                 strings.Join(fields(shared.Policies[1].Primary, new("service")), "&"),
		"registryRead policy":            strings.Join(fields(shared.Policies[3].Primary, new("registryRead")), "&"),
		"registryReadWrite policy":       strings.Join(fields(shared.Policies[4].Primary, new("registryReadWrite")), "&"),
		"two blanks":                     " " + strings.Join(fields(own, nil), "&"),
		"a field twice":                  strings.Join(append(fields(own, nil), "sr="+sr), "&"),
		"no se":                          strings.Join(fields(own, nil)[:2], "&"),
		"se that is no number":           "sr=" + sr + "&se=soon&sig=" + signature(own, sr, "soon"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shared.refused(t, hello(d.ID, "SharedAccessSignature "+token), 5)
		})
	}
	// A policy token covers what its resource covers, and no more.
	other := shared.device(t)
	p := shared.Policies[2]
	soon := time.Now().Add(time.Hour)
	for resource, ok := range map[string]bool{
		hubtest.Host: true, hubtest.Host + "/devices": true, hubtest.Resource(d.ID): true,
		hubtest.Resource(other.ID): false, "evil.example.net": false, hubtest.Host + "/dev": false, hubtest.Resource(d.ID) + "/modules/m": false,
	} {
		token := sas.Sign(resource, p.Primary.Reveal(), soon, p.Name)
		if ok {
			shared.welcomes(t, d, token)
		} else {
			shared.refused(t, hello(d.ID, token), 5)
		}
	}
}

// orders returns every order of list.
func orders(list []string) [][]string {
	if len(list) <= 1 {
		return [][]string{list}
	}
	var all [][]string
	for i := range list {
		rest := append(append([]string(nil), list[:i]...), list[i+1:]...)
		for _, o := range orders(rest) {
			all = append(all, append([]string{list[i]}, o...))
		}
	}
	return all
}

func TestAuth_KeysAndThumbprints(t *testing.T) { overBoth(t, testAuth_KeysAndThumbprints) }

func testAuth_KeysAndThumbprints(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-97")
	soon := time.Now().Add(time.Hour)
	d := shared.device(t)
	for name, key := range map[string]secret.Secret{"primary": d.Authentication.PrimaryKey, "secondary": d.Authentication.SecondaryKey} {
		t.Run(name+" key", func(t *testing.T) {
			shared.welcomes(t, d, sas.Sign(hubtest.Resource(d.ID), key.Reveal(), soon, ""))
		})
	}
	mine, other := pkitest.SelfSigned(t, "x"), pkitest.SelfSigned(t, "x")
	sha1, sha256 := pki.Thumbprints(mine.Leaf)
	otherSHA1, otherSHA256 := pki.Thumbprints(other.Leaf)
	for name, auth := range map[string]registry.Authentication{
		"primary SHA-1":     {PrimaryThumbprint: sha1},
		"primary SHA-256":   {PrimaryThumbprint: sha256},
		"secondary SHA-1":   {PrimaryThumbprint: otherSHA256, SecondaryThumbprint: sha1},
		"secondary SHA-256": {PrimaryThumbprint: otherSHA1, SecondaryThumbprint: sha256},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			auth.Type = registry.SelfSigned
			d := shared.DeviceWith(t, newID(), auth)
			shared.accepted(t, hello(d.ID, ""), mine)
			shared.refused(t, hello(d.ID, ""), 5, pkitest.SelfSigned(t, "x"))
		})
	}
	t.Run("expired", func(t *testing.T) {
		t.Parallel()
		for _, opt := range []pkitest.Option{pkitest.Expired(), pkitest.NotYetValid()} {
			old := pkitest.SelfSigned(t, "x", opt)
			_, print := pki.Thumbprints(old.Leaf)
			d := shared.DeviceWith(t, newID(), registry.Authentication{Type: registry.SelfSigned, PrimaryThumbprint: print})
			shared.refused(t, hello(d.ID, ""), 5, old)
		}
	})
}

func TestAuth_CertificateAuthority(t *testing.T) { overBoth(t, testAuth_CertificateAuthority) }

func testAuth_CertificateAuthority(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-98")
	root := pkitest.NewCA(t, "auth test root")
	middle := root.Intermediate(t, "auth test intermediate")
	trusted := pkitest.NewCA(t, "auth test other root").Intermediate(t, "trusted by itself")
	stranger := pkitest.NewCA(t, "auth test root") // same name, another key
	shared.Trust(root.Cert, trusted.Cert)
	byCA := registry.Authentication{Type: registry.CertificateAuthority}
	device := func(t *testing.T) iot.ID { return shared.DeviceWith(t, newID(), byCA).ID }
	without := func(c tls.Certificate) tls.Certificate { c.Certificate = c.Certificate[:1]; return c }

	for name, tc := range map[string]struct {
		cert func(t *testing.T, id iot.ID) tls.Certificate
		code byte
	}{
		"signed by the root":          {func(t *testing.T, id iot.ID) tls.Certificate { return root.Leaf(t, id.String()) }, 0},
		"with its intermediate":       {func(t *testing.T, id iot.ID) tls.Certificate { return middle.Leaf(t, id.String()) }, 0},
		"without its intermediate":    {func(t *testing.T, id iot.ID) tls.Certificate { return without(middle.Leaf(t, id.String())) }, 5},
		"an intermediate is trusted":  {func(t *testing.T, id iot.ID) tls.Certificate { return trusted.Leaf(t, id.String()) }, 0},
		"another common name":         {func(t *testing.T, id iot.ID) tls.Certificate { return root.Leaf(t, id.String()+"x") }, 5},
		"common name in another case": {func(t *testing.T, id iot.ID) tls.Certificate { return root.Leaf(t, strings.ToUpper(id.String())) }, 5},
		"expired leaf":                {func(t *testing.T, id iot.ID) tls.Certificate { return root.Leaf(t, id.String(), pkitest.Expired()) }, 5},
		"leaf of tomorrow":            {func(t *testing.T, id iot.ID) tls.Certificate { return root.Leaf(t, id.String(), pkitest.NotYetValid()) }, 5},
		"unknown authority":           {func(t *testing.T, id iot.ID) tls.Certificate { return stranger.Leaf(t, id.String()) }, 5},
		"self-signed":                 {func(t *testing.T, id iot.ID) tls.Certificate { return pkitest.SelfSigned(t, id.String()) }, 5},
		"signed by a leaf":            {func(t *testing.T, id iot.ID) tls.Certificate { return root.ByLeaf(t, id.String()) }, 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			id := device(t)
			if tc.code == 0 {
				shared.accepted(t, hello(id, ""), tc.cert(t, id))
			} else {
				shared.refused(t, hello(id, ""), tc.code, tc.cert(t, id))
			}
		})
	}
	t.Run("module", func(t *testing.T) {
		t.Parallel()
		id := device(t)
		id.Module = "mod"
		shared.DeviceWith(t, id, byCA)
		shared.accepted(t, hello(id, ""), root.Leaf(t, id.Device+"/mod"))
		for _, cn := range []string{id.Device, "mod", id.Device + "/other", id.Device + "mod"} {
			shared.refused(t, hello(id, ""), 5, root.Leaf(t, cn))
		}
	})
}

func TestAuth_DeviceAndModuleTokens(t *testing.T) { overBoth(t, testAuth_DeviceAndModuleTokens) }

func testAuth_DeviceAndModuleTokens(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-99")
	id := newID()
	device := shared.Device(t, id)
	one := shared.Device(t, iot.ID{Device: id.Device, Module: "one"})
	two := shared.Device(t, iot.ID{Device: id.Device, Module: "two"})
	soon := time.Now().Add(time.Hour)
	for _, who := range []registry.Identity{device, one, two} {
		for _, key := range []registry.Identity{device, one, two} {
			for _, sr := range []registry.Identity{device, one, two} {
				token := sas.Sign(hubtest.Resource(sr.ID), key.Authentication.PrimaryKey.Reveal(), soon, "")
				if who.ID == key.ID && who.ID == sr.ID {
					shared.accepted(t, hello(who.ID, token))
					continue
				}
				c := shared.dial(t)
				if _, code := c.Connect(hello(who.ID, token)); code != 5 {
					t.Errorf("%v with the key of %v for %v: CONNACK %d, want 5", who.ID, key.ID, sr.ID, code)
				}
				c.Closed()
			}
		}
	}
	// A module of a disabled device is as unavailable as the device.
	status := registry.Disabled
	if _, err := shared.UpdateDevice(t.Context(), id, nil, registry.Change{Status: &status}); err != nil {
		t.Fatal(err)
	}
	shared.refused(t, shared.hello(one), 3)
}

package access_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/wire/connstr"
	"github.com/vauban-iot/vauban/wire/sas"
)

const host = "hub.example.net"

var now = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func guard(policies []access.Policy) *access.Guard {
	return access.NewGuard([]string{host, "other.example.net"}, policies, func() time.Time { return now })
}

func TestGuard(t *testing.T) {
	t.Parallel()
	ps := access.HubPolicies()
	g := guard(ps)
	owner, service, readOnly := ps[0], ps[1], ps[3]
	later := now.Add(time.Hour)
	key := func(p access.Policy) []byte { return p.Primary.Reveal() }
	path := []string{"devices", "d1"}
	for name, tc := range map[string]struct {
		token string
		need  access.Right
		want  fault.Kind
		ok    bool
	}{
		"owner":                       {sas.Sign(host, key(owner), later, "iothubowner"), access.RegistryWrite, 0, true},
		"secondary key":               {sas.Sign(host, owner.Secondary.Reveal(), later, "iothubowner"), access.RegistryWrite, 0, true},
		"another name of the service": {sas.Sign("OTHER.example.net", key(owner), later, "iothubowner"), access.RegistryWrite, 0, true},
		"for this path":               {sas.Sign(host+"/devices/d1", key(owner), later, "iothubowner"), access.RegistryWrite, 0, true},
		"for what is above":           {sas.Sign(host+"/devices", key(owner), later, "iothubowner"), access.RegistryWrite, 0, true},
		"any one of several rights":   {sas.Sign(host, key(service), later, "service"), access.ServiceConnect | access.RegistryRead, 0, true},
		"four minutes late":           {sas.Sign(host, key(owner), now.Add(-4*time.Minute), "iothubowner"), access.RegistryRead, 0, true},
		"six minutes late":            {sas.Sign(host, key(owner), now.Add(-6*time.Minute), "iothubowner"), access.RegistryRead, fault.Unauthorized, false},
		"right missing":               {sas.Sign(host, key(readOnly), later, "registryRead"), access.RegistryWrite, fault.Forbidden, false},
		"no right asked for":          {sas.Sign(host, key(owner), later, "iothubowner"), 0, fault.Forbidden, false},
		"for another path":            {sas.Sign(host+"/devices/d2", key(owner), later, "iothubowner"), access.RegistryRead, fault.Unauthorized, false},
		"for something below":         {sas.Sign(host+"/devices/d1/modules/m", key(owner), later, "iothubowner"), access.RegistryRead, fault.Unauthorized, false},
		"for half a segment":          {sas.Sign(host+"/devices/d", key(owner), later, "iothubowner"), access.RegistryRead, fault.Unauthorized, false},
		"for another host":            {sas.Sign("evil.example.net", key(owner), later, "iothubowner"), access.RegistryRead, fault.Unauthorized, false},
		"unknown policy":              {sas.Sign(host, key(owner), later, "nobody"), access.RegistryRead, fault.Unauthorized, false},
		"no policy":                   {sas.Sign(host, key(owner), later, ""), access.RegistryRead, fault.Unauthorized, false},
		"key of another policy":       {sas.Sign(host, key(service), later, "iothubowner"), access.RegistryRead, fault.Unauthorized, false},
		"empty key":                   {sas.Sign(host, nil, later, "iothubowner"), access.RegistryRead, fault.Unauthorized, false},
		"no token":                    {"", access.RegistryRead, fault.Unauthorized, false},
		"another scheme":              {"Bearer x", access.RegistryRead, fault.Unauthorized, false},
	} {
		err := g.Authorize(tc.token, tc.need, path...)
		if (err == nil) != tc.ok || err != nil && fault.KindOf(err) != tc.want {
			t.Errorf("%s: got %v, want ok %v or kind %v", name, err, tc.ok, tc.want)
		}
		if err != nil && strings.Contains(err.Error(), "sig=") {
			t.Errorf("%s: the error holds a signature: %v", name, err)
		}
	}
}

// A policy without keys, as a damaged setting would give, lets nobody in.
func TestGuard_EmptyKeys(t *testing.T) {
	t.Parallel()
	g := guard([]access.Policy{{Name: "empty", Rights: access.RegistryRead}})
	for _, key := range [][]byte{nil, {}, {0}} {
		if err := g.Authorize(sas.Sign(host, key, now.Add(time.Hour), "empty"), access.RegistryRead); !fault.Is(err, fault.Unauthorized) {
			t.Errorf("key %v: %v", key, err)
		}
	}
}

// The default policies and their rights (hub-service §1.1, dps §2.3).
func TestPolicies(t *testing.T) {
	t.Parallel()
	want := map[string]string{
		"iothubowner": "RegistryRead, RegistryWrite, ServiceConnect, DeviceConnect", "service": "ServiceConnect", "device": "DeviceConnect",
		"registryRead": "RegistryRead", "registryReadWrite": "RegistryRead, RegistryWrite",
		"provisioningserviceowner": "ServiceConfig, EnrollmentRead, EnrollmentWrite, RegistrationStatusRead, RegistrationStatusWrite",
	}
	seen := map[string]bool{}
	for _, p := range append(access.HubPolicies(), access.ProvisioningPolicies()...) {
		if p.Rights.String() != want[p.Name] {
			t.Errorf("%s has the rights %s, want %s", p.Name, p.Rights, want[p.Name])
		}
		delete(want, p.Name)
		for _, k := range []secret.Secret{p.Primary, p.Secondary} {
			if len(k.Reveal()) != 32 || seen[k.Base64()] {
				t.Errorf("%s has a key of %d bytes, or one that is used twice", p.Name, len(k.Reveal()))
			}
			seen[k.Base64()] = true
		}
		cs, err := connstr.Parse(p.ConnectionString(host))
		if err != nil || cs.HostName != host || cs.SharedAccessKeyName != p.Name || cs.SharedAccessKey != p.Primary.Base64() {
			t.Errorf("connection string of %s: %+v, %v", p.Name, cs, err)
		}
		if text := fmt.Sprintf("%v %+v", p, p); strings.Contains(text, p.Primary.Base64()) || strings.Contains(text, string(p.Primary.Reveal())) {
			t.Errorf("%s prints its key", p.Name)
		}
	}
	if len(want) != 0 {
		t.Errorf("missing: %v", want)
	}
}

package https_test

import (
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/head/https"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/pki/pkitest"
	"github.com/vauban-iot/vauban/wire/sas"
)

// A security agent that holds its device's key reads the key of its module, with a token for the host alone.
func TestModule_ForItsDevice(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-16")
	s := serve(t)
	d, other := s.Device(t, iot.ID{Device: "d"}), s.Device(t, iot.ID{Device: "other"})
	m := s.Device(t, iot.ID{Device: "d", Module: "azureiotsecurity"})
	ca := pkitest.NewCA(t, "root")
	s.Trust(ca.Cert)
	s.DeviceWith(t, iot.ID{Device: "signed"}, registry.Authentication{Type: registry.CertificateAuthority})
	s.Device(t, iot.ID{Device: "signed", Module: "azureiotsecurity"})
	disabled, cut := s.Device(t, iot.ID{Device: "disabled"}), s.Device(t, iot.ID{Device: "cut"})
	for _, id := range []string{"disabled", "cut"} {
		s.Device(t, iot.ID{Device: id, Module: "azureiotsecurity"})
	}
	status := registry.Disabled
	if _, err := s.UpdateDevice(t.Context(), disabled.ID, nil, registry.Change{Status: &status}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Contain(t.Context(), "cut", registry.TelemetryOnly, "", ""); err != nil {
		t.Fatal(err)
	}
	good, stranger := ca.Leaf(t, "signed"), pkitest.NewCA(t, "root").Leaf(t, "signed")
	soon := s.Clock.Now().Add(time.Hour)
	host := func(d registry.Identity) string {
		return sas.Sign(hubtest.Host, d.Authentication.PrimaryKey.Reveal(), soon, "")
	}
	for name, c := range map[string]struct {
		device, module, token string
		cert                  *tls.Certificate
		status                int
	}{
		"by key":                           {"d", "azureiotsecurity", host(d), nil, 200},
		"by certificate":                   {"signed", "azureiotsecurity", "", &good, 200},
		"no such module":                   {"d", "none", host(d), nil, 404},
		"no such device":                   {"none", "azureiotsecurity", host(d), nil, 401},
		"a token lent for telemetry":       {"d", "azureiotsecurity", s.Token(d), nil, 401},
		"the module's own token":           {"d", "azureiotsecurity", s.Token(m), nil, 401},
		"the module's key for the host":    {"d", "azureiotsecurity", host(m), nil, 401},
		"another device's key":             {"d", "azureiotsecurity", host(other), nil, 401},
		"expired":                          {"d", "azureiotsecurity", sas.Sign(hubtest.Host, d.Authentication.PrimaryKey.Reveal(), s.Clock.Now().Add(-6*time.Minute), ""), nil, 401},
		"for another hub":                  {"d", "azureiotsecurity", sas.Sign("else.example.net", d.Authentication.PrimaryKey.Reveal(), soon, ""), nil, 401},
		"a stranger's certificate":         {"signed", "azureiotsecurity", "", &stranger, 401},
		"another device's certificate":     {"d", "azureiotsecurity", "", &good, 401},
		"a certificate beside a token":     {"signed", "azureiotsecurity", host(d), &good, 401},
		"a disabled device":                {"disabled", "azureiotsecurity", host(disabled), nil, 403},
		"a device that may only telemeter": {"cut", "azureiotsecurity", host(cut), nil, 403},
	} {
		t.Run(name, func(t *testing.T) {
			header := map[string]string{}
			if c.token != "" {
				header["Authorization"] = c.token
			}
			a := s.call(t, c.cert, "GET", "/devices/"+c.device+"/modules/"+c.module+"?api-version=2018-06-30", header, "").want(t, c.status)
			if c.status == 401 && a.header["iothub-errorcode"] != "IotHubUnauthorized" {
				t.Errorf("error code %q", a.header["iothub-errorcode"])
			}
			if c.status != 200 {
				if strings.Contains(string(a.body), "Key\"") {
					t.Errorf("a refusal says %s", a.body)
				}
				return
			}
			var doc struct {
				ModuleID       string `json:"moduleId"`
				Authentication struct {
					SymmetricKey struct {
						PrimaryKey string `json:"primaryKey"`
					} `json:"symmetricKey"`
				} `json:"authentication"`
			}
			if err := json.Unmarshal(a.body, &doc); err != nil || doc.ModuleID != c.module || doc.Authentication.SymmetricKey.PrimaryKey == "" {
				t.Errorf("%v: %s", err, a.body)
			}
		})
	}
	if lines := s.Log.Lines(slog.LevelDebug, "sig="); len(lines) > 0 {
		t.Errorf("the log holds a token: %s", lines[0].Text)
	}
}

func TestOwnsModule(t *testing.T) {
	t.Parallel()
	key := sas.Sign("h", []byte("k"), time.Now().Add(time.Hour), "")
	for _, c := range []struct {
		method, path, token string
		want                bool
	}{
		{"GET", "devices/d/modules/m", key, true},
		{"GET", "devices/d/modules/m", key + "&skn=iothubowner", false}, // a program
		{"GET", "devices/d/modules/m", "Bearer x", false},
		{"GET", "devices/d/modules/m", "", false}, // no certificate either
		{"PUT", "devices/d/modules/m", key, false},
		{"GET", "devices/d/modules", key, false},
		{"GET", "devices/d", key, false},
	} {
		r := httptest.NewRequest(c.method, "/"+c.path, nil)
		if c.token != "" {
			r.Header.Set("Authorization", c.token)
		}
		if got := https.OwnsModule(r, strings.Split(c.path, "/")); got != c.want {
			t.Errorf("%s /%s with %q: %v, want %v", c.method, c.path, c.token, got, c.want)
		}
	}
}

package provisioning_test

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/dps/dpstest"
	head "github.com/vauban-iot/vauban/head/provisioning"
	"github.com/vauban-iot/vauban/sdk/provisioning"
)

// serve is a client of a real service's REST API.
func serve(t *testing.T) *provisioning.Client {
	t.Helper()
	policies := access.ProvisioningPolicies()
	h, err := head.New(head.Config{
		Service: dpstest.New(t), Guard: access.NewGuard([]string{dpstest.Host}, policies, time.Now), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewTLSServer(h)
	t.Cleanup(s.Close)
	c, err := provisioning.New(provisioning.Config{
		ConnectionString: policies[0].ConnectionString(dpstest.Host), Address: s.Listener.Addr().String(),
		TLS: &tls.Config{RootCAs: s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, ServerName: "example.com", MinVersion: tls.VersionTLS12},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestNew(t *testing.T) {
	key := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for _, cs := range []string{"", "nonsense", "HostName=h", "HostName=h;SharedAccessKeyName=p", "HostName=h;SharedAccessKey=" + key, "HostName=h;SharedAccessKeyName=p;SharedAccessKey=?"} {
		if _, err := provisioning.New(provisioning.Config{ConnectionString: cs}); err == nil || strings.Contains(err.Error(), key) {
			t.Errorf("%q: %v", cs, err)
		}
	}
}

func TestClient(t *testing.T) {
	c, ctx := serve(t), t.Context()
	put := func(id string) {
		t.Helper()
		if _, err := c.Do(ctx, http.MethodPut, provisioning.EnrollmentPath(id), "", map[string]any{"attestation": map[string]string{"type": "symmetricKey"}}); err != nil {
			t.Fatal(err)
		}
	}
	const many = 1203 // three pages
	for i := range many {
		put(fmt.Sprintf("d%04d", i))
	}
	n := 0
	err := c.Query(ctx, "/enrollments", func(item json.RawMessage) error {
		var e struct{ RegistrationID string }
		if err := json.Unmarshal(item, &e); err != nil || e.RegistrationID != fmt.Sprintf("d%04d", n) {
			t.Fatalf("item %d is %s, %v", n, item, err)
		}
		n++
		return nil
	})
	if err != nil || n != many {
		t.Errorf("%d items, %v; want %d", n, err, many)
	}
	enough := errors.New("enough")
	if err := c.Query(ctx, "/enrollments", func(json.RawMessage) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("a reader that stops: %v", err)
	}
	for _, test := range []struct {
		method, path, match string
		status, code        int
	}{
		{http.MethodGet, provisioning.EnrollmentPath("none"), "", 404, 404001},
		{http.MethodGet, provisioning.GroupPath("none"), "", 404, 404001},
		{http.MethodGet, provisioning.RegistrationPath("none"), "", 404, 404001},
		{http.MethodDelete, provisioning.EnrollmentPath("d0001"), "other", 412, 412001},
	} {
		_, err := c.Do(ctx, test.method, test.path, test.match, nil)
		e, ok := errors.AsType[*provisioning.Error](err)
		if !ok || e.Status != test.status || e.Code != test.code || e.Message == "" || !strings.Contains(e.Error(), fmt.Sprint(test.code)) {
			t.Errorf("%s %s: %v, want %d", test.method, test.path, err, test.code)
		}
	}
	if _, err := c.Do(ctx, http.MethodDelete, provisioning.EnrollmentPath("d0001"), "*", nil); err != nil {
		t.Error(err)
	}
}

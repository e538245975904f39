package apptest_test

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/app/up"
	"github.com/vauban-iot/vauban/sdk/provisioning"
	"github.com/vauban-iot/vauban/wire/sas"
)

// What provisioning sees is known to Defender: who comes from a listed address, and credentials that prove nothing.
func TestVauban_ProvisioningAlerts(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t, func(c *up.Config) {
		dir := filepath.Join(c.Data, "intel")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "here.txt"), []byte("127.0.0.0/8\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	c, err := provisioning.New(provisioning.Config{ConnectionString: v.DPS.ConnectionString, TLS: v.TLS(), Address: v.Address(v.Ports.HTTPS)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := c.Do(t.Context(), http.MethodPut, provisioning.EnrollmentPath("lamp"), "", fmt.Appendf(nil, `{"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":%q,"secondaryKey":%q}},"deviceId":"lamp-1"}`, groupKey, groupKey)); err != nil {
		t.Fatal(err)
	}
	key, err := base64.StdEncoding.DecodeString(groupKey)
	if err != nil {
		t.Fatal(err)
	}
	register := func(id string, key []byte, until time.Duration, want int) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "PUT", "https://"+v.Address(v.Ports.HTTPS)+"/"+v.DPS.IDScope+"/registrations/"+id+"/register?api-version=2021-06-01", strings.NewReader(`{"registrationId":"`+id+`"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", sas.Sign(v.DPS.IDScope+"/registrations/"+id, key, time.Now().Add(until), "registration"))
		res, err := v.HTTP().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if text, _ := io.ReadAll(res.Body); res.StatusCode != want {
			t.Fatalf("%s: %d %s, want %d", id, res.StatusCode, text, want)
		}
	}
	register("lamp", []byte("another key, of somebody else..."), time.Hour, 401)
	register("lamp", key, -time.Hour, 401)
	register("nobody-1", key, time.Hour, 401)
	register("nobody-2", key, time.Hour, 401)
	register("lamp", key, time.Hour, 202)
	want := []string{
		"IoT_Expired_SAS_Token lamp-1 provisioning 1", "IoT_Invalid_SAS_Token  provisioning 2", "IoT_Invalid_SAS_Token lamp-1 provisioning 1", "IoT_TiConnection lamp-1 127.0.0.0/8 1",
	}
	var got, texts []string
	eventually(t, "the alerts", func() bool {
		got, texts = nil, nil
		for _, a := range alertsOf(t, v, "limit=100") {
			got = append(got, fmt.Sprintf("%s %s %s %d", a.Type, a.Device, a.Indicator, a.Count))
			texts = append(texts, a.Description)
		}
		slices.Sort(got)
		return len(got) >= len(want)
	})
	if !slices.Equal(got, want) {
		t.Errorf("alerts %q, want %q", got, want)
	}
	for _, text := range []string{"connected to the provisioning service from 127.0.0.1", "with a token that no enrollment admits", "Somebody tried to register as device lamp-1", "Device lamp-1 tried to register"} {
		if !slices.ContainsFunc(texts, func(s string) bool { return strings.Contains(s, text) }) {
			t.Errorf("no alert says %q: %q", text, texts)
		}
	}
}

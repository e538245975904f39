package apptest_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/head/mqtt/mqtttest"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/pki/pkitest"
	"github.com/vauban-iot/vauban/sdk/service"
	"github.com/vauban-iot/vauban/wire/sas"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// operate calls the operator's API.
func operate(t *testing.T, v *apptest.Vauban, method, path, body string, into any) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, strings.TrimSuffix(v.API.URL, "/")+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.URL.Host = v.Address(v.Ports.HTTPS)
	req.Header.Set("Authorization", "Bearer "+v.API.Token)
	res, err := v.HTTP().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if into != nil {
		if err := json.Unmarshal(data, into); err != nil {
			t.Fatalf("%s %s: %d %s: %v", method, path, res.StatusCode, data, err)
		}
	}
	return res.StatusCode
}

func alertsOf(t *testing.T, v *apptest.Vauban, query string) []alert.Alert {
	t.Helper()
	var list struct{ Alerts []alert.Alert }
	operate(t, v, "GET", "/api/alerts?"+query, "", &list)
	return list.Alerts
}

// eventually waits for what comes within seconds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not happen", what)
		}
	}
}

const securityTopic = "devices/%s/messages/events/mti=2.3-1-0-0&%%24.ifid=urn%%3Aazureiot%%3ASecurity%%3ASecurityAgent%%3A1"

func activityTo(remote string) []byte {
	return secmsg.AppendFlatBuffers(nil, secmsg.Report{Agent: "defender-iot-micro-agent", AgentVersion: "3.5.4", Events: []secmsg.Event{{
		Name: "NetworkActivity", Time: time.Now(), Flows: []secmsg.Flow{{Local: netip.MustParseAddrPort("10.0.0.1:40000"), Remote: netip.MustParseAddrPort(remote), Protocol: "TCP", BytesIn: 1, BytesOut: 2}},
	}}})
}

func TestVauban_AlertsLive(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-34")
	v := apptest.Start(t)
	if err := os.WriteFile(filepath.Join(v.Dir, "intel", "mine.txt"), []byte("203.0.113.5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := v.Device("cam")
	c, _ := connect(t, v, d)
	// Lists are read within a second; an alert counts from then on.
	eventually(t, "the first alert", func() bool {
		c.Publish(fmt.Sprintf(securityTopic, "cam"), activityTo("203.0.113.5:443"))
		return len(alertsOf(t, v, "device=cam")) > 0
	})
	for range 3 {
		c.Publish(fmt.Sprintf(securityTopic, "cam"), activityTo("203.0.113.5:443"))
	}
	eventually(t, "counting", func() bool { return alertsOf(t, v, "device=cam")[0].Count >= 4 })
	all := alertsOf(t, v, "device=cam")
	if len(all) != 1 || all[0].Status != alert.Open {
		t.Fatalf("%d alerts of one device, indicator and day: %+v", len(all), all)
	}
	var full alert.Alert
	operate(t, v, "GET", "/api/alerts/"+all[0].ID, "", &full)
	if len(full.Evidence) == 0 || !strings.Contains(string(full.Evidence[0].Details), `"remote_address":"203.0.113.5"`) {
		t.Errorf("evidence %+v", full.Evidence)
	}
	var replayed struct{ Alerts []alert.Alert }
	operate(t, v, "POST", "/api/alerts/"+full.ID+"/replay", "", &replayed)
	if len(replayed.Alerts) != 1 || replayed.Alerts[0].Type != alert.TiConnection {
		t.Errorf("replayed %+v", replayed)
	}
	var events struct{ Events []record.Row }
	operate(t, v, "GET", "/api/security-events?device=cam&name=NetworkActivity", "", &events)
	if len(events.Events) < 4 || events.Events[0].Resource != v.Hub.Hostname {
		t.Errorf("events %+v", events)
	}

	// Held back, and back again by itself.
	if status := operate(t, v, "POST", "/api/alerts/"+full.ID+"/suppress", fmt.Sprintf(`{"expires":%q}`, time.Now().Add(2*time.Second).Format(time.RFC3339Nano)), nil); status != 201 {
		t.Errorf("suppress: %d", status)
	}
	if got := alertsOf(t, v, "device=cam&status=suppressed"); len(got) != 1 {
		t.Errorf("suppressed: %+v", got)
	}
	eventually(t, "the end of the suppression", func() bool { return len(alertsOf(t, v, "device=cam&status=open")) == 1 })

	// Dismissed, over a restart, whatever is seen.
	if status := operate(t, v, "POST", "/api/alerts/"+full.ID+"/dismiss", `{"comment":"known"}`, nil); status != 200 {
		t.Errorf("dismiss: %d", status)
	}
	v.Restart()
	c, _ = connect(t, v, d)
	before := alertsOf(t, v, "device=cam")[0].Count
	eventually(t, "counting after the restart", func() bool {
		c.Publish(fmt.Sprintf(securityTopic, "cam"), activityTo("203.0.113.5:443"))
		return alertsOf(t, v, "device=cam")[0].Count > before
	})
	if got := alertsOf(t, v, "device=cam"); len(got) != 1 || got[0].Status != alert.Dismissed || got[0].Comment != "known" || got[0].ID != full.ID {
		t.Errorf("after a restart: %+v", got)
	}
}

func TestVauban_SecurityGroups(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	rules := `{"properties":{"allowlistRules":[{"ruleType":"ConnectionToIpNotAllowed","isEnabled":true,"allowlistValues":["10.0.0.0/8"]}]}}`
	if status := operate(t, v, "PUT", "/api/security-groups/plant", rules, nil); status != 201 {
		t.Fatalf("put: %d", status)
	}
	d := v.Device("pump")
	c, _ := connect(t, v, d)
	seen := func() int {
		var events struct{ Events []record.Row }
		operate(t, v, "GET", "/api/security-events?device=pump", "", &events)
		return len(events.Events)
	}
	c.Publish(fmt.Sprintf(securityTopic, "pump"), activityTo("192.0.2.1:443"))
	eventually(t, "the first event", func() bool { return seen() == 1 })
	if got := alertsOf(t, v, "device=pump"); len(got) != 0 {
		t.Errorf("outside of the group: %+v", got)
	}
	if _, err := v.Service().PatchTwin(t.Context(), "pump", []byte(`{"tags":{"SecurityGroup":"plant"}}`), ""); err != nil {
		t.Fatal(err)
	}
	c.Publish(fmt.Sprintf(securityTopic, "pump"), activityTo("192.0.2.1:443"))
	c.Publish(fmt.Sprintf(securityTopic, "pump"), activityTo("10.1.1.1:443"))
	eventually(t, "the events", func() bool { return seen() == 3 })
	if got := alertsOf(t, v, "device=pump"); len(got) != 1 || got[0].Type != "IoT_CA_ConnectionToIpNotAllowed" || got[0].Group != "plant" || got[0].Count != 1 {
		t.Errorf("in the group, at once: %+v", got)
	}
}

func TestVauban_HubAlerts(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "DEF-20")
	v := apptest.Start(t)
	d := v.Device("lamp")
	key, err := base64.StdEncoding.DecodeString(d.Authentication.SymmetricKey.PrimaryKey)
	if err != nil {
		t.Fatal(err)
	}
	resource := v.Hub.Hostname + "/devices/lamp"
	for _, token := range []string{
		sas.Sign(resource, []byte("another key, of somebody else..."), time.Now().Add(time.Hour), ""),
		sas.Sign(resource, []byte("another key, of somebody else..."), time.Now().Add(time.Hour), ""),
		sas.Sign(resource, key, time.Now().Add(-time.Hour), ""),
	} {
		m := hello(v, d)
		m.Password = []byte(token)
		if _, code := mqtttest.Dial(t, v.Address(v.Ports.MQTT), v.TLS()).Connect(m); code != 5 {
			t.Errorf("CONNACK %d", code)
		}
	}
	root, err := os.ReadFile(v.CA)
	if err != nil {
		t.Fatal(err)
	}
	operate(t, v, "PUT", "/api/certificates/plant", string(bytes.TrimSpace(root)), nil)
	operate(t, v, "PUT", "/api/certificates/broken", "no certificate", nil)
	operate(t, v, "DELETE", "/api/certificates/plant", "", nil)
	operate(t, v, "DELETE", "/api/certificates/plant", "", nil)

	// Certificates: another one than the registered, and the registered one when it is over.
	expired := pkitest.SelfSigned(t, "plate", pkitest.Expired())
	plate, err := v.Service().CreateDevice(t.Context(), service.Device{ID: "plate", PrimaryThumbprint: fmt.Sprintf("%X", sha256.Sum256(expired.Certificate[0]))})
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []tls.Certificate{pkitest.SelfSigned(t, "plate"), expired} {
		cfg := v.TLS()
		cfg.Certificates = []tls.Certificate{shown}
		m := hello(v, d)
		m.ClientID, m.Username, m.Password, m.HasPassword = plate.DeviceID, v.Hub.Hostname+"/"+plate.DeviceID+"/?api-version=2021-04-12", nil, false
		if _, code := mqtttest.Dial(t, v.Address(v.Ports.MQTT), cfg).Connect(m); code != 5 {
			t.Errorf("a certificate that proves nothing: CONNACK %d", code)
		}
	}

	// What tells others of the hub: an export, a route of events, and neither any more. A route of messages is none.
	must(t, v, "export", "create", "siem", "--kind", "files")
	events := `{"name":"links","source":"DeviceConnectionStateEvents","endpointNames":["events"]}`
	messages := `{"name":"all","source":"DeviceMessages","endpointNames":["events"]}`
	for _, routes := range []string{messages + "," + events, messages + "," + events, messages} {
		if status := operate(t, v, "PUT", "/api/routing", `{"routes":[`+routes+`]}`, nil); status != 200 {
			t.Errorf("routing: %d", status)
		}
	}
	must(t, v, "export", "delete", "siem")
	want := []string{
		"Hub_CertificateFailedToBeAddedToHub broken 1", "IoT.Hub_CertificateFailedToBeDeletedFromHub plant 1",
		"IoT_Cert_Expired plate 1", "IoT_Cert_Print_Mismatch plate 1", "IoT_CertificateSuccessfullyAddedToHub plant 1",
		"IoT_CertificateSuccessfullyDeletedFromHub plant 1",
		"IoT_DiagnosticSettingAddedOrEditedOnHub export siem 1", "IoT_DiagnosticSettingAddedOrEditedOnHub route links 1",
		"IoT_DiagnosticSettingDeletedFromHub export siem 1", "IoT_DiagnosticSettingDeletedFromHub route links 1",
		"IoT_Expired_SAS_Token lamp 1", "IoT_Invalid_SAS_Token lamp 2",
	}
	slices.Sort(want)
	var got []string
	eventually(t, "the alerts", func() bool {
		got = nil
		for _, a := range alertsOf(t, v, url.Values{"limit": {"100"}}.Encode()) {
			about := a.Device
			if about == "" {
				about = a.Indicator
			}
			got = append(got, fmt.Sprintf("%s %s %d", a.Type, about, a.Count))
		}
		slices.Sort(got)
		return len(got) >= len(want) && slices.Contains(got, "IoT_Invalid_SAS_Token lamp 2")
	})
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

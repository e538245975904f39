package apptest_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/app/up"
	"github.com/vauban-iot/vauban/head/mqtt/mqtttest"
	"github.com/vauban-iot/vauban/sdk/provisioning"
	"github.com/vauban-iot/vauban/sdk/service"
	wire "github.com/vauban-iot/vauban/wire/mqtt"
	"github.com/vauban-iot/vauban/wire/sas"
	"github.com/vauban-iot/vauban/wire/topic"
)

// fleet is an installation whose provisioning service devices go to.
type fleet struct {
	*apptest.Vauban
	t    testing.TB
	dps  *provisioning.Client
	http *http.Client
}

func newFleet(t testing.TB) *fleet {
	t.Helper()
	v := apptest.Start(t)
	c, err := provisioning.New(provisioning.Config{ConnectionString: v.DPS.ConnectionString, TLS: v.TLS(), Address: v.Address(v.Ports.HTTPS)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return &fleet{v, t, c, v.HTTP()}
}

// operate asks the operator's API.
func (f *fleet) operate(method, path, body string, want int) string {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), method, strings.TrimSuffix(f.API.URL, "/")+path, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+f.API.Token)
	res, err := f.http.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != want {
		f.t.Fatalf("%s %s: %d %s %v, want %d", method, path, res.StatusCode, text, err, want)
	}
	return string(text)
}

const groupKey = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw=="

func (f *fleet) group(more string) {
	f.t.Helper()
	body := fmt.Sprintf(`{"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":%q,"secondaryKey":%q}}%s}`, groupKey, groupKey, more)
	if _, err := f.dps.Do(f.t.Context(), http.MethodPut, provisioning.GroupPath("g"), "", []byte(body)); err != nil {
		f.t.Fatal(err)
	}
}

func deviceKey(id string) []byte {
	group, err := base64.StdEncoding.DecodeString(groupKey)
	if err != nil {
		panic(err)
	}
	return sas.DeriveKey(group, id)
}

// register registers a device of the group over a client of its own, and returns the outcome.
func (f *fleet) register(ctx context.Context, client *http.Client, id, body string) (status string, state map[string]any, err error) {
	base := "https://" + f.Address(f.Ports.HTTPS) + "/" + f.DPS.IDScope + "/registrations/" + id
	token := sas.Sign(f.DPS.IDScope+"/registrations/"+id, deviceKey(id), time.Now().Add(time.Hour), "registration")
	ask := func(method, address, body string, into any) (int, error) {
		req, err := http.NewRequestWithContext(ctx, method, address+"?api-version=2021-06-01", strings.NewReader(body))
		if err != nil {
			return 0, err
		}
		req.Header.Set("Authorization", token)
		res, err := client.Do(req)
		if err != nil {
			return 0, err
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			return 0, err
		}
		if res.StatusCode >= 300 {
			return 0, fmt.Errorf("%s %s: %d %s", method, address, res.StatusCode, text)
		}
		return res.StatusCode, json.Unmarshal(text, into)
	}
	var op struct {
		OperationID string         `json:"operationId"`
		Status      string         `json:"status"`
		State       map[string]any `json:"registrationState"`
	}
	if _, err := ask(http.MethodPut, base+"/register", body, &op); err != nil {
		return "", nil, err
	}
	if _, err := ask(http.MethodGet, base+"/operations/"+op.OperationID, "", &op); err != nil {
		return "", nil, err
	}
	return op.Status, op.State, nil
}

func (f *fleet) comes(id, body string) map[string]any {
	f.t.Helper()
	_, state, err := f.register(f.t.Context(), f.http, id, body)
	if err != nil {
		f.t.Fatal(err)
	}
	return state
}

func document(t *testing.T, v *apptest.Vauban, id string) (tags string, known bool) {
	t.Helper()
	c := v.Service()
	defer c.Close()
	text, err := c.Do(t.Context(), http.MethodGet, service.TwinPath(id), "", nil, nil)
	if err != nil {
		if !strings.Contains(err.Error(), "DeviceNotFound") {
			t.Fatal(err)
		}
		return "", false
	}
	var doc struct{ Tags json.RawMessage }
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	return string(doc.Tags), true
}

// Two installations: devices that one of them provisions go to the hub of the other, and move between them.
func TestProvisioning_LinkedHub(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	other := apptest.Start(t, func(c *up.Config) { c.Hostname = "b.localhost" })
	root, err := os.ReadFile(other.CA)
	if err != nil {
		t.Fatal(err)
	}
	link := func(connection string) string {
		text, err := json.Marshal(map[string]any{"connectionString": connection, "address": other.Address(other.Ports.HTTPS), "authority": string(root)})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	f.operate("PUT", "/api/provisioning/hubs/b.localhost", link(other.Hub.ConnectionString), 200)
	if text := f.operate("GET", "/api/provisioning/hubs", "", 200); strings.Contains(text, "SharedAccessKey=") || !strings.Contains(text, `"host":"b.localhost","own":false,"policy":"iothubowner"`) {
		t.Errorf("linked are %s", text)
	}

	f.group(`,"allocationPolicy":"static","iotHubs":["b.localhost"],"initialTwin":{"tags":{"from":"dps"},"properties":{"desired":{"n":1}}}`)
	s := f.comes("d1", "")
	if s["assignedHub"] != "b.localhost" || s["deviceId"] != "d1" || s["substatus"] != "initialAssignment" {
		t.Fatalf("assigned %v", s)
	}
	if _, known := document(t, f.Vauban, "d1"); known {
		t.Error("the installation's own hub knows the device, too")
	}
	if tags, _ := document(t, other, "d1"); tags != `{"from":"dps"}` {
		t.Errorf("the other hub has the tags %s", tags)
	}
	// It lives there.
	c := mqtttest.Dial(t, other.Address(other.Ports.MQTT), other.TLS())
	_, code := c.Connect(wire.Connect{
		ClientID: "d1", Username: "b.localhost/d1/?api-version=2021-04-12", HasUsername: true, KeepAlive: 60, HasPassword: true,
		Password: []byte(sas.Sign("b.localhost/devices/d1", deviceKey("d1"), time.Now().Add(time.Hour), "")),
	})
	if code != 0 {
		t.Errorf("CONNACK %d", code)
	}

	// Once more: nothing changes. Then it moves, with what it has, and back, without.
	client := other.Service()
	defer client.Close()
	if _, err := client.Do(t.Context(), http.MethodPatch, service.TwinPath("d1"), "*", nil, []byte(`{"tags":{"from":"operator"}}`)); err != nil {
		t.Fatal(err)
	}
	if s := f.comes("d1", ""); s["substatus"] != "initialAssignment" {
		t.Errorf("again: %v", s)
	}
	if tags, _ := document(t, other, "d1"); tags != `{"from":"operator"}` {
		t.Errorf("after a second registration the tags are %s", tags)
	}
	f.group(`,"allocationPolicy":"static","iotHubs":["` + f.Hub.Hostname + `"],"initialTwin":{"tags":{"from":"dps"}}`)
	if s := f.comes("d1", ""); s["assignedHub"] != f.Hub.Hostname || s["substatus"] != "deviceDataMigrated" {
		t.Errorf("moved: %v", s)
	}
	if _, known := document(t, other, "d1"); known {
		t.Error("it is still known where it came from")
	}
	if tags, _ := document(t, f.Vauban, "d1"); tags != `{"from":"operator"}` {
		t.Errorf("its tags are %s, want those it had", tags)
	}
	f.group(`,"allocationPolicy":"static","iotHubs":["b.localhost"],"initialTwin":{"tags":{"from":"dps"}},"reprovisionPolicy":{"updateHubAssignment":true,"migrateDeviceData":false}`)
	f.operate("PUT", "/api/containment/d1", `{"level":"telemetry-only"}`, 200) // held back, it does not get away by moving
	if s := f.comes("d1", ""); s["status"] != "failed" || s["errorCode"] != 401002.0 {
		t.Errorf("moved while it is contained: %v", s)
	}
	f.operate("POST", "/api/containment/d1/undo", "", 200)
	if s := f.comes("d1", ""); s["assignedHub"] != "b.localhost" || s["substatus"] != "deviceDataReset" {
		t.Errorf("moved back: %v", s)
	}
	if tags, _ := document(t, other, "d1"); tags != `{"from":"dps"}` {
		t.Errorf("its tags are %s, want the initial ones", tags)
	}
	if _, known := document(t, f.Vauban, "d1"); known {
		t.Error("it is still known where it came from")
	}

	// A hub that does not take our key, and one that does not answer.
	f.operate("PUT", "/api/provisioning/hubs/b.localhost", link("HostName=b.localhost;SharedAccessKeyName=iothubowner;SharedAccessKey="+groupKey), 200)
	if s := f.comes("d2", ""); s["status"] != "failed" || s["errorCode"] != 400209.0 || s["assignedHub"] != nil {
		t.Errorf("with a wrong key: %v", s)
	}
	other.Stop()
	f.operate("PUT", "/api/provisioning/hubs/b.localhost", link(other.Hub.ConnectionString), 200)
	if _, _, err := f.register(t.Context(), f.http, "d3", ""); err == nil || !strings.Contains(err.Error(), ": 503 ") {
		t.Errorf("with a hub that is down: %v, want a 503, so that the device tries again", err)
	}
	f.operate("PUT", "/api/provisioning/hubs/c.localhost", link(other.Hub.ConnectionString), 400)
	f.operate("DELETE", "/api/provisioning/hubs/b.localhost", "", 409)
}

func TestProvisioning_Webhook(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	var asked struct {
		Context struct {
			RegistrationID string          `json:"registrationId"`
			Payload        json.RawMessage `json:"payload"`
		} `json:"deviceRuntimeContext"`
		Hubs []string `json:"linkedHubs"`
	}
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/away":
			http.Redirect(w, r, "/", http.StatusTemporaryRedirect)
		case "/large":
			w.Write(bytes.Repeat([]byte(" "), 1<<20))
		default:
			if err := json.NewDecoder(r.Body).Decode(&asked); err != nil || r.Method != http.MethodPost {
				t.Error(r.Method, err)
			}
			fmt.Fprintf(w, `{"iotHubHostName":%q,"payload":{"color":"red"},"initialTwin":{"tags":{"from":"hook"}}}`, f.Hub.Hostname)
		}
	}))
	defer hook.Close()
	custom := func(url string) {
		f.group(fmt.Sprintf(`,"allocationPolicy":"custom","customAllocationDefinition":{"webhookUrl":%q,"apiVersion":"2021-10-01"}`, url))
	}
	custom(hook.URL + "/where?code=secret")
	s := f.comes("d1", `{"payload":{"modelId":"dtmi:x;1"}}`)
	if p, _ := s["payload"].(map[string]any); s["status"] != "assigned" || p["color"] != "red" {
		t.Errorf("assigned %v", s)
	}
	if tags, _ := document(t, f.Vauban, "d1"); tags != `{"from":"hook"}` {
		t.Errorf("tags %s", tags)
	}
	if asked.Context.RegistrationID != "d1" || string(asked.Context.Payload) != `{"modelId":"dtmi:x;1"}` || !slices.Equal(asked.Hubs, []string{f.Hub.Hostname}) {
		t.Errorf("asked %+v", asked)
	}
	for id, url := range map[string]string{
		"away":     hook.URL + "/away",                                      // a redirect is not followed
		"large":    hook.URL + "/large",                                     // a long answer is not read
		"metadata": "https://169.254.169.254/latest/meta-data/?code=secret", // what machines keep for themselves is not asked
		"nowhere":  "https://127.0.0.1:1/",
	} {
		custom(url)
		if s := f.comes(id, ""); s["status"] != "failed" || s["errorCode"] != 400207.0 {
			t.Errorf("%s: %v", id, s)
		}
	}
	for _, line := range f.Log.Lines(0, "") {
		if strings.Contains(line.Text, "code=secret") {
			t.Errorf("the log tells the webhook's key: %s", line.Text)
		}
	}
}

// A device onboards with a key, asks for a certificate, and connects with that.
func TestProvisioning_IssuedCertificate(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.group(`,"credentialPolicyName":"default"`)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "d1"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	s := f.comes("d1", fmt.Sprintf(`{"csr":%q}`, base64.StdEncoding.EncodeToString(request)))
	issued, _ := s["issuedCertificateChain"].([]any)
	if s["status"] != "assigned" {
		t.Fatalf("assigned %v", s)
	}
	connect := func(chain []any) *mqtttest.Client {
		t.Helper()
		if len(chain) != 3 {
			t.Fatalf("the chain is %v", chain)
		}
		mine := tls.Certificate{PrivateKey: key}
		for _, text := range chain {
			der, err := base64.StdEncoding.DecodeString(text.(string))
			if err != nil {
				t.Fatal(err)
			}
			mine.Certificate = append(mine.Certificate, der)
		}
		cfg := f.TLS()
		cfg.Certificates = []tls.Certificate{mine}
		c := mqtttest.Dial(t, f.Address(f.Ports.MQTT), cfg)
		if _, code := c.Connect(wire.Connect{
			ClientID: "d1", Username: f.Hub.Hostname + "/d1/?api-version=2025-08-01-preview", HasUsername: true, CleanSession: true, KeepAlive: 60,
		}); code != 0 {
			t.Fatalf("CONNACK %d", code)
		}
		return c
	}
	// It renews what it got, over the session it got with it.
	c := connect(issued)
	c.Subscribe(1, "$iothub/credentials/res/#")
	c.Publish(string(topic.AppendCredentialRequest(nil, "renew")), fmt.Appendf(nil, `{"id":"d1","csr":%q}`, base64.StdEncoding.EncodeToString(request)))
	if p := c.NextPublish(); string(p.Topic) != "$iothub/credentials/res/202/?$rid=renew" {
		t.Fatalf("%s: %s", p.Topic, p.Payload)
	}
	p := c.NextPublish()
	var answer struct{ Certificates []any }
	if err := json.Unmarshal(p.Payload, &answer); err != nil || string(p.Topic) != "$iothub/credentials/res/200/?$rid=renew" {
		t.Fatalf("%s: %s", p.Topic, p.Payload)
	}
	c.Send(wire.AppendPuback(nil, p.PacketID))
	c.Disconnect()
	if answer.Certificates[0] == issued[0] || answer.Certificates[2] != issued[2] {
		t.Error("want another certificate of the same authority")
	}
	connect(answer.Certificates).Disconnect()
}

// percentile of sorted durations.
func percentile(ds []time.Duration, p float64) time.Duration {
	return ds[min(int(float64(len(ds))*p), len(ds)-1)]
}

// BenchmarkProvisioning measures registrations end to end over HTTPS with symmetric keys of a group, each by a device of its own on a
// connection of its own: TLS handshake, register, and the question for the outcome, without the second that clients wait
// between. At 50/s it reports latencies (the work order allows 50 ms for the 99th percentile); at full speed how many a second (it
// wants 500 on two cores; devices run on the same ones here).
func BenchmarkProvisioning(b *testing.B) {
	f := newFleet(b)
	f.group("")
	one := func(id string) error {
		transport := &http.Transport{TLSClientConfig: f.TLS(), DisableKeepAlives: false}
		defer transport.CloseIdleConnections()
		status, state, err := f.register(b.Context(), &http.Client{Transport: transport}, id, "")
		if err == nil && status != "assigned" {
			err = fmt.Errorf("%s: %v", status, state)
		}
		return err
	}
	b.Run("50 a second", func(b *testing.B) {
		var wg sync.WaitGroup
		var mu sync.Mutex
		var took []time.Duration
		tick := time.NewTicker(time.Second / 50)
		defer tick.Stop()
		for i := range b.N {
			due := <-tick.C
			wg.Go(func() {
				if err := one(fmt.Sprintf("slow-%d-%d", b.N, i)); err != nil {
					b.Error(err)
				}
				mu.Lock()
				took = append(took, time.Since(due)) // since it should have begun
				mu.Unlock()
			})
		}
		wg.Wait()
		slices.Sort(took)
		for name, p := range map[string]float64{"p50-ms": 0.5, "p99-ms": 0.99} {
			b.ReportMetric(float64(percentile(took, p).Microseconds())/1000, name)
		}
	})
	b.Run("full speed", func(b *testing.B) {
		next := make(chan int)
		var wg sync.WaitGroup
		for range 32 {
			wg.Go(func() {
				for i := range next {
					if err := one(fmt.Sprintf("fast-%d-%d", b.N, i)); err != nil {
						b.Error(err)
					}
				}
			})
		}
		for i := range b.N {
			next <- i
		}
		close(next)
		wg.Wait()
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "registrations/s")
	})
}

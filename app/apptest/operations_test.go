package apptest_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/app/up"
	"github.com/vauban-iot/vauban/head/mqtt/mqtttest"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/sdk/service"
	"github.com/vauban-iot/vauban/wire/connstr"
	wire "github.com/vauban-iot/vauban/wire/mqtt"
	"github.com/vauban-iot/vauban/wire/sas"
)

// operator calls the operator's API.
func operator(t *testing.T, v *apptest.Vauban, method, path, body string, want int) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "https://"+v.Address(v.Ports.HTTPS)+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+v.API.Token)
	resp, err := v.HTTP().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != want {
		t.Fatalf("%s %s: %d %s, %v; want %d", method, path, resp.StatusCode, b, err, want)
	}
	return b
}

func unbase64(t *testing.T, text string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(b) == 0 {
		t.Fatal(text, err)
	}
	return b
}

// Tokens of both keys are good for every service; those of a rotated key are refused from the next request on, everywhere and
// after a restart, and connection.json has the key that is good.
func TestPolicyRotation(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HS-007")
	v := apptest.Start(t)
	d := v.Device("lamp-1")
	policy := func(name string) (p struct{ PrimaryKey, SecondaryKey, PrimaryConnectionString string }) {
		t.Helper()
		if err := json.Unmarshal(operator(t, v, "GET", "/api/policies/"+name, "", 200), &p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	token := func(name, key string) string {
		return sas.Sign(v.Hub.Hostname, unbase64(t, key), time.Now().Add(time.Hour), name)
	}
	status := func(method, path, token string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "https://"+v.Address(v.Ports.HTTPS)+path+"?api-version=2021-04-12", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", token)
		resp, err := v.HTTP().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	connects := func(token string) byte {
		t.Helper()
		h := hello(v, d)
		h.Password = []byte(token)
		c := mqtttest.Dial(t, v.Address(v.Ports.MQTT), v.TLS())
		defer c.Drop()
		_, code := c.Connect(h)
		return code
	}
	inFile := func() up.Connection {
		t.Helper()
		c, err := up.LoadConnection(filepath.Join(v.Dir, up.ConnectionFile))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, key := range []string{"primary", "secondary"} {
		before := policy("iothubowner")
		old, other := before.PrimaryKey, before.SecondaryKey
		if key == "secondary" {
			old, other = other, old
		}
		for _, k := range []string{old, other} {
			if s, c := status("GET", "/devices/lamp-1", token("iothubowner", k)), connects(token("iothubowner", k)); s != 200 || c != 0 {
				t.Errorf("before %s is rotated: service %d, CONNACK %d", key, s, c)
			}
		}
		operator(t, v, "POST", "/api/policies/iothubowner/rotate", `{"key":"`+key+`"}`, 200)
		if s, c := status("GET", "/devices/lamp-1", token("iothubowner", old)), connects(token("iothubowner", old)); s != 401 || c != 5 {
			t.Errorf("the old %s key: service %d, CONNACK %d; want 401 and 5", key, s, c)
		}
		if s, c := status("GET", "/devices/lamp-1", token("iothubowner", other)), connects(token("iothubowner", other)); s != 200 || c != 0 {
			t.Errorf("the key that was not rotated: service %d, CONNACK %d", s, c)
		}
		after := policy("iothubowner")
		for _, k := range []string{after.PrimaryKey, after.SecondaryKey} {
			if s := status("GET", "/devices/lamp-1", token("iothubowner", k)); s != 200 {
				t.Errorf("a key in force after %s was rotated: %d", key, s)
			}
		}
		// What programs find in the file is good, without a restart.
		if cs := inFile().Hub.ConnectionString; cs != after.PrimaryConnectionString {
			t.Errorf("connection.json has %s, want %s", cs, after.PrimaryConnectionString)
		}
		c, err := connstr.Parse(inFile().Hub.ConnectionString)
		if err != nil || status("GET", "/devices/lamp-1", token(c.SharedAccessKeyName, c.SharedAccessKey)) != 200 {
			t.Errorf("the connection string of the file does not work: %v", err)
		}
	}
	// So it is with provisioning.
	dps := policy("provisioningserviceowner")
	sign := func(key string) string { return token("provisioningserviceowner", key) }
	if s := status("GET", "/enrollments/nobody", sign(dps.PrimaryKey)); s != 404 {
		t.Errorf("provisioning before: %d", s)
	}
	operator(t, v, "POST", "/api/policies/provisioningserviceowner/rotate", `{"key":"primary"}`, 200)
	if o, n := status("GET", "/enrollments/nobody", sign(dps.PrimaryKey)), status("GET", "/enrollments/nobody", sign(dps.SecondaryKey)); o != 401 || n != 404 {
		t.Errorf("provisioning after: the old key %d, the other %d", o, n)
	}
	if cs := inFile().DPS.ConnectionString; cs != policy("provisioningserviceowner").PrimaryConnectionString {
		t.Errorf("connection.json has %s for provisioning", cs)
	}
	last := policy("iothubowner")
	v.Restart()
	if policy("iothubowner") != last || v.Hub.ConnectionString != last.PrimaryConnectionString {
		t.Error("a restart changed the keys, or the connection string")
	}
	if s := status("GET", "/devices/lamp-1", token("iothubowner", last.PrimaryKey)); s != 200 {
		t.Errorf("after a restart: %d", s)
	}
	for _, l := range v.Log.Lines(slog.LevelDebug, "") {
		for _, secret := range []string{last.PrimaryKey, last.SecondaryKey, dps.SecondaryKey} {
			if strings.Contains(l.Text, secret) {
				t.Errorf("the log holds a key: %s", l.Text)
			}
		}
	}
}

// from dials from one of the addresses of loopback.
func from(t *testing.T, source, address string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}, Timeout: mqtttest.Patience}
	nc, err := d.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return nc
}

// reply is what a client from an address gets.
type reply struct {
	status int
	header http.Header
	body   string
}

func fetch(t *testing.T, v *apptest.Vauban, source, method, path, body string, headers ...string) reply {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: v.TLS(), DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return from(t, source, v.Address(v.Ports.HTTPS)), nil
	}}
	req, err := http.NewRequestWithContext(t.Context(), method, "https://"+v.Hub.Hostname+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return reply{resp.StatusCode, resp.Header, ""} // what follows is no body, and does not end
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(b)}
}

// The first rule that holds an address decides, and the default when none does, for every protocol; who is refused learns nothing of
// rules, and the operator stays in.
func TestIPFilter(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HS-150")
	v := apptest.Start(t)
	d := v.Device("lamp-1")
	owner, err := connstr.Parse(v.Hub.ConnectionString)
	if err != nil {
		t.Fatal(err)
	}
	program := sas.Sign(v.Hub.Hostname, unbase64(t, owner.SharedAccessKey), time.Now().Add(time.Hour), owner.SharedAccessKeyName)
	dps, err := connstr.Parse(v.DPS.ConnectionString)
	if err != nil {
		t.Fatal(err)
	}
	enroller := sas.Sign(v.Hub.Hostname, unbase64(t, dps.SharedAccessKey), time.Now().Add(time.Hour), dps.SharedAccessKeyName)
	mqtt := func(source string) byte {
		t.Helper()
		c := mqtttest.New(t, from(t, source, v.Address(v.Ports.MQTT)), v.TLS())
		defer c.Drop()
		c.Send(wire.AppendConnect(nil, new(hello(v, d))))
		_, code := c.Connack()
		return code
	}
	socket := func(source string) reply {
		return fetch(t, v, source, "GET", "/$iothub/websocket", "", "Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13",
			"Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol", "mqtt")
	}
	amqp := func(source string) bool {
		t.Helper()
		nc := tls.Client(from(t, source, v.Address(v.Ports.AMQP)), v.TLS())
		_ = nc.SetDeadline(time.Now().Add(mqtttest.Patience))
		if _, err := nc.Write([]byte("AMQP\x00\x01\x00\x00")); err != nil {
			return false
		}
		_, err := io.ReadFull(nc, make([]byte, 8))
		return err == nil
	}
	// admitted checks everything that a caller from source may do.
	admitted := func(condition, source string, device, services bool) {
		t.Helper()
		wantDevice, wantService := 401, 401
		if device {
			wantDevice = 204
		}
		if services {
			wantService = 200
		}
		for what, c := range map[string]struct {
			reply
			want int
		}{
			"device over HTTPS": {fetch(t, v, source, "POST", "/devices/lamp-1/messages/events?api-version=2021-04-12", "x", "Authorization", v.Token(d)), wantDevice},
			"service":           {fetch(t, v, source, "GET", "/devices/lamp-1?api-version=2021-04-12", "", "Authorization", program), wantService},
			"tenants":           {fetch(t, v, source, "GET", "/v2/tenants", "", "Authorization", "Bearer "+v.API.Token), wantService},
			"enrollments":       {fetch(t, v, source, "POST", "/enrollments/query?api-version=2021-10-01", `{"query":"SELECT * FROM enrollments"}`, "Authorization", enroller), wantService},
		} {
			if c.status != c.want {
				t.Errorf("%s: %s gets %d %s, want %d", condition, what, c.status, c.body, c.want)
			}
			lower := strings.ToLower(c.body)
			if c.status == 401 && (strings.Contains(lower, "rule") || strings.Contains(lower, "filter") || strings.Contains(lower, "address") || strings.Contains(lower, source)) {
				t.Errorf("%s: %s is told why: %s", condition, what, c.body)
			}
		}
		for path, open := range map[string]bool{"/attestation/v1/nonce": device, "/signin/token": services} {
			if r := fetch(t, v, source, "POST", path, "{}"); open != (r.status != 401) {
				t.Errorf("%s: %s gets %d %s", condition, path, r.status, r.body)
			}
		}
		register := fetch(t, v, source, "PUT", "/"+v.DPS.IDScope+"/registrations/nobody/register?api-version=2021-06-01", `{"registrationId":"nobody"}`)
		if register.status != 401 { // a stranger, wherever it comes from
			t.Errorf("%s: a registration gets %d %s", condition, register.status, register.body)
		}
		if code, want := mqtt(source), byte(5); device && code != 0 || !device && code != want {
			t.Errorf("%s: CONNACK %d", condition, code)
		}
		if got := socket(source); device && got.status != http.StatusSwitchingProtocols || !device && !services && (got.status != 401 || strings.Contains(got.body, "rule")) {
			t.Errorf("%s: a WebSocket gets %d %s", condition, got.status, got.body)
		}
		if got := amqp(source); got != (device || services) {
			t.Errorf("%s: AMQP is answered %v", condition, got)
		}
		for _, path := range []string{"/api/network", "/api/policies"} {
			if got := fetch(t, v, source, "GET", path, "", "Authorization", "Bearer "+v.API.Token); got.status != 200 {
				t.Errorf("%s: the operator gets %d from %s", condition, got.status, path)
			}
		}
		if got := fetch(t, v, source, "GET", "/console/sign-in", ""); got.status != 200 {
			t.Errorf("%s: the console answers %d", condition, got.status)
		}
	}
	admitted("no filter", "127.0.0.9", true, true)

	open := mqtttest.New(t, from(t, "127.0.0.9", v.Address(v.Ports.MQTT)), v.TLS())
	if _, code := open.Connect(hello(v, d)); code != 0 {
		t.Fatalf("CONNACK %d", code)
	}
	operator(t, v, "PUT", "/api/network", `{"ipFilterRules":[{"filterName":"one bad machine","action":"Reject","ipMask":"127.0.0.9"},
		{"filterName":"loopback","action":"Accept","ipMask":"127.0.0.0/8"},{"filterName":"bad again","action":"Reject","ipMask":"127.0.0.8"},
		{"filterName":"::1","action":"Accept","ipMask":"::1"}]}`, 200)
	open.Closed() // who is refused from now on does not stay either
	admitted("the first rule refuses", "127.0.0.9", false, false)
	admitted("the second rule accepts before the third refuses", "127.0.0.8", true, true)

	operator(t, v, "PUT", "/api/network", `{"ipFilterRules":[{"filterName":"devices elsewhere","action":"Reject","ipMask":"127.0.0.9","target":"deviceApi"}]}`, 200)
	admitted("refused as a device", "127.0.0.9", false, true)
	admitted("in no rule of the classic form", "127.0.0.8", true, true)

	const deny = `{"networkRuleSets":{"defaultAction":"Deny","applyToBuiltInEventHubEndpoint":true,"ipRules":[{"filterName":"one","action":"Allow","ipMask":"127.0.0.8"}]}}`
	if body := operator(t, v, "PUT", "/api/network", deny, 400); !strings.Contains(string(body), "127.0.0.1 may not call the service API") {
		t.Errorf("a lock-out is answered with %s", body)
	}
	admitted("nothing changed", "127.0.0.1", true, true)
	operator(t, v, "PUT", "/api/network?lockout=accept", deny, 200)
	admitted("allowed", "127.0.0.8", true, true)
	admitted("denied by default", "127.0.0.1", false, false)
	v.Restart()
	admitted("after a restart", "127.0.0.1", false, false)
	operator(t, v, "PUT", "/api/network", `{}`, 200)
	admitted("no filter again", "127.0.0.1", true, true)
	if lines := v.Log.Lines(slog.LevelInfo, "one bad machine"); len(lines) == 0 {
		t.Error("the log does not say which rule refused")
	}
}

// Limits are off until somebody sets them, hold from then on and after a restart, and go again.
func TestThrottles(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	v.Device("lamp-1")
	reads := func(n int) (ok, throttled int) {
		t.Helper()
		for range n {
			_, err := v.Service().Twin(t.Context(), "lamp-1")
			if e, refused := errors.AsType[*service.Error](err); refused && e.Status == 429 && e.Code == "ThrottlingException" {
				throttled++
			} else if err != nil {
				t.Fatal(err)
			} else {
				ok++
			}
		}
		return ok, throttled
	}
	if _, throttled := reads(30); throttled != 0 {
		t.Errorf("%d of 30 reads are throttled without a configuration", throttled)
	}
	operator(t, v, "PUT", "/api/throttles", `{"limits":{"twinReads":"5/min"}}`, 200)
	if ok, throttled := reads(8); ok != 5 || throttled != 3 {
		t.Errorf("%d reads succeed and %d are throttled, want 5 and 3", ok, throttled)
	}
	v.Restart()
	if ok, throttled := reads(8); ok != 5 || throttled != 3 {
		t.Errorf("after a restart %d reads succeed and %d are throttled, want 5 and 3", ok, throttled)
	}
	operator(t, v, "DELETE", "/api/throttles", "", 200)
	if _, throttled := reads(30); throttled != 0 {
		t.Errorf("%d of 30 reads are throttled after the limits went", throttled)
	}
}

// metrics reads /metrics: azure name to the sum of its samples.
func metrics(t *testing.T, v *apptest.Vauban) map[string]float64 {
	t.Helper()
	sums := map[string]float64{}
	for line := range strings.Lines(string(operator(t, v, "GET", "/metrics", "", 200))) {
		_, after, ok := strings.Cut(line, `azure_name="`)
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		name, _, _ := strings.Cut(after, `"`)
		fields := strings.Fields(line)
		n, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			t.Fatal(line)
		}
		metric, _, _ := strings.Cut(line, "{")
		switch {
		case strings.HasSuffix(metric, "_count"):
			name += " count"
		case strings.HasSuffix(metric, "_sum"):
			name += " sum"
		}
		sums[name] += n
	}
	return sums
}

// moved is how much each number grew while do ran; numbers that stay are left out. It waits for those of want, which may move later than
// what do waits for.
func moved(t *testing.T, v *apptest.Vauban, do func(), want map[string]float64) map[string]float64 {
	t.Helper()
	before := metrics(t, v)
	do()
	var after map[string]float64
	hubtest.Until(t, fmt.Sprint("the numbers to move by ", want), func() bool {
		after = metrics(t, v)
		for name, n := range want {
			if by := after[name] - before[name]; by == 0 || n > 0 && by < n {
				return false
			}
		}
		return true
	})
	diff := map[string]float64{}
	for name, n := range after {
		if n != before[name] {
			diff[name] = n - before[name]
		}
	}
	return diff
}

// Every number moves when what it counts happens, by how often it happened, and not otherwise.
func TestAzureMetrics(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HS-151")
	hook := newReceiver(t)
	v := apptest.Start(t)
	ctx := t.Context()
	all := metrics(t, v)
	for _, name := range azureNames {
		if _, ok := all[name]; !ok {
			if _, ok := all[name+" count"]; !ok && !slices.Contains(labelled, name) {
				t.Errorf("/metrics has no %s", name)
			}
		}
	}
	seen := map[string]bool{}
	step := func(what string, do func(), want map[string]float64, ignore ...string) {
		t.Helper()
		got := moved(t, v, do, want)
		for name, n := range want {
			seen[strings.TrimSuffix(strings.TrimSuffix(name, " count"), " sum")] = true
			if n != some && got[name] != n {
				t.Errorf("%s: %s moved by %v, want %v", what, name, got[name], n)
			}
			delete(got, name)
		}
		for name := range got {
			if !slices.ContainsFunc(append(ignore, "deviceDataUsage", "dailyMessageQuotaUsed"), func(i string) bool { return strings.HasPrefix(name, i) }) {
				t.Errorf("%s: %s moved by %v, want it to stay", what, name, got[name])
			}
		}
	}
	do := func(method, path, body string) {
		t.Helper()
		var b any
		if body != "" {
			b = []byte(body)
		}
		_, _ = v.Service().Do(ctx, method, path, "", nil, b)
	}
	var d service.Identity
	step("a new device", func() { d = v.Device("lamp-1") }, map[string]float64{"devices.totalDevices": 1, "totalDeviceCount": 1})
	var c *mqtttest.Client
	step("a connection", func() { c, _ = connect(t, v, d) }, map[string]float64{"devices.connectedDevices.allProtocol": 1, "connectedDeviceCount": 1})
	c.Subscribe(0, "$iothub/twin/res/#", "$iothub/methods/POST/#")
	telemetry := func(n int) func() {
		return func() {
			for range n {
				c.Publish("devices/lamp-1/messages/events/%24.ct=application%2Fjson&%24.ce=utf-8", []byte(`{"t":1}`))
			}
		}
	}
	step("three messages", telemetry(3), map[string]float64{
		"d2c.telemetry.ingress.allProtocol": 3, "d2c.telemetry.ingress.success": 3, "d2c.endpoints.egress.builtIn.events": 3, "d2c.telemetry.egress.success": 3,
		"d2c.telemetry.egress.fallback": 3, "d2c.endpoints.latency.builtIn.events count": some, "deviceDataUsage": some, "deviceDataUsageV2": some, "dailyMessageQuotaUsed": 3,
	}, "d2c.endpoints.latency")
	step("a twin read by a device", func() {
		c.Publish0("$iothub/twin/GET/?$rid=1", nil)
		c.NextPublish()
	}, map[string]float64{"d2c.twin.read.success": 1, "d2c.twin.read.size count": 1}, "d2c.twin.read.size")
	step("an update by a device", func() {
		c.Publish0("$iothub/twin/PATCH/properties/reported/?$rid=2", []byte(`{"on":true}`))
		c.NextPublish()
	}, map[string]float64{"d2c.twin.update.success": 1, "d2c.twin.update.size count": 1, "d2c.twin.update.size sum": 11})
	step("a bad update by a device", func() {
		c.Publish0("$iothub/twin/PATCH/properties/reported/?$rid=3", []byte(`nonsense`))
		c.NextPublish()
	}, map[string]float64{"d2c.twin.update.failure": 1})
	step("twin calls of a service", func() {
		do("GET", "/twins/lamp-1", "")
		do("PATCH", "/twins/lamp-1", `{"tags":{"a":1}}`)
		do("GET", "/twins/nobody", "")
		do("PATCH", "/twins/nobody", `{}`)
	}, map[string]float64{
		"c2d.twin.read.success": 1, "c2d.twin.read.failure": 1, "c2d.twin.read.size count": 1, "c2d.twin.update.success": 1, "c2d.twin.update.failure": 1, "c2d.twin.update.size count": 1,
	}, "c2d.twin")
	step("a method", func() {
		done := make(chan struct{})
		go func() {
			defer close(done)
			do("POST", "/twins/lamp-1/methods", `{"methodName":"m","payload":"12345"}`)
		}()
		_, rid, _ := strings.Cut(string(c.NextPublish().Topic), "$rid=")
		c.Publish0("$iothub/methods/res/200/?$rid="+rid, []byte(`{"ok":1}`))
		<-done
		do("POST", "/twins/nobody/methods", `{"methodName":"m"}`)
	}, map[string]float64{
		"c2d.methods.success": 1, "c2d.methods.failure": 1, "c2d.methods.requestSize count": 1, "c2d.methods.requestSize sum": 7, "c2d.methods.responseSize count": 1, "c2d.methods.responseSize sum": 8,
	})
	step("queries", func() {
		do("POST", "/devices/query", `{"query":"SELECT deviceId FROM devices"}`)
		do("POST", "/devices/query", `{"query":"nonsense"}`)
	}, map[string]float64{"twinQueries.success": 1, "twinQueries.failure": 1, "twinQueries.resultSize count": 1}, "twinQueries.resultSize")
	mail := func(end func(token string) string) func() {
		return func() {
			do("POST", "/devices/lamp-1/messages/deviceBound", "x")
			r := fetch(t, v, "127.0.0.1", "GET", "/devices/lamp-1/messages/devicebound?api-version=2021-04-12", "", "Authorization", v.Token(d))
			method, path, _ := strings.Cut(end(strings.Trim(r.header.Get("ETag"), `"`)), " ")
			if got := fetch(t, v, "127.0.0.1", method, path, "", "Authorization", v.Token(d)); got.status != 204 {
				t.Errorf("%s %s: %d %s", method, path, got.status, got.body)
			}
		}
	}
	const bound = "/devices/lamp-1/messages/devicebound/"
	step("a message that is completed", mail(func(k string) string { return "DELETE " + bound + k }), map[string]float64{"c2d.commands.egress.complete.success": 1})
	step("a message that is rejected", mail(func(k string) string { return "DELETE " + bound + k + "?reject" }), map[string]float64{"c2d.commands.egress.reject.success": 1})
	step("a message that is abandoned", mail(func(k string) string { return "POST " + bound + k + "/abandon" }), map[string]float64{"c2d.commands.egress.abandon.success": 1})
	do("DELETE", "/devices/lamp-1/commands", "")
	step("jobs", func() {
		do("PUT", "/jobs/v2/j1", `{"jobId":"j1","type":"scheduleUpdateTwin","updateTwin":{"tags":{"b":1}},"queryCondition":"deviceId = 'lamp-1'","maxExecutionTimeInSeconds":60}`)
		do("PUT", "/jobs/v2/j1", `{"jobId":"j1","type":"scheduleUpdateTwin","updateTwin":{"tags":{}},"queryCondition":"*","maxExecutionTimeInSeconds":60}`)
		do("PUT", "/jobs/v2/j2", `{"jobId":"j2","type":"scheduleDeviceMethod","cloudToDeviceMethod":{"methodName":"m","responseTimeoutInSeconds":5},"queryCondition":"false","maxExecutionTimeInSeconds":60,"startTime":"2099-01-01T00:00:00Z"}`)
		do("PUT", "/jobs/v2/j2", `{"jobId":"j2","type":"scheduleDeviceMethod","cloudToDeviceMethod":{"methodName":"m","responseTimeoutInSeconds":5},"queryCondition":"false","maxExecutionTimeInSeconds":60}`)
		do("POST", "/jobs/v2/j2/cancel", "")
		do("POST", "/jobs/v2/nobody/cancel", "")
		do("GET", "/jobs/v2/query", "")
		do("GET", "/jobs/v2/query?jobType=nonsense", "")
		do("GET", "/jobs", "")
	}, map[string]float64{
		"jobs.createTwinUpdateJob.success": 1, "jobs.createTwinUpdateJob.failure": 1, "jobs.createDirectMethodJob.success": 1, "jobs.createDirectMethodJob.failure": 1,
		"jobs.cancelJob.success": 1, "jobs.cancelJob.failure": 1, "jobs.queryJobs.success": some, "jobs.listJobs.success": 1, "jobs.completed": 1, "c2d.twin.update.success": 1,
	}, "c2d.twin.update", "jobs.queryJobs")
	step("configurations", func() {
		do("PUT", "/configurations/c1", `{"id":"c1","content":{"deviceContent":{"properties.desired.a":1}},"targetCondition":"tags.never = 1","priority":1}`)
		do("GET", "/configurations/c1", "")
		do("GET", "/configurations/nobody", "")
		do("DELETE", "/configurations/c1", "")
	}, map[string]float64{"configurations": 3})
	// Routes: one to a webhook, nothing for the fallback.
	operator(t, v, "PUT", "/api/routing", `{"endpoints":[{"name":"hook","type":"webhook","url":"`+hook.URL+`/routes"},{"name":"lake","type":"storage"}],
		"routes":[{"name":"hot","source":"DeviceMessages","condition":"$body.t > 80","endpointNames":["hook"]},{"name":"lake","source":"DeviceMessages","condition":"$body.t > 90","endpointNames":["lake"]}],
		"fallbackRoute":{"name":"f","source":"DeviceMessages","condition":"true","endpointNames":["events"],"isEnabled":false}}`, 200)
	time.Sleep(time.Second) // the readers take their places
	send := func(t int) func() {
		return func() {
			c.Publish("devices/lamp-1/messages/events/%24.ct=application%2Fjson&%24.ce=utf-8", fmt.Appendf(nil, `{"t":%d}`, t))
		}
	}
	ingress := []string{"d2c.telemetry.ingress", "d2c.endpoints.latency", "d2c.endpoints.egress.builtIn"}
	step("a routed message", send(85), map[string]float64{
		"RoutingDeliveries": 1, "RoutingDataSizeInBytesDelivered": 8, "RoutingDeliveryLatency count": 1, "d2c.endpoints.egress.serviceBusQueues": 1,
		"d2c.endpoints.latency.serviceBusQueues count": 1, "d2c.telemetry.egress.success": 2, // the log is an endpoint, too
	}, append(ingress, "RoutingDeliveryLatency")...)
	step("a message for two endpoints", send(95), map[string]float64{
		"RoutingDeliveries": 2, "d2c.endpoints.egress.storage": 1, "d2c.endpoints.egress.storage.blobs": 1, "d2c.endpoints.egress.storage.bytes": 8,
		"d2c.endpoints.latency.storage count": 1, "d2c.endpoints.egress.serviceBusQueues": 1, "d2c.telemetry.egress.success": 3,
	}, append(ingress, "Routing")...)
	step("a message for nobody", send(10), map[string]float64{"d2c.telemetry.egress.orphaned": 1, "d2c.telemetry.egress.success": 1}, ingress...)
	hook.refuse(http.StatusBadRequest)
	step("a message that the endpoint never takes", send(85), map[string]float64{"d2c.telemetry.egress.invalid": 1, "RoutingDeliveries": 1, "d2c.telemetry.egress.success": 1}, ingress...)
	hook.refuse(0)
	operator(t, v, "PUT", "/api/routing", `{"endpoints":[],"routes":[],"enrichments":[]}`, 200)
	// Event Grid.
	operator(t, v, "PUT", "/api/event-subscriptions/hook", `{"endpointUrl":"`+hook.URL+`/grid","includedEventTypes":["Microsoft.Devices.DeviceCreated"]}`, 200)
	step("an event for a webhook", func() { v.Device("lamp-2") }, map[string]float64{"EventGridDeliveries": 1, "EventGridLatency count": 1, "totalDeviceCount": 1}, "EventGridLatency", "devices.totalDevices")
	// Throttles last: they stop everything else.
	operator(t, v, "PUT", "/api/throttles", `{"limits":{"dailyMessages":"1/day","twinReads":"1/min"}}`, 200)
	step("a device's twin read that is throttled", func() {
		for _, rid := range []string{"8", "9"} {
			c.Publish0("$iothub/twin/GET/?$rid="+rid, nil)
			c.NextPublish()
		}
	}, map[string]float64{"d2c.twin.read.failure": 1, "d2c.twin.read.success": 1}, "d2c.twin.read.size")
	step("a message beyond the quota", func() {
		c.Send(wire.AppendPublish(nil, &wire.Publish{QoS: 1, PacketID: 9, Topic: []byte("devices/lamp-1/messages/events/"), Payload: []byte("x")}))
		c.Closed()
	}, map[string]float64{"d2c.telemetry.ingress.sendThrottle": 1, "d2c.telemetry.ingress.allProtocol": 1, "connectedDeviceCount": -1}, "devices.connectedDevices")
	for _, name := range azureNames {
		if !seen[name] && !slices.Contains(elsewhere, name) {
			t.Errorf("nothing moved %s", name)
		}
	}
}

// some is for numbers that move by how long or how large something was.
const some = -1e9

// azureNames are those of hub-service §9.2.
var azureNames = strings.Fields(`d2c.telemetry.ingress.allProtocol d2c.telemetry.ingress.success d2c.telemetry.ingress.sendThrottle
	d2c.telemetry.egress.success d2c.telemetry.egress.dropped d2c.telemetry.egress.invalid d2c.telemetry.egress.orphaned d2c.telemetry.egress.fallback
	d2c.endpoints.egress.builtIn.events d2c.endpoints.egress.eventHubs d2c.endpoints.egress.serviceBusQueues d2c.endpoints.egress.serviceBusTopics
	d2c.endpoints.egress.storage d2c.endpoints.egress.storage.blobs d2c.endpoints.egress.storage.bytes
	d2c.endpoints.latency.builtIn.events d2c.endpoints.latency.eventHubs d2c.endpoints.latency.serviceBusQueues d2c.endpoints.latency.serviceBusTopics d2c.endpoints.latency.storage
	RoutingDeliveries RoutingDataSizeInBytesDelivered RoutingDeliveryLatency
	c2d.commands.egress.complete.success c2d.commands.egress.abandon.success c2d.commands.egress.reject.success C2DMessagesExpired
	c2d.methods.success c2d.methods.failure c2d.methods.requestSize c2d.methods.responseSize
	c2d.twin.read.success c2d.twin.read.failure c2d.twin.read.size c2d.twin.update.success c2d.twin.update.failure c2d.twin.update.size
	d2c.twin.read.success d2c.twin.read.failure d2c.twin.read.size d2c.twin.update.success d2c.twin.update.failure d2c.twin.update.size
	twinQueries.success twinQueries.failure twinQueries.resultSize
	jobs.completed jobs.failed jobs.createTwinUpdateJob.success jobs.createTwinUpdateJob.failure jobs.createDirectMethodJob.success jobs.createDirectMethodJob.failure
	jobs.cancelJob.success jobs.cancelJob.failure jobs.listJobs.success jobs.listJobs.failure jobs.queryJobs.success jobs.queryJobs.failure
	devices.totalDevices totalDeviceCount devices.connectedDevices.allProtocol connectedDeviceCount
	dailyMessageQuotaUsed deviceDataUsage deviceDataUsageV2 configurations EventGridDeliveries EventGridLatency`)

// labelled come with their first sample: they have an endpoint's or a webhook's name for a label.
var labelled = []string{"RoutingDeliveries", "RoutingDataSizeInBytesDelivered", "RoutingDeliveryLatency", "EventGridDeliveries", "EventGridLatency"}

// elsewhere are proven by app/node, hub/meter and hub: they need Kafka, NATS, a day, a broken store, or a clock.
var elsewhere = []string{
	"d2c.telemetry.egress.dropped", "d2c.endpoints.egress.eventHubs", "d2c.endpoints.egress.serviceBusTopics", "d2c.endpoints.latency.eventHubs",
	"d2c.endpoints.latency.serviceBusTopics", "C2DMessagesExpired", "jobs.failed", "jobs.listJobs.failure", "jobs.queryJobs.failure",
}

// receiver is a webhook on loopback.
type receiver struct {
	*httptest.Server
	mu      sync.Mutex
	refused int
	events  []map[string]any
	checks  int // validation handshakes
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		r.mu.Lock()
		defer r.mu.Unlock()
		var es []map[string]any
		switch {
		case req.Header.Get("Aeg-Event-Type") == "SubscriptionValidation":
			var check []struct {
				Data struct{ ValidationCode string }
			}
			if json.Unmarshal(body, &check) == nil {
				r.checks++
				fmt.Fprintf(w, `{"validationResponse":%q}`, check[0].Data.ValidationCode)
			}
		case r.refused != 0:
			w.WriteHeader(r.refused)
		case json.Unmarshal(body, &es) == nil && req.URL.Path == "/grid":
			r.events = append(r.events, es...)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) refuse(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused = status
}

// A webhook gets the life of a device, in Event Grid's schema, from the log; also what happened while it was away and across a
// restart.
func TestEventGrid(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HS-152")
	hook := newReceiver(t)
	v := apptest.Start(t)
	operator(t, v, "PUT", "/api/event-subscriptions/erp", `{"endpointUrl":"`+hook.URL+`/grid"}`, 200)
	d := v.Device("lamp-1")
	c, _ := connect(t, v, d)
	c.Publish("devices/lamp-1/messages/events/unit=C&%24.ct=application%2Fjson&%24.ce=utf-8", []byte(`{"t":21.5}`))
	c.Disconnect()
	hubtest.Until(t, "the device to be disconnected", func() bool {
		got, err := v.Service().Device(t.Context(), "lamp-1")
		return err == nil && got.ConnectionState == "Disconnected"
	})
	v.Restart()
	if err := v.Service().DeleteDevice(t.Context(), "lamp-1"); err != nil {
		t.Fatal(err)
	}
	byType := map[string][]map[string]any{}
	hubtest.Until(t, "five events", func() bool {
		hook.mu.Lock()
		defer hook.mu.Unlock()
		clear(byType)
		ids := map[any]bool{}
		for _, e := range hook.events {
			if kind := fmt.Sprint(e["eventType"]); !ids[e["id"]] { // a restart may repeat one
				byType[kind] = append(byType[kind], e)
				ids[e["id"]] = true
			}
		}
		return len(byType) == 5
	})
	if hook.checks != 1 {
		t.Errorf("%d validation handshakes", hook.checks)
	}
	name, _, _ := strings.Cut(v.Hub.Hostname, ".")
	for _, kind := range []string{"DeviceCreated", "DeviceDeleted", "DeviceConnected", "DeviceDisconnected", "DeviceTelemetry"} {
		es := byType["Microsoft.Devices."+kind]
		if len(es) != 1 {
			t.Errorf("%d events %s: %v", len(es), kind, es)
			continue
		}
		e := es[0]
		data := e["data"].(map[string]any)
		version := "1"
		if kind == "DeviceTelemetry" {
			version = ""
		}
		if len(e) != 8 || e["subject"] != "devices/lamp-1" || e["dataVersion"] != version || e["metadataVersion"] != "1" || e["topic"] == "" || e["eventTime"] == "" {
			t.Errorf("%s: %v", kind, e)
		}
		switch kind {
		case "DeviceCreated", "DeviceDeleted":
			twin, _ := data["twin"].(map[string]any)
			if data["hubName"] != name || data["deviceId"] != "lamp-1" || twin["deviceId"] != "lamp-1" || twin["status"] != "enabled" || twin["authenticationType"] != "sas" ||
				twin["etag"] == "" || twin["deviceEtag"] == "" || twin["version"] == nil || twin["properties"] == nil || twin["x509Thumbprint"] == nil || twin["connectionState"] != "Disconnected" ||
				twin["statusUpdateTime"] == nil || twin["lastActivityTime"] == nil || twin["cloudToDeviceMessageCount"] != 0.0 {
				t.Errorf("%s: %v", kind, data)
			}
		case "DeviceConnected", "DeviceDisconnected":
			info, _ := data["deviceConnectionStateEventInfo"].(map[string]any)
			if n, _ := info["sequenceNumber"].(string); len(n) != 64 || data["hubName"] != name || data["deviceId"] != "lamp-1" {
				t.Errorf("%s: %v", kind, data)
			}
		default:
			system, _ := data["systemProperties"].(map[string]any)
			if fmt.Sprint(data["body"]) != "map[t:21.5]" || fmt.Sprint(data["properties"]) != "map[unit:C]" || system["iothub-message-source"] != "Telemetry" ||
				system["iothub-connection-device-id"] != "lamp-1" || system["iothub-content-type"] != "application/json" || system["iothub-content-encoding"] != "utf-8" ||
				system["iothub-connection-auth-method"] != `{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}` ||
				system["iothub-connection-auth-generation-id"] == "" || system["iothub-enqueuedtime"] == "" {
				t.Errorf("%s: %v", kind, data)
			}
		}
	}
}

// Whatever a device writes under the names of the hub's stamps, services read the hub's own.
func TestStampsAreTheHubs(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HS-115")
	hook := newReceiver(t)
	v := apptest.Start(t)
	operator(t, v, "PUT", "/api/event-subscriptions/erp", `{"endpointUrl":"`+hook.URL+`/grid","includedEventTypes":["Microsoft.Devices.DeviceTelemetry"]}`, 200)
	d := v.Device("lamp-1")
	c, _ := connect(t, v, d)
	names := []string{
		"iothub-connection-device-id", "iothub-connection-module-id", "iothub-connection-auth-method", "iothub-connection-auth-generation-id",
		"iothub-enqueuedtime", "iothub-message-source", "dt-dataschema",
	}
	bag := "%24.cdid=evil&%24.cmid=evil&mine=kept"
	headers := []string{"Authorization", v.Token(d), "iothub-app-mine", "kept"}
	var inBatch []string
	for _, name := range names {
		bag += "&" + name + "=evil"
		headers = append(headers, name, "evil", "iothub-app-"+name, "evil")
		inBatch = append(inBatch, fmt.Sprintf(`%q:"evil","iothub-app-%s":"evil"`, name, name))
	}
	c.Publish("devices/lamp-1/messages/events/"+bag, []byte("mqtt"))
	const path = "/devices/lamp-1/messages/events?api-version=2021-04-12"
	if got := fetch(t, v, "127.0.0.1", "POST", path, "https", headers...); got.status != 204 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	batch := `[{"body":"YmF0Y2g=","base64Encoded":true,"properties":{"iothub-app-mine":"kept",` + strings.Join(inBatch, ",") + `}}]`
	if got := fetch(t, v, "127.0.0.1", "POST", path, batch, "Authorization", v.Token(d), "Content-Type", "application/vnd.microsoft.iothub.json"); got.status != 204 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	var es []map[string]any
	hubtest.Until(t, "three messages", func() bool {
		hook.mu.Lock()
		defer hook.mu.Unlock()
		es = slices.Clone(hook.events)
		return len(es) >= 3
	})
	for _, e := range es {
		data := e["data"].(map[string]any)
		system := data["systemProperties"].(map[string]any)
		if text := fmt.Sprint(e); strings.Contains(text, "evil") || fmt.Sprint(data["properties"]) != "map[mine:kept]" {
			t.Errorf("a device's stamps got through: %s", text)
		}
		if system["iothub-connection-device-id"] != "lamp-1" || system["iothub-connection-auth-generation-id"] != d.GenerationID || system["iothub-message-source"] != "Telemetry" ||
			system["iothub-connection-auth-method"] != `{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}` {
			t.Errorf("stamped %v", system)
		}
	}
}

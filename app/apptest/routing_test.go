package apptest_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/internal/conform"
)

// hook is a webhook that remembers what it took.
type hook struct {
	*httptest.Server
	mu     sync.Mutex
	refuse string // part of a record that is never taken
	got    []string
}

func newHook(t *testing.T) *hook {
	h := &hook{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var records []json.RawMessage
		if err := json.Unmarshal(body, &records); err != nil {
			t.Errorf("a webhook got %q", body)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, r := range records {
			if h.refuse != "" && strings.Contains(string(r), h.refuse) {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
		}
		for _, r := range records {
			h.got = append(h.got, string(r))
		}
	}))
	t.Cleanup(h.Close)
	return h
}

// find is a record that holds all parts.
func (h *hook) find(parts ...string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
next:
	for _, r := range h.got {
		for _, p := range parts {
			if !strings.Contains(r, p) {
				continue next
			}
		}
		return true
	}
	return false
}

func ask(t *testing.T, v *apptest.Vauban, client *http.Client, method, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, strings.TrimSuffix(v.API.URL, "/")+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+v.API.Token)
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

// Events of a whole Vauban reach an endpoint while another one hangs; what an endpoint refuses becomes a dead letter,
// which an operator finds, has delivered again, and finds gone.
func TestVauban_RoutedEventsAndDeadLetters(t *testing.T) {
	conform.Covers(t, "HS-115")
	t.Parallel()
	v := apptest.Start(t)
	client := v.HTTP()
	good := newHook(t)
	good.refuse = `"bad"`
	release := make(chan struct{})
	hangs := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(hangs.Close)
	t.Cleanup(func() { close(release) })
	const all = `"DeviceMessages","DeviceLifecycleEvents","TwinChangeEvents","DeviceConnectionStateEvents"`
	var routes []string
	for _, endpoint := range []string{"good", "hangs"} {
		for source := range strings.SplitSeq(all, ",") {
			routes = append(routes, fmt.Sprintf(`{"name":"%s%d","source":%s,"endpointNames":[%q]}`, endpoint, len(routes), source, endpoint))
		}
	}
	status, text := ask(t, v, client, "PUT", "/api/routing", fmt.Sprintf(`{"endpoints":[{"name":"good","type":"webhook","url":%q},{"name":"hangs","type":"webhook","url":%q}],"routes":[%s]}`,
		good.URL, hangs.URL, strings.Join(routes, ",")))
	if status != 200 {
		t.Fatalf("routing: %d %s", status, text)
	}
	d := v.Device("lamp-1")
	c, _ := connect(t, v, d)
	c.Publish("devices/lamp-1/messages/events/", []byte(`bad`)) // travels as base64
	c.Publish("devices/lamp-1/messages/events/%24.ct=application%2Fjson&%24.ce=utf-8", []byte(`"bad"`))
	c.Publish("devices/lamp-1/messages/events/%24.ct=application%2Fjson&%24.ce=utf-8", []byte(`{"fine":1}`))
	// What a device says about its own identity is discarded, whichever way it comes.
	c.Publish("devices/lamp-1/messages/events/%24.cdid=evil&%24.cmid=evil&iothub-connection-device-id=evil&iothub-connection-auth-method=evil&iothub-connection-auth-generation-id=evil&n=mqtt", []byte(`forged`))
	forged, err := http.NewRequestWithContext(t.Context(), "POST", fmt.Sprintf("https://%s/devices/lamp-1/messages/events?api-version=2021-04-12", v.Address(v.Ports.HTTPS)), strings.NewReader("forged"))
	if err != nil {
		t.Fatal(err)
	}
	forged.Host = v.Hub.Hostname
	forged.Header.Set("Authorization", v.Token(d))
	forged.Header.Set("iothub-app-n", "https")
	for _, name := range []string{"iothub-connection-device-id", "iothub-connection-module-id", "iothub-connection-auth-method", "iothub-connection-auth-generation-id"} {
		forged.Header.Set(name, "evil")
		forged.Header.Set("iothub-app-"+name, "evil")
	}
	if res, err := client.Do(forged); err != nil || res.StatusCode != 204 {
		t.Fatalf("telemetry over HTTPS: %v (%v)", res, err)
	} else {
		res.Body.Close()
	}
	c.Subscribe(0, "$iothub/twin/res/#")
	c.Publish0("$iothub/twin/PATCH/properties/reported/?$rid=1", []byte(`{"on":true}`))
	for what, parts := range map[string][]string{
		"the creation":             {`"opType":"createDeviceIdentity"`, `"iothub-message-source":"deviceLifecycleEvents"`, `"Body":{"deviceId":"lamp-1"`},
		"the connection":           {`"opType":"deviceConnected"`, `"Body":{"sequenceNumber":"00000000`},
		"the twin":                 {`"opType":"updateTwin"`, `"reported":{"on":true,`},
		"a message":                {`"Body":{"fine":1}`},
		"forged stamps over MQTT":  {`"n":"mqtt"`, `"connectionDeviceId":"lamp-1"`, `"connectionDeviceGenerationId":"` + d.GenerationID + `"`, `"connectionAuthMethod":"{\"scope\":\"device\",\"type\":\"sas\",\"issuer\":\"iothub\"`},
		"forged stamps over HTTPS": {`"n":"https"`, `"connectionDeviceId":"lamp-1"`, `"connectionDeviceGenerationId":"` + d.GenerationID + `"`, `"connectionAuthMethod":"{\"scope\":\"device\",\"type\":\"sas\",\"issuer\":\"iothub\"`},
	} {
		hubtest.Until(t, what+" at a webhook beside one that hangs", func() bool { return good.find(parts...) })
	}
	if good.find("evil") {
		t.Error("an endpoint got what a device says about its own identity")
	}
	if good.find("vauban-twin-document") || good.find(d.Authentication.SymmetricKey.PrimaryKey) {
		t.Error("an endpoint got what is for readers of the log")
	}

	var page struct {
		DeadLetters []struct {
			Sequence int64
			Reason   string
			DeviceID string
		}
	}
	hubtest.Until(t, "the dead letter", func() bool {
		status, text = ask(t, v, client, "GET", "/api/routing/dead-letters/good", "")
		if err := json.Unmarshal([]byte(text), &page); err != nil || status != 200 {
			t.Fatalf("%d %s (%v)", status, text, err)
		}
		return len(page.DeadLetters) == 1
	})
	if l := page.DeadLetters[0]; l.DeviceID != "lamp-1" || !strings.Contains(l.Reason, "400") {
		t.Errorf("the dead letter is %s", text)
	}
	one := fmt.Sprint("/api/routing/dead-letters/good/messages/", page.DeadLetters[0].Sequence)
	if status, text := ask(t, v, client, "GET", one, ""); status != 200 || !strings.Contains(text, `"Body":"bad"`) {
		t.Errorf("the dead letter is %d %s", status, text)
	}
	hubtest.Until(t, "the metric", func() bool {
		_, text := ask(t, v, client, "GET", "/metrics", "")
		return strings.Contains(text, `vauban_routing_dead_letters{endpoint="good"} 1`)
	})
	// Replayed too early, it comes back with one more attempt; then the endpoint takes it.
	replay := fmt.Sprintf("/api/routing/dead-letters/good/replay?sequence=%d", page.DeadLetters[0].Sequence)
	if status, text := ask(t, v, client, "POST", replay, ""); status != 200 || !strings.Contains(text, `"messages":1`) {
		t.Fatalf("replay: %d %s", status, text)
	}
	hubtest.Until(t, "the second attempt", func() bool {
		_, text := ask(t, v, client, "GET", one, "")
		return strings.Contains(text, `"attempts":2,"replay":false`)
	})
	good.mu.Lock()
	good.refuse = ""
	good.mu.Unlock()
	ask(t, v, client, "POST", "/api/routing/dead-letters/good/replay?all=true", "")
	hubtest.Until(t, "the replayed message", func() bool { return good.find(`"Body":"bad"`) })
	hubtest.Until(t, "no dead letter any more", func() bool {
		status, _ := ask(t, v, client, "GET", one, "")
		return status == 404
	})
	if status, _ := ask(t, v, client, "POST", "/api/routing/dead-letters/nobody/replay?all=true", ""); status != 400 {
		t.Errorf("replay to an endpoint that is not there: %d", status)
	}
	// Without routes of events none are made.
	if status, text := ask(t, v, client, "PUT", "/api/routing", `{}`); status != 200 {
		t.Fatalf("routing: %d %s", status, text)
	}
	events := func() string {
		_, text := ask(t, v, client, "GET", "/metrics", "")
		var lines []string
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "vauban_events_total") {
				lines = append(lines, line)
			}
		}
		return strings.Join(lines, "")
	}
	before := events()
	v.Device("lamp-2")
	time.Sleep(300 * time.Millisecond) // longer than an event takes
	if after := events(); before == "" || after != before {
		t.Errorf("events that nobody wants are made:\n%safter\n%s", after, before)
	}
}

package eventgrid_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/event"
	"github.com/vauban-iot/vauban/hub/eventgrid"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/bag"
)

// store keeps subscriptions in memory.
type store struct {
	mu  sync.Mutex
	all []eventgrid.Subscription
}

func (s *store) Subscriptions(context.Context) ([]eventgrid.Subscription, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all), nil
}

func (s *store) ChangeSubscriptions(_ context.Context, change func([]eventgrid.Subscription) ([]eventgrid.Subscription, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	all, err := change(slices.Clone(s.all))
	if err == nil {
		s.all = all
	}
	return err
}

// log gives every entry to every reader, again until it is taken.
type log struct {
	mu      sync.Mutex
	entries [][]byte
	more    chan struct{}
}

func (l *log) append(ms ...*iot.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, telemetry.Batch(ms...))
	close(l.more)
	l.more = make(chan struct{})
}

func (l *log) Work(ctx context.Context, _ string, handle func(bus.Entry) error) error {
	for i := 0; ; {
		l.mu.Lock()
		more, n := l.more, len(l.entries)
		var data []byte
		if i < n {
			data = l.entries[i]
		}
		l.mu.Unlock()
		if i == n {
			select {
			case <-ctx.Done():
				return nil
			case <-more:
				continue
			}
		}
		if err := handle(bus.Entry{Sequence: uint64(i + 1), Data: data}); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		i++
	}
}

// webhook answers in the place of a server.
type webhook struct {
	mu       sync.Mutex
	requests []request
	answer   func(r request) (status int, body string, header http.Header) // nil: agrees and takes everything
}

type request struct {
	method string
	header http.Header
	body   string
	at     time.Time
}

func (w *webhook) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
	}
	req := request{r.Method, r.Header, string(body), time.Now()}
	w.mu.Lock()
	answer := w.answer
	w.requests = append(w.requests, req)
	w.mu.Unlock()
	if answer == nil {
		answer = agree
	}
	status, text, header := answer(req)
	if status == 0 {
		return nil, errors.New("connection refused")
	}
	if header == nil {
		header = http.Header{}
	}
	return &http.Response{StatusCode: status, Status: fmt.Sprint(status), Header: header, Body: io.NopCloser(strings.NewReader(text)), Request: r}, nil
}

// first is a header's value under its name letter by letter.
func (r request) first(name string) string {
	if vs := r.header[name]; len(vs) > 0 {
		return vs[0]
	}
	return ""
}

func agree(r request) (int, string, http.Header) {
	if r.first("aeg-event-type") == "SubscriptionValidation" {
		var es []struct {
			Data struct{ ValidationCode string }
		}
		if err := json.Unmarshal([]byte(r.body), &es); err != nil {
			return 400, "", nil
		}
		return 200, `{"validationResponse":"` + es[0].Data.ValidationCode + `"}`, nil
	}
	if r.method == http.MethodOptions {
		return 200, "", http.Header{"Webhook-Allowed-Origin": {"*"}}
	}
	return 200, "", nil
}

// notifications are the requests with events.
func (w *webhook) notifications() []request {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.requests), func(r request) bool { return r.first("aeg-event-type") != "Notification" })
}

type world struct {
	*eventgrid.Service
	store   *store
	log     *log
	hook    *webhook
	mu      sync.Mutex
	wanted  []iot.MessageSource
	results []string
	logged  strings.Builder
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{store: &store{}, log: &log{more: make(chan struct{})}, hook: &webhook{}}
	var err error
	w.Service, err = eventgrid.New(eventgrid.Config{
		Hub: "hub.example.net", Base: "https://hub.example.net", Store: w.store, Log: w.log, Transport: w.hook,
		Want:   func(sources ...iot.MessageSource) { w.wanted = sources },
		Logger: slog.New(slog.NewTextHandler(&w.logged, nil)),
		Report: func(subscription, eventType, result string, _ time.Duration) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.results = append(w.results, subscription+" "+strings.TrimPrefix(eventType, "Microsoft.Devices.")+" "+result)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// run runs the service until the test's bubble is done with it.
func (w *world) run(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	synctest.Wait()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

var methodText = `{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}`

func message(body string, system ...bag.Property) *iot.Message {
	return &iot.Message{
		Source: iot.Telemetry, From: iot.ID{Device: "lamp-1"}, Generation: "638", AuthMethod: methodText, Enqueued: time.Now(),
		System: system, Properties: []bag.Property{{Name: "unit", Value: "C"}}, Body: []byte(body),
	}
}

var asJSON = []bag.Property{{Name: "content-type", Value: "application/json"}, {Name: "content-encoding", Value: "utf-8"}}

// maker makes the events of a hub, as the hub does.
func maker() *event.Maker {
	i := &event.Interest{}
	i.Want("test", event.Sources...)
	return &event.Maker{Hub: "hub.example.net", Interest: i, Now: time.Now}
}

// relayed is an event as the relay puts it on the log.
func relayed(e iot.Message) *iot.Message {
	if e.Source == iot.DeviceConnectionState {
		e.Body = []byte(`{"sequenceNumber":"000000000000000001D4A0B0C0D0E0F000000000000000000000000000000000000000A1"}`)
	}
	return &e
}

func TestService_Schemas(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		if _, err := w.Put(t.Context(), eventgrid.Subscription{Name: "erp", URL: "https://erp.example/hook", Header: "X-Key: s3cret", BatchEvents: 10}); err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(w.wanted, iot.DeviceLifecycle) || !slices.Contains(w.wanted, iot.DeviceConnectionState) {
			t.Errorf("the hub is asked for %v", w.wanted)
		}
		defer w.run(t)()
		m := maker()
		d := registry.Identity{ID: iot.ID{Device: "lamp-1"}, Generation: "638", ETag: "AA==", Status: registry.Enabled, Authentication: registry.Authentication{Type: registry.SAS}}
		tw := twin.New(d.ID)
		tw.Tags = json.RawMessage(`{"site":"lyon"}`)
		module := iot.ID{Device: "lamp-1", Module: "m"}
		w.log.append(relayed(m.Created(d, tw)[0]), relayed(m.Connection(d.ID, true, time.Now())[0]), message(`{"t": 1}`, asJSON...), message("plain"),
			relayed(m.Connection(module, false, time.Now())[0]), relayed(m.Deleted(d, tw)[0]))
		time.Sleep(time.Second)
		ns := w.hook.notifications()
		if len(ns) != 1 {
			t.Fatalf("%d requests, want one batch; log:\n%s", len(ns), w.logged.String())
		}
		for name, want := range map[string]string{
			"aeg-event-type": "Notification", "aeg-subscription-name": "ERP", "aeg-delivery-count": "0", "aeg-metadata-version": "1",
			"Content-Type": "application/json; charset=utf-8", "X-Key": "s3cret",
		} {
			if got := ns[0].first(name); got != want {
				t.Errorf("header %s is %q, want %q", name, got, want)
			}
		}
		var es []map[string]any
		if err := json.Unmarshal([]byte(ns[0].body), &es); err != nil || len(es) != 6 {
			t.Fatalf("%v: %s", err, ns[0].body)
		}
		keys := func(m map[string]any) string {
			var ks []string
			for k := range m {
				ks = append(ks, k)
			}
			slices.Sort(ks)
			return strings.Join(ks, " ")
		}
		ids := map[any]bool{}
		for i, want := range []struct{ kind, subject, version, data string }{
			{"DeviceCreated", "devices/lamp-1", "1", "deviceId hubName twin"},
			{"DeviceConnected", "devices/lamp-1", "1", "deviceConnectionStateEventInfo deviceId hubName"},
			{"DeviceTelemetry", "devices/lamp-1", "", "body properties systemProperties"},
			{"DeviceTelemetry", "devices/lamp-1", "", "body properties systemProperties"},
			{"DeviceDisconnected", "devices/lamp-1/modules/m", "1", "deviceConnectionStateEventInfo deviceId hubName moduleId"},
			{"DeviceDeleted", "devices/lamp-1", "1", "deviceId hubName twin"},
		} {
			e := es[i]
			data, _ := e["data"].(map[string]any)
			if keys(e) != "data dataVersion eventTime eventType id metadataVersion subject topic" || e["eventType"] != "Microsoft.Devices."+want.kind || e["subject"] != want.subject ||
				e["dataVersion"] != want.version || e["metadataVersion"] != "1" || e["topic"] != "/providers/Microsoft.Devices/IotHubs/hub" || keys(data) != want.data {
				t.Errorf("event %d is %v, want %+v", i, e, want)
			}
			if at, err := time.Parse(time.RFC3339, fmt.Sprint(e["eventTime"])); err != nil || time.Since(at) > time.Minute || ids[e["id"]] {
				t.Errorf("event %d: time %v, id %v", i, e["eventTime"], e["id"])
			}
			ids[e["id"]] = true
		}
		created := es[0]["data"].(map[string]any)
		tv := created["twin"].(map[string]any)
		if got := keys(tv); got != "authenticationType cloudToDeviceMessageCount connectionState deviceEtag deviceId etag lastActivityTime properties status statusUpdateTime tags version x509Thumbprint" {
			t.Errorf("the twin has %s", got)
		}
		if created["hubName"] != "hub" || tv["deviceId"] != "lamp-1" || tv["status"] != "enabled" || fmt.Sprint(tv["tags"]) != "map[site:lyon]" {
			t.Errorf("created: %v", created)
		}
		state := es[1]["data"].(map[string]any)["deviceConnectionStateEventInfo"].(map[string]any)
		if n, _ := state["sequenceNumber"].(string); !strings.HasPrefix(n, "0000") || len(state) != 1 {
			t.Errorf("connected: %v", state)
		}
		json1, plain := es[2]["data"].(map[string]any), es[3]["data"].(map[string]any)
		system := json1["systemProperties"].(map[string]any)
		if fmt.Sprint(json1["body"]) != "map[t:1]" || plain["body"] != "cGxhaW4=" || fmt.Sprint(json1["properties"]) != "map[unit:C]" ||
			keys(system) != "iothub-connection-auth-generation-id iothub-connection-auth-method iothub-connection-device-id iothub-content-encoding iothub-content-type iothub-enqueuedtime iothub-message-source" ||
			system["iothub-message-source"] != "Telemetry" || system["iothub-connection-auth-method"] != methodText {
			t.Errorf("telemetry: %v and %v", json1, plain)
		}
		if strings.Contains(w.logged.String(), "s3cret") {
			t.Error("the log holds the header's secret")
		}
	})
}

func TestService_CloudEvents(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_, err := w.Put(t.Context(), eventgrid.Subscription{
			Name: "crm", URL: "https://crm.example/hook", Schema: eventgrid.CloudEventSchema, Types: []string{eventgrid.Telemetry}, Begins: "DEVICES/lamp", Ends: "-1",
		})
		if err != nil {
			t.Fatal(err)
		}
		if r := w.hook.requests[0]; r.method != http.MethodOptions || r.header.Get("WebHook-Request-Origin") != "hub.example.net" || r.body != "" {
			t.Errorf("the handshake is %+v", r)
		}
		defer w.run(t)()
		other := message("x")
		other.From.Device = "meter-1"
		w.log.append(message("x"), other, relayed(maker().Connection(iot.ID{Device: "lamp-1"}, true, time.Now())[0]))
		time.Sleep(time.Second)
		ns := w.hook.notifications()
		if len(ns) != 1 || ns[0].first("Content-Type") != "application/cloudevents+json; charset=utf-8" || ns[0].first("aeg-metadata-version") != "" {
			t.Fatalf("%d requests, the first %+v", len(ns), ns)
		}
		var e map[string]any
		if err := json.Unmarshal([]byte(ns[0].body), &e); err != nil || e["specversion"] != "1.0" || e["type"] != "Microsoft.Devices.DeviceTelemetry" || e["source"] == "" || e["subject"] != "devices/lamp-1" || e["id"] == "" || e["time"] == "" || len(e) != 7 {
			t.Errorf("%v: %s", err, ns[0].body)
		}
	})
}

func TestService_Handshake(t *testing.T) {
	t.Parallel()
	for condition, c := range map[string]struct {
		schema string
		answer func(request) (int, string, http.Header)
		state  eventgrid.State // empty: refused
	}{
		"repeats the code":     {"", agree, eventgrid.Validated},
		"repeats another code": {"", func(request) (int, string, http.Header) { return 200, `{"validationResponse":"x"}`, nil }, ""},
		"takes time":           {"", func(request) (int, string, http.Header) { return 200, ``, nil }, eventgrid.Awaiting},
		"accepts":              {"", func(request) (int, string, http.Header) { return 202, `{"validationResponse":"x"}`, nil }, eventgrid.Awaiting},
		"knows nothing":        {"", func(request) (int, string, http.Header) { return 404, ``, nil }, ""},
		"is not there":         {"", func(request) (int, string, http.Header) { return 0, ``, nil }, ""},
		"sends elsewhere":      {"", func(request) (int, string, http.Header) { return 302, ``, http.Header{"Location": {"https://x"}} }, ""},
		"allows every origin":  {eventgrid.CloudEventSchema, agree, eventgrid.Validated},
		"allows another origin": {eventgrid.CloudEventSchema, func(request) (int, string, http.Header) {
			return 200, ``, http.Header{"Webhook-Allowed-Origin": {"x.example"}}
		}, ""},
		"allows this hub": {eventgrid.CloudEventSchema, func(request) (int, string, http.Header) {
			return 200, ``, http.Header{"Webhook-Allowed-Origin": {"HUB.example.net"}}
		}, eventgrid.Validated},
		"says nothing of an origin": {eventgrid.CloudEventSchema, func(request) (int, string, http.Header) { return 200, ``, nil }, eventgrid.Awaiting},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.hook.answer = c.answer
			s, err := w.Put(t.Context(), eventgrid.Subscription{Name: "hook", URL: "https://erp.example/", Schema: c.schema})
			if c.state == "" {
				if !fault.Is(err, fault.Invalid) || len(w.store.all) != 0 {
					t.Errorf("a webhook that %s: %v, %v", condition, s, err)
				}
				return
			}
			if err != nil || s.State != c.state {
				t.Errorf("a webhook that %s: %v, %v; want %s", condition, s, err, c.state)
				return
			}
			stop := w.run(t)
			w.log.append(message("early"))
			time.Sleep(3 * time.Second)
			if n := len(w.hook.notifications()); (n > 0) != (c.state == eventgrid.Validated) {
				t.Errorf("a webhook that %s got %d events", condition, n)
			}
			stop()
		})
	}
}

// No webhook is where machines keep services for themselves; over the real network, so that its address counts and not its name.
func TestService_MachinesOwnServices(t *testing.T) {
	t.Parallel()
	kept := &store{}
	s, err := eventgrid.New(eventgrid.Config{Hub: "h", Base: "https://h", Store: kept, Log: &log{}, Want: func(...iot.MessageSource) {}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"169.254.169.254", "[::ffff:169.254.169.254]", "[fe80::1%25lo]", "[fd00:ec2::254]"} {
		for _, schema := range []string{eventgrid.EventGridSchema, eventgrid.CloudEventSchema} {
			_, err := s.Put(t.Context(), eventgrid.Subscription{Name: "hook", URL: "https://" + host + "/latest", Schema: schema})
			if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "machine's own services") || len(kept.all) != 0 {
				t.Errorf("%s, %s: %v", host, schema, err)
			}
		}
	}
}

// The owner of a webhook that did not answer opens the address it was sent, in time.
func TestService_ManualValidation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.hook.answer = func(request) (int, string, http.Header) { return 200, "", nil }
		put := func() url.Values {
			t.Helper()
			if _, err := w.Put(t.Context(), eventgrid.Subscription{Name: "hook", URL: "https://erp.example/"}); err != nil {
				t.Fatal(err)
			}
			var es []struct {
				Type string `json:"eventType"`
				Data struct{ ValidationURL string }
			}
			if err := json.Unmarshal([]byte(w.hook.requests[len(w.hook.requests)-1].body), &es); err != nil || es[0].Type != "Microsoft.EventGrid.SubscriptionValidationEvent" {
				t.Fatal(err, es)
			}
			u, err := url.Parse(es[0].Data.ValidationURL)
			if err != nil || u.Path != eventgrid.ValidationPath || u.Host != "hub.example.net" {
				t.Fatal(err, u)
			}
			return u.Query()
		}
		q := put()
		for name, code := range map[string]string{"hook": "wrong", "other": q.Get("code")} {
			if err := w.Confirm(t.Context(), name, code); !fault.Is(err, fault.NotFound) {
				t.Errorf("%s %s: %v", name, code, err)
			}
		}
		time.Sleep(11 * time.Minute)
		if err := w.Confirm(t.Context(), "hook", q.Get("code")); !fault.Is(err, fault.NotFound) {
			t.Errorf("too late: %v", err)
		}
		q = put()
		time.Sleep(9 * time.Minute)
		if err := w.Confirm(t.Context(), "hook", q.Get("code")); err != nil {
			t.Error(err)
		}
		if err := w.Confirm(t.Context(), "hook", q.Get("code")); !fault.Is(err, fault.NotFound) {
			t.Errorf("twice: %v", err)
		}
		if s, err := w.Subscription(t.Context(), "hook"); err != nil || s.State != eventgrid.Validated || s.Code != "" {
			t.Errorf("%+v, %v", s, err)
		}
	})
}

func TestService_Batches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for name, n := range map[string]int{"one-by-one": 1, "by-three": 3, "by-size": 1000} {
			if _, err := w.Put(t.Context(), eventgrid.Subscription{Name: name, URL: "https://" + name + ".example/", BatchEvents: n, BatchKilobytes: 4}); err != nil {
				t.Fatal(err)
			}
		}
		defer w.run(t)()
		var ms []*iot.Message
		for range 7 {
			ms = append(ms, message(strings.Repeat("x", 700)))
		}
		w.log.append(ms...)
		time.Sleep(time.Second)
		got := map[string][]int{}
		for _, r := range w.hook.notifications() {
			var es []any
			if err := json.Unmarshal([]byte(r.body), &es); err != nil {
				t.Fatal(err)
			}
			if len(r.body) > 4<<10+10 {
				t.Errorf("a request of %d bytes", len(r.body))
			}
			got[r.first("aeg-subscription-name")] = append(got[r.first("aeg-subscription-name")], len(es))
		}
		if fmt.Sprint(got) != "map[BY-SIZE:[2 2 2 1] BY-THREE:[2 2 2 1] ONE-BY-ONE:[1 1 1 1 1 1 1]]" {
			t.Errorf("batches of %v", got)
		}
	})
}

// A webhook that fails is tried again later and later; what it never takes is given up, in the metrics, and nothing after it waits.
func TestService_Retries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var failing atomic.Bool
		failing.Store(true)
		w.hook.answer = func(r request) (int, string, http.Header) {
			switch {
			case r.first("aeg-event-type") != "Notification":
				return agree(r)
			case strings.Contains(r.body, "YmFk"): // "bad"
				return 400, "", nil
			case failing.Load():
				return 503, "", nil
			}
			return 200, "", nil
		}
		if _, err := w.Put(t.Context(), eventgrid.Subscription{Name: "erp", URL: "https://erp.example/", BatchEvents: 3, TTLMinutes: 60}); err != nil {
			t.Fatal(err)
		}
		defer w.run(t)()
		begin := time.Now()
		w.log.append(message("good"))
		time.Sleep(7 * time.Minute)
		failing.Store(false)
		time.Sleep(10 * time.Minute)
		var after []time.Duration
		for i, r := range w.hook.notifications() {
			after = append(after, r.at.Sub(begin))
			if r.first("aeg-delivery-count") != fmt.Sprint(i) {
				t.Errorf("attempt %d has the count %s", i, r.first("aeg-delivery-count"))
			}
		}
		if fmt.Sprint(after) != "[0s 10s 40s 1m40s 6m40s 16m40s]" {
			t.Errorf("attempts after %v", after)
		}
		// One event that is refused for good takes no other along.
		w.mu.Lock()
		w.results = nil
		w.mu.Unlock()
		w.log.append(message("good"), message("bad"), message("fine"))
		time.Sleep(time.Second)
		w.mu.Lock()
		if got := fmt.Sprint(w.results); got != "[erp DeviceTelemetry delivered erp DeviceTelemetry dead erp DeviceTelemetry delivered]" {
			t.Errorf("outcomes %s", got)
		}
		w.results = nil
		w.mu.Unlock()
		// One whose time is over is given up, and the next is sent.
		failing.Store(true)
		w.log.append(message("old"))
		time.Sleep(90 * time.Minute)
		failing.Store(false)
		w.log.append(message("new"))
		time.Sleep(time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		if n := len(w.results); n != 8 || w.results[6] != "erp DeviceTelemetry dead" || w.results[7] != "erp DeviceTelemetry delivered" {
			t.Errorf("outcomes %q, want 6 retries, a dead event and a delivery", w.results)
		}
		if !strings.Contains(w.logged.String(), "given up") {
			t.Error("nothing is logged of a dead event")
		}
	})
}

func TestService_Subscriptions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	for condition, s := range map[string]eventgrid.Subscription{
		"a short name":          {Name: "ab", URL: "https://x.example/"},
		"no address":            {Name: "abc"},
		"a password":            {Name: "abc", URL: "https://u:p@x.example/"},
		"another scheme":        {Name: "abc", URL: "ftp://x.example/"},
		"a broken header":       {Name: "abc", URL: "https://x.example/", Header: "X"},
		"two headers":           {Name: "abc", URL: "https://x.example/", Header: "X: a\r\nY: b"},
		"an unknown type":       {Name: "abc", URL: "https://x.example/", Types: []string{"Microsoft.Devices.Teapot"}},
		"an unknown schema":     {Name: "abc", URL: "https://x.example/", Schema: "Custom"},
		"too large batches":     {Name: "abc", URL: "https://x.example/", BatchEvents: 5001},
		"a negative batch":      {Name: "abc", URL: "https://x.example/", BatchKilobytes: -1},
		"too many attempts":     {Name: "abc", URL: "https://x.example/", Attempts: 31},
		"too long a life":       {Name: "abc", URL: "https://x.example/", TTLMinutes: 1441},
		"a subject like a book": {Name: "abc", URL: "https://x.example/", Begins: strings.Repeat("x", 1025)},
	} {
		if _, err := w.Put(ctx, s); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", condition, err)
		}
	}
	if len(w.hook.requests) != 0 {
		t.Errorf("%d requests about subscriptions that are refused", len(w.hook.requests))
	}
	for i := range 20 {
		if _, err := w.Put(ctx, eventgrid.Subscription{Name: fmt.Sprintf("hook-%02d", i), URL: "https://x.example/", Types: []string{eventgrid.Created}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Put(ctx, eventgrid.Subscription{Name: "hook-20", URL: "https://x.example/"}); !fault.Is(err, fault.Invalid) {
		t.Errorf("the 21st: %v", err)
	}
	before, err := w.Subscription(ctx, "hook-00")
	if err != nil {
		t.Fatal(err)
	}
	if s, err := w.Put(ctx, eventgrid.Subscription{Name: "hook-00", URL: "https://y.example/"}); err != nil || !s.Created.Equal(before.Created) || len(s.Types) != 5 || s.BatchEvents != 1 || s.Attempts != 30 {
		t.Errorf("replaced: %+v, %v", s, err)
	}
	if err := w.Delete(ctx, "nobody"); !fault.Is(err, fault.NotFound) {
		t.Errorf("an unknown one: %v", err)
	}
	for i := range 20 {
		if err := w.Delete(ctx, fmt.Sprintf("hook-%02d", i)); err != nil {
			t.Error(err)
		}
	}
	if len(w.wanted) != 0 {
		t.Errorf("without subscriptions the hub is asked for %v", w.wanted)
	}
}

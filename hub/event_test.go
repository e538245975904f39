package hub_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vauban-iot/vauban/hub/digitaltwin"
	"github.com/vauban-iot/vauban/hub/event"
	"github.com/vauban-iot/vauban/hub/fleet/job"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
)

// collector takes the events of a world, in order.
type collector struct {
	t    *testing.T
	w    *hubtest.World
	seen int
}

// next waits for the next event and checks what all events have (hub-service §7.4).
func (c *collector) next(source iot.MessageSource, schema, op string, id iot.ID) iot.Message {
	c.t.Helper()
	m := c.w.Events(c.t, c.seen+1)[c.seen]
	c.seen++
	kind := "application/json"
	if source == iot.DigitalTwinChange {
		kind = "application/json-patch+json"
	}
	system := map[string]string{}
	for _, p := range m.System {
		system[p.Name] = p.Value
	}
	if !regexp.MustCompile(`^[0-9a-f]{10}$`).MatchString(system["correlation-id"]) {
		c.t.Errorf("%s: the correlation id is %q", op, system["correlation-id"])
	}
	delete(system, "correlation-id")
	delete(system, "vauban-twin-document") // for readers of the log; no endpoint shows it
	if d := cmp.Diff(map[string]string{"content-type": kind, "content-encoding": "utf-8", "user-id": "hub"}, system); d != "" {
		c.t.Errorf("%s: system properties (-want +got)\n%s", op, d)
	}
	want := []string{"hubName=hub", "deviceId=" + id.Device}
	if id.Module != "" {
		want = append(want, "moduleId="+id.Module)
	}
	want = append(want, "opType="+op, "iothub-message-schema="+schema, "operationTimestamp="+iot.FormatTime(m.Enqueued))
	var got []string
	for _, p := range m.Properties {
		got = append(got, p.Name+"="+p.Value)
	}
	if d := cmp.Diff(want, got); d != "" {
		c.t.Errorf("%s: properties (-want +got)\n%s", op, d)
	}
	if m.Source != source || m.From != id || m.AuthMethod != "" || m.Generation != "" || !regexp.MustCompile(`\.\d{7}Z$`).MatchString(iot.FormatTime(m.Enqueued)) {
		c.t.Errorf("%s: the event is %+v", op, m)
	}
	return m
}

func (c *collector) body(m iot.Message, want string) {
	c.t.Helper()
	// Metadata bears the time of the write, to a tenth of a microsecond.
	got := regexp.MustCompile(`"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z"`).ReplaceAllString(string(m.Body), `"NOW"`)
	if got != want {
		c.t.Errorf("body\n got %s\nwant %s", got, want)
	}
}

// none checks that nothing was told since, by an event that is.
func (c *collector) none() {
	c.t.Helper()
	mark := iot.ID{Device: fmt.Sprint("mark", c.seen)}
	c.w.Interest.Want("mark", iot.DeviceLifecycle)
	c.w.Device(c.t, mark)
	c.next(iot.DeviceLifecycle, "deviceLifecycleNotification", event.CreateDevice, mark)
	c.w.Interest.Want("mark")
}

const zeroSection = `{"$metadata":{"$lastUpdated":"0001-01-01T00:00:00Z"},"$version":1}`

func patch(t *testing.T, text string) twin.Patch {
	t.Helper()
	p, err := twin.ParsePatch([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestEvents(t *testing.T) {
	conform.Covers(t, "HS-112", "HS-113")
	t.Parallel()
	w := memory(t)
	ctx := t.Context()
	c := &collector{t: t, w: w}
	w.Interest.Want("test", iot.DeviceLifecycle, iot.TwinChange, iot.DeviceConnectionState)
	twinChange := func(op string, id iot.ID) iot.Message {
		t.Helper()
		return c.next(iot.TwinChange, "twinChangeNotification", op, id)
	}
	lifecycle := func(op string, id iot.ID) iot.Message {
		t.Helper()
		return c.next(iot.DeviceLifecycle, "deviceLifecycleNotification", op, id)
	}

	// Lifecycle.
	d := w.Device(t, lamp)
	m := lifecycle("createDeviceIdentity", lamp)
	c.body(m, `{"deviceId":"lamp","etag":"AAAAAAAAAAE=","version":2,"properties":{"desired":`+zeroSection+`,"reported":`+zeroSection+`}}`)
	e, ok := event.Of(&m)
	var doc struct{ DeviceID, Status, ConnectionState, AuthenticationType, DeviceETag string }
	if err := json.Unmarshal(e.Identity, &doc); err != nil || !ok || e.Op != event.CreateDevice || doc.DeviceID != "lamp" || doc.Status != "enabled" || doc.AuthenticationType != "sas" || doc.DeviceETag == "" {
		t.Errorf("the event reads as %+v, with the identity %s (%v)", e, e.Identity, err)
	}
	if strings.Contains(string(e.Identity), d.Authentication.PrimaryKey.Base64()) {
		t.Error("an event holds a key")
	}
	arm := iot.ID{Device: "lamp", Module: "arm"}
	w.Device(t, arm)
	c.body(lifecycle("createDeviceIdentity", arm), `{"deviceId":"lamp","moduleId":"arm","etag":"AAAAAAAAAAE=","version":2,"properties":{"desired":`+zeroSection+`,"reported":`+zeroSection+`}}`)
	errs := w.Bulk(ctx, []registry.Entry{{ID: iot.ID{Device: "bulk"}, Mode: registry.BulkCreate, Patch: patch(t, `{"tags":{"a":"<1>"}}`)}})
	if errs[0] != nil {
		t.Fatal(errs[0])
	}
	c.body(lifecycle("createDeviceIdentity", iot.ID{Device: "bulk"}), `{"deviceId":"bulk","etag":"AAAAAAAAAAI=","version":3,"tags":{"a":"<1>"},"properties":{"desired":`+zeroSection+`,"reported":`+zeroSection+`}}`)
	edge := true
	if _, err := w.UpdateDevice(ctx, lamp, nil, registry.Change{Edge: &edge}); err != nil { // brings two modules
		t.Fatal(err)
	}
	agent, edgeHub := iot.ID{Device: "lamp", Module: "$edgeAgent"}, iot.ID{Device: "lamp", Module: "$edgeHub"}
	lifecycle("createDeviceIdentity", agent)
	lifecycle("createDeviceIdentity", edgeHub)

	// Twins: tags and desired properties, what was written and nothing else.
	if _, _, err := w.PatchTwin(ctx, lamp, nil, patch(t, `{"tags":{"kept":1},"properties":{"desired":{"kept":1,"gone":{"x":1}}}}`)); err != nil {
		t.Fatal(err)
	}
	twinChange("updateTwin", lamp)
	if _, _, err := w.PatchTwin(ctx, lamp, nil, patch(t, `{"tags":{"tag1":"new","kept":null},"properties":{"desired":{"property1":{"deep":"new"},"gone":null}}}`)); err != nil {
		t.Fatal(err)
	}
	m = twinChange("updateTwin", lamp)
	stamp := `"$lastUpdated":"NOW","$lastUpdatedVersion":3`
	c.body(m, `{"version":4,"tags":{"tag1":"new","kept":null},"properties":{"desired":{"property1":{"deep":"new"},"gone":null,"$metadata":{`+stamp+
		`,"property1":{`+stamp+`,"deep":{`+stamp+`}}},"$version":3}}}`)
	if _, _, err := w.PatchTwin(ctx, arm, nil, patch(t, `{"tags":null,"properties":{"desired":{"a":1}}}`)); err != nil { // a module's; no tags to empty
		t.Fatal(err)
	}
	if m := twinChange("updateTwin", arm); strings.Contains(string(m.Body), "tags") {
		t.Errorf("tags that were not written are told of: %s", m.Body)
	}
	// Writes that change nothing, and such that are refused, are no events.
	if _, _, err := w.PatchTwin(ctx, lamp, nil, patch(t, `{}`)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.PatchTwin(ctx, lamp, iot.ParseMatch("stale"), patch(t, `{"tags":{"a":1}}`)); err == nil {
		t.Fatal("a stale ETag was taken")
	}
	// A replacement tells the whole twin.
	if _, _, err := w.ReplaceTwin(ctx, lamp, nil, patch(t, `{"tags":{"only":true},"properties":{"desired":{"fresh":2}}}`)); err != nil {
		t.Fatal(err)
	}
	m = twinChange("replaceTwin", lamp)
	stamp = `"$lastUpdated":"NOW","$lastUpdatedVersion":4`
	c.body(m, `{"deviceId":"lamp","etag":"AAAAAAAAAAQ=","version":5,"tags":{"only":true},"properties":{"desired":{"fresh":2,"$metadata":{`+stamp+`,"fresh":{`+stamp+`}},"$version":4},"reported":`+zeroSection+`}}`)

	// Connections, and reported properties.
	connection := func(op string, id iot.ID) string {
		t.Helper()
		m := c.next(iot.DeviceConnectionState, "deviceConnectionStateNotification", op, id)
		if !regexp.MustCompile(`^\{"sequenceNumber":"[0-9A-F]{64}"\}$`).Match(m.Body) {
			t.Errorf("%s: the body is %s", op, m.Body)
		}
		e, _ := event.Of(&m)
		return e.SequenceNumber
	}
	var numbers []string
	o, _ := connect(t, w, d, iot.Opening{Clean: true})
	numbers = append(numbers, connection("deviceConnected", lamp))
	if _, err := o.Session.PatchReported(ctx, []byte(` { "battery" : 7, "$version": 9 } `), 0); err != nil {
		t.Fatal(err)
	}
	m = twinChange("updateTwin", lamp)
	c.body(m, `{"version":5,"properties":{"reported":{"battery":7,"$metadata":{"$lastUpdated":"NOW","battery":{"$lastUpdated":"NOW"}},"$version":2}}}`)
	if _, err := o.Session.PatchReported(ctx, []byte(`[]`), 0); err == nil {
		t.Fatal("an array was reported")
	}
	again, _ := connect(t, w, d, iot.Opening{Clean: true}) // takes over: nothing changes
	o.Session.End(ctx)
	if _, err := w.Visit(ctx, w.Credentials(d)); err != nil { // only a connection is one
		t.Fatal(err)
	}
	again.Session.End(ctx)
	numbers = append(numbers, connection("deviceDisconnected", lamp))
	o, _ = connect(t, w, d, iot.Opening{Clean: true})
	numbers = append(numbers, connection("deviceConnected", lamp))
	if !slices.IsSorted(numbers) || len(slices.Compact(slices.Clone(numbers))) != len(numbers) {
		t.Errorf("sequence numbers do not grow: %v", numbers)
	}

	// A device that goes takes its modules along, and its connection.
	if err := w.DeleteDevice(ctx, lamp, nil); err != nil {
		t.Fatal(err)
	}
	o.Session.End(ctx)
	lifecycle("deleteDeviceIdentity", agent)
	lifecycle("deleteDeviceIdentity", edgeHub)
	lifecycle("deleteDeviceIdentity", arm)
	numbers = append(numbers, connection("deviceDisconnected", lamp))
	m = lifecycle("deleteDeviceIdentity", lamp)
	if e, _ := event.Of(&m); !strings.HasPrefix(string(m.Body), `{"deviceId":"lamp","etag":"AAAAAAAAAAQ=","version":5,"tags":{"only":true},"properties":{"desired":{"fresh":2,`) || !strings.Contains(string(e.Identity), `"connectionState":"Connected"`) {
		t.Errorf("a device that went is told of as %s, with %s", m.Body, e.Identity)
	}
	c.none()
	if numbers[3] <= numbers[2] {
		t.Errorf("sequence numbers do not grow: %v", numbers)
	}
	// Nothing of all that is a message.
	if got := w.Messages(t, lamp, 0); len(got) != 0 {
		t.Errorf("readers of messages saw %d events", len(got))
	}
}

// Numbers grow over a restart, too, and one that a crash leaves connected is told of.
func TestEvents_Restart(t *testing.T) {
	conform.Covers(t, "HS-113")
	t.Parallel()
	dir := t.TempDir()
	w := hubtest.New(t, hubtest.Options{Dir: dir})
	w.Interest.Want("test", iot.DeviceConnectionState)
	d := w.Device(t, lamp)
	connect(t, w, d, iot.Opening{Clean: true})
	last := ""
	for i := range 3 {
		var ops []string
		hubtest.Until(t, "the events", func() bool {
			ops, last = nil, ""
			seen := map[string]bool{} // a crash between the log and the store tells of an event twice, by one number
			for _, m := range w.Events(t, 1) {
				e, _ := event.Of(&m)
				if seen[e.SequenceNumber] {
					continue
				}
				if seen[e.SequenceNumber] = true; e.SequenceNumber <= last {
					t.Errorf("number %s comes behind %s", e.SequenceNumber, last)
				}
				ops, last = append(ops, e.Op), e.SequenceNumber
			}
			return len(ops) >= 1+2*i
		})
		if want := strings.TrimSuffix(strings.Repeat("deviceConnected deviceDisconnected ", i), " "); strings.Join(ops, " ") != strings.TrimSpace(want+" deviceConnected") {
			t.Fatalf("after %d restarts the log tells of %v", i, ops)
		}
		w.Restart(t) // the session is not ended, as in a crash
		connect(t, w, d, iot.Opening{Clean: true})
	}
}

func TestEvents_DigitalTwinAndJobs(t *testing.T) {
	t.Parallel()
	w := memory(t)
	ctx := t.Context()
	c := &collector{t: t, w: w}
	w.Interest.Want("test", iot.DigitalTwinChange, iot.DeviceJobLifecycle)
	change := func(want string) {
		t.Helper()
		c.body(c.next(iot.DigitalTwinChange, "digitalTwinChangeNotification", "updateTwin", lamp), want)
	}
	d := w.Device(t, lamp)
	if _, _, err := w.PatchTwin(ctx, lamp, nil, patch(t, `{"properties":{"desired":{"early":1}}}`)); err != nil { // no model yet
		t.Fatal(err)
	}
	cred := w.Credentials(d)
	cred.ModelID = "dtmi:x:y;1"
	o, err := w.Connect(ctx, cred, iot.Opening{Clean: true}, &link{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := digitaltwin.ParsePatch([]byte(`[{"op":"add","path":"/thermostat1","value":{"$metadata":{},"targetTemperature":21.5}},{"op":"replace","path":"/early","value":2}]`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.PatchDigitalTwin(ctx, lamp, nil, p); err != nil {
		t.Fatal(err)
	}
	change(`[{"op":"add","path":"/$metadata/early","value":{"desiredValue":2,"desiredVersion":3}},` +
		`{"op":"add","path":"/thermostat1/$metadata/targetTemperature","value":{"desiredValue":21.5,"desiredVersion":3}}]`)
	if _, err := o.Session.PatchReported(ctx, []byte(`{"serial":"s","thermostat1":{"__t":"c","targetTemperature":{"value":21.5,"ac":200,"av":3,"ad":"done"}}}`), 0); err != nil {
		t.Fatal(err)
	}
	change(`[{"op":"add","path":"/$metadata/serial/lastUpdateTime","value":"NOW"},{"op":"add","path":"/serial","value":"s"},` +
		`{"op":"add","path":"/thermostat1/$metadata/targetTemperature/ackCode","value":200},{"op":"add","path":"/thermostat1/$metadata/targetTemperature/ackDescription","value":"done"},` +
		`{"op":"add","path":"/thermostat1/$metadata/targetTemperature/ackVersion","value":3},{"op":"add","path":"/thermostat1/$metadata/targetTemperature/lastUpdateTime","value":"NOW"},` +
		`{"op":"add","path":"/thermostat1/targetTemperature","value":21.5}]`)
	if _, _, err := w.PatchTwin(ctx, lamp, nil, patch(t, `{"tags":{"a":1},"properties":{"desired":{"early":null,"thermostat1":null}}}`)); err != nil {
		t.Fatal(err)
	}
	change(`[{"op":"remove","path":"/$metadata/early"},{"op":"remove","path":"/thermostat1/$metadata/targetTemperature/desiredValue"},{"op":"remove","path":"/thermostat1/$metadata/targetTemperature/desiredVersion"}]`)
	if _, _, err := w.PatchTwin(ctx, lamp, nil, patch(t, `{"tags":{"a":2}}`)); err != nil { // tags are no part of it
		t.Fatal(err)
	}
	o.Session.End(ctx)

	j, err := job.Parse("j1", []byte(`{"type":"scheduleUpdateTwin","updateTwin":{"etag":"*","tags":{"job":1}},"queryCondition":"deviceId = 'lamp'"}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.CreateJob(ctx, j); err != nil {
		t.Fatal(err)
	}
	m := c.next(iot.DeviceJobLifecycle, "deviceJobLifecycleNotification", "deviceJobCompleted", lamp)
	var row struct{ DeviceID, JobID, JobType, Status string }
	if err := json.Unmarshal(m.Body, &row); err != nil || row.DeviceID != "lamp" || row.JobID != "j1" || row.JobType != "scheduleUpdateTwin" || row.Status != "completed" {
		t.Errorf("the job is told of as %s", m.Body)
	}
	c.none()
}

// Nobody wants them: nothing is made, and nothing waits in the store.
func TestEvents_Unwanted(t *testing.T) {
	t.Parallel()
	w := memory(t)
	d := w.Device(t, lamp)
	o, _ := connect(t, w, d, iot.Opening{Clean: true})
	if _, err := o.Session.PatchReported(t.Context(), []byte(`{"a":1}`), 0); err != nil {
		t.Fatal(err)
	}
	o.Session.End(t.Context())
	if fs, err := w.Store.Facts(t.Context(), 10); err != nil || len(fs) != 0 {
		t.Errorf("%d events wait in the store (%v)", len(fs), err)
	}
	(&collector{t: t, w: w}).none()
}

// deafLog is a log that takes nothing.
type deafLog struct{ tried int }

func (l *deafLog) Append(context.Context, []byte) (uint64, error) {
	l.tried++
	return 0, context.DeadlineExceeded
}

// An event waits in the store until the log takes it; the change does not wait.
func TestEvents_WaitForTheLog(t *testing.T) {
	t.Parallel()
	store := &facts{}
	for i := range 3 {
		store.add(int64(i + 1))
	}
	deaf := &deafLog{}
	r := &event.Relay{Store: store, Log: deaf, Logger: quiet()}
	ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	if err := r.Run(ctx); err != nil || deaf.tried == 0 || len(store.all) != 3 {
		t.Errorf("%d events wait behind a log that fails (tried %d times, %v), want 3", len(store.all), deaf.tried, err)
	}
}

// facts is an event.Store in memory.
type facts struct{ all []event.Fact }

func (f *facts) add(n int64) {
	f.all = append(f.all, event.Fact{Sequence: n, Data: telemetry.Batch(&iot.Message{Source: iot.TwinChange, Body: []byte("x")})})
}

func (f *facts) Facts(_ context.Context, limit int) ([]event.Fact, error) {
	return f.all[:min(limit, len(f.all))], nil
}

func (f *facts) ForgetFacts(_ context.Context, sequences []int64) error {
	f.all = slices.DeleteFunc(f.all, func(x event.Fact) bool { return slices.Contains(sequences, x.Sequence) })
	return nil
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

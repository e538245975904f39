package dps_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/dps"
	"github.com/vauban-iot/vauban/dps/dpstest"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/conform"
)

// answer is a final reply.
type answer struct{ dps.Reply }

func (a answer) document(t testing.TB) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(a.Body, &m); err != nil {
		t.Fatalf("body %q: %v", a.Body, err)
	}
	return m
}

func (a answer) state(t testing.TB) map[string]any {
	t.Helper()
	s, ok := a.document(t)["registrationState"].(map[string]any)
	if !ok {
		t.Fatalf("no registrationState in %s", a.Body)
	}
	return s
}

func caller(t testing.TB, w *dpstest.World, c dps.Credentials) *dps.Caller {
	t.Helper()
	who, err := w.Authenticate(t.Context(), c)
	if err != nil {
		t.Fatalf("authenticate %s: %v (%v)", c.RegistrationID, err, errors.Unwrap(err))
	}
	return who
}

// register registers and asks once.
func register(t testing.TB, w *dpstest.World, c dps.Credentials) answer {
	t.Helper()
	who := caller(t, w, c)
	r := w.Register(t.Context(), who, nil)
	if r.Status != 202 {
		t.Fatalf("register: %d %s (%v)", r.Status, r.Body, r.Err)
	}
	return answer{w.Status(t.Context(), who, r.OperationID)}
}

// device enrolls an individual and returns its credentials.
func device(t testing.TB, w *dpstest.World, id, more string) dps.Credentials {
	t.Helper()
	put(t, w, false, id, symmetric(groupKey, otherKey, more))
	return byToken(id, token(w, id, decode(t, groupKey)))
}

func TestRegister(t *testing.T) {
	conform.Covers(t, "DPS-11", "DPS-12")
	w := dpstest.New(t)
	c := device(t, w, "d1", `,"deviceId":"lamp","capabilities":{"iotEdge":true},"initialTwin":{"tags":{"a":1},"properties":{"desired":{"b":2}}}`)
	who := caller(t, w, c)

	// While the hub is busy: register waits, its repetition and a status query are told so.
	release := w.Hub.Hold()
	var first dps.Reply
	var wg sync.WaitGroup
	wg.Go(func() {
		first = w.Register(t.Context(), who, []byte(`{"registrationId":"D1","payload":{"modelId":"dtmi:x;1"}}`))
	})
	var second dps.Reply
	for second.OperationID == "" {
		second = repeat(t, w, who)
		time.Sleep(time.Millisecond)
	}
	running := w.Status(t.Context(), who, second.OperationID)
	release()
	wg.Wait()
	for _, r := range []dps.Reply{first, second, running} {
		a := answer{r}
		if r.Status != 202 || r.RetryAfter < 1 || r.RetryAfter > 3 || r.OperationID != first.OperationID {
			t.Errorf("reply %d, retry-after %d, operation %s; want 202, 1 to 3, %s", r.Status, r.RetryAfter, r.OperationID, first.OperationID)
		}
		d, s := a.document(t), a.state(t)
		if d["operationId"] != r.OperationID || d["status"] != "assigning" || s["registrationId"] != "d1" || s["status"] != "assigning" {
			t.Errorf("body %s", r.Body)
		}
	}

	done := answer{w.Status(t.Context(), who, first.OperationID)}
	s := done.state(t)
	if done.Status != 200 || done.RetryAfter != 0 || done.document(t)["status"] != "assigned" || s["assignedHub"] != dpstest.Host ||
		s["deviceId"] != "lamp" || s["substatus"] != "initialAssignment" || s["etag"] == "" || !strings.HasSuffix(s["createdDateTimeUtc"].(string), "Z") {
		t.Errorf("final reply %d %s", done.Status, done.Body)
	}
	a, ok := w.Hub.Device("lamp")
	if !ok || !a.Edge || string(a.Tags) != `{"a":1}` || string(a.Desired) != `{"b":2}` || !a.PrimaryKey.Matches(decode(t, groupKey)) {
		t.Errorf("the hub knows %+v", a)
	}
	look := answer{w.Lookup(t.Context(), who)}
	if l := look.document(t); look.Status != 200 || l["assignedHub"] != dpstest.Host || l["status"] != "assigned" {
		t.Errorf("lookup %d %s", look.Status, look.Body)
	}
}

// repeat registers again if the first registration has begun, without becoming the first itself.
func repeat(t *testing.T, w *dpstest.World, who *dps.Caller) dps.Reply {
	t.Helper()
	if !dps.Running(w.Service, who) {
		return dps.Reply{}
	}
	return w.Register(t.Context(), who, nil)
}

func TestStatus_OperationIsBoundToItsDevice(t *testing.T) {
	w := dpstest.New(t)
	one, two := caller(t, w, device(t, w, "d1", "")), caller(t, w, device(t, w, "d2", ""))
	op := w.Register(t.Context(), one, nil).OperationID
	for _, r := range []dps.Reply{w.Status(t.Context(), two, op), w.Status(t.Context(), one, "4.0.0"), w.Status(t.Context(), one, "")} {
		if r.Status != 404 || r.ErrorCode/1000 != 404 {
			t.Errorf("a foreign or unknown operation: %d %s, want 404", r.Status, r.Body)
		}
	}
	again := w.Register(t.Context(), one, nil).OperationID
	if r := w.Status(t.Context(), one, op); r.Status != 200 || again == op {
		t.Errorf("after a repeated registration the first operation is %d, want 200", r.Status)
	}
	for range 20 {
		w.Clock.Add(time.Second) // so that the device does not ask too often
		again = w.Register(t.Context(), one, nil).OperationID
	}
	if r := w.Status(t.Context(), one, op); r.Status != 404 {
		t.Errorf("an operation 20 registrations old is %d, want it forgotten", r.Status)
	}
	w.Clock.Add(16 * time.Minute)
	if r := w.Status(t.Context(), one, again); r.Status != 404 {
		t.Errorf("an operation 16 minutes old is %d, want 404", r.Status)
	}
}

func TestReply_SerialisationRules(t *testing.T) {
	conform.Covers(t, "DPS-13")
	w := dpstest.New(t)
	c := device(t, w, "d1", "")
	who := caller(t, w, c)
	w.Hub.Fail(fault.New(fault.Invalid, "the twin is too deep"))
	failed := register(t, w, c)
	lookup := w.Lookup(t.Context(), who)
	w.Hub.Fail(nil)
	pending := w.Register(t.Context(), who, []byte(`{"payload":null}`))
	assigned := register(t, w, c)
	for _, r := range []dps.Reply{pending, assigned.Reply, failed.Reply, lookup} {
		if bytes.Contains(r.Body, []byte("null")) || bytes.Contains(r.Body, []byte(`""`)) {
			t.Errorf("an absent member is written: %s", r.Body)
		}
		if bytes.Contains(r.Body, []byte("assignedHub")) != bytes.Contains(r.Body, []byte("deviceId")) {
			t.Errorf("assignedHub and deviceId are not paired: %s", r.Body)
		}
		if p, ok := (answer{r}).document(t)["payload"]; ok {
			t.Errorf("payload %v", p)
		}
	}
	if s := assigned.state(t); s["assignedHub"] == nil || s["deviceId"] == nil {
		t.Errorf("assigned without its hub and device: %s", assigned.Body)
	}
	s := failed.state(t)
	if failed.Status != 200 || failed.document(t)["status"] != "failed" || s["errorCode"] != 400004.0 || s["errorMessage"] != "the twin is too deep" {
		t.Errorf("failed registration: %d %s", failed.Status, failed.Body)
	}
	for _, member := range []string{"code", "message"} { // IoT Edge takes them for an error body (dps §5.2)
		if s[member] != nil {
			t.Errorf("a failed registration has the member %s", member)
		}
	}
}

func TestRegister_TransientFailureIsAnswered(t *testing.T) {
	w := dpstest.New(t)
	c := device(t, w, "d1", "")
	for _, err := range []error{fault.New(fault.Unavailable, "no disk"), errors.New("a defect: key sesame")} {
		w.Hub.Fail(err)
		r := w.Register(t.Context(), caller(t, w, c), nil)
		if r.Status < 500 || r.RetryAfter == 0 || r.OperationID != "" || bytes.Contains(r.Body, []byte("sesame")) {
			t.Errorf("%v: %d %s, retry-after %d", err, r.Status, r.Body, r.RetryAfter)
		}
	}
	w.Hub.Fail(nil)
	if got := register(t, w, c).state(t); got["status"] != "assigned" {
		t.Errorf("afterwards %v", got)
	}
}

func TestRegister_StaleSessionIsJudgedAnew(t *testing.T) {
	w := dpstest.New(t)
	put(t, w, true, "g", symmetric(groupKey, otherKey, ""))
	who := caller(t, w, byToken("d1", token(w, "d1", decode(t, derivedOf(t, "d1")))))
	w.Clock.Add(10 * time.Second)
	put(t, w, false, "d1", symmetric("", "", disabled))
	if r := w.Register(t.Context(), who, nil); r.Status != 401 {
		t.Errorf("a device that was cut off after it connected: %d %s, want 401", r.Status, r.Body)
	}
	if _, ok := w.Hub.Device("d1"); ok {
		t.Error("it was assigned")
	}
}

func TestCheckBody(t *testing.T) {
	tests := []struct {
		name, body string
		want       fault.Kind
	}{
		{"empty", "", admitted},
		{"blank", " ", admitted},
		{"npm", `{"registrationId":"d1"}`, admitted},
		{"Python", `{"payload": null, "registrationId": "D1"}`, admitted},
		{"NetX Duo", `{"registrationId" : "d1", "payload" : {"a" : 1}}`, admitted},
		{".NET", `{"payload":{"a":1}}`, admitted},
		{"any payload", `{"payload":"text"}`, admitted},
		{"another id", `{"registrationId":"d2"}`, fault.Invalid},
		{"no JSON", `{`, fault.Malformed},
		{"no object", `[]`, fault.Malformed},
		{"signing request", `{"csr":"MII="}`, fault.Invalid},
		{"just small enough", `{"payload":"` + strings.Repeat("x", dps.MaxBody-15) + `"}`, admitted},
		{"too large", `{"payload":"` + strings.Repeat("x", dps.MaxBody-14) + `"}`, fault.TooLarge},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := dps.CheckBody("d1", []byte(test.body))
			got := admitted
			if err != nil {
				got = fault.KindOf(err)
			}
			if got != test.want {
				t.Errorf("%d bytes: kind %v (%v), want %v", len(test.body), got, err, test.want)
			}
		})
	}
	w := dpstest.New(t)
	if r := w.Register(t.Context(), caller(t, w, device(t, w, "d1", "")), []byte(`{"registrationId":"d2"}`)); r.Status != 400 {
		t.Errorf("register with another id: %d, want 400", r.Status)
	}
}

func TestReprovisioning(t *testing.T) {
	conform.Covers(t, "DPS-27")
	const twin = `,"initialTwin":{"tags":{"from":"dps"}}`
	policy := func(update, migrate bool) string {
		return fmt.Sprintf(`,"reprovisionPolicy":{"updateHubAssignment":%v,"migrateDeviceData":%v}`, update, migrate)
	}
	tests := []struct {
		name, policy    string
		vanish          bool
		substatus, tags string
	}{
		{"default keeps data", "", false, "initialAssignment", "changed"},
		{"migrate keeps data", policy(true, true), false, "initialAssignment", "changed"},
		{"reset", policy(true, false), false, "deviceDataReset", "dps"},
		{"never", policy(false, true), false, "initialAssignment", "changed"},
		{"never, without migration", policy(false, false), false, "initialAssignment", "changed"},
		{"migrate a vanished device", policy(true, true), true, "initialAssignment", "dps"},
		{"never, but the device vanished", policy(false, true), true, "reprovisionedToInitialAssignment", "dps"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := dpstest.New(t)
			c := device(t, w, "d1", twin+test.policy)
			first := register(t, w, c).state(t)
			if a, _ := w.Hub.Device("d1"); string(a.Tags) != `{"from":"dps"}` || first["substatus"] != "initialAssignment" {
				t.Fatalf("first: substatus %v, tags %s", first["substatus"], a.Tags)
			}
			w.Hub.SetTags("d1", `{"from":"changed"}`)
			if test.vanish {
				w.Hub.Delete("d1")
			}
			w.Clock.Add(time.Minute)
			again := register(t, w, c).state(t)
			if again["substatus"] != test.substatus {
				t.Errorf("substatus %v, want %s", again["substatus"], test.substatus)
			}
			if a, ok := w.Hub.Device("d1"); !ok || string(a.Tags) != `{"from":"`+test.tags+`"}` {
				t.Errorf("tags %s, want those from %s", a.Tags, test.tags)
			}
			if again["createdDateTimeUtc"] != first["createdDateTimeUtc"] || again["lastUpdatedDateTimeUtc"] == first["lastUpdatedDateTimeUtc"] {
				t.Errorf("times %v, then %v", first, again)
			}
			// Without its record the device registers as if for the first time; the hub's data stays.
			if err := w.DeleteRegistration(t.Context(), "D1", nil); err != nil {
				t.Fatal(err)
			}
			if s := register(t, w, c).state(t); s["substatus"] != "initialAssignment" {
				t.Errorf("after deleting the record: %v", s["substatus"])
			}
		})
	}
}

func TestLongNames(t *testing.T) {
	conform.Covers(t, "DPS-35")
	var log bytes.Buffer
	w := dpstest.NewLogged(t, slog.New(slog.NewTextHandler(&log, nil)))
	id := strings.Repeat("a1", 64)
	c := device(t, w, id, `,"deviceId":"`+strings.Repeat("B", 128)+`"`)
	who := caller(t, w, c)
	op := w.Register(t.Context(), who, nil).OperationID
	if op == "" || len(op) > 100 || strings.ContainsAny(op, "&/?#+") {
		t.Errorf("operation id %q", op)
	}
	if s := (answer{w.Status(t.Context(), who, op)}).state(t); s["deviceId"] != strings.Repeat("B", 128) {
		t.Errorf("device id %v", s["deviceId"])
	}
	if !strings.Contains(log.String(), "NetX Duo") {
		t.Errorf("no warning: %s", &log)
	}
	if _, err := w.PutEnrollment(t.Context(), false, id+"c", []byte(symmetric("", "", "")), nil); !fault.Is(err, fault.Invalid) {
		t.Errorf("129 characters: %v, want Invalid", err)
	}
	if _, err := dps.New(dps.Config{IDScope: "s", Store: dps.Store(nil), Hub: w.Hub}); err == nil {
		t.Error("a service without a store")
	}
}

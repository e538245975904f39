package mqtt_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/mqtt/mqtttest"
	"github.com/vauban-iot/vauban/hub/command"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/sdk/service"
	wire "github.com/vauban-iot/vauban/wire/mqtt"
)

const methods = "$iothub/methods/POST/#"

type outcome struct {
	service.MethodResult
	err error
}

// invoke calls a method through the service API and hands over what comes of it.
func (s *server) invoke(id iot.ID, name string, payload json.RawMessage) chan outcome {
	done := make(chan outcome, 1)
	go func() {
		r, err := s.service.InvokeMethod(context.Background(), id.Device, name, payload, 30*time.Second, 0)
		done <- outcome{r, err}
	}()
	return done
}

// invokeRaw is invoke with a body as it goes over the wire.
func (s *server) invokeRaw(id iot.ID, body string) chan outcome {
	done := make(chan outcome, 1)
	go func() {
		data, err := s.service.Do(context.Background(), "POST", service.TwinPath(id.Device)+"/methods", "", nil, []byte(body))
		r := outcome{err: err}
		if err == nil {
			r.err = json.Unmarshal(data, &r.MethodResult)
		}
		done <- r
	}()
	return done
}

var shortRID = regexp.MustCompile(`^[0-9a-f]{1,5}$`)

// call expects a method request and returns its rid.
func call(t *testing.T, c *mqtttest.Client, name string) (rid string, payload []byte) {
	t.Helper()
	p := c.NextPublish()
	prefix := "$iothub/methods/POST/" + name + "/?$rid="
	rid, ok := strings.CutPrefix(string(p.Topic), prefix)
	if !ok || p.QoS != 0 {
		t.Fatalf("got %q at QoS %d, want %q... at 0", p.Topic, p.QoS, prefix)
	}
	if !shortRID.MatchString(rid) {
		t.Fatalf("rid %q, want at most five lower-case hexadecimal digits", rid)
	}
	return rid, p.Payload
}

func answer(status int, rid string) string {
	return fmt.Sprintf("$iothub/methods/res/%d/?$rid=%s", status, rid)
}

func TestMethod_Request(t *testing.T) { overBoth(t, testMethod_Request) }

func testMethod_Request(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-64", "HD-68")
	d := shared.device(t)
	c := shared.connect(t, d)
	c.Subscribe(1, methods) // even so, requests come at QoS 0
	seen := map[string]bool{}
	for _, name := range []string{"reboot", "thermostat1*getMaxMinReport", "a.b-c_d!$'()", strings.Repeat("n", 100)} {
		done := shared.invokeRaw(d.ID, fmt.Sprintf(`{"methodName":%q,"payload":{"<k>": [1, "&"]},"responseTimeoutInSeconds":30}`, name))
		rid, payload := call(t, c, name)
		if string(payload) != `{"<k>":[1,"&"]}` {
			t.Errorf("payload %s", payload)
		}
		if seen[rid] {
			t.Errorf("rid %q was used before", rid)
		}
		seen[rid] = true
		c.Publish0(answer(200, rid), []byte(`{}`))
		if r := <-done; r.err != nil {
			t.Errorf("%s: %v", name, r.err)
		}
	}
	done := shared.invoke(d.ID, "nothing", nil)
	rid, payload := call(t, c, "nothing")
	if len(payload) != 0 && string(payload) != "null" {
		t.Errorf("payload %q for none", payload)
	}
	c.Publish0(answer(200, rid), nil)
	<-done
	c.Disconnect()
}

// The firmware of ThreadX's getting-started keeps a request id in six bytes, its end among them: ids stay so short however many calls
// one session answers, and every answer finds its call.
func TestMethod_ManyCalls(t *testing.T) {
	if testing.Short() {
		t.Skip("70,000 calls take some seconds; run without -short")
	}
	t.Parallel()
	conform.Covers(t, "HD-69")
	const calls, callers = 70_000, 8
	d := shared.device(t)
	c := shared.connect(t, d)
	c.Subscribe(0, methods)
	var left atomic.Int64
	left.Store(calls)
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for n := left.Add(-1); n >= 0; n = left.Add(-1) {
				want := fmt.Sprintf(`{"n":%d}`, n)
				r, err := shared.Invoke(t.Context(), d.ID, command.Method{Name: "count", Payload: []byte(want), ResponseTimeout: 30 * time.Second})
				if err != nil || r.Status != 200 || string(r.Payload) != want {
					t.Errorf("call %s: %d %s, %v", want, r.Status, r.Payload, err)
					return
				}
			}
		})
	}
	for range calls {
		rid, payload := call(t, c, "count")
		c.Publish0(answer(200, rid), payload)
	}
	all.Wait()
	c.Disconnect()
}

func TestMethod_Answers(t *testing.T) { overBoth(t, testMethod_Answers) }

func testMethod_Answers(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-65")
	d := shared.device(t)
	c := shared.connect(t, d)
	c.Subscribe(0, methods)
	for name, tc := range map[string]struct {
		status     int
		body, want string
	}{
		"JSON":          {200, `{"a":[1,"<&>"]}`, `{"a":[1,"<&>"]}`},
		"string":        {200, `"done"`, `"done"`},
		"null":          {200, `null`, `null`},
		"failure":       {500, `{"why":"x"}`, `{"why":"x"}`},
		"empty":         {200, ``, `null`},
		"not JSON":      {200, `undefined`, `null`},
		"broken JSON":   {404, `{"a":`, `null`},
		"not even text": {200, "\xff\xfe", `null`},
		"status 0":      {0, `1`, `1`},
		"negative":      {-1, `1`, `1`},
	} {
		done := shared.invoke(d.ID, "m", nil)
		rid, _ := call(t, c, "m")
		if name == "JSON" {
			id := c.ID() // at QoS 1 the answer is acknowledged
			c.Send(wire.AppendPublish(nil, &wire.Publish{QoS: 1, PacketID: id, Topic: []byte(answer(tc.status, rid)), Payload: []byte(tc.body)}))
			c.Expect(wire.AppendPuback(nil, id))
		} else {
			c.Publish0(answer(tc.status, rid), []byte(tc.body))
		}
		r := <-done
		if r.err != nil {
			t.Errorf("%s: %v", name, r.err)
			continue
		}
		var got, want any
		if err := json.Unmarshal(r.Payload, &got); err != nil {
			t.Errorf("%s: payload %s: %v", name, r.Payload, err)
		}
		if err := json.Unmarshal([]byte(tc.want), &want); err != nil {
			t.Fatal(err)
		}
		if r.Status != tc.status || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: the caller got %d %s, want %d %s", name, r.Status, r.Payload, tc.status, tc.want)
		}
	}
	c.Disconnect()
}

func TestMethod_NobodyAnswers(t *testing.T) { overBoth(t, testMethod_NobodyAnswers) }

func testMethod_NobodyAnswers(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-66")
	d := shared.device(t)
	if r := <-shared.invoke(d.ID, "m", nil); !isCode(r.err, 404, "404103") {
		t.Errorf("not connected: got %v, want 404103", r.err)
	}
	c := shared.connect(t, d)
	if r := <-shared.invoke(d.ID, "m", nil); !isCode(r.err, 404, "404103") {
		t.Errorf("not subscribed: got %v, want 404103", r.err)
	}
	c.Subscribe(0, methods)
	type timed struct {
		outcome
		took time.Duration
	}
	done := make(chan timed, 1)
	go func() {
		begin := time.Now()
		r, err := shared.service.InvokeMethod(context.Background(), d.ID.Device, "slow", nil, 5*time.Second, 0)
		done <- timed{outcome{r, err}, time.Since(begin)}
	}()
	rid, _ := call(t, c, "slow")
	r := <-done
	if !isCode(r.err, 504, "504101") || r.took > 6*time.Second || r.took < 4*time.Second {
		t.Errorf("no answer: got %v after %v, want 504101 after about 5 s", r.err, r.took)
	}
	// Late, twice, and for nobody: ignored, and the connection stands.
	c.Publish(answer(200, rid), []byte(`{"late":true}`))
	c.Publish(answer(200, rid), []byte(`{"late":true}`))
	c.Publish(answer(200, "no-rid-of-ours"), nil)
	next := shared.invoke(d.ID, "next", nil)
	rid, _ = call(t, c, "next")
	c.Publish0(answer(200, rid), []byte(`"now"`))
	if r := <-next; r.err != nil || string(r.Payload) != `"now"` {
		t.Errorf("after the late answer: %s, %v", r.Payload, r.err)
	}
	c.Disconnect()
}

// isCode reports whether err is a refusal of the service API with this HTTP status and number.
func isCode(err error, status int, number string) bool {
	e, ok := err.(*service.Error)
	if !ok || e.Status != status {
		return false
	}
	return map[string]string{"404103": "DeviceNotOnline", "504101": "GatewayTimeout", "413001": "MessageTooLarge"}[number] == e.Code
}

func TestMethod_PayloadLimits(t *testing.T) { overBoth(t, testMethod_PayloadLimits) }

func testMethod_PayloadLimits(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-67")
	d := shared.device(t)
	c := shared.connect(t, d)
	c.Subscribe(0, methods)
	// < would grow sixfold if anybody escaped it for HTML on the way.
	whole := json.RawMessage(`"` + strings.Repeat("<", 128<<10-2) + `"`)
	over := json.RawMessage(`"` + strings.Repeat("<", 128<<10-1) + `"`)
	type result struct {
		command.Result
		err error
	}
	invoke := func(payload json.RawMessage) chan result {
		done := make(chan result, 1)
		go func() {
			r, err := shared.Invoke(context.Background(), d.ID, command.Method{Name: "m", Payload: payload, ResponseTimeout: 30 * time.Second})
			done <- result{r, err}
		}()
		return done
	}
	done := invoke(whole)
	rid, payload := call(t, c, "m")
	if !bytes.Equal(payload, whole) {
		t.Errorf("the device got %d bytes, want the %d sent", len(payload), len(whole))
	}
	c.Publish0(answer(200, rid), whole)
	if r := <-done; r.err != nil || !bytes.Equal(r.Payload, whole) {
		t.Errorf("the caller got %d bytes and %v, want %d", len(r.Payload), r.err, len(whole))
	}
	if r := <-invoke(over); !fault.Is(r.err, fault.TooLarge) {
		t.Errorf("a payload of %d bytes: got %v, want too large", len(over), r.err)
	}
	done = invoke(nil)
	rid, _ = call(t, c, "m")
	c.Publish0(answer(200, rid), over)
	if r := <-done; !fault.Is(r.err, fault.BadDeviceResponse) {
		t.Errorf("an answer of %d bytes: got %v, want bad device response", len(over), r.err)
	}
	c.Publish(events(d.ID), []byte("still connected"))
	c.Disconnect()
}

func TestMethod_Many(t *testing.T) { overBoth(t, testMethod_Many) }

func testMethod_Many(t *testing.T, shared *server) {
	t.Parallel()
	d := shared.device(t)
	c := shared.connect(t, d)
	c.Subscribe(0, methods)
	const n = 100
	var pending []chan outcome
	for i := range n {
		pending = append(pending, shared.invoke(d.ID, fmt.Sprintf("m%d", i), nil))
	}
	rids := map[string]string{}
	for range n {
		p := c.NextPublish()
		name, rid, _ := strings.Cut(strings.TrimPrefix(string(p.Topic), "$iothub/methods/POST/"), "/?$rid=")
		if rids[rid] != "" {
			t.Fatalf("rid %s was given twice", rid)
		}
		rids[rid] = name
	}
	for rid, name := range rids { // in any order
		c.Publish0(answer(200, rid), fmt.Appendf(nil, "%q", name))
	}
	for i, done := range pending {
		if r := <-done; r.err != nil || string(r.Payload) != fmt.Sprintf(`"m%d"`, i) {
			t.Errorf("method %d: %s, %v", i, r.Payload, r.err)
		}
	}
	c.Disconnect()
}

func TestMethod_ConnectTimeout(t *testing.T) { overBoth(t, testMethod_ConnectTimeout) }

func testMethod_ConnectTimeout(t *testing.T, shared *server) {
	t.Parallel()
	d := shared.device(t)
	done := make(chan outcome, 1)
	go func() {
		r, err := shared.service.InvokeMethod(context.Background(), d.ID.Device, "patient", nil, 10*time.Second, 10*time.Second)
		done <- outcome{r, err}
	}()
	c := shared.connect(t, d)
	c.Silent(150 * time.Millisecond) // not yet: the device does not listen
	c.Subscribe(0, methods)
	rid, _ := call(t, c, "patient")
	c.Publish0(answer(201, rid), []byte(`1`))
	if r := <-done; r.err != nil || r.Status != 201 {
		t.Errorf("got %d, %v", r.Status, r.err)
	}
	c.Disconnect()
}

func TestMethod_RefusedToTheCaller(t *testing.T) { overBoth(t, testMethod_RefusedToTheCaller) }

func testMethod_RefusedToTheCaller(t *testing.T, shared *server) {
	t.Parallel()
	d := shared.device(t)
	for name, tc := range map[string]struct {
		id   iot.ID
		m    command.Method
		want fault.Kind
	}{
		"unknown device": {iot.ID{Device: "nobody"}, command.Method{Name: "m", ResponseTimeout: 5 * time.Second}, fault.NotFound},
		"no name":        {d.ID, command.Method{ResponseTimeout: 5 * time.Second}, fault.Invalid},
		"long name":      {d.ID, command.Method{Name: strings.Repeat("n", 101), ResponseTimeout: 5 * time.Second}, fault.Invalid},
		"slash":          {d.ID, command.Method{Name: "a/b", ResponseTimeout: 5 * time.Second}, fault.Invalid},
		"blank":          {d.ID, command.Method{Name: "a b", ResponseTimeout: 5 * time.Second}, fault.Invalid},
		"short time":     {d.ID, command.Method{Name: "m", ResponseTimeout: 4 * time.Second}, fault.Invalid},
		"long time":      {d.ID, command.Method{Name: "m", ResponseTimeout: 301 * time.Second}, fault.Invalid},
		"long wait":      {d.ID, command.Method{Name: "m", ResponseTimeout: 5 * time.Second, ConnectTimeout: 301 * time.Second}, fault.Invalid},
	} {
		if _, err := shared.Invoke(t.Context(), tc.id, tc.m); !fault.Is(err, tc.want) {
			t.Errorf("%s: got %v, want kind %v", name, err, tc.want)
		}
	}
}

package mqtt_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vauban-iot/vauban/head/mqtt/mqtttest"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
	wire "github.com/vauban-iot/vauban/wire/mqtt"
)

const (
	twinAnswers = "$iothub/twin/res/#"
	desiredOnly = "$iothub/twin/PATCH/properties/desired/#"
)

// desired patches the desired properties as a service does.
func (s *server) desired(t *testing.T, id iot.ID, patch string) int64 {
	t.Helper()
	_, tw, err := s.PatchTwin(t.Context(), id, nil, twin.Patch{HasDesired: true, Desired: json.RawMessage(patch)})
	if err != nil {
		t.Fatal(err)
	}
	return tw.DesiredVersion
}

// getTwin asks for the twin and returns the answer's body.
func getTwin(t *testing.T, c *mqtttest.Client, rid string) string {
	t.Helper()
	c.Publish0("$iothub/twin/GET/?$rid="+rid, nil)
	p := c.NextPublish()
	if want := "$iothub/twin/res/200/?$rid=" + rid; string(p.Topic) != want {
		t.Fatalf("got %q %s, want %q", p.Topic, p.Payload, want)
	}
	return string(p.Payload)
}

// report patches the reported properties and returns the new version.
func report(t *testing.T, c *mqtttest.Client, version int, patch string) {
	t.Helper()
	c.Publish0("$iothub/twin/PATCH/properties/reported/?$rid=9", []byte(patch))
	want := fmt.Sprintf("$iothub/twin/res/204/?$rid=9&$version=%d", version)
	if p := c.NextPublish(); string(p.Topic) != want || len(p.Payload) != 0 {
		t.Fatalf("got %q %q, want %q and no body", p.Topic, p.Payload, want)
	}
}

func TestTwin_Get(t *testing.T) { overBoth(t, testTwin_Get) }

func testTwin_Get(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-53", "HD-61")
	d := shared.device(t)
	if _, _, err := shared.PatchTwin(t.Context(), d.ID, nil, twin.Patch{HasTags: true, Tags: json.RawMessage(`{"secret":"tag"}`)}); err != nil {
		t.Fatal(err)
	}
	c := shared.connect(t, d)
	c.Subscribe(0, twinAnswers)
	if got, want := getTwin(t, c, "1"), `{"desired":{"$version":1},"reported":{"$version":1}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	shared.desired(t, d.ID, `{"b":1,"a":{"x":"y"}}`)
	report(t, c, 2, `{"r":true}`)
	want := `{"desired":{"b":1,"a":{"x":"y"},"$version":2},"reported":{"r":true,"$version":2}}`
	if got := getTwin(t, c, "2"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	c.Publish0("$iothub/twin/GET/?$rid=3", []byte(" "))
	if p := c.NextPublish(); string(p.Topic) != "$iothub/twin/res/200/?$rid=3" || string(p.Payload) != want {
		t.Errorf("with a blank as body: got %q %s", p.Topic, p.Payload)
	}
	c.Disconnect()
}

func TestTwin_RidEcho(t *testing.T) { overBoth(t, testTwin_RidEcho) }

func testTwin_RidEcho(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-54", "HD-55")
	d := shared.device(t)
	c := shared.connect(t, d)
	c.Subscribe(1, twinAnswers)
	version := 1
	for _, rid := range []string{"1", "42", "7d7f2b7e-3c7b-4cfa-8c22-2c1bd4a7c9d4", "a%20b"} {
		c.Publish0("$iothub/twin/GET/?$rid="+rid, nil)
		p := c.NextPublish()
		if want := "$iothub/twin/res/200/?$rid=" + rid; string(p.Topic) != want || p.QoS != 1 {
			t.Errorf("got %q at QoS %d, want %q at 1", p.Topic, p.QoS, want)
		}
		c.Send(wire.AppendPuback(nil, p.PacketID))
		version++
		c.Publish0("$iothub/twin/PATCH/properties/reported/?$rid="+rid, []byte(`{"n":1}`))
		p = c.NextPublish()
		if want := fmt.Sprintf("$iothub/twin/res/204/?$rid=%s&$version=%d", rid, version); string(p.Topic) != want || len(p.Payload) != 0 {
			t.Errorf("got %q %q, want %q and an empty body", p.Topic, p.Payload, want)
		}
		c.Send(wire.AppendPuback(nil, p.PacketID))
	}
	c.Disconnect()
}

func TestTwin_Merge(t *testing.T) { overBoth(t, testTwin_Merge) }

func testTwin_Merge(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-56")
	d := shared.device(t)
	c := shared.connect(t, d)
	c.Subscribe(0, twinAnswers)
	for i, step := range []struct{ patch, want string }{
		{`{"a":1,"o":{"x":1,"y":{"z":2}},"l":[1,2]}`, `{"a":1,"o":{"x":1,"y":{"z":2}},"l":[1,2]`},
		{`{"a":null}`, `{"o":{"x":1,"y":{"z":2}},"l":[1,2]`},
		{`{"o":{"y":{"w":3}}}`, `{"o":{"x":1,"y":{"z":2,"w":3}},"l":[1,2]`},
		{`{"o":{"y":{"z":null}},"l":[3]}`, `{"o":{"x":1,"y":{"w":3}},"l":[3]`},
		{`{"o":5}`, `{"o":5,"l":[3]`},
		{`{"never":null}`, `{"o":5,"l":[3]`},
		{`{}`, `{"o":5,"l":[3]`},
	} {
		report(t, c, i+2, step.patch)
		want := fmt.Sprintf(`{"desired":{"$version":1},"reported":%s,"$version":%d}}`, step.want, i+2)
		if got := getTwin(t, c, "1"); got != want {
			t.Errorf("after %s: got %s, want %s", step.patch, got, want)
		}
	}
	c.Disconnect()
}

func TestTwin_BadPatches(t *testing.T) { overBoth(t, testTwin_BadPatches) }

func testTwin_BadPatches(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-57")
	d := shared.device(t)
	c := shared.connect(t, d)
	c.Subscribe(0, twinAnswers)
	report(t, c, 2, `{"kept":1}`)
	for name, tc := range map[string]struct {
		patch        string
		status, code int
	}{
		"broken JSON":        {`{"a":`, 400, 400006},
		"no JSON":            {`hello`, 400, 400006},
		"empty body":         {``, 400, 400006},
		"two documents":      {`{} {}`, 400, 400006},
		"array":              {`[1]`, 400, 400004},
		"string":             {`"a"`, 400, 400004},
		"null":               {`null`, 400, 400004},
		"dollar key":         {`{"$x":1}`, 400, 400004},
		"version key":        {`{"o":{"$version":1}}`, 400, 400004},
		"dot key":            {`{"a.b":1}`, 400, 400004},
		"blank key":          {`{"a b":1}`, 400, 400004},
		"control key":        {`{"a\u0001":1}`, 400, 400004},
		"depth 11":           {strings.Repeat(`{"a":`, 11) + `1` + strings.Repeat(`}`, 11), 400, 400004},
		"33 KB":              {`{` + keys(9, 3700) + `}`, 400, 400004},
		"5 KB string":        {`{"a":"` + strings.Repeat("x", 5<<10) + `"}`, 400, 400004},
		"integer over limit": {`{"a":4503599627370497}`, 400, 400004},
	} {
		c.Publish0("$iothub/twin/PATCH/properties/reported/?$rid=77", []byte(tc.patch))
		p := c.NextPublish()
		if want := fmt.Sprintf("$iothub/twin/res/%d/?$rid=77", tc.status); string(p.Topic) != want {
			t.Errorf("%s: topic %q, want %q", name, p.Topic, want)
		}
		checkTwinError(t, name, p.Payload, tc.code)
	}
	// A base version that does not stand.
	c.Publish0("$iothub/twin/PATCH/properties/reported/?$rid=78&$version=9", []byte(`{"a":1}`))
	if p := c.NextPublish(); string(p.Topic) != "$iothub/twin/res/412/?$rid=78" {
		t.Errorf("stale base: topic %q, want 412", p.Topic)
	} else {
		checkTwinError(t, "stale base", p.Payload, 412001)
	}
	c.Publish0("$iothub/twin/PATCH/properties/reported/?$rid=79&$version=2", []byte(`{"kept":2}`))
	if p := c.NextPublish(); string(p.Topic) != "$iothub/twin/res/204/?$rid=79&$version=3" {
		t.Errorf("right base: topic %q, want 204", p.Topic)
	}
	if got, want := getTwin(t, c, "1"), `{"desired":{"$version":1},"reported":{"kept":2,"$version":3}}`; got != want {
		t.Errorf("after the refusals: %s, want %s", got, want)
	}
	c.Disconnect()
}

// keys is the inside of an object with n strings of size bytes.
func keys(n, size int) string {
	var parts []string
	for i := range n {
		parts = append(parts, fmt.Sprintf(`"k%d":"%s"`, i, strings.Repeat("x", size)))
	}
	return strings.Join(parts, ",")
}

func checkTwinError(t *testing.T, name string, body []byte, code int) {
	t.Helper()
	var e struct {
		ErrorCode    json.Number
		TrackingID   string `json:"trackingId"`
		Message      string
		TimestampUTC string `json:"timestampUtc"`
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if err := dec.Decode(&e); err != nil {
		t.Errorf("%s: body %s is no JSON: %v", name, body, err)
		return
	}
	if !bytes.Contains(body, fmt.Appendf(nil, `"errorCode":%d,`, code)) || e.TrackingID == "" || e.Message == "" {
		t.Errorf("%s: body %s, want code %d as a number, trackingId and message", name, body, code)
	}
	if !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z$`).MatchString(e.TimestampUTC) {
		t.Errorf("%s: timestampUtc %q", name, e.TimestampUTC)
	}
}

func TestTwin_BadPatchIsOneLogLine(t *testing.T) {
	t.Parallel()
	d := shared.device(t)
	c := shared.connect(t, d)
	c.Subscribe(0, twinAnswers)
	c.Publish0("$iothub/twin/PATCH/properties/reported/?$rid=1", []byte(`{"a":`))
	c.NextPublish()
	if line := shared.oneLine(t, `device="`+d.ID.Device+`"`); line.Level != slog.LevelInfo || line.Attr("status") != "400" {
		t.Errorf("got %v line %s", line.Level, line.Text)
	}
	c.Publish(events(d.ID), []byte("still served"))
	c.Disconnect()
}

func TestTwin_DesiredPush(t *testing.T) { overBoth(t, testTwin_DesiredPush) }

func testTwin_DesiredPush(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-58", "HD-59")
	d := shared.device(t)
	c, _ := shared.resume(t, d)
	shared.desired(t, d.ID, `{"unheard":1}`)
	c.Silent(30 * time.Millisecond)
	c.Subscribe(0, desiredOnly)
	c.Silent(30 * time.Millisecond) // the past is not replayed
	const n = 40
	for i := range n {
		shared.desired(t, d.ID, fmt.Sprintf(`{"n":%d,"o":{"k":null}}`, i))
	}
	for i := range n {
		v := i + 3
		p := c.NextPublish()
		wantTopic, wantBody := fmt.Sprintf("$iothub/twin/PATCH/properties/desired/?$version=%d", v), fmt.Sprintf(`{"n":%d,"o":{"k":null},"$version":%d}`, i, v)
		if string(p.Topic) != wantTopic || string(p.Payload) != wantBody {
			t.Fatalf("got %q %s, want %q %s", p.Topic, p.Payload, wantTopic, wantBody)
		}
	}
	c.Silent(30 * time.Millisecond) // each came once
	id := c.ID()
	c.Send(wire.AppendUnsubscribe(nil, id, []string{desiredOnly}))
	c.Expect(wire.AppendUnsuback(nil, id))
	shared.desired(t, d.ID, `{"unheard":2}`)
	c.Silent(30 * time.Millisecond)
	c.Subscribe(0, desiredOnly)
	c.Drop()
	shared.connected(t, d.ID, false)

	shared.desired(t, d.ID, `{"unheard":3}`)
	c, present := shared.resume(t, d)
	if !present {
		t.Fatal("no stored session")
	}
	c.Silent(30 * time.Millisecond)
	c.Subscribe(0, twinAnswers)
	want := fmt.Sprintf(`{"desired":{"unheard":3,"n":%d,"o":{},"$version":%d},"reported":{"$version":1}}`, n-1, n+4)
	if got := getTwin(t, c, "1"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	v := shared.desired(t, d.ID, `{"heard":1}`)
	if p := c.NextPublish(); string(p.Topic) != fmt.Sprintf("$iothub/twin/PATCH/properties/desired/?$version=%d", v) {
		t.Errorf("got %q, want version %d", p.Topic, v)
	}
	c.Disconnect()
}

// Many writers at once: what arrives is in version order without a gap.
func TestTwin_DesiredOrderUnderLoad(t *testing.T) { overBoth(t, testTwin_DesiredOrderUnderLoad) }

func testTwin_DesiredOrderUnderLoad(t *testing.T, shared *server) {
	t.Parallel()
	d := shared.device(t)
	c := shared.connect(t, d)
	c.Subscribe(1, desiredOnly)
	const writers, each = 8, 10
	errs := make(chan error, writers)
	for w := range writers {
		go func() {
			var err error
			for i := range each {
				if _, _, e := shared.PatchTwin(t.Context(), d.ID, nil, twin.Patch{HasDesired: true, Desired: fmt.Appendf(nil, `{"w%d":%d}`, w, i)}); e != nil {
					err = e
				}
			}
			errs <- err
		}()
	}
	for v := 2; v < writers*each+2; v++ {
		if p := c.NextPublish(); string(p.Topic) != fmt.Sprintf("$iothub/twin/PATCH/properties/desired/?$version=%d", v) {
			t.Fatalf("got %q, want version %d", p.Topic, v)
		}
	}
	for range writers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	c.Disconnect()
}

func TestTwin_Numbers(t *testing.T) { overBoth(t, testTwin_Numbers) }

func testTwin_Numbers(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-60")
	d := shared.device(t)
	c := shared.connect(t, d)
	c.Subscribe(0, twinAnswers)
	const body = `"min":-4503599627370496,"max":4503599627370496,"e":1.50,"text":"<&>\u00e9"`
	report(t, c, 2, `{`+body+`}`)
	shared.desired(t, d.ID, `{`+body+`}`)
	if got, want := getTwin(t, c, "1"), `{"desired":{`+body+`,"$version":2},"reported":{`+body+`,"$version":2}}`; cmp.Diff(want, got) != "" {
		t.Errorf("(-want +got):\n%s", cmp.Diff(want, got))
	}
	c.Subscribe(0, desiredOnly)
	shared.desired(t, d.ID, `{"min":null}`)
	c.NextPublish()
	shared.desired(t, d.ID, `{`+body+`}`)
	if p := c.NextPublish(); string(p.Payload) != `{`+body+`,"$version":4}` {
		t.Errorf("pushed %s", p.Payload)
	}
	c.Disconnect()
}

func TestTwin_GetWithoutSubscription(t *testing.T) { overBoth(t, testTwin_GetWithoutSubscription) }

func testTwin_GetWithoutSubscription(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-62")
	d := shared.device(t)
	c := shared.connect(t, d)
	c.Publish0("$iothub/twin/GET/?$rid=1", nil)
	c.Publish("$iothub/twin/GET/?$rid=2", nil)
	c.Publish("$iothub/twin/PATCH/properties/reported/?$rid=3", []byte(`{"a":1}`))
	c.Silent(50 * time.Millisecond)
	c.Subscribe(0, twinAnswers)
	c.Silent(30 * time.Millisecond) // the answers are lost, not late
	if got, want := getTwin(t, c, "4"), `{"desired":{"$version":1},"reported":{"a":1,"$version":2}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	c.Disconnect()
}

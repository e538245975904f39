package routing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/bag"
)

var at = time.Date(2026, 1, 2, 3, 4, 5, 887_000_000, time.UTC)

func message(body string, system map[string]string, properties ...bag.Property) *iot.Message {
	m := &iot.Message{
		Source: iot.Telemetry, From: iot.ID{Device: "d1", Module: "m1"}, Generation: "g", ModelID: "dtmi:x;1",
		AuthMethod: `{"scope":"module","type":"sas","issuer":"iothub"}`, Enqueued: at, Body: []byte(body), Properties: properties,
	}
	for _, name := range []string{"content-type", "content-encoding", "message-id", "correlation-id", "user-id", "dt-subject"} {
		if v, ok := system[name]; ok {
			m.System = append(m.System, bag.Property{Name: name, Value: v})
		}
	}
	return m
}

var jsonUTF8 = map[string]string{"content-type": "application/json; charset=utf-8", "content-encoding": "UTF-8", "message-id": "id-1"}

func sender() (twin.Twin, bool) {
	return twin.Twin{Tags: json.RawMessage(`{"site":"lyon"}`), Desired: json.RawMessage(`{"i":10}`), DesiredVersion: 4,
		Reported: json.RawMessage(`{"fw":{"v":"1.2"}}`)}, true
}

func table(t *testing.T, text string) *Table {
	t.Helper()
	tb, err := Parse("hub.example", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return tb
}

func TestConditions(t *testing.T) {
	conform.Covers(t, "HS-111")
	utf16le := func(s string) string {
		var b []byte
		for _, u := range utf16.Encode([]rune(s)) {
			b = append(b, byte(u), byte(u>>8))
		}
		return string(b)
	}
	for _, c := range []struct {
		condition string
		m         *iot.Message
		want      bool
	}{
		{`level = 'storage'`, message("", nil, bag.Property{Name: "Level", Value: "storage"}), true},
		{`LEVEL = 'Storage'`, message("", nil, bag.Property{Name: "level", Value: "storage"}), false}, // values keep their case
		{`level = null`, message("", nil, bag.Property{Name: "level", Null: true}), true},
		{`level`, message("", nil, bag.Property{Name: "level", Null: true}), false},
		{`missing != 'x'`, message("", nil), false},
		{`as_number(t) > 20`, message("", nil, bag.Property{Name: "t", Value: "20.5"}), true},
		{`$connectionDeviceId = 'd1' AND $connectionModuleId = 'm1'`, message("", nil), true},
		{`$contentType = 'application/json; charset=utf-8' AND $contentEncoding = 'UTF-8' AND $messageId = 'id-1'`, message("{}", jsonUTF8), true},
		{`$CONTENTENCODING = 'UTF-8'`, message("{}", jsonUTF8), true},
		{`{$dt-dataschema} = 'dtmi:x;1' AND {$dt-subject} = 'comp'`, message("", map[string]string{"dt-subject": "comp"}), true},
		{`$enqueuedTime > '2026-01-01'`, message("", nil), true},
		{`contains($connectionAuthMethod, '"sas"') AND $connectionDeviceGenerationId = 'g'`, message("", nil), true},
		{`$custom = 'x'`, message("", nil, bag.Property{Name: "custom", Value: "x"}), true}, // no system property: the application's
		{`$body.w.t > 20 AND $body.list[1] = 'b'`, message(`{"w":{"t":21},"list":["a","b"]}`, jsonUTF8), true},
		{`$body.W.t > 20`, message(`{"w":{"t":21}}`, jsonUTF8), false},
		{`$body.w.t > 20`, message(`{"w":{"t":21}}`, map[string]string{"content-type": "application/json"}), false}, // no encoding
		{`$body.w.t > 20`, message(`{"w":{"t":21}}`, map[string]string{"content-encoding": "utf-8"}), false},        // no type
		{`$body.w.t > 20`, message(`{"w":{"t":21}`, jsonUTF8), false},                                               // broken
		{`$body.s = 'é'`, message(utf16le(`{"s":"é"}`), map[string]string{"content-type": "application/json", "content-encoding": "utf-16"}), true},
		{`$body.a = 1`, message("{\x00\x00\x00\"\x00\x00\x00a\x00\x00\x00\"\x00\x00\x00:\x00\x00\x001\x00\x00\x00}\x00\x00\x00", map[string]string{"content-type": "application/json", "content-encoding": "utf-32"}), true},
		{`$twin.tags.site = 'lyon' AND $twin.properties.desired.i = 10 AND $twin.properties.reported.fw.v = '1.2'`, message("", nil), true},
		{`$twin.properties.desired.$version = 4`, message("", nil), true},
		{`$twin.tags.none = 1`, message("", nil), false},
		{`is_defined($twin.tags.none)`, message("", nil), false},
		{`true`, message("", nil), true},
		{``, message("", nil), true},
		{`null`, message("", nil), false},
		{`undefined`, message("", nil), false},
	} {
		cond, _ := json.Marshal(c.condition)
		tb := table(t, fmt.Sprintf(`{"endpoints":[{"name":"e","type":"webhook"}],"routes":[{"name":"r","source":"devicemessages","condition":%s,"endpointNames":["e"]}]}`, cond))
		got := tb.targets(&document{m: c.m, twin: sender})
		if matched := len(got) == 1 && got[0] == "e"; matched != c.want {
			t.Errorf("%s: goes to %q, want a match: %v", c.condition, got, c.want)
		}
	}
}

func TestTargets(t *testing.T) {
	const endpoints = `"endpoints":[{"name":"a","type":"webhook"},{"name":"b","type":"webhook"}]`
	for _, c := range []struct{ name, config, want string }{
		{"nothing configured", `{}`, "events"},
		{"both routes, each endpoint once", `{` + endpoints + `,"routes":[{"name":"r1","source":"DeviceMessages","condition":"true","endpointNames":["a","b"]},{"name":"r2","source":"DeviceMessages","endpointNames":["b","events"]}]}`, "a b events"},
		{"no match goes to the fallback", `{` + endpoints + `,"routes":[{"name":"r1","source":"DeviceMessages","condition":"false","endpointNames":["a"]}]}`, "events"},
		{"the fallback has its own endpoint", `{` + endpoints + `,"fallbackRoute":{"source":"DeviceMessages","endpointNames":["b"]}}`, "b"},
		{"a disabled fallback drops", `{` + endpoints + `,"fallbackRoute":{"isEnabled":false}}`, ""},
		{"a disabled route is none", `{` + endpoints + `,"routes":[{"name":"r1","source":"DeviceMessages","isEnabled":false,"endpointNames":["a"]}]}`, "events"},
	} {
		got := table(t, c.config).targets(&document{m: message("", nil), twin: sender})
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: goes to %q, want %q", c.name, got, c.want)
		}
	}
}

func TestEnrichments(t *testing.T) {
	tb := table(t, `{"endpoints":[{"name":"e","type":"webhook"},{"name":"f","type":"webhook"}],"enrichments":[
		{"key":"static","value":"text","endpointNames":["e"]},{"key":"hub","value":"$iotHubName","endpointNames":["e"]},
		{"key":"site","value":"$twin.tags.site","endpointNames":["e","f"]},{"key":"i","value":"$twin.properties.desired.i","endpointNames":["e"]},
		{"key":"fw","value":"$twin.properties.reported.fw","endpointNames":["e"]},{"key":"none","value":"$twin.tags.none","endpointNames":["e"]}]}`)
	m := message("", nil, bag.Property{Name: "static", Value: "the device's"}, bag.Property{Name: "own", Value: "1"})
	show := func(m *iot.Message) string {
		var texts []string
		for _, p := range m.Properties {
			texts = append(texts, p.Name+"="+p.Value)
		}
		return strings.Join(texts, " ")
	}
	d := &document{m: m, twin: sender}
	if got, want := show(tb.enriched(d, "e")), `own=1 static=text hub=hub site=lyon i=10 fw={"v":"1.2"} none=$twin.tags.none`; got != want {
		t.Errorf("at e: %s\nwant %s", got, want)
	}
	if got := show(tb.enriched(d, "f")); got != "static=the device's own=1 site=lyon" {
		t.Errorf("at f: %s", got)
	}
	if got := show(m); got != "static=the device's own=1" {
		t.Errorf("the message itself was changed: %s", got)
	}
}

func TestParse_Refuses(t *testing.T) {
	for _, c := range []struct{ config, want string }{
		{`{`, "cannot be read"},
		{`{"endpoints":[{"name":"a b"}]}`, "a name has 1 to 64 letters"},
		{`{"endpoints":[{"name":"events"}]}`, "which is built in"},
		{`{"endpoints":[{"name":"a"},{"name":"a"}]}`, "is named twice"},
		{`{"routes":[{"name":"r","source":"DeviceMessages","endpointNames":["x"]}]}`, `the endpoint "x", which does not exist`},
		{`{"routes":[{"name":"r","source":"DeviceMessages"}]}`, "names no endpoint"},
		{`{"routes":[{"name":"r","source":"Weather","endpointNames":["events"]}]}`, `the source "Weather" is not served`},
		{`{"routes":[{"name":"r","source":"DeviceMessages","condition":"a ==","endpointNames":["events"]}]}`, `route "r": the query is wrong at line 1, column 3`},
		{`{"routes":[{"name":"r","source":"DeviceMessages","endpointNames":["events"]},{"name":"r","source":"DeviceMessages","endpointNames":["events"]}]}`, "given once"},
		{`{"fallbackRoute":{"condition":"a=1","endpointNames":["events"]}}`, "it has no condition"},
		{`{"enrichments":[{"key":"a b","value":"x","endpointNames":["events"]}]}`, "a key has letters"},
		{`{"enrichments":[{"key":"k","value":"$twin.[","endpointNames":["events"]}]}`, `enrichment "k": the query is wrong`},
		{`{"enrichments":[` + strings.Repeat(`{"key":"k","value":"x","endpointNames":["events"]},`, 10) + `{"key":"k","value":"x","endpointNames":["events"]}]}`, "11 enrichments; 10 are allowed"},
	} {
		_, err := Parse("h", []byte(c.config))
		if err == nil || !strings.Contains(err.Error(), c.want) || !fault.Is(err, fault.Invalid) && !fault.Is(err, fault.Malformed) {
			t.Errorf("%.80s: got %v, want a refusal with %q", c.config, err, c.want)
		}
	}
}

func TestAppendRecord(t *testing.T) {
	m := message(`{"t": 1.50, "s":"<&>"}`, jsonUTF8, bag.Property{Name: "a", Value: "1"}, bag.Property{Name: "n", Null: true},
		bag.Property{Name: "connectionDeviceId", Value: "forged"})
	want := `{"EnqueuedTimeUtc":"2026-01-02T03:04:05.8870000Z","Properties":{"a":"1","connectionDeviceId":"forged","n":null},"SystemProperties":{` +
		`"connectionAuthMethod":"{\"scope\":\"module\",\"type\":\"sas\",\"issuer\":\"iothub\"}","connectionDeviceGenerationId":"g","connectionDeviceId":"d1","connectionModuleId":"m1",` +
		`"contentEncoding":"UTF-8","contentType":"application/json; charset=utf-8","dt-dataschema":"dtmi:x;1","enqueuedTime":"2026-01-02T03:04:05.8870000Z","messageId":"id-1"},"Body":{"t":1.50,"s":"<&>"}}`
	if got := string(AppendRecord(nil, m)); got != want {
		t.Errorf("record\n got %s\nwant %s", got, want)
	}
	for _, m := range []*iot.Message{message("\xff\x00", nil), message(`{"broken"`, jsonUTF8), message(`{"a":1}`, nil)} {
		var doc struct{ Body []byte }
		if err := json.Unmarshal(AppendRecord(nil, m), &doc); err != nil || string(doc.Body) != string(m.Body) {
			t.Errorf("body %q is recorded as %q (%v), want base64", m.Body, doc.Body, err)
		}
	}
}

// sink fails as it is told and remembers the rest.
type sink struct {
	fail []error
	got  []string
	size []int
}

func (s *sink) Deliver(_ context.Context, ms []*iot.Message) error {
	if len(s.fail) > 0 {
		err := s.fail[0]
		s.fail = s.fail[1:]
		if err != nil {
			return err
		}
	}
	s.size = append(s.size, len(ms))
	for _, m := range ms {
		s.got = append(s.got, string(m.Body))
	}
	return nil
}

type twins struct{}

func (twins) Twin(context.Context, iot.ID) (twin.Twin, error) {
	t, _ := sender()
	return t, nil
}

// log is a publisher whose entries are given to one reader by hand.
type entries struct{ all [][]byte }

func (l *entries) Append(_ context.Context, data []byte) (uint64, error) {
	l.all = append(l.all, append([]byte(nil), data...))
	return uint64(len(l.all)), nil
}

type acks struct{ n chan struct{} }

func (a acks) Acked(uint64, error) { a.n <- struct{}{} }

func TestRunner(t *testing.T) {
	log := &entries{}
	in := telemetry.NewIntake(log, nil)
	const messages = 1200
	a := acks{make(chan struct{}, messages)}
	for i := range messages {
		m := message(fmt.Sprint(i), nil, bag.Property{Name: "odd", Value: fmt.Sprint(i % 2)})
		if i == 3 {
			m.Enqueued = at.Add(-time.Hour) // before the endpoint was made
		}
		in.Submit(m, a, 0)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- in.Run(ctx) }()
	for range messages {
		<-a.n
	}
	stop()
	<-done

	s := &sink{fail: []error{nil, errors.New("down"), errors.New("still down"), nil}}
	counts := map[Outcome]int{}
	r := &Runner{
		Table:    table(t, `{"endpoints":[{"name":"e","type":"webhook"}],"routes":[{"name":"r","source":"DeviceMessages","condition":"odd='1' AND $twin.tags.site='lyon'","endpointNames":["e"]}]}`),
		Endpoint: Endpoint{Name: "e", Created: at.Add(-time.Minute)}, Sink: s, Twins: twins{}, Logger: slog.New(slog.DiscardHandler),
		Report: func(o Outcome, n int) { counts[o] += n }, Now: func() time.Time { return at },
	}
	for i, data := range log.all {
		for tries := 0; ; tries++ {
			err := r.handle(t.Context(), bus.Entry{Sequence: uint64(i + 1), Data: data})
			if err == nil {
				break
			}
			if tries > 5 {
				t.Fatal(err)
			}
		}
	}
	var want []string
	for i := 1; i < messages; i += 2 {
		if i != 3 {
			want = append(want, fmt.Sprint(i))
		}
	}
	if strings.Join(s.got, " ") != strings.Join(want, " ") {
		t.Errorf("%d messages arrived, want %d, in order and once", len(s.got), len(want))
	}
	if counts[Delivered] != len(want) || counts[Retried] == 0 || counts[DeadLettered] != 0 {
		t.Errorf("counted %v", counts)
	}
	for _, n := range s.size {
		if n > maxDelivery {
			t.Errorf("a delivery of %d messages, %d are allowed", n, maxDelivery)
		}
	}

	// What a sink will never take is given up at once, and the rest goes on.
	s2 := &sink{fail: []error{fault.New(fault.Invalid, "never")}}
	clear(counts)
	r2 := &Runner{Table: r.Table, Endpoint: r.Endpoint, Sink: s2, Twins: twins{}, Logger: r.Logger, Report: r.Report, Now: r.Now}
	for i, data := range log.all {
		if err := r2.handle(t.Context(), bus.Entry{Sequence: uint64(i + 1), Data: data}); err != nil {
			t.Fatal(err)
		}
	}
	if counts[DeadLettered] == 0 || counts[DeadLettered]+counts[Delivered] != len(want) {
		t.Errorf("counted %v, want some given up and the rest delivered", counts)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"endpoints":[{"name":"e","type":"webhook"}],"routes":[{"name":"r","source":"DeviceMessages","condition":"$body.a = 1 AND {x-y} = 'z'","endpointNames":["e"]}],"enrichments":[{"key":"k","value":"$twin.tags.a","endpointNames":["e"]}]}`), []byte(`{"a":1}`))
	f.Fuzz(func(t *testing.T, config, body []byte) {
		tb, err := Parse("h", config)
		if err != nil {
			return
		}
		m := message(string(body), jsonUTF8)
		d := &document{m: m, twin: sender}
		for _, e := range tb.targets(d) {
			if !json.Valid(AppendRecord(nil, tb.enriched(d, e))) {
				t.Fatalf("the record of %q is no JSON", body)
			}
		}
	})
}

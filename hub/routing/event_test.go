package routing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/bag"
)

// change is an event as package event makes them.
func change(source iot.MessageSource, kind, body string) *iot.Message {
	return &iot.Message{
		Source: source, From: iot.ID{Device: "d1"}, Enqueued: at, Body: []byte(body),
		System:     []bag.Property{{Name: "content-type", Value: kind}, {Name: "content-encoding", Value: "utf-8"}, {Name: "correlation-id", Value: "c5a4e6986c"}, {Name: "user-id", Value: "hub"}, {Name: "vauban-twin-document", Value: "{}"}},
		Properties: []bag.Property{{Name: "hubName", Value: "hub"}, {Name: "opType", Value: "updateTwin"}},
	}
}

const twinBody = `{"version":7,"tags":{"site":"lyon"},"properties":{"desired":{"rpm":1200,"$metadata":{"$lastUpdated":"2026-01-02T03:04:05.8870000Z"},"$version":6},"reported":{"fw":{"v":"1.2"}}}}`

// A route takes the events of its source and no others, and an event that no route takes goes nowhere: the fallback is for messages.
func TestSources(t *testing.T) {
	all := map[string]iot.MessageSource{
		"DeviceMessages": iot.Telemetry, "TwinChangeEvents": iot.TwinChange, "DeviceLifecycleEvents": iot.DeviceLifecycle,
		"DeviceConnectionStateEvents": iot.DeviceConnectionState, "DeviceJobLifecycleEvents": iot.DeviceJobLifecycle, "DigitalTwinChangeEvents": iot.DigitalTwinChange,
	}
	for name, source := range all {
		for _, spelled := range []string{name, strings.ToLower(name), strings.ToUpper(name)} {
			tb := table(t, fmt.Sprintf(`{"endpoints":[{"name":"e","type":"webhook"}],"routes":[{"name":"r","source":%q,"endpointNames":["e"]},{"name":"off","source":"TwinChangeEvents","isEnabled":false,"endpointNames":["e"]}]}`, spelled))
			if got := tb.Sources(); len(got) != 1 || got[0] != source {
				t.Errorf("%s: takes %v", spelled, got)
			}
			for _, other := range all {
				want := ""
				switch other {
				case source:
					want = "e"
				case iot.Telemetry:
					want = Events
				}
				m := message("", nil)
				m.Source = other
				if got := strings.Join(tb.targets(&document{m: m, twin: sender}), " "); got != want {
					t.Errorf("a route of %s: %s goes to %q, want %q", spelled, other, got, want)
				}
			}
		}
	}
	for _, source := range []string{"", "MqttBrokerMessages", "Invalid", "Telemetry", "twinChange"} {
		if _, err := Parse("h", fmt.Appendf(nil, `{"routes":[{"name":"r","source":%q,"endpointNames":["events"]}]}`, source)); !fault.Is(err, fault.Invalid) {
			t.Errorf("source %q: got %v, want invalid", source, err)
		}
	}
	if _, err := Parse("h", []byte(`{"fallbackRoute":{"source":"TwinChangeEvents","endpointNames":["events"]}}`)); !fault.Is(err, fault.Invalid) {
		t.Errorf("a fallback for events: got %v, want invalid", err)
	}
}

func TestConditions_OfEvents(t *testing.T) {
	for condition, want := range map[string]bool{
		`$body.tags.site = 'lyon'`: true,
		`$body.properties.desired.rpm > 1000 AND is_defined($body.properties.reported)`: true,
		`$body.properties.reported.fw.v = '1.2' AND $body.version = 7`:                  true,
		`$body.properties.desired.$version = 6`:                                         true,
		`$body.properties.desired.$metadata.$lastUpdated > '2026-01-01'`:                true,
		`$body.properties.desired.rpm > 2000`:                                           false,
		`is_defined($body.properties.desired.other)`:                                    false,
		`opType = 'updateTwin' AND hubName = 'hub'`:                                     true,
		`$contentType = 'application/json' AND $userId = 'hub'`:                         true,
		`$connectionDeviceId = 'd1' AND $twin.tags.site = 'lyon'`:                       true,
		`{$iothub-message-source} = 'twinChangeEvents'`:                                 true,
		`is_defined({$vauban-twin-document})`:                                           false,
	} {
		text, _ := json.Marshal(condition)
		tb := table(t, fmt.Sprintf(`{"endpoints":[{"name":"e","type":"webhook"}],"routes":[{"name":"r","source":"TwinChangeEvents","condition":%s,"endpointNames":["e"]}]}`, text))
		if got := tb.targets(&document{m: change(iot.TwinChange, "application/json", twinBody), twin: sender}); (len(got) == 1) != want {
			t.Errorf("%s: goes to %q, want a match: %v", condition, got, want)
		}
	}
}

func TestEnrichments_OfEvents(t *testing.T) {
	conform.Covers(t, "HS-114")
	tb := table(t, `{"endpoints":[{"name":"e","type":"webhook"}],"enrichments":[{"key":"static","value":"text","endpointNames":["e"]},
		{"key":"site","value":"$twin.tags.site","endpointNames":["e"]},{"key":"none","value":"$twin.tags.none","endpointNames":["e"]}]}`)
	show := func(m *iot.Message) string {
		var texts []string
		for _, p := range tb.enriched(&document{m: m, twin: sender}, "e").Properties {
			texts = append(texts, p.Name+"="+p.Value)
		}
		return strings.Join(texts, " ")
	}
	const stamped = "static=text site=lyon none=$twin.tags.none"
	if got := show(message("", nil)); got != stamped {
		t.Errorf("a message has %s, want %s", got, stamped)
	}
	for _, source := range []iot.MessageSource{iot.TwinChange, iot.DeviceLifecycle, iot.DeviceConnectionState, iot.DeviceJobLifecycle} {
		if got := show(change(source, "application/json", "{}")); got != "hubName=hub opType=updateTwin "+stamped {
			t.Errorf("%s: has %s", source, got)
		}
	}
	if got := show(change(iot.DigitalTwinChange, "application/json-patch+json", "[]")); got != "hubName=hub opType=updateTwin" {
		t.Errorf("a digital twin change was enriched: %s", got)
	}
}

func TestAppendRecord_OfEvents(t *testing.T) {
	for m, want := range map[*iot.Message]string{
		change(iot.TwinChange, "application/json", `{"version":7}`): `{"EnqueuedTimeUtc":"2026-01-02T03:04:05.8870000Z","Properties":{"hubName":"hub","opType":"updateTwin"},"SystemProperties":{"connectionDeviceId":"d1","contentEncoding":"utf-8",` +
			`"contentType":"application/json","correlationId":"c5a4e6986c","enqueuedTime":"2026-01-02T03:04:05.8870000Z","iothub-message-source":"twinChangeEvents","userId":"hub"},"Body":{"version":7}}`,
		change(iot.DigitalTwinChange, "application/json-patch+json", `[{"op":"add"}]`): `{"EnqueuedTimeUtc":"2026-01-02T03:04:05.8870000Z","Properties":{"hubName":"hub","opType":"updateTwin"},"SystemProperties":{"connectionDeviceId":"d1","contentEncoding":"utf-8",` +
			`"contentType":"application/json-patch+json","correlationId":"c5a4e6986c","enqueuedTime":"2026-01-02T03:04:05.8870000Z","iothub-message-source":"digitalTwinChangeEvents","userId":"hub"},"Body":[{"op":"add"}]}`,
	} {
		if got := string(AppendRecord(nil, m)); got != want {
			t.Errorf("record\n got %s\nwant %s", got, want)
		}
	}
}

// letters is a DeadLetterStore in memory.
type letters struct {
	DeadLetterStore
	all []DeadLetter
}

func (l *letters) Bury(_ context.Context, endpoint string, ms []*iot.Message, reasons []string, now time.Time, _ int, _ int64) (int, error) {
	for i, m := range ms {
		at := slices.IndexFunc(l.all, func(d DeadLetter) bool { return d.Message.Sequence == m.Sequence })
		if at < 0 {
			at = len(l.all)
			l.all = append(l.all, DeadLetter{Sequence: int64(100 + at), Endpoint: endpoint, Message: *m})
		}
		d := &l.all[at]
		d.Reason, d.Died, d.Replay = reasons[i], now, false
		d.Attempts++
	}
	return 0, nil
}

func (l *letters) DeadLetters(_ context.Context, c Letters) (found []DeadLetter, err error) {
	for _, d := range l.all {
		if d.Replay == c.Replay && len(found) < c.Limit {
			found = append(found, d)
		}
	}
	return found, nil
}

func (l *letters) DeadLetter(_ context.Context, _ string, sequence int64) (DeadLetter, error) {
	for _, d := range l.all {
		if d.Sequence == sequence {
			return d, nil
		}
	}
	return DeadLetter{}, fault.New(fault.NotFound, "none")
}

func (l *letters) DropLetters(_ context.Context, c Letters) (int, error) {
	n := len(l.all)
	l.all = slices.DeleteFunc(l.all, func(d DeadLetter) bool { return slices.Contains(c.Sequences, d.Sequence) })
	return n - len(l.all), nil
}

func (l *letters) show() string {
	var all []string
	for _, d := range l.all {
		all = append(all, fmt.Sprintf("%s:%d:%s", d.Message.Body, d.Attempts, d.Reason))
	}
	return strings.Join(all, " | ")
}

// picky refuses messages by their bodies.
type picky struct {
	sink
	refuse []string
	down   error
}

func (p *picky) Deliver(ctx context.Context, ms []*iot.Message) error {
	if p.down != nil {
		return p.down
	}
	var r Refusal
	for _, m := range ms {
		if slices.Contains(p.refuse, string(m.Body)) {
			r.Refuse(m, fault.New(fault.Invalid, "never %s", m.Body))
			continue
		}
		if err := p.sink.Deliver(ctx, []*iot.Message{m}); err != nil {
			return err
		}
	}
	return r.Err()
}

func TestRunner_DeadLetters(t *testing.T) {
	var data []byte
	{
		var ms []*iot.Message
		for i := range 4 {
			m := message(fmt.Sprint(i), nil)
			m.Enqueued = at.Add(time.Duration(i) * time.Hour)
			ms = append(ms, m)
		}
		data = telemetry.Batch(ms...)
	}
	now := at.Add(4 * time.Hour)
	dead, s := &letters{}, &picky{refuse: []string{"1"}}
	counts := map[Outcome]int{}
	r := &Runner{
		Table:    table(t, `{"endpoints":[{"name":"e","type":"webhook"}],"routes":[{"name":"r","source":"DeviceMessages","endpointNames":["e"]}],"enrichments":[{"key":"k","value":"v","endpointNames":["e"]}]}`),
		Endpoint: Endpoint{Name: "e"}, Sink: s, Twins: twins{}, Dead: dead, Logger: slog.New(slog.DiscardHandler),
		Report: func(o Outcome, n int) { counts[o] += n }, Now: func() time.Time { return now },
	}
	if err := r.handle(t.Context(), bus.Entry{Sequence: 1, Data: data}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(s.got, " "); got != "0 2 3" || dead.show() != "1:1:never 1" || counts[Delivered] != 3 || counts[DeadLettered] != 1 {
		t.Fatalf("delivered %s; dead: %s; counted %v", got, dead.show(), counts)
	}
	if d := dead.all[0]; len(d.Message.Properties) != 1 || d.Died != now {
		t.Errorf("the dead letter is %+v, want it as it would have been delivered", d)
	}

	// An endpoint that is down is tried again, until a message is a day old; younger ones behind it go on waiting.
	s.down, s.got, dead.all = errors.New("down"), nil, nil
	now = at.Add(25*time.Hour + time.Minute)
	for range 3 {
		if err := r.handle(t.Context(), bus.Entry{Sequence: 2, Data: data}); err == nil {
			t.Fatal("an endpoint that is down took messages")
		}
	}
	if dead.show() != "0:1:it was tried for 24h0m0s: down | 1:1:it was tried for 24h0m0s: down" {
		t.Errorf("dead: %s", dead.show())
	}
	s.down, s.refuse = nil, nil
	if err := r.handle(t.Context(), bus.Entry{Sequence: 2, Data: data}); err != nil || strings.Join(s.got, " ") != "2 3" {
		t.Errorf("delivered %s (%v), want what is younger", s.got, err)
	}

	// Replays: what is taken goes, what is refused stays with one more attempt, and an endpoint that is down changes nothing.
	for i := range dead.all {
		dead.all[i].Replay = true
	}
	s.got, s.down = nil, errors.New("down")
	if _, err := r.replay(t.Context()); err == nil || len(dead.all) != 2 || !dead.all[0].Replay {
		t.Errorf("while the endpoint is down: %s (%v)", dead.show(), err)
	}
	s.down, s.refuse = nil, []string{"0"}
	if n, err := r.replay(t.Context()); err != nil || n != 2 || strings.Join(s.got, " ") != "1" || dead.show() != "0:2:never 0" || dead.all[0].Replay {
		t.Errorf("replayed %d (%v): delivered %s; left %s", n, err, s.got, dead.show())
	}
	if n, err := r.replay(t.Context()); err != nil || n != 0 {
		t.Errorf("what was not asked for was replayed: %d (%v)", n, err)
	}
}

// What enrichments make too large is not sent (hub-service §7.3), and delays nothing.
func TestRunner_TooLargeByEnrichment(t *testing.T) {
	big := message(strings.Repeat("x", maxMessage-100), nil)
	dead, s := &letters{}, &sink{}
	r := &Runner{
		Table:    table(t, `{"endpoints":[{"name":"e","type":"webhook"}],"routes":[{"name":"r","source":"DeviceMessages","endpointNames":["e"]}],"enrichments":[{"key":"k","value":"`+strings.Repeat("v", 200)+`","endpointNames":["e"]}]}`),
		Endpoint: Endpoint{Name: "e"}, Sink: s, Twins: twins{}, Dead: dead, Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return at },
	}
	if err := r.handle(t.Context(), bus.Entry{Sequence: 1, Data: telemetry.Batch(message("a", nil), big, message("b", nil))}); err != nil {
		t.Fatal(err)
	}
	if strings.Join(s.got, " ") != "a b" || len(dead.all) != 1 || !strings.Contains(dead.all[0].Reason, "with its enrichments") {
		t.Errorf("delivered %d messages, %d dead", len(s.got), len(dead.all))
	}
}

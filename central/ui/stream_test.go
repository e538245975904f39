package ui

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/bag"
)

// browser reads a stream of a console that a real server serves.
type browser struct {
	t      *testing.T
	events chan event
	gone   chan struct{}
}

type event struct{ name, data string }

func (w *world) open(t *testing.T, path string, c *http.Cookie) *browser {
	t.Helper()
	srv := httptest.NewServer(w)
	ctx, stop := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "GET", srv.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.AddCookie(c)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if got := res.Header.Get("Content-Type"); res.StatusCode != 200 || got != "text/event-stream; charset=utf-8" {
		t.Fatalf("%s: %s of %q", path, res.Status, got)
	}
	b := &browser{t: t, events: make(chan event, 1000), gone: make(chan struct{})}
	go func() {
		defer close(b.gone)
		var e event
		for lines := bufio.NewReader(res.Body); ; {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			line = strings.TrimSuffix(line, "\n")
			if name, ok := strings.CutPrefix(line, "event: "); ok {
				e.name = name
			} else if data, ok := strings.CutPrefix(line, "data: "); ok {
				e.data = data
			} else if line == "" && e.name != "" {
				b.events <- e
				e = event{}
			}
		}
	}()
	t.Cleanup(func() {
		stop()
		res.Body.Close()
		<-b.gone
		srv.Close()
	})
	return b
}

// next waits for an event of that name and decodes it; events of other names fail.
func (b *browser) next(name string, v any) {
	b.t.Helper()
	select {
	case e := <-b.events:
		if e.name != name {
			b.t.Fatalf("event %s %s, want %s", e.name, e.data, name)
		}
		if err := json.Unmarshal([]byte(e.data), v); err != nil {
			b.t.Fatalf("event %s: %v in %s", name, err, e.data)
		}
	case <-time.After(10 * time.Second):
		b.t.Fatalf("no event %s came", name)
	}
}

func keys(cs []change) (ks []string) {
	for _, c := range cs {
		ks = append(ks, c.Key)
	}
	return ks
}

func TestStream_DevicesSendsWhatChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, id := range []string{"b", "c"} {
		w.hub.put(device(id), twin.Twin{})
	}
	s := w.open(t, "/console/devices/stream", w.cookie(t))
	var u update
	s.next("view", &u)
	if u.List != "device-row" || fmt.Sprint(u.Order, keys(u.Rows)) != "[b c] [b c]" || len(u.Regions) != 2 {
		t.Errorf("the first view is %+v, want everything", u)
	}

	d := device("b")
	d.Connected = true
	w.hub.put(d, twin.Twin{})
	u = update{}
	s.next("view", &u)
	if fmt.Sprint(u.Order, keys(u.Rows)) != "[] [b]" || len(u.Regions) != 1 || !strings.Contains(u.Rows[0].HTML, "Connected") || !strings.Contains(u.Regions["device-counts"].HTML, "<dd>1</dd>") {
		t.Errorf("after a connect: %+v, want the row and the counts alone", u)
	}

	w.hub.put(device("a"), twin.Twin{})
	u = update{}
	s.next("view", &u)
	if fmt.Sprint(u.Order, keys(u.Rows)) != "[a b c] [a]" {
		t.Errorf("after a new device: %+v", u)
	}

	for _, id := range []string{"a", "b", "c"} {
		w.hub.remove(id)
	}
	for len(u.Order) > 0 { // the three may leave in two steps
		u = update{}
		s.next("view", &u)
	}
	if !u.Emptied || len(u.Rows) != 0 || !strings.Contains(u.Regions["device-note"].HTML, "vauban device create") {
		t.Errorf("after the last device: %+v", u)
	}
}

func TestStream_DeviceSendsMessagesAlertsAndTwin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hub.put(device("lamp"), twin.Twin{})
	s := w.open(t, "/console/device/stream?id=lamp", w.cookie(t))
	var u update
	s.next("view", &u)

	send := func(id, body string) {
		w.intake.Submit(&iot.Message{
			Source: iot.Telemetry, From: iot.ID{Device: id}, Enqueued: time.Unix(0, 0), Body: []byte(body), Properties: []bag.Property{{Name: "<b>", Value: "<i>"}},
		}, ignored{}, 0)
	}
	send("another", "1")
	send("lamp", `{"t":"<script>"}`)
	var m messages
	s.next("messages", &m)
	if len(m.HTML) != 1 || !strings.Contains(m.HTML[0], "&lt;script&gt;") || !strings.Contains(m.HTML[0], "<bdi>&lt;b&gt;</bdi>") {
		t.Errorf("messages are %q", m.HTML)
	}

	w.alerts.raise(alert.Alert{Device: "lamp", Title: "t", Severity: alert.High})
	u = update{}
	s.next("view", &u)
	if len(u.Rows) != 1 || u.List != "alert-row" || strings.TrimSpace(u.Regions["alert-note"].HTML) != "" {
		t.Errorf("after an alert: %+v", u)
	}

	w.hub.put(device("lamp"), twin.Twin{Reported: json.RawMessage(`{"a":1}`), ReportedVersion: 2})
	u = update{}
	s.next("view", &u)
	if len(u.Regions) != 1 || !strings.Contains(u.Regions["twin-reported"].HTML, "&#34;a&#34;: 1") {
		t.Errorf("after a report: %+v, want that section alone", u)
	}

	const flood = 3000
	for i := range flood {
		send("lamp", fmt.Sprint(i))
	}
	shown, lost := 0, 0
	for last := ""; !strings.Contains(last, ">2999<"); {
		m = messages{}
		s.next("messages", &m)
		if len(m.HTML) > maxShown {
			t.Fatalf("%d messages at once, want at most %d", len(m.HTML), maxShown)
		}
		shown, lost, last = shown+len(m.HTML), lost+m.Lost, m.HTML[len(m.HTML)-1]
	}
	if shown+lost != flood || lost == 0 {
		t.Errorf("%d messages shown and %d left out of %d", shown, lost, flood)
	}

	w.hub.remove("lamp")
	s.next("missing", new(struct{}))
}

type ignored struct{}

func (ignored) Acked(uint64, error) {}

func TestStream_SaysWhenTheStoreFailsAndRecovers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hub.put(device("lamp"), twin.Twin{})
	s := w.open(t, "/console/device/stream?id=lamp", w.cookie(t))
	s.next("view", new(update))
	w.hub.fail(errors.New("disk secret"))
	var what string
	s.next("trouble", &what)
	if what == "" || strings.Contains(what, "disk secret") {
		t.Errorf("the page reads %q", what)
	}
	w.hub.fail(nil)
	s.next("view", new(update))
	if n := strings.Count(w.logged.String(), "disk secret"); n != 1 {
		t.Errorf("the failure is logged %d times, want once", n)
	}
}

func TestStream_EndsWithItsSession(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(w *world, c *http.Cookie){
		"signed out": func(w *world, c *http.Cookie) { w.ask("POST", "/console/sign-out", "", with(c)) },
		"too old":    func(w *world, _ *http.Cookie) { w.clock.pass(lifeLimit) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			c := w.cookie(t)
			s := w.open(t, "/console/alerts/stream", c)
			s.next("view", new(update))
			end(w, c)
			s.next("gone", new(struct{}))
			select {
			case <-s.gone:
			case <-time.After(10 * time.Second):
				t.Error("the stream goes on")
			}
		})
	}
}

func TestStream_KeepsItsSessionInUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.cookie(t)
	s := w.open(t, "/console/alerts/stream", c)
	s.next("view", new(update))
	w.clock.pass(idleLimit - time.Second)
	w.alerts.raise(alert.Alert{Device: "d", Severity: alert.High}) // a tick has passed when it is shown
	s.next("view", new(update))
	w.clock.pass(idleLimit - time.Second)
	if rec := w.ask("GET", "/console/alerts", "", with(c)); rec.Code != 200 {
		t.Errorf("the session of an open page ended: %d", rec.Code)
	}
}

func TestStream_AreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.cookie(t)
	w.streams.Store(maxStreams)
	if rec := w.ask("GET", "/console/alerts/stream", "", with(c)); rec.Code != 429 || w.streams.Load() != maxStreams {
		t.Errorf("one stream too many: %d, want 429", rec.Code)
	}
}

func TestCached_ReadsOnceForAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reads := 0
		var cost time.Duration
		c := &cached[int]{fetch: func(ctx context.Context) (int, error) {
			reads++
			time.Sleep(cost)
			return reads, ctx.Err()
		}}
		gone, leave := context.WithCancel(t.Context())
		leave()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if v, err := c.get(gone); v != 1 || err != nil {
					t.Errorf("got %d, %v; want 1 although the reader left", v, err)
				}
			})
		}
		wg.Wait()
		time.Sleep(tick)
		cost = time.Second // the store became slow
		if v, _ := c.get(t.Context()); v != 2 {
			t.Errorf("after a tick: value %d, want 2", v)
		}
		time.Sleep(19 * time.Second)
		if v, _ := c.get(t.Context()); v != 2 {
			t.Errorf("a read that takes a second is repeated after 19")
		}
		time.Sleep(time.Second)
		if v, _ := c.get(t.Context()); v != 3 {
			t.Errorf("after 20 seconds: value %d, want 3", v)
		}
	})
}

package hub_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/sas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// link is a device that remembers how it was closed.
type link struct {
	mu     sync.Mutex
	closed error
	at     time.Time
	mail   int
}

func (l *link) Method(string, []byte, func(int, []byte, error)) {}
func (l *link) Desired(int64, []byte)                           {}

func (l *link) MailWaits() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mail++
}

func (l *link) Close(reason error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed == nil {
		l.closed, l.at = reason, time.Now()
	}
}

func (l *link) reason() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

func memory(t *testing.T) *hubtest.World {
	t.Helper()
	return hubtest.New(t, hubtest.Options{Memory: true})
}

func connect(t *testing.T, w *hubtest.World, d registry.Identity, want iot.Opening) (iot.Opened, *link) {
	t.Helper()
	l := &link{}
	o, err := w.Connect(t.Context(), w.Credentials(d), want, l)
	if err != nil {
		t.Fatal(err)
	}
	return o, l
}

var lamp = iot.ID{Device: "lamp"}

func TestHub_New(t *testing.T) {
	t.Parallel()
	if _, err := hub.New(hub.Config{Hosts: []string{"h"}}); err == nil {
		t.Error("a hub on nothing was made")
	}
	if w := memory(t); w.Host() != hubtest.Host {
		t.Errorf("the hub is called %q", w.Host())
	}
}

func TestConnect_TokenExpiryClosesTheLink(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := memory(t)
		d := w.Device(t, lamp)
		se := time.Now().Add(30 * time.Minute)
		c := w.Credentials(d)
		c.Token = sas.Sign(hubtest.Resource(lamp), d.Authentication.PrimaryKey.Reveal(), se, "")
		l := &link{}
		o, err := w.Connect(t.Context(), c, iot.Opening{}, l)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(39 * time.Minute)
		if err := l.reason(); err != nil {
			t.Errorf("closed before its time: %v", err)
		}
		time.Sleep(time.Minute + time.Second)
		if err := l.reason(); !fault.Is(err, fault.Unauthorized) || l.at.Sub(se).Round(time.Second) != 10*time.Minute {
			t.Errorf("closed with %v %v after se, want unauthorized after 10 min", err, l.at.Sub(se))
		}
		o.Session.End(t.Context())

		// A session that ended is not closed any more; a far expiry is no trouble.
		for _, se := range []time.Time{time.Now().Add(time.Minute), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)} {
			c.Token = sas.Sign(hubtest.Resource(lamp), d.Authentication.PrimaryKey.Reveal(), se, "")
			l = &link{}
			if o, err = w.Connect(t.Context(), c, iot.Opening{}, l); err != nil {
				t.Fatal(err)
			}
			o.Session.End(t.Context())
			time.Sleep(12 * time.Minute)
			if err := l.reason(); err != nil {
				t.Errorf("a session that ended was closed: %v", err)
			}
		}
	})
}

func TestConnect_Refusals(t *testing.T) {
	t.Parallel()
	w := memory(t)
	d := w.Device(t, lamp)
	none := w.DeviceWith(t, iot.ID{Device: "nobody-may"}, registry.Authentication{Type: registry.None})
	for name, tc := range map[string]struct {
		change func(*iot.Credentials)
		want   fault.Kind
	}{
		"no credentials":   {func(c *iot.Credentials) { c.Token = "" }, fault.Unauthorized},
		"another hub":      {func(c *iot.Credentials) { c.Host = "elsewhere" }, fault.Unauthorized},
		"unknown device":   {func(c *iot.Credentials) { c.ID.Device = "x" }, fault.Unauthorized},
		"unknown module":   {func(c *iot.Credentials) { c.ID.Module = "x" }, fault.Unauthorized},
		"type none":        {func(c *iot.Credentials) { c.ID = none.ID }, fault.Unauthorized},
		"host in capitals": {func(c *iot.Credentials) { c.Host = strings.ToUpper(c.Host) }, fault.Internal},
	} {
		c := w.Credentials(d)
		tc.change(&c)
		o, err := w.Connect(t.Context(), c, iot.Opening{}, &link{})
		if fault.KindOf(err) != tc.want || (err == nil) != (tc.want == fault.Internal) {
			t.Errorf("%s: got %v, want kind %v", name, err, tc.want)
		}
		if err == nil {
			o.Session.End(t.Context())
		}
	}
	if n := w.Router.Count(); n != 0 {
		t.Errorf("%d sessions are left of the refused", n)
	}
}

func TestDevice_DisabledOrDeletedIsDropped(t *testing.T) {
	t.Parallel()
	w := hubtest.New(t, hubtest.Options{})
	disabled := registry.Disabled
	for name, tc := range map[string]struct {
		change func(id iot.ID) error
		want   fault.Kind
	}{
		"disabled": {func(id iot.ID) error {
			_, err := w.UpdateDevice(t.Context(), id, nil, registry.Change{Status: &disabled})
			return err
		}, fault.Disabled},
		"deleted": {func(id iot.ID) error { return w.DeleteDevice(t.Context(), id, nil) }, fault.NotFound},
	} {
		d := w.Device(t, iot.ID{Device: name})
		o, l := connect(t, w, d, iot.Opening{})
		if err := tc.change(d.ID); err != nil {
			t.Fatal(err)
		}
		hubtest.Until(t, name+" to be dropped", func() bool { return l.reason() != nil })
		if err := l.reason(); !fault.Is(err, tc.want) {
			t.Errorf("%s: closed with %v, want kind %v", name, err, tc.want)
		}
		o.Session.End(t.Context())
		if _, err := w.Connect(t.Context(), w.Credentials(d), iot.Opening{}, &link{}); err == nil {
			t.Errorf("%s: it may connect again", name)
		}
	}
}

// An update that leaves the device enabled does not touch its connection.
func TestDevice_UpdateKeepsTheConnection(t *testing.T) {
	t.Parallel()
	w := memory(t)
	d := w.Device(t, lamp)
	o, l := connect(t, w, d, iot.Opening{})
	reason := "maintenance"
	if _, err := w.UpdateDevice(t.Context(), lamp, nil, registry.Change{Reason: &reason}); err != nil {
		t.Fatal(err)
	}
	if err := l.reason(); err != nil {
		t.Errorf("closed: %v", err)
	}
	if got, err := w.Hub.Device(t.Context(), lamp); err != nil || !got.Connected {
		t.Errorf("connected %v, %v", got.Connected, err)
	}
	o.Session.End(t.Context())
}

// slowPresence lets a write of a disconnect take its time.
type slowPresence struct {
	hub.PresenceStore
	leaving chan struct{} // a disconnect is about to be written
	proceed chan struct{}
}

func (s *slowPresence) SetPresence(ctx context.Context, ps []registry.Presence) error {
	if p := ps[0]; p.Connected != nil && !*p.Connected {
		s.leaving <- struct{}{}
		<-s.proceed
	}
	return s.PresenceStore.SetPresence(ctx, ps)
}

// A device that is back before its leaving is written down is connected.
func TestPresence_ReconnectWhileLeaving(t *testing.T) {
	t.Parallel()
	slow := &slowPresence{leaving: make(chan struct{}, 1), proceed: make(chan struct{})}
	w := hubtest.New(t, hubtest.Options{Memory: true, Presence: func(p hub.PresenceStore) hub.PresenceStore {
		slow.PresenceStore = p
		return slow
	}})
	d := w.Device(t, lamp)
	first, _ := connect(t, w, d, iot.Opening{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		first.Session.End(context.Background())
	}()
	<-slow.leaving
	opened := make(chan iot.Opened, 1)
	go func() {
		o, err := w.Connect(context.Background(), w.Credentials(d), iot.Opening{}, &link{})
		if err != nil {
			t.Error(err)
		}
		opened <- o
	}()
	time.Sleep(50 * time.Millisecond) // the second is under way
	close(slow.proceed)
	second := <-opened
	<-ended
	if d, err := w.Hub.Device(t.Context(), lamp); err != nil || !d.Connected {
		t.Errorf("after it came back: connected %v, %v", d.Connected, err)
	}
	second.Session.End(t.Context())
	<-slow.leaving
	if d, err := w.Hub.Device(t.Context(), lamp); err != nil || d.Connected {
		t.Errorf("after it left: connected %v, %v", d.Connected, err)
	}
}

// gatheredPresence holds the first write up and counts the identities of each.
type gatheredPresence struct {
	hub.PresenceStore
	first, proceed chan struct{}

	mu     sync.Mutex
	writes []int
}

func (g *gatheredPresence) SetPresence(ctx context.Context, ps []registry.Presence) error {
	g.mu.Lock()
	g.writes = append(g.writes, len(ps))
	n := len(g.writes)
	g.mu.Unlock()
	if n == 1 {
		close(g.first)
		<-g.proceed
	}
	return g.PresenceStore.SetPresence(ctx, ps)
}

// Devices that come while a write is under way are written together.
func TestPresence_Gathered(t *testing.T) {
	t.Parallel()
	const devices = 20
	g := &gatheredPresence{first: make(chan struct{}), proceed: make(chan struct{})}
	w := hubtest.New(t, hubtest.Options{Memory: true, Presence: func(p hub.PresenceStore) hub.PresenceStore {
		g.PresenceStore = p
		return g
	}})
	var ids []iot.ID
	var all sync.WaitGroup
	for i := 0; len(ids) < devices; i++ {
		id := iot.ID{Device: fmt.Sprint("gathered-", i)}
		if slices.ContainsFunc(ids, func(o iot.ID) bool { return hub.SharesHandover(w.Hub, id, o) }) {
			continue // it would wait for the other one, not with it
		}
		ids = append(ids, id)
		d := w.Device(t, id)
		all.Go(func() {
			if _, err := w.Connect(context.Background(), w.Credentials(d), iot.Opening{}, &link{}); err != nil {
				t.Error(err)
			}
		})
		if len(ids) == 1 {
			<-g.first
		}
	}
	hubtest.Until(t, "all others wait", func() bool { return hub.PresenceWaiting(w.Hub) == devices-1 })
	close(g.proceed)
	all.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	if !slices.Equal(g.writes, []int{1, devices - 1}) {
		t.Errorf("%d devices were written as %v, want one and then all others", devices, g.writes)
	}
	for _, id := range ids {
		if d, err := w.Hub.Device(t.Context(), id); err != nil || !d.Connected {
			t.Errorf("%v: connected %v, %v", id, d.Connected, err)
		}
	}
}

// The presence a crash left behind is gone before the first device connects, and not after.
func TestPresence_AfterACrash(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := hubtest.New(t, hubtest.Options{Dir: dir, Memory: true})
	d, stale := w.Device(t, lamp), w.Device(t, iot.ID{Device: "stale"})
	connect(t, w, stale, iot.Opening{}) // and never ends
	for range 20 {
		w.Restart(t)
		o, _ := connect(t, w, d, iot.Opening{}) // maybe before the hub's Run had its turn
		time.Sleep(time.Millisecond)
		if got, err := w.Hub.Device(t.Context(), lamp); err != nil || !got.Connected {
			t.Fatalf("the connected device shows as %v, %v", got.Connected, err)
		}
		if got, err := w.Hub.Device(t.Context(), stale.ID); err != nil || got.Connected {
			t.Fatalf("the device of before the crash shows as %v, %v", got.Connected, err)
		}
		o.Session.End(t.Context())
	}
}

// Activity reaches the registry within seconds, without a write for each message.
func TestPresence_Activity(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := memory(t)
		d := w.Device(t, lamp)
		o, _ := connect(t, w, d, iot.Opening{})
		time.Sleep(time.Minute)
		o.Session.Telemetry(&iot.Message{Body: []byte("x")}, acker{}, 0)
		at := time.Now()
		time.Sleep(6 * time.Second)
		got, err := w.Hub.Device(t.Context(), lamp)
		if err != nil || !got.LastActivity.Equal(at.UTC()) || !got.Connected {
			t.Errorf("last activity %v, connected %v, %v; want %v", got.LastActivity, got.Connected, err, at)
		}
		time.Sleep(time.Minute)
		if _, err := o.Session.Twin(t.Context()); err != nil {
			t.Fatal(err)
		}
		at = time.Now()
		time.Sleep(time.Second)
		o.Session.End(t.Context()) // saves what is not saved yet
		got, err = w.Hub.Device(t.Context(), lamp)
		if err != nil || !got.LastActivity.Equal(at.UTC()) || got.Connected || !got.ConnectionTime.Equal(time.Now().UTC()) {
			t.Errorf("last activity %v, connected %v since %v, %v", got.LastActivity, got.Connected, got.ConnectionTime, err)
		}
	})
}

type acker struct{}

func (acker) Acked(uint64, error) {}

// A session that was taken over takes nothing and writes nothing any more.
func TestSession_AfterATakeover(t *testing.T) {
	t.Parallel()
	w := memory(t)
	d := w.Device(t, lamp)
	old, l := connect(t, w, d, iot.Opening{})
	send := func(body string) {
		t.Helper()
		if _, err := w.Send(t.Context(), iot.Mail{To: lamp, Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
	send("one")
	ms, err := old.Session.Mail(t.Context(), 10)
	if err != nil || len(ms) != 1 || ms[0].Delivered {
		t.Fatalf("got %v, %v", ms, err)
	}
	token := ms[0].LockToken
	if ms, _ := old.Session.Mail(t.Context(), 10); len(ms) != 0 {
		t.Errorf("a locked message came twice: %v", ms)
	}
	fresh, _ := connect(t, w, d, iot.Opening{})
	if err := l.reason(); err == nil {
		t.Error("the old link was not closed")
	}
	send("two")
	if ms, err := old.Session.Mail(t.Context(), 10); len(ms) != 0 || err != nil {
		t.Errorf("the old session took %v, %v", ms, err)
	}
	if err := old.Session.SaveSubscriptions(t.Context(), []iot.Subscription{{Filter: "stale"}}); err != nil {
		t.Error(err)
	}
	ms, err = fresh.Session.Mail(t.Context(), 10)
	if err != nil || len(ms) != 2 || string(ms[0].Body) != "one" || !ms[0].Delivered || ms[1].Delivered {
		t.Fatalf("the new session got %v, %v; want both messages, the first again", ms, err)
	}
	if err := old.Session.Settle(t.Context(), token); !fault.Is(err, fault.LockLost) {
		t.Errorf("the old lock still settles: %v", err)
	}
	old.Session.End(t.Context()) // releases nothing of the new one's
	if again, _ := fresh.Session.Mail(t.Context(), 10); len(again) != 0 {
		t.Errorf("messages came twice on one session: %v", again)
	}
	if got, err := w.Hub.Device(t.Context(), lamp); err != nil || !got.Connected {
		t.Errorf("connected %v, %v", got.Connected, err)
	}
	fresh.Session.End(t.Context())
	third, _ := connect(t, w, d, iot.Opening{})
	if !third.Present || len(third.Subscriptions) != 0 {
		t.Errorf("stored session %v with %v", third.Present, third.Subscriptions)
	}
	third.Session.End(t.Context())
}

// Expired messages go although nobody fetches them.
func TestMail_Expires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := memory(t)
		w.Device(t, lamp)
		for i := range 3 {
			m := iot.Mail{To: lamp, Body: fmt.Append(nil, i)}
			if i == 2 {
				m.Expires = time.Now().Add(100 * 24 * time.Hour) // capped at two days
			}
			if _, err := w.Send(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
		for _, step := range []struct {
			wait time.Duration
			want int
		}{{58 * time.Minute, 3}, {2 * time.Minute, 1}, {46 * time.Hour, 1}, {2 * time.Hour, 0}} {
			w.Clock.Add(step.wait)
			time.Sleep(31 * time.Second) // the hub looks every 30 s
			if d, err := w.Hub.Device(t.Context(), lamp); err != nil || d.Pending != step.want {
				t.Errorf("after %v more: %d wait, %v; want %d", step.wait, d.Pending, err, step.want)
			}
		}
	})
}

func TestConnect_AnnouncesTheModel(t *testing.T) {
	t.Parallel()
	w := memory(t)
	d := w.Device(t, lamp)
	for _, model := range []string{"dtmi:a;1", "dtmi:b;2", ""} {
		c := w.Credentials(d)
		c.ModelID = model
		o, err := w.Connect(t.Context(), c, iot.Opening{Clean: true}, &link{})
		if err != nil {
			t.Fatal(err)
		}
		_, tw, err := w.Twin(t.Context(), lamp)
		want := model
		if model == "" {
			want = "dtmi:b;2" // a device that announces none keeps what it has
		}
		if err != nil || tw.ModelID != want {
			t.Errorf("model %q, %v; want %q", tw.ModelID, err, want)
		}
		o.Session.End(t.Context())
	}
}

func TestAssign(t *testing.T) {
	t.Parallel()
	w := memory(t)
	desired := func() string {
		t.Helper()
		d, tw, err := w.Twin(t.Context(), lamp)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%s %s %v %s", tw.Tags, tw.Desired, d.Edge, d.Authentication.Type)
	}
	a := hub.Assignment{ID: lamp, Authentication: registry.Authentication{Type: registry.SAS}, Tags: json.RawMessage(`{"site":"a"}`), Desired: json.RawMessage(`{"rate":1,"old":true}`)}
	if created, err := w.Assign(t.Context(), a); err != nil || !created {
		t.Fatalf("created %v, %v", created, err)
	}
	if got, want := desired(), `{"site":"a"} {"rate":1,"old":true} false sas`; got != want {
		t.Errorf("new: got %s, want %s", got, want)
	}
	first, err := w.Hub.Device(t.Context(), lamp)
	if err != nil {
		t.Fatal(err)
	}

	// Again, as another kind of device: credentials change, the twin stays.
	a.Authentication = registry.Authentication{Type: registry.CertificateAuthority}
	a.Edge, a.Desired = true, json.RawMessage(`{"rate":2}`)
	if created, err := w.Assign(t.Context(), a); err != nil || created {
		t.Fatalf("created %v, %v", created, err)
	}
	if got, want := desired(), `{"site":"a"} {"rate":1,"old":true} true certificateAuthority`; got != want {
		t.Errorf("again: got %s, want %s", got, want)
	}
	second, err := w.Hub.Device(t.Context(), lamp)
	if err != nil || second.Generation != first.Generation {
		t.Errorf("the device was made again: %v", err)
	}

	// With a reset the twin starts again, and what the enrollment does not name is gone.
	a.ResetTwin, a.Tags = true, nil
	if created, err := w.Assign(t.Context(), a); err != nil || created {
		t.Fatalf("created %v, %v", created, err)
	}
	if got, want := desired(), `{} {"rate":2} true certificateAuthority`; got != want {
		t.Errorf("reset: got %s, want %s", got, want)
	}

	// A twin that is refused leaves everything as it was.
	a.Desired = json.RawMessage(`{"a.b":1}`)
	if _, err := w.Assign(t.Context(), a); !fault.Is(err, fault.Invalid) {
		t.Errorf("a bad twin: %v", err)
	}
	a.ID = iot.ID{Device: "other"}
	if _, err := w.Assign(t.Context(), a); !fault.Is(err, fault.Invalid) {
		t.Errorf("a bad twin of a new device: %v", err)
	}
	if _, err := w.Hub.Device(t.Context(), a.ID); !fault.Is(err, fault.NotFound) {
		t.Errorf("the new device is there: %v", err)
	}
	if got, want := desired(), `{} {"rate":2} true certificateAuthority`; got != want {
		t.Errorf("after the refusal: got %s, want %s", got, want)
	}
}

// The log of a test's hub that did what it should is quiet.
func TestHub_Quiet(t *testing.T) {
	t.Parallel()
	w := hubtest.New(t, hubtest.Options{})
	d := w.Device(t, lamp)
	o, _ := connect(t, w, d, iot.Opening{})
	o.Session.End(t.Context())
	w.Restart(t)
	o, _ = connect(t, w, d, iot.Opening{})
	o.Session.End(t.Context())
	w.Close()
	if lines := w.Log.Lines(slog.LevelWarn, ""); len(lines) != 0 {
		t.Errorf("got %v", lines)
	}
	if _, err := w.Connect(t.Context(), w.Credentials(d), iot.Opening{}, &link{}); err == nil {
		t.Error("a hub whose stores are closed lets devices in")
	}
}

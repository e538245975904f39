package command_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/bus/natsbus"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/command"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/iot"
)

// link is a device that remembers what it was asked.
type link struct {
	mu      sync.Mutex
	log     []string
	closed  error
	methods func(name string, payload []byte, reply func(int, []byte, error))
}

func (l *link) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.log = append(l.log, fmt.Sprintf(format, args...))
}

func (l *link) Method(name string, payload []byte, reply func(int, []byte, error)) {
	l.add("method %s %s", name, payload)
	l.mu.Lock()
	answer := l.methods
	l.mu.Unlock()
	if answer != nil {
		answer(name, payload, reply)
	}
}

// answer says what becomes of methods from now on.
func (l *link) answer(f func(name string, payload []byte, reply func(int, []byte, error))) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.methods = f
}

func (l *link) Desired(version int64, patch []byte) { l.add("desired %d %s", version, patch) }
func (l *link) MailWaits()                          { l.add("mail") }

func (l *link) Close(reason error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed == nil {
		l.closed = reason
	}
}

func (l *link) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.log = nil
}

func (l *link) reason() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// seen waits until the log is as wanted, and that nothing more comes.
func (l *link) seen(t *testing.T, want ...string) {
	t.Helper()
	got := func() string {
		l.mu.Lock()
		defer l.mu.Unlock()
		return strings.Join(l.log, "; ")
	}
	for deadline := time.Now().Add(hubtest.Patience); len(got()) < len(strings.Join(want, "; ")) && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(10 * time.Millisecond)
	if g := got(); g != strings.Join(want, "; ") {
		t.Fatalf("the device was asked %q, want %q", g, want)
	}
}

// echo answers every method with its payload.
func echo(_ string, payload []byte, reply func(int, []byte, error)) { reply(200, payload, nil) }

var id = iot.ID{Device: "dev.*>$ü", Module: "m"}

// router returns a router on an embedded bus.
func router(t *testing.T) *command.Router {
	t.Helper()
	var r *command.Router
	b, err := natsbus.Open(t.Context(), natsbus.Config{Dir: t.TempDir(), Handle: func(c bus.Call) { r.Handle(c) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	r = command.NewRouter(b, slog.New(slog.DiscardHandler))
	return r
}

// node is one of several routers on a bus: it hears the mailboxes it listens to, as on a machine of its own.
type node struct {
	*hubtest.Memory
	*command.Router
	mu    sync.Mutex
	boxes map[string]int
}

func (n *node) Listen(name string) (func(), error) {
	cancel, err := n.Memory.Listen(name)
	n.count(name, 1)
	return func() { n.count(name, -1); cancel() }, err
}

func (n *node) count(name string, d int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.boxes[name] += d
}

func (n *node) handle(c bus.Call) {
	n.mu.Lock()
	listening := n.boxes[c.Name] > 0
	n.mu.Unlock()
	if listening {
		n.Router.Handle(c)
	}
}

// two returns two nodes that share a bus.
func two(t *testing.T) (a, b *node) {
	t.Helper()
	a, b = &node{boxes: map[string]int{}}, &node{boxes: map[string]int{}}
	m := hubtest.NewMemory(func(c bus.Call) { a.handle(c); b.handle(c) })
	for _, n := range []*node{a, b} {
		n.Memory = m
		n.Router = command.NewRouter(n, slog.New(slog.DiscardHandler))
	}
	return a, b
}

func attach(t *testing.T, r *command.Router, l *link, f iot.Feature) *command.Route {
	t.Helper()
	rt, err := r.Attach(id, l)
	if err != nil {
		t.Fatal(err)
	}
	rt.Listen(f)
	return rt
}

const everything = iot.Methods | iot.DesiredUpdates | iot.CloudToDevice

func method(name, payload string) command.Method {
	return command.Method{Name: name, Payload: json.RawMessage(payload), ResponseTimeout: hubtest.Patience}
}

func TestRouter_Method(t *testing.T) {
	t.Parallel()
	r := router(t)
	l := &link{methods: echo}
	defer attach(t, r, l, everything).Detach()
	// A method without a payload comes with null: the Node SDK parses whatever arrives, even nothing.
	for payload, want := range map[string]string{`{"a":"<&>"}`: `{"a":"<&>"}`, `null`: `null`, `"x"`: `"x"`, ``: `null`} {
		l.clear()
		res, err := r.Invoke(t.Context(), id, method("m", payload))
		if err != nil || res.Status != 200 || string(res.Payload) != want {
			t.Errorf("payload %q: got %d %q, %v; want %q", payload, res.Status, res.Payload, err, want)
		}
		l.seen(t, "method m "+want)
	}
	// What is no JSON is null to the caller (hub-device §3.8).
	l.answer(func(_ string, _ []byte, reply func(int, []byte, error)) { reply(500, []byte("oops"), nil) })
	if res, err := r.Invoke(t.Context(), id, method("m", "")); err != nil || res.Status != 500 || res.Payload != nil {
		t.Errorf("got %d %q, %v; want 500 and nothing", res.Status, res.Payload, err)
	}
	// The kind and the public text of a refusal travel, and nothing else.
	l.answer(func(_ string, _ []byte, reply func(int, []byte, error)) {
		reply(0, nil, fault.Wrap(fault.Throttled, errors.New("secret"), "too many calls"))
	})
	if _, err := r.Invoke(t.Context(), id, method("m", "")); !fault.Is(err, fault.Throttled) || err.Error() != "too many calls" {
		t.Errorf("got %v, want throttled: too many calls", err)
	}
}

func TestRouter_NobodyAnswers(t *testing.T) {
	t.Parallel()
	r := router(t)
	begin := time.Now()
	if _, err := r.Invoke(t.Context(), id, method("m", "")); !fault.Is(err, fault.NotOnline) {
		t.Errorf("nobody there: got %v, want not online", err)
	}
	l := &link{}
	rt := attach(t, r, l, iot.DesiredUpdates|iot.CloudToDevice)
	if _, err := r.Invoke(t.Context(), id, method("m", "")); !fault.Is(err, fault.NotOnline) {
		t.Errorf("no subscription: got %v, want not online", err)
	}
	if took := time.Since(begin); took > hubtest.Patience/2 {
		t.Errorf("it took %v to find out that nobody is there", took)
	}
	rt.Listen(iot.Methods)
	late := make(chan func(int, []byte, error), 1)
	l.answer(func(_ string, _ []byte, reply func(int, []byte, error)) { late <- reply })
	begin = time.Now()
	_, err := r.Invoke(t.Context(), id, command.Method{Name: "slow", ResponseTimeout: 5 * time.Second, Margin: 4900 * time.Millisecond})
	if took := time.Since(begin); !fault.Is(err, fault.Timeout) || took < 100*time.Millisecond || took > 2*time.Second {
		t.Errorf("no answer: got %v after %v, want a timeout after 100 ms", err, took)
	}
	(<-late)(200, nil, nil) // nobody is there to hear it, and nothing happens
	if !rt.Detach() {
		t.Error("the route was not the current one")
	}
	if _, err := r.Invoke(t.Context(), id, method("m", "")); !fault.Is(err, fault.NotOnline) {
		t.Errorf("after it left: got %v, want not online", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Invoke(ctx, id, method("m", "")); err == nil {
		t.Error("a caller that left got an answer")
	}
}

func TestRouter_ConnectTimeout(t *testing.T) {
	t.Parallel()
	r := router(t)
	done := make(chan error, 1)
	go func() {
		m := method("patient", "")
		m.ConnectTimeout = hubtest.Patience
		_, err := r.Invoke(context.Background(), id, m)
		done <- err
	}()
	time.Sleep(50 * time.Millisecond)
	l := &link{methods: echo}
	rt := attach(t, r, l, 0)
	time.Sleep(150 * time.Millisecond) // connected, but deaf
	rt.Listen(iot.Methods)
	if err := <-done; err != nil {
		t.Errorf("got %v", err)
	}
	l.seen(t, "method patient null")
	rt.Detach()

	m := method("vain", "")
	m.ConnectTimeout = 150 * time.Millisecond
	begin := time.Now()
	_, err := r.Invoke(t.Context(), id, m)
	if took := time.Since(begin); !fault.Is(err, fault.NotOnline) || took < 150*time.Millisecond || took > 3*time.Second {
		t.Errorf("got %v after %v, want not online after 150 ms", err, took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	m.ConnectTimeout = time.Minute
	if _, err := r.Invoke(ctx, id, m); !fault.Is(err, fault.Timeout) {
		t.Errorf("a caller that left got %v", err)
	}
}

func TestRouter_DesiredInOrder(t *testing.T) {
	t.Parallel()
	r := router(t)
	l := &link{}
	rt := attach(t, r, l, 0)
	r.Desired(id, 2, json.RawMessage(`{"deaf":1}`))
	time.Sleep(20 * time.Millisecond)
	rt.Listen(iot.DesiredUpdates)
	for _, v := range []int64{3, 6, 5, 4, 7, 9} { // 4 to 6 crossed, 8 was lost
		r.Desired(id, v, json.RawMessage(`{}`))
	}
	l.seen(t, "desired 3 {}", "desired 4 {}", "desired 5 {}", "desired 6 {}", "desired 7 {}", "desired 9 {}")
	r.Desired(id, 8, json.RawMessage(`{}`)) // too late: merged now it might undo 9
	hubtest.Until(t, "the device is sent to read its twin", func() bool { return fault.Is(l.reason(), fault.Unavailable) })
	// A new session has its own order.
	next := &link{}
	attach(t, r, next, iot.DesiredUpdates)
	r.Desired(id, 4, json.RawMessage(`{}`))
	next.seen(t, "desired 4 {}")
}

// Where other servers write, too, even the first patch a session hears may have crossed with another.
func TestRouter_DesiredInOrder_Shared(t *testing.T) {
	t.Parallel()
	r := router(t)
	r.Shared = true
	l := &link{}
	attach(t, r, l, iot.DesiredUpdates)
	for _, v := range []int64{8, 7, 9} {
		r.Desired(id, v, json.RawMessage(`{}`))
	}
	l.seen(t, "desired 7 {}", "desired 8 {}", "desired 9 {}")
}

func TestRouter_Mail(t *testing.T) {
	t.Parallel()
	r := router(t)
	l := &link{}
	rt := attach(t, r, l, iot.Methods)
	r.MailWaits(id)
	r.MailWaits(iot.ID{Device: id.Device}) // the device is not its module
	time.Sleep(20 * time.Millisecond)
	rt.Listen(iot.CloudToDevice)
	r.MailWaits(id)
	l.seen(t, "mail")
	rt.Detach()
	r.MailWaits(id)
	l.seen(t, "mail")
}

func TestRouter_Disconnect(t *testing.T) {
	t.Parallel()
	r := router(t)
	l, other := &link{}, &link{}
	attach(t, r, l, everything)
	rt, err := r.Attach(iot.ID{Device: "other"}, other)
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Detach()
	r.Disconnect(id, fault.Disabled, "the device was disabled")
	hubtest.Until(t, "the link to be closed", func() bool { return l.reason() != nil })
	if err := l.reason(); !fault.Is(err, fault.Disabled) || err.Error() != "the device was disabled" {
		t.Errorf("closed with %v", err)
	}
	if other.reason() != nil {
		t.Error("another device was closed, too")
	}
}

func TestRouter_Takeover(t *testing.T) {
	t.Parallel()
	r := router(t)
	var links []*link
	var routes []*command.Route
	for range 50 { // as fast as it goes: the bus must not close a newer session for an older one
		l := &link{methods: echo}
		links, routes = append(links, l), append(routes, attach(t, r, l, everything))
	}
	if _, err := r.Invoke(t.Context(), id, method("who", "")); err != nil { // behind everything that was sent before
		t.Fatal(err)
	}
	for i, l := range links[:49] {
		if !errors.Is(l.reason(), command.ErrTakenOver) {
			t.Errorf("session %d was closed with %v, want the takeover", i, l.reason())
		}
		if routes[i].Detach() || routes[i].Current() {
			t.Errorf("session %d believes it is the current one", i)
		}
	}
	if err := links[49].reason(); err != nil {
		t.Errorf("the last session was closed: %v", err)
	}
	links[49].seen(t, "method who null")
	if r.Count() != 1 || !routes[49].Current() || !routes[49].Detach() || r.Count() != 0 {
		t.Errorf("%d sessions are left", r.Count())
	}
}

// A device that comes back through another node leaves its old session there.
func TestRouter_TakeoverAcrossNodes(t *testing.T) {
	t.Parallel()
	a, b := two(t)
	old, l := &link{methods: echo}, &link{methods: echo}
	oldRoute := attach(t, a.Router, old, everything)
	newRoute := attach(t, b.Router, l, everything)
	if err := old.reason(); !fault.Is(err, fault.AlreadyExists) {
		t.Errorf("the old session was closed with %v, want the takeover", err)
	}
	if err := l.reason(); err != nil {
		t.Errorf("the new session was closed: %v", err)
	}
	oldRoute.Detach()
	if _, err := a.Invoke(t.Context(), id, method("who", "")); err != nil { // asked on the node that lost it
		t.Error(err)
	}
	l.seen(t, "method who null")
	old.seen(t)
	newRoute.Detach()
}

func TestRouter_RubbishOnTheBus(t *testing.T) {
	t.Parallel()
	log := &hubtest.Log{}
	r := command.NewRouter(hubtest.NewMemory(func(bus.Call) {}), slog.New(log))
	l := &link{}
	rt, err := r.Attach(id, l)
	if err != nil {
		t.Fatal(err)
	}
	rt.Listen(everything)
	answered := 0
	for _, data := range []string{``, `{`, `[]`, `{"kind":"dance","device":"dev.*>$ü","module":"m"}`, `{"kind":"method","device":"nobody"}`} {
		r.Handle(bus.Call{Name: "x", Data: []byte(data), Reply: func([]byte) { answered++ }})
	}
	if n := len(log.Lines(slog.LevelWarn, "")); n != 4 || answered != 1 || l.reason() != nil {
		t.Errorf("%d warnings, %d answers, closed %v; want 4, 1 and open", n, answered, l.reason())
	}
}

package https_test

import (
	"context"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
)

// board is a connected device that answers methods, or is silent when answer is nil.
type board struct {
	answer func(name string, payload []byte) (int, []byte)
}

func (b *board) Method(name string, payload []byte, reply func(int, []byte, error)) {
	if b.answer != nil {
		status, body := b.answer(name, payload)
		reply(status, body, nil)
	}
}
func (*board) Desired(int64, []byte) {}
func (*board) MailWaits()            {}
func (*board) Close(error)           {}

func (s *server) connect(t testing.TB, d registry.Identity, b *board) {
	t.Helper()
	opened, err := s.Connect(t.Context(), s.Credentials(d), iot.Opening{Clean: true}, b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { opened.Session.End(context.Background()) })
	opened.Session.Listen(iot.Methods)
}

func TestMethod(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HD-80")
	s := serve(t)
	edge, err := s.CreateDevice(t.Context(), registry.Identity{ID: iot.ID{Device: "edge"}, Edge: true})
	if err != nil {
		t.Fatal(err)
	}
	caller := s.Device(t, iot.ID{Device: "edge", Module: "caller"})
	target := s.Device(t, iot.ID{Device: "edge", Module: "target"})
	silent := s.Device(t, iot.ID{Device: "edge", Module: "silent"})
	child, err := s.CreateDevice(t.Context(), registry.Identity{ID: iot.ID{Device: "child"}, Scope: edge.Scope})
	if err != nil {
		t.Fatal(err)
	}
	stranger := s.Device(t, iot.ID{Device: "stranger"})
	echo := &board{answer: func(name string, payload []byte) (int, []byte) {
		return 201, []byte(`{"you":"` + name + `","sent":` + string(payload) + `}`)
	}}
	for _, d := range []registry.Identity{target, child, stranger} {
		s.connect(t, d, echo)
	}
	s.connect(t, silent, &board{})

	from := map[string]string{"x-ms-edge-moduleId": "edge/caller", "Content-Type": "application/json"}
	const body = `{"methodName":"go","payload":{"a":"<1>"},"responseTimeoutInSeconds":5,"connectTimeoutInSeconds":0}`
	for _, path := range []string{"/twins/edge/modules/target/methods" + version, "/twins/edge/modules/target/methods", "/Twins/child/Methods/"} {
		a := s.as(t, caller, "POST", path, from, body).want(t, 200)
		if got, want := string(a.body), `{"status":201,"payload":{"you":"go","sent":{"a":"<1>"}}}`; got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
	begin := time.Now()
	s.as(t, caller, "POST", "/twins/edge/modules/silent/methods", from, body).want(t, 504)
	if d := time.Since(begin); d < 4*time.Second {
		t.Errorf("gave up after %v", d)
	}
	for _, path := range []string{"/twins/edge/modules/none/methods", "/twins/edge/methods", "/twins/none/methods", "/twins/stranger/methods"} {
		s.as(t, caller, "POST", path, from, body).want(t, 404)
	}
	const path = "/twins/edge/modules/target/methods"
	s.as(t, target, "POST", path, from, body).want(t, 401) // another module's token
	s.as(t, edge, "POST", path, from, body).want(t, 401)
	s.as(t, caller, "POST", path, from, "[").want(t, 400)
	s.as(t, caller, "POST", path, from, `{"methodName":"a b"}`).want(t, 400)
	s.as(t, caller, "POST", path, map[string]string{"x-ms-edge-moduleId": "edge"}, body).want(t, 400)
	s.as(t, caller, "GET", path, from, "").want(t, 405)
}

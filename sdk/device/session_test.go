package device_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/sdk/device"
)

func connect(t *testing.T, cfg device.Config) *device.Session {
	t.Helper()
	c, err := device.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func TestSession(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	cfg := configOf(v, v.Device("lamp"))
	if _, err := v.Service().PatchTwin(t.Context(), "lamp", []byte(`{"properties":{"desired":{"interval":3}}}`), ""); err != nil {
		t.Fatal(err)
	}
	changes, states := make(chan device.TwinEvent, 8), make(chan error, 8)
	cfg.Twin = func(_ context.Context, e device.TwinEvent) { changes <- e }
	cfg.State = func(err error) { states <- err }
	cfg.Method = func(_ context.Context, m device.Method) (int, []byte) { return 200, []byte(`"` + m.Name + `"`) }
	s := connect(t, cfg)
	twin, version := s.Twin()
	if version != 2 || !strings.Contains(string(twin.Desired), `"interval":3`) {
		t.Errorf("the twin at the beginning: version %d, %s", version, twin.Desired)
	}
	if err := s.Send(t.Context(), device.Message{Body: []byte("x")}); err != nil {
		t.Error(err)
	}
	if err := s.Send(t.Context(), device.Message{Body: make([]byte, 300<<10)}); !errors.Is(err, device.ErrTooLarge) {
		t.Errorf("a message over the limit: %v", err)
	}
	if _, err := s.Report(t.Context(), map[string]any{"on": true}); err != nil {
		t.Error(err)
	}
	if twin, err := s.ReadTwin(t.Context()); err != nil || !strings.Contains(string(twin.Reported), `"on":true`) {
		t.Errorf("the twin after a report: %s, %v", twin.Reported, err)
	}
	if r, err := v.Service().InvokeMethod(t.Context(), "lamp", "blink", nil, 10*time.Second, 0); err != nil || r.Status != http.StatusOK || string(r.Payload) != `"blink"` {
		t.Errorf("a method: %+v, %v", r, err)
	}
	if _, err := v.Service().PatchTwin(t.Context(), "lamp", []byte(`{"properties":{"desired":{"interval":5}}}`), ""); err != nil {
		t.Fatal(err)
	}
	if e := <-changes; e.Twin != nil || e.Version != 3 || !strings.Contains(string(e.Patch), `"interval":5`) {
		t.Errorf("the handler heard %+v before the change, or another one", e)
	}
	select {
	case <-s.Done():
		t.Fatalf("the session ended: %v", s.Err())
	default:
	}

	v.Stop()
	<-s.Done()
	if err := <-states; err == nil || err.Error() != s.Err().Error() {
		t.Errorf("State heard %v of a session that ended with %v", err, s.Err())
	}
	if err := s.Send(t.Context(), device.Message{Body: []byte("x")}); !errors.Is(err, device.ErrEnded) {
		t.Errorf("sending in a session that is over: %v", err)
	}
	if _, err := s.Report(t.Context(), struct{}{}); !errors.Is(err, device.ErrEnded) {
		t.Errorf("reporting in a session that is over: %v", err)
	}
	v.Start()
	s = connect(t, cfg)
	if err := s.Send(t.Context(), device.Message{Body: []byte("x")}); err != nil {
		t.Error(err)
	}
	s.Close()
	s.Close()
	if err := <-states; err == nil {
		t.Error("State heard nothing of the second session's end")
	}
}

func TestSession_EndsBeforeItsToken(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	cfg := configOf(v, v.Device("lamp"))
	cfg.TokenLife = 2 * time.Second
	s := connect(t, cfg)
	select {
	case <-s.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("the session outlives its token")
	}
	if !errors.Is(s.Err(), device.ErrTokenDue) {
		t.Errorf("ended with %v", s.Err())
	}
	if again := connect(t, cfg); again.Err() != nil {
		t.Error(again.Err())
	}
}

func TestSession_Refused(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	cfg := configOf(v, v.Device("lamp"))
	cfg.ConnectionString = "HostName=" + v.Hub.Hostname + ";DeviceId=lamp;SharedAccessKey=" + groupKey
	c, err := device.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := c.Connect(t.Context()); s != nil || !isRefused(err) {
		t.Errorf("a wrong key gave %v, %v", s, err)
	}
	v.Stop()
	if s, err := c.Connect(t.Context()); s != nil || err == nil {
		t.Errorf("nobody listens, and there is %v, %v", s, err)
	}
}

// brittle is a connection that breaks at one of its writes.
type brittle struct {
	net.Conn
	left int
}

func (b *brittle) Write(p []byte) (int, error) {
	if b.left == 0 {
		b.Close()
		return 0, errors.New("the line is cut")
	}
	b.left--
	return b.Conn.Write(p)
}

// A session that does not come about has no end.
func TestSession_BreaksAtItsBeginning(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	cfg := configOf(v, v.Device("lamp"))
	cfg.State = func(err error) { t.Errorf("State heard of the end of a session that never was: %v", err) }
	cfg.Twin = func(context.Context, device.TwinEvent) {}
	where := map[string]bool{}
	for writes := range 5 { // hello, handshake, CONNECT, SUBSCRIBE, the twin
		cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			nc, err := new(net.Dialer).DialContext(ctx, network, address)
			return &brittle{nc, writes}, err
		}
		c, err := device.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.Connect(t.Context())
		if err == nil {
			t.Errorf("it connects with %d writes", writes)
			s.Close()
			continue
		}
		where[strings.SplitN(err.Error(), ":", 2)[0]] = true
	}
	if !where["reading the twin"] {
		t.Errorf("the connections broke at %v", where)
	}
}

func isRefused(err error) bool {
	r, ok := errors.AsType[*device.RefusedError](err)
	return ok && r.Code == 5
}

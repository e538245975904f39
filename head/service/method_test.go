package service_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
)

// calls is a device that listens for methods and answers with answer.
func (s *server) calls(t testing.TB, id string, answer func(string, []byte) (int, []byte, error)) *board {
	t.Helper()
	b := s.connect(t, s.device(t, id), iot.Methods)
	b.mu.Lock()
	b.answer = answer
	b.mu.Unlock()
	return b
}

func TestMethod(t *testing.T) {
	t.Parallel()
	s := serve(t)
	var asked sync.Map
	s.calls(t, "d1", func(name string, payload []byte) (int, []byte, error) {
		asked.Store(name, string(payload))
		switch name {
		case "garbage":
			return 200, []byte("{"), nil
		case "empty":
			return 404, nil, nil
		case "huge":
			return 200, []byte(`"` + strings.Repeat("x", 128<<10) + `"`), nil
		}
		return 207, payload, nil
	})
	for _, test := range []struct{ name, body, asked, answer string }{
		{"object", `{"methodName":"m","payload":{"b":1,"a":[1.50,"é<&"]}}`, `{"b":1,"a":[1.50,"é<&"]}`, `{"status":207,"payload":{"b":1,"a":[1.50,"é<&"]}}`},
		{"null", `{"methodName":"m","payload":null}`, "null", `{"status":207,"payload":null}`},
		{"absent", `{"methodName":"m"}`, "null", `{"status":207,"payload":null}`},
		{"string", `{"methodName":"m","payload":"","responseTimeoutInSeconds":5,"connectTimeoutInSeconds":300}`, `""`, `{"status":207,"payload":""}`},
		{"longest times", `{"methodName":"m","payload":0,"responseTimeoutInSeconds":300}`, `0`, `{"status":207,"payload":0}`},
		{"component", `{"methodName":"c*m","payload":1}`, `1`, `{"status":207,"payload":1}`},
		{"answer without a body", `{"methodName":"empty"}`, "null", `{"status":404,"payload":null}`},
		{"answer that is no JSON", `{"methodName":"garbage"}`, "null", `{"status":200,"payload":null}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := s.owner(t, 200, "POST", "/twins/d1/methods?api-version=2021-04-12", test.body)
			if string(a.body) != test.answer {
				t.Errorf("answer %s, want %s", a.body, test.answer)
			}
			for _, name := range []string{"m", "c*m", "empty", "garbage"} {
				if got, ok := asked.LoadAndDelete(name); ok && got != test.asked {
					t.Errorf("the device was asked %q, want %q", got, test.asked)
				}
			}
		})
	}
	t.Run("answer over the limit", func(t *testing.T) {
		formB(t, s.owner(t, 502, "POST", "/twins/d1/methods", `{"methodName":"huge"}`), 502, "InvalidResponseWhileProxying", 502000)
	})
}

func TestMethod_Refusals(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.device(t, "offline")
	s.connect(t, s.device(t, "deaf"), 0)
	s.calls(t, "busy", func(string, []byte) (int, []byte, error) {
		return 0, nil, fault.New(fault.Throttled, "too many")
	})
	s.calls(t, "leaving", func(string, []byte) (int, []byte, error) {
		return 0, nil, fault.New(fault.ConnectionClosed, "gone")
	})
	s.calls(t, "disabled", nil)
	s.owner(t, 200, "PUT", "/devices/disabled", `{"status":"disabled"}`, "If-Match", "*")
	name := func(n string) string { return `{"methodName":"` + n + `"}` }
	for _, test := range []struct {
		name, device, body string
		status             int
		code               string
		number             float64
	}{
		{"unknown device", "nobody", name("m"), 404, "DeviceNotFound", 404001},
		{"offline", "offline", name("m"), 404, "DeviceNotOnline", 404103},
		{"not listening", "deaf", name("m"), 404, "DeviceNotOnline", 404103},
		{"disabled", "disabled", name("m"), 404, "DeviceNotOnline", 404103},
		{"left while asked", "leaving", name("m"), 404, "DeviceConnectionClosedRemotely", 404104},
		{"too many in flight", "busy", name("m"), 403, "DeviceMaximumInflightMethodExceeded", 403800},
		{"no name", "offline", `{}`, 400, "ArgumentInvalid", 400004},
		{"long name", "offline", name(strings.Repeat("m", 101)), 400, "ArgumentInvalid", 400004},
		{"slash in the name", "offline", name("a/b"), 400, "ArgumentInvalid", 400004},
		{"wildcard in the name", "offline", name("a#"), 400, "ArgumentInvalid", 400004},
		{"space in the name", "offline", name("a b"), 400, "ArgumentInvalid", 400004},
		{"short response time", "offline", `{"methodName":"m","responseTimeoutInSeconds":4}`, 400, "ArgumentInvalid", 400004},
		{"long response time", "offline", `{"methodName":"m","responseTimeoutInSeconds":301}`, 400, "ArgumentInvalid", 400004},
		{"endless response time", "offline", `{"methodName":"m","responseTimeoutInSeconds":1e300}`, 400, "ArgumentInvalid", 400004},
		{"negative connect time", "offline", `{"methodName":"m","connectTimeoutInSeconds":-1}`, 400, "ArgumentInvalid", 400004},
		{"long connect time", "offline", `{"methodName":"m","connectTimeoutInSeconds":301}`, 400, "ArgumentInvalid", 400004},
		{"payload over the limit", "offline", `{"methodName":"m","payload":"` + strings.Repeat("x", 128<<10) + `"}`, 413, "MessageTooLarge", 413001},
		{"body over the limit", "offline", `{"methodName":"m","payload":"` + strings.Repeat("x", 256<<10) + `"}`, 413, "MessageTooLarge", 413001},
		{"broken JSON", "offline", `{`, 400, "IotHubFormatError", 400006},
		{"times of another type", "offline", `{"methodName":"m","responseTimeoutInSeconds":"5"}`, 400, "IotHubFormatError", 400006},
	} {
		t.Run(test.name, func(t *testing.T) {
			formB(t, s.owner(t, test.status, "POST", "/twins/"+test.device+"/methods", test.body), test.status, test.code, test.number)
		})
	}
}

func TestMethod_ModulesAndManyAtOnce(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HS-072")
	s := serve(t)
	s.device(t, "d1")
	module := s.connect(t, s.World.Device(t, iot.ID{Device: "d1", Module: "m"}), iot.Methods)
	module.answer = func(name string, payload []byte) (int, []byte, error) {
		return 201, fmt.Appendf(nil, "[%q,%s]", name, payload), nil
	}
	if a := s.owner(t, 200, "POST", "/twins/d1/modules/m/methods", `{"methodName":"x","payload":{"a":1}}`); string(a.body) != `{"status":201,"payload":["x",{"a":1}]}` {
		t.Errorf("the module answers %s", a.body)
	}
	formB(t, s.owner(t, 404, "POST", "/twins/d1/methods", `{"methodName":"x"}`), 404, "DeviceNotOnline", 404103) // the device itself is away
	formB(t, s.owner(t, 404, "POST", "/twins/d1/modules/none/methods", `{"methodName":"x"}`), 404, "ModuleNotFound", 404010)
	formB(t, s.send(t, "POST", "/twins/d1/modules/m/methods", `{"methodName":"x"}`, "Authorization", s.as("registryReadWrite")), 401, "IotHubUnauthorizedAccess", 401002)

	// No call of one device is answered before all have reached it.
	const n = 20
	d2 := s.device(t, "d2")
	many := &manyAtOnce{arrived: make(chan struct{}, n), answer: make(chan struct{})}
	opened, err := s.Connect(t.Context(), s.Credentials(d2), iot.Opening{Clean: true}, many)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Session.End(context.Background())
	opened.Session.Listen(iot.Methods)
	var g sync.WaitGroup
	for i := range n {
		g.Go(func() {
			a := s.send(t, "POST", "/twins/d2/methods", fmt.Sprintf(`{"methodName":"x","payload":%d}`, i), "Authorization", s.as("service"))
			if want := fmt.Sprintf(`{"status":200,"payload":%d}`, i); string(a.body) != want {
				t.Errorf("answer %s, want %s", a.body, want)
			}
		})
	}
	hubtest.Until(t, "all calls at the device", func() bool { return len(many.arrived) == n })
	close(many.answer)
	g.Wait()
}

// manyAtOnce answers what it is asked when told.
type manyAtOnce struct {
	board
	arrived, answer chan struct{}
}

func (m *manyAtOnce) Method(_ string, payload []byte, reply func(int, []byte, error)) {
	m.arrived <- struct{}{}
	go func() {
		<-m.answer
		reply(200, payload, nil)
	}()
}

func TestMethod_Times(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.calls(t, "silent", nil)
	s.device(t, "offline")
	t.Run("group", func(t *testing.T) {
		t.Run("silent", func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			formB(t, s.owner(t, 504, "POST", "/twins/silent/methods", `{"methodName":"m","responseTimeoutInSeconds":5}`), 504, "GatewayTimeout", 504101)
			if d := time.Since(began); d < 4*time.Second || d > 10*time.Second { // a little less than 5 s, after which Node's socket closes
				t.Errorf("the answer took %v, want about 4.5 s", d)
			}
		})
		t.Run("offline", func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			formB(t, s.owner(t, 404, "POST", "/twins/offline/methods", `{"methodName":"m","connectTimeoutInSeconds":1}`), 404, "DeviceNotOnline", 404103)
			if d := time.Since(began); d < time.Second || d > 10*time.Second {
				t.Errorf("the answer took %v, want the second that the caller waits for a connection", d)
			}
		})
	})
}

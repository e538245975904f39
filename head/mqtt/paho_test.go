package mqtt_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/vauban-iot/vauban/head/mqtt/mqtttest"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/hub/registry"
)

func (s *server) paho(d registry.Identity) *paho.ClientOptions {
	return paho.NewClientOptions().AddBroker("ssl://" + s.address).SetClientID(d.ID.String()).
		SetUsername(username(d.ID)).SetPassword(s.Token(d)).SetTLSConfig(&tls.Config{RootCAs: s.roots, ServerName: hubtest.Host}).
		SetProtocolVersion(4).SetCleanSession(false).SetOrderMatters(false).SetConnectRetry(false).SetMaxReconnectInterval(50 * time.Millisecond)
}

func wait(t *testing.T, tok paho.Token) {
	t.Helper()
	if !tok.WaitTimeout(mqtttest.Patience) {
		t.Fatal("no answer from the server")
	}
	if err := tok.Error(); err != nil {
		t.Fatal(err)
	}
}

// A client we did not write uses every feature, and comes back after a restart of the server.
func TestPaho(t *testing.T) {
	t.Parallel()
	s := start(t, hubtest.Options{})
	d := s.device(t)
	mails, answers, patches := make(chan paho.Message, 10), make(chan paho.Message, 10), make(chan paho.Message, 10)
	online := make(chan struct{}, 10)
	opts := s.paho(d).SetAutoReconnect(true).SetOnConnectHandler(func(paho.Client) { online <- struct{}{} })
	c := paho.NewClient(opts)
	wait(t, c.Connect())
	defer c.Disconnect(100)
	<-online
	wait(t, c.SubscribeMultiple(map[string]byte{c2dFilter(d.ID): 1, twinAnswers: 0, desiredOnly: 1, methods: 0}, func(_ paho.Client, m paho.Message) {
		switch {
		case strings.HasPrefix(m.Topic(), "$iothub/methods/POST/"):
			_, rid, _ := strings.Cut(m.Topic(), "$rid=")
			c.Publish(answer(200, rid), 0, false, []byte(`"paho"`))
		case strings.HasPrefix(m.Topic(), "$iothub/twin/res/"):
			answers <- m
		case strings.HasPrefix(m.Topic(), "$iothub/twin/PATCH/"):
			patches <- m
		default:
			mails <- m
		}
	}))
	var pubs []paho.Token
	for i := range 200 {
		pubs = append(pubs, c.Publish(events(d.ID)+"n="+fmt.Sprint(i), 1, false, fmt.Append(nil, i)))
	}
	for _, p := range pubs {
		wait(t, p)
	}
	s.Messages(t, d.ID, 200)
	wait(t, c.Publish("$iothub/twin/PATCH/properties/reported/?$rid=1", 1, false, []byte(`{"a":1}`)))
	if m := <-answers; m.Topic() != "$iothub/twin/res/204/?$rid=1&$version=2" {
		t.Errorf("got %q", m.Topic())
	}
	use := func() {
		t.Helper()
		v := s.desired(t, d.ID, fmt.Sprintf(`{"at":%d}`, time.Now().UnixMicro()%1e9))
		if m := <-patches; m.Topic() != fmt.Sprintf("$iothub/twin/PATCH/properties/desired/?$version=%d", v) {
			t.Errorf("got %q", m.Topic())
		}
		s.mail(t, d.ID, "hello")
		if m := <-mails; string(m.Payload()) != "hello" {
			t.Errorf("got %q", m.Payload())
		}
		s.pending(t, d.ID, 0)
		if r := <-s.invoke(d.ID, "who", nil); r.err != nil || string(r.Payload) != `"paho"` {
			t.Errorf("method: %s, %v", r.Payload, r.err)
		}
	}
	use()
	s.restart(t)
	select {
	case <-online:
	case <-time.After(mqtttest.Patience):
		t.Fatal("the client did not come back after the restart")
	}
	use() // without a new SUBSCRIBE: the session was kept
	wait(t, c.Publish(events(d.ID), 1, false, []byte("after")))
	s.Messages(t, d.ID, 201)
}

func TestPaho_Refused(t *testing.T) {
	t.Parallel()
	d := shared.device(t)
	c := paho.NewClient(shared.paho(d).SetPassword("wrong"))
	tok := c.Connect()
	tok.WaitTimeout(mqtttest.Patience)
	if err := tok.Error(); err == nil || !strings.Contains(strings.ToLower(err.Error()), "not auth") {
		t.Errorf("got %v, want not authorized", err)
	}
}

// The will and a takeover as paho sees them.
func TestPaho_Takeover(t *testing.T) {
	t.Parallel()
	d := shared.device(t)
	lost := make(chan error, 1)
	var once sync.Once
	first := paho.NewClient(shared.paho(d).SetAutoReconnect(false).SetWill(events(d.ID), "gone", 1, false).
		SetConnectionLostHandler(func(_ paho.Client, err error) { once.Do(func() { lost <- err }) }))
	wait(t, first.Connect())
	second := paho.NewClient(shared.paho(d).SetAutoReconnect(false))
	wait(t, second.Connect())
	select {
	case err := <-lost:
		if err == nil {
			err = errors.New("none")
		}
		t.Logf("the first connection saw: %v", err)
	case <-time.After(mqtttest.Patience):
		t.Error("the first connection was not closed")
	}
	if m := shared.Messages(t, d.ID, 1)[0]; string(m.Body) != "gone" {
		t.Errorf("got %q, want the will", m.Body)
	}
	second.Disconnect(100)
}

// Package crash_test kills a loaded installation with SIGKILL, again and again, and checks
// that what it acknowledged is there: messages as they were sent, twins and identities.
package crash_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/vauban-iot/vauban/app/up"
	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/bus/diskbus"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/sdk/service"
	"github.com/vauban-iot/vauban/wire/bag"
	"github.com/vauban-iot/vauban/wire/sas"
	"github.com/vauban-iot/vauban/wire/topic"
)

const (
	rounds   = 20
	devices  = 8
	inFlight = 24 // unacknowledged messages of a device
)

// message is what device sends as its n-th message of a round. Its size and property differ from
// message to message, so that a torn or shifted record cannot look right.
type message struct{ round, device, n int }

func (m message) body() []byte {
	r := rand.New(rand.NewPCG(uint64(m.round)<<32|uint64(m.device), uint64(m.n)))
	body := fmt.Appendf(nil, "%d/%d/%d/", m.round, m.device, m.n)
	for range r.IntN(400) {
		body = append(body, byte(r.Uint32()))
	}
	return body
}

func (m message) property() string { return fmt.Sprintf("%d&%d=%d", m.round, m.device, m.n) }

func read(body []byte) (m message, ok bool) {
	_, err := fmt.Sscanf(string(body[:min(len(body), 40)]), "%d/%d/%d/", &m.round, &m.device, &m.n)
	return m, err == nil
}

// server is one life of the installation.
type server struct {
	cmd  *exec.Cmd
	conn up.Connection
	pool *x509.CertPool
}

func start(t *testing.T, binary, data string) *server {
	t.Helper()
	s := &server{cmd: exec.Command(binary, "up", "--data", data, "--mqtt-port", "0", "--https-port", "0", "--amqp-port", "0", "--output", "json")}
	var log bytes.Buffer
	s.cmd.Stderr = &log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.kill() })
	if err := json.NewDecoder(out).Decode(&s.conn); err != nil {
		s.kill()
		t.Fatalf("vauban up did not start: %v\n%s", err, log.Bytes())
	}
	root, err := os.ReadFile(s.conn.CA)
	if err != nil {
		t.Fatal(err)
	}
	s.pool = x509.NewCertPool()
	s.pool.AppendCertsFromPEM(root)
	return s
}

func (s *server) kill() {
	s.cmd.Process.Kill()
	s.cmd.Wait() // it was killed: its status says nothing
}

func (s *server) hub(t *testing.T) *service.Client {
	t.Helper()
	hub, err := service.New(service.Config{
		ConnectionString: s.conn.Hub.ConnectionString, TLS: &tls.Config{RootCAs: s.pool},
		Address: net.JoinHostPort("127.0.0.1", strconv.Itoa(s.conn.Ports.HTTPS)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return hub
}

func (s *server) dial(t *testing.T, id string, key []byte) paho.Client {
	t.Helper()
	user := topic.Username{Host: s.conn.Hub.Hostname, Device: id, APIVersion: "2021-04-12"}
	c := paho.NewClient(paho.NewClientOptions().AddBroker("ssl://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(s.conn.Ports.MQTT))).
		SetTLSConfig(&tls.Config{RootCAs: s.pool, ServerName: s.conn.Hub.Hostname}).SetClientID(id).SetUsername(user.String()).
		SetPassword(sas.Sign(s.conn.Hub.Hostname+"/devices/"+id, key, time.Now().Add(time.Hour), "")).
		SetAutoReconnect(false).SetProtocolVersion(4).SetOrderMatters(true))
	if tok := c.Connect(); tok.Wait() && tok.Error() != nil {
		t.Fatalf("%s cannot connect: %v", id, tok.Error())
	}
	return c
}

func deviceID(i int) string { return fmt.Sprintf("d-%d", i) }

// promises is what the installation acknowledged.
type promises struct {
	mu       sync.Mutex
	messages map[message]bool
	created  map[string]bool
	desired  [devices]span
	reported [devices]span
}

// span bounds a counter that was written one by one: the last value acknowledged and the last one tried.
type span struct{ acked, tried int64 }

func TestKill9(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: twenty starts and kills take a minute")
	}
	binary := filepath.Join(t.TempDir(), "vauban")
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/vauban-iot/vauban/cmd/vauban").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	data := t.TempDir()
	p := &promises{messages: map[message]bool{}, created: map[string]bool{}}
	keys := make([][]byte, devices)

	s := start(t, binary, data)
	for i := range devices {
		keys[i] = bytes.Repeat([]byte{byte(i + 1)}, 32)
		if _, err := s.hub(t).CreateDevice(t.Context(), service.Device{ID: deviceID(i), PrimaryKey: sasKey(keys[i])}); err != nil {
			t.Fatal(err)
		}
	}
	for round := range rounds {
		if round > 0 {
			s = start(t, binary, data)
		}
		p.load(t, s, round, keys)
	}
	s = start(t, binary, data)
	p.checkState(t, s)
	s.kill()
	p.checkLog(t, data)
	if len(p.messages) < rounds*devices || len(p.created) < rounds {
		t.Errorf("only %d messages and %d devices were acknowledged: the load was no load", len(p.messages), len(p.created))
	}
	t.Logf("%d kills: %d messages, %d identities and %d twin writes were acknowledged", rounds, len(p.messages), len(p.created), p.twinWrites())
}

func sasKey(b []byte) string {
	text, _ := json.Marshal(b) // base64 in quotes
	return string(text[1 : len(text)-1])
}

// load runs writers of every kind and kills the server among them.
func (p *promises) load(t *testing.T, s *server, round int, keys [][]byte) {
	hub := s.hub(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	clients := make([]paho.Client, devices)
	for i := range devices {
		clients[i] = s.dial(t, deviceID(i), keys[i])
	}
	var wg sync.WaitGroup
	for i, c := range clients {
		wg.Go(func() { p.publish(ctx, c, round, i) })
		wg.Go(func() { p.report(ctx, t, c, i) })
		wg.Go(func() { p.desire(ctx, hub, i) })
	}
	wg.Go(func() { p.create(ctx, hub, round) })
	time.Sleep(time.Duration(100+rand.IntN(700)) * time.Millisecond)
	s.kill()
	time.Sleep(50 * time.Millisecond) // acknowledgements on their way still count
	cancel()
	for _, c := range clients {
		c.Disconnect(0)
	}
	wg.Wait()
}

func (p *promises) publish(ctx context.Context, c paho.Client, round, device int) {
	window := make(chan struct{}, inFlight)
	var acks sync.WaitGroup
	defer acks.Wait()
	for n := 1; ctx.Err() == nil && c.IsConnected(); n++ {
		m := message{round, device, n}
		name := bag.Append(topic.AppendTelemetry(nil, deviceID(device), ""), []bag.Property{{Name: "p", Value: m.property()}})
		select {
		case window <- struct{}{}:
		case <-ctx.Done():
			return
		}
		tok := c.Publish(string(name), 1, false, m.body())
		acks.Go(func() {
			select {
			case <-tok.Done():
				if tok.Error() == nil {
					p.mu.Lock()
					p.messages[m] = true
					p.mu.Unlock()
				}
			case <-ctx.Done():
			}
			<-window
		})
	}
}

// report writes a growing counter to the reported properties.
func (p *promises) report(ctx context.Context, t *testing.T, c paho.Client, device int) {
	answers := make(chan string, 16)
	if tok := c.Subscribe("$iothub/twin/res/#", 1, func(_ paho.Client, m paho.Message) { answers <- m.Topic() }); tok.Wait() && tok.Error() != nil {
		return // killed already
	}
	for ctx.Err() == nil {
		p.mu.Lock()
		p.reported[device].tried++
		n := p.reported[device].tried
		p.mu.Unlock()
		c.Publish(string(topic.AppendTwinPatch(nil, strconv.FormatInt(n, 16))), 0, false, fmt.Appendf(nil, `{"n":%d}`, n))
		select {
		case a := <-answers:
			if r, err := topic.ParseResponse(a); err != nil || r.Status != 204 {
				t.Errorf("a reported patch was answered on %s (%v)", a, err)
				return
			}
			p.mu.Lock()
			p.reported[device].acked = n
			p.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

func (p *promises) desire(ctx context.Context, hub *service.Client, device int) {
	for ctx.Err() == nil {
		p.mu.Lock()
		p.desired[device].tried++
		n := p.desired[device].tried
		p.mu.Unlock()
		if _, err := hub.PatchTwin(ctx, deviceID(device), fmt.Appendf(nil, `{"properties":{"desired":{"n":%d}}}`, n), ""); err != nil {
			return
		}
		p.mu.Lock()
		p.desired[device].acked = n
		p.mu.Unlock()
	}
}

func (p *promises) create(ctx context.Context, hub *service.Client, round int) {
	for n := 0; ctx.Err() == nil; n++ {
		id := fmt.Sprintf("made-%d-%d", round, n)
		if _, err := hub.CreateDevice(ctx, service.Device{ID: id}); err != nil {
			return
		}
		p.mu.Lock()
		p.created[id] = true
		p.mu.Unlock()
	}
}

func (p *promises) twinWrites() (n int64) {
	for i := range devices {
		n += p.desired[i].acked + p.reported[i].acked
	}
	return n
}

func (p *promises) checkState(t *testing.T, s *server) {
	hub := s.hub(t)
	var wg sync.WaitGroup
	var missing atomic.Int64
	ids := make(chan string)
	for range 8 {
		wg.Go(func() {
			for id := range ids {
				if _, err := hub.Device(t.Context(), id); err != nil {
					missing.Add(1)
					t.Errorf("device %s was acknowledged and is gone: %v", id, err)
				}
			}
		})
	}
	for id := range p.created {
		if missing.Load() > 5 {
			break
		}
		ids <- id
	}
	close(ids)
	wg.Wait()
	for i := range devices {
		doc, err := hub.Twin(t.Context(), deviceID(i))
		if err != nil {
			t.Fatal(err)
		}
		var twin struct {
			Properties struct {
				Desired, Reported struct {
					N int64 `json:"n"`
				}
			}
		}
		if err := json.Unmarshal(doc, &twin); err != nil {
			t.Fatal(err)
		}
		for what, v := range map[string]struct {
			got  int64
			want span
		}{"desired": {twin.Properties.Desired.N, p.desired[i]}, "reported": {twin.Properties.Reported.N, p.reported[i]}} {
			if v.got < v.want.acked || v.got > v.want.tried {
				t.Errorf("%s of %s is %d; %d was acknowledged, %d tried", what, deviceID(i), v.got, v.want.acked, v.want.tried)
			}
		}
	}
}

// checkLog reads the whole log, without a server, and looks for every acknowledged message.
func (p *promises) checkLog(t *testing.T, data string) {
	b, err := diskbus.Open(diskbus.Config{Dir: filepath.Join(data, "bus")})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	log, err := b.Log(t.Context(), bus.LogConfig{Name: "telemetry"})
	if err != nil {
		t.Fatal(err)
	}
	last, err := log.Append(t.Context(), telemetry.EmptyBatch())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[message]bool{}
	newest := map[[2]int]int{}
	end := errors.New("end of the log")
	err = log.Follow(t.Context(), bus.Earliest, nil, func(e bus.Entry) error {
		if err := telemetry.Decode(e.Sequence, e.Data, func(got *iot.Message) error {
			m, ok := read(got.Body)
			if !ok || !bytes.Equal(got.Body, m.body()) {
				return fmt.Errorf("a message of %s in the log was never sent: %.60q", got.From, got.Body)
			}
			if got.From.Device != deviceID(m.device) || len(got.Properties) != 1 || got.Properties[0].Value != m.property() {
				return fmt.Errorf("message %v is in the log from %s with %v", m, got.From, got.Properties)
			}
			if seen[m] {
				return fmt.Errorf("message %v, sent once, is in the log twice", m)
			}
			if key := [2]int{m.round, m.device}; m.n != newest[key]+1 {
				return fmt.Errorf("message %v follows number %d", m, newest[key])
			} else {
				newest[key] = m.n
			}
			seen[m] = true
			return nil
		}); err != nil {
			return err
		}
		if e.Sequence >= last {
			return end
		}
		return nil
	})
	if !errors.Is(err, end) {
		t.Fatal(err)
	}
	lost := 0
	for m := range p.messages {
		if !seen[m] {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%d of %d acknowledged messages are not in the log", lost, len(p.messages))
	}
}

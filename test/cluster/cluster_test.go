//go:build unix

// Package cluster_test runs two `vauban serve` processes over one PostgreSQL and a cluster of three NATS servers,
// as one hub: commands cross from one to the other, and when one is killed the other has everything that
// was acknowledged.
package cluster_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/vauban-iot/vauban/app/node"
	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/bus/natsbus"
	"github.com/vauban-iot/vauban/hub/telemetry"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/sdk/service"
	"github.com/vauban-iot/vauban/storage/postgres/pgtest"
	"github.com/vauban-iot/vauban/wire/sas"
	"github.com/vauban-iot/vauban/wire/topic"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// startNATS runs three servers as a cluster and returns their client addresses.
func startNATS(t *testing.T) string {
	t.Helper()
	const size = 3
	ports := make([]int, size)
	var routes []string
	for i := range ports {
		ports[i] = freePort(t, "127.0.0.1")
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", ports[i]))
	}
	var urls []string
	var servers []*server.Server
	for i := range size {
		s, err := server.NewServer(&server.Options{
			ServerName: fmt.Sprintf("n%d", i), Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true,
			JetStream: true, StoreDir: t.TempDir(), SyncAlways: true, MaxPayload: bus.MaxEntry + 1<<20,
			Cluster: server.ClusterOpts{Name: "vauban", Host: "127.0.0.1", Port: ports[i]},
			Routes:  server.RoutesFromStr(strings.Join(routes, ",")),
		})
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
		servers = append(servers, s)
	}
	for _, s := range servers {
		if !s.ReadyForConnections(20 * time.Second) {
			t.Fatal("a NATS server did not start")
		}
		urls = append(urls, s.ClientURL())
	}
	wait(t, "the NATS cluster has no leader", func() bool {
		for _, s := range servers {
			if s.JetStreamIsLeader() {
				return true
			}
		}
		return false
	})
	return strings.Join(urls, ",")
}

func freePort(t *testing.T, ip string) int {
	t.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

func wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

// member is one server of the cluster.
type member struct {
	cmd  *exec.Cmd
	ip   string
	conn node.Connection
	pool *x509.CertPool
	log  bytes.Buffer
}

func startMember(t *testing.T, binary, dir, name, ip, config string) *member {
	t.Helper()
	m := &member{ip: ip, cmd: exec.Command(binary, "serve", "--config", config, "--output", "json")}
	m.cmd.Env = append(os.Environ(), "VAUBAN_LISTEN="+ip, "VAUBAN_NODE="+name, "VAUBAN_CONNECTION="+filepath.Join(dir, name+".json"))
	m.cmd.Stderr = &m.log
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.kill()
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, m.log.Bytes())
		}
	})
	if err := json.NewDecoder(out).Decode(&m.conn); err != nil {
		m.kill()
		t.Fatalf("%s did not start: %v\n%s", name, err, m.log.Bytes())
	}
	root, err := os.ReadFile(m.conn.CA)
	if err != nil {
		t.Fatal(err)
	}
	m.pool = x509.NewCertPool()
	m.pool.AppendCertsFromPEM(root)
	return m
}

func (m *member) kill() {
	m.cmd.Process.Kill()
	m.cmd.Wait() // it was killed: its status says nothing
}

func (m *member) hub(t *testing.T) *service.Client {
	t.Helper()
	c, err := service.New(service.Config{
		ConnectionString: m.conn.Hub.ConnectionString, TLS: &tls.Config{RootCAs: m.pool},
		Address: net.JoinHostPort(m.ip, strconv.Itoa(m.conn.Ports.HTTPS)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var deviceKey = bytes.Repeat([]byte{7}, 32)

const deviceKeyText = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="

func (m *member) options(id string, clean bool) *paho.ClientOptions {
	user := topic.Username{Host: m.conn.Hub.Hostname, Device: id, APIVersion: "2021-04-12"}
	return paho.NewClientOptions().AddBroker("ssl://" + net.JoinHostPort(m.ip, strconv.Itoa(m.conn.Ports.MQTT))).
		SetTLSConfig(&tls.Config{RootCAs: m.pool, ServerName: m.conn.Hub.Hostname}).SetClientID(id).SetUsername(user.String()).
		SetPassword(sas.Sign(m.conn.Hub.Hostname+"/devices/"+id, deviceKey, time.Now().Add(time.Hour), "")).
		SetAutoReconnect(false).SetProtocolVersion(4).SetCleanSession(clean).SetConnectTimeout(5 * time.Second)
}

func connect(o *paho.ClientOptions) (paho.Client, error) {
	c := paho.NewClient(o)
	tok := c.Connect()
	if !tok.WaitTimeout(10 * time.Second) {
		return nil, errors.New("no answer")
	}
	return c, tok.Error()
}

// listen answers methods with who answered, and hands desired patches on.
func listen(t *testing.T, c paho.Client, who string, desired chan<- string) {
	t.Helper()
	for filter, handle := range map[string]paho.MessageHandler{
		"$iothub/methods/POST/#": func(c paho.Client, m paho.Message) {
			if r, err := topic.ParseResponse(m.Topic()); err == nil {
				c.Publish(string(topic.AppendMethodResult(nil, 200, r.RID)), 0, false, fmt.Sprintf(`{"by":%q}`, who))
			}
		},
		"$iothub/twin/PATCH/properties/desired/#": func(_ paho.Client, m paho.Message) { desired <- string(m.Payload()) },
	} {
		if tok := c.Subscribe(filter, 1, handle); tok.Wait() && tok.Error() != nil {
			t.Fatal(tok.Error())
		}
	}
}

func TestCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: PostgreSQL, three NATS servers and two of ours take half a minute")
	}
	dir := t.TempDir()
	binary := filepath.Join(dir, "vauban")
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/vauban-iot/vauban/cmd/vauban").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	urls := startNATS(t)
	if err := os.WriteFile(filepath.Join(dir, "postgres"), []byte(pgtest.URL(t)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "vauban.toml")
	text := fmt.Sprintf("master_key = \"master.key\"\npki = \"pki\"\nmqtt_port = 0\nhttps_port = 0\namqp_port = 0\n[store]\nkind = \"postgres\"\nurl_file = \"postgres\"\n[bus]\nurls = %q\nreplicas = 3\n[log]\nlevel = \"info\"\n", urls)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	a := startMember(t, binary, dir, "a", "127.0.0.1", config)
	b := startMember(t, binary, dir, "b", "127.0.0.2", config)
	if a.conn.Hub.ConnectionString != b.conn.Hub.ConnectionString || a.conn.DPS.IDScope != b.conn.DPS.IDScope || a.conn.API.Token != b.conn.API.Token {
		t.Fatal("the two servers are not one hub: their secrets differ")
	}

	t.Run("commands cross", func(t *testing.T) {
		create(t, a, "crosser")
		c, err := connect(a.options("crosser", true))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Disconnect(0)
		desired := make(chan string, 64)
		listen(t, c, "a", desired)
		res, err := b.hub(t).InvokeMethod(t.Context(), "crosser", "who", nil, 10*time.Second, 0)
		if err != nil || string(res.Payload) != `{"by":"a"}` {
			t.Errorf("a method called on b for a device on a: %s, %v", res.Payload, err)
		}
		// Both servers write, and the device hears every version in order.
		var wg sync.WaitGroup
		const each = 20
		for _, m := range []*member{a, b} {
			hub := m.hub(t)
			wg.Go(func() {
				for range each {
					if _, err := hub.PatchTwin(t.Context(), "crosser", []byte(`{"properties":{"desired":{"x":1}}}`), ""); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		for version := 2; version < 2+2*each; version++ {
			select {
			case got := <-desired:
				if want := fmt.Sprintf(`{"x":1,"$version":%d}`, version); got != want {
					t.Fatalf("the device heard %s, want %s", got, want)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("version %d did not come", version)
			}
		}
		if d, err := b.hub(t).Device(t.Context(), "crosser"); err != nil || d.ConnectionState != "Connected" {
			t.Errorf("b says the device is %s (%v)", d.ConnectionState, err)
		}
	})

	t.Run("a connection on b takes over from a", func(t *testing.T) {
		create(t, b, "mover")
		lost := make(chan struct{})
		first, err := connect(a.options("mover", true).SetConnectionLostHandler(func(paho.Client, error) { close(lost) }))
		if err != nil {
			t.Fatal(err)
		}
		defer first.Disconnect(0)
		begin := time.Now()
		second, err := connect(b.options("mover", true))
		if err != nil {
			t.Fatal(err)
		}
		defer second.Disconnect(0)
		select {
		case <-lost:
			if d := time.Since(begin); d > time.Second {
				t.Errorf("the first connection was closed after %v", d)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("the first connection stayed open")
		}
		desired := make(chan string, 4)
		listen(t, second, "b", desired)
		res, err := a.hub(t).InvokeMethod(t.Context(), "mover", "who", nil, 10*time.Second, 0)
		if err != nil || string(res.Payload) != `{"by":"b"}` {
			t.Errorf("a method after the move: %s, %v", res.Payload, err)
		}
		time.Sleep(200 * time.Millisecond) // for the old session to say that it ended
		if d, err := a.hub(t).Device(t.Context(), "mover"); err != nil || d.ConnectionState != "Connected" {
			t.Errorf("after the move the device is %s (%v), want Connected", d.ConnectionState, err)
		}
	})

	t.Run("a certificate asked for on a comes from b", func(t *testing.T) {
		create(t, a, "renewer")
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		if err != nil {
			t.Fatal(err)
		}
		answers := make(chan paho.Message, 4)
		options := func(m *member) *paho.ClientOptions {
			o := m.options("renewer", false).SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) { answers <- m })
			return o.SetUsername(strings.Replace(o.Username, "2021-04-12", "2025-08-01-preview", 1))
		}
		next := func(want string) paho.Message {
			t.Helper()
			select {
			case m := <-answers:
				if m.Topic() != want {
					t.Fatalf("got %s: %s; want %s", m.Topic(), m.Payload(), want)
				}
				return m
			case <-time.After(10 * time.Second):
				t.Fatalf("%s did not come", want)
				return nil
			}
		}
		c, err := connect(options(a))
		if err != nil {
			t.Fatal(err)
		}
		if tok := c.Subscribe("$iothub/credentials/res/#", 1, nil); tok.Wait() && tok.Error() != nil {
			t.Fatal(tok.Error())
		}
		c.Publish(string(topic.AppendCredentialRequest(nil, "over")), 1, false, fmt.Sprintf(`{"id":"renewer","csr":%q}`, base64.StdEncoding.EncodeToString(csr)))
		next("$iothub/credentials/res/202/?$rid=over")
		c.Disconnect(0)
		if c, err = connect(options(b)); err != nil { // the stored session is subscribed
			t.Fatal(err)
		}
		defer c.Disconnect(0)
		var answer struct{ Certificates [][]byte }
		if m := next("$iothub/credentials/res/200/?$rid=over"); json.Unmarshal(m.Payload(), &answer) != nil || len(answer.Certificates) != 3 {
			t.Fatalf("answered %s", m.Payload())
		}
		leaf, err := x509.ParseCertificate(answer.Certificates[0])
		if err != nil || leaf.Subject.CommonName != "renewer" || !key.PublicKey.Equal(leaf.PublicKey) {
			t.Errorf("issued to %v, %v", leaf.Subject, err)
		}
	})

	t.Run("kill -9 of a loses nothing", func(t *testing.T) { killed(t, a, b, urls) })
}

func create(t *testing.T, m *member, id string) {
	t.Helper()
	if _, err := m.hub(t).CreateDevice(t.Context(), service.Device{ID: id, PrimaryKey: deviceKeyText}); err != nil {
		t.Fatal(err)
	}
}

const (
	publishers = 500
	mails      = 3 // for each of the first mailed devices
	mailed     = 50
)

// publisher is a device that sends numbered messages until it is told to stop, over whichever server it reaches, and
// sends again what was not acknowledged.
type publisher struct {
	id    string
	acked atomic.Int64 // messages 1 to acked were acknowledged
	moved atomic.Bool  // connected to the second server
	mu    sync.Mutex
	mail  map[string]bool
}

func (p *publisher) run(ctx context.Context, servers []*member) error {
	at := 0
	for ctx.Err() == nil {
		lost := make(chan struct{})
		var once sync.Once
		keep := func(_ paho.Client, m paho.Message) {
			p.mu.Lock()
			p.mail[string(m.Payload())] = true
			p.mu.Unlock()
		}
		// The stored session delivers at once, before the client has subscribed again: the default handler takes that.
		c, err := connect(servers[at].options(p.id, false).SetDefaultPublishHandler(keep).
			SetConnectionLostHandler(func(paho.Client, error) { once.Do(func() { close(lost) }) }))
		if err != nil {
			at = (at + 1) % len(servers)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		p.moved.Store(at == 1)
		if tok := c.Subscribe("devices/"+p.id+"/messages/devicebound/#", 1, keep); tok.WaitTimeout(10*time.Second) && tok.Error() != nil {
			c.Disconnect(0)
			continue
		}
		p.publish(ctx, c, lost)
		c.Disconnect(0)
	}
	return nil
}

func (p *publisher) publish(ctx context.Context, c paho.Client, lost <-chan struct{}) {
	name := string(topic.AppendTelemetry(nil, p.id, ""))
	for ctx.Err() == nil {
		n := p.acked.Load() + 1
		tok := c.Publish(name, 1, false, fmt.Sprintf("%s/%d", p.id, n))
		select {
		case <-tok.Done():
			if tok.Error() != nil {
				return
			}
			p.acked.Store(n)
		case <-lost:
			return
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-lost:
			return
		case <-ctx.Done():
			return
		}
	}
}

func killed(t *testing.T, a, b *member, urls string) {
	hub := b.hub(t)
	ps := make([]*publisher, publishers)
	var making sync.WaitGroup
	slots := make(chan struct{}, 16)
	for i := range ps {
		ps[i] = &publisher{id: fmt.Sprintf("p-%03d", i), mail: map[string]bool{}}
		making.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if _, err := hub.CreateDevice(t.Context(), service.Device{ID: ps[i].id, PrimaryKey: deviceKeyText}); err != nil {
				t.Error(err)
			}
		})
	}
	making.Wait()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var wg sync.WaitGroup
	for _, p := range ps {
		wg.Go(func() { _ = p.run(ctx, []*member{a, b}) })
	}
	wait(t, "the devices do not publish over a", func() bool {
		for _, p := range ps {
			if p.acked.Load() < 2 {
				return false
			}
		}
		return true
	})
	// Messages to devices are accepted by b around the moment a dies.
	var mailing sync.WaitGroup
	mailing.Go(func() {
		for n := range mails {
			for _, p := range ps[:mailed] {
				path := service.DevicePath(p.id) + "/messages/deviceBound"
				if _, err := hub.Do(t.Context(), "POST", path, "", nil, fmt.Appendf(nil, "mail %d", n)); err != nil {
					t.Errorf("message to %s: %v", p.id, err)
				}
			}
		}
	})
	time.Sleep(100 * time.Millisecond)
	a.kill()
	died := time.Now()
	wait(t, "the devices do not come back on b", func() bool {
		for _, p := range ps {
			if !p.moved.Load() {
				return false
			}
		}
		return true
	})
	t.Logf("%d devices were back on b %v after a died", publishers, time.Since(died).Round(time.Millisecond))
	mailing.Wait()
	marks := make([]int64, len(ps))
	for i, p := range ps {
		marks[i] = p.acked.Load()
	}
	wait(t, "the devices do not publish over b", func() bool {
		for i, p := range ps {
			if p.acked.Load() < marks[i]+2 {
				return false
			}
		}
		return true
	})
	wait(t, "messages to devices were lost", func() bool {
		for _, p := range ps[:mailed] {
			p.mu.Lock()
			n := len(p.mail)
			p.mu.Unlock()
			if n < mails {
				return false
			}
		}
		return true
	})
	stop()
	wg.Wait()

	// Every acknowledged message is in the log, and each device's first copies are in order.
	l, err := natsbus.Open(t.Context(), natsbus.Config{URL: urls, Replicas: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	log, err := l.Log(t.Context(), bus.LogConfig{Name: "telemetry"})
	if err != nil {
		t.Fatal(err)
	}
	last, err := log.Append(t.Context(), telemetry.EmptyBatch())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int64{}
	end := errors.New("end of the log")
	err = log.Follow(t.Context(), bus.Earliest, nil, func(e bus.Entry) error {
		if err := telemetry.Decode(e.Sequence, e.Data, func(m *iot.Message) error {
			id, number, _ := strings.Cut(string(m.Body), "/")
			n, err := strconv.ParseInt(number, 10, 64)
			if err == nil && id == m.From.Device && n == seen[id]+1 {
				seen[id] = n
			}
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
	total := int64(0)
	for _, p := range ps {
		total += p.acked.Load()
		if seen[p.id] < p.acked.Load() {
			t.Errorf("%s: %d messages were acknowledged, the log has the first %d", p.id, p.acked.Load(), seen[p.id])
		}
	}
	t.Logf("%d messages were acknowledged, all are in the log", total)
}

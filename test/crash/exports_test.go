package crash_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/vauban-iot/vauban/sdk/service"
	"github.com/vauban-iot/vauban/wire/secmsg"
	"github.com/vauban-iot/vauban/wire/topic"
)

// collector takes rows of events, and remembers which flows they tell of.
type collector struct {
	*httptest.Server
	mu    sync.Mutex
	seen  map[int]int // times, by the number of a flow
	stray string      // what came that is no row
}

func newCollector(t *testing.T) *collector {
	c := &collector{seen: map[int]int{}}
	c.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // killed while it sent
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		for line := range strings.Lines(string(body)) {
			n, err := flowOf(line)
			if err != nil {
				c.stray = fmt.Sprintf("%v: %.200s", err, line)
				continue
			}
			c.seen[n]++
		}
	}))
	t.Cleanup(c.Close)
	return c
}

// flowOf is the number of the flow that a row of SecurityIoTRawEvent tells of.
func flowOf(line string) (int, error) {
	var row struct{ EventDetails string }
	var flow struct {
		Remote netip.Addr `json:"remote_address"`
	}
	err := json.Unmarshal([]byte(line), &row)
	if err == nil {
		err = json.Unmarshal([]byte(row.EventDetails), &flow)
	}
	if err == nil && !flow.Remote.Is4() {
		err = errors.New("there is no address")
	}
	if err != nil {
		return 0, err
	}
	b := flow.Remote.As4()
	return int(b[1])<<16 | int(b[2])<<8 | int(b[3]), nil
}

// report is a security message with one flow, whose address is number n.
func report(n int) []byte {
	remote := netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
	return secmsg.AppendFlatBuffers(nil, secmsg.Report{Agent: "defender-iot-micro-agent", AgentVersion: "3.5.4", Events: []secmsg.Event{{
		Name: "NetworkActivity", Time: time.Now(), Interval: 10 * time.Second,
		Flows: []secmsg.Flow{{Local: netip.MustParseAddrPort("192.168.1.10:49152"), Remote: netip.AddrPortFrom(remote, 443), Protocol: "TCP", BytesIn: 10, BytesOut: 20}},
	}}})
}

// Whatever security message was acknowledged reaches the receiver of an export, however often the server is killed while it
// sends; some of it twice.
func TestKill9_Exports(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: starts and kills take half a minute")
	}
	const lives = 8
	binary := filepath.Join(t.TempDir(), "vauban")
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/vauban-iot/vauban/cmd/vauban").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	data, to := t.TempDir(), newCollector(t)
	s := start(t, binary, data)
	key := bytes.Repeat([]byte{7}, 32)
	if _, err := s.hub(t).CreateDevice(t.Context(), service.Device{ID: "cam", PrimaryKey: sasKey(key)}); err != nil {
		t.Fatal(err)
	}
	s.export(t, to)
	var mu sync.Mutex
	acked := map[int]bool{}
	number := 0
	for life := range lives {
		if life > 0 {
			s = start(t, binary, data)
		}
		c := s.dial(t, "cam", key)
		name := string(topic.AppendTelemetry(nil, "cam", "")) + "mti=2.3-1-0-0&%24.ifid=urn%3Aazureiot%3ASecurity%3ASecurityAgent%3A1"
		gone := make(chan struct{})
		var wg sync.WaitGroup
		window := make(chan struct{}, inFlight)
		wg.Go(func() {
			for {
				select {
				case window <- struct{}{}:
				case <-gone:
					return
				}
				number++
				n, tok := number, c.Publish(name, 1, false, report(number))
				wg.Go(func() {
					acknowledged(tok, gone, func() {
						mu.Lock()
						acked[n] = true
						mu.Unlock()
					})
					<-window
				})
			}
		})
		time.Sleep(time.Duration(300+rand.IntN(900)) * time.Millisecond)
		s.kill()
		time.Sleep(50 * time.Millisecond)
		close(gone)
		c.Disconnect(0)
		wg.Wait()
	}
	start(t, binary, data)
	missing := func() (n int) {
		to.mu.Lock()
		defer to.mu.Unlock()
		for i := range acked {
			if to.seen[i] == 0 {
				n++
			}
		}
		return n
	}
	for end := time.Now().Add(time.Minute); missing() > 0 && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
	}
	if n := missing(); n > 0 {
		t.Errorf("%d of %d events that were acknowledged did not reach the receiver", n, len(acked))
	}
	to.mu.Lock()
	defer to.mu.Unlock()
	if to.stray != "" {
		t.Errorf("the receiver was sent %s", to.stray)
	}
	if len(acked) < 100*lives {
		t.Errorf("only %d messages were acknowledged: the load was no load", len(acked))
	}
	twice := 0
	for _, n := range to.seen {
		if n > 1 {
			twice++
		}
	}
	t.Logf("%d kills: %d security messages were acknowledged and reached the receiver, %d of %d more than once", lives, len(acked), twice, len(to.seen))
}

// acknowledged calls do when tok was, before gone is closed.
func acknowledged(tok paho.Token, gone <-chan struct{}, do func()) {
	select {
	case <-tok.Done():
		if tok.Error() == nil {
			do()
		}
	case <-gone:
	}
}

// export has rows of events sent to c.
func (s *server) export(t *testing.T, c *collector) {
	t.Helper()
	body, err := json.Marshal(map[string]any{
		"kind": "webhook", "url": c.URL, "format": "table", "body": "ndjson", "data": []string{"events"},
		"ca": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate().Raw})),
	})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "https://"+net.JoinHostPort("127.0.0.1", strconv.Itoa(s.conn.Ports.HTTPS))+"/api/exports/soc", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = s.conn.Hub.Hostname
	req.Header.Set("Authorization", "Bearer "+s.conn.API.Token)
	req.Header.Set("Content-Type", "application/json")
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.pool, ServerName: s.conn.Hub.Hostname}}}
	defer client.CloseIdleConnections()
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if text, _ := io.ReadAll(res.Body); res.StatusCode/100 != 2 {
		t.Fatalf("creating the export: %s %s", res.Status, text)
	}
}

package quickstart_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/app/apptest"
	"github.com/vauban-iot/vauban/app/up"
	"github.com/vauban-iot/vauban/board"
	"github.com/vauban-iot/vauban/board/firmware/quickstart"
	"github.com/vauban-iot/vauban/board/network"
	"github.com/vauban-iot/vauban/board/network/facade"
	"github.com/vauban-iot/vauban/board/network/gateway"
	"github.com/vauban-iot/vauban/board/network/lan"
	"github.com/vauban-iot/vauban/board/network/netstack"
	"github.com/vauban-iot/vauban/board/network/secure"
	"github.com/vauban-iot/vauban/board/network/service"
	"github.com/vauban-iot/vauban/board/stm32l475"
	"github.com/vauban-iot/vauban/rtos"
	"github.com/vauban-iot/vauban/sdk/device"
	"github.com/vauban-iot/vauban/sdk/provisioning"
)

func TestMain(m *testing.M) { apptest.Main(m) }

// rig is a board with the firmware, and what was seen of it.
type rig struct {
	*stm32l475.Board
	v     *apptest.Vauban
	stack network.Stack
	image board.Firmware

	mu      sync.Mutex // between runs it is whoever's holds it
	console []byte
	events  []quickstart.Event
}

var (
	subnet   = netip.MustParsePrefix("10.0.0.7/24")
	router   = netip.MustParseAddr("10.0.0.1")
	platform = netip.MustParseAddr("10.0.0.2")
)

// segment is a network without packets that leads to v. Connections to it pass through over, when there is one.
func segment(t *testing.T, v *apptest.Vauban, now func() time.Time, over func(net.Conn) net.Conn) *facade.Segment {
	t.Helper()
	seg := facade.New()
	zone := service.NewZone()
	zone.Add(v.Hub.Hostname, platform)
	zone.Add(v.DPS.Hostname, platform)
	seg.Answer(netip.AddrPortFrom(router, 53), zone.Answer)
	seg.Answer(netip.AddrPortFrom(router, 123), service.Clock{Now: now}.Answer)
	err := seg.Bridge("tcp", netip.AddrPortFrom(platform, 8883), func(ctx context.Context) (net.Conn, error) {
		nc, err := new(net.Dialer).DialContext(ctx, "tcp", v.Address(v.Ports.MQTT))
		if err == nil && over != nil {
			nc = over(nc)
		}
		return nc, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return seg
}

// hardware is a board on no network yet.
func hardware(t *testing.T, v *apptest.Vauban, cfg board.Config, drift float64) *rig {
	t.Helper()
	r := &rig{v: v}
	cfg.Name = fmt.Sprint("board-", cfg.Seed)
	hw, err := stm32l475.New(stm32l475.Config{Board: cfg, DriftPPM: drift, Console: func(p []byte) { r.console = append(r.console, p...) }})
	if err != nil {
		t.Fatal(err)
	}
	r.Board = hw
	return r
}

// load puts the firmware on the board, and powers it on.
func (r *rig) load(t *testing.T, change func(*quickstart.Config)) *rig {
	t.Helper()
	cfg := quickstart.Config{Board: r.Board, Network: r.stack, Context: t.Context(), Roots: r.v.Roots, Event: func(e quickstart.Event) {
		r.events = append(r.events, e)
	}}
	change(&cfg)
	fw, err := quickstart.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if r.image, err = fw.Image(); err == nil {
		err = r.Load(r.image)
	}
	if err == nil {
		err = r.PowerOn()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		r.stack.Close()
		if t.Failed() {
			t.Logf("console:\n%s", r.console)
		}
	})
	return r
}

// virtual is a board in virtual time.
func virtual(t *testing.T, v *apptest.Vauban, cfg board.Config, over func(net.Conn) net.Conn, change func(*quickstart.Config)) *rig {
	t.Helper()
	return drifting(t, v, cfg, 0, over, change)
}

// drifting is one whose clock is fast by so many millionths.
func drifting(t *testing.T, v *apptest.Vauban, cfg board.Config, ppm float64, over func(net.Conn) net.Conn, change func(*quickstart.Config)) *rig {
	t.Helper()
	r := hardware(t, v, cfg, ppm)
	var err error
	r.stack, err = segment(t, v, r.Time, over).Attach(facade.Config{
		Addresses: []netip.Prefix{subnet}, Routers: []netip.Addr{router}, NameServers: []netip.Addr{router}, TimeServers: []netip.Addr{router}, Seed: cfg.Seed,
	})
	if err != nil {
		t.Fatal(err)
	}
	return r.load(t, change)
}

func (r *rig) of(kind quickstart.EventKind) []quickstart.Event {
	return slices.DeleteFunc(slices.Clone(r.events), func(e quickstart.Event) bool { return e.Kind != kind })
}

func (r *rig) runFor(t *testing.T, d time.Duration) {
	t.Helper()
	if err := r.RunFor(d); err != nil {
		t.Fatal(err)
	}
}

// until plays a board in virtual time until ok.
func (r *rig) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 20_000 {
		if ok() {
			return
		}
		r.runFor(t, time.Second)
		time.Sleep(100 * time.Microsecond) // for what comes from outside of the board
	}
	t.Fatalf("%s did not happen in %v", what, r.Uptime())
}

// drive plays a board in virtual time, about a hundred times as fast as real time, until the test ends. Meanwhile mu is to be held for everything.
func (r *rig) drive(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		var err error
		for ctx.Err() == nil && err == nil {
			r.mu.Lock()
			err = r.RunFor(100 * time.Millisecond)
			r.mu.Unlock()
			time.Sleep(time.Millisecond)
		}
		done <- err
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// eventually waits, by the machine's clock.
func (r *rig) eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		r.mu.Lock()
		yes := ok()
		r.mu.Unlock()
		if yes {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s did not happen", what)
		}
	}
}

func (r *rig) sees(kind quickstart.EventKind, n int) func() bool {
	return func() bool { return len(r.of(kind)) >= n }
}

func connectionString(v *apptest.Vauban, id string) string {
	d := v.Device(id)
	return fmt.Sprintf("HostName=%s;DeviceId=%s;SharedAccessKey=%s", v.Hub.Hostname, d.DeviceID, d.Authentication.SymmetricKey.PrimaryKey)
}

func withString(text string) func(*quickstart.Config) {
	return func(c *quickstart.Config) { c.ConnectionString = text }
}

// reported reads a reported property.
func reported(t *testing.T, v *apptest.Vauban, id, name string) string {
	t.Helper()
	text, err := v.Service().Twin(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	var twin struct {
		Properties struct{ Reported map[string]json.RawMessage }
	}
	if err := json.Unmarshal(text, &twin); err != nil {
		t.Fatal(err)
	}
	return string(twin.Properties.Reported[name])
}

// follow shows telemetry as the platform's people see it.
func follow(t *testing.T, v *apptest.Vauban) (next func() (system map[string]string, body string)) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+v.Address(v.Ports.HTTPS)+"/api/messages", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+v.API.Token)
	res, err := v.HTTP().Do(req)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("the messages: %v, %v", res, err)
	}
	t.Cleanup(func() { res.Body.Close() })
	lines := bufio.NewScanner(res.Body)
	return func() (map[string]string, string) {
		for lines.Scan() {
			var m struct {
				System map[string]string `json:"systemProperties"`
				Body   json.RawMessage
			}
			if len(lines.Bytes()) == 0 {
				continue // keeps the connection alive
			}
			if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
				t.Fatalf("%s: %v", lines.Text(), err)
			}
			return m.System, string(m.Body)
		}
		t.Fatalf("the messages end: %v", lines.Err())
		return nil, ""
	}
}

func TestFirmware_FromBootToTelemetry(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	next := follow(t, v)
	r := virtual(t, v, board.Config{Seed: 1, Epoch: time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)}, nil, withString(connectionString(v, "lamp")))
	r.runFor(t, time.Minute)
	sent := r.of(quickstart.Sent)
	if len(sent) != 5 {
		t.Fatalf("%d messages in a minute, want 5", len(sent))
	}
	for i, names := range [][]string{
		{"humidity", "temperature", "pressure"}, {"magnetometerX", "magnetometerY", "magnetometerZ"},
		{"accelerometerX", "accelerometerY", "accelerometerZ"}, {"gyroscopeX", "gyroscopeY", "gyroscopeZ"}, {"humidity", "temperature", "pressure"},
	} {
		var doc map[string]float64
		if err := json.Unmarshal([]byte(sent[i].Text), &doc); err != nil || len(doc) != len(names) {
			t.Fatalf("message %d is %s", i, sent[i].Text)
		}
		for _, n := range names {
			if _, ok := doc[n]; !ok {
				t.Errorf("message %d is %s, without %s", i, sent[i].Text, n)
			}
		}
		switch i {
		case 0:
			if p := doc["pressure"]; p < 900 || p > 1100 {
				t.Errorf("the pressure is %v: it goes out in hectopascals", p)
			}
		case 2:
			if z := doc["accelerometerZ"]; z < 900 || z > 1100 || z != float64(int(z)) {
				t.Errorf("acceleration on a table is %v: it goes out in whole thousandths of g", z)
			}
		}
	}
	for i := range sent {
		system, body := next()
		created, err := time.Parse(time.RFC3339, system["iothub-creation-time-utc"])
		if at := r.Config().Epoch.Add(time.Duration(i+1) * 10 * time.Second); body != sent[i].Text || err != nil || created.Before(at) || created.After(at.Add(10*time.Second)) {
			t.Errorf("message %d is %s with %v, %v; it was sent by a board whose clock was after %v", i, body, system, err, at)
		}
	}
	for _, text := range []string{
		"last reset: power on", "IP address: 10.0.0.7/24", "DNS server: 10.0.0.1", "SNTP server: 10.0.0.1", "Time: 2031-02-03T04:05:0",
		"Hub: " + v.Hub.Hostname, "Device id: lamp", "Model id: dtmi:azurertos:devkit:gsgstml4s5;2", "Telemetry message sent: {\"humidity\":",
	} {
		if !strings.Contains(string(r.console), text) {
			t.Errorf("the console does not show %q", text)
		}
	}
	for name, want := range map[string]string{
		"deviceInformation": `{"__t":"c","manufacturer":"STMicroelectronics","model":"B-L475E-IOT01A","swVersion":"1.0.0","osName":"Azure RTOS",` +
			`"processorArchitecture":"Arm Cortex M4","processorManufacturer":"STMicroelectronics","totalStorage":1024,"totalMemory":128}`,
		"ledState": "false", "telemetryInterval": `{"ac":200,"av":1,"value":10}`,
	} {
		if got := reported(t, v, "lamp", name); got != want {
			t.Errorf("reported %s: %s, want %s", name, got, want)
		}
	}
}

// A clock that drifts is set again and again.
func TestFirmware_Clock(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	r := drifting(t, v, board.Config{Seed: 1}, 500, nil, func(c *quickstart.Config) {
		c.ConnectionString, c.Interval = connectionString(v, "lamp"), time.Hour
	})
	for hour := range 6 {
		r.runFor(t, time.Hour)
		if off := r.RTC.Time().Sub(r.Time()); off < -100*time.Millisecond || off > 2*time.Second {
			t.Errorf("after %d hours the clock is off by %v", hour+1, off)
		}
	}
}

func TestFirmware_Budget(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	r := virtual(t, v, board.Config{Seed: 1}, nil, withString(connectionString(v, "lamp")))
	b := r.Budget()
	if len(b.Problems) != 0 || b.Kernel > 64<<10 {
		t.Errorf("it does not fit:\n%s", b)
	}
	stacks := map[string]uint32{}
	for _, x := range b.RAM {
		if x.What == "stack" {
			stacks[x.Name] = x.Bytes
		}
	}
	for name, want := range map[string]uint32{"Main": 4096, "Azure IoT Client": 3072, "Azure IoT Cloud": 2048, "IP": 2048} {
		if stacks[name] != want {
			t.Errorf("the stack of %s has %d bytes, want %d", name, stacks[name], want)
		}
	}
	r.image.Parts = append(r.image.Parts, board.Part{Name: "pictures", RAM: 64 << 10})
	if _, ok := errors.AsType[*board.BudgetError](r.Load(r.image)); !ok {
		r.PowerOff()
		if _, ok := errors.AsType[*board.BudgetError](r.PowerOn()); !ok {
			t.Error("64 KB more fit as well")
		}
	}
}

func TestFirmware_CommandsAndTwin(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	r := virtual(t, v, board.Config{Seed: 1}, nil, withString(connectionString(v, "lamp")))
	r.drive(t)
	r.eventually(t, "telemetry", r.sees(quickstart.Sent, 1))
	led := func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.GPIO.Level(stm32l475.LED2) }
	for _, tt := range []struct {
		name, payload string
		status        int
		led           bool
	}{
		{"setLedState", "true", 200, true}, {"setLedState", `"true"`, 400, true}, {"setLedState", "false", 200, false}, {"setLedState", "{}", 400, false},
		{"setLedState", "true", 200, true}, {"reboot", "{}", 501, true},
	} {
		res, err := v.Service().InvokeMethod(t.Context(), "lamp", tt.name, json.RawMessage(tt.payload), 30*time.Second, 0)
		if err != nil || res.Status != tt.status || string(res.Payload) != "null" && len(res.Payload) != 0 || led() != tt.led {
			t.Errorf("%s(%s) is answered with %d, %s, %v, and the LED is %v", tt.name, tt.payload, res.Status, res.Payload, err, led())
		}
		r.eventually(t, "the report of the LED", func() bool { return reported(t, v, "lamp", "ledState") == fmt.Sprint(tt.led) })
	}
	desire := func(text string) int64 {
		twin, err := v.Service().PatchTwin(t.Context(), "lamp", []byte(`{"properties":{"desired":{"telemetryInterval":`+text+`}}}`), "")
		if err != nil {
			t.Fatal(err)
		}
		var doc struct {
			Properties struct {
				Desired struct {
					Version int64 `json:"$version"`
				}
			}
		}
		if err := json.Unmarshal(twin, &doc); err != nil {
			t.Fatal(err)
		}
		return doc.Properties.Desired.Version
	}
	interval := 10
	for _, tt := range []struct {
		text string
		code int
	}{{"2", 200}, {"0", 400}, {`"5"`, 400}, {"1.5", 400}, {"99999999999", 400}, {"3", 200}} {
		if tt.code == 200 {
			fmt.Sscan(tt.text, &interval)
		}
		version := desire(tt.text)
		want := fmt.Sprintf(`{"ac":%d,"av":%d,"value":%d}`, tt.code, version, interval)
		r.eventually(t, "the answer to telemetryInterval "+tt.text, func() bool { return reported(t, v, "lamp", "telemetryInterval") == want })
	}
	desire("null") // is no change
	r.mu.Lock()
	before, at := len(r.of(quickstart.Sent)), r.Uptime()
	r.mu.Unlock()
	r.eventually(t, "ten more messages", r.sees(quickstart.Sent, before+10))
	r.mu.Lock()
	defer r.mu.Unlock()
	if n, d := len(r.of(quickstart.Sent))-before, r.Uptime()-at; time.Duration(n-1)*3*time.Second > d || d > time.Duration(n+2)*3*time.Second {
		t.Errorf("%d messages in %v; one each 3 s were asked for", n, d)
	}
}

// A wish that was written while the board was away is done when it comes; the answer is to version 1, as the original's.
func TestFirmware_TwinAtTheBeginning(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	text := connectionString(v, "lamp")
	for range 3 {
		if _, err := v.Service().PatchTwin(t.Context(), "lamp", []byte(`{"properties":{"desired":{"telemetryInterval":5}}}`), ""); err != nil {
			t.Fatal(err)
		}
	}
	r := virtual(t, v, board.Config{Seed: 1}, nil, withString(text))
	r.runFor(t, time.Minute)
	if n := len(r.of(quickstart.Sent)); n < 10 {
		t.Errorf("%d messages in a minute, want 10 or 11", n)
	}
	if got := reported(t, v, "lamp", "telemetryInterval"); got != `{"ac":200,"av":1,"value":5}` {
		t.Errorf("reported %s", got)
	}
}

// A hub that refuses a property, for the twin is full, is not lost by that: the other messages go on.
func TestFirmware_PropertyRefused(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	text := connectionString(v, "lamp")
	c, err := device.New(device.Config{ConnectionString: text, TLS: v.TLS(), Address: v.Address(v.Ports.MQTT)})
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	full := map[string]string{}
	for i := range 10 { // until not one more fits
		full[fmt.Sprint("part", i)] = strings.Repeat("x", 4000)
		_, err = s.Report(t.Context(), full)
		if err != nil {
			delete(full, fmt.Sprint("part", i))
			break
		}
	}
	if _, ok := errors.AsType[*device.TwinError](err); !ok {
		t.Fatalf("the twin takes it all: %v", err)
	}
	for n := 2048; n > 0; n /= 2 {
		rest := full["rest"]
		full["rest"] += strings.Repeat("x", n)
		if _, err := s.Report(t.Context(), full); err != nil {
			full["rest"] = rest
		}
	}
	s.Close()

	r := virtual(t, v, board.Config{Seed: 1}, nil, withString(text))
	r.runFor(t, 2*time.Minute)
	if lost, sent := len(r.of(quickstart.Lost)), len(r.of(quickstart.Sent)); lost != 0 || sent < 10 {
		t.Errorf("%d connections lost, %d messages sent; want none lost, and a message each 10 s", lost, sent)
	}
}

const groupKey = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw=="

func certificate(t *testing.T, name string) (pair tls.Certificate, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, certFile, keyFile
}

// enroll gives the provisioning service a group, and single enrollments with a key and with certificates.
func enroll(t *testing.T, v *apptest.Vauban, certificates map[string]string) {
	t.Helper()
	dps, err := provisioning.New(provisioning.Config{ConnectionString: v.DPS.ConnectionString, TLS: v.TLS(), Address: v.Address(v.Ports.HTTPS)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dps.Close() })
	keys := fmt.Sprintf(`{"type":"symmetricKey","symmetricKey":{"primaryKey":%q,"secondaryKey":%q}}`, groupKey, groupKey)
	bodies := map[string]string{
		provisioning.GroupPath("g"):          fmt.Sprintf(`{"attestation":%s}`, keys),
		provisioning.EnrollmentPath("own-1"): fmt.Sprintf(`{"registrationId":"own-1","deviceId":"pump","attestation":%s}`, keys),
	}
	for id, file := range certificates {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		escaped, err := json.Marshal(string(text))
		if err != nil {
			t.Fatal(err)
		}
		bodies[provisioning.EnrollmentPath(id)] = fmt.Sprintf(`{"registrationId":%q,"attestation":{"type":"x509","x509":{"clientCertificates":{"primary":{"certificate":%s}}}}}`, id, escaped)
	}
	for path, body := range bodies {
		if _, err := dps.Do(t.Context(), http.MethodPut, path, "", []byte(body)); err != nil {
			t.Fatal(path, err)
		}
	}
}

func TestFirmware_Provisioning(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	pair, _, _ := certificate(t, "cert-1")
	inMemory := filepath.Join(t.TempDir(), "cert-1.pem")
	if err := os.WriteFile(inMemory, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}), 0o600); err != nil {
		t.Fatal(err)
	}
	_, cert, key := certificate(t, "cert-2")
	enroll(t, v, map[string]string{"cert-1": inMemory, "cert-2": cert})
	for i, tt := range []struct {
		name, device string
		change       func(*quickstart.Config)
	}{
		{"group key", "lamp-1", func(c *quickstart.Config) { c.Registration.ID, c.Registration.GroupKey = "lamp-1", groupKey }},
		{"own key", "pump", func(c *quickstart.Config) { c.Registration.ID, c.Registration.Key = "own-1", groupKey }},
		{"certificate in memory", "cert-1", func(c *quickstart.Config) { c.Registration.ID, c.Certificate = "cert-1", &pair }},
		{"certificate in files", "cert-2", func(c *quickstart.Config) {
			c.Registration.ID, c.Registration.CertificateFile, c.Registration.KeyFile = "cert-2", cert, key
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := virtual(t, v, board.Config{Seed: uint64(i)}, nil, func(c *quickstart.Config) {
				c.Registration = device.Registration{Host: v.DPS.Hostname, IDScope: v.DPS.IDScope}
				tt.change(c)
			})
			r.until(t, "telemetry", r.sees(quickstart.Sent, 1))
			if e := r.of(quickstart.Provisioned); len(e) != 1 || e[0].Text != v.Hub.Hostname+"/"+tt.device {
				t.Errorf("provisioned: %v", e)
			}
			if got := reported(t, v, tt.device, "ledState"); got != "false" {
				t.Errorf("the device reported %s", got)
			}
		})
	}
	t.Run("a wrong key", func(t *testing.T) {
		t.Parallel()
		r := virtual(t, v, board.Config{Seed: 9}, nil, func(c *quickstart.Config) {
			c.Registration = device.Registration{Host: v.DPS.Hostname, IDScope: v.DPS.IDScope, ID: "nobody", GroupKey: "d3Jvbmc="}
		})
		r.until(t, "a refusal", r.sees(quickstart.Lost, 3))
		if len(r.of(quickstart.Connected)) != 0 {
			t.Error("a wrong key was taken")
		}
		if !strings.Contains(string(r.console), "ERROR: the connection: provisioning: ") {
			t.Error("the console does not say what failed")
		}
	})
}

// What happens to a board while it is connected, or on its way there, does not keep it away.
func TestFirmware_ComesBack(t *testing.T) {
	t.Parallel()
	t.Run("the hub restarts", func(t *testing.T) {
		t.Parallel()
		v := apptest.Start(t)
		r := virtual(t, v, board.Config{Seed: 1}, nil, withString(connectionString(v, "lamp")))
		r.until(t, "telemetry", r.sees(quickstart.Sent, 2))
		v.Stop()
		r.until(t, "an attempt while the hub is away", r.sees(quickstart.Lost, 3))
		n := len(r.of(quickstart.Sent))
		v.Start()
		r.until(t, "telemetry again", r.sees(quickstart.Sent, n+2))
		if c := len(r.of(quickstart.Connected)); c != 2 {
			t.Errorf("%d connections", c)
		}
	})
	t.Run("the network is away", func(t *testing.T) {
		t.Parallel()
		v := apptest.Start(t)
		r := virtual(t, v, board.Config{Seed: 1}, nil, withString(connectionString(v, "lamp")))
		r.until(t, "telemetry", r.sees(quickstart.Sent, 1))
		for range 2 { // the second time as if nothing had been
			r.stack.SetUp(false)
			at := r.Uptime()
			r.until(t, "the loss", r.sees(quickstart.Lost, len(r.of(quickstart.Lost))+6))
			// 3, 6, 12, 24 and 48 s with up to 60 % more between six failures.
			if d := r.Uptime() - at; d < 93*time.Second || d > 190*time.Second {
				t.Errorf("six failures came in %v", d)
			}
			n := len(r.of(quickstart.Sent))
			r.stack.SetUp(true)
			r.until(t, "telemetry again", r.sees(quickstart.Sent, n+1))
		}
	})
	t.Run("the hub forgets the device", func(t *testing.T) {
		t.Parallel()
		v := apptest.Start(t)
		enroll(t, v, nil)
		r := virtual(t, v, board.Config{Seed: 1}, nil, func(c *quickstart.Config) {
			c.Registration = device.Registration{Host: v.DPS.Hostname, IDScope: v.DPS.IDScope, ID: "lamp-1", GroupKey: groupKey}
		})
		r.until(t, "telemetry", r.sees(quickstart.Sent, 1))
		if err := v.Service().DeleteDevice(t.Context(), "lamp-1"); err != nil {
			t.Fatal(err)
		}
		n := len(r.of(quickstart.Sent))
		r.until(t, "telemetry again", r.sees(quickstart.Sent, n+2))
		if p := len(r.of(quickstart.Provisioned)); p != 2 {
			t.Errorf("it was provisioned %d times", p)
		}
	})
	t.Run("the board is reset", func(t *testing.T) {
		t.Parallel()
		v := apptest.Start(t)
		r := virtual(t, v, board.Config{Seed: 1}, nil, withString(connectionString(v, "lamp")))
		for i := range 10 {
			n := len(r.of(quickstart.Sent))
			r.until(t, "telemetry", r.sees(quickstart.Sent, n+1))
			// In the middle of whatever it does then.
			r.runFor(t, time.Duration(i)*1300*time.Millisecond)
			r.Reset(board.PinReset)
		}
		n := len(r.of(quickstart.Sent))
		r.until(t, "telemetry", r.sees(quickstart.Sent, n+1))
		if r.Resets(board.PinReset) != 10 {
			t.Errorf("%d resets", r.Resets(board.PinReset))
		}
	})
	t.Run("whichever moment the connection breaks at", func(t *testing.T) {
		t.Parallel()
		v := apptest.Start(t)
		var mu sync.Mutex
		dials := 0
		const most = 14 // writes: hello, handshake, CONNECT, SUBSCRIBE, the twin, three reports, and telemetry
		r := virtual(t, v, board.Config{Seed: 1}, func(nc net.Conn) net.Conn {
			mu.Lock()
			defer mu.Unlock()
			if dials++; dials > most {
				return nc
			}
			return &fragile{Conn: nc, left: dials - 1}
		}, withString(connectionString(v, "lamp")))
		r.until(t, "all those connections", func() bool { mu.Lock(); defer mu.Unlock(); return dials > most })
		n := len(r.of(quickstart.Sent))
		r.until(t, "telemetry", r.sees(quickstart.Sent, n+3))
		if got := reported(t, v, "lamp", "telemetryInterval"); got != `{"ac":200,"av":1,"value":10}` {
			t.Errorf("reported %s", got)
		}
		twin := slices.ContainsFunc(r.of(quickstart.Lost), func(e quickstart.Event) bool { return strings.Contains(e.Err.Error(), "reading the twin") })
		if !twin {
			t.Error("no connection broke while the twin was read")
		}
	})
}

// fragile is a connection that breaks after some writes.
type fragile struct {
	net.Conn
	mu   sync.Mutex
	left int
}

func (f *fragile) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left == 0 {
		f.Conn.Close()
		return 0, errors.New("the line is cut")
	}
	f.left--
	return f.Conn.Write(p)
}

// A board whose firmware panics is reported; the others go on.
func TestFirmware_Crash(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	boots := 0
	bad := virtual(t, v, board.Config{Seed: 1, Reboot: true}, nil, func(c *quickstart.Config) {
		c.ConnectionString = connectionString(v, "bad")
		c.Define = func(k *rtos.Kernel, d *quickstart.Device) {
			boots++
			first := boots == 1
			k.CreateThread(new(rtos.Thread), rtos.ThreadConfig{Name: "App", Stack: k.Reserve(1024), Priority: 12, Start: rtos.AutoStart, Entry: func(uint32) {
				for !d.Online() {
					k.Sleep(10)
				}
				if first {
					panic("the app is broken")
				}
				if err := d.Send(device.Message{Body: []byte(`{"app":true}`)}); err != nil {
					t.Error(err)
				}
			}})
		}
	})
	good := virtual(t, v, board.Config{Seed: 2}, nil, withString(connectionString(v, "good")))
	for range 60 {
		bad.runFor(t, time.Second)
		good.runFor(t, time.Second)
	}
	crash, ok := bad.Crash()
	if !ok || crash.Thread != "App" || crash.Value != "the app is broken" || crash.Firmware != quickstart.Name || !slices.ContainsFunc(crash.Threads, func(l board.ThreadLine) bool { return l.Name == "Main" }) {
		t.Errorf("the crash report: %+v", crash)
	}
	if boots != 2 || bad.Resets(board.CrashReset) != 1 || len(bad.of(quickstart.Connected)) != 2 {
		t.Errorf("%d boots, %d resets after a crash, %d connections", boots, bad.Resets(board.CrashReset), len(bad.of(quickstart.Connected)))
	}
	if n := len(good.of(quickstart.Sent)); n != 5 {
		t.Errorf("the other board sent %d messages", n)
	}
}

// The same seed and answers give the same run.
func TestFirmware_Repeats(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	text := connectionString(v, "lamp")
	play := func(seed uint64) (string, []rtos.Event) {
		trace := &tracer{}
		r := virtual(t, v, board.Config{Seed: seed, Tracer: trace}, nil, withString(text))
		r.runFor(t, 10*time.Minute)
		r.Close()
		return string(r.console), trace.events
	}
	console, events := play(1)
	again, eventsAgain := play(1)
	if console != again || len(events) < 1000 || !slices.Equal(events, eventsAgain) {
		t.Errorf("two runs with one seed differ: %d and %d events\n%s\n%s", len(events), len(eventsAgain), console, again)
	}
	if other, _ := play(2); other == console {
		t.Error("another seed gave the same run")
	}
}

type tracer struct{ events []rtos.Event }

func (t *tracer) Event(e rtos.Event)    { t.events = append(t.events, e) }
func (*tracer) Created(rtos.ObjectInfo) {}
func (*tracer) Deleted(uint32)          {}

func TestFirmware_TLSProfiles(t *testing.T) {
	t.Parallel()
	for _, old := range []bool{false, true} {
		v := apptest.Start(t, func(c *up.Config) { c.StaticRSA = old })
		for i, p := range []secure.Profile{secure.GettingStarted, secure.AzureIoT, secure.Modern} {
			r := virtual(t, v, board.Config{Seed: uint64(i)}, nil, func(c *quickstart.Config) {
				c.ConnectionString, c.TLS = connectionString(v, string(p)), p
			})
			r.runFor(t, 20*time.Second)
			want := old || p != secure.GettingStarted
			if connected := len(r.of(quickstart.Connected)) == 1; connected != want {
				t.Errorf("%s against a hub with --static-rsa=%v: connected %v", p, old, connected)
			}
		}
	}
}

// Over packets and in real time.
func TestFirmware_RealTime(t *testing.T) {
	t.Parallel()
	v := apptest.Start(t)
	enroll(t, v, nil)
	next := follow(t, v)
	sw := lan.New(lan.Config{Seed: 1})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { sw.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	opening, done := context.WithTimeout(t.Context(), 30*time.Second)
	defer done()
	gw, err := gateway.Open(opening, gateway.Config{
		Switch: sw, Seed: 1, Names: map[string][]netip.Addr{v.Hub.Hostname: {platform}, v.DPS.Hostname: {platform}},
		Bridges: []gateway.Bridge{{Network: "tcp", At: netip.AddrPortFrom(platform, 8883), To: v.Address(v.Ports.MQTT)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { gw.Close() })
	r := hardware(t, v, board.Config{Seed: 1, RealTime: true}, 0)
	if r.stack, err = netstack.Open(netstack.Config{Switch: sw, MAC: lan.Address(7), Name: "lamp-1", Seed: 7}); err != nil {
		t.Fatal(err)
	}
	r.load(t, func(c *quickstart.Config) {
		c.Registration = device.Registration{Host: v.DPS.Hostname, IDScope: v.DPS.IDScope, ID: "lamp-1", GroupKey: groupKey}
		c.Interval = time.Second
		record := c.Event
		c.Event = func(e quickstart.Event) { r.mu.Lock(); defer r.mu.Unlock(); record(e) }
	})
	running, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(running) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	r.eventually(t, "telemetry", r.sees(quickstart.Sent, 2))
	if system, _ := next(); system["iothub-creation-time-utc"] != "" {
		t.Errorf("in real time a message says when it was made: %v", system)
	}
	res, err := v.Service().InvokeMethod(t.Context(), "lamp-1", "setLedState", json.RawMessage("true"), 30*time.Second, 0)
	if err != nil || res.Status != 200 {
		t.Errorf("setLedState: %+v, %v", res, err)
	}
	r.eventually(t, "the LED", r.sees(quickstart.LED, 1))
	r.eventually(t, "its report", func() bool { return reported(t, v, "lamp-1", "ledState") == "true" })
	r.stack.SetUp(false)
	r.eventually(t, "the loss of the network", r.sees(quickstart.Lost, 1))
	r.stack.SetUp(true)
	r.eventually(t, "a second connection", r.sees(quickstart.Connected, 2))
	r.mu.Lock()
	n := len(r.of(quickstart.Sent))
	r.mu.Unlock()
	r.eventually(t, "telemetry again", r.sees(quickstart.Sent, n+1))
	if err := r.Post(func() { r.Board.Reset(board.PinReset) }); err != nil {
		t.Error(err)
	}
	r.eventually(t, "a third connection", r.sees(quickstart.Connected, 3))
}

func TestNew_Refuses(t *testing.T) {
	t.Parallel()
	hw, err := stm32l475.New(stm32l475.Config{Board: board.Config{Name: "lamp"}})
	if err != nil {
		t.Fatal(err)
	}
	stack, err := facade.New().Attach(facade.Config{Addresses: []netip.Prefix{subnet}})
	if err != nil {
		t.Fatal(err)
	}
	const text = "HostName=h;DeviceId=d;SharedAccessKey=a2V5"
	for name, tt := range map[string]struct {
		cfg  quickstart.Config
		want string
	}{
		"no board":          {quickstart.Config{Network: stack, ConnectionString: text}, "a Board"},
		"no network":        {quickstart.Config{Board: hw, ConnectionString: text}, "a Network"},
		"no identity":       {quickstart.Config{Board: hw, Network: stack}, "connection string or a registration"},
		"two identities":    {quickstart.Config{Board: hw, Network: stack, ConnectionString: text, Registration: device.Registration{IDScope: "1"}}, "not both"},
		"a service's":       {quickstart.Config{Board: hw, Network: stack, ConnectionString: "HostName=h;SharedAccessKeyName=n;SharedAccessKey=a2V5"}, "DeviceId"},
		"half a second":     {quickstart.Config{Board: hw, Network: stack, ConnectionString: text, Interval: 500 * time.Millisecond}, "whole seconds"},
		"a negative period": {quickstart.Config{Board: hw, Network: stack, ConnectionString: text, Interval: -time.Second}, "whole seconds"},
	} {
		if _, err := quickstart.New(tt.cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

package export

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/export/rsyslogtest"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// eventually waits for what comes within seconds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not happen", what)
		}
	}
}

// over makes a manager over a memory, with one export.
func over(t *testing.T, c Config) (*Manager, *memory) {
	t.Helper()
	store := &memory{exports: make(map[string]Export)}
	m, err := NewManager(ManagerConfig{Store: store, Alerts: store, Events: store, Recommendations: store, Dir: t.TempDir(), Host: "hub.example", Version: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	c.Name = "x"
	if _, _, err := m.Put(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	return m, store
}

// runs runs a manager until the test ends.
func runs(t *testing.T, m *Manager) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A real rsyslog, which asks for our certificate, reads what we send: the header of RFC 5424 and the fields of CEF.
func TestSyslog_RsyslogReadsCEF(t *testing.T) {
	t.Parallel()
	server := rsyslogtest.New(t)
	m, store := over(t, Config{Kind: Syslog, Address: server.Address, CA: server.CA, Certificate: server.Certificate, Key: server.Key})
	store.raise("a1")
	c := &store.changes[0]
	c.At = time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)
	c.Type, c.Title, c.Description, c.Device, c.Group, c.Count = "IoT_TiConnection", `pipe | back \ slash`, "a=b\nc d=e \\ ☂", "lamp", "plant", 3
	c.Evidence = []alert.Evidence{{Event: "ConnectionCreate", Form: secmsg.JSON, Details: json.RawMessage(`{"RemoteAddress":"203.0.113.5","RemotePort":"443","LocalAddress":"10.0.0.1","LocalPort":"4000","Direction":"Out","Protocol":"TCP"}`)}}
	c.Explain()
	if err := m.Test(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	runs(t, m)
	eventually(t, "the second message", func() bool { return len(server.Messages()) == 2 })
	ms := server.Messages()
	if ms[0].Structured.CEF.Class != "Vauban_Test" || ms[0].ID != "alert-close" {
		t.Errorf("the test: %+v", ms[0])
	}
	got, cef := ms[1], ms[1].Structured.CEF
	if got.Host != "hub.example" || got.App != "vauban" || got.ID != "alert-create" || got.Facility != "4" || got.Severity != "2" || got.Time != "2026-01-02T03:04:05.678901Z" {
		t.Errorf("header: %+v", got)
	}
	if cef.Vendor != "Vauban" || cef.Product != "Vauban Defender" || cef.Version != "1.2.3" || cef.Class != "IoT_TiConnection" || cef.Name != `pipe | back \ slash` || cef.Severity != "8" {
		t.Errorf("CEF header: %+v", cef)
	}
	for key, want := range map[string]string{
		"msg": "a=b\nc d=e \\ ☂", "externalId": "a1", "act": "create", "outcome": "open", "cnt": "3", "deviceExternalId": "lamp", "dvchost": "hub.example", "cs4": "plant", "cs4Label": "Security group",
		"cs1Label": "ATT&CK tactics", "cs1": "Command and Control", "cs2": "T0885, T1071", "src": "10.0.0.1", "spt": "4000", "dst": "203.0.113.5", "dpt": "443", "proto": "TCP", "deviceDirection": "1",
	} {
		if cef.Extensions[key] != want {
			t.Errorf("%s is %q, want %q", key, cef.Extensions[key], want)
		}
	}
}

// OCSF arrives whole, however long it was.
func TestSyslog_RsyslogReadsOCSF(t *testing.T) {
	t.Parallel()
	server := rsyslogtest.New(t)
	m, store := over(t, Config{Kind: Syslog, Format: OCSF, Address: server.Address, CA: server.CA, Certificate: server.Certificate, Key: server.Key})
	store.raise("a1", "a2")
	for i := range alert.MaxEvidence {
		store.changes[1].Add(alert.Evidence{Event: "X", Details: json.RawMessage(fmt.Sprintf(`{"n":%d,"remoteAddress":"192.0.2.%d","pad":%q}`, i, i, strings.Repeat("x", 2000)))})
	}
	runs(t, m)
	eventually(t, "both", func() bool { return len(server.Messages()) == 2 })
	for i, id := range []string{"a1", "a2"} {
		var e struct {
			ClassUID int                  `json:"class_uid"`
			Finding  struct{ UID string } `json:"finding_info"`
		}
		if err := json.Unmarshal([]byte(server.Messages()[i].Text), &e); err != nil || e.ClassUID != 2004 || e.Finding.UID != id {
			t.Errorf("%v: %+v", err, e)
		}
	}
}

// A receiver that is killed in the middle and comes back gets everything, in order.
func TestSyslog_KilledReceiver(t *testing.T) {
	t.Parallel()
	server := rsyslogtest.New(t)
	m, store := over(t, Config{Kind: Syslog, Address: server.Address, CA: server.CA, Certificate: server.Certificate, Key: server.Key})
	const all = 3000
	store.raise(numbers(1, all/2)...)
	runs(t, m)
	eventually(t, "the first messages", func() bool { return len(server.Messages()) > 0 })
	server.Kill()
	store.raise(numbers(all/2+1, all)...)
	eventually(t, "a failure", func() bool { return store.state("x").Failures > 0 })
	if e, err := m.Export(t.Context(), "x"); err != nil || e.Waiting.Alerts == 0 || e.State.Error == "" {
		t.Errorf("while it is away: %+v, %v", e, err)
	}
	server.Start()
	eventually(t, "the last message", func() bool { return store.state("x").Sent >= all })
	var order []string
	seen := make(map[string]bool)
	for _, message := range server.Messages() {
		id := message.Structured.CEF.Extensions["externalId"]
		if !seen[id] { // what nobody knew whether it arrived comes twice
			seen[id] = true
			order = append(order, id)
		}
	}
	if !slices.Equal(order, numbers(1, all)) {
		t.Errorf("%d different messages of %d arrived, or not in their order", len(order), all)
	}
	if st := store.state("x"); st.GivenUp != 0 || st.Failures != 0 {
		t.Errorf("%+v", st)
	}
}

func TestSyslog_VerifiesTheServer(t *testing.T) {
	t.Parallel()
	server := rsyslogtest.New(t)
	other := rsyslogtest.New(t)
	for name, c := range map[string]Config{
		"another CA":             {CA: other.CA, Certificate: server.Certificate, Key: server.Key},
		"another name":           {CA: server.CA, Certificate: server.Certificate, Key: server.Key, ServerName: "siem.example"},
		"no certificate of ours": {CA: server.CA},
		"one of somebody else":   {CA: server.CA, Certificate: other.Certificate, Key: other.Key},
		"the system's CAs":       {Certificate: server.Certificate, Key: server.Key},
	} {
		c.Kind, c.Address = Syslog, server.Address
		m, _ := over(t, c)
		if err := m.Test(t.Context(), "x"); err == nil {
			t.Errorf("%s: it is sent", name)
		}
	}
	if got := server.Messages(); len(got) != 0 {
		t.Errorf("%d messages", len(got))
	}
}

// plain is a receiver that reads frames and then does as a test says.
func plain(t *testing.T, after func(net.Conn)) (address string, got func() string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var text atomic.Value
	text.Store("")
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		after(c)
		var b bytes.Buffer
		_, _ = io.Copy(&b, bufio.NewReader(c))
		text.Store(b.String())
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
	})
	return ln.Addr().String(), func() string { s, _ := text.Load().(string); return s }
}

func TestSyslog_PlainTransports(t *testing.T) {
	t.Parallel()
	address, got := plain(t, func(net.Conn) {})
	m, _ := over(t, Config{Kind: Syslog, Transport: TCP, Address: address})
	if err := m.Test(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the message", func() bool { return got() != "" })
	if n, rest, _ := strings.Cut(got(), " "); n != fmt.Sprint(len(rest)) || !strings.HasPrefix(rest, "<38>1 ") {
		t.Errorf("over TCP: %q", got())
	}
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	m, _ = over(t, Config{Kind: Syslog, Transport: UDP, Address: udp.LocalAddr().String()})
	if err := m.Test(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	n, _, err := udp.ReadFrom(buf)
	if err != nil || !bytes.HasPrefix(buf[:n], []byte("<38>1 ")) || !bytes.Contains(buf[:n], []byte("CEF:0|Vauban|")) {
		t.Errorf("over UDP: %q, %v", buf[:n], err)
	}
	// A server that resets the connection did not take what was sent.
	address, _ = plain(t, func(c net.Conn) {
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
	})
	m, _ = over(t, Config{Kind: Syslog, Transport: TCP, Address: address})
	if err := m.Test(t.Context(), "x"); err == nil {
		t.Error("a reset counts as taken")
	}
}

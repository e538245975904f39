package export

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/defender/record"
)

// receives is a server of TLS that refuses in several ways before it takes anything.
type receives struct {
	*httptest.Server
	mu     sync.Mutex
	times  int
	bodies [][]byte
	heads  []http.Header
}

func newReceives(t *testing.T) *receives {
	t.Helper()
	r := &receives{}
	r.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		switch r.times++; r.times {
		case 1:
			http.Error(w, "not now", http.StatusServiceUnavailable)
		case 2:
			panic(http.ErrAbortHandler) // it took the body and died
		default:
			r.bodies, r.heads = append(r.bodies, body), append(r.heads, req.Header)
		}
	}))
	r.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	r.StartTLS()
	t.Cleanup(r.Close)
	return r
}

func (r *receives) ca() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw}))
}

func (r *receives) taken() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.bodies)
}

func TestWebhook_RetriesSignsAndKeepsOrder(t *testing.T) {
	t.Parallel()
	r := newReceives(t)
	m, store := over(t, Config{Kind: Webhook, URL: r.URL + "/in?x=1", CA: r.ca(), Token: "t0ken", Headers: map[string]string{"X-Key": "k3y"}, SigningKey: "s1gn"})
	store.raise(numbers(1, 20)...)
	runs(t, m)
	eventually(t, "a delivery", func() bool { return r.taken() > 0 })
	eventually(t, "its end", func() bool { return store.state("x").Sent == 20 })
	var order []string
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, body := range r.bodies {
		h := r.heads[i]
		var events []struct {
			ClassUID int                  `json:"class_uid"`
			Finding  struct{ UID string } `json:"finding_info"`
		}
		if err := json.Unmarshal(body, &events); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		for _, e := range events {
			if e.ClassUID != 2004 {
				t.Errorf("class %d", e.ClassUID)
			}
			order = append(order, e.Finding.UID)
		}
		if h.Get("Authorization") != "Bearer t0ken" || h.Get("X-Key") != "k3y" || h.Get("Content-Type") != "application/json" || len(h.Get("Vauban-Delivery")) != 32 {
			t.Errorf("headers %v", h)
		}
		at, sum, _ := strings.Cut(strings.TrimPrefix(h.Get("Vauban-Signature"), "t="), ",v1=")
		mac := hmac.New(sha256.New, []byte("s1gn"))
		mac.Write(append([]byte(at+"."), body...))
		if sum != hex.EncodeToString(mac.Sum(nil)) {
			t.Errorf("signature %q", h.Get("Vauban-Signature"))
		}
	}
	if !slices.Equal(order, numbers(1, 20)) || r.times < 3 {
		t.Errorf("after %d requests: %q", r.times, order)
	}
}

func TestWebhook_LinesOfRows(t *testing.T) {
	t.Parallel()
	r := newReceives(t)
	r.times = 2
	m, store := over(t, Config{Kind: Webhook, Format: Table, Body: Lines, Product: "azure", URL: r.URL, CA: r.ca()})
	store.raise("a1", "a2")
	runs(t, m)
	eventually(t, "a delivery", func() bool { return r.taken() > 0 })
	r.mu.Lock()
	defer r.mu.Unlock()
	lines := strings.Split(strings.TrimSuffix(string(r.bodies[0]), "\n"), "\n")
	if len(lines) != 2 || !strings.Contains(lines[1], `"SystemAlertId":"a2"`) || !strings.Contains(lines[0], `"ProductName":"Azure Security Center for IoT"`) || r.heads[0].Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("%q, %v", lines, r.heads[0])
	}
}

func TestWebhook_Refusals(t *testing.T) {
	t.Parallel()
	r := newReceives(t)
	away := httptest.NewServer(http.RedirectHandler("https://other.example/", http.StatusTemporaryRedirect))
	defer away.Close()
	for name, c := range map[string]Config{
		"a server that is not trusted": {URL: r.URL},
		"a redirect":                   {URL: away.URL},
		"a link-local address":         {URL: "http://169.254.169.254/latest"},
		"one of IPv4 in IPv6":          {URL: "http://[::ffff:169.254.169.254]/latest"},
		"a link-local address of IPv6": {URL: "http://[fe80::1%25lo]/latest"},
		"that of EC2 over IPv6":        {URL: "http://[fd00:ec2::254]/latest"},
		"one that answers 503":         {URL: r.URL, CA: r.ca()},
	} {
		c.Kind = Webhook
		m, _ := over(t, c)
		err := m.Test(t.Context(), "x")
		if err == nil {
			t.Errorf("%s: it is sent", name)
		}
		if err != nil && strings.Contains(err.Error(), "latest") {
			t.Errorf("%s: %v tells the path, which may be a secret", name, err)
		}
		if c.CA == "" && strings.Contains(c.URL, "latest") && (err == nil || !strings.Contains(err.Error(), "machine's own services")) {
			t.Errorf("%s: %v, want a refusal before anything is connected", name, err)
		}
		if name == "one that answers 503" && (err == nil || !strings.Contains(err.Error(), "not now")) {
			t.Errorf("%v does not say why", err)
		}
	}
}

// What the data collector API of Azure Monitor documents: an array for each Log-Type, signed with the key of the workspace.
func TestLogAnalytics(t *testing.T) {
	t.Parallel()
	r := newReceives(t)
	r.times = 2
	key := []byte("key of the workspace")
	m, store := over(t, Config{Kind: LogAnalytics, Data: []Data{Alerts, Events}, URL: r.URL + "/api/logs?api-version=2016-04-01", CA: r.ca(), Workspace: "ws", SharedKey: base64.StdEncoding.EncodeToString(key)})
	store.raise("a1", "a2")
	store.events = []record.Event{{Place: record.Place{Message: 9}, Device: "lamp", Enqueued: time.Now(), Name: "Process", Details: []json.RawMessage{json.RawMessage(`{"a":1}`), json.RawMessage(`{"a":2}`)}}}
	runs(t, m)
	eventually(t, "both tables", func() bool { return r.taken() == 2 })
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, want := range []struct {
		table string
		rows  int
	}{{"SecurityAlert", 2}, {"SecurityIoTRawEvent", 2}} {
		h, body := r.heads[i], r.bodies[i]
		var rows []map[string]any
		if err := json.Unmarshal(body, &rows); err != nil || len(rows) != want.rows || h.Get("Log-Type") != want.table || rows[0]["Type"] != want.table || h.Get("time-generated-field") != "TimeGenerated" {
			t.Errorf("%v: %d rows of %s: %s", err, len(rows), h.Get("Log-Type"), body)
		}
		if _, err := time.Parse(http.TimeFormat, h.Get("x-ms-date")); err != nil {
			t.Error(err)
		}
		mac := hmac.New(sha256.New, key)
		fmt.Fprintf(mac, "POST\n%d\napplication/json\nx-ms-date:%s\n/api/logs", len(body), h.Get("x-ms-date"))
		if want := "SharedKey ws:" + base64.StdEncoding.EncodeToString(mac.Sum(nil)); h.Get("Authorization") != want || h.Get("Content-Type") != "application/json" {
			t.Errorf("%q, want %q", h.Get("Authorization"), want)
		}
	}
	if bytes.Contains(r.bodies[0], key) {
		t.Error("the key is sent")
	}
}

package sink_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/routing"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/sink/jsonlines"
	"github.com/vauban-iot/vauban/sink/kafkasink"
	"github.com/vauban-iot/vauban/sink/natsink"
	"github.com/vauban-iot/vauban/sink/webhook"
	"github.com/vauban-iot/vauban/wire/bag"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func messages(n int) []*iot.Message {
	var ms []*iot.Message
	for i := range n {
		ms = append(ms, &iot.Message{
			Sequence: uint64(i + 1), From: iot.ID{Device: "d1"}, Enqueued: start.Add(time.Duration(i) * 20 * time.Second),
			System: []bag.Property{{Name: "content-type", Value: "application/json"}, {Name: "content-encoding", Value: "utf-8"}},
			Body:   fmt.Appendf(nil, `{"n":%d}`, i),
		})
	}
	return ms
}

// numbers are the n of records.
func numbers(t *testing.T, records ...string) string {
	t.Helper()
	var got []string
	for _, r := range records {
		var doc struct {
			SystemProperties struct{ ConnectionDeviceID string }
			Body             struct{ N int }
		}
		if err := json.Unmarshal([]byte(r), &doc); err != nil || doc.SystemProperties.ConnectionDeviceID != "d1" {
			t.Fatalf("record %s: %v", r, err)
		}
		got = append(got, fmt.Sprint(doc.Body.N))
	}
	return strings.Join(got, " ")
}

func TestWebhook(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var got []string
	status := func([]json.RawMessage) int { return http.StatusOK }
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		body, _ := io.ReadAll(r.Body)
		var records []json.RawMessage
		if err := json.Unmarshal(body, &records); err != nil || r.Method != "POST" || r.Header.Get("X-Key") != "k: v" || r.Header.Get("Content-Type") != "application/json; charset=utf-8" {
			t.Errorf("request %s %v: %s (%v)", r.Method, r.Header, body, err)
		}
		code := status(records)
		if code == http.StatusFound {
			w.Header().Set("Location", "http://127.0.0.1:1/")
		}
		w.WriteHeader(code)
		if code/100 == 2 {
			for _, r := range records {
				got = append(got, string(r))
			}
		}
	}))
	defer srv.Close()
	s, err := webhook.New(routing.Endpoint{Name: "e", URL: srv.URL, Header: "x-key: k: v"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Deliver(t.Context(), messages(3)); err != nil || numbers(t, got...) != "0 1 2" {
		t.Errorf("delivered %s (%v)", got, err)
	}
	for _, code := range []int{302, 401, 404, 429, 500, 503} {
		status = func([]json.RawMessage) int { return code }
		if err := s.Deliver(t.Context(), messages(2)); err == nil || fault.Is(err, fault.Invalid) {
			t.Errorf("status %d: got %v, want an error that is tried again", code, err)
		}
	}
	// One message that the receiver never takes leaves the others alone.
	got = nil
	status = func(records []json.RawMessage) int {
		for _, r := range records {
			if strings.Contains(string(r), `{"n":1}`) {
				return http.StatusBadRequest
			}
		}
		return http.StatusAccepted
	}
	if err := s.Deliver(t.Context(), messages(3)); !fault.Is(err, fault.Invalid) || numbers(t, got...) != "0 2" {
		t.Errorf("with one bad message: delivered %s, %v", got, err)
	}
	srv.Close()
	if err := s.Deliver(t.Context(), messages(1)); err == nil || fault.Is(err, fault.Invalid) {
		t.Errorf("nobody listens: got %v, want an error that is tried again", err)
	}
	for _, e := range []routing.Endpoint{{}, {URL: "ftp://x/"}, {URL: "https://"}, {URL: "https://user:secret@host/"}, {URL: "https://h/", Header: "no colon"}, {URL: "https://h/", Header: "a: b\r\nc: d"}, {URL: "https://h/", Header: "a b: c"}} {
		if _, err := webhook.New(e); !fault.Is(err, fault.Invalid) {
			t.Errorf("%+v: got %v, want invalid", e, err)
		}
	}
}

func TestNATS(t *testing.T) {
	t.Parallel()
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	defer srv.Shutdown()
	if !srv.ReadyForConnections(20 * time.Second) {
		t.Fatal("no NATS")
	}
	nc, err := nats.Connect(srv.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"plant.telemetry"}})
	if err != nil {
		t.Fatal(err)
	}
	s, err := natsink.New(routing.Endpoint{Name: "e", URL: srv.ClientURL(), Subject: "plant.telemetry"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range 2 { // the second time the stream drops what it has
		if err := s.Deliver(t.Context(), messages(5)); err != nil {
			t.Fatal(err)
		}
	}
	info, err := stream.Info(t.Context())
	if err != nil || info.State.Msgs != 5 {
		t.Fatalf("the stream holds %d messages (%v), want 5", info.State.Msgs, err)
	}
	var got []string
	for i := range uint64(5) {
		m, err := stream.GetMsg(t.Context(), i+1)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(m.Data))
	}
	if numbers(t, got...) != "0 1 2 3 4" {
		t.Errorf("the stream holds %s", got)
	}
	other, err := natsink.New(routing.Endpoint{Name: "e", URL: srv.ClientURL(), Subject: "in.no.stream"})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := other.Deliver(t.Context(), messages(1)); err == nil || !strings.Contains(err.Error(), "part of a stream") {
		t.Errorf("a subject of no stream: got %v", err)
	}
	for _, e := range []routing.Endpoint{{}, {URL: "http://x", Subject: "a"}, {URL: "nats://x"}, {URL: "nats://x", Subject: "a.>"}, {URL: "nats://x", Subject: "a b"}} {
		if _, err := natsink.New(e); !fault.Is(err, fault.Invalid) {
			t.Errorf("%+v: got %v, want invalid", e, err)
		}
	}
}

// The broker is franz-go's own fake: a real one cannot be had on the machines that run the tests.
func TestKafka(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, "telemetry"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	brokers := strings.Join(cluster.ListenAddrs(), ",")
	s, err := kafkasink.New(routing.Endpoint{Name: "e", Brokers: brokers, Topic: "telemetry"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Deliver(t.Context(), messages(50)); err != nil {
		t.Fatal(err)
	}
	c, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ConsumeTopics("telemetry"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var got, want []string
	partition := int32(-1)
	for len(got) < 50 {
		fetches := c.PollFetches(t.Context())
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			got = append(got, string(r.Value))
			if partition >= 0 && r.Partition != partition || string(r.Key) != "d1" {
				t.Errorf("record of key %s in partition %d, want all of a device in one", r.Key, r.Partition)
			}
			partition = r.Partition
		})
	}
	for i := range 50 {
		want = append(want, fmt.Sprint(i))
	}
	if numbers(t, got...) != strings.Join(want, " ") {
		t.Errorf("the topic holds %s", numbers(t, got...))
	}
	// Refusals: what never fits is told apart from a broker that is away.
	cluster.ControlKey(0, func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		produce := req.(*kmsg.ProduceRequest)
		resp := produce.ResponseKind().(*kmsg.ProduceResponse)
		for _, topic := range produce.Topics {
			rt := kmsg.NewProduceResponseTopic()
			rt.Topic, rt.TopicID = topic.Topic, topic.TopicID
			for _, p := range topic.Partitions {
				rp := kmsg.NewProduceResponseTopicPartition()
				rp.Partition, rp.ErrorCode = p.Partition, kerr.MessageTooLarge.Code
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
	if err := s.Deliver(t.Context(), messages(1)); !fault.Is(err, fault.Invalid) {
		t.Errorf("a message that is too large: got %v, want invalid", err)
	}
	missing, err := kafkasink.New(routing.Endpoint{Name: "e", Brokers: brokers, Topic: "missing"})
	if err != nil {
		t.Fatal(err)
	}
	defer missing.Close()
	if err := missing.Deliver(t.Context(), messages(1)); err == nil || fault.Is(err, fault.Invalid) {
		t.Errorf("a topic that does not exist: got %v, want an error that is tried again", err)
	}
	for _, e := range []routing.Endpoint{{}, {Brokers: "host", Topic: "t"}, {Brokers: "h:1,", Topic: "t"}, {Brokers: "h:1"}, {Brokers: "h:1", Topic: "a b"}} {
		if _, err := kafkasink.New(e); !fault.Is(err, fault.Invalid) {
			t.Errorf("%+v: got %v, want invalid", e, err)
		}
	}
}

func TestFiles(t *testing.T) {
	conform.Covers(t, "HS-116")
	t.Parallel()
	root := t.TempDir()
	open := func() *jsonlines.Sink {
		s, err := jsonlines.New(root, "hub.example", routing.Endpoint{Name: "lake"})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	ms := messages(4) // three in one minute, the last in the next
	ms[1].System, ms[1].Body = nil, []byte{0xff, 1}
	s := open()
	if err := s.Deliver(t.Context(), ms); err != nil {
		t.Fatal(err)
	}
	lines := func(minute string) []string {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(root, "lake", "hub", "2026", "01", "02", "03", minute+".json"))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(string(data), "\n") {
			t.Errorf("the last line of %q is not ended", data)
		}
		return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	}
	first := lines("04")
	if len(first) != 3 || numbers(t, first[0], first[2]) != "0 2" || !strings.HasSuffix(first[1], `"Body":"/wE="}`) {
		t.Errorf("the first minute holds %s", first)
	}
	if got := lines("05"); numbers(t, got...) != "3" {
		t.Errorf("the second minute holds %s", got)
	}
	// A crash leaves half a line; the next server cuts it off and goes on.
	path := filepath.Join(root, "lake", "hub", "2026", "01", "02", "03", "05.json")
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(`{"EnqueuedTimeUtc":"2026` + strings.Repeat("x", 4096)) // longer than what will stand in its place
	f.Close()
	if err := open().Deliver(t.Context(), ms[3:]); err != nil {
		t.Fatal(err)
	}
	if got := lines("05"); numbers(t, got...) != "3 3" {
		t.Errorf("after a crash the file holds %s", got)
	}
	for _, e := range []routing.Endpoint{
		{Name: "e", Folder: ".."}, {Name: "e", Folder: "a/../b"}, {Name: "e", Folder: "/etc"}, {Name: "e", Folder: `a\b`},
		{Name: "e", FileNameFormat: "{YYYY}"}, {Name: "e", FileNameFormat: "../{YYYY}/{MM}/{DD}/{HH}/{mm}"}, {Name: "e", FileNameFormat: "{YYYY}{YYYY}/{MM}/{DD}/{HH}/{mm}"},
		{Name: "e", FileNameFormat: "{YYYY}/{MM}/{DD}/{HH}/{mm}/"},
	} {
		if _, err := jsonlines.New(root, "h", e); !fault.Is(err, fault.Invalid) {
			t.Errorf("%+v: got %v, want invalid", e, err)
		}
	}
	if err := os.Chmod(root, 0o500); err == nil && os.Getuid() != 0 {
		if err := open().Deliver(t.Context(), []*iot.Message{{Enqueued: start.Add(24 * time.Hour)}}); err == nil {
			t.Error("a folder that cannot be written took a message")
		}
	}
}

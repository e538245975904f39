package sink_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/avro/ocf"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/routing"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/sink/avrofile"
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

// Wherever an endpoint leads, it does not lead to what machines keep for themselves.
func TestSinks_MachinesOwnServices(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"http://169.254.169.254/latest/", "http://[::ffff:169.254.169.254]/", "http://[fe80::1%25lo]/", "http://[fd00:ec2::254]/"} {
		s, err := webhook.New(routing.Endpoint{Name: "e", URL: url})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Deliver(t.Context(), messages(1)); err == nil || fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "machine's own services") {
			t.Errorf("%s: %v", url, err)
		}
	}
	n, err := natsink.New(routing.Endpoint{Name: "e", URL: "nats://169.254.169.254:4222", Subject: "s"})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if err := n.Deliver(t.Context(), messages(1)); err == nil || !strings.Contains(err.Error(), "machine's own services") {
		t.Errorf("NATS: %v", err)
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

// avroSink opens a storage endpoint in Avro.
func avroSink(t testing.TB, root string, e routing.Endpoint) *avrofile.Sink {
	t.Helper()
	e.Name = "lake"
	if e.Encoding == "" {
		e.Encoding = "Avro"
	}
	s, err := avrofile.New(root, "hub.example", e)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// avroFiles are the files below root, by the ends of their paths, with the n of their records.
func avroFiles(t testing.TB, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(root, path)
		if !strings.HasSuffix(path, ".avro") {
			all[name] = "unfinished"
			return nil
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		r, err := ocf.NewReader(f)
		if err != nil {
			return err
		}
		defer r.Close()
		var numbers []string
		for {
			var rec avrofile.Record
			err := r.Decode(&rec)
			if errors.Is(err, io.EOF) {
				break
			}
			var body struct{ N int }
			if err == nil {
				err = json.Unmarshal(*rec.Body, &body)
			}
			if err != nil || rec.System["connectionDeviceId"] != "d1" || !strings.HasPrefix(rec.Enqueued, "2026-01-02T") {
				return fmt.Errorf("%s: record %+v: %w", path, rec, err)
			}
			numbers = append(numbers, fmt.Sprint(body.N))
		}
		all[name] = strings.Join(numbers, " ")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestAvro(t *testing.T) {
	conform.Covers(t, "HS-116")
	t.Parallel()
	for _, encoding := range []string{"avro", "AvroDeflate"} {
		root := t.TempDir()
		s := avroSink(t, root, routing.Endpoint{Encoding: encoding})
		ms := messages(6)
		ms[0].Properties = []bag.Property{{Name: "a", Value: "1"}, {Name: "null", Null: true}}
		for _, part := range [][]*iot.Message{ms[:4], ms[4:]} { // of several minutes: one batch
			if err := s.Deliver(t.Context(), part); err != nil {
				t.Fatal(err)
			}
		}
		const path = "lake/hub/2026/01/02/03/04.avro"
		if got := avroFiles(t, root); len(got) != 1 || got[path+".lake.part"] != "unfinished" {
			t.Errorf("while the batch grows there are %v", got)
		}
		s.Close()
		if got := avroFiles(t, root); len(got) != 1 || got[path] != "0 1 2 3 4 5" {
			t.Errorf("%s: afterwards there are %v", encoding, got)
		}
		// Another reader than the one that wrote: Apache's, in Python.
		script := `import json, sys
from avro.datafile import DataFileReader
from avro.io import DatumReader
for r in DataFileReader(open(sys.argv[1], "rb"), DatumReader()):
    print(r["EnqueuedTimeUtc"], json.dumps(r["Properties"], sort_keys=True), r["SystemProperties"]["contentType"], r["Body"].decode())`
		out, err := exec.Command("/usr/bin/python3", "-c", script, filepath.Join(root, path)).CombinedOutput()
		if err != nil && strings.Contains(string(out), "No module named 'avro'") || errors.Is(err, fs.ErrNotExist) {
			t.Log("python3-avro is not installed; make deps installs it")
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		if err != nil || len(lines) != 6 || lines[0] != `2026-01-02T03:04:05.0000000Z {"a": "1", "null": ""} application/json {"n":0}` || !strings.HasSuffix(lines[5], `{"n":5}`) {
			t.Errorf("%s: Apache Avro reads (%v)\n%s", encoding, err, out)
		}
	}
	for _, e := range []routing.Endpoint{
		{Encoding: "Parquet"}, {Encoding: "Avro", BatchFrequency: 59}, {Encoding: "Avro", BatchFrequency: 721}, {Encoding: "Avro", MaxChunk: 1}, {Encoding: "Avro", MaxChunk: 1 << 40},
		{Encoding: "Avro", Folder: ".."},
	} {
		e.Name = "e"
		if _, err := avrofile.New(t.TempDir(), "h", e); !fault.Is(err, fault.Invalid) {
			t.Errorf("%+v: got %v, want invalid", e, err)
		}
	}
	if _, err := jsonlines.New(t.TempDir(), "h", routing.Endpoint{Name: "e", BatchFrequency: 60}); !fault.Is(err, fault.Invalid) {
		t.Errorf("batches of lines: got %v, want invalid", err)
	}
}

// A batch is done after its time or its size, and no file takes the place of another.
func TestAvro_Batches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		root := t.TempDir()
		s := avroSink(t, root, routing.Endpoint{BatchFrequency: 60})
		defer s.Close()
		for i := range 3 {
			if err := s.Deliver(t.Context(), messages(1)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(59 * time.Second)
			synctest.Wait()
			if got := avroFiles(t, root); len(got) != i+1 || got["lake/hub/2026/01/02/03/04.avro.lake.part"] == "" {
				t.Errorf("after 59 s there are %v", got)
			}
			time.Sleep(2 * time.Second)
			synctest.Wait()
		}
		if got := fmt.Sprint(avroFiles(t, root)); got != "map[lake/hub/2026/01/02/03/04-2.avro:0 lake/hub/2026/01/02/03/04-3.avro:0 lake/hub/2026/01/02/03/04.avro:0]" {
			t.Errorf("after three batches there are %s", got)
		}
	})
	root := t.TempDir()
	s := avroSink(t, root, routing.Endpoint{MaxChunk: 10 << 20})
	ms := messages(50)
	for i, m := range ms {
		m.Enqueued = start
		m.Body = fmt.Appendf(nil, `{"n":%d,"x":"%s"}`, i, strings.Repeat("x", 250<<10))
	}
	if err := s.Deliver(t.Context(), ms); err != nil {
		t.Fatal(err)
	}
	s.Close()
	got := avroFiles(t, root)
	all := strings.Fields(got["lake/hub/2026/01/02/03/04.avro"] + " " + got["lake/hub/2026/01/02/03/04-2.avro"])
	if len(got) != 2 || len(all) != 50 || all[0] != "0" || all[49] != "49" {
		t.Errorf("12 MB became %d files with %d records", len(got), len(all))
	}
	for name := range got {
		if info, err := os.Stat(filepath.Join(root, name)); err != nil || info.Size() > 10<<20+300<<10 {
			t.Errorf("%s has %d bytes (%v)", name, info.Size(), err)
		}
	}
}

// A crash leaves a part, torn anywhere: what was acknowledged is in the file, which any reader can open.
func TestAvro_Torn(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	s := avroSink(t, root, routing.Endpoint{})
	part := filepath.Join(root, "lake/hub/2026/01/02/03/04.avro.lake.part")
	size := func() int64 {
		info, err := os.Stat(part)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	ms := messages(4)
	if err := s.Deliver(t.Context(), ms[:2]); err != nil {
		t.Fatal(err)
	}
	two := size()
	if err := s.Deliver(t.Context(), ms[2:]); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(part)
	if err != nil {
		t.Fatal(err)
	}
	for cut := int64(0); cut <= int64(len(data)); cut++ {
		torn := filepath.Join(t.TempDir(), "x.avro.lake.part")
		for _, garbage := range []string{"", "\x00\x00\x00"} {
			if err := os.WriteFile(torn, append(slices.Clone(data[:cut]), garbage...), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := avrofile.Recover(filepath.Dir(torn)); err != nil {
				t.Fatal(err)
			}
			want := "map[]"
			switch {
			case cut == int64(len(data)):
				want = "map[x.avro:0 1 2 3]"
			case cut >= two:
				want = "map[x.avro:0 1]"
			}
			if got := fmt.Sprint(avroFiles(t, filepath.Dir(torn))); got != want {
				t.Fatalf("cut at %d of %d: %s, want %s", cut, len(data), got, want)
			}
			os.Remove(strings.TrimSuffix(torn, ".lake.part"))
		}
	}
	// The frame of the last block arrived, its inside did not.
	hollow := slices.Clone(data)
	clear(hollow[two+8 : len(hollow)-16])
	if err := os.WriteFile(part, hollow, 0o600); err != nil {
		t.Fatal(err)
	}
	next := avroSink(t, root, routing.Endpoint{}) // a sink finds its own
	if err := next.Deliver(t.Context(), ms[3:]); err != nil {
		t.Fatal(err)
	}
	next.Close()
	if got := fmt.Sprint(avroFiles(t, root)); got != "map[lake/hub/2026/01/02/03/04.avro:0 1 lake/hub/2026/01/02/03/05.avro:3]" {
		t.Errorf("behind a hollow block there are %s", got)
	}
}

const killedFolder = "VAUBAN_AVRO_FOLDER" // set in the process that TestAvro_Killed kills

// A writer is killed in the middle of it, again and again: every message it was acknowledged is in a file.
func TestAvro_Killed(t *testing.T) {
	if root := os.Getenv(killedFolder); root != "" {
		first, _ := strconv.Atoi(os.Getenv("VAUBAN_AVRO_FIRST"))
		s := avroSink(t, root, routing.Endpoint{Encoding: "AvroDeflate"})
		for n := first; ; n++ {
			m := messages(1)[0]
			m.Body = fmt.Appendf(nil, `{"n":%d}`, n)
			if err := s.Deliver(t.Context(), []*iot.Message{m}); err != nil {
				t.Fatal(err)
			}
			fmt.Println("acknowledged", n)
		}
	}
	if testing.Short() {
		t.Skip("kills processes; run without -short")
	}
	t.Parallel()
	root := t.TempDir()
	acknowledged := 0
	for round := range 5 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestAvro_Killed$", "-test.v")
		cmd.Env = append(os.Environ(), killedFolder+"="+root, fmt.Sprintf("VAUBAN_AVRO_FIRST=%d", acknowledged))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for count := 0; lines.Scan(); {
			if _, err := fmt.Sscanf(lines.Text(), "acknowledged %d", &acknowledged); err == nil {
				acknowledged++
				if count++; count == 20+7*round {
					cmd.Process.Kill()
				}
			}
		}
		_ = cmd.Wait() // it was killed
	}
	if err := avrofile.Recover(root); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for name, numbers := range avroFiles(t, root) {
		if numbers == "unfinished" {
			t.Errorf("%s is not finished", name)
		}
		for _, n := range strings.Fields(numbers) {
			seen[n] = true
		}
	}
	for n := range acknowledged {
		if !seen[fmt.Sprint(n)] {
			t.Errorf("message %d of %d was acknowledged and is lost", n, acknowledged)
		}
	}
	if acknowledged < 100 {
		t.Errorf("%d messages were written", acknowledged)
	}
}

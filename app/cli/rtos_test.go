package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func rtosRun(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	root := New(strings.NewReader(""), &out, &errs)
	root.SetArgs(append([]string{"rtos"}, args...))
	code = Code(root.ExecuteContext(t.Context()), &errs)
	return code, out.String(), errs.String()
}

func TestRTOS_AnalyzeAndTrace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, text string) string {
		if err := os.WriteFile(at(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return at(name)
	}
	model := write("m.toml", "clock_hz = 1000000\n[[thread]]\nname = \"fast\"\npriority = 3\nperiod = \"10ms\"\ndeadline = \"2ms\"\ncost = 1000\n"+
		"[[thread]]\nname = \"slow\"\npriority = 9\nthreshold = 2\nperiod = \"50ms\"\ncost = 9000\n")
	code, out, errs := rtosRun(t, "analyze", model, "--trace", at("worst.trx"))
	if code != exitFound || !strings.Contains(out, "may miss") || !strings.Contains(out, "1 x thread slow, whose threshold keeps it running") || !strings.Contains(errs, "1 of 2 threads may miss") {
		t.Errorf("%d: %s %s", code, out, errs)
	}
	code, out, _ = rtosRun(t, "analyze", model, "--output", "json", "--time", "1s")
	var doc struct {
		Threads []struct {
			Thread         string
			MeetsDeadline  bool
			ResponseMicros float64
			ObservedMicros float64
		}
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil || code != exitFound || len(doc.Threads) != 2 || doc.Threads[0].MeetsDeadline || !doc.Threads[1].MeetsDeadline {
		t.Errorf("%d %v: %s", code, err, out)
	}
	for _, x := range doc.Threads {
		if x.ObservedMicros <= 0 || x.ObservedMicros > x.ResponseMicros {
			t.Errorf("%+v", x)
		}
	}
	code, out, errs = rtosRun(t, "trace", at("worst.trx"), "--chrome", at("worst.json"), "--clock", "1000000")
	if code != exitOK || !strings.Contains(out, "deadline missed") || !strings.Contains(out, `"slow"`) {
		t.Errorf("%d: %s %s", code, out, errs)
	}
	if drawn, err := os.ReadFile(at("worst.json")); err != nil || !json.Valid(drawn) {
		t.Errorf("%v", err)
	}
	bad := write("bad.toml", "[[thread]]\nname = \"x\"\npriority = 0\n")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"analyze", bad}, "bad.toml:3: priority: 0 is not between 1 and 31"},
		{[]string{"analyze", model, "--time", "0s"}, "a simulation of 0s"},
		{[]string{"trace", model}, "not a TraceX file"},
		{[]string{"trace", at("nothing")}, "no such file"},
	} {
		if code, _, errs := rtosRun(t, c.args...); code != exitFailed || !strings.Contains(errs, c.want) {
			t.Errorf("%v: %d %s", c.args, code, errs)
		}
	}
}

func TestRTOS_Metric(t *testing.T) {
	t.Parallel()
	peer := filepath.Join(t.TempDir(), "peer.txt")
	if err := os.WriteFile(peer, []byte("**** Thread-Metric Memory Allocation Test **** Relative Time: 2\nTime Period Total:  40\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errs := rtosRun(t, "metric", "--test", "memory", "--duration", "20ms", "--peer", peer)
	if code != exitOK || !strings.Contains(out, "50000000.0") || !strings.Contains(out, "never with ThreadX on a chip") {
		t.Errorf("%d: %s %s", code, out, errs)
	}
	code, out, _ = rtosRun(t, "metric", "--virtual", "--duration", "100ms", "--output", "json")
	var doc struct {
		Tests []struct{ Total uint64 }
		Note  string
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil || code != exitOK || len(doc.Tests) != 8 || !strings.Contains(doc.Note, "never with ThreadX on a chip") {
		t.Errorf("%d %v: %s", code, err, out)
	}
	for _, args := range [][]string{{"--test", "paint"}, {"--virtual", "--peer", peer}} {
		if code, _, _ := rtosRun(t, append([]string{"metric"}, args...)...); code != exitMisuse {
			t.Errorf("%v: %d", args, code)
		}
	}
}

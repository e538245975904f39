package report_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/sphere/report"
)

var now = time.Date(2026, 3, 10, 12, 0, 0, 999, time.FixedZone("x", 3600))

func TestWriteCSV(t *testing.T) {
	t.Parallel()
	e := report.Event{
		Device: "d", Type: "AppCrash", Class: "-class", Category: "@cat", Description: "=HYPERLINK(\"x\"), \"quoted\"; ☂", Count: 3, Start: now.Add(-time.Hour), End: now,
	}
	for integrated, want := range map[bool]string{
		false: "Device ID,Event Type,Event Class,Event Count,Description,Start Time (UTC),End Time (UTC)\n" +
			"d,AppCrash,'-class,3,\"'=HYPERLINK(\"\"x\"\"), \"\"quoted\"\"; ☂\",2026-03-10 10:00:00,2026-03-10 11:00:00\n",
		true: "Device ID,Event Type,Event Class,Event Count,Description,Start Time (UTC),End Time (UTC),Event Category\n" +
			"d,AppCrash,'-class,3,\"'=HYPERLINK(\"\"x\"\"), \"\"quoted\"\"; ☂\",2026-03-10 10:00:00,2026-03-10 11:00:00,'@cat\n",
	} {
		var b bytes.Buffer
		if err := report.WriteCSV(&b, []report.Event{e}, integrated); err != nil || b.String() != want {
			t.Errorf("got %q, %v\nwant %q", b.String(), err, want)
		}
	}
	for said, want := range map[string]string{
		"x;=cmd|' /C calc'!A0": "x;'=cmd|' /C calc'!A0", "＝1+1": "'＝1+1", "a\t -1": "a\t '-1", "a|@x": "a|'@x", "  +1": "  '+1", "exit code = -1": "exit code = -1",
	} {
		var b bytes.Buffer
		one := e
		one.Description = said
		if err := report.WriteCSV(&b, []report.Event{one}, false); err != nil {
			t.Fatal(err)
		}
		rows, err := csv.NewReader(&b).ReadAll()
		if err != nil || rows[1][4] != want {
			t.Errorf("%q: %q, %v; want %q", said, rows[1][4], err, want)
		}
	}
	text, err := json.Marshal(e.Insight())
	for _, name := range []string{"deviceId", "description", "startTimestampUtc", "endTimestampUtc", "eventCategory", "eventClass", "eventType", "eventCount"} {
		if err != nil || !strings.Contains(string(text), `"`+name+`":`) {
			t.Errorf("%s lacks %s, %v", text, name, err)
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	good := report.Event{Type: "x", Start: now}
	got, err := good.Check(now)
	if err != nil || got.Count != 1 || !got.End.Equal(got.Start) || got.Start.Location() != time.UTC || got.Start.Nanosecond() != 0 {
		t.Errorf("got %+v, %v", got, err)
	}
	for what, change := range map[string]func(*report.Event){
		"no type":           func(e *report.Event) { e.Type = "" },
		"a long type":       func(e *report.Event) { e.Type = strings.Repeat("x", 65) },
		"a line break":      func(e *report.Event) { e.Description = "a\nb" },
		"broken text":       func(e *report.Event) { e.Class = "\xff" },
		"a long text":       func(e *report.Event) { e.Description = strings.Repeat("x", 1025) },
		"a negative count":  func(e *report.Event) { e.Count = -1 },
		"a huge count":      func(e *report.Event) { e.Count = 1 << 40 },
		"no time":           func(e *report.Event) { e.Start = time.Time{} },
		"an end before":     func(e *report.Event) { e.End = e.Start.Add(-time.Second) },
		"an end in an hour": func(e *report.Event) { e.End = e.Start.Add(time.Hour) },
	} {
		bad := good
		change(&bad)
		if _, err := bad.Check(now); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Whatever devices tell, a file has one record for each event and no cell that is a formula.
func FuzzCSV(f *testing.F) {
	f.Add("AppCrash", "c", "g", "=1+1")
	f.Add("\x00", " @", "\"", "a\r\nb,")
	f.Fuzz(func(t *testing.T, typ, class, category, description string) {
		e, err := report.Event{Device: "d", Type: typ, Class: class, Category: category, Description: description, Start: now}.Check(now)
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := report.WriteCSV(&b, []report.Event{e, e}, true); err != nil {
			t.Fatal(err)
		}
		rows, err := csv.NewReader(&b).ReadAll()
		if err != nil || len(rows) != 3 {
			t.Fatalf("%d rows, %v", len(rows), err)
		}
		for _, cell := range rows[1] {
			if c := strings.TrimLeft(cell, " "); c != "" && strings.ContainsRune("=+-@", rune(c[0])) {
				t.Errorf("cell %q", cell)
			}
		}
	})
}

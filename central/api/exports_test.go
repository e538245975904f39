package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/export"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/fault"
)

type exportFake struct {
	all    map[string]export.Config
	tested string
	broken error
}

func (f *exportFake) Exports(context.Context) (all []export.Export, err error) {
	for _, c := range f.all {
		all = append(all, export.Export{Config: c.Redacted()})
	}
	return all, nil
}

func (f *exportFake) Export(_ context.Context, name string) (export.Export, error) {
	c, ok := f.all[name]
	if !ok {
		return export.Export{}, fault.New(fault.NotFound, "export %s does not exist", name)
	}
	return export.Export{Config: c.Redacted(), Waiting: export.Waiting{Alerts: 3}}, nil
}

func (f *exportFake) Put(ctx context.Context, c export.Config) (export.Export, bool, error) {
	if err := c.Check(); err != nil {
		return export.Export{}, false, err
	}
	_, stood := f.all[c.Name]
	if f.all == nil {
		f.all = make(map[string]export.Config)
	}
	f.all[c.Name] = c
	e, err := f.Export(ctx, c.Name)
	return e, !stood, err
}

func (f *exportFake) Delete(ctx context.Context, name string) error {
	_, err := f.Export(ctx, name)
	delete(f.all, name)
	return err
}

func (f *exportFake) Test(ctx context.Context, name string) error {
	f.tested = name
	if _, err := f.Export(ctx, name); err != nil {
		return err
	}
	return f.broken
}

// tableFake has as many alerts, events and recommendations as it is told.
type tableFake struct {
	n        int
	from, to time.Time
}

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func (f *tableFake) AlertsChanged(_ context.Context, from, to time.Time, after uint64, limit int) (all []alert.Change, err error) {
	f.from, f.to = from, to
	for i := int(after) + 1; i <= f.n && len(all) < limit; i++ {
		all = append(all, alert.Change{At: noon, Alert: alert.Alert{ID: fmt.Sprint("a", i), Sequence: uint64(i), FirstSeen: noon, LastSeen: noon}})
	}
	return all, nil
}

func (f *tableFake) EventsAfter(_ context.Context, s record.Span, limit int) (all []record.Event, err error) {
	f.from, f.to = s.From, s.To
	for i := int(s.After.Message) + 1; i <= f.n && len(all) < limit; i++ {
		all = append(all, record.Event{Place: record.Place{Message: uint64(i)}, ID: fmt.Sprint("a", i), Enqueued: noon, Details: []json.RawMessage{json.RawMessage(`{"x":1}`), json.RawMessage(`{"x":2}`)}})
	}
	return all, nil
}

func (f *tableFake) Recommendations(_ context.Context, q posture.Filter) (all []posture.Recommendation, err error) {
	for i := int(q.After) + 1; i <= f.n && len(all) < q.Limit; i++ {
		all = append(all, posture.Recommendation{ID: fmt.Sprint("a", i), Sequence: uint64(i), StatusChanged: noon.Add(time.Duration(i) * time.Second)})
	}
	return all, nil
}

func TestExports(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if rec := w.ask(t, "GET", "/api/exports", ""); rec.Code != 200 || strings.TrimSpace(rec.Body.String()) != `{"exports":[]}` {
		t.Errorf("no exports: %d %s", rec.Code, rec.Body)
	}
	body := `{"kind":"webhook","url":"https://soc.example/in/path","token":"s3cret","headers":{"K":"s3cret"}}`
	if rec := w.ask(t, "PUT", "/api/exports/soc", body); rec.Code != 201 || !strings.Contains(rec.Body.String(), `"format":"ocsf"`) || strings.Contains(rec.Body.String(), "s3cret") {
		t.Errorf("put: %d %s", rec.Code, rec.Body)
	}
	if rec := w.ask(t, "PUT", "/api/exports/soc", body); rec.Code != 200 {
		t.Errorf("put again: %d %s", rec.Code, rec.Body)
	}
	if rec := w.ask(t, "GET", "/api/exports/soc", ""); rec.Code != 200 || !strings.Contains(rec.Body.String(), `"waiting":{"alerts":3,`) || strings.Contains(rec.Body.String(), "s3cret") {
		t.Errorf("one: %d %s", rec.Code, rec.Body)
	}
	if rec := w.ask(t, "POST", "/api/exports/soc/test", ""); rec.Code != 200 || w.exports.tested != "soc" {
		t.Errorf("test: %d %s", rec.Code, rec.Body)
	}
	w.exports.broken = fault.New(fault.Unavailable, "the test was not taken: connection refused")
	if rec := w.ask(t, "POST", "/api/exports/soc/test", ""); rec.Code != 503 || !strings.Contains(rec.Body.String(), "connection refused") {
		t.Errorf("a test that fails: %d %s", rec.Code, rec.Body)
	}
	refused(t, w.ask(t, "PUT", "/api/exports/soc", `{"kind":"webhook"}`), 400, "InvalidArgument")
	refused(t, w.ask(t, "PUT", "/api/exports/soc", `{"name":"x","kind":"files"}`), 400, "InvalidArgument")
	refused(t, w.ask(t, "PUT", "/api/exports/soc", `[]`), 400, "MalformedRequest")
	refused(t, w.ask(t, "GET", "/api/exports/x", ""), 404, "NotFound")
	refused(t, w.ask(t, "DELETE", "/api/exports/x", ""), 404, "NotFound")
	refused(t, w.ask(t, "POST", "/api/exports/x/test", ""), 404, "NotFound")
	if rec := w.ask(t, "DELETE", "/api/exports/soc", ""); rec.Code != 204 {
		t.Errorf("delete: %d %s", rec.Code, rec.Body)
	}
	if log := w.logged.String(); !strings.Contains(log, `what="PUT /api/exports/{name}" target=exports/soc outcome=done status=201 kind=webhook format=ocsf to=soc.example`) ||
		!strings.Contains(log, `what="POST /api/exports/{name}/test"`) || strings.Contains(log, "s3cret") || strings.Contains(log, "in/path") {
		t.Errorf("the audit is %s", log)
	}
}

func TestTables(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for table, rows := range map[string]int{"SecurityAlert": 1, "SecurityIoTRawEvent": 2, "SecurityRecommendation": 1} {
		w.tables.n = 0
		if rec := w.ask(t, "GET", "/api/tables/"+table+"?format=array", ""); rec.Code != 200 || strings.TrimSpace(rec.Body.String()) != "[]" || rec.Header().Get("Link") != "" {
			t.Errorf("%s, empty: %d %s", table, rec.Code, rec.Body)
		}
		w.tables.n = 230
		seen, pages := 0, 0
		for target := "/api/tables/" + table + "?limit=100"; target != ""; pages++ {
			rec := w.ask(t, "GET", target, "")
			if rec.Code != 200 || rec.Header().Get("Content-Type") != "application/x-ndjson" {
				t.Fatalf("%s: %d %s", target, rec.Code, rec.Body)
			}
			for line := range strings.Lines(rec.Body.String()) {
				var row struct{ Type string }
				if err := json.Unmarshal([]byte(line), &row); err != nil || row.Type != table {
					t.Fatalf("%s: %v: %s", target, err, line)
				}
				if id := fmt.Sprintf(`"a%d"`, seen/rows+1); !strings.Contains(line, id) {
					t.Fatalf("%s: row %d is %s", target, seen, line)
				}
				seen++
			}
			target = next(t, rec)
		}
		if seen != 230*rows || pages != 3 {
			t.Errorf("%s: %d rows on %d pages", table, seen, pages)
		}
		var array []map[string]any
		w.decode(t, 200, "GET", "/api/tables/"+table+"?format=array&product=azure", "", &array)
		if len(array) != 230*rows || table == "SecurityAlert" && array[0]["ProductName"] != "Azure Security Center for IoT" {
			t.Errorf("%s as an array: %d rows, first %v", table, len(array), array[0])
		}
	}
	w.ask(t, "GET", "/api/tables/SecurityAlert?from=2026-01-01T00:00:00Z&to=2026-01-02T01:00:00%2B01:00", "")
	if w.tables.to.Sub(w.tables.from) != 24*time.Hour {
		t.Errorf("asked %v to %v", w.tables.from, w.tables.to)
	}
	if rec := w.ask(t, "GET", "/api/tables/SecurityRecommendation?from=2026-01-02T12:00:03Z&to=2026-01-02T12:00:05Z", ""); strings.Count(rec.Body.String(), "\n") != 2 {
		t.Errorf("recommendations of a time: %s", rec.Body)
	}
	for _, q := range []string{"from=yesterday", "to=1", "format=csv", "product=x", "limit=0", "limit=1001", "after=x"} {
		refused(t, w.ask(t, "GET", "/api/tables/SecurityAlert?"+q, ""), 400, "InvalidArgument")
	}
	refused(t, w.ask(t, "GET", "/api/tables/SecurityIoTRawEvent?after=x", ""), 400, "InvalidArgument")
	refused(t, w.ask(t, "GET", "/api/tables/Heartbeat", ""), 404, "NotFound")
}

// next is the target of the header Link.
func next(t *testing.T, rec *httptest.ResponseRecorder) string {
	t.Helper()
	link := rec.Header().Get("Link")
	if link == "" {
		return ""
	}
	target, rel, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	u, err := url.Parse(target)
	if !ok || err != nil || rel != `; rel="next"` || !slices.Contains(u.Query()["limit"], "100") {
		t.Fatalf("Link: %s (%v)", link, err)
	}
	return target
}

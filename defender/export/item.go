package export

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/ocsf"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/defender/table"
	"github.com/vauban-iot/vauban/wire/cef"
	"github.com/vauban-iot/vauban/wire/syslog"
)

// item is one thing to be sent, in the words of its export's format.
type item struct {
	table    table.Name // of its sort, in any format
	id       string     // what a syslog server tells kinds of messages apart by
	severity alert.Severity
	at       time.Time
	text     []byte
}

// unit is all that is sent of one place: what becomes of it becomes of it as a whole.
type unit struct {
	items []item
	at    time.Time
	move  func(*State) // behind it
}

// writer makes items.
type writer struct {
	format Format
	rows   table.Maker
	events ocsf.Maker
	short  bool // for syslog
}

func newWriter(c *Config, host, version string) *writer {
	return &writer{
		format: c.Format, short: c.Kind == Syslog,
		rows: table.Maker{Host: host, Product: c.Product}, events: ocsf.Maker{Host: host, Version: version},
	}
}

func (w *writer) ocsf(e ocsf.Event) []byte {
	if w.short {
		return e.Text(syslog.MaxText)
	}
	return table.Marshal(e)
}

// alert is what is told of an alert that changed since after: that it was made, that it is closed or, when neither, that it is another.
func (w *writer) alert(c *alert.Change, after alert.Place) []item {
	var all []item
	add := func(a ocsf.Activity) {
		it := item{table: table.Alerts, id: "alert-" + strings.ToLower(activityName(a)), severity: c.Severity, at: c.At}
		switch w.format {
		case OCSF:
			it.text = w.ocsf(w.events.Alert(c, a))
		case CEF:
			it.text = cef.Append(nil, w.cefAlert(c, a))
		default:
			it.text = table.Marshal(w.rows.Alert(c))
		}
		all = append(all, it)
	}
	created := c.Born.After(after)
	switch {
	case w.format == Table: // a row is how the alert stands
		add(ocsf.Update)
	case created && c.Closed():
		add(ocsf.Create)
		add(ocsf.Close)
	case created:
		add(ocsf.Create)
	case c.Closed():
		add(ocsf.Close)
	default:
		add(ocsf.Update)
	}
	return all
}

func activityName(a ocsf.Activity) string {
	return map[ocsf.Activity]string{ocsf.Create: "Create", ocsf.Update: "Update", ocsf.Close: "Close"}[a]
}

func (w *writer) recommendation(r *posture.Recommendation) []item {
	it := item{table: table.Recommendations, id: "recommendation-" + strings.ToLower(string(r.State)), severity: r.Severity, at: r.StatusChanged}
	switch w.format {
	case OCSF:
		it.text = w.ocsf(w.events.Recommendation(r))
	case CEF:
		it.text = cef.Append(nil, w.cefRecommendation(r))
	default:
		it.text = table.Marshal(w.rows.Recommendation(r))
	}
	return []item{it}
}

func (w *writer) event(e *record.Event) []item {
	one := func(text []byte) item {
		return item{table: table.RawEvents, id: "event", severity: alert.Informational, at: e.Enqueued, text: text}
	}
	var all []item
	switch w.format {
	case OCSF:
		for _, o := range w.events.Events(e) {
			all = append(all, one(w.ocsf(o)))
		}
	case CEF:
		for i := range max(1, len(e.Details)) {
			all = append(all, one(cef.Append(nil, w.cefEvent(e, i))))
		}
	default:
		for _, r := range w.rows.Events(e) {
			all = append(all, one(table.Marshal(r)))
		}
	}
	return all
}

// cefSeverities are those of CEF: 0 to 3 low, 4 to 6 medium, 7 and 8 high.
var cefSeverities = map[alert.Severity]int{alert.High: 8, alert.Medium: 5, alert.Low: 3, alert.Informational: 1}

func (w *writer) cef(class, name string, s alert.Severity) *cef.Event {
	return &cef.Event{Vendor: "Vauban", Product: "Vauban Defender", Version: w.events.Version, Class: class, Name: name, Severity: cefSeverities[s]}
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return strconv.FormatInt(t.UnixMilli(), 10)
}

// about are the fields that say of whom an event tells.
func (w *writer) about(device, module string) []cef.Field {
	return []cef.Field{{Key: "dvchost", Value: w.rows.Host}, {Key: "deviceExternalId", Value: device}, {Key: "cs5Label", Value: label(module, "Module")}, {Key: "cs5", Value: module}}
}

// label is a label of a field that is not empty.
func label(value, text string) string {
	if value == "" {
		return ""
	}
	return text
}

// address is a value for a field that takes nothing but addresses.
func address(s string) string {
	if _, err := netip.ParseAddr(s); err != nil {
		return ""
	}
	return s
}

func portOf(s string) string {
	if s == "0" {
		return ""
	}
	return s
}

// traffic are the fields of a connection and of who did it.
func traffic(f *table.Facts) []cef.Field {
	src, spt, dst, dpt := f.LocalAddress, f.LocalPort, f.RemoteAddress, f.RemotePort
	direction := ""
	switch {
	case f.Direction == "In", f.User != "" && f.RemoteAddress != "":
		src, spt, dst, dpt = dst, dpt, src, spt
		direction = "0"
	case f.Direction == "Out":
		direction = "1"
	}
	fields := []cef.Field{
		{Key: "src", Value: address(src)}, {Key: "spt", Value: portOf(spt)}, {Key: "dst", Value: address(dst)}, {Key: "dpt", Value: portOf(dpt)},
		{Key: "proto", Value: f.Protocol}, {Key: "deviceDirection", Value: direction}, {Key: "duser", Value: f.User}, {Key: "dproc", Value: f.Process},
	}
	if address(src) == "" {
		fields = append(fields, cef.Field{Key: "shost", Value: src})
	}
	if address(dst) == "" {
		fields = append(fields, cef.Field{Key: "dhost", Value: dst})
	}
	return fields
}

func (w *writer) cefAlert(c *alert.Change, a ocsf.Activity) *cef.Event {
	e := w.cef(c.Type, c.Title, c.Severity)
	f := table.Facts{RemoteAddress: c.Remote, LocalAddress: c.Local, Protocol: c.Protocol, Direction: c.Direction}
	if len(c.Evidence) > 0 {
		f = table.FactsOf(&c.Evidence[0])
	}
	tactics, techniques := alert.Label(c.Tactics), alert.Label(c.Techniques)
	e.Extension = append([]cef.Field{
		{Key: "rt", Value: stamp(c.At)}, {Key: "start", Value: stamp(c.FirstSeen)}, {Key: "end", Value: stamp(c.LastSeen)}, {Key: "cnt", Value: strconv.Itoa(c.Count)},
		{Key: "externalId", Value: c.ID}, {Key: "cat", Value: "alert"}, {Key: "act", Value: strings.ToLower(activityName(a))}, {Key: "outcome", Value: string(c.Status)},
		{Key: "cs1Label", Value: label(tactics, "ATT&CK tactics")}, {Key: "cs1", Value: tactics},
		{Key: "cs2Label", Value: label(techniques, "ATT&CK techniques")}, {Key: "cs2", Value: techniques},
		{Key: "cs3Label", Value: label(c.Indicator, "Indicator")}, {Key: "cs3", Value: c.Indicator},
		{Key: "cs4Label", Value: label(c.Group, "Security group")}, {Key: "cs4", Value: c.Group},
		{Key: "msg", Value: c.Description},
	}, append(w.about(c.Device, c.Module), traffic(&f)...)...)
	return e
}

func (w *writer) cefRecommendation(r *posture.Recommendation) *cef.Event {
	e := w.cef(r.Type, r.Title, r.Severity)
	act := "create"
	if r.State == posture.Resolved {
		act = "close"
	}
	e.Extension = append([]cef.Field{
		{Key: "rt", Value: stamp(r.StatusChanged)}, {Key: "start", Value: stamp(r.Discovered)}, {Key: "end", Value: stamp(r.Resolved)},
		{Key: "externalId", Value: r.ID}, {Key: "cat", Value: "recommendation"}, {Key: "act", Value: act}, {Key: "outcome", Value: string(r.State)},
		{Key: "cs6Label", Value: label(string(r.Data), "Data")}, {Key: "cs6", Value: string(r.Data)}, {Key: "msg", Value: r.Description},
	}, w.about(r.Device, r.Module)...)
	return e
}

func (w *writer) cefEvent(e *record.Event, i int) *cef.Event {
	out := w.cef(e.Name, e.Name, alert.Informational)
	var f table.Facts
	details := ""
	if i < len(e.Details) {
		ev := e.Evidence(i)
		f, details = table.FactsOf(&ev), string(e.Details[i])
	}
	out.Extension = append([]cef.Field{
		{Key: "rt", Value: stamp(e.Enqueued)}, {Key: "externalId", Value: fmt.Sprintf("%s/%d", e.Place, i)}, {Key: "cat", Value: "event"},
		{Key: "cs6Label", Value: label(details, "Details")}, {Key: "cs6", Value: details}, {Key: "msg", Value: e.Problem},
	}, append(w.about(e.Device, e.Module), traffic(&f)...)...)
	return out
}

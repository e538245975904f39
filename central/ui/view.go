package ui

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/bag"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// moment is a time on a page: exact for programs, in UTC for people; the script shows it in
// their own zone.
type moment struct{ ISO, Text string }

func newMoment(t time.Time) moment {
	if t.IsZero() {
		return moment{}
	}
	t = t.UTC()
	return moment{ISO: t.Format("2006-01-02T15:04:05.000Z"), Text: t.Format("2006-01-02 15:04:05 UTC")}
}

// deviceView is a device as lists and its own page show it.
type deviceView struct {
	ID        string
	Connected bool
	Disabled  bool
	Reason    string // why it is disabled
	Auth      string
	Edge      bool
	Activity  moment
	Since     moment // of the connection, or of its loss
	Pending   int    // cloud-to-device messages that wait
}

var authNames = map[registry.AuthType]string{
	registry.SAS:                  "Symmetric key",
	registry.SelfSigned:           "X.509 thumbprint",
	registry.CertificateAuthority: "X.509, signed by a CA",
	registry.None:                 "None",
}

func newDeviceView(d registry.Identity) deviceView {
	v := deviceView{
		ID: d.ID.Device, Connected: d.Connected, Disabled: d.Status == registry.Disabled, Auth: authNames[d.Authentication.Type],
		Edge: d.Edge, Activity: newMoment(d.LastActivity), Since: newMoment(d.ConnectionTime), Pending: d.Pending,
	}
	if v.Disabled {
		v.Reason = d.StatusReason
	}
	if v.Auth == "" {
		v.Auth = string(d.Authentication.Type)
	}
	return v
}

// alertView is an alert as lists show it.
type alertView struct {
	ID                           string
	Status                       string // empty: open
	Severity, Title, Description string
	High                         bool
	Device, Module               string
	Indicator, Source            string
	Local, Remote                string
	Traffic                      string // protocol and direction
	Flows                        string
	First, Last                  moment
	Link                         bool // the device's name leads to its page
}

func newAlertView(a alert.Alert, link bool) alertView {
	v := alertView{
		ID: a.ID, Status: statusNames[a.Status],
		Severity: string(a.Severity), Title: a.Title, Description: a.Description, High: a.Severity == alert.High && statusNames[a.Status] == "",
		Device: a.Device, Module: a.Module, Indicator: a.Indicator, Source: a.Source, Local: a.Local, Remote: a.Remote,
		Traffic: a.Protocol, Flows: plural(a.Count, seenWord(a)), First: newMoment(a.FirstSeen), Last: newMoment(a.LastSeen), Link: link,
	}
	switch a.Direction {
	case "In":
		v.Traffic += ", incoming"
	case "Out":
		v.Traffic += ", outgoing"
	}
	return v
}

// statusNames are those of alerts that need nobody.
var statusNames = map[alert.Status]string{alert.Dismissed: "Dismissed", alert.Resolved: "Resolved", alert.Suppressed: "Suppressed"}

func alertRows(list []alert.Alert, link bool) []part {
	rows := make([]part, len(list))
	for i, a := range list {
		rows[i] = newPart(strconv.FormatUint(a.Sequence, 10), newAlertView(a, link))
	}
	return rows
}

// seenWord is what an alert counts.
func seenWord(a alert.Alert) string {
	if a.Type == alert.TiConnection {
		return "flow"
	}
	return "time"
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return strconv.Itoa(n) + " " + word + "s"
}

// property is a name with a value, or a name alone.
type property struct {
	Name, Value string
	Bare        bool
}

// messageView is a message as a device's page shows it.
type messageView struct {
	At         moment
	Module     string
	Security   bool
	Properties []property
	System     []property
	Body       string
	Kind       string // what Body is written in: JSON, Text, Bytes; of a security message, its encoding
	Size       string
	Cut        bool // Body is not all of it
}

// Limits of what a page shows of a message; vauban monitor shows all.
const (
	maxBodyShown       = 4 << 10
	maxBytesShown      = 128
	maxPropertiesShown = 64
)

func newMessageView(m *iot.Message) messageView {
	v := messageView{
		At: newMoment(m.Enqueued), Module: m.From.Module, Security: m.IsSecurity(),
		Properties: newProperties(m.Properties), System: newProperties(m.System), Size: plural(len(m.Body), "byte"),
	}
	switch report, ok := securityReport(m); {
	case len(m.Body) == 0:
		v.Kind = "Empty"
	case ok:
		v.Kind = encodingNames[report.Encoding]
		v.Body, v.Cut = describe(report)
	case utf8.Valid(m.Body) && json.Valid(m.Body):
		v.Kind = "JSON"
		v.Body, v.Cut = cut(pretty(m.Body))
	case isText(m.Body):
		v.Kind = "Text"
		v.Body, v.Cut = cut(string(m.Body))
	default:
		v.Kind = "Bytes"
		v.Body = hex.Dump(m.Body[:min(len(m.Body), maxBytesShown)])
		v.Cut = len(m.Body) > maxBytesShown
	}
	return v
}

var encodingNames = map[string]string{secmsg.FlatBuffers: "FlatBuffers", secmsg.JSON: "JSON 1.0"}

// securityReport reads what a security agent says.
func securityReport(m *iot.Message) (secmsg.Report, bool) {
	if !m.IsSecurity() {
		return secmsg.Report{}, false
	}
	mti := ""
	for i := range m.Properties {
		if m.Properties[i].Name == "mti" {
			mti = m.Properties[i].Value
		}
	}
	r, err := secmsg.Decode(mti, m.Body)
	return r, err == nil
}

// maxLines bounds what is told of one security message.
const maxLines = 24

// describe tells a security message in a few lines: its events, and the traffic they saw.
func describe(r secmsg.Report) (text string, cut bool) {
	lines := []string{strings.TrimSpace(r.Agent + " " + r.AgentVersion)}
	for i := range r.Events {
		e := &r.Events[i]
		lines = append(lines, e.Name)
		for j := range e.Flows {
			f := &e.Flows[j]
			if len(lines) == maxLines {
				return strings.Join(lines, "\n"), true
			}
			lines = append(lines, fmt.Sprintf("  %s %s \u2194 %s, %d bytes in, %d out", f.Protocol, endpoint(f.Local), endpoint(f.Remote), f.BytesIn, f.BytesOut))
		}
		if len(lines) >= maxLines {
			return strings.Join(lines, "\n"), i < len(r.Events)-1
		}
	}
	return strings.Join(lines, "\n"), false
}

func endpoint(a netip.AddrPort) string {
	switch {
	case !a.IsValid():
		return "?"
	case a.Port() == 0: // ICMP
		return a.Addr().String()
	default:
		return a.String()
	}
}

func newProperties(ps []bag.Property) []property {
	list := make([]property, 0, min(len(ps), maxPropertiesShown))
	for i := range ps[:min(len(ps), maxPropertiesShown)] {
		list = append(list, property{ps[i].Name, ps[i].Value, ps[i].Null})
	}
	return list
}

// Limits of JSON that is indented: a deeply nested text grows with the square of its length.
const (
	maxPretty = 16 << 10
	maxDepth  = 32
)

// pretty indents JSON, or leaves it as it came when that is too much.
func pretty(text []byte) string {
	if len(text) > maxPretty || depth(text) > maxDepth {
		return string(text)
	}
	return indent(text)
}

func indent(text []byte) string {
	var b bytes.Buffer
	if json.Indent(&b, text, "", "  ") != nil {
		return string(text)
	}
	return b.String()
}

// depth is at most too great: brackets in strings count.
func depth(text []byte) (deepest int) {
	now := 0
	for _, c := range text {
		switch c {
		case '{', '[':
			now++
			deepest = max(deepest, now)
		case '}', ']':
			now--
		}
	}
	return deepest
}

// cut shortens text at the border of a character.
func cut(text string) (string, bool) {
	if len(text) <= maxBodyShown {
		return text, false
	}
	n := maxBodyShown
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n], true
}

func isText(b []byte) bool {
	if !utf8.Valid(b) {
		return false
	}
	for _, r := range string(b) {
		if unicode.IsControl(r) && r != '\n' && r != '\r' && r != '\t' {
			return false
		}
	}
	return true
}

// twinView is one section of a twin.
type twinView struct {
	Text    string // empty: the section is
	Version string
}

func newTwinView(section json.RawMessage, version int64) twinView {
	v := twinView{Version: strconv.FormatInt(version, 10)}
	if len(section) > len("{}") {
		v.Text = indent(section) // the hub keeps sections shallow and short (hub-service §3.6)
	}
	return v
}

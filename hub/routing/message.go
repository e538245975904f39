package routing

import (
	"encoding/json"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"encoding/binary"

	"github.com/vauban-iot/vauban/hub/query"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/bag"
)

// document is a message as conditions see it (hub-service §7.2).
type document struct {
	m    *iot.Message
	twin func() (twin.Twin, bool) // of the sender; false when there is none
	body *query.Value             // parsed on first use
}

// systemNames are the names of conditions and how the log calls them.
var systemNames = map[string]string{
	"$contenttype": "content-type", "$contentencoding": "content-encoding", "$messageid": "message-id", "$userid": "user-id",
	"$correlationid": "correlation-id", "$dt-subject": "dt-subject",
}

// Find implements query.Document.
func (d *document) Find(p query.Path) query.Value {
	if len(p) == 0 {
		return query.Value{}
	}
	name := strings.ToLower(p[0].Name)
	switch name {
	case "$body":
		return d.json().Find(p[1:])
	case "$twin":
		return d.find(p[1:])
	}
	if len(p) > 1 {
		return query.Value{} // properties are texts
	}
	if strings.HasPrefix(name, "$") {
		if v, ok := d.system(name); ok {
			return v
		}
		name = name[1:]
	}
	i := slices.IndexFunc(d.m.Properties, func(b bag.Property) bool { return strings.EqualFold(b.Name, name) })
	if i < 0 {
		i = slices.IndexFunc(d.m.Properties, func(b bag.Property) bool { return strings.EqualFold(b.Name, p[0].Name) })
	}
	switch {
	case i < 0:
		return query.Value{}
	case d.m.Properties[i].Null:
		return query.JSON("null")
	}
	return query.Text(d.m.Properties[i].Value)
}

func (d *document) system(name string) (query.Value, bool) {
	text := func(s string) (query.Value, bool) {
		if s == "" {
			return query.Value{}, true
		}
		return query.Text(s), true
	}
	switch name {
	case "$connectiondeviceid":
		return text(d.m.From.Device)
	case "$connectionmoduleid":
		return text(d.m.From.Module)
	case "$connectiondevicegenerationid":
		return text(d.m.Generation)
	case "$connectionauthmethod":
		return text(d.m.AuthMethod)
	case "$enqueuedtime":
		return text(iot.FormatTime(d.m.Enqueued))
	case "$dt-dataschema":
		return text(d.m.ModelID)
	case "$iothub-message-source":
		return text(string(d.m.Source))
	}
	known, ok := systemNames[name]
	if !ok {
		return query.Value{}, false
	}
	return text(d.m.SystemProperty(known))
}

// find reads $twin.tags..., $twin.properties.desired... and $twin.properties.reported...
func (d *document) find(p query.Path) query.Value {
	if len(p) == 0 {
		return query.Value{}
	}
	t, ok := d.twin()
	if !ok {
		return query.Value{}
	}
	section := func(tree json.RawMessage, version int64, rest query.Path) query.Value {
		if len(rest) == 1 && rest[0].Name == "$version" {
			return query.Int(version)
		}
		return query.JSON(string(tree)).Find(rest)
	}
	switch {
	case p[0].Name == "tags":
		return query.JSON(string(t.Tags)).Find(p[1:])
	case p[0].Name == "properties" && len(p) > 1 && p[1].Name == "desired":
		return section(t.Desired, t.DesiredVersion, p[2:])
	case p[0].Name == "properties" && len(p) > 1 && p[1].Name == "reported":
		return section(t.Reported, t.ReportedVersion, p[2:])
	}
	return query.Value{}
}

// json is the body as JSON: only when the content type says so and the encoding is one of Unicode's (hub-service §7.2).
func (d *document) json() query.Value {
	if d.body == nil {
		v := query.Value{}
		if text, ok := JSONBody(d.m); ok {
			v = query.JSON(string(text))
		}
		d.body = &v
	}
	return *d.body
}

// JSONBody returns the body as JSON text in UTF-8, when the message says that it is JSON and it is.
func JSONBody(m *iot.Message) (json.RawMessage, bool) {
	kind, _, _ := strings.Cut(m.SystemProperty("content-type"), ";")
	kind = strings.TrimSpace(kind)
	if !strings.EqualFold(kind, "application/json") && !(m.Source == iot.DigitalTwinChange && kind == "application/json-patch+json") {
		return nil, false
	}
	text, ok := unicode(m.Body, m.SystemProperty("content-encoding"))
	if !ok || !json.Valid(text) {
		return nil, false
	}
	return text, true
}

func unicode(b []byte, encoding string) ([]byte, bool) {
	switch strings.ToLower(encoding) {
	case "utf-8":
		return b, utf8.Valid(b)
	case "utf-16":
		if len(b)%2 != 0 {
			return nil, false
		}
		order := binary.ByteOrder(binary.LittleEndian)
		if len(b) >= 2 && b[0] == 0xfe && b[1] == 0xff {
			order = binary.BigEndian
		}
		units := make([]uint16, 0, len(b)/2)
		for i := 0; i < len(b); i += 2 {
			units = append(units, order.Uint16(b[i:]))
		}
		if len(units) > 0 && units[0] == 0xfeff {
			units = units[1:]
		}
		return []byte(string(utf16.Decode(units))), true
	case "utf-32":
		if len(b)%4 != 0 {
			return nil, false
		}
		order := binary.ByteOrder(binary.LittleEndian)
		if len(b) >= 4 && b[2] == 0xfe && b[3] == 0xff && b[0] == 0 {
			order = binary.BigEndian
		}
		var out []byte
		for i := 0; i < len(b); i += 4 {
			r := rune(order.Uint32(b[i:]))
			if i == 0 && r == 0xfeff {
				continue
			}
			out = utf8.AppendRune(out, r)
		}
		return out, true
	}
	return nil, false
}

// enriched is m with the properties that go to an endpoint. A property of the same name is replaced (hub-service §7.3).
// Digital twin changes stay as they are.
func (t *Table) enriched(d *document, endpoint string) *iot.Message {
	m := d.m
	if m.Source == iot.DigitalTwinChange {
		return m
	}
	copied := false
	for i, e := range t.Enrichments {
		if !slices.Contains(e.Endpoints, endpoint) {
			continue
		}
		value := e.Value
		switch path := t.enrichments[i]; {
		case path != nil:
			switch v := d.Find(path); v.Kind {
			case query.Undefined:
				// The text itself, as Azure stamps it.
			case query.String:
				value, _ = v.Str()
			default:
				value = string(v.AppendJSON(nil))
			}
		case strings.EqualFold(value, "$iothubname"):
			value, _, _ = strings.Cut(t.hub, ".")
		}
		if !copied {
			c := *m
			c.Properties = slices.Clone(m.Properties)
			m, copied = &c, true
		}
		m.Properties = slices.DeleteFunc(m.Properties, func(p bag.Property) bool { return p.Name == e.Key })
		m.Properties = append(m.Properties, bag.Property{Name: e.Key, Value: value})
	}
	return m
}

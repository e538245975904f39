package https

import (
	"encoding/base64"
	"encoding/json"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/bag"
)

// systemNames are the headers of hub-device §3.3 in lower case beside the canonical names of wire/topic.
var systemNames = map[string]string{
	"iothub-messageid":       "message-id",
	"iothub-correlationid":   "correlation-id",
	"iothub-userid":          "user-id",
	"iothub-to":              "to",
	"iothub-expiry":          "absolute-expiry-time",
	"iothub-contenttype":     "content-type",
	"iothub-contentencoding": "content-encoding",
	"iothub-creationtimeutc": "iothub-creation-time-utc",
	"iothub-messageschema":   "iothub-message-schema",
	"iothub-interface-id":    "iothub-interface-id",
	"iothub-outputname":      "iothub-outputname",
	"dt-subject":             "dt-subject",
}

const (
	appPrefix = "iothub-app-"
	batchType = "application/vnd.microsoft.iothub.json"
)

// put adds one property, named as in a header; what means nothing to us is left out.
func put(m *iot.Message, name, value string) error {
	lower := strings.ToLower(name)
	system, ok := systemNames[lower]
	var p bag.Property
	switch {
	case ok:
		p = bag.Property{Name: system, Value: value}
	case lower == "iothub-ack": // as it arrives over MQTT
		p = bag.Property{Name: lower, Value: value}
	case strings.HasPrefix(lower, appPrefix) && len(name) > len(appPrefix):
		p = bag.Property{Name: name[len(appPrefix):], Value: value}
	default:
		return nil
	}
	if !utf8.ValidString(p.Name) || !utf8.ValidString(p.Value) {
		return fault.New(fault.Invalid, "property %q is not valid UTF-8", p.Name)
	}
	if len(m.System)+len(m.Properties) >= bag.MaxProperties {
		return fault.New(fault.Invalid, "the message has more than %d properties", bag.MaxProperties)
	}
	switch {
	case ok:
		m.System = append(m.System, p)
	case !stamped(p.Name):
		m.Properties = append(m.Properties, p)
	}
	return nil
}

// stamped are names only the hub may set; a device's are dropped (hub-device §3.3).
func stamped(name string) bool {
	switch strings.ToLower(name) {
	case "iothub-connection-device-id", "iothub-connection-module-id", "iothub-connection-auth-generation-id",
		"iothub-connection-auth-method", "iothub-enqueuedtime", "iothub-message-source", "dt-dataschema":
		return true
	}
	return false
}

// size is what the 256 KB limit counts (hub-device §7).
func size(m *iot.Message) int {
	n := len(m.Body)
	for _, p := range m.System {
		n += len(p.Value)
	}
	for _, p := range m.Properties {
		n += len(p.Name) + len(p.Value)
	}
	return n
}

func (h *Head) telemetry(q *request) error {
	ms := make([]iot.Message, 1)
	var err error
	if kind, _, _ := mime.ParseMediaType(q.Header.Get("Content-Type")); kind == batchType {
		ms, err = parseBatch(q.body)
	} else {
		ms[0], err = parseMessage(q.Header, q.body)
	}
	if err != nil {
		return err
	}
	total := 0
	for i := range ms {
		total += size(&ms[i])
	}
	if total > maxMessage {
		return fault.New(fault.TooLarge, "the message has %d bytes with its properties, %d are allowed", total, maxMessage)
	}
	if err := q.visit.Telemetry(q.Context(), ms); err != nil {
		return err
	}
	q.w.WriteHeader(http.StatusNoContent)
	return nil
}

func parseMessage(header http.Header, body []byte) (iot.Message, error) {
	m := iot.Message{Body: body}
	for name, values := range header {
		if err := put(&m, strings.ToLower(name), values[0]); err != nil {
			return iot.Message{}, err
		}
	}
	// The order of a map is nobody's order.
	byName := func(a, b bag.Property) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(m.System, byName)
	slices.SortFunc(m.Properties, byName)
	return m, nil
}

// maxBatch bounds the messages of one batch: each takes at least the 11 bytes of {"body":""}, and
// more objects than this are no device's.
const maxBatch = 5000

// text is a value of a property: Java writes numbers and booleans without quotes.
type text string

// UnmarshalJSON implements json.Unmarshaler.
func (t *text) UnmarshalJSON(b []byte) error {
	switch b[0] {
	case '"':
		var s string
		err := json.Unmarshal(b, &s)
		*t = text(s)
		return err
	case '{', '[':
		return fault.New(fault.Invalid, "a property is no text")
	case 'n':
		*t = ""
	default:
		*t = text(b)
	}
	return nil
}

type batchMessage struct {
	Body       *string         `json:"body"`
	Encoded    *bool           `json:"base64Encoded"` // absent: true (hub-device §4.2)
	Properties map[string]text `json:"properties"`
}

func parseBatch(body []byte) ([]iot.Message, error) {
	var in []batchMessage
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, fault.Wrap(fault.Malformed, err, "the body is no batch of messages")
	}
	switch {
	case len(in) == 0:
		return nil, fault.New(fault.Invalid, "the batch is empty")
	case len(in) > maxBatch:
		return nil, fault.New(fault.TooLarge, "the batch has %d messages, %d are allowed", len(in), maxBatch)
	}
	ms := make([]iot.Message, len(in))
	for i, b := range in {
		m := &ms[i]
		switch {
		case b.Body == nil:
			return nil, fault.New(fault.Invalid, "message %d of the batch has no body", i)
		case b.Encoded != nil && !*b.Encoded:
			m.Body = []byte(*b.Body)
		default:
			var err error
			if m.Body, err = base64.StdEncoding.DecodeString(*b.Body); err != nil {
				return nil, fault.Wrap(fault.Invalid, err, "the body of message %d of the batch is not base64", i)
			}
		}
		names := make([]string, 0, len(b.Properties))
		for name := range b.Properties {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			if err := put(m, name, string(b.Properties[name])); err != nil {
				return nil, err
			}
		}
	}
	return ms, nil
}

// writeMail answers with a cloud-to-device message. Clients compare the names of headers letter by
// letter, so they go into the map as they are (hub-device §4.1).
func writeMail(w http.ResponseWriter, m iot.Mail) {
	h := w.Header()
	set := func(name, value string) {
		if value != "" {
			h[name] = []string{value}
		}
	}
	set("ETag", `"`+m.LockToken+`"`)
	set("iothub-messageid", m.MessageID)
	set("iothub-to", "/devices/"+m.To.Device+"/messages/devicebound")
	if !m.Expires.IsZero() {
		set("iothub-expiry", iot.FormatTime(m.Expires))
	}
	set("iothub-ack", m.Ack)
	set("iothub-sequencenumber", strconv.FormatUint(m.Sequence, 10))
	set("iothub-enqueuedtime", iot.FormatTime(m.Enqueued))
	set("iothub-deliverycount", strconv.Itoa(min(m.DeliveryCount, 255))) // .NET reads a byte
	for _, p := range m.System {
		switch p.Name {
		case "correlation-id":
			set("iothub-correlationid", p.Value)
		case "user-id":
			set("iothub-userid", p.Value)
		case "content-type":
			set("ContentType", p.Value)
			set("iothub-contenttype", p.Value)
		case "content-encoding":
			set("ContentEncoding", p.Value)
			set("iothub-contentencoding", p.Value)
		case "iothub-creation-time-utc":
			set("iothub-creationtimeutc", p.Value)
		case "iothub-message-schema":
			set("iothub-messageschema", p.Value)
		}
	}
	for _, p := range m.Properties {
		h[appPrefix+p.Name] = []string{p.Value}
	}
	h["Content-Type"] = []string{"application/octet-stream"}
	h["Content-Length"] = []string{strconv.Itoa(len(m.Body))}
	w.WriteHeader(http.StatusOK)
	w.Write(m.Body) // a peer that left is no error of ours: the lock lapses
}

package secmsg

import (
	"bytes"
	"encoding/json"
	"slices"
)

// IndicatorJSON is the mti of what AppendJSON writes: schema 3.0, JSON, of Linux, raw events (defender §1.4).
const IndicatorJSON = "3.0-0-1-0"

// AppendJSON appends r as the Linux agent sends it (docs/agent-wire.md); its mti is IndicatorJSON. What comes of JSON 1.0 (Raw) and
// events that schema 3.0 does not know are left out. Times are kept to the second; a text that is not UTF-8 loses what is not.
// Nothing is cut: that the message stays below MaxSize is up to the caller.
func AppendJSON(dst []byte, r Report) []byte {
	dst = appendValue(append(dst, `{"security_module_id":`...), r.Agent)
	dst = appendValue(append(dst, `,"security_module_version":`...), r.AgentVersion)
	dst = append(dst, `,"events":[`...)
	first := true
	for i := range r.Events {
		e := &r.Events[i]
		if !knownEvent(e.Name) || slices.ContainsFunc(e.Payload, func(it Item) bool { _, raw := it.(Raw); return raw }) {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = e.appendJSON(dst)
	}
	return append(dst, `]}`...)
}

func (e *Event) appendJSON(dst []byte) []byte {
	var seconds int64
	if !e.Time.IsZero() {
		seconds = e.Time.Unix()
	}
	rows, _ := e.Details()
	return appendValue(dst, struct {
		ID       string            `json:"id,omitempty"`
		Time     uint32            `json:"time"`
		Interval uint32            `json:"collection_interval,omitempty"`
		Type     string            `json:"payload_type"`
		Payload  []json.RawMessage `json:"payload,omitempty"`
	}{e.ID, clamp32(seconds), clamp32(int64(e.Interval.Seconds())), e.Name, rows})
}

// appendValue appends v, which is of texts and numbers alone and so always has a form.
func appendValue(dst []byte, v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if enc.Encode(v) != nil {
		return append(dst, "null"...)
	}
	return append(dst, bytes.TrimSuffix(b.Bytes(), []byte("\n"))...)
}

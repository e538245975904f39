package routing

import (
	"bytes"
	"encoding/base64"
	"encoding/json"

	"github.com/vauban-iot/vauban/iot"
)

// recordNames are system properties as records spell them (hub-service §7.5, column Storage).
var recordNames = map[string]string{
	"message-id": "messageId", "user-id": "userId", "content-type": "contentType", "content-encoding": "contentEncoding", "correlation-id": "correlationId",
	"dt-subject": "dt-subject",
}

// SystemProperties are those of a record, by its names for them.
func SystemProperties(m *iot.Message) map[string]string {
	system := map[string]string{"connectionDeviceId": m.From.Device, "enqueuedTime": iot.FormatTime(m.Enqueued)}
	if m.IsEvent() { // nobody proved anything for it
		system["iothub-message-source"] = string(m.Source)
	} else {
		system["connectionAuthMethod"], system["connectionDeviceGenerationId"] = m.AuthMethod, m.Generation
	}
	if m.From.Module != "" {
		system["connectionModuleId"] = m.From.Module
	}
	if m.ModelID != "" {
		system["dt-dataschema"] = m.ModelID
	}
	for _, p := range m.System {
		if name, ok := recordNames[p.Name]; ok {
			system[name] = p.Value
		}
	}
	return system
}

// AppendRecord appends a message as one JSON object, in the form of Azure's storage endpoint (hub-service §7.1): the body
// as JSON when it is JSON in UTF-8, as base64 text otherwise.
func AppendRecord(dst []byte, m *iot.Message) []byte {
	system := SystemProperties(m)
	properties := make(map[string]*string, len(m.Properties))
	for _, p := range m.Properties {
		if p.Null {
			properties[p.Name] = nil
		} else {
			properties[p.Name] = &p.Value
		}
	}
	body, ok := JSONBody(m)
	if ok {
		var compact bytes.Buffer
		ok = json.Compact(&compact, body) == nil // a record is one line
		body = compact.Bytes()
	}
	if !ok {
		body = append(append([]byte{'"'}, base64.StdEncoding.EncodeToString(m.Body)...), '"')
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	// Texts and JSON that was checked always encode.
	_ = enc.Encode(struct {
		Enqueued   string             `json:"EnqueuedTimeUtc"`
		Properties map[string]*string `json:"Properties"`
		System     map[string]string  `json:"SystemProperties"`
		Body       json.RawMessage    `json:"Body"`
	}{iot.FormatTime(m.Enqueued), properties, system, body})
	return append(dst, bytes.TrimSuffix(b.Bytes(), []byte("\n"))...)
}

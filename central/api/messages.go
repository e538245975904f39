package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/bag"
)

// Message is one line of GET /api/messages.
type Message struct {
	Enqueued   string             `json:"enqueuedTime"` // as iot.FormatTime
	Device     string             `json:"deviceId"`
	Module     string             `json:"moduleId,omitempty"`
	Security   bool               `json:"security"`
	Properties map[string]*string `json:"properties"` // null: a name without a value
	System     map[string]*string `json:"systemProperties"`
	// Body is there when the payload is JSON, BodyBase64 when it is anything else.
	Body       json.RawMessage `json:"body,omitempty"`
	BodyBase64 []byte          `json:"bodyBase64,omitempty"`
	Bytes      int             `json:"bodyBytes"`
}

// Dropped is a line that tells of messages this reader was too slow for.
type Dropped struct {
	Dropped int `json:"dropped"`
}

func newMessage(m *iot.Message) Message {
	v := Message{
		Enqueued: iot.FormatTime(m.Enqueued), Device: m.From.Device, Module: m.From.Module, Security: m.IsSecurity(),
		Properties: properties(m.Properties), System: properties(m.System), Bytes: len(m.Body),
	}
	if isJSON(m.Body) {
		v.Body = m.Body
	} else {
		v.BodyBase64 = m.Body
	}
	return v
}

// isJSON looks at the payload itself: many devices send JSON without saying so, and some
// say so without sending it.
func isJSON(body []byte) bool { return utf8.Valid(body) && json.Valid(body) }

func properties(ps []bag.Property) map[string]*string {
	m := make(map[string]*string, len(ps))
	for i := range ps {
		m[ps[i].Name] = &ps[i].Value
		if ps[i].Null {
			m[ps[i].Name] = nil
		}
	}
	return m
}

// Times of a stream.
const (
	heartbeat = 15 * time.Second // an empty line, so that both ends notice a dead connection
	// writeLimit is generous, since a reader may pause its terminal: it loses messages, not the stream.
	writeLimit = 10 * time.Minute
)

func (a *API) messages(w http.ResponseWriter, r *http.Request) error {
	device := r.URL.Query().Get("device")
	if device != "" {
		if err := iot.ValidateID("device", device); err != nil {
			return err
		}
	}
	sub, err := a.cfg.Feed.Subscribe(r.Context(), device)
	if err != nil {
		return err
	}
	defer sub.Close()
	w.Header().Set("Content-Type", "application/x-ndjson; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	defer func() { _ = rc.SetWriteDeadline(time.Time{}) }() // the connection goes on
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	var out bytes.Buffer
	lines := json.NewEncoder(&out)
	lines.SetEscapeHTML(false)
	for {
		// From here on the answer has begun: an error can only end it, and the caller sees that.
		_ = rc.SetWriteDeadline(time.Now().Add(writeLimit)) // not every connection has deadlines
		if _, err := out.WriteTo(w); err != nil {
			return nil
		}
		if err := rc.Flush(); err != nil {
			return nil
		}
		select {
		case <-r.Context().Done():
			return nil
		case <-beat.C:
			out.WriteByte('\n')
		case <-sub.Ready():
			ms, lost := sub.Take()
			if lost > 0 {
				if err := lines.Encode(Dropped{lost}); err != nil {
					a.log.Error("message not shown", "err", err)
				}
			}
			for _, m := range ms {
				if err := lines.Encode(newMessage(m)); err != nil {
					a.log.Error("message not shown", "device", m.From.Device, "err", err)
				}
			}
		}
	}
}

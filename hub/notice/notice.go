// Package notice is what a hub tells the programs that ask it: the feedback about
// cloud-to-device messages and the notices of finished file uploads (hub-service §6.4, §6.5).
// Both wait in queues of the hub's own; all readers of a queue share it.
package notice

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/vauban-iot/vauban/iot"
)

// Queue names a queue.
type Queue string

// The queues.
const (
	Feedback Queue = "feedback"
	Files    Queue = "files"
)

// Limits of a queue. When MaxQueue notices wait, the oldest go.
const (
	Life     = time.Hour   // how long a notice waits for a reader
	Lock     = time.Minute // how long a reader has to settle what it took
	MaxBatch = 64          // feedback records that travel together
	MaxQueue = 100_000
)

// MaxDelivery is how often a notice may be abandoned before it is dropped.
func (q Queue) MaxDelivery() int {
	if q == Files {
		return 100
	}
	return 10
}

// Batch is what a reader took: it is settled as a whole.
type Batch struct {
	LockToken     string
	Notices       []Notice // never empty
	DeliveryCount int      // of the first
}

// Notice is one entry of a queue.
type Notice struct {
	Document json.RawMessage // as it goes over the wire
	Enqueued time.Time
}

// Store keeps the queues. Every write is on disk when the call returns.
type Store interface {
	// LockNotices takes up to n visible, unexpired notices of q, the oldest first, and hides them
	// until `until` under one new lock token. A batch without notices has none.
	LockNotices(ctx context.Context, q Queue, n int, now, until time.Time) (Batch, error)
	// SettleNotices ends the lock of a batch; fault.LockLost when the token is unknown. A notice
	// that is abandoned for the maxDelivery-th time is dropped. A token stays good until the
	// notices are locked again.
	SettleNotices(ctx context.Context, q Queue, lockToken string, how iot.Settlement, maxDelivery int) error
	// ExpireNotices removes what expired, and the oldest of each queue beyond keep. It returns how many.
	ExpireNotices(ctx context.Context, now time.Time, keep int) (int, error)
}

// Outcome is what became of a cloud-to-device message.
type Outcome string

// The outcomes of hub-service §6.4.
const (
	Success          Outcome = "Success"
	Expired          Outcome = "Expired"
	DeliveryExceeded Outcome = "DeliveryCountExceeded"
	Rejected         Outcome = "Rejected"
	Purged           Outcome = "Purged"
)

// Wanted reports whether a sender that asked for ack hears of o.
func (o Outcome) Wanted(ack string) bool {
	switch ack {
	case "full":
		return true
	case "positive":
		return o == Success
	case "negative":
		return o != Success
	}
	return false
}

var descriptions = map[Outcome]string{
	Success:          "Success",
	Expired:          "Message expired before the device settled it",
	DeliveryExceeded: "The device abandoned the message too often",
	Rejected:         "The device rejected the message",
	Purged:           "The device's queue was purged",
}

// Record is the feedback about one message.
type Record struct {
	MessageID  string
	At         time.Time // when the outcome came about
	Outcome    Outcome
	To         iot.ID
	Generation string // of the device
}

// Document is the record as it goes over the wire.
func (r Record) Document() json.RawMessage {
	return marshal(struct {
		ID          string  `json:"originalMessageId"`
		Time        string  `json:"enqueuedTimeUtc"`
		Status      Outcome `json:"statusCode"`
		Description string  `json:"description"`
		Device      string  `json:"deviceId"`
		Generation  string  `json:"deviceGenerationId"`
	}{r.MessageID, iot.FormatTime(r.At), r.Outcome, descriptions[r.Outcome], r.To.Device, r.Generation})
}

// File tells of a finished upload.
type File struct {
	Device   string
	Name     string // {device}/{name}
	URI      string // of the file, without a token
	Size     int64  // in bytes
	Modified time.Time
	At       time.Time // when the device said that it was done
}

// Document is the notice as it goes over the wire: one object, not an array.
func (f File) Document() json.RawMessage {
	return marshal(struct {
		Device   string `json:"deviceId"`
		URI      string `json:"blobUri"`
		Name     string `json:"blobName"`
		Modified string `json:"lastUpdatedTime"`
		Size     int64  `json:"blobSizeInBytes"`
		At       string `json:"enqueuedTimeUtc"`
	}{f.Device, f.URI, f.Name, iot.FormatTime(f.Modified), f.Size, iot.FormatTime(f.At)})
}

// marshal leaves the text of names as it is.
func marshal(v any) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(fmt.Sprintf("notice: %v", err)) // strings and numbers always marshal
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

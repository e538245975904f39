package iot

import (
	"context"
	"time"

	"github.com/vauban-iot/vauban/wire/bag"
)

// Session is a connected device as seen from its protocol head: what the device may do.
// Package hub provides it, and so does anything else that stands behind a head.
type Session interface {
	// Telemetry accepts a message. ack.Acked(token, err) follows once it is on disk or
	// refused, possibly from another goroutine and before Telemetry returns. m and what it
	// points to may be reused when Telemetry returns.
	Telemetry(m *Message, ack Acker, token uint64)
	// Twin returns the device's view: desired and reported with their versions.
	Twin(ctx context.Context) ([]byte, error)
	// PatchReported merges patch into the reported properties; base 0 means whatever version stands.
	PatchReported(ctx context.Context, patch []byte, base int64) (version int64, err error)
	// Listen says which commands the device wants from now on.
	Listen(features Feature)
	// Mail locks up to n waiting cloud-to-device messages.
	Mail(ctx context.Context, n int) ([]Mail, error)
	// Settle completes a locked message.
	Settle(ctx context.Context, lockToken string) error
	// RequestCertificate begins an operation that issues the device a certificate, as body asks for. answered is the correlation id
	// of the answer that the device was told last, whose operation stands against no other; empty when there was none. Failures are
	// a [CertificateConflict] and those of package fault.
	RequestCertificate(ctx context.Context, requestID string, body []byte, answered string) (CertificateOperation, error)
	// CertificateAnswer returns the answer that waits for the device; ok is false when there is none. When there will be one, wait is
	// how long until then: whoever wants it asks again.
	CertificateAnswer(ctx context.Context) (a CertificateAnswer, wait time.Duration, ok bool, err error)
	// CertificateTaken forgets an operation whose answer the device has.
	CertificateTaken(ctx context.Context, correlationID string) error
	// SaveSubscriptions remembers what a persistent session subscribed to.
	SaveSubscriptions(ctx context.Context, subs []Subscription) error
	// End closes the session. The link hears nothing afterwards.
	End(ctx context.Context)
}

// Acker is told what became of a message.
type Acker interface {
	Acked(token uint64, err error)
}

// Feature is a set of commands a device listens to.
type Feature uint8

// The features.
const (
	Methods Feature = 1 << iota
	DesiredUpdates
	CloudToDevice
)

// Link is a connected device as seen from the hub: what may be asked of it. Heads
// provide it. No method blocks.
type Link interface {
	// Method delivers a direct method. Its answer, or the reason why there is
	// none, goes to reply, once.
	Method(name string, payload []byte, reply func(status int, payload []byte, err error))
	// Desired delivers a desired properties patch.
	Desired(version int64, patch []byte)
	// MailWaits says that Session.Mail may have something.
	MailWaits()
	// Close ends the connection; reason is for the log.
	Close(reason error)
}

// Opening is how a device wants its session.
type Opening struct {
	// Clean forgets what an earlier session subscribed to, and remembers nothing.
	Clean bool
}

// Opened is what a device finds.
type Opened struct {
	Session       Session
	Subscriptions []Subscription // of the stored session
	Present       bool           // there was a stored session
}

// Subscription is one stored MQTT subscription (hub-device §2.4).
type Subscription struct {
	Filter string `json:"filter"`
	QoS    byte   `json:"qos"`
}

// Mail is one cloud-to-device message in a device's queue (hub-device §3.5).
type Mail struct {
	Sequence      uint64 // assigned by the store, growing per store
	To            ID
	LockToken     string // set by Lock
	MessageID     string
	Enqueued      time.Time
	Expires       time.Time
	DeliveryCount int
	Delivered     bool           // it was locked before, so a redelivery sets DUP
	Ack           string         // none, positive, negative, full
	System        []bag.Property // canonical names, without to and expiry
	Properties    []bag.Property
	Body          []byte
}

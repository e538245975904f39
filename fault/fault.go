// Package fault is the vocabulary of failure: every room wraps what went wrong
// in an [Error] of one [Kind], and every protocol head owns one table that turns
// kinds into its peer's words (an HTTP status and Azure code, a CONNACK code).
// An error nobody classified is [Internal] and stays opaque to the peer.
package fault

import (
	"errors"
	"fmt"
	"time"
)

// Kind says what sort of failure happened, as coarsely as a protocol head needs.
type Kind int

// The kinds. Heads must answer each of them; Kinds lists them for that test.
const (
	Internal           Kind = iota // our defect; the peer learns nothing more
	Invalid                        // an argument breaks a rule (400004)
	Malformed                      // not even readable: broken JSON (400006)
	InvalidScope                   // a device scope that names no edge device (400028)
	Unauthorized                   // no or bad credentials (401003)
	Forbidden                      // good credentials without the right (401002)
	Disabled                       // the device is disabled (403012)
	QueueFull                      // 50 cloud-to-device messages wait already (403004)
	QuotaExceeded                  // the messages of the day are used up (403002)
	NotFound                       // no such device, module or enrollment (404001)
	NotOnline                      // the device is not connected or does not listen (404103)
	ConnectionClosed               // the device left while it was asked (404104)
	AlreadyExists                  // the name is taken (409001)
	PreconditionFailed             // an ETag or version does not match (412001)
	LockLost                       // a message lock expired or never was (412002)
	TooLarge                       // the message is over its limit (413001)
	Throttled                      // come back later (429001)
	BadDeviceResponse              // the device answered what cannot be read (502)
	Unavailable                    // a dependency is down or we are stopping (503001)
	Timeout                        // no answer in time (504101)
	lastKind
)

// Kinds lists every kind, for the tests that walk the heads' tables.
func Kinds() []Kind {
	ks := make([]Kind, 0, lastKind)
	for k := range lastKind {
		ks = append(ks, k)
	}
	return ks
}

var names = [...]string{
	"internal", "invalid", "malformed", "invalid scope", "unauthorized", "forbidden", "disabled",
	"queue full", "quota exceeded", "not found", "not online", "connection closed", "already exists",
	"precondition failed", "lock lost", "too large", "throttled", "bad device response", "unavailable", "timeout",
}

func (k Kind) String() string {
	if k >= 0 && int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("kind %d", int(k))
}

// Error keeps what the peer may read (Public) apart from what only the log reads (Err).
type Error struct {
	Kind       Kind
	Public     string
	RetryAfter time.Duration // zero: no hint
	Err        error
}

// New returns an error of kind k whose text the peer may read.
func New(k Kind, format string, args ...any) error {
	return &Error{Kind: k, Public: fmt.Sprintf(format, args...)}
}

// Wrap classifies err and adds a text the peer may read; err itself stays in the log.
func Wrap(k Kind, err error, format string, args ...any) error {
	return &Error{Kind: k, Public: fmt.Sprintf(format, args...), Err: err}
}

func (e *Error) Error() string {
	if e.Err != nil {
		return e.Public + ": " + e.Err.Error()
	}
	return e.Public
}

func (e *Error) Unwrap() error { return e.Err }

// KindOf finds the kind of err; what nobody classified is Internal.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// Is reports whether err is of kind k.
func Is(err error, k Kind) bool { return err != nil && KindOf(err) == k }

// Public returns the text a peer may read; for an Internal error that is a plain sentence.
func Public(err error) string {
	if e, ok := errors.AsType[*Error](err); ok && e.Kind != Internal {
		return e.Public
	}
	return "the server could not complete the request"
}

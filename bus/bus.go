// Package bus names what rooms exchange facts and commands over: logs that are
// on disk before an append is acknowledged, and mailboxes by name that reach
// whoever listens, on whichever node. Package diskbus provides both to a server
// that stands alone, package natsbus also to several that share NATS.
package bus

import (
	"context"
	"errors"
	"time"
)

// Entry is one appended fact.
type Entry struct {
	Sequence uint64    // place in the log, from 1
	Time     time.Time // when the log took it
	Data     []byte    // owned by the receiver until it returns
	More     bool      // the next entry is there already; only Work says so, and only where ErrLater keeps the order over a crash
}

// ErrLater is what a handler of Work returns for an entry that it took and is not done with, so that it can do several at once: when it returns nil
// for a later one, it is done with all until then. Until then its place stays, and a crash gives it all of them again. It may be returned only
// when there is More, and no longer than for what a second brings.
var ErrLater = errors.New("bus: the handler is not done with the entry yet")

// Start says where a reader of a log begins.
type Start int

const (
	// Earliest reads from the oldest kept entry.
	Earliest Start = iota
	// Latest reads only what is appended from now on.
	Latest
)

// MaxEntry is the largest entry of a log, in bytes.
const MaxEntry = 4 << 20

// LogConfig bounds one log.
type LogConfig struct {
	Name     string        // letters, digits, - and _
	MaxAge   time.Duration // older entries go; zero keeps them
	MaxBytes int64         // beyond it the oldest go; zero is no bound
}

// Log is an append-only sequence of facts.
type Log interface {
	// Append writes data and returns its place once it is on disk. Concurrent
	// appends are allowed; those of one goroutine keep their order.
	Append(ctx context.Context, data []byte) (uint64, error)
	// Follow calls handle for each entry in order until ctx ends (returning nil) or
	// handle fails (returning its error). ready, when not nil, is called once the reader is in place.
	Follow(ctx context.Context, from Start, ready func(), handle func(Entry) error) error
	// Work is Follow with a memory: the named reader continues behind the last entry
	// that handle returned nil for, also after a restart. An entry whose handle
	// failed is given again after a pause; entries may repeat after a crash. See ErrLater.
	Work(ctx context.Context, name string, handle func(Entry) error) error
}

// Call is one message that arrived in a mailbox.
type Call struct {
	Name string
	Data []byte
	// Reply answers the caller; calling it is optional for a Send.
	Reply func(data []byte)
}

// Post carries messages to named mailboxes, at most once.
type Post interface {
	// Request sends to the mailbox and waits for one answer. It fails at once
	// with fault.NotOnline when nobody listens, and with fault.Timeout when ctx ends first.
	Request(ctx context.Context, name string, data []byte) ([]byte, error)
	// Send is Request without an answer; it never waits and nobody listening is fine.
	Send(name string, data []byte) error
	// Listen hands every message for name to the handler given to Open, until cancel is called.
	// When it returns, messages sent afterwards are received.
	Listen(name string) (cancel func(), err error)
}

// Bus is both.
type Bus interface {
	Post
	// Log opens a log, creating it on first use.
	Log(ctx context.Context, cfg LogConfig) (Log, error)
	// Close ends every reader: their calls return nil.
	Close()
}

// Package collect says how the Linux agent learns about its machine. A Watcher sees things happen, a
// Snapshot looks at how things are; each lives in a package of its own below this one.
package collect

import (
	"context"
	"time"

	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Observation is one thing seen. Exactly one of Flow, Check and Item is set.
type Observation struct {
	Event string // the event's name on the wire: Process, NetworkActivity, Login, FileSystem...
	// Key tells things apart: observations of one Event with the same Key, until the next message, are
	// one with the sum of their hits and bytes. Empty: nothing is merged with it.
	Key  string
	Time time.Time
	Hits uint32 // how often, at least 1

	Flow  *secmsg.Flow
	Check *secmsg.BaselineCheck
	Item  secmsg.Item
}

// A Watcher sees things happen.
type Watcher interface {
	// Run hands over what it sees until ctx ends. emit keeps nothing of what it points to, never blocks for
	// long and may be called from any goroutine. An error means that the watcher cannot work on
	// this machine; it says why and what would help.
	Run(ctx context.Context, emit func(Observation)) error
	// Source names where it looks now, for the agent's status: "eBPF", "netlink", "polling /proc"...
	Source() string
}

// A Snapshot looks at how things are.
type Snapshot interface {
	// Take returns all of it. What it could not read it leaves out and says in err, beside the rest.
	Take(ctx context.Context) ([]Observation, error)
}

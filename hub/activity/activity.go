// Package activity counts what devices do, and what is done with them, by device and minute, for whoever judges it later
// (defender §2.3). Nobody who acts waits for it: counting takes a lock of a share of the devices, and nothing while nobody wants
// the kind.
package activity

import (
	"sync"
	"sync/atomic"
	"time"

	"hash/maphash"
)

// Kind of activity.
type Kind uint8

// The kinds. Their names are those of Azure's rules, less NotInAllowedRange.
const (
	ActiveConnections Kind = iota
	FailedLocalLogins
	AmqpC2DMessages
	MqttC2DMessages
	HttpC2DMessages
	AmqpC2DRejectedMessages
	MqttC2DRejectedMessages
	HttpC2DRejectedMessages
	AmqpD2CMessages
	MqttD2CMessages
	HttpD2CMessages
	DirectMethodInvokes
	FileUploads
	QueuePurges
	TwinUpdates
	UnauthorizedOperations
	kinds
)

var names = [kinds]string{
	"ActiveConnections", "FailedLocalLogins", "AmqpC2DMessages", "MqttC2DMessages", "HttpC2DMessages", "AmqpC2DRejectedMessages", "MqttC2DRejectedMessages",
	"HttpC2DRejectedMessages", "AmqpD2CMessages", "MqttD2CMessages", "HttpD2CMessages", "DirectMethodInvokes", "FileUploads", "QueuePurges", "TwinUpdates",
	"UnauthorizedOperations",
}

// Kinds are all there are.
func Kinds() []Kind {
	all := make([]Kind, kinds)
	for k := range all {
		all[k] = Kind(k)
	}
	return all
}

func (k Kind) String() string { return names[k] }

// Parse undoes String.
func Parse(name string) (Kind, bool) {
	for k, n := range names {
		if n == name {
			return Kind(k), true
		}
	}
	return 0, false
}

// Peak reports whether the number of several minutes is the largest of them, and not their sum.
func (k Kind) Peak() bool { return k == ActiveConnections }

// Count is how often one thing happened in a minute.
type Count struct {
	Kind   Kind
	Device string
	Minute int64 // since 1970
	N      int
}

// Minute of a time.
func Minute(t time.Time) int64 { return t.Unix() / 60 }

const (
	shares = 64
	// DefaultLimit is how many counts wait at most: 100,000 devices that do five kinds of things, for two minutes.
	DefaultLimit = 1_000_000
)

type key struct {
	device string
	minute int64
	kind   Kind
}

// Tally counts. The zero value wants nothing; a nil one counts nothing. It is safe for concurrent use.
type Tally struct {
	// Limit is how many counts wait at most; 0: DefaultLimit. What does not fit is not counted, but how much that was is: Lost.
	Limit int

	wanted atomic.Uint32
	held   atomic.Int64
	lost   atomic.Uint64
	once   sync.Once
	seed   maphash.Seed
	shares [shares]share
}

type share struct {
	mu     sync.Mutex
	counts map[key]int
}

// Want says which kinds are counted from now on.
func (t *Tally) Want(ks ...Kind) {
	t.once.Do(func() { t.seed = maphash.MakeSeed() })
	var mask uint32
	for _, k := range ks {
		mask |= 1 << k
	}
	t.wanted.Store(mask)
}

// Wants reports whether k is counted.
func (t *Tally) Wants(k Kind) bool { return t != nil && t.wanted.Load()&(1<<k) != 0 }

// Add counts n of a kind for a device, at this moment.
func (t *Tally) Add(device string, k Kind, n int) {
	if t.Wants(k) {
		t.AddAt(device, k, n, time.Now())
	}
}

// AddAt is Add for another moment.
func (t *Tally) AddAt(device string, k Kind, n int, at time.Time) {
	if !t.Wants(k) || n <= 0 || device == "" {
		return
	}
	limit := t.Limit
	if limit == 0 {
		limit = DefaultLimit
	}
	s := &t.shares[maphash.String(t.seed, device)%shares]
	id := key{device, Minute(at), k}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.counts[id]
	if !ok {
		if t.held.Add(1) > int64(limit) {
			t.held.Add(-1)
			t.lost.Add(uint64(n))
			return
		}
		if s.counts == nil {
			s.counts = make(map[key]int)
		}
	}
	if k.Peak() {
		s.counts[id] = max(old, n)
	} else {
		s.counts[id] = old + n
	}
}

// Take returns the counts of minutes before minute, and forgets them.
func (t *Tally) Take(minute int64) []Count {
	var all []Count
	for i := range t.shares {
		s := &t.shares[i]
		s.mu.Lock()
		for id, n := range s.counts {
			if id.minute < minute {
				all = append(all, Count{id.kind, id.device, id.minute, n})
				delete(s.counts, id)
			}
		}
		if len(s.counts) == 0 {
			s.counts = nil // a map does not shrink
		}
		s.mu.Unlock()
	}
	t.held.Add(-int64(len(all)))
	return all
}

// Put gives counts back that could not be kept.
func (t *Tally) Put(cs []Count) {
	for _, c := range cs {
		t.AddAt(c.Device, c.Kind, c.N, time.Unix(c.Minute*60, 0))
	}
}

// Lost is how much was not counted.
func (t *Tally) Lost() uint64 { return t.lost.Load() }

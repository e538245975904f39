// Package gather keeps what a collector sees until it is sent: equal observations become one with a count, and what does not fit
// pushes out the oldest (defender §3.3).
package gather

import (
	"container/list"
	"math"
	"sync"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Cache is what one collector saw. It is safe for concurrent use.
type Cache struct {
	limit int
	apart bool

	mu      sync.Mutex
	order   list.List // of *collect.Observation, the oldest first
	byKey   map[key]*list.Element
	bytes   int
	dropped uint64
}

// maxBytes bounds the texts of a cache: command lines may be long.
const maxBytes = 1 << 20

type key struct{ event, key string }

// New returns a cache of at most limit different observations. apart counts nothing together.
func New(limit int, apart bool) *Cache {
	return &Cache{limit: max(limit, 1), apart: apart, byKey: make(map[key]*list.Element)}
}

// Add takes in an observation. It keeps nothing of what o points to.
func (c *Cache) Add(o collect.Observation) {
	o.Hits = max(o.Hits, 1)
	k := key{o.Event, o.Key}
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.byKey[k]; ok {
		merge(el.Value.(*collect.Observation), &o)
		return
	}
	n := size(&o)
	for c.order.Len() > 0 && (c.order.Len() >= c.limit || c.bytes+n > maxBytes) {
		c.evict()
	}
	c.bytes += n
	own := o
	if o.Flow != nil {
		own.Flow = new(*o.Flow)
		own.Flow.First, own.Flow.Last = o.Time, o.Time
	}
	if o.Check != nil {
		own.Check = new(*o.Check)
	}
	el := c.order.PushBack(&own)
	if o.Key != "" && !c.apart {
		c.byKey[k] = el
	}
}

// evict drops the oldest. c.mu must be held.
func (c *Cache) evict() {
	el := c.order.Front()
	o := c.order.Remove(el).(*collect.Observation)
	if k := (key{o.Event, o.Key}); c.byKey[k] == el {
		delete(c.byKey, k)
	}
	c.bytes -= size(o)
	c.dropped += uint64(o.Hits)
}

// size is about what an observation takes, by its texts.
func size(o *collect.Observation) int {
	n := 256 + len(o.Key)
	if o.Flow != nil {
		n += len(o.Flow.Executable) + len(o.Flow.CommandLine)
	}
	if o.Check != nil {
		n += len(o.Check.Description) + len(o.Check.Remediation) + len(o.Check.Error)
	}
	switch it := o.Item.(type) {
	case secmsg.Process:
		n += len(it.Executable) + len(it.CommandLine)
	case secmsg.FileChange:
		n += len(it.Path)
	case secmsg.Record:
		n += len(it.Message) + len(it.File)
	}
	return n
}

// merge adds o to an equal observation: hits and bytes are summed, and the rest stays as it was first seen. Of a flow, which is seen
// again as long as it grows, only its own hits are connections.
func merge(into, o *collect.Observation) {
	into.Hits = uint32(min(uint64(into.Hits)+uint64(o.Hits), math.MaxUint32))
	if into.Flow != nil && o.Flow != nil {
		into.Flow.BytesIn += o.Flow.BytesIn
		into.Flow.BytesOut += o.Flow.BytesOut
		into.Flow.Hits += o.Flow.Hits
		if o.Time.After(into.Flow.Last) {
			into.Flow.Last = o.Time
		}
	}
}

// Take returns all of it, the oldest first, with hits put where the wire has them, and how many hits were dropped since the last time.
func (c *Cache) Take() (all []collect.Observation, dropped uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for el := c.order.Front(); el != nil; el = el.Next() {
		o := *el.Value.(*collect.Observation)
		count(&o)
		all = append(all, o)
	}
	c.order.Init()
	c.bytes = 0
	clear(c.byKey)
	dropped, c.dropped = c.dropped, 0
	return all, dropped
}

// Len is how many different observations wait.
func (c *Cache) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.order.Len()
}

// count writes an observation's hits into what it is of, but for flows.
func count(o *collect.Observation) {
	switch it := o.Item.(type) {
	case secmsg.Process:
		it.HitCount = o.Hits
		o.Item = it
	case secmsg.LoginRecord:
		it.HitCount = o.Hits
		o.Item = it
	case secmsg.FileChange:
		it.HitCount = o.Hits
		o.Item = it
	case secmsg.Peripheral:
		it.HitCount = o.Hits
		o.Item = it
	case secmsg.DNSQuery:
		it.HitCount = o.Hits
		o.Item = it
	}
}

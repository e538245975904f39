package intel

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Use says what a source is for.
type Use int

// The uses of a source.
const (
	ToMatch Use = iota // traffic is compared with it
	ToWarn             // a warning list: it mutes the lists of others
	ToAllow            // the operator's exemptions
)

// Engine holds the blocks of all sources and offers the current [Set]. Readers wait for nobody: a change makes a new set beside the one
// in use. Its cost is that of the source which changed, and of those below 65,536 addresses.
type Engine struct {
	set atomic.Pointer[Set]
	now func() time.Time

	mu      sync.Mutex // of the writers; nothing is taken under it
	sources map[key]*Block
}

type key struct {
	use  Use
	name string
}

// NewEngine makes an empty engine. now may be nil: time.Now.
func NewEngine(now func() time.Time) *Engine {
	if now == nil {
		now = time.Now
	}
	e := &Engine{now: now, sources: make(map[key]*Block)}
	e.set.Store(&Set{now: now})
	return e
}

// Current is the set in use.
func (e *Engine) Current() *Set { return e.set.Load() }

// Put brings blocks into use, each in place of the one of its name.
func (e *Engine) Put(use Use, blocks ...*Block) { e.Change(use, blocks, nil) }

// Remove takes a source out of use.
func (e *Engine) Remove(use Use, name string) { e.Change(use, nil, []string{name}) }

// Change puts and removes sources of one use, at once for every reader.
func (e *Engine) Change(use Use, put []*Block, remove []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, name := range remove {
		delete(e.sources, key{use, name})
	}
	for _, b := range put {
		k := key{use, b.Source.Name}
		old := e.sources[k]
		if b.since = b.Source.Version; old != nil && !b.adds(old) {
			b.since = old.since
		}
		e.sources[k] = b
	}
	before, s := e.set.Load(), &Set{now: e.now}
	s.listed = newLayer(e.of(ToMatch), before.listed.prefixes)
	s.warn = newLayer(e.of(ToWarn), before.warn.prefixes)
	s.allow = newLayer(e.of(ToAllow), before.allow.prefixes)
	for _, b := range e.of(ToMatch) {
		s.n += b.Len()
	}
	e.set.Store(s)
}

// of lists the blocks of a use, by name. The caller holds mu.
func (e *Engine) of(use Use) []*Block {
	var of []*Block
	for k, b := range e.sources {
		if k.use == use {
			of = append(of, b)
		}
	}
	slices.SortFunc(of, func(x, y *Block) int { return strings.Compare(x.Source.Name, y.Source.Name) })
	return of
}

// Block is what a source gave; nil when there is none.
func (e *Engine) Block(use Use, name string) *Block {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.sources[key{use, name}]
}

// Versions are those of the contents in which sources last brought something new, by name. Who has compared old traffic with these need not
// do it again.
func (e *Engine) Versions() map[string]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	v := make(map[string]string)
	for k, b := range e.sources {
		if k.use == ToMatch && b.Len() > 0 {
			v[k.name] = b.since
		}
	}
	return v
}

package network

import "sync"

// The range of dynamic ports (RFC 6335 §6).
const (
	firstPort = 49152
	ports     = 1 << 14
)

// Ports gives a board its local ports: one after another from a place that the seed chooses,
// so that a board's flows can be repeated.
type Ports struct {
	mu   sync.Mutex
	next uint32
}

// NewPorts starts a row.
func NewPorts(seed uint64) *Ports { return &Ports{next: uint32(seed % ports)} }

// Next is the next port of the row. It may be in use: the caller then asks again, at most [Tries] times.
func (p *Ports) Next() uint16 {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := firstPort + p.next
	p.next = (p.next + 1) % ports
	return uint16(n)
}

// Tries is after how many ports a row is over.
const Tries = ports

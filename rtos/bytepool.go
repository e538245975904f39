package rtos

import "encoding/binary"

// BytePool hands out memory of any size, first fit. How long an allocation takes depends on the number of fragments. Make it live with
// [Kernel.CreateBytePool].
type BytePool struct {
	object
	node      link[BytePool]
	area      []byte
	start     uint32 // address of area
	available uint32 // bytes in free fragments, the headers of all but one included
	fragments uint32
	search    uint32  // offset of the fragment where the next search begins
	owner     *Thread // who used the pool last; how a search notices that another one came between
	waiters   waitList
	counts    BytePoolPerformance
}

func (p *BytePool) links() *link[BytePool] { return p.node.links() }

func (p *BytePool) bad() bool { return p == nil || p.k == nil }

const (
	bytePoolSize = 52
	bytePoolMin  = 100
	byteBlockMin = 20         // a smaller rest stays with the fragment
	blockIsFree  = 0xFFFFEEEE // in a fragment's header instead of the pool's address
)

// Memory is a piece of a byte pool. The zero value is the null pointer.
type Memory struct {
	pool *BytePool
	at   uint32 // offset in the pool's area
	size uint32
}

// Bytes is the memory, as long as was asked for. It is the caller's until Release.
func (m Memory) Bytes() []byte {
	if m.pool == nil {
		return nil
	}
	end := m.at + m.size
	return m.pool.area[m.at:end:end]
}

// Region is where the memory lies on the board, for a thread's stack.
func (m Memory) Region() Region {
	if m.pool == nil || m.pool.start == 0 {
		return Region{}
	}
	return Region{m.pool.start + m.at, m.size}
}

// Each fragment begins with the offset of the next, as a pointer, and a word that is blockIsFree or the pool's address. The last fragment
// is never free and leads back to the first.

func (p *BytePool) nextOf(at uint32) uint32 { return binary.LittleEndian.Uint32(p.area[at:]) }

func (p *BytePool) setNext(at, next uint32) { binary.LittleEndian.PutUint32(p.area[at:], next) }

func (p *BytePool) mark(at uint32) uint32 {
	return binary.LittleEndian.Uint32(p.area[at+p.k.cfg.PointerSize:])
}

func (p *BytePool) setMark(at, v uint32) {
	binary.LittleEndian.PutUint32(p.area[at+p.k.cfg.PointerSize:], v)
}

// overhead is a fragment's header.
func (p *BytePool) overhead() uint32 { return p.k.cfg.PointerSize + p.k.cfg.Alignment }

// CreateBytePool makes p live, all of area free but for two headers. The kernel keeps area. Callers: initialization, threads.
func (k *Kernel) CreateBytePool(p *BytePool, name string, area []byte) Status {
	k.charge(k.costs.Call)
	if k.checked {
		switch {
		case p == nil || p.node.next != nil:
			return PoolError
		case area == nil:
			return PtrError
		case len(area) < bytePoolMin:
			return SizeError
		case !k.mayCreate():
			return CallerError
		}
	}
	size := uint32(min(len(area), maxMemory)) / k.cfg.Alignment * k.cfg.Alignment
	*p = BytePool{object: object{k: p.k, addr: p.addr}, area: area[:size:size], fragments: 2}
	p.start = k.Reserve(uint32(len(area))).Start
	k.adopt(&p.object, bytePoolID, name, bytePoolSize)
	p.available = size - p.overhead()
	end := size - p.overhead()
	p.setNext(end, 0)
	p.setMark(end, p.addr)
	p.setNext(0, end)
	p.setMark(0, blockIsFree)
	link1(&k.bytes, p)
	if k.tracer != nil {
		k.tracer.Created(p.describe())
		k.trace(EventBytePoolCreate, p.addr, p.start, size, k.stackPointer())
	}
	return Success
}

func (p *BytePool) describe() ObjectInfo {
	return ObjectInfo{Kind: KindBytePool, Address: p.addr, Name: p.name, Parameter1: uint32(len(p.area))}
}

// Delete ends p; who waits gets Deleted. Callers: threads.
func (p *BytePool) Delete() Status {
	if p.bad() {
		return PoolError
	}
	k := p.k
	k.charge(k.costs.Call)
	if k.checked {
		switch {
		case p.id != bytePoolID:
			return PoolError
		case !k.mayDelete():
			return CallerError
		}
	}
	if k.tracer != nil {
		k.trace(EventBytePoolDelete, p.addr, k.stackPointer(), 0, 0)
		k.tracer.Deleted(p.addr)
	}
	p.id = 0
	unlink1(&k.bytes, p)
	w := p.waiters
	p.waiters = waitList{}
	k.preemptDisable++
	k.wakeAll(w.head, w.count, Deleted)
	k.preemptDisable--
	k.preemptCheck()
	return Success
}

// none is the offset that find answers when nothing fits.
const none = ^uint32(0)

// find takes size bytes from the pool and answers their offset. It examines fragments from the search pointer on, merges free neighbours on the way,
// and starts again when somebody else used the pool in a window.
func (p *BytePool) find(k *Kernel, size uint32) uint32 {
	over := p.overhead()
	if size >= p.available+(p.fragments-2)*over {
		return none
	}
	t := k.current
	p.owner = t
	at, left, found, fits := p.search, p.fragments+1, false, false
	for left != 0 {
		if k.perf&PerfBytePool != 0 {
			p.counts.Searched++
			k.totals.byte.Searched++
		}
		if p.mark(at) == blockIsFree {
			if !found {
				p.search = at
				found = true
			}
			next := p.nextOf(at)
			if next-at-over >= size {
				fits = true
				break
			}
			if p.mark(next) == blockIsFree {
				p.setNext(at, p.nextOf(next))
				p.fragments--
				if k.perf&PerfBytePool != 0 {
					p.counts.Merges++
					k.totals.byte.Merges++
				}
				if p.search == next {
					p.search = at
				}
			} else {
				at = p.nextOf(next)
				if left != 0 {
					left--
					if k.perf&PerfBytePool != 0 {
						p.counts.Searched++
						k.totals.byte.Searched++
					}
				}
			}
		} else {
			at = p.nextOf(at)
		}
		if left != 0 {
			left--
		}
		k.now += Cycles(k.costs.Fragment)
		k.window(WindowByteSearch)
		if p.owner != t {
			p.owner = t
			at, left = p.search, p.fragments+1
		}
	}
	if !fits {
		return none
	}
	taken := p.nextOf(at) - at - over
	if taken-size >= byteBlockMin {
		rest := at + size + over
		p.setNext(rest, p.nextOf(at))
		p.setMark(rest, blockIsFree)
		p.setNext(at, rest)
		p.fragments++
		taken = size
		if k.perf&PerfBytePool != 0 {
			p.counts.Splits++
			k.totals.byte.Splits++
		}
	}
	p.setMark(at, p.addr)
	p.available -= taken + over
	if at == p.search {
		p.search = p.nextOf(at)
	}
	return at + over
}

// Allocate gives size bytes to m; when nothing fits it waits up to wait ticks, then NoMemory. Callers: threads, initialization without waiting.
func (p *BytePool) Allocate(m *Memory, size, wait uint32) Status {
	if p.bad() {
		return PoolError
	}
	k := p.k
	k.charge(k.costs.Byte)
	if k.checked {
		switch {
		case p.id != bytePoolID:
			return PoolError
		case m == nil:
			return PtrError
		case size == 0 || size > uint32(len(p.area)):
			return SizeError
		case wait != NoWait && k.systemState != 0:
			return WaitError
		case k.current == &k.timers.thread || k.inISR():
			return CallerError
		}
	}
	a := k.cfg.Alignment
	rounded := (size + a - 1) / a * a
	if k.perf&PerfBytePool != 0 {
		p.counts.Allocates++
		k.totals.byte.Allocates++
	}
	t := k.current
	var at uint32
	for {
		p.owner = t
		k.window(WindowByteSearch)
		at = p.find(k, rounded)
		if at != none || p.owner == t {
			break
		}
	}
	if at != none {
		*m = Memory{p, at, size}
		k.trace(EventByteAllocate, p.addr, p.start+at, size, wait)
		return Success
	}
	k.trace(EventByteAllocate, p.addr, 0, size, wait)
	if wait == NoWait || k.cannotBlock() {
		return NoMemory
	}
	if k.perf&PerfBytePool != 0 {
		p.counts.Suspensions++
		k.totals.byte.Suspensions++
	}
	t.wanted = rounded
	p.waiters.push(t)
	k.wait(t, p, ByteSuspended, wait)
	k.systemSuspend(t)
	if t.status == Success {
		*m = Memory{p, t.got, size}
	}
	return t.status
}

func (p *BytePool) cleanup(t *Thread) {
	if p.id != bytePoolID || p.waiters.count == 0 {
		return
	}
	t.waiting = nil
	p.waiters.remove(t)
	if t.state != ByteSuspended {
		return
	}
	k := p.k
	if k.perf&PerfBytePool != 0 {
		p.counts.Timeouts++
		k.totals.byte.Timeouts++
	}
	k.wake(t, NoMemory)
}

// Release gives the memory back and serves who waits, first come first, until one cannot be satisfied. Memory that is not handed
// out is a PtrError. Callers: initialization, threads.
func (m Memory) Release() Status {
	p := m.pool
	if p == nil {
		return PtrError
	}
	k := p.k
	k.charge(k.costs.Byte)
	if k.checked && (k.current == &k.timers.thread || k.inISR()) {
		return CallerError
	}
	frag := m.at - p.overhead()
	if p.id != bytePoolID || p.mark(frag) != p.addr {
		return PtrError
	}
	if k.perf&PerfBytePool != 0 {
		p.counts.Releases++
		k.totals.byte.Releases++
	}
	k.trace(EventByteRelease, p.addr, p.start+m.at, p.waiters.count, p.available)
	p.owner = k.current
	p.free(frag)
	if p.waiters.count == 0 {
		return Success
	}
	for p.waiters.count != 0 {
		t := p.waiters.head
		size := t.wanted
		k.window(WindowByteSearch)
		at := p.find(k, size)
		p.owner = k.current
		if at == none {
			break
		}
		if t != p.waiters.head || t.wanted != size {
			p.free(at - p.overhead()) // the one it was for waits no longer
			continue
		}
		p.waiters.remove(t)
		t.got = at
		k.wake(t, Success)
	}
	k.preemptCheck()
	return Success
}

// free marks a fragment free.
func (p *BytePool) free(frag uint32) {
	p.setMark(frag, blockIsFree)
	p.available += p.nextOf(frag) - frag
	if frag < p.search {
		p.search = frag
	}
}

// Prioritize moves the waiter with the highest priority to the front. Callers: everybody.
func (p *BytePool) Prioritize() Status {
	if p.bad() {
		return PoolError
	}
	k := p.k
	k.charge(k.costs.Call)
	if k.checked && p.id != bytePoolID {
		return PoolError
	}
	if k.tracer != nil {
		k.trace(EventBytePoolPrioritize, p.addr, p.waiters.count, k.stackPointer(), 0)
	}
	k.prioritize(&p.waiters, WindowBytePoolPrioritize)
	return Success
}

// BytePoolInfo is what [BytePool.Info] tells.
type BytePoolInfo struct {
	Name           string
	Available      uint32 // bytes; not all of them fit one allocation
	Fragments      uint32
	FirstSuspended *Thread
	SuspendedCount uint32
	Next           *BytePool
}

// Info fills out, which may be nil. Callers: everybody.
func (p *BytePool) Info(out *BytePoolInfo) Status {
	if p.bad() {
		return PoolError
	}
	k := p.k
	k.charge(k.costs.Call)
	if k.checked && p.id != bytePoolID {
		return PoolError
	}
	k.trace(EventBytePoolInfo, p.addr, 0, 0, 0)
	if out != nil {
		*out = BytePoolInfo{p.name, p.available, p.fragments, p.waiters.head, p.waiters.count, p.node.next}
	}
	return Success
}

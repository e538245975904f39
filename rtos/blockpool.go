package rtos

import "encoding/binary"

// BlockPool hands out blocks of one size; the one released last goes first. Make it live with [Kernel.CreateBlockPool].
type BlockPool struct {
	object
	node      link[BlockPool]
	area      []byte
	start     uint32 // address of area
	size      uint32 // of a block, rounded up to the alignment
	stride    uint32 // a block with its header: size and a pointer
	free      uint32 // offset of the first free block's header plus one; zero: none
	available uint32
	total     uint32
	waiters   waitList
	counts    BlockPoolPerformance
}

func (p *BlockPool) links() *link[BlockPool] { return p.node.links() }

func (p *BlockPool) bad() bool { return p == nil || p.k == nil }

const blockPoolSize = 52

// Block is a block of a pool. The zero value is the null pointer.
type Block struct {
	pool *BlockPool
	at   uint32 // offset of its memory in the pool's area
}

// Bytes is the block's memory. It is the caller's until Release.
func (b Block) Bytes() []byte {
	if b.pool == nil {
		return nil
	}
	end := b.at + b.pool.size
	return b.pool.area[b.at:end:end]
}

// Region is where the block lies on the board, for a thread's stack.
func (b Block) Region() Region {
	if b.pool == nil || b.pool.start == 0 {
		return Region{}
	}
	return Region{b.pool.start + b.at, b.pool.size}
}

// CreateBlockPool makes p live: as many blocks of size bytes as fit area, each with a pointer before it that is the
// kernel's. The kernel keeps area. Callers: initialization, threads.
func (k *Kernel) CreateBlockPool(p *BlockPool, name string, size uint32, area []byte) Status {
	k.charge(k.costs.Call)
	a, ptr := k.cfg.Alignment, k.cfg.PointerSize
	length := uint32(min(len(area), maxMemory)) / a * a
	stride := uint64(size) + uint64(ptr)
	if rounded := (uint64(size) + uint64(a) - 1) / uint64(a) * uint64(a); rounded != 0 {
		stride = rounded + uint64(ptr)
	}
	if k.checked {
		switch {
		case p == nil || p.node.next != nil:
			return PoolError
		case area == nil:
			return PtrError
		case stride > uint64(length):
			return SizeError
		case !k.mayCreate():
			return CallerError
		}
	}
	if stride > uint64(length) {
		return SizeError
	}
	*p = BlockPool{object: object{k: p.k, addr: p.addr}, area: area[:length:length], size: uint32(stride) - ptr, stride: uint32(stride)}
	p.total = length / p.stride
	p.available = p.total
	for i := range p.total {
		next := (i+1)*p.stride + 1
		if i == p.total-1 {
			next = 0
		}
		p.setHeader(i*p.stride, next)
	}
	p.free = 1
	p.start = k.Reserve(uint32(len(area))).Start
	k.adopt(&p.object, blockPoolID, name, blockPoolSize)
	link1(&k.blocks, p)
	if k.tracer != nil {
		k.tracer.Created(p.describe())
		k.trace(EventBlockPoolCreate, p.addr, p.start, p.total, p.size)
	}
	return Success
}

func (p *BlockPool) describe() ObjectInfo {
	return ObjectInfo{Kind: KindBlockPool, Address: p.addr, Name: p.name, Parameter1: p.total, Parameter2: p.size}
}

// A header names the next free block, or, while its block is handed out, the pool. Control blocks' addresses are above all
// offsets.
func (p *BlockPool) header(at uint32) uint32 { return binary.LittleEndian.Uint32(p.area[at:]) }

func (p *BlockPool) setHeader(at, v uint32) { binary.LittleEndian.PutUint32(p.area[at:], v) }

// Delete ends p; who waits gets Deleted. Callers: threads.
func (p *BlockPool) Delete() Status {
	if p.bad() {
		return PoolError
	}
	k := p.k
	k.charge(k.costs.Call)
	if k.checked {
		switch {
		case p.id != blockPoolID:
			return PoolError
		case !k.mayDelete():
			return CallerError
		}
	}
	if k.tracer != nil {
		k.trace(EventBlockPoolDelete, p.addr, k.stackPointer(), 0, 0)
		k.tracer.Deleted(p.addr)
	}
	p.id = 0
	unlink1(&k.blocks, p)
	w := p.waiters
	p.waiters = waitList{}
	k.preemptDisable++
	k.wakeAll(w.head, w.count, Deleted)
	k.preemptDisable--
	k.preemptCheck()
	return Success
}

// Allocate gives a block to b; with none free it waits up to wait ticks, then NoMemory. Callers: everybody, outside of threads
// without waiting.
func (p *BlockPool) Allocate(b *Block, wait uint32) Status {
	if p.bad() {
		return PoolError
	}
	k := p.k
	k.charge(k.costs.Block)
	if k.checked {
		switch {
		case p.id != blockPoolID:
			return PoolError
		case b == nil:
			return PtrError
		case wait != NoWait && !k.mayWait():
			return WaitError
		}
	}
	if k.perf&PerfBlockPool != 0 {
		p.counts.Allocates++
		k.totals.block.Allocates++
	}
	if p.free != 0 {
		at := p.free - 1
		p.free = p.header(at)
		p.available--
		p.setHeader(at, p.addr)
		*b = Block{p, at + k.cfg.PointerSize}
		k.trace(EventBlockAllocate, p.addr, p.start+b.at, wait, p.available)
		return Success
	}
	k.trace(EventBlockAllocate, p.addr, 0, wait, 0)
	if wait == NoWait || k.cannotBlock() {
		return NoMemory
	}
	if k.perf&PerfBlockPool != 0 {
		p.counts.Suspensions++
		k.totals.block.Suspensions++
	}
	t := k.current
	p.waiters.push(t)
	k.wait(t, p, BlockSuspended, wait)
	k.systemSuspend(t)
	if t.status == Success {
		*b = Block{p, t.got}
	}
	return t.status
}

func (p *BlockPool) cleanup(t *Thread) {
	if p.id != blockPoolID || p.waiters.count == 0 {
		return
	}
	t.waiting = nil
	p.waiters.remove(t)
	if t.state != BlockSuspended {
		return
	}
	k := p.k
	if k.perf&PerfBlockPool != 0 {
		p.counts.Timeouts++
		k.totals.block.Timeouts++
	}
	k.wake(t, NoMemory)
}

// Release gives the block back, straight to who waits longest when somebody waits. A block that is not handed out is a
// PtrError. Callers: everybody.
func (b Block) Release() Status {
	p := b.pool
	if p == nil {
		return PtrError
	}
	k := p.k
	k.charge(k.costs.Block)
	head := b.at - k.cfg.PointerSize
	// Unlike in ThreadX's raw layer the header is always looked at: a corrupt one would send the pool astray.
	if p.id != blockPoolID || p.header(head) != p.addr {
		return PtrError
	}
	if k.perf&PerfBlockPool != 0 {
		p.counts.Releases++
		k.totals.block.Releases++
	}
	if k.tracer != nil {
		k.trace(EventBlockRelease, p.addr, p.start+b.at, p.waiters.count, k.stackPointer())
	}
	if t := p.waiters.head; t != nil {
		p.waiters.remove(t)
		t.got = b.at
		k.wake(t, Success)
		return Success
	}
	p.setHeader(head, p.free)
	p.free = head + 1
	p.available++
	return Success
}

// Prioritize moves the waiter with the highest priority to the front. Callers: everybody.
func (p *BlockPool) Prioritize() Status {
	if p.bad() {
		return PoolError
	}
	k := p.k
	k.charge(k.costs.Call)
	if k.checked && p.id != blockPoolID {
		return PoolError
	}
	if k.tracer != nil {
		k.trace(EventBlockPoolPrioritize, p.addr, p.waiters.count, k.stackPointer(), 0)
	}
	k.prioritize(&p.waiters, WindowBlockPoolPrioritize)
	return Success
}

// BlockPoolInfo is what [BlockPool.Info] tells.
type BlockPoolInfo struct {
	Name           string
	Available      uint32
	Total          uint32
	FirstSuspended *Thread
	SuspendedCount uint32
	Next           *BlockPool
}

// Info fills out, which may be nil. Callers: everybody.
func (p *BlockPool) Info(out *BlockPoolInfo) Status {
	if p.bad() {
		return PoolError
	}
	k := p.k
	k.charge(k.costs.Call)
	if k.checked && p.id != blockPoolID {
		return PoolError
	}
	k.trace(EventBlockPoolInfo, p.addr, 0, 0, 0)
	if out != nil {
		*out = BlockPoolInfo{p.name, p.available, p.total, p.waiters.head, p.waiters.count, p.node.next}
	}
	return Success
}

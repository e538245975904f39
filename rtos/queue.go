package rtos

import "encoding/binary"

// maxWords is the longest message, in words of 32 bits.
const maxWords = 16

const wordSize = 4

// Queue passes messages of a fixed number of 32-bit words, first in, first out. Make it live with [Kernel.CreateQueue].
type Queue struct {
	object
	node     link[Queue]
	area     []byte // capacity messages
	size     uint32 // bytes of a message
	read     uint32 // offset of the oldest message
	write    uint32
	enqueued uint32
	capacity uint32
	waiters  waitList // receivers or senders, never both
	onSend   func(*Queue)
	counts   QueuePerformance
	start    uint32 // address of area
}

func (q *Queue) links() *link[Queue] { return q.node.links() }

func (q *Queue) bad() bool { return q == nil || q.k == nil }

const queueSize = 56

// CreateQueue makes q live: messages of words (1 to 16) words, as many as fit area. The kernel keeps area. Callers:
// initialization, threads.
func (k *Kernel) CreateQueue(q *Queue, name string, words uint32, area []byte) Status {
	k.charge(k.costs.Call)
	if k.checked {
		switch {
		case q == nil || q.node.next != nil:
			return QueueError
		case area == nil:
			return PtrError
		case words < 1 || words > maxWords || len(area)/wordSize < int(words):
			return SizeError
		case !k.mayCreate():
			return CallerError
		}
	}
	size := words * wordSize
	*q = Queue{object: object{k: q.k, addr: q.addr}, size: size, capacity: uint32(len(area)) / size}
	q.area = area[:q.capacity*size]
	q.start = k.Reserve(uint32(len(area))).Start
	k.adopt(&q.object, queueID, name, queueSize)
	link1(&k.queues, q)
	if k.tracer != nil {
		k.tracer.Created(q.describe())
		k.trace(EventQueueCreate, q.addr, words, q.start, uint32(len(area)))
	}
	return Success
}

func (q *Queue) describe() ObjectInfo {
	return ObjectInfo{Kind: KindQueue, Address: q.addr, Name: q.name, Parameter1: uint32(len(q.area)), Parameter2: q.size / wordSize}
}

// Delete ends q; who waits gets Deleted. Callers: threads.
func (q *Queue) Delete() Status {
	if q.bad() {
		return QueueError
	}
	k := q.k
	k.charge(k.costs.Call)
	if k.checked {
		switch {
		case q.id != queueID:
			return QueueError
		case !k.mayDelete():
			return CallerError
		}
	}
	if k.tracer != nil {
		k.trace(EventQueueDelete, q.addr, k.stackPointer(), 0, 0)
		k.tracer.Deleted(q.addr)
	}
	q.id = 0
	unlink1(&k.queues, q)
	w := q.waiters
	q.waiters = waitList{}
	k.preemptDisable++
	k.wakeAll(w.head, w.count, Deleted)
	k.preemptDisable--
	k.preemptCheck()
	return Success
}

// store and load copy one message to and from the ring.
func (q *Queue) store(at uint32, m []uint32) {
	b := q.area[at : at+q.size]
	for i := range len(b) / wordSize {
		binary.LittleEndian.PutUint32(b[i*wordSize:], m[i])
	}
}

func (q *Queue) load(m []uint32, at uint32) {
	b := q.area[at : at+q.size]
	for i := range len(b) / wordSize {
		m[i] = binary.LittleEndian.Uint32(b[i*wordSize:])
	}
}

func (q *Queue) after(at uint32) uint32 {
	if at += q.size; at == uint32(len(q.area)) {
		return 0
	}
	return at
}

// words is how long the slices must be that Send and Receive are given.
func (q *Queue) words() int { return int(q.size / wordSize) }

// Send appends a message, straight into the hands of a waiting receiver when there is one. A full queue makes the caller wait up to wait ticks,
// then QueueFull. A message shorter than the queue's is a PtrError. Callers: everybody, outside of threads
// without waiting.
func (q *Queue) Send(message []uint32, wait uint32) Status {
	return q.send(message, wait, EventQueueSend, false)
}

// FrontSend is Send that puts the message first. When the queue is full the caller waits ahead of other senders.
func (q *Queue) FrontSend(message []uint32, wait uint32) Status {
	return q.send(message, wait, EventQueueFrontSend, true)
}

func (q *Queue) send(message []uint32, wait uint32, event EventID, front bool) Status {
	if q.bad() {
		return QueueError
	}
	k := q.k
	k.charge(k.costs.Queue + q.size/wordSize*k.costs.Word)
	if k.checked {
		switch {
		case q.id != queueID:
			return QueueError
		case len(message) < q.words():
			return PtrError
		case wait != NoWait && !k.mayWait():
			return WaitError
		}
	}
	if k.perf&PerfQueue != 0 {
		q.counts.Sent++
		k.totals.queue.Sent++
	}
	if k.tracer != nil {
		k.trace(event, q.addr, k.stackPointer(), wait, q.enqueued)
	}
	notify := q.onSend
	if q.enqueued < q.capacity {
		if t := q.waiters.head; t != nil {
			q.waiters.remove(t)
			copy(t.message[:q.words()], message)
			k.wake(t, Success)
		} else if front {
			if q.read == 0 {
				q.read = uint32(len(q.area))
			}
			q.read -= q.size
			q.store(q.read, message)
			q.enqueued++
		} else {
			q.store(q.write, message)
			q.write = q.after(q.write)
			q.enqueued++
		}
		if notify != nil {
			notify(q)
		}
		return Success
	}
	if wait == NoWait || k.cannotBlock() {
		if k.perf&PerfQueue != 0 && !front && wait == NoWait { // ThreadX counts neither kind of front sends
			q.counts.FullErrors++
			k.totals.queue.FullErrors++
		}
		return QueueFull
	}
	if k.perf&PerfQueue != 0 && !front {
		q.counts.FullSuspensions++
		k.totals.queue.FullSuspensions++
	}
	t := k.current
	copy(t.message[:q.words()], message)
	t.front = front
	if front {
		q.waiters.pushFront(t)
	} else {
		q.waiters.push(t)
	}
	k.wait(t, q, QueueSuspended, wait)
	k.systemSuspend(t)
	if t.status == Success && notify != nil {
		notify(q)
	}
	return t.status
}

// Receive takes the oldest message into message. An empty queue makes the caller wait up to wait ticks, then QueueEmpty. A
// slice shorter than the queue's messages is a PtrError. Callers: everybody, outside of threads without waiting.
func (q *Queue) Receive(message []uint32, wait uint32) Status {
	if q.bad() {
		return QueueError
	}
	k := q.k
	k.charge(k.costs.Queue + q.size/wordSize*k.costs.Word)
	if k.checked {
		switch {
		case q.id != queueID:
			return QueueError
		case len(message) < q.words():
			return PtrError
		case wait != NoWait && !k.mayWait():
			return WaitError
		}
	}
	if k.perf&PerfQueue != 0 {
		q.counts.Received++
		k.totals.queue.Received++
	}
	if k.tracer != nil {
		k.trace(EventQueueReceive, q.addr, k.stackPointer(), wait, q.enqueued)
	}
	if q.enqueued != 0 {
		t := q.waiters.head
		if t != nil && t.front {
			copy(message[:q.words()], t.message[:]) // the one who waits to send to the front has the oldest message
		} else {
			q.load(message, q.read)
			q.read = q.after(q.read)
			if t == nil {
				q.enqueued--
				return Success
			}
			q.store(q.write, t.message[:])
			q.write = q.after(q.write)
		}
		q.waiters.remove(t)
		k.wake(t, Success)
		return Success
	}
	if wait == NoWait || k.cannotBlock() {
		return QueueEmpty
	}
	if k.perf&PerfQueue != 0 {
		q.counts.EmptySuspensions++
		k.totals.queue.EmptySuspensions++
	}
	t := k.current
	t.front = false
	words := q.words()
	q.waiters.push(t)
	k.wait(t, q, QueueSuspended, wait)
	k.systemSuspend(t)
	if t.status == Success {
		copy(message[:words], t.message[:])
	}
	return t.status
}

func (q *Queue) cleanup(t *Thread) {
	if q.id != queueID || q.waiters.count == 0 {
		return
	}
	t.waiting = nil
	q.waiters.remove(t)
	if t.state != QueueSuspended {
		return
	}
	k := q.k
	if k.perf&PerfQueue != 0 {
		q.counts.Timeouts++
		k.totals.queue.Timeouts++
	}
	if q.enqueued != 0 {
		k.wake(t, QueueFull)
	} else {
		k.wake(t, QueueEmpty)
	}
}

// Flush drops all messages. Who waits to send gets Success though its message is dropped with them. Callers: everybody.
func (q *Queue) Flush() Status {
	if q.bad() {
		return QueueError
	}
	k := q.k
	k.charge(k.costs.Call)
	if k.checked && q.id != queueID {
		return QueueError
	}
	if k.tracer != nil {
		k.trace(EventQueueFlush, q.addr, k.stackPointer(), 0, 0)
	}
	if q.enqueued == 0 {
		return Success
	}
	q.enqueued, q.read, q.write = 0, 0, 0
	if q.waiters.count == 0 {
		return Success
	}
	w := q.waiters
	q.waiters = waitList{}
	k.preemptDisable++
	k.wakeAll(w.head, w.count, Success)
	k.preemptDisable--
	k.preemptCheck()
	return Success
}

// Prioritize moves the waiter with the highest priority to the front. Callers: everybody.
func (q *Queue) Prioritize() Status {
	if q.bad() {
		return QueueError
	}
	k := q.k
	k.charge(k.costs.Call)
	if k.checked && q.id != queueID {
		return QueueError
	}
	if k.tracer != nil {
		k.trace(EventQueuePrioritize, q.addr, q.waiters.count, k.stackPointer(), 0)
	}
	k.prioritize(&q.waiters, WindowQueuePrioritize)
	return Success
}

// SendNotify registers f to be called after each message sent; nil for nobody.
func (q *Queue) SendNotify(f func(*Queue)) Status {
	if q.bad() {
		return QueueError
	}
	k := q.k
	k.charge(k.costs.Call)
	if k.checked && q.id != queueID {
		return QueueError
	}
	if !k.notify {
		return FeatureNotEnabled
	}
	k.trace(EventQueueSendNotify, q.addr, 0, 0, 0)
	q.onSend = f
	return Success
}

// QueueInfo is what [Queue.Info] tells.
type QueueInfo struct {
	Name           string
	Enqueued       uint32
	Available      uint32 // messages that fit still
	FirstSuspended *Thread
	SuspendedCount uint32
	Next           *Queue
}

// Info fills out, which may be nil. Callers: everybody.
func (q *Queue) Info(out *QueueInfo) Status {
	if q.bad() {
		return QueueError
	}
	k := q.k
	k.charge(k.costs.Call)
	if k.checked && q.id != queueID {
		return QueueError
	}
	k.trace(EventQueueInfo, q.addr, 0, 0, 0)
	if out != nil {
		*out = QueueInfo{q.name, q.enqueued, q.capacity - q.enqueued, q.waiters.head, q.waiters.count, q.node.next}
	}
	return Success
}

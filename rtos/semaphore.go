package rtos

// Semaphore is a counting semaphore. Make it live with [Kernel.CreateSemaphore].
type Semaphore struct {
	object
	node    link[Semaphore]
	count   uint32
	waiters waitList
	onPut   func(*Semaphore)
	counts  SemaphorePerformance
}

func (s *Semaphore) links() *link[Semaphore] { return s.node.links() }

func (s *Semaphore) bad() bool { return s == nil || s.k == nil }

const semaphoreSize = 28

// CreateSemaphore makes s live, with count instances. Callers: initialization, threads.
func (k *Kernel) CreateSemaphore(s *Semaphore, name string, count uint32) Status {
	k.charge(k.costs.Call)
	if k.checked {
		switch {
		case s == nil || s.node.next != nil:
			return SemaphoreError
		case !k.mayCreate():
			return CallerError
		}
	}
	*s = Semaphore{object: object{k: s.k, addr: s.addr}, count: count}
	k.adopt(&s.object, semaphoreID, name, semaphoreSize)
	link1(&k.sems, s)
	if k.tracer != nil {
		k.tracer.Created(s.describe())
		k.trace(EventSemaphoreCreate, s.addr, count, k.stackPointer(), 0)
	}
	return Success
}

func (s *Semaphore) describe() ObjectInfo {
	return ObjectInfo{Kind: KindSemaphore, Address: s.addr, Name: s.name, Parameter1: s.count}
}

// Delete ends s; who waits gets Deleted. Callers: threads.
func (s *Semaphore) Delete() Status {
	if s.bad() {
		return SemaphoreError
	}
	k := s.k
	k.charge(k.costs.Call)
	if k.checked {
		switch {
		case s.id != semaphoreID:
			return SemaphoreError
		case !k.mayDelete():
			return CallerError
		}
	}
	if k.tracer != nil {
		k.trace(EventSemaphoreDelete, s.addr, k.stackPointer(), 0, 0)
		k.tracer.Deleted(s.addr)
	}
	s.id = 0
	unlink1(&k.sems, s)
	w := s.waiters
	s.waiters = waitList{}
	k.preemptDisable++
	k.wakeAll(w.head, w.count, Deleted)
	k.preemptDisable--
	k.preemptCheck()
	return Success
}

// Get takes an instance; with none left it waits up to wait ticks, then NoInstance. Callers: everybody, outside of
// threads without waiting.
func (s *Semaphore) Get(wait uint32) Status {
	if s.bad() {
		return SemaphoreError
	}
	k := s.k
	k.charge(k.costs.Semaphore)
	if k.checked {
		switch {
		case s.id != semaphoreID:
			return SemaphoreError
		case wait != NoWait && !k.mayWait():
			return WaitError
		}
	}
	if k.perf&PerfSemaphore != 0 {
		s.counts.Gets++
		k.totals.semaphore.Gets++
	}
	if k.tracer != nil {
		k.trace(EventSemaphoreGet, s.addr, wait, s.count, k.stackPointer())
	}
	if s.count != 0 {
		s.count--
		return Success
	}
	if wait == NoWait || k.cannotBlock() {
		return NoInstance
	}
	if k.perf&PerfSemaphore != 0 {
		s.counts.Suspensions++
		k.totals.semaphore.Suspensions++
	}
	t := k.current
	s.waiters.push(t)
	k.wait(t, s, SemaphoreSuspended, wait)
	k.systemSuspend(t)
	return t.status
}

func (s *Semaphore) cleanup(t *Thread) {
	if s.id != semaphoreID || s.waiters.count == 0 {
		return
	}
	t.waiting = nil
	s.waiters.remove(t)
	if t.state != SemaphoreSuspended {
		return
	}
	k := s.k
	if k.perf&PerfSemaphore != 0 {
		s.counts.Timeouts++
		k.totals.semaphore.Timeouts++
	}
	k.wake(t, NoInstance)
}

// Put gives an instance: to who waits longest, or to the count, which wraps at 2^32. Callers: everybody.
func (s *Semaphore) Put() Status {
	if s.bad() {
		return SemaphoreError
	}
	k := s.k
	k.charge(k.costs.Semaphore)
	if k.checked && s.id != semaphoreID {
		return SemaphoreError
	}
	if k.tracer != nil {
		k.trace(EventSemaphorePut, s.addr, s.count, s.waiters.count, k.stackPointer())
	}
	s.put(k)
	return Success
}

// CeilingPut is Put that refuses with CeilingExceeded when there are ceiling instances or more and nobody waits. Callers:
// everybody.
func (s *Semaphore) CeilingPut(ceiling uint32) Status {
	if s.bad() {
		return SemaphoreError
	}
	k := s.k
	k.charge(k.costs.Semaphore)
	if k.checked {
		switch {
		case s.id != semaphoreID:
			return SemaphoreError
		case ceiling == 0:
			return InvalidCeiling
		}
	}
	k.trace(EventSemaphoreCeilingPut, s.addr, s.count, s.waiters.count, ceiling)
	if s.waiters.count == 0 && s.count >= ceiling {
		s.countPut(k)
		return CeilingExceeded
	}
	s.put(k)
	return Success
}

// countPut counts what was tried, as ThreadX does.
func (s *Semaphore) countPut(k *Kernel) {
	if k.perf&PerfSemaphore != 0 {
		s.counts.Puts++
		k.totals.semaphore.Puts++
	}
}

func (s *Semaphore) put(k *Kernel) {
	s.countPut(k)
	notify := s.onPut
	if t := s.waiters.head; t == nil {
		s.count++
	} else {
		s.waiters.remove(t)
		k.wake(t, Success)
	}
	if notify != nil {
		notify(s)
	}
}

// Prioritize moves the waiter with the highest priority to the front. Callers: everybody.
func (s *Semaphore) Prioritize() Status {
	if s.bad() {
		return SemaphoreError
	}
	k := s.k
	k.charge(k.costs.Call)
	if k.checked && s.id != semaphoreID {
		return SemaphoreError
	}
	if k.tracer != nil {
		k.trace(EventSemaphorePrioritize, s.addr, s.waiters.count, k.stackPointer(), 0)
	}
	k.prioritize(&s.waiters, WindowSemaphorePrioritize)
	return Success
}

// PutNotify registers f to be called after each put, even when a waiter got the instance and ran first; nil for nobody.
func (s *Semaphore) PutNotify(f func(*Semaphore)) Status {
	if s.bad() {
		return SemaphoreError
	}
	k := s.k
	k.charge(k.costs.Call)
	if k.checked && s.id != semaphoreID {
		return SemaphoreError
	}
	if !k.notify {
		return FeatureNotEnabled
	}
	k.trace(EventSemaphorePutNotify, s.addr, 0, 0, 0)
	s.onPut = f
	return Success
}

// SemaphoreInfo is what [Semaphore.Info] tells.
type SemaphoreInfo struct {
	Name           string
	Count          uint32
	FirstSuspended *Thread
	SuspendedCount uint32
	Next           *Semaphore
}

// Info fills out, which may be nil. Callers: everybody.
func (s *Semaphore) Info(out *SemaphoreInfo) Status {
	if s.bad() {
		return SemaphoreError
	}
	k := s.k
	k.charge(k.costs.Call)
	if k.checked && s.id != semaphoreID {
		return SemaphoreError
	}
	k.trace(EventSemaphoreInfo, s.addr, 0, 0, 0)
	if out != nil {
		*out = SemaphoreInfo{s.name, s.count, s.waiters.head, s.waiters.count, s.node.next}
	}
	return Success
}

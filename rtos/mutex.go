package rtos

// Mutex is a recursive mutex, with or without one-level priority inheritance. Make it live with [Kernel.CreateMutex].
type Mutex struct {
	object
	node           link[Mutex]
	owned          link[Mutex] // of one owner
	owner          *Thread
	count          uint32
	inherit        bool
	highestWaiting uint32 // MaxPriorities: nobody
	waiters        waitList
	counts         MutexPerformance
}

func (m *Mutex) links() *link[Mutex] { return m.node.links() }

func (m *Mutex) bad() bool { return m == nil || m.k == nil }

const mutexSize = 52

// CreateMutex makes m live; inherit is Inherit or NoInherit. Callers: initialization, threads.
func (k *Kernel) CreateMutex(m *Mutex, name string, inherit uint32) Status {
	k.charge(k.costs.Call)
	if k.checked {
		switch {
		case m == nil || m.node.next != nil:
			return MutexError
		case inherit != Inherit && inherit != NoInherit:
			return InheritError
		case !k.mayCreate():
			return CallerError
		}
	}
	*m = Mutex{object: object{k: m.k, addr: m.addr}, inherit: inherit == Inherit, highestWaiting: k.cfg.MaxPriorities}
	k.adopt(&m.object, mutexID, name, mutexSize)
	link1(&k.mutexes, m)
	if k.tracer != nil {
		k.tracer.Created(m.describe())
		k.trace(EventMutexCreate, m.addr, inherit, k.stackPointer(), 0)
	}
	return Success
}

func (m *Mutex) describe() ObjectInfo {
	o := ObjectInfo{Kind: KindMutex, Address: m.addr, Name: m.name}
	if m.inherit {
		o.Parameter1 = 1
	}
	return o
}

// Delete ends m. Its owner loses it first, and with it the priority that it inherited; then who waits gets Deleted. Callers:
// threads.
func (m *Mutex) Delete() Status {
	if m.bad() {
		return MutexError
	}
	k := m.k
	k.charge(k.costs.Call)
	if k.checked {
		switch {
		case m.id != mutexID:
			return MutexError
		case !k.mayDelete():
			return CallerError
		}
	}
	if k.tracer != nil {
		k.trace(EventMutexDelete, m.addr, k.stackPointer(), 0, 0)
		k.tracer.Deleted(m.addr)
	}
	m.id = 0
	unlink1(&k.mutexes, m)
	k.preemptDisable++
	w := m.waiters
	m.waiters = waitList{}
	if m.owner != nil {
		m.count = 1
		_ = m.put(k) // preemption is disabled: it is not asked who puts
	}
	k.wakeAll(w.head, w.count, Deleted)
	k.preemptDisable--
	k.preemptCheck()
	return Success
}

// Get makes the caller the owner, once more if it is already. When another owns m it waits up to wait ticks, then
// NotAvailable; with inheritance the owner runs at the caller's priority for as long. Callers: initialization, threads,
// timers without waiting.
func (m *Mutex) Get(wait uint32) Status {
	if m.bad() {
		return MutexError
	}
	k := m.k
	k.charge(k.costs.Mutex)
	if k.checked {
		switch {
		case m.id != mutexID:
			return MutexError
		case wait != NoWait && !k.mayWait():
			return WaitError
		case k.inISR():
			return CallerError
		}
	}
	if k.perf&PerfMutex != 0 {
		m.counts.Gets++
		k.totals.mutex.Gets++
	}
	k.trace(EventMutexGet, m.addr, wait, m.owner.address(), m.count)
	t := k.current
	switch {
	case m.count == 0:
		m.count = 1
		m.grant(t)
		return Success
	case m.owner == t:
		m.count++
		return Success
	case wait == NoWait || k.cannotBlock():
		return NotAvailable
	}
	owner := m.owner // nil: initialization took it and nobody can give it back
	if k.perf&PerfMutex != 0 {
		m.counts.Suspensions++
		k.totals.mutex.Suspensions++
	}
	if owner != nil && t.priority < owner.priority {
		if k.perf&PerfMutex != 0 {
			m.counts.Inversions++
			k.totals.mutex.Inversions++
		}
		if k.perf&PerfThread != 0 {
			t.counts.PriorityInversions++
			k.totals.thread.PriorityInversions++
		}
	}
	m.waiters.push(t)
	k.wait(t, m, MutexSuspended, wait)
	if m.inherit && owner != nil {
		m.highestWaiting = min(m.highestWaiting, t.priority)
		owner.inheritPriority = min(owner.inheritPriority, t.priority)
		if owner.priority > t.priority {
			k.boost(owner, t.priority)
			if k.perf&PerfMutex != 0 {
				m.counts.Inheritances++
				k.totals.mutex.Inheritances++
			}
		}
	}
	k.systemSuspend(t)
	return t.status
}

// grant writes down that t, or nobody in initialization, owns m.
func (m *Mutex) grant(t *Thread) {
	m.owner = t
	if t == nil {
		return
	}
	if m.inherit {
		m.highestWaiting = m.k.cfg.MaxPriorities
	}
	if t.ownedCount++; t.owned == nil {
		t.owned = m
		m.owned = link[Mutex]{m, m}
		return
	}
	first := t.owned
	last := first.owned.prev
	m.owned = link[Mutex]{first, last}
	last.owned.next, first.owned.prev = m, m
}

func (m *Mutex) cleanup(t *Thread) {
	if m.id != mutexID || m.waiters.count == 0 {
		return
	}
	t.waiting = nil
	m.waiters.remove(t)
	if t.state != MutexSuspended {
		return
	}
	k := m.k
	if k.perf&PerfMutex != 0 {
		m.counts.Timeouts++
		k.totals.mutex.Timeouts++
	}
	k.wake(t, NotAvailable)
}

// Put gives m back once; at the last time it goes to who waits longest, with inheritance to the highest priority, and the caller
// falls to the best priority that it still inherits. Callers: initialization, threads, timers.
func (m *Mutex) Put() Status {
	if m.bad() {
		return MutexError
	}
	k := m.k
	k.charge(k.costs.Mutex)
	if k.checked {
		switch {
		case m.id != mutexID:
			return MutexError
		case k.inISR():
			return CallerError
		}
	}
	return m.put(k)
}

func (m *Mutex) put(k *Kernel) Status {
	if k.perf&PerfMutex != 0 {
		m.counts.Puts++
		k.totals.mutex.Puts++
	}
	if k.tracer != nil {
		k.trace(EventMutexPut, m.addr, m.owner.address(), m.count, k.stackPointer())
	}
	owner := m.owner
	if m.count == 0 || owner != k.current && k.preemptDisable == 0 {
		return NotOwned
	}
	m.count--
	if m.count != 0 || owner == nil {
		return Success
	}
	if owner.ownedCount--; owner.ownedCount == 0 {
		owner.owned = nil
	} else {
		m.owned.next.owned.prev = m.owned.prev
		m.owned.prev.owned.next = m.owned.next
		if owner.owned == m {
			owner.owned = m.owned.next
		}
	}
	if m.waiters.head == nil && !m.inherit {
		m.owner = nil
		return Success
	}
	falls := owner.userPriority
	if m.inherit {
		k.preemptDisable++
		k.window(WindowMutexPut)
		best := k.cfg.MaxPriorities
		for n, left := owner.owned, owner.ownedCount; left > 0; n, left = n.owned.next, left-1 {
			if n.inherit {
				best = min(best, n.highestWaiting)
			}
		}
		k.preemptDisable--
		owner.inheritPriority = best
		falls = min(falls, best)
		if m.waiters.count > 1 {
			k.preemptDisable++
			k.prioritize(&m.waiters, WindowMutexPrioritize)
			k.preemptDisable--
		}
	}
	t := m.waiters.head
	if t == nil {
		k.preemptDisable++
		k.window(WindowMutexPut)
		m.highestWaiting = k.cfg.MaxPriorities
		if owner.priority != falls {
			k.boost(owner, falls)
		}
		k.preemptDisable--
		m.owner = nil
		k.preemptCheck()
		return Success
	}
	m.count = 1
	m.grant(t)
	m.waiters.remove(t)
	t.waiting = nil
	t.status = Success
	k.preemptDisable++
	k.window(WindowResume)
	if m.inherit {
		if m.waiters.count != 0 {
			k.prioritize(&m.waiters, WindowMutexPrioritize)
			if w := m.waiters.head; w != nil {
				m.highestWaiting = w.priority
			}
		}
		if owner.priority != falls {
			k.boost(owner, falls)
		}
	}
	k.systemResume(t)
	return Success
}

// releaseMutexes gives back all that t owns; t ends.
func (k *Kernel) releaseMutexes(t *Thread) {
	k.preemptDisable++
	for t.owned != nil {
		t.owned.count = 1
		_ = t.owned.put(k) // preemption is disabled: it is not asked who puts
	}
	k.preemptDisable--
}

// boost moves t to priority p, up or down, and its threshold with it as far as its own allows (rtos §6.1). Preemption is
// disabled.
func (k *Kernel) boost(t *Thread, p uint32) {
	set := func() {
		t.priority = p
		t.threshold = min(t.userThreshold, p)
	}
	if t.state != Ready {
		set()
		return
	}
	e, before := k.execute, t.priority
	k.preemptDisable += 2
	t.state = PriorityChange
	t.suspending = true
	t.timer.remaining = 0
	k.window(WindowThreadSuspend)
	k.systemSuspend(t)
	set()
	k.systemResume(t)
	n := k.execute
	if t == n || t.state != Ready {
		return
	}
	switch {
	case t.priority <= n.priority:
		if t != e {
			return
		}
	case t.threshold >= t.priority:
		return
	case t.threshold > n.priority:
		k.preempted.set(t.priority)
		return
	}
	k.execute = t
	if before < p {
		k.ready[t.priority] = t
	}
}

// Prioritize moves the waiter with the highest priority to the front. Callers: everybody.
func (m *Mutex) Prioritize() Status {
	if m.bad() {
		return MutexError
	}
	k := m.k
	k.charge(k.costs.Call)
	if k.checked && m.id != mutexID {
		return MutexError
	}
	if k.tracer != nil {
		k.trace(EventMutexPrioritize, m.addr, m.waiters.count, k.stackPointer(), 0)
	}
	k.prioritize(&m.waiters, WindowMutexPrioritize)
	return Success
}

// MutexInfo is what [Mutex.Info] tells.
type MutexInfo struct {
	Name           string
	Count          uint32 // how often the owner took it
	Owner          *Thread
	FirstSuspended *Thread
	SuspendedCount uint32
	Next           *Mutex
}

// Info fills out, which may be nil. Callers: everybody.
func (m *Mutex) Info(out *MutexInfo) Status {
	if m.bad() {
		return MutexError
	}
	k := m.k
	k.charge(k.costs.Call)
	if k.checked && m.id != mutexID {
		return MutexError
	}
	k.trace(EventMutexInfo, m.addr, 0, 0, 0)
	if out != nil {
		*out = MutexInfo{m.name, m.count, m.owner, m.waiters.head, m.waiters.count, m.node.next}
	}
	return Success
}

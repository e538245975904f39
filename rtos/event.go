package rtos

// EventFlags is a group of 32 event flags. Make it live with [Kernel.CreateEventFlags].
type EventFlags struct {
	object
	node    link[EventFlags]
	flags   uint32
	waiters waitList
	onSet   func(*EventFlags)
	counts  EventPerformance

	// While a Set looks through the waiters their list is detached: count stays, head is nil. What interrupts do
	// meanwhile is kept here.
	delayedClear uint32
	searchAgain  bool
}

func (g *EventFlags) links() *link[EventFlags] { return g.node.links() }

func (g *EventFlags) bad() bool { return g == nil || g.k == nil }

const eventSize = 36

// CreateEventFlags makes g live, all flags clear. Callers: initialization, threads.
func (k *Kernel) CreateEventFlags(g *EventFlags, name string) Status {
	k.charge(k.costs.Call)
	if k.checked {
		switch {
		case g == nil || g.node.next != nil:
			return GroupError
		case !k.mayCreate():
			return CallerError
		}
	}
	*g = EventFlags{object: object{k: g.k, addr: g.addr}}
	k.adopt(&g.object, eventID, name, eventSize)
	link1(&k.groups, g)
	if k.tracer != nil {
		k.tracer.Created(g.describe())
		k.trace(EventEventFlagsCreate, g.addr, k.stackPointer(), 0, 0)
	}
	return Success
}

func (g *EventFlags) describe() ObjectInfo {
	return ObjectInfo{Kind: KindEventFlags, Address: g.addr, Name: g.name}
}

// Delete ends g; who waits gets Deleted. Callers: threads.
func (g *EventFlags) Delete() Status {
	if g.bad() {
		return GroupError
	}
	k := g.k
	k.charge(k.costs.Call)
	if k.checked {
		switch {
		case g.id != eventID:
			return GroupError
		case !k.mayDelete():
			return CallerError
		}
	}
	if k.tracer != nil {
		k.trace(EventEventFlagsDelete, g.addr, k.stackPointer(), 0, 0)
		k.tracer.Deleted(g.addr)
	}
	g.id = 0
	unlink1(&k.groups, g)
	w := g.waiters
	g.waiters = waitList{}
	k.preemptDisable++
	k.wakeAll(w.head, w.count, Deleted)
	k.preemptDisable--
	k.preemptCheck()
	return Success
}

// satisfied is which of the requested flags are set, none unless the option's condition holds.
func satisfied(flags, requested, option uint32) uint32 {
	got := flags & requested
	if option&And != 0 && got != requested {
		return 0
	}
	return got
}

// searching reports that a Set, further down the stack, looks through the waiters.
func (g *EventFlags) searching() bool { return g.waiters.count != 0 && g.waiters.head == nil }

// Get waits up to wait ticks for flags: all of requested (And), or any (Or). actual gets what was set before the Clear forms of the
// options cleared all requested flags. NoEvents when it does not come about. Callers: everybody, outside of
// threads without waiting.
func (g *EventFlags) Get(requested, option uint32, actual *uint32, wait uint32) Status {
	if g.bad() {
		return GroupError
	}
	k := g.k
	k.charge(k.costs.Event)
	if k.checked {
		switch {
		case g.id != eventID:
			return GroupError
		case actual == nil:
			return PtrError
		case wait != NoWait && !k.mayWait():
			return WaitError
		case option > AndClear:
			return OptionError
		}
	}
	if k.perf&PerfEvent != 0 {
		g.counts.Gets++
		k.totals.event.Gets++
	}
	k.trace(EventEventFlagsGet, g.addr, requested, g.flags, option)
	flags := g.flags &^ g.delayedClear
	*actual = flags
	if satisfied(flags, requested, option) != 0 {
		if option&OrClear != 0 {
			if g.searching() {
				g.delayedClear |= requested
			} else {
				g.flags &^= requested
			}
		}
		return Success
	}
	if wait == NoWait || requested == 0 || k.cannotBlock() {
		return NoEvents
	}
	if k.perf&PerfEvent != 0 {
		g.counts.Suspensions++
		k.totals.event.Suspensions++
	}
	t := k.current
	t.wanted, t.option, t.got = requested, option, flags
	g.waiters.push(t)
	k.wait(t, g, EventSuspended, wait)
	k.systemSuspend(t)
	*actual = t.got
	return t.status
}

func (g *EventFlags) cleanup(t *Thread) {
	if g.id != eventID || g.waiters.count == 0 {
		return
	}
	t.waiting = nil
	if g.searching() {
		g.searchAgain = true // the search drops who waits no longer
	} else {
		g.waiters.remove(t)
	}
	if t.state != EventSuspended {
		return
	}
	k := g.k
	if k.perf&PerfEvent != 0 {
		g.counts.Timeouts++
		k.totals.event.Timeouts++
	}
	k.wake(t, NoEvents)
}

// Set sets flags (Or) or keeps only those (And). After Or every waiter is compared with one and the same value; what satisfied waiters
// clear is cleared at the end. Callers: everybody.
func (g *EventFlags) Set(flags, option uint32) Status {
	if g.bad() {
		return GroupError
	}
	k := g.k
	k.charge(k.costs.Event)
	if k.checked {
		switch {
		case g.id != eventID:
			return GroupError
		case option != And && option != Or:
			return OptionError
		}
	}
	if k.perf&PerfEvent != 0 {
		g.counts.Sets++
		k.totals.event.Sets++
	}
	k.trace(EventEventFlagsSet, g.addr, flags, option, g.waiters.count)
	if option&And != 0 {
		if g.searching() {
			g.delayedClear |= ^flags
		} else {
			g.flags &= flags
		}
		return Success
	}
	notify := g.onSet
	g.flags |= flags
	g.delayedClear &^= flags
	check := false
	switch {
	case g.searching():
		g.searchAgain = true // the interrupted Set looks at these flags, too
	case g.waiters.count == 1:
		t := g.waiters.head
		if satisfied(g.flags, t.wanted, t.option) != 0 {
			t.got = g.flags
			if t.option&OrClear != 0 {
				g.flags &^= t.wanted
			}
			g.waiters = waitList{}
			k.wake(t, Success)
		}
	case g.waiters.count > 1:
		check = true
		k.preemptDisable++
		g.search(k)
		k.preemptDisable--
	}
	if notify != nil {
		notify(g)
	}
	if check {
		k.preemptCheck()
	}
	return Success
}

// search wakes the satisfied among several waiters. Preemption is disabled; interrupts may land between two of them.
func (g *EventFlags) search(k *Kernel) {
	list := waitList{g.waiters.head, g.waiters.count}
	g.waiters.head = nil
	snapshot := g.flags
	var done, last *Thread // satisfied, linked by waitNext
	for t, left := list.head, list.count; left != 0; left-- {
		k.window(WindowEventSet)
		if g.searchAgain {
			g.searchAgain = false
			t, left = list.head, list.count
			snapshot |= g.flags
		}
		next := t.waitNext
		waits := t.state == EventSuspended // otherwise an interrupt aborted its wait, and woke it
		if waits && satisfied(snapshot, t.wanted, t.option) != 0 {
			t.got = snapshot
			if t.option&OrClear != 0 {
				g.flags &^= t.wanted
			}
			t.waiting = nil
			t.status = Success
			list.remove(t)
			t.waitNext = nil
			if done == nil {
				done = t
			} else {
				last.waitNext = t
			}
			last = t
		} else if !waits {
			list.remove(t)
		}
		g.waiters.count = list.count
		t = next
	}
	g.waiters.head = list.head
	g.flags &^= g.delayedClear
	g.delayedClear = 0
	g.searchAgain = false
	for t := done; t != nil; {
		next := t.waitNext
		k.preemptDisable++
		k.window(WindowResume)
		k.systemResume(t)
		t = next
	}
}

// SetNotify registers f to be called after each setting of flags, before others may run; nil for nobody.
func (g *EventFlags) SetNotify(f func(*EventFlags)) Status {
	if g.bad() {
		return GroupError
	}
	k := g.k
	k.charge(k.costs.Call)
	if k.checked && g.id != eventID {
		return GroupError
	}
	if !k.notify {
		return FeatureNotEnabled
	}
	k.trace(EventEventFlagsSetNotify, g.addr, 0, 0, 0)
	g.onSet = f
	return Success
}

// EventFlagsInfo is what [EventFlags.Info] tells.
type EventFlagsInfo struct {
	Name           string
	Flags          uint32
	FirstSuspended *Thread
	SuspendedCount uint32
	Next           *EventFlags
}

// Info fills out, which may be nil. Callers: everybody.
func (g *EventFlags) Info(out *EventFlagsInfo) Status {
	if g.bad() {
		return GroupError
	}
	k := g.k
	k.charge(k.costs.Call)
	if k.checked && g.id != eventID {
		return GroupError
	}
	k.trace(EventEventFlagsInfo, g.addr, 0, 0, 0)
	if out != nil {
		*out = EventFlagsInfo{g.name, g.flags &^ g.delayedClear, g.waiters.head, g.waiters.count, g.node.next}
	}
	return Success
}

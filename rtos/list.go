package rtos

// object is what every control block begins with. Its zero value is not created.
type object struct {
	k    *Kernel
	id   uint32
	addr uint32 // where the control block would lie on the chip; names it in traces
	name string
}

// Name is the one given at creation.
func (o *object) Name() string { return o.name }

// Address is a number that names the object in this kernel, as its control block's address does
// in ThreadX. It depends only on the order of creation.
func (o *object) Address() uint32 { return o.addr }

// link keeps an object in the list of created objects of its type, in the order of creation.
type link[T any] struct{ next, prev *T }

func (l *link[T]) links() *link[T] { return l }

type linked[T any] interface {
	*T
	links() *link[T]
}

// created is the circular list of the live objects of one type.
type created[T any] struct {
	first *T
	count uint32
}

func link1[T any, P linked[T]](c *created[T], p P) {
	c.count++
	if c.first == nil {
		c.first = p
		*p.links() = link[T]{p, p}
		return
	}
	first := P(c.first)
	last := P(first.links().prev)
	*p.links() = link[T]{c.first, last}
	last.links().next = p
	first.links().prev = p
}

func unlink1[T any, P linked[T]](c *created[T], p P) {
	l := p.links()
	c.count--
	if c.count == 0 {
		c.first = nil
	} else {
		P(l.next).links().prev = l.prev
		P(l.prev).links().next = l.next
		if c.first == p {
			c.first = l.next
		}
	}
	*l = link[T]{}
}

// waitList holds the threads that wait for an object, first come first.
type waitList struct {
	head  *Thread
	count uint32
}

func (l *waitList) push(t *Thread) {
	l.count++
	if l.head == nil {
		l.head, t.waitNext, t.waitPrev = t, t, t
		return
	}
	last := l.head.waitPrev
	t.waitNext, t.waitPrev = l.head, last
	last.waitNext, l.head.waitPrev = t, t
}

func (l *waitList) pushFront(t *Thread) {
	l.push(t)
	l.head = t
}

func (l *waitList) remove(t *Thread) {
	l.count--
	if l.count == 0 {
		l.head = nil
		return
	}
	t.waitNext.waitPrev = t.waitPrev
	t.waitPrev.waitNext = t.waitNext
	if l.head == t {
		l.head = t.waitNext
	}
}

// prioritize moves the waiter with the highest priority, the first among equals, to the head. The
// others keep their order. Interrupts may land after each waiter looked at; when they change the
// list the search starts again (rtos §19).
func (k *Kernel) prioritize(l *waitList, w Window) {
	if l.count < 2 {
		return
	}
	if l.count == 2 {
		if l.head.waitNext.priority < l.head.priority {
			l.head = l.head.waitNext
		}
		return
	}
	k.preemptDisable++
	head, count, best := l.head, l.count, l.head
	for t := head.waitNext; t != head; {
		if t.priority < best.priority {
			best = t
		}
		k.window(w)
		if head == l.head && count == l.count {
			t = t.waitNext
			continue
		}
		head, count, best = l.head, l.count, l.head
		if head == nil {
			break
		}
		t = head.waitNext
	}
	k.preemptDisable--
	if best != head {
		best.waitNext.waitPrev = best.waitPrev
		best.waitPrev.waitNext = best.waitNext
		last := head.waitPrev
		best.waitNext, best.waitPrev = head, last
		last.waitNext, head.waitPrev = best, best
		l.head = best
	}
	k.preemptCheck()
}

// wakeAll readies all of a list in its order, each with status, before any of them may run.
// The list must already be detached; the caller has disabled preemption.
func (k *Kernel) wakeAll(t *Thread, count uint32, status Status) {
	for ; count > 0 && t != nil; count-- {
		next := t.waitNext
		t.waiting = nil
		t.status = status
		k.preemptDisable++
		k.window(WindowResume)
		k.systemResume(t)
		t = next
	}
}

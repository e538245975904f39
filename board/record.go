package board

import (
	"iter"
	"slices"

	"github.com/vauban-iot/vauban/rtos"
)

// recorder keeps the last events of the kernel for a crash report, and what was created for the budget.
type recorder struct {
	also    rtos.Tracer
	ring    []rtos.Event // full once it is as long as its capacity; next is then the oldest
	next    int
	objects []object
	pending rtos.Event // of a create service: where the object's memory lies
}

type object struct {
	rtos.ObjectInfo
	start, size uint32 // of its stack or area
}

const maxObjects = 4096 // whose names are known

func (r *recorder) reset() {
	r.ring = r.ring[:0]
	r.next = 0
	r.objects = r.objects[:0]
}

func (r *recorder) Event(e rtos.Event) {
	switch e.ID {
	case rtos.EventQueueCreate, rtos.EventBytePoolCreate, rtos.EventBlockPoolCreate:
		if i := r.find(e.Info[0]); i >= 0 {
			r.objects[i].area(e)
		} else {
			r.pending = e
		}
	}
	switch {
	case cap(r.ring) == 0:
	case len(r.ring) < cap(r.ring):
		r.ring = append(r.ring, e)
	default:
		r.ring[r.next] = e
		r.next = (r.next + 1) % len(r.ring)
	}
	if r.also != nil {
		r.also.Event(e)
	}
}

// area learns from a create event where an object's memory lies.
func (o *object) area(e rtos.Event) {
	switch e.ID {
	case rtos.EventQueueCreate:
		o.start, o.size = e.Info[2], e.Info[3]
	case rtos.EventBytePoolCreate:
		o.start, o.size = e.Info[1], e.Info[2]
	case rtos.EventBlockPoolCreate:
		const link = 4 // each block has a pointer before it
		o.start, o.size = e.Info[1], e.Info[2]*(e.Info[3]+link)
	}
}

func (r *recorder) Created(o rtos.ObjectInfo) {
	if len(r.objects) < maxObjects && r.find(o.Address) < 0 {
		x := object{ObjectInfo: o}
		if o.Kind == rtos.KindThread {
			x.start, x.size = o.Parameter1, o.Parameter2
		}
		if r.pending.ID != 0 && r.pending.Info[0] == o.Address {
			x.area(r.pending)
			r.pending = rtos.Event{}
		}
		r.objects = append(r.objects, x)
	}
	if r.also != nil {
		r.also.Created(o)
	}
}

func (r *recorder) Deleted(address uint32) {
	if i := r.find(address); i >= 0 {
		r.objects = slices.Delete(r.objects, i, i+1)
	}
	if r.also != nil {
		r.also.Deleted(address)
	}
}

func (r *recorder) find(address uint32) int {
	return slices.IndexFunc(r.objects, func(o object) bool { return o.Address == address })
}

func (r *recorder) name(address uint32) string {
	if i := r.find(address); i >= 0 {
		return r.objects[i].Name
	}
	return ""
}

// last is what the ring holds, the oldest first.
func (r *recorder) last() iter.Seq[rtos.Event] {
	return func(yield func(rtos.Event) bool) {
		for i := range r.ring {
			if !yield(r.ring[(r.next+i)%len(r.ring)]) {
				return
			}
		}
	}
}

package firmware

import (
	"errors"
	"slices"
	"sync"

	"github.com/vauban-iot/vauban/rtos"
)

// ErrFull is returned by Inbox.Put when a firmware has not taken what it was given before.
var ErrFull = errors.New("firmware: the board does not take what it is given")

// Inbox hands what goroutines have for a board to one of its threads, in order. It belongs to one kernel.
type Inbox[T any] struct {
	kernel  *rtos.Kernel
	waiting rtos.Semaphore
	max     int

	mu    sync.Mutex
	items []T
}

// NewInbox makes an inbox that holds at most so many. Callers: initialization, threads.
func NewInbox[T any](k *rtos.Kernel, name string, most int) *Inbox[T] {
	i := &Inbox[T]{kernel: k, max: most}
	Must(k.CreateSemaphore(&i.waiting, name, 0))
	return i
}

// Put gives v to the board. Any goroutine may; it does not wait.
func (i *Inbox[T]) Put(v T) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.items) >= i.max {
		return ErrFull
	}
	if err := i.kernel.Post(func() { Must(i.waiting.Put()) }); err != nil {
		return err
	}
	i.items = append(i.items, v)
	return nil
}

// Get takes the next one, and waits for it up to wait ticks. Callers: threads.
func (i *Inbox[T]) Get(wait uint32) (v T, ok bool) {
	if i.waiting.Get(wait) != rtos.Success {
		return v, false
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	v = i.items[0]
	i.items = slices.Delete(i.items, 0, 1)
	return v, true
}

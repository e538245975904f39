// Package rtos is a real-time kernel with the semantics of ThreadX: priority threads with
// preemption-threshold and time slices, semaphores, mutexes with one-level priority inheritance,
// event flags, queues, block and byte pools, application timers and interrupts, with ThreadX's
// numbers and words. Sections named in comments as "rtos §5" are those of the wire reference.
//
// A [Kernel] is one board. Its objects are plain structs that Create calls make live; services are
// their methods and answer a [Status]. Services allocate nothing. The zero value of an object is
// not created and answers its type's error, as a control block without its identifier does.
//
// A kernel runs in one of two ways:
//
//   - Virtual time. [Kernel.RunUntil] plays the board up to a moment. Time, counted in cycles of the
//     core clock, passes only by calls (each costs what [Costs] says), by [Kernel.Compute], and when
//     nothing is ready, by a jump to the next event. The same inputs give the same trace, bit by bit,
//     on any machine. A thread that loops without calling its kernel stops time, and with it the caller.
//   - Real time. [Kernel.Run] takes ticks from the monotonic clock, and interrupts from
//     [Kernel.Post]. They are noticed at calls and in Compute.
//
// Threads are coroutines: at any moment one of them, or the caller of RunUntil, runs. A kernel and its
// objects must be used by its own threads, its interrupt routines, and between runs by the caller of
// RunUntil; only Post may be called by other goroutines. Kernels share nothing: thousands of them may run
// in one process, in parallel. A finished kernel is ended with [Kernel.Close], or its threads leak.
//
// The kernel was compared with ThreadX's Linux simulation port, never with ThreadX on a chip, and no
// certification of ThreadX covers it.
package rtos

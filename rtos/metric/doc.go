// Package metric runs Thread-Metric's eight tests (rtos §21) on Vauban's kernel, through a porting layer as every kernel under
// Thread-Metric has one. Each test counts units of work in a period:
//
//   - in virtual time the total is a constant of the kernel and its cost table, good for noticing that either changed;
//   - in real time it is a speed, comparable between kernels that run the same test on the same machine.
//
// Kernels of which one is simulated by POSIX threads and the other by coroutines are comparable on a PC, and say nothing
// about a microcontroller.
package metric

// Sentence goes with every comparison that is printed.
const Sentence = "This compares with ThreadX's Linux simulation port on the same machine, never with ThreadX on a chip."

package intel

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// hugePage is the size of a large page on the machines this serves.
const hugePage = 2 << 20

// huge asks for large pages below a table that is read at random: without them every look at it also misses the processor's table of pages. The memory
// stays Go's own; whether the system does it changes nothing else.
func huge[E any](s []E) {
	if len(s) == 0 {
		return
	}
	b := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), uintptr(len(s))*unsafe.Sizeof(s[0]))
	skip := int(-uintptr(unsafe.Pointer(&b[0])) & (hugePage - 1))
	if n := (len(b) - skip) &^ (hugePage - 1); skip < len(b) && n > 0 {
		_ = unix.Madvise(b[skip:skip+n], unix.MADV_HUGEPAGE)
	}
}

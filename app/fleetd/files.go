package fleetd

import (
	"fmt"
	"syscall"
)

// spare is how many files a process has open beside connections.
const spare = 256

// openFiles refuses fleets that would run out of files: each board has a connection, whose other end is in the same process when the installation
// is.
func openFiles(boards int, throwAway bool) error {
	need := uint64(boards) + spare
	if throwAway {
		need += uint64(boards)
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("how many files may be open: %w", err)
	}
	if need > limit.Max {
		return fmt.Errorf("%d boards need %d open files, and this machine allows %d: raise it with `ulimit -n`, or take fewer boards", boards, need, limit.Max)
	}
	return nil
}

//go:build !linux

package node

// machineMemory is not known here; see the file for Linux.
func machineMemory() uint64 { return 0 }

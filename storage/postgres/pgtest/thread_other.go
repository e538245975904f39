//go:build unix && !linux

package pgtest

import "syscall"

// attributes runs a child as cred.
func attributes(cred *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: cred}
}

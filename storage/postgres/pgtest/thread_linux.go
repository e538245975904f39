package pgtest

import "syscall"

// attributes runs a child as cred, and ends it when the test binary is killed.
func attributes(cred *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: cred, Pdeathsig: syscall.SIGQUIT}
}

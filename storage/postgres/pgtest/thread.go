//go:build unix

package pgtest

import (
	"os/exec"
	"runtime"
)

// waitOnThread starts cmd and waits for it on one thread, because the signal at a parent's
// death is sent at the death of the thread that started the child.
func waitOnThread(cmd *exec.Cmd, begun chan<- error, exited chan<- struct{}) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(exited)
	err := cmd.Start()
	begun <- err
	if err == nil {
		cmd.Wait()
	}
}

// withParent is cmd.CombinedOutput on one thread.
func withParent(cmd *exec.Cmd) ([]byte, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return cmd.CombinedOutput()
}

//go:build !linux

package process

import (
	"context"
	"errors"
)

var errLinux = errors.New("this is not Linux")

func (w *Watcher) runEBPF(context.Context, func(), func(event)) error    { return errLinux }
func (w *Watcher) runNetlink(context.Context, func(), func(event)) error { return errLinux }

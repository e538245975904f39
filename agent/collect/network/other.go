//go:build !linux

package network

import "errors"

var errLinux = errors.New("this is not Linux")

func openEBPF() (counter, error)                   { return nil, errLinux }
func (w *Watcher) openConntrack() (counter, error) { return nil, errLinux }

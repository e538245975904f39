//go:build !linux

package system

import "runtime"

func kernel() (uname, string) { return uname{platform: runtime.GOOS}, runtime.GOARCH }

//go:build !linux

package peripheral

import (
	"context"
	"errors"

	"github.com/vauban-iot/vauban/wire/secmsg"
)

var errLinux = errors.New("this is not Linux")

type linkWatch struct{}

func openUevents() (ueventSource, error) { return nil, errLinux }
func openLinks(bool) (*linkWatch, error) { return nil, errLinux }

func (*linkWatch) run(context.Context, func(secmsg.Peripheral)) error { return errLinux }

//go:build !linux

package dns

import (
	"context"
	"errors"
)

func capture(context.Context, func(), func([]byte)) error { return errors.New("this is not Linux") }

package quickstart

import (
	"fmt"

	"github.com/vauban-iot/vauban/board/firmware/security"
	"github.com/vauban-iot/vauban/rtos"
)

// Secure gives the firmware a security module, which sees the board's network and sends over the firmware's connection. It is called at most once,
// before Image.
func (f *Firmware) Secure(intervals security.Intervals) (*security.Module, error) {
	m, err := security.New(security.Config{
		Stack: f.cfg.Network, Clients: []security.Client{f.device}, Now: f.device.Now, Random: f.board.RNG, Intervals: intervals, Console: f.board.Console,
	})
	if err != nil {
		return nil, err
	}
	define := f.cfg.Define
	f.cfg.Define = func(k *rtos.Kernel, d *Device) {
		if err := m.Define(k); err != nil {
			panic(fmt.Sprintf("the security module cannot be started: %v", err))
		}
		if define != nil {
			define(k, d)
		}
	}
	f.parts = append(f.parts, security.Part())
	return m, nil
}

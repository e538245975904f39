package fleet

import (
	"time"

	"github.com/vauban-iot/vauban/board/firmware/security"
	"github.com/vauban-iot/vauban/sdk/device"
)

// protect gives a board its security module.
func (u *unit) protect() (err error) {
	every := u.plan.Of.Security
	if every == 0 {
		return nil
	}
	u.module, err = security.New(security.Config{
		Stack: u.stack, Clients: []security.Client{client{u}}, Random: u.hw.RNG,
		Now:       func() (time.Time, bool) { return u.device.Now() },
		Intervals: security.Intervals{First: firstShare * every, High: every, Low: lowShare * every},
	})
	return err
}

// How much rarer heartbeats are than reports of the network, and how many of their intervals pass before the first, as in the original.
const (
	lowShare   = 6
	firstShare = 3
)

// client lends the firmware's connection to the module.
type client struct{ u *unit }

func (c client) Identity() (hub, device string, connected bool) {
	return c.u.device.Identity()
}

func (c client) Send(m device.Message) error {
	u := c.u
	err := u.device.Send(m)
	if err == nil {
		u.did.Security++
		u.run.count(&u.run.series.messages, u.hw.Uptime(), 1)
	}
	return err
}

// must is for what does not fail in a firmware that is right.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

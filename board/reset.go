package board

import (
	"time"

	"github.com/vauban-iot/vauban/rtos"
)

// Reset is why a firmware was started, as the flags of a reset status register tell it.
type Reset uint8

const (
	PowerOnReset  Reset = iota + 1
	PinReset            // the reset button
	BrownoutReset       // the supply fell too low
	SoftwareReset       // the firmware asked for it
	WatchdogReset       // the independent watchdog was not fed in time
	StandbyReset        // it comes out of standby
	CrashReset          // its last run ended with a panic
)

var resetWords = [...]string{"none", "power on", "reset pin", "brown-out", "software", "independent watchdog", "standby", "crash"}

func (r Reset) String() string {
	if int(r) < len(resetWords) {
		return resetWords[r]
	}
	return "unknown"
}

// Reason is why the firmware was started, or will be once the board has come out of its reset.
func (b *Board) Reason() Reset { return b.reason }

// Resets counts the starts for one reason since the board was made.
func (b *Board) Resets(r Reset) uint32 {
	if int(r) < len(b.resets) {
		return b.resets[r]
	}
	return 0
}

// Reset ends the present run of the firmware and starts it again after the boot time. Called by the firmware it does not
// return; called between runs it takes effect when the board is run next. It also starts a board again that stands still
// after a crash.
func (b *Board) Reset(r Reset) {
	if b.state == crashed {
		b.pending = r
		b.wait(b.Cycles(b.cfg.Profile.Boot))
		return
	}
	if b.state != running || b.pending != 0 {
		return
	}
	b.pending = r
	k := b.kernel
	k.Stop()
	if k.Current() != nil && k.SystemState() == 0 {
		k.Compute(1) // gives the processor up for good
	}
}

// Standby takes the power from processor and RAM for d, after which the board starts as after a reset, with the reason
// StandbyReset. The backup registers stay. It does not return to the firmware.
func (b *Board) Standby(d time.Duration) {
	if b.state != running || b.pending != 0 {
		return
	}
	b.wake = b.Cycles(max(d, 0))
	b.Reset(StandbyReset)
}

// Asleep reports that the board has power but no kernel: it is in standby or comes out of a reset, and will start at
// the time that is told.
func (b *Board) Asleep() (until rtos.Cycles, ok bool) { return b.wake, b.state == waiting }

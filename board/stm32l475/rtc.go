package stm32l475

import (
	"fmt"
	"time"

	"github.com/vauban-iot/vauban/board"
)

// RTC is the real-time clock and the backup registers, which keep what they have through all resets and standby, as long as
// the board has power.
type RTC struct {
	board  *board.Board
	drift  float64   // of one
	set    time.Time // zero: not since power on
	since  time.Duration
	backup [32]uint32
}

func newRTC(b *board.Board, ppm float64) *RTC { return &RTC{board: b, drift: ppm / 1e6} }

func (r *RTC) reset() {
	if r.board.Reason() == board.PowerOnReset {
		r.set, r.since, r.backup = time.Time{}, r.board.Uptime(), [32]uint32{}
	}
}

// resolution is a cycle of the crystal's 32,768 Hz.
const resolution = time.Second / 32768

// Set gives the clock the time.
func (r *RTC) Set(t time.Time) { r.set, r.since = t, r.board.Uptime() }

// Valid reports that somebody has set the clock since the board was powered on.
func (r *RTC) Valid() bool { return !r.set.IsZero() }

// Time is what the clock shows: from 2000-01-01 on since power on, as long as nobody has set it.
func (r *RTC) Time() time.Time {
	from := r.set
	if from.IsZero() {
		from = time.Date(2000, time.January, 1, 0, 0, 0, 0, time.UTC)
	}
	passed := r.board.Uptime() - r.since
	passed += time.Duration(float64(passed) * r.drift)
	return from.Add(passed.Truncate(resolution))
}

// Backup is one of the 32 backup registers.
func (r *RTC) Backup(n int) (uint32, error) {
	if n < 0 || n >= len(r.backup) {
		return 0, fmt.Errorf("rtc: there is no backup register %d", n)
	}
	return r.backup[n], nil
}

// SetBackup writes one of the 32 backup registers.
func (r *RTC) SetBackup(n int, v uint32) error {
	if n < 0 || n >= len(r.backup) {
		return fmt.Errorf("rtc: there is no backup register %d", n)
	}
	r.backup[n] = v
	return nil
}

// Alarm lets isr happen as an interrupt when the clock has gone on by d, unless the board is reset before.
func (r *RTC) Alarm(d time.Duration, isr func()) error {
	if d <= 0 {
		return fmt.Errorf("rtc: an alarm in %v", d)
	}
	return r.board.After(r.board.Cycles(time.Duration(float64(d)/(1+r.drift))), isr)
}

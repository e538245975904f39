package stm32l475

import (
	"fmt"
	"time"

	"github.com/vauban-iot/vauban/board"
	"github.com/vauban-iot/vauban/board/chance"
)

// Watchdog is the independent watchdog: it counts down by an oscillator of its own, and resets the board at zero. Once
// started only a reset stops it.
type Watchdog struct {
	board   *board.Board
	hz      float64
	timeout time.Duration // zero: not started
	due     time.Duration
}

// The oscillator has about 32 kHz: each chip's is a little off.
func newWatchdog(b *board.Board, seed uint64) *Watchdog {
	return &Watchdog{board: b, hz: 32000 * (1 + 0.02*chance.Noise(chance.Seed(seed, "lsi"), 0)/2)}
}

func (w *Watchdog) reset() { w.timeout = 0 }

// Start starts the watchdog: it has to be fed within reload+1 cycles of the oscillator divided by prescaler, a power of two from 4 to
// 256; reload has 12 bits. Started already, it only takes the new values.
func (w *Watchdog) Start(prescaler, reload uint32) error {
	if prescaler < 4 || prescaler > 256 || prescaler&(prescaler-1) != 0 {
		return fmt.Errorf("watchdog: prescaler %d: a power of two from 4 to 256 is needed", prescaler)
	}
	if reload > 0xFFF {
		return fmt.Errorf("watchdog: reload %d is more than 12 bits", reload)
	}
	started := w.timeout != 0
	w.timeout = time.Duration(float64(reload+1) * float64(prescaler) / w.hz * float64(time.Second))
	w.Feed()
	if started {
		return nil
	}
	return w.arm()
}

// Feed starts the countdown anew.
func (w *Watchdog) Feed() { w.due = w.board.Uptime() + w.timeout }

// Timeout is how long the watchdog waits on this board; zero while it is not started.
func (w *Watchdog) Timeout() time.Duration { return w.timeout }

func (w *Watchdog) arm() error {
	return w.board.After(w.board.Cycles(w.due-w.board.Uptime())+1, w.look)
}

func (w *Watchdog) look() {
	if w.timeout == 0 {
		return
	}
	if w.board.Uptime() >= w.due || w.arm() != nil { // one that cannot count resets, too
		w.board.Reset(board.WatchdogReset)
	}
}

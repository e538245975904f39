package stm32l475

import (
	"fmt"
	"time"

	"github.com/vauban-iot/vauban/board"
)

const (
	uartRing  = 256  // bytes that wait for the firmware
	uartInput = 4096 // bytes that wait for the line
)

// UART is a serial line: 8 data bits, one stop bit, no parity.
type UART struct {
	board  *board.Board
	baud   uint32
	out    func([]byte)
	ring   []byte // received, and not read; empty and without memory until something comes
	line   []byte // on its way to the board
	busy   bool
	notify func()
	lost   uint64
	sent   uint64
}

func newUART(b *board.Board, baud uint32, out func([]byte)) *UART {
	return &UART{board: b, baud: baud, out: out}
}

func (u *UART) reset() {
	u.baud = 115200
	u.ring, u.line = u.ring[:0], u.line[:0]
	u.busy, u.notify = false, nil
}

// SetBaud changes the speed, in bits per second.
func (u *UART) SetBaud(baud uint32) error {
	if baud < 300 || baud > 5_000_000 {
		return fmt.Errorf("uart: %d baud: between 300 and 5,000,000 are possible", baud)
	}
	u.baud = baud
	return nil
}

// times is how long n bytes are on the line: ten bits each.
func (u *UART) times(n int) time.Duration {
	return time.Duration(n) * 10 * time.Second / time.Duration(u.baud)
}

// Write sends p and returns when it is on the line, as a firmware's printf does. It always takes all of p.
func (u *UART) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := min(len(rest), 64) // what is seen together
		u.board.Busy(u.times(n))
		if u.out != nil {
			u.out(rest[:n])
		}
		u.sent += uint64(n)
		rest = rest[n:]
	}
	return len(p), nil
}

// Read takes what came, without waiting: 0 when nothing did.
func (u *UART) Read(p []byte) (int, error) {
	n := copy(p, u.ring)
	u.ring = append(u.ring[:0], u.ring[n:]...)
	return n, nil
}

// OnReceive registers f to be called in the interrupt of each byte that came; it may put a semaphore.
func (u *UART) OnReceive(f func()) { u.notify = f }

// Counts says how many bytes were sent, and how many that came were lost because nobody read them.
func (u *UART) Counts() (sent, lost uint64) { return u.sent, u.lost }

// Type puts p on the line to the board, where it arrives byte by byte. It is to be called as an interrupt is: by
// Board.At, Post, or between runs. It is refused when more than 4096 bytes would wait.
func (u *UART) Type(p []byte) error {
	if u.board.Kernel() == nil {
		return fmt.Errorf("uart: board %s is in reset: nobody listens", u.board.Name())
	}
	if len(u.line)+len(p) > uartInput {
		return fmt.Errorf("uart: %d bytes wait for the line already", len(u.line))
	}
	u.line = append(u.line, p...)
	if !u.busy && len(u.line) != 0 {
		u.busy = true
		return u.board.After(u.board.Cycles(u.times(1)), u.arrive)
	}
	return nil
}

func (u *UART) arrive() {
	if len(u.ring) == uartRing {
		u.lost++
	} else {
		u.ring = append(u.ring, u.line[0])
	}
	u.line = append(u.line[:0], u.line[1:]...)
	u.busy = len(u.line) != 0
	if u.busy && u.board.After(u.board.Cycles(u.times(1)), u.arrive) != nil {
		u.lost += uint64(len(u.line))
		u.line, u.busy = u.line[:0], false
	}
	if u.notify != nil {
		u.notify()
	}
}

package stm32l475

import (
	cryptorand "crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"github.com/vauban-iot/vauban/board"
	"github.com/vauban-iot/vauban/board/chance"
)

// ErrEntropy is returned while the generator's health test fails (its noise source repeats itself). Recover starts it again.
var ErrEntropy = errors.New("rng: the health test of the noise source failed")

// ErrSeeded is returned to who wants keys from a board whose random numbers repeat with its seed. Make the board with
// RealEntropy.
var ErrSeeded = errors.New("rng: this board's random numbers come from its seed, and are no secret: make it with real entropy")

// RNG is the generator of random numbers.
type RNG struct {
	board  *board.Board
	source rand.Source // nil: the machine's
	sick   bool
	last   uint32
	words  uint64
}

func newRNG(b *board.Board, seed uint64, real bool) *RNG {
	r := &RNG{board: b}
	if !real {
		r.source = rand.NewPCG(chance.Seed(seed, "rng"), chance.Seed(seed, "rng low"))
	}
	return r
}

const rngTime = 40 * time.Second / 48_000_000 // 40 cycles of its own clock of 48 MHz for each word

// Word is 32 random bits.
func (r *RNG) Word() (uint32, error) {
	r.board.Busy(rngTime)
	if r.sick {
		return 0, ErrEntropy
	}
	w := r.draw()
	if r.words != 0 && w == r.last { // the generator's own test: two words in turn that are the same
		if w = r.draw(); w == r.last {
			r.sick = true
			return 0, ErrEntropy
		}
	}
	r.last = w
	r.words++
	return w, nil
}

func (r *RNG) draw() uint32 {
	if r.source != nil {
		return uint32(r.source.Uint64() >> 32)
	}
	var b [4]byte
	cryptorand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint32(b[:])
}

// Fail makes the health test fail, as a broken noise source does.
func (r *RNG) Fail() { r.sick = true }

// Recover starts the generator again after ErrEntropy.
func (r *RNG) Recover() { r.sick = false }

// Read fills p. Its bytes are for identifiers, jitter and tests; for keys there is Keys.
func (r *RNG) Read(p []byte) (int, error) {
	for n := 0; n < len(p); {
		w, err := r.Word()
		if err != nil {
			return n, err
		}
		var b [4]byte
		binary.LittleEndian.PutUint32(b[:], w)
		n += copy(p[n:], b[:])
	}
	return len(p), nil
}

// Keys is the generator for who makes keys. It is refused unless the board has real entropy.
func (r *RNG) Keys() (io.Reader, error) {
	if r.source != nil {
		return nil, ErrSeeded
	}
	return r, nil
}

package flash

import (
	"bytes"
	"errors"
	"math/bits"
	"strings"
	"testing"
	"time"
)

func small() Geometry {
	return Geometry{Name: "small", Size: 16 << 10, Page: 2048, Word: 8, Burst: 8, Endurance: 100, Erase: 20 * time.Millisecond, Program: 80 * time.Microsecond}
}

type clock struct {
	passed time.Duration
	during func() // in the middle
}

func (c *clock) Uptime() time.Duration { return c.passed }

func (c *clock) Busy(d time.Duration) {
	if c.during != nil {
		c.passed += d / 2
		c.during()
		d /= 2
	}
	c.passed += d
}

func chip(t *testing.T, g Geometry, seed uint64) (*Chip, *clock) {
	t.Helper()
	cpu := &clock{}
	c, err := New(g, seed, cpu)
	if err != nil {
		t.Fatal(err)
	}
	return c, cpu
}

func read(t *testing.T, c *Chip, at uint32, n int) []byte {
	t.Helper()
	p := make([]byte, n)
	if err := c.Read(at, p); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestChip_ProgramsOnesToZerosOnly(t *testing.T) {
	t.Parallel()
	c, cpu := chip(t, small(), 1)
	if got := read(t, c, 2040, 16); !bytes.Equal(got, bytes.Repeat([]byte{0xFF}, 16)) {
		t.Errorf("a new chip has % x", got)
	}
	for _, p := range []string{"\xF0\x0F\xAA\xFF\xFF\xFF\xFF\xFF", "\xFF\xFF\x0F\xFF\xFF\xFF\xFF\x00"} {
		if err := c.Program(8, []byte(p)); err != nil {
			t.Fatal(err)
		}
	}
	if got := string(read(t, c, 8, 8)); got != "\xF0\x0F\x0A\xFF\xFF\xFF\xFF\x00" {
		t.Errorf("programmed twice: % x", got)
	}
	if err := c.Erase(0); err != nil {
		t.Fatal(err)
	}
	if got := read(t, c, 8, 1)[0]; got != 0xFF || c.Erases(0) != 1 || c.Erases(1) != 0 {
		t.Errorf("after erasing: %x, %d erases", got, c.Erases(0))
	}
	if cpu.passed != 20*time.Millisecond+160*time.Microsecond || c.Steps() != 3 {
		t.Errorf("it took %v and %d steps", cpu.passed, c.Steps())
	}
}

func TestChip_WordsWithChecksumsAreProgrammedOnce(t *testing.T) {
	t.Parallel()
	c, _ := chip(t, STM32L4(), 1)
	word := []byte("password")
	if err := c.Program(4096, append(word, word...)); err != nil {
		t.Fatal(err)
	}
	if err := c.Program(4088, append(bytes.Repeat([]byte{1}, 8), word...)); !errors.Is(err, ErrNotErased) {
		t.Errorf("a second programming: %v", err)
	}
	if got := read(t, c, 4088, 1)[0]; got != 0xFF {
		t.Error("what was refused was done in part")
	}
	if err := c.Program(4096, make([]byte, 8)); err != nil {
		t.Errorf("to zeros: %v", err)
	}
}

func TestChip_Refusals(t *testing.T) {
	t.Parallel()
	for _, change := range []func(*Geometry){
		func(g *Geometry) { g.Page = 3000 }, func(g *Geometry) { g.Word = 0 }, func(g *Geometry) { g.Burst = 4 },
		func(g *Geometry) { g.Size = 5000 }, func(g *Geometry) { g.Endurance = 0 },
	} {
		g := small()
		change(&g)
		if _, err := New(g, 0, nil); err == nil {
			t.Errorf("%+v was taken", g)
		}
	}
	c, _ := chip(t, small(), 1)
	for name, err := range map[string]error{
		"half a word": c.Program(0, make([]byte, 4)), "between words": c.Program(4, make([]byte, 8)), "beyond": c.Program(16<<10, make([]byte, 8)),
		"read beyond": c.Read(16<<10-1, make([]byte, 2)), "erase beyond": c.Erase(8), "wear beyond": c.Wear(8, 1),
	} {
		if err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestChip_PowerGoesInTheMiddle(t *testing.T) {
	t.Parallel()
	results, erased := make(map[string]bool), make(map[int]bool)
	for seed := range uint64(50) {
		c, _ := chip(t, small(), seed)
		told := false
		c.CutAt(2, func() { told = true })
		if err := c.Program(0, bytes.Repeat([]byte{0}, 24)); !errors.Is(err, ErrPower) || !told {
			t.Fatalf("got %v, told %v", err, told)
		}
		if !errors.Is(c.Erase(0), ErrPower) || !errors.Is(c.Read(0, make([]byte, 1)), ErrPower) || !errors.Is(c.Program(0, make([]byte, 8)), ErrPower) {
			t.Fatal("it works without power")
		}
		c.Restore()
		got := read(t, c, 0, 24)
		if !bytes.Equal(got[:8], make([]byte, 8)) || !bytes.Equal(got[16:], bytes.Repeat([]byte{0xFF}, 8)) {
			t.Fatalf("the first word was done, the third not begun: % x", got)
		}
		results[string(got[8:16])] = true
		if err := c.Program(0, make([]byte, 2048)); err != nil {
			t.Fatal(err)
		}
		c.CutAt(1, nil)
		if err := c.Erase(0); !errors.Is(err, ErrPower) {
			t.Fatal(err)
		}
		c.Restore()
		erased[strings.Count(string(read(t, c, 0, 2048)), "\xFF")] = true
	}
	if len(results) < 20 {
		t.Errorf("only %d ways to be interrupted", len(results))
	}
	if len(erased) < 15 || !erased[2048] || !erased[0] {
		t.Errorf("only %d ways for an erase to be interrupted", len(erased))
	}
}

func TestChip_WearsOut(t *testing.T) {
	t.Parallel()
	wear := func(seed uint64) (bad uint32) {
		c, _ := chip(t, small(), seed)
		for n := uint32(1); n < 400; n++ {
			if err := c.Erase(3); err != nil {
				t.Fatal(err)
			}
			for _, b := range read(t, c, 3*2048, 2048) {
				if b != 0xFF {
					return n
				}
			}
		}
		return 400
	}
	first := wear(1)
	if first <= 100 || first > 200 {
		t.Errorf("the first bad bit after %d erases; the endurance is 100", first)
	}
	if first != wear(1) || first == wear(2) && first == wear(3) {
		t.Error("wear is not the seed's")
	}
	c, _ := chip(t, small(), 1)
	if err := c.Wear(3, first-1); err != nil {
		t.Fatal(err)
	}
	if err := c.Erase(3); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(read(t, c, 3*2048, 2048), bytes.Repeat([]byte{0xFF}, 2048)) {
		t.Error("an old page is like new")
	}
}

func TestChip_IsBusyAndLosesPowerMeanwhile(t *testing.T) {
	t.Parallel()
	half := false
	for seed := range uint64(20) {
		for _, restored := range []bool{true, false} {
			c, cpu := chip(t, small(), seed)
			if err := c.Program(0, make([]byte, 2048)); err != nil {
				t.Fatal(err)
			}
			cpu.during = func() {
				for _, err := range []error{c.Read(0, make([]byte, 1)), c.Program(8, make([]byte, 8)), c.Erase(1)} {
					if !errors.Is(err, ErrBusy) {
						t.Errorf("in the middle of an erase: %v", err)
					}
				}
				panic("the board is reset")
			}
			func() {
				defer func() { recover() }()
				c.Erase(0)
			}()
			cpu.during = nil
			if restored {
				c.Restore()
			} else {
				cpu.passed += time.Second // the chip ended it meanwhile
			}
			ones := 0
			for _, b := range read(t, c, 0, 2048) {
				if b == 0xFF {
					ones++
				}
			}
			half = half || restored && ones != 0 && ones != 2048
			if !restored && ones != 2048 {
				t.Errorf("the chip did not end its command: %d bytes are erased", ones)
			}
		}
	}
	if !half {
		t.Error("no erase was left half done")
	}
}

// A chip that was made old loses bits from its next erase on, and what is in it stays until then.
func TestChip_WearCostsBits(t *testing.T) {
	t.Parallel()
	g := MX25R6435F()
	c, err := New(g, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	zeros := func() (n int) {
		p := make([]byte, g.Page)
		if err := c.Read(0, p); err != nil {
			t.Fatal(err)
		}
		for _, b := range p {
			n += 8 - bits.OnesCount8(b)
		}
		return n
	}
	if err := errors.Join(c.Erase(0), c.Wear(0, g.Endurance), c.Erase(0)); err != nil || zeros() != 0 {
		t.Fatalf("%v, %d bits stick at the end of the endurance", err, zeros())
	}
	if err := c.Wear(0, 2*g.Endurance); err != nil || zeros() != 0 {
		t.Errorf("%v, %d bits changed at rest", err, zeros())
	}
	if err := c.Erase(0); err != nil || zeros() < 5 || zeros() > 12 {
		t.Errorf("%v, %d bits stick after twice the endurance; want about 10", err, zeros())
	}
}

package wear

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/vauban-iot/vauban/board/flash"
)

// geometries are the processor's own flash, programmed in words once, and one like the chip on QSPI.
func geometries() []flash.Geometry {
	internal, qspi := flash.STM32L4(), flash.MX25R6435F()
	internal.Size, qspi.Size = 24<<10, 48<<10
	return []flash.Geometry{internal, qspi}
}

func format(t *testing.T, g flash.Geometry, seed uint64) (*flash.Chip, *Volume) {
	t.Helper()
	c, err := flash.New(g, seed, nil)
	if err != nil {
		t.Fatal(err)
	}
	v, err := Format(c, 0, c.Pages())
	if err != nil {
		t.Fatal(err)
	}
	return c, v
}

func sector(n uint32, generation int) []byte {
	s := fmt.Appendf(nil, "sector %d, generation %d. ", n, generation)
	return append(s, bytes.Repeat([]byte{byte(generation)}, SectorSize-len(s))...)
}

func TestVolume_KeepsWhatWasWrittenLast(t *testing.T) {
	t.Parallel()
	for _, g := range geometries() {
		c, v := format(t, g, 1)
		want := make([][]byte, v.Sectors())
		random := rand.New(rand.NewPCG(1, 2))
		for i := range 3000 {
			n := uint32(random.IntN(len(want)))
			if random.IntN(20) == 0 {
				if err := v.Release(n); err != nil {
					t.Fatal(err)
				}
				want[n] = nil
				continue
			}
			want[n] = sector(n, i)
			if err := v.Write(n, want[n]); err != nil {
				t.Fatalf("%s: write %d: %v", g.Name, i, err)
			}
			if i%500 == 0 {
				if v, err := Mount(c, 0, c.Pages()); err != nil || v.Sectors() != uint32(len(want)) {
					t.Fatal(err)
				} else {
					compare(t, v, want)
				}
			}
		}
		compare(t, v, want)
		again, err := Mount(c, 0, c.Pages())
		if err != nil {
			t.Fatal(err)
		}
		compare(t, again, want)
		least, most, out := again.Wear()
		if most < 60 || most-least > 2*spread || out != 0 {
			t.Errorf("%s: pages were erased between %d and %d times, %d are worn out", g.Name, least, most, out)
		}
	}
}

func compare(t *testing.T, v *Volume, want [][]byte) {
	t.Helper()
	got := make([]byte, SectorSize)
	for n, w := range want {
		if err := v.Read(uint32(n), got); err != nil {
			t.Fatal(err)
		}
		if w == nil {
			continue // a forgotten sector may come back after a power loss: what it holds is nobody's
		}
		if !bytes.Equal(got, w) {
			t.Fatalf("sector %d holds %.40q, want %.40q", n, got, w)
		}
	}
}

// What lies still must not keep its pages from wearing: most writes go to few sectors here.
func TestVolume_PagesThatLieStillWearToo(t *testing.T) {
	t.Parallel()
	for _, g := range geometries() {
		_, v := format(t, g, 1)
		for n := range v.Sectors() {
			if err := v.Write(n, sector(n, 0)); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 8000 {
			if err := v.Write(uint32(i%2), sector(uint32(i%2), i)); err != nil {
				t.Fatal(err)
			}
		}
		if least, most, _ := v.Wear(); most-least > 2*spread || most < 100 {
			t.Errorf("%s: pages were erased between %d and %d times", g.Name, least, most)
		}
	}
}

// The power goes in every step of a run of writes that collects and erases, once each, and then again while the volume recovers. Where
// a sector is programmed in 64 steps, only every 37th is tried.
func TestVolume_PowerLossAtEveryStep(t *testing.T) {
	t.Parallel()
	for _, g := range geometries() {
		g.Size = 8 * g.Page
		tried, collected := 0, false
		stride := uint64(1)
		if g.Burst == 8 {
			stride = 37
		}
		for cut := uint64(1); ; cut += stride {
			tried++
			c, v := format(t, g, cut)
			acknowledged := make([][]byte, v.Sectors())
			var underWay uint32
			var next []byte
			begin := c.Steps()
			run := func(v *Volume, from int) error {
				random := rand.New(rand.NewPCG(3, uint64(from)))
				for i := range 60 {
					underWay = uint32(random.IntN(len(acknowledged)))
					next = sector(underWay, from+i)
					if err := v.Write(underWay, next); err != nil {
						return err
					}
					acknowledged[underWay], next = next, nil
				}
				return nil
			}
			c.CutAt(cut, nil)
			err := run(v, 0)
			for round := 0; err != nil; round++ {
				if !errors.Is(err, flash.ErrPower) {
					t.Fatalf("%s, power lost at step %d: %v", g.Name, cut, err)
				}
				c.Restore()
				if round == 0 {
					c.CutAt(1+cut%5, nil) // and once more, soon
				}
				if v, err = Mount(c, 0, c.Pages()); err != nil {
					continue
				}
				settle(t, v, acknowledged, underWay, next)
				err = run(v, 1000*(round+1))
			}
			compare(t, v, acknowledged)
			c.Restore()
			if v, err = Mount(c, 0, c.Pages()); err != nil {
				t.Fatal(err)
			}
			compare(t, v, acknowledged)
			_, most, _ := v.Wear()
			collected = collected || most > 1
			if c.Steps()-begin < cut {
				break
			}
		}
		if tried < 100 || !collected {
			t.Errorf("%s: only %d steps were tried, collected %v", g.Name, tried, collected)
		}
	}
}

// settle compares a volume after a power loss with what was acknowledged. The sector that was under way may be old or new.
func settle(t *testing.T, v *Volume, acknowledged [][]byte, underWay uint32, next []byte) {
	t.Helper()
	if next != nil {
		got := make([]byte, SectorSize)
		if err := v.Read(underWay, got); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(got, next) {
			acknowledged[underWay] = next
		} else if acknowledged[underWay] == nil && !bytes.Equal(got, bytes.Repeat([]byte{0xFF}, SectorSize)) {
			t.Fatalf("a sector that was never written holds %.40q", got)
		}
	}
	compare(t, v, acknowledged)
}

func TestVolume_MarksWhatIsObsolete(t *testing.T) {
	t.Parallel()
	for _, g := range geometries() {
		c, v := format(t, g, 1)
		for i := range 3 {
			if err := v.Write(5, sector(5, i)); err != nil {
				t.Fatal(err)
			}
		}
		valid := func() (n int) {
			for page := range c.Pages() {
				if err := v.readHead(page); err != nil {
					t.Fatal(err)
				}
				for slot := range v.per {
					if e := v.entry(slot); e.valid() && e.logical() == 5 {
						n++
					}
				}
			}
			return n
		}
		if n := valid(); n != 1 {
			t.Errorf("%s: %d places say that they hold the sector, want the newest", g.Name, n)
		}
		if err := v.Release(5); err != nil {
			t.Fatal(err)
		}
		v, err := Mount(c, 0, c.Pages())
		if err != nil {
			t.Fatal(err)
		}
		s := make([]byte, SectorSize)
		if err := v.Read(5, s); err != nil || !bytes.Equal(s, bytes.Repeat([]byte{0xFF}, SectorSize)) || valid() != 0 {
			t.Errorf("%s: a released sector is back: %.20q, %v", g.Name, s, err)
		}
	}
}

// unmarked loses the power before anything is marked as obsolete.
type unmarked struct {
	*flash.Chip
	armed bool
}

func (u *unmarked) Program(address uint32, p []byte) error {
	if in := address % u.Geometry().Page; u.armed && in >= headSize && in < SectorSize && in%entrySize == 24 {
		return flash.ErrPower
	}
	return u.Chip.Program(address, p)
}

func TestVolume_TheNewestOfTwoCounts(t *testing.T) {
	t.Parallel()
	for _, g := range geometries() {
		c, err := flash.New(g, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		chip := &unmarked{Chip: c}
		v, err := Format(chip, 0, c.Pages())
		if err != nil {
			t.Fatal(err)
		}
		if err := v.Write(1, sector(1, 1)); err != nil {
			t.Fatal(err)
		}
		chip.armed = true
		if err := v.Write(1, sector(1, 2)); !errors.Is(err, flash.ErrPower) {
			t.Fatal(err)
		}
		if v, err = Mount(c, 0, c.Pages()); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, SectorSize)
		if err := v.Read(1, got); err != nil || !bytes.Equal(got, sector(1, 2)) {
			t.Errorf("%s: of two complete writes %.30q counts, %v", g.Name, got, err)
		}
	}
}

// interrupted loses the power in the middle of an erase: what is between the header and the last sector was erased.
type interrupted struct {
	*flash.Chip
	armed bool
}

func (i *interrupted) Erase(page uint32) error {
	if !i.armed {
		return i.Chip.Erase(page)
	}
	i.armed = false
	size := i.Geometry().Page
	head, tail := make([]byte, headSize), make([]byte, SectorSize)
	err := errors.Join(i.Read(page*size, head), i.Read((page+1)*size-SectorSize, tail), i.Chip.Erase(page),
		i.Program(page*size, head), i.Program((page+1)*size-SectorSize, tail))
	return errors.Join(err, flash.ErrPower)
}

func TestVolume_ErasesAgainWhatWasInterrupted(t *testing.T) {
	t.Parallel()
	for _, g := range geometries() {
		c, err := flash.New(g, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		chip := &interrupted{Chip: c}
		v, err := Format(chip, 0, c.Pages())
		if err != nil {
			t.Fatal(err)
		}
		chip.armed = true
		for i := 0; err == nil; i++ {
			err = v.Write(uint32(i%4), sector(uint32(i%4), i))
		}
		if !errors.Is(err, flash.ErrPower) {
			t.Fatal(err)
		}
		if v, err = Mount(chip, 0, c.Pages()); err != nil {
			t.Fatal(err)
		}
		for i := range 500 {
			if err := v.Write(uint32(i%4), sector(uint32(i%4), i)); err != nil {
				t.Fatalf("%s: write %d after an interrupted erase: %v", g.Name, i, err)
			}
		}
	}
}

func TestVolume_WornPagesAreLeft(t *testing.T) {
	t.Parallel()
	for _, g := range geometries() {
		g.Endurance = 60
		g.Size *= 4
		c, v := format(t, g, 5)
		want := make([][]byte, v.Sectors()/2)
		var err error
		writes := 0
		for i := 0; err == nil && i < 200_000; i++ {
			n := uint32(i*7) % uint32(len(want))
			s := sector(n, i)
			if err = v.Write(n, s); err == nil {
				want[n] = s
				writes++
			}
		}
		if !errors.Is(err, ErrWorn) {
			t.Errorf("%s: after %d writes: %v, want ErrWorn", g.Name, writes, err)
		}
		if _, _, out := v.Wear(); out < 2 {
			t.Errorf("%s: %d pages are worn out", g.Name, out)
		}
		compare(t, v, want)
		if v, err = Mount(c, 0, c.Pages()); err != nil {
			t.Fatal(err)
		}
		compare(t, v, want)
	}
}

// broken flips a bit of what is read, as a cell that lost its charge.
type broken struct {
	*flash.Chip
	at uint32
}

func (b *broken) Read(address uint32, p []byte) error {
	err := b.Chip.Read(address, p)
	if b.at >= address && b.at < address+uint32(len(p)) {
		p[b.at-address] ^= 4
	}
	return err
}

func TestVolume_SaysThatASectorChanged(t *testing.T) {
	t.Parallel()
	c, err := flash.New(geometries()[1], 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &broken{Chip: c, at: 1 << 31}
	v, err := Format(b, 0, c.Pages())
	if err != nil {
		t.Fatal(err)
	}
	for n := range v.Sectors() {
		if err := v.Write(n, sector(n, 1)); err != nil {
			t.Fatal(err)
		}
	}
	b.at = 2*SectorSize + 100 // in the second sector of the first page
	got := make([]byte, SectorSize)
	bad := 0
	for n := range v.Sectors() {
		if err := v.Read(n, got); errors.Is(err, ErrCorrupt) {
			bad++
		} else if err != nil || !bytes.Equal(got, sector(n, 1)) {
			t.Fatal(err)
		}
	}
	if bad != 1 {
		t.Fatalf("%d sectors are told as changed, want one", bad)
	}
	for i := range 2000 { // the others can still be written
		n := v.Sectors() - 1 - uint32(i)%8
		if err := v.Write(n, sector(n, i)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestVolume_Refusals(t *testing.T) {
	t.Parallel()
	c, err := flash.New(geometries()[0], 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Mount(c, 0, c.Pages()); !errors.Is(err, ErrNotFormatted) {
		t.Errorf("a new chip: %v", err)
	}
	for _, x := range [][2]uint32{{0, 7}, {0, 13}, {5, 8}, {1 << 31, 1 << 31}} {
		if _, err := Format(c, x[0], x[1]); err == nil {
			t.Errorf("%d pages from %d were taken", x[1], x[0])
		}
	}
	g := geometries()[0]
	g.Page, g.Size = 512, 16<<10
	tiny, err := flash.New(g, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Format(tiny, 0, 16); err == nil {
		t.Error("pages of one sector were taken")
	}
	v, err := Format(c, 2, 8)
	if err != nil {
		t.Fatal(err)
	}
	s := make([]byte, SectorSize)
	if v.Write(v.Sectors(), s) == nil || v.Read(v.Sectors(), s) == nil || v.Release(v.Sectors()) == nil || v.Write(0, s[1:]) == nil {
		t.Error("sectors beyond the end, or half ones, were taken")
	}
	if c.Erases(1) != 0 || c.Erases(2) == 0 {
		t.Error("Format did not keep to its pages")
	}
}

// Whatever stands in the flash, Mount answers, and what it mounts can be used.
func FuzzMount(f *testing.F) {
	f.Add(uint64(1), []byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, seed uint64, spoil []byte) {
		c, v := format(t, geometries()[1], seed)
		for n := range v.Sectors() {
			if err := v.Write(n, sector(n, 1)); err != nil {
				t.Fatal(err)
			}
		}
		for i := 0; i+3 < len(spoil); i += 4 {
			at := (uint32(spoil[i])<<16 | uint32(spoil[i+1])<<8 | uint32(spoil[i+2])) % c.Geometry().Size
			if err := c.Program(at, spoil[i+3:i+4]); err != nil {
				t.Fatal(err)
			}
		}
		v, err := Mount(c, 0, c.Pages())
		if err != nil {
			return
		}
		s := make([]byte, SectorSize)
		for n := range v.Sectors() {
			if err := v.Read(n, s); err != nil && !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
		}
		for i := range 50 {
			if err := v.Write(uint32(i)%v.Sectors(), sector(0, i)); err != nil && !errors.Is(err, ErrWorn) {
				t.Fatal(err)
			}
		}
	})
}

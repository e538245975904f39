package fat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/board/flash"
	"github.com/vauban-iot/vauban/board/wear"
)

// image is a device in memory.
type image []byte

func (m image) Sectors() uint32 { return uint32(len(m) / SectorSize) }

func (m image) Read(n uint32, p []byte) error {
	if n >= m.Sectors() || len(p) != SectorSize {
		return fmt.Errorf("sector %d of %d bytes", n, len(p))
	}
	copy(p, m[n*SectorSize:])
	return nil
}

func (m image) Write(n uint32, p []byte) error {
	if n >= m.Sectors() || len(p) != SectorSize {
		return fmt.Errorf("sector %d of %d bytes", n, len(p))
	}
	copy(m[n*SectorSize:], p)
	return nil
}

var now = time.Date(2026, 11, 28, 7, 49, 22, 0, time.UTC)

func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if path = "/usr/sbin/" + name; !exists(path) {
			t.Fatalf("%s is missing: make deps installs it", name)
		}
	}
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "MTOOLS_SKIP_CHECK=0", "LC_ALL=C", "TZ=UTC")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

// check lets fsck.fat look at an image. It exits with an error when there is something to repair.
func check(t *testing.T, m image) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(file, m, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := tool(t, "fsck.fat", "-n", "-v", file); strings.Contains(out, "differ") || strings.Contains(out, "rphan") {
		t.Fatalf("fsck.fat finds:\n%s", out)
	}
	return file
}

// sizes are those of a small volume, of 1 MB as on a part of a chip, of the whole chip on QSPI (FAT16), and a large one with bigger clusters.
var sizes = []int{64, 2048, 14336, 5200, 150_000}

func TestVolume_IsWhatDOSMade(t *testing.T) {
	t.Parallel()
	for _, sectors := range sizes {
		t.Run(fmt.Sprint(sectors), func(t *testing.T) {
			t.Parallel()
			m := make(image, sectors*SectorSize)
			v, err := Format(m, "Lamp")
			if err != nil {
				t.Fatal(err)
			}
			check(t, m)
			free := v.Free()
			want := map[string][]byte{
				"CONFIG.TXT": []byte("interval=10\n"),
				"EMPTY":      {},
				"BIG.BIN":    bytes.Repeat([]byte("0123456789abcde\n"), int(free)/64),
			}
			for name, data := range want {
				if err := v.WriteFile(strings.ToLower(name), data, now); err != nil {
					t.Fatal(err)
				}
			}
			if err := v.WriteFile("gone.txt", []byte("x"), now); err != nil {
				t.Fatal(err)
			}
			if err := v.Remove("GONE.TXT"); err != nil {
				t.Fatal(err)
			}
			file := check(t, m)
			listing := tool(t, "mdir", "-i", file, "-a", "::")
			for name := range want {
				base, ext, _ := strings.Cut(name, ".")
				if !strings.Contains(listing, strings.TrimRight(fmt.Sprintf("%-8s %-3s", base, ext), " ")) {
					t.Errorf("mdir does not list %s:\n%s", name, listing)
				}
			}
			if !strings.Contains(listing, "2026-11-28") || !strings.Contains(listing, "LAMP") || strings.Contains(listing, "GONE") {
				t.Errorf("mdir:\n%s", listing)
			}
			for name, data := range want {
				if got := tool(t, "mtype", "-i", file, "::"+name); got != string(data) {
					t.Errorf("mtype %s: %d bytes, want %d", name, len(got), len(data))
				}
			}
			// And the other way: what mtools wrote is read.
			host := filepath.Join(t.TempDir(), "from.txt")
			text := strings.Repeat("written by mtools\n", 40)
			if err := os.WriteFile(host, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			tool(t, "mcopy", "-i", file, host, "::OTHER.TXT")
			tool(t, "mdel", "-i", file, "::BIG.BIN")
			for i := range 5 { // three entries each: some stand in two sectors
				tool(t, "mcopy", "-i", file, host, fmt.Sprintf("::A Long Name of mtools %d.text", i))
			}
			back, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if v, err = Mount(image(back)); err != nil {
				t.Fatal(err)
			}
			if got, err := v.ReadFile("other.txt"); err != nil || string(got) != text {
				t.Errorf("a file of mtools: %d bytes, %v", len(got), err)
			}
			if _, err := v.ReadFile("big.bin"); !errors.Is(err, ErrNotFound) {
				t.Errorf("a file that mtools removed: %v", err)
			}
			if i, err := v.Stat("Config.txt"); err != nil || i.Size != 12 || !i.Modified.Equal(now) {
				t.Errorf("Stat: %+v, %v", i, err)
			}
			list, err := v.List()
			if err != nil || len(list) != 8 {
				t.Fatalf("files %+v, %v", list, err)
			}
			for _, i := range list {
				name := i.Name
				if err := v.Remove(name); err != nil {
					t.Fatal(err)
				}
			}
			if v.Free() != free {
				t.Errorf("%d bytes are free, %d were at first", v.Free(), free)
			}
			check(t, image(back))
		})
	}
}

func TestMount_DOSOwnImage(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"-F", "12"}, {"-F", "16", "-s", "1"}, {"-F", "12", "-f", "1", "-r", "224"}} {
		file := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(file, make([]byte, 4<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		tool(t, "mkfs.fat", append(args, file)...)
		m, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		v, err := Mount(image(m))
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		if err := v.WriteFile("a.txt", bytes.Repeat([]byte("a"), 10_000), now); err != nil {
			t.Fatal(err)
		}
		check(t, m)
	}
}

func TestVolume_FilesComeAndGo(t *testing.T) {
	t.Parallel()
	for _, sectors := range sizes[:4] {
		m := make(image, sectors*SectorSize)
		v, err := Format(m, "")
		if err != nil {
			t.Fatal(err)
		}
		want := make(map[string][]byte)
		random := rand.New(rand.NewPCG(uint64(sectors), 1))
		full := 0
		for i := range 300 {
			name := fmt.Sprintf("F%d.DAT", random.IntN(12))
			if random.IntN(4) == 0 {
				err := v.Remove(name)
				if _, there := want[name]; there != (err == nil) {
					t.Fatalf("Remove %s: %v", name, err)
				}
				delete(want, name)
				continue
			}
			data := bytes.Repeat(fmt.Appendf(nil, "%d ", i), random.IntN(sectors*24))
			switch err := v.WriteFile(name, data, now); {
			case errors.Is(err, ErrFull):
				full++
			case err != nil:
				t.Fatal(err)
			default:
				want[name] = data
			}
		}
		if v, err = Mount(m); err != nil {
			t.Fatal(err)
		}
		list, err := v.List()
		if err != nil || len(list) != len(want) {
			t.Fatalf("%d files, want %d, %v", len(list), len(want), err)
		}
		for _, i := range list {
			if got, err := v.ReadFile(i.Name); err != nil || !bytes.Equal(got, want[i.Name]) || int(i.Size) != len(got) {
				t.Errorf("%s: %d bytes, want %d, %v", i.Name, len(got), len(want[i.Name]), err)
			}
		}
		if full == 0 {
			t.Error("it was never full")
		}
		check(t, m)
	}
}

// In FAT12 the entry of cluster 341 stands in two sectors of the table.
func TestVolume_EntriesInTwoSectors(t *testing.T) {
	t.Parallel()
	m := make(image, 2048*SectorSize)
	v, err := Format(m, "")
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), 340*SectorSize/16)
	if err := v.WriteFile("a", data, now); err != nil { // clusters 2 to 341
		t.Fatal(err)
	}
	check(t, m)
	if v, err = Mount(m); err != nil {
		t.Fatal(err)
	}
	if got, err := v.ReadFile("a"); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestVolume_Refusals(t *testing.T) {
	t.Parallel()
	m := make(image, 64*SectorSize)
	if _, err := Mount(m); !errors.Is(err, ErrCorrupt) {
		t.Errorf("an empty image: %v", err)
	}
	if _, err := Format(m[:32*SectorSize], ""); err == nil {
		t.Error("16 KB were formatted")
	}
	for _, label := range []string{"TWELVE CHARS", "A/B"} {
		if _, err := Format(m, label); err == nil {
			t.Errorf("label %q was taken", label)
		}
	}
	v, err := Format(m, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "NINE_CHARS", "A.LONG", "a/b", "..", "ä.txt", "a.b.c", "a b"} {
		if err := v.WriteFile(name, nil, now); err == nil {
			t.Errorf("name %q was taken", name)
		}
		if _, err := v.ReadFile(name); err == nil || errors.Is(err, ErrNotFound) {
			t.Errorf("name %q was looked for", name)
		}
	}
	if err := v.WriteFile("a", make([]byte, 64*SectorSize), now); !errors.Is(err, ErrFull) {
		t.Errorf("more than there is: %v", err)
	}
	for i := range 111 { // and the label
		if err := v.WriteFile(fmt.Sprint(i), nil, now); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.WriteFile("more", nil, now); !errors.Is(err, ErrFull) {
		t.Errorf("one name more: %v", err)
	}
	var e [SectorSize]byte
	m.Read(v.rootStart, e[:])
	e[entrySize+11] |= attrRead
	m.Write(v.rootStart, e[:])
	if err := v.WriteFile("0", []byte("x"), now); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("a file that is read-only: %v", err)
	}
	if err := v.Remove("0"); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("a file that is read-only: %v", err)
	}
	e[entrySize+11] = attrFolder
	m.Write(v.rootStart, e[:])
	if err := v.WriteFile("0", []byte("x"), now); err == nil || !strings.Contains(err.Error(), "folder") {
		t.Errorf("a folder: %v", err)
	}
}

func TestMount_RefusesWhatContradictsItself(t *testing.T) {
	t.Parallel()
	fresh := func() (image, *Volume) {
		m := make(image, 256*SectorSize)
		v, err := Format(m, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"a", "b"} {
			if err := v.WriteFile(name, make([]byte, 3000), now); err != nil {
				t.Fatal(err)
			}
		}
		return m, v
	}
	le := binary.LittleEndian
	for name, spoil := range map[string]func(m image, v *Volume){
		"signature":      func(m image, _ *Volume) { m[510] = 0 },
		"sector size":    func(m image, _ *Volume) { le.PutUint16(m[11:], 1024) },
		"cluster size":   func(m image, _ *Volume) { m[13] = 3 },
		"no clusters":    func(m image, _ *Volume) { m[13] = 0 },
		"no tables":      func(m image, _ *Volume) { m[16] = 0 },
		"bigger device":  func(m image, _ *Volume) { le.PutUint16(m[19:], 257) },
		"no data":        func(m image, _ *Volume) { le.PutUint16(m[22:], 300) },
		"no root":        func(m image, _ *Volume) { le.PutUint16(m[17:], 0) },
		"short table":    func(m image, _ *Volume) { m[13] = 1; le.PutUint16(m[22:], 0) },
		"a loop":         func(m image, v *Volume) { v.table[3] = 2; v.writeTable(0) },
		"a shared chain": func(m image, v *Volume) { le.PutUint16(m[v.rootStart*SectorSize+64+26:], 2) },
		"a long file":    func(m image, v *Volume) { le.PutUint32(m[v.rootStart*SectorSize+64+28:], 9000) },
		"a short file":   func(m image, v *Volume) { le.PutUint32(m[v.rootStart*SectorSize+64+28:], 100) },
		"a wild cluster": func(m image, v *Volume) { le.PutUint16(m[v.rootStart*SectorSize+64+26:], 60000) },
	} {
		m, v := fresh()
		spoil(m, v)
		if _, err := Mount(m); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if m, _ := fresh(); true {
		if _, err := Mount(m); err != nil {
			t.Error(err)
		}
	}
}

// The power goes in each step of writing, replacing and removing files, over the layer that wears. No file whose write was
// acknowledged is lost, and the image that is left is one.
func TestVolume_PowerLossAtEveryStep(t *testing.T) {
	t.Parallel()
	g := flash.MX25R6435F()
	g.Size = 80 << 10
	content := func(round, i int) []byte {
		return bytes.Repeat(fmt.Appendf(nil, "round %d file %d\n", round, i), 40+20*i)
	}
	stride := uint64(1)
	if testing.Short() {
		stride = 7
	}
	for cut := uint64(1); ; cut += stride {
		c, err := flash.New(g, cut, nil)
		if err != nil {
			t.Fatal(err)
		}
		w, err := wear.Format(c, 0, c.Pages())
		if err != nil {
			t.Fatal(err)
		}
		v, err := Format(w, "")
		if err != nil {
			t.Fatal(err)
		}
		want := make(map[string][]byte)
		var name string
		var next []byte // nil: it is being removed
		run := func() error {
			for round := range 4 {
				for i := range 3 {
					name, next = fmt.Sprintf("F%d", i), content(round, i)
					if err := v.WriteFile(name, next, now); err != nil {
						return err
					}
					want[name] = next
				}
				name, next = "F1", nil
				if err := v.Remove(name); err != nil {
					return err
				}
				delete(want, name)
			}
			return nil
		}
		begin := c.Steps()
		c.CutAt(cut, nil)
		err = run()
		if err == nil {
			if cut < 300 || c.Steps()-begin >= cut {
				t.Errorf("all was written at step %d", cut)
			}
			return
		}
		if !errors.Is(err, flash.ErrPower) {
			t.Fatalf("step %d: %v", cut, err)
		}
		c.Restore()
		if w, err = wear.Mount(c, 0, c.Pages()); err != nil {
			t.Fatalf("step %d: %v", cut, err)
		}
		if v, err = Mount(w); err != nil {
			t.Fatalf("step %d: %v", cut, err)
		}
		got, err := v.ReadFile(name) // the one that was under way is old or new
		switch {
		case next == nil && errors.Is(err, ErrNotFound):
			delete(want, name)
		case next != nil && err == nil && bytes.Equal(got, next):
			want[name] = next
		}
		list, err := v.List()
		if err != nil || len(list) != len(want) {
			t.Fatalf("step %d: files %+v, want %d, %v", cut, list, len(want), err)
		}
		used := uint64(0)
		for name, data := range want {
			if got, err := v.ReadFile(name); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("step %d: %s has %d bytes, want %d: %v", cut, name, len(got), len(data), err)
			}
			used += (uint64(len(data)) + SectorSize - 1) / SectorSize * SectorSize
		}
		if v.Free()+used != uint64(v.clusters)*SectorSize {
			t.Fatalf("step %d: clusters are lost: %d bytes are free, %d in files", cut, v.Free(), used)
		}
		if cut%50 == 1 {
			m := make(image, w.Sectors()*SectorSize)
			for n := range w.Sectors() {
				if err := w.Read(n, m[n*SectorSize:][:SectorSize]); err != nil {
					t.Fatal(err)
				}
			}
			check(t, m)
		}
	}
}

// Whatever an image has in it, Mount answers without reading beyond it, and files of what it mounts can be read. The image is a good
// one with bytes changed: five bytes of patches are an address and a value, of which most go where the structures are.
func FuzzMount(f *testing.F) {
	f.Add(uint16(64), []byte{0, 0, 0, 13, 2})
	f.Add(uint16(5200), []byte{0, 0, 2, 5, 0xFF, 1, 0, 0, 11, 0x10})
	f.Fuzz(func(t *testing.T, sectors uint16, patches []byte) {
		m := make(image, (64+int(sectors)%6000)*SectorSize)
		v, err := Format(m, "seed")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"A.TXT", "B.TXT"} {
			if err := v.WriteFile(name, make([]byte, 2000), now); err != nil {
				t.Fatal(err)
			}
		}
		for i := 0; i+4 < len(patches); i += 5 {
			at := int(patches[i+1])<<16 | int(patches[i+2])<<8 | int(patches[i+3])
			switch patches[i] % 4 {
			case 0:
				at %= 64
			case 1:
				at = int(v.rootStart)*SectorSize + at%256
			case 2:
				at = SectorSize + at%64
			}
			m[at%len(m)] = patches[i+4]
		}
		if v, err = Mount(m); err != nil {
			return
		}
		list, err := v.List()
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range list {
			if data, err := v.ReadFile(i.Name); err == nil && uint32(len(data)) != i.Size {
				t.Errorf("%s has %d bytes, told are %d", i.Name, len(data), i.Size)
			}
		}
		if err := v.WriteFile("NEW.TXT", []byte("new"), now); err == nil {
			if got, err := v.ReadFile("NEW.TXT"); err != nil || string(got) != "new" {
				t.Errorf("a new file holds %q, %v", got, err)
			}
			if _, err := Mount(m); err != nil {
				t.Errorf("after a write: %v", err)
			}
		}
	})
}

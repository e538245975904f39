package board

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/vauban-iot/vauban/rtos"
)

// Part is a piece of a firmware: code, constants and variables of a library or of the application, as declared by who
// wrote it down.
type Part struct {
	Name   string
	Flash  uint32 // bytes of code and constants
	RAM    uint32 // bytes of variables, without what Define reserves from the kernel
	Bank   string // of RAM; empty: where there is room
	Kernel bool   // counts against Profile.KernelFlash
}

// Budget says what takes how much of a board's memory.
type Budget struct {
	Flash    []Item // the largest first
	RAM      []Item
	Banks    []Bank
	Size     uint32 // bytes of flash
	Used     uint32
	Kernel   uint32 // bytes of flash for the parts marked Kernel
	KernelOf uint32
	Problems []string // what does not fit; empty: it fits
}

// Item is something that takes memory.
type Item struct {
	Name  string
	What  string // "part", "stack", "queue", "block pool", "byte pool", "control blocks", "reserved"
	Bytes uint32
	Bank  string // of RAM; empty: it fits nowhere
}

// Bank is how full a bank of RAM is.
type Bank struct {
	Memory
	Used uint32
}

// BudgetError refuses a firmware that does not fit its board.
type BudgetError struct {
	Board, Firmware string
	Budget          Budget
}

func (e *BudgetError) Error() string {
	return fmt.Sprintf("board %s: firmware %s does not fit: %s\n%s", e.Board, e.Firmware, strings.Join(e.Budget.Problems, "; "), e.Budget)
}

// Budget is that of the firmware as it was started last.
func (b *Board) Budget() Budget { return b.account(b.started.firmware, b.started.items) }

// started is what the firmware that was started last took for its objects then. The tables are made when somebody asks: fleets have many boards.
type started struct {
	firmware Firmware
	items    []Item
}

// Account is the budget at this moment, with what the firmware created since its start.
func (b *Board) Account() Budget {
	var items []Item
	if k := b.Kernel(); k != nil {
		items = b.recorder.items(k)
	}
	return b.account(b.firmware, items)
}

// account adds up what a firmware takes, and its objects.
func (b *Board) account(f Firmware, objects []Item) Budget {
	p := &b.cfg.Profile
	g := Budget{Size: p.Flash, KernelOf: p.KernelFlash, Flash: make([]Item, 0, len(f.Parts)), Banks: make([]Bank, 0, len(p.RAM))}
	problem := func(format string, args ...any) { g.Problems = append(g.Problems, fmt.Sprintf(format, args...)) }
	for _, m := range p.RAM {
		g.Banks = append(g.Banks, Bank{Memory: m})
	}
	var used, kernel uint64
	for _, x := range f.Parts {
		if x.Flash != 0 {
			g.Flash = append(g.Flash, Item{Name: x.Name, What: "part", Bytes: x.Flash})
		}
		used += uint64(x.Flash)
		if x.Kernel {
			kernel += uint64(x.Flash)
		}
		if x.RAM != 0 {
			g.RAM = append(g.RAM, Item{Name: x.Name, What: "part", Bytes: x.RAM, Bank: x.Bank})
		}
	}
	if used > uint64(p.Flash) {
		problem("the image takes %d bytes of flash, of which there are %d", used, p.Flash)
	}
	if kernel > uint64(p.KernelFlash) {
		problem("the kernel's parts take %d bytes of flash, of which %d are theirs", kernel, p.KernelFlash)
	}
	g.Used, g.Kernel = clamp(used), clamp(kernel)
	g.RAM = append(g.RAM, objects...)
	biggest := func(x, y Item) int { return cmp.Or(cmp.Compare(y.Bytes, x.Bytes), cmp.Compare(x.Name, y.Name)) }
	g.Flash, g.RAM = slices.Clip(g.Flash), slices.Clip(slices.Clone(g.RAM)) // boards keep it
	slices.SortStableFunc(g.Flash, biggest)
	slices.SortStableFunc(g.RAM, biggest)
	for _, fixed := range []bool{true, false} { // what has its place comes first
		for i := range g.RAM {
			if x := &g.RAM[i]; (x.Bank != "") == fixed {
				if err := g.place(x); err != nil {
					problem("%v", err)
				}
			}
		}
	}
	return g
}

func clamp(n uint64) uint32 { return uint32(min(n, 1<<32-1)) }

// place finds a bank for x.
func (g *Budget) place(x *Item) error {
	known := x.Bank == ""
	for i := range g.Banks {
		m := &g.Banks[i]
		if x.Bank != "" && x.Bank != m.Name {
			continue
		}
		known = true
		if size := uint64(x.Bytes+7) / 8 * 8; uint64(m.Used)+size <= uint64(m.Bytes) {
			m.Used += uint32(size)
			x.Bank = m.Name
			return nil
		}
	}
	if !known {
		return fmt.Errorf("%s %s is to lie in %q, which this board does not have", x.What, x.Name, x.Bank)
	}
	where := cmp.Or(x.Bank, "any bank")
	x.Bank = ""
	return fmt.Errorf("%s %s of %d bytes does not fit %s of RAM", x.What, x.Name, x.Bytes, where)
}

// free is what is left of RAM.
func (g *Budget) free() uint32 {
	n := uint32(0)
	for _, m := range g.Banks {
		n += m.Bytes - m.Used
	}
	return n
}

// items says what the firmware's objects take. Stacks and areas out of a pool are its own; what was reserved for nothing
// that is known comes as one item.
func (r *recorder) items(k *rtos.Kernel) []Item {
	words := map[rtos.ObjectKind]string{
		rtos.KindThread: "stack", rtos.KindQueue: "queue", rtos.KindBlockPool: "block pool", rtos.KindBytePool: "byte pool",
	}
	items := make([]Item, 0, len(r.objects)+2)
	sum := uint32(0)
	for i, o := range r.objects {
		if o.size == 0 || o.start == 0 || r.pooled(i) {
			continue
		}
		items = append(items, Item{Name: o.Name, What: words[o.Kind], Bytes: o.size})
		sum += o.size
	}
	if n := k.Reserved(); n > sum && n-sum >= 64 { // less is alignment
		items = append(items, Item{Name: "other", What: "reserved", Bytes: n - sum})
	}
	return append(items, Item{Name: "kernel", What: "control blocks", Bytes: k.ControlMemory()})
}

// pooled reports that object i lies in a pool.
func (r *recorder) pooled(i int) bool {
	o := r.objects[i]
	return slices.ContainsFunc(r.objects, func(p object) bool {
		return (p.Kind == rtos.KindBytePool || p.Kind == rtos.KindBlockPool) && p.Address != o.Address &&
			p.start != 0 && o.start >= p.start && o.start < p.start+p.size
	})
}

// String is the table of what takes how much.
func (g Budget) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%-8s %-16s %-32s %10s\n", "MEMORY", "WHAT", "NAME", "BYTES")
	for _, x := range g.Flash {
		fmt.Fprintf(&s, "%-8s %-16s %-32s %10d\n", "flash", x.What, x.Name, x.Bytes)
	}
	fmt.Fprintf(&s, "%-8s %-16s %-32s %10d of %d\n", "flash", "all", "", g.Used, g.Size)
	fmt.Fprintf(&s, "%-8s %-16s %-32s %10d of %d\n", "flash", "kernel's part", "", g.Kernel, g.KernelOf)
	for _, x := range g.RAM {
		fmt.Fprintf(&s, "%-8s %-16s %-32s %10d\n", cmp.Or(x.Bank, "nowhere"), x.What, x.Name, x.Bytes)
	}
	for _, m := range g.Banks {
		fmt.Fprintf(&s, "%-8s %-16s %-32s %10d of %d\n", m.Name, "all", "", m.Used, m.Bytes)
	}
	return s.String()
}

// kb are kibibytes, rounded up.
func kb(n float64) uint32 { return uint32(math.Ceil(n * 1024)) }

// published are the sizes that ThreadX's documentation tells, the upper ones where it tells two (rtos §24).
var published = []Part{
	{Name: "threadx", Flash: 2000, RAM: 1024},
	{Name: "threadx-queue", Flash: 900},
	{Name: "threadx-event-flags", Flash: 900},
	{Name: "threadx-semaphore", Flash: 450},
	{Name: "threadx-mutex", Flash: 1200},
	{Name: "threadx-block-pool", Flash: 550},
	{Name: "threadx-byte-pool", Flash: 900},
	{Name: "netx-ip", Flash: kb(8.5), RAM: kb(3)},
	{Name: "netx-tcp", Flash: kb(12.5), RAM: 280},
	{Name: "netx-udp", Flash: kb(2.5), RAM: 124},
	{Name: "netx-icmp", Flash: kb(2.5)},
	{Name: "netx-arp", Flash: kb(1.7)},
	{Name: "netx-dhcp", Flash: kb(4.6), RAM: kb(2.7)},
	{Name: "netx-dns", Flash: kb(3), RAM: kb(1)},
	{Name: "netx-sntp", Flash: kb(4), RAM: kb(0.5)},
	{Name: "netx-mqtt", Flash: kb(2.7)},
	{Name: "netx-tls", Flash: kb(8.8)},
	{Name: "netx-dtls", Flash: kb(11)},
	{Name: "filex-media", Flash: kb(6), RAM: kb(2.5)},
	{Name: "filex-files", Flash: kb(3.3)},
}

// Published returns the named libraries with the sizes that ThreadX's documentation tells, marked as the kernel's part.
// They are assumptions about a board, and say nothing about this kernel's own size as a program on a PC.
func Published(names ...string) ([]Part, error) {
	var parts []Part
	var errs []error
	for _, n := range names {
		i := slices.IndexFunc(published, func(p Part) bool { return p.Name == n })
		if i < 0 {
			errs = append(errs, fmt.Errorf("board: no published size of %q", n))
			continue
		}
		p := published[i]
		p.Kernel = true
		parts = append(parts, p)
	}
	return parts, errors.Join(errs...)
}

package fleet

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/vauban-iot/vauban/board/chance"
)

// Plan is what follows from a file and its seed.
type Plan struct {
	File   *File
	Boards []Board // in the order of the file
}

// Board is one of a plan.
type Board struct {
	ID       string
	Of       *Boards      // the entry that it is of
	Number   uint64       // no other board of the fleet has it
	Address  netip.Prefix // not valid: the board asks for one
	Seed     uint64
	DriftPPM float64 // of its clock
	Events   []Event // what goes wrong, by time
	Attacks  []Onset // by time
}

// Event is something that goes wrong on a board.
type Event struct {
	At     time.Duration // since the board was powered on
	Kind   FaultKind
	Link   bool          // an outage of its link, and not of the board alone
	Lasts  time.Duration // of network loss
	Cycles int           // of flash wear
}

// Onset is when a board begins with an attack.
type Onset struct {
	At      time.Duration
	Name    string
	Address netip.Addr // whom the board talks to; not valid: the seed chooses
}

// Plan expands the file. The same file gives the same plan.
func (f *File) Plan() *Plan {
	p := &Plan{File: f, Boards: make([]Board, 0, f.Total())}
	outages := map[string][]Event{}
	for i := range f.Links {
		outages[f.Links[i].Name] = f.outages(&f.Links[i])
	}
	for entry := range f.Boards {
		of := &f.Boards[entry]
		for i := range of.Count {
			p.Boards = append(p.Boards, f.board(of, entry, i, outages[of.Link]))
		}
	}
	return p
}

func (f *File) board(of *Boards, entry, i int, outages []Event) Board {
	b := Board{ID: of.id(i), Of: of, Number: uint64(entry)<<32 | uint64(i)}
	b.Seed = chance.Seed(f.Seed, "board "+b.ID)
	if of.Network == Facade {
		b.Address = netip.PrefixFrom(host(of.Subnet, firstHost(of.Subnet)+i), of.Subnet.Bits())
	}
	b.DriftPPM = of.DriftPPM * chance.Signed(chance.Seed(b.Seed, "drift"), 0)
	b.Events = slices.Clone(outages)
	tables := map[FaultKind]int{} // of each kind: one more fault of another kind changes nothing
	for _, x := range f.Faults {
		if tables[x.Kind]++; f.among(x.Boards, of) {
			b.Events = append(b.Events, f.faults(&b, &x, tables[x.Kind])...)
		}
	}
	slices.SortStableFunc(b.Events, func(a, b Event) int { return cmp.Compare(a.At, b.At) })
	for _, a := range f.Attacks {
		seed := chance.Seed(b.Seed, "attack "+a.Name)
		if !f.among(a.Boards, of) || a.Count > 0 && i >= a.Count || a.Count == 0 && chance.Unit(seed, 0) >= a.Share {
			continue
		}
		if slices.ContainsFunc(b.Attacks, func(o Onset) bool { return o.Name == a.Name }) {
			continue
		}
		at := a.Onset + time.Duration(chance.Unit(seed, 1)*float64(a.Spread)).Truncate(time.Millisecond)
		b.Attacks = append(b.Attacks, Onset{at, a.Name, a.Address})
	}
	slices.SortStableFunc(b.Attacks, func(a, b Onset) int { return cmp.Compare(a.At, b.At) })
	return b
}

// host is an address of a subnet by its number.
func host(p netip.Prefix, n int) netip.Addr {
	a := p.Addr().As4()
	v := uint32(a[0])<<24 | uint32(a[1])<<16 | uint32(a[2])<<8 | uint32(a[3])
	v += uint32(n)
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

// waits draws moments that come on average every so often, until the run is over.
func (f *File) waits(seed uint64, every time.Duration, each func(at time.Duration, n uint64)) {
	at := time.Duration(0)
	for n := range uint64(2 * MaxEvents) {
		// Exponentially distributed, and never the same moment twice.
		wait := -math.Log(1-chance.Unit(seed, n)) * float64(every)
		if wait > float64(f.Duration) {
			return
		}
		if at += max(time.Duration(wait).Truncate(time.Millisecond), time.Millisecond); at >= f.Duration {
			return
		}
		each(at, n)
	}
}

// lasting is how long something lasts that takes so long on average: between half and one and a half of it.
func lasting(seed, n uint64, mean time.Duration) time.Duration {
	return max(time.Duration(float64(mean)*(0.5+chance.Unit(seed, n))).Truncate(time.Millisecond), time.Millisecond)
}

func (f *File) faults(b *Board, x *Fault, table int) (all []Event) {
	seed := chance.Mix(chance.Seed(b.Seed, "fault "+string(x.Kind)), uint64(table))
	if chance.Unit(chance.Seed(seed, "share"), 0) >= x.Share {
		return nil
	}
	long := chance.Seed(seed, "lasts")
	f.waits(seed, x.Every, func(at time.Duration, n uint64) {
		e := Event{At: at, Kind: x.Kind, Cycles: x.Cycles}
		if x.Lasts > 0 {
			e.Lasts = lasting(long, n, x.Lasts)
		}
		all = append(all, e)
	})
	return all
}

// outages are those of a link: all its boards have them together.
func (f *File) outages(l *Link) (all []Event) {
	if l.OutageEvery == 0 {
		return nil
	}
	seed := chance.Seed(f.Seed, "link "+l.Name)
	long := chance.Seed(seed, "lasts")
	f.waits(seed, l.OutageEvery, func(at time.Duration, n uint64) {
		all = append(all, Event{At: at, Kind: NetworkLoss, Link: true, Lasts: lasting(long, n, l.OutageLasts)})
	})
	return all
}

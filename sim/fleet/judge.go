package fleet

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/internal/nearest"
)

// services is where the platform and the fleet's own services are found by its boards.
var services = netip.MustParsePrefix("10.0.0.0/24")

// judge looks at whether the values fit together.
func (d *decoder) judge(f *File) {
	at := func(kind string, i int) string { return fmt.Sprintf("%s[%d]", kind, i) }
	if f.RealTime && f.Speed != 0 && f.Speed != 1 {
		d.complain("", "speed", "real time goes at its own speed; leave it out, or set time = \"virtual\"")
	}
	if f.RealTime && !f.Epoch.IsZero() {
		d.complain("", "epoch", "in real time it is now; leave it out, or set time = \"virtual\"")
	}
	d.boards(f, at)
	d.unique("site", names(f.Sites, func(s *Site) string { return s.Name }))
	d.unique("link", names(f.Links, func(l *Link) string { return l.Name }))
	for i := range f.Links {
		if l := &f.Links[i]; l.OutageEvery > 0 && l.OutageLasts > l.OutageEvery {
			d.complain(at("link", i), "outage_lasts", "%v is longer than outage_every, %v: there would be no connection", l.OutageLasts, l.OutageEvery)
		}
	}
	for i := range f.Boards {
		b := &f.Boards[i]
		if l := f.link(b.Link); l != nil && f.RealTime && b.Network == Facade && (l.Latency > 0 || l.Jitter > 0 || l.Loss > 0) {
			d.complain(at("board", i), "link", "%q is slow or lossy, which a facade is not in real time; set network = \"netstack\" or time = \"virtual\"", l.Name)
		}
	}
	events := 0.0 // each board has its own list of its link's outages
	for i := range f.Links {
		l := &f.Links[i]
		if l.OutageEvery == 0 {
			continue
		}
		n := 0
		for j := range f.Boards {
			if b := &f.Boards[j]; b.Link == l.Name {
				n += b.Count
			}
		}
		if events += float64(n) * float64(f.Duration) / float64(l.OutageEvery); events > MaxEvents {
			d.complain(at("link", i), "outage_every", "about %.0f outages of boards in %v; a run has at most %d: give a longer one", events, f.Duration, MaxEvents)
			break
		}
	}
	for i := range f.Faults {
		x := &f.Faults[i]
		path := at("fault", i)
		n := d.affected(f, path, x.Boards)
		if x.Kind == FlashWear && !slices.ContainsFunc(f.Boards, func(b Boards) bool { return f.among(x.Boards, &b) && b.Log > 0 }) {
			d.complain(path, "kind", "none of its boards writes to its flash; give them a log = \"1m\"")
		}
		events += float64(n) * x.Share * float64(f.Duration) / float64(x.Every)
		if events > MaxEvents {
			d.complain(path, "every", "about %.0f faults and outages in %v; a run has at most %d: give a longer one", events, f.Duration, MaxEvents)
			break
		}
		if x.Lasts > x.Every {
			d.complain(path, "lasts", "%v is longer than every, %v: the boards would never be connected", x.Lasts, x.Every)
		}
	}
	for i := range f.Attacks {
		a := &f.Attacks[i]
		path := at("attack", i)
		d.affected(f, path, a.Boards)
		if a.Onset+a.Spread > f.Duration {
			key := "onset"
			if a.Onset <= f.Duration {
				key = "spread"
			}
			d.complain(path, key, "the attack would begin up to %v after the start, but the run is over after %v", a.Onset+a.Spread, f.Duration)
		}
		for j := range f.Boards {
			if b := &f.Boards[j]; f.among(a.Boards, b) && a.Count > b.Count {
				d.complain(path, "count", "%d of the %d boards of %q", a.Count, b.Count, b.Name)
			}
		}
	}
	for _, id := range f.Trace {
		if !f.has(id) {
			d.complain("", "trace", "there is no board %q; its id is the entry's name, with -0001 and so on where a count is given", id)
		}
	}
	if d.problems == nil && f.Window > f.Duration {
		f.Window = f.Duration
	}
}

func (d *decoder) boards(f *File, at func(string, int) string) {
	d.unique("board", names(f.Boards, func(b *Boards) string { return b.Name }))
	for i := range f.Boards { // only one without a count may be called as one of those with a count is
		b := &f.Boards[i]
		if o := pick(f.Boards, func(o *Boards) bool { return !b.Numbered && o.Numbered && o.has(b.Name) }); o != nil {
			d.complain(at("board", i), "name", "%q is the id of one of the boards of %q", b.Name, o.Name)
		}
	}
	if n := f.Total(); n > MaxBoards {
		i := len(f.Boards) - 1
		d.complain(at("board", i), "count", "%d boards in all; at most %d", n, MaxBoards)
	}
	stacks := 0
	for i := range f.Boards {
		b, path := &f.Boards[i], at("board", i)
		if b.Network == Netstack && d.lines[path+".subnet"] > 0 {
			d.complain(path, "subnet", "boards with network = \"netstack\" ask for their addresses (DHCP); leave it out")
		} else if room := addresses(b.Subnet); b.Count > room {
			d.complain(path, "subnet", "%d boards, but %s has only %d addresses for boards; take a larger subnet, or fewer boards", b.Count, b.Subnet, room)
		}
		for j := range i {
			if o := &f.Boards[j]; b.Network == Facade && o.Network == Facade && o.Subnet.Overlaps(b.Subnet) {
				d.complain(path, "subnet", "%s overlaps with %s of %q; each entry has one of its own", b.Subnet, o.Subnet, o.Name)
			}
		}
		if b.Network == Netstack {
			stacks += b.Count
			if !f.RealTime {
				d.complain(path, "network", "a TCP/IP stack has timers of real time; set time = \"real\", or network = \"facade\"")
			}
			if stacks > MaxNetstack {
				d.complain(path, "count", "%d boards with a TCP/IP stack each; at most %d: take network = \"facade\"", stacks, MaxNetstack)
			}
		}
		if b.Site != "" && f.site(b.Site) == nil {
			d.complain(path, "site", "there is no site %q%s; add a table [[site]]", b.Site, nearest.Hint(b.Site, names(f.Sites, func(s *Site) string { return s.Name })))
		}
		if b.Link != "" && f.link(b.Link) == nil {
			d.complain(path, "link", "there is no link %q%s; add a table [[link]]", b.Link, nearest.Hint(b.Link, names(f.Links, func(l *Link) string { return l.Name })))
		}
	}
}

func names[T any](all []T, of func(*T) string) []string {
	ns := make([]string, len(all))
	for i := range all {
		ns[i] = of(&all[i])
	}
	return ns
}

func (d *decoder) unique(kind string, names []string) {
	for i, n := range names {
		if j := slices.Index(names, n); j < i {
			d.complain(fmt.Sprintf("%s[%d]", kind, i), "name", "%q is taken by the %s in line %d", n, kind, d.lines[fmt.Sprintf("%s[%d]", kind, j)])
		}
	}
}

// affected counts the boards of the named entries, or of all.
func (d *decoder) affected(f *File, path string, entries []string) int {
	known := names(f.Boards, func(b *Boards) string { return b.Name })
	n := 0
	for _, e := range entries {
		if !slices.Contains(known, e) {
			d.complain(path, "boards", "there are no boards %q%s", e, nearest.Hint(e, known))
		}
	}
	for i := range f.Boards {
		if b := &f.Boards[i]; f.among(entries, b) {
			n += b.Count
		}
	}
	return n
}

func (f *File) among(entries []string, b *Boards) bool {
	return len(entries) == 0 || slices.Contains(entries, b.Name)
}

func (f *File) has(id string) bool {
	return slices.ContainsFunc(f.Boards, func(b Boards) bool { return b.has(id) })
}

func (b *Boards) has(id string) bool {
	if !b.Numbered {
		return b.Name == id
	}
	number, _ := strings.CutPrefix(id, b.Name+"-")
	n, err := strconv.Atoi(number)
	return err == nil && n >= 1 && n <= b.Count && b.id(n-1) == id
}

// addresses counts those of a subnet that boards may have: not the first 256 of a large one, nor its first and last.
func addresses(p netip.Prefix) int {
	size := 1 << (32 - p.Bits())
	return max(0, size-1-firstHost(p))
}

func firstHost(p netip.Prefix) int {
	if p.Bits() <= 22 {
		return 256
	}
	return 2 // 0 is the subnet's, 1 the router's
}

// start is when the boards of a run that begins at now are powered on.
func (f *File) start(now time.Time) time.Time {
	if f.RealTime {
		return now
	}
	return cmp.Or(f.Epoch, now.Add(-f.Duration).Truncate(time.Second))
}

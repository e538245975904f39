package fleet

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"time"

	"github.com/vauban-iot/vauban/board/network/secure"
	"github.com/vauban-iot/vauban/internal/nearest"
)

// goodName is of boards, groups, sites and links: it becomes part of device ids and tags.
var goodName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?$`)

const nameRule = "want up to 48 lower-case letters, digits and hyphens"

func (t *table) name(key string, p *string) {
	v := *p
	n := len(t.d.problems)
	if t.text(key, &v); len(t.d.problems) > n {
		return
	}
	if v != "" && !goodName.MatchString(v) {
		t.complain(key, "%s is no name; %s", show(v), nameRule)
		return
	}
	*p = v
}

// minSpeed is slow enough for anybody, and a run of the longest duration still ends.
const minSpeed = 0.01

// firstYear is where the clock of an STM32 begins to count.
const firstYear = 2000

// decode reads the whole document.
func (d *decoder) decode(doc map[string]any) *File {
	f := &File{Name: "fleet", Seed: 1, Window: defaultWindow}
	t := &table{d: d, values: doc}
	t.name("name", &f.Name)
	seed := 1
	t.number("seed", &seed, 0, 1<<53)
	f.Seed = uint64(seed)
	n := len(d.problems)
	if t.moment("epoch", &f.Epoch); doc["epoch"] != nil && len(d.problems) == n && f.Epoch.Year() < firstYear {
		t.complain("epoch", "%s is before %d, where the boards' clocks begin", f.Epoch.Format(time.RFC3339), firstYear)
	}
	if _, ok := doc["duration"]; !ok {
		d.problems = append(d.problems, Problem{d.file, 0, "duration", "required: how long the boards run by their own clocks, such as \"2h\""})
	}
	t.duration("duration", &f.Duration, time.Second, MaxDuration)
	clock := "virtual"
	t.choice("time", &clock, "virtual", "real")
	f.RealTime = clock == "real"
	if t.real("speed", &f.Speed, 0, 1e6); f.Speed > 0 && f.Speed < minSpeed {
		t.complain("speed", "%v would take for ever; at least %v, or 0 for as fast as possible", f.Speed, minSpeed)
	}
	t.duration("window", &f.Window, 100*time.Millisecond, time.Minute)
	t.texts("trace", &f.Trace, MaxTraces)

	for i, t := range d.tables(t, "board") {
		f.Boards = append(f.Boards, t.boards(i))
	}
	for _, t := range d.tables(t, "site") {
		s := Site{Climate: "temperate", Handled: 0.05}
		t.named(&s.Name)
		t.choice("climate", &s.Climate, "temperate", "outdoor")
		t.share("handled", &s.Handled)
		t.end()
		f.Sites = append(f.Sites, s)
	}
	for _, t := range d.tables(t, "link") {
		f.Links = append(f.Links, t.link())
	}
	for _, t := range d.tables(t, "fault") {
		f.Faults = append(f.Faults, t.fault())
	}
	for _, t := range d.tables(t, "attack") {
		f.Attacks = append(f.Attacks, t.attack())
	}
	t.end()
	if len(f.Boards) == 0 && len(d.problems) == 0 {
		d.problems = append(d.problems, Problem{d.file, 0, "board", "no boards; add a table [[board]] with a name"})
	}
	return f
}

// tables are those of an array.
func (d *decoder) tables(t *table, key string) []*table {
	v, ok := t.take(key)
	if !ok {
		return nil
	}
	list, ok := v.([]any)
	if !ok {
		t.complain(key, "want tables [[%s]]", key)
		return nil
	}
	if len(list) > MaxEntries {
		t.complain(key, "%d tables; at most %d", len(list), MaxEntries)
		return nil
	}
	var all []*table
	for i, v := range list {
		values, ok := v.(map[string]any)
		if !ok {
			t.complain(key, "want tables [[%s]]", key)
			return nil
		}
		all = append(all, &table{d: d, path: fmt.Sprintf("%s[%d]", key, i), values: values})
	}
	return all
}

// named reads the name that a table must have.
func (t *table) named(p *string) {
	n := len(t.d.problems)
	if t.name("name", p); *p == "" && len(t.d.problems) == n {
		t.complain("name", "required: %s", nameRule)
	}
}

// firstSubnet is of the first entry; each further one has the next. Its first 256 addresses are for services.
var firstSubnet = netip.MustParsePrefix("10.16.0.0/16")

// subnet is that of an entry that names none.
func subnet(entry int) netip.Prefix {
	a := firstSubnet.Addr().As4()
	a[1] += byte(entry)
	return netip.PrefixFrom(netip.AddrFrom4(a), firstSubnet.Bits())
}

func (t *table) boards(entry int) Boards {
	b := Boards{Count: 1, Model: Models[0], Network: Facade, Interval: defaultInterval, Security: defaultSecurity, Firmware: "1.0.0", Subnet: subnet(entry)}
	t.named(&b.Name)
	_, b.Numbered = t.values["count"]
	t.number("count", &b.Count, 1, MaxBoards)
	t.choice("model", &b.Model, Models...)
	network := string(b.Network)
	t.choice("network", &network, string(Facade), string(Netstack))
	b.Network = Network(network)
	profile := string(secure.Modern)
	t.choice("tls", &profile, string(secure.Modern), string(secure.GettingStarted), string(secure.AzureIoT))
	b.TLS = secure.Profile(profile)
	t.subnet("subnet", &b.Subnet)
	t.text("firmware", &b.Firmware)
	if b.Firmware == "" || len(b.Firmware) > 32 {
		t.complain("firmware", "a version has 1 to 32 characters")
	}
	t.duration("telemetry", &b.Interval, time.Second, 24*time.Hour)
	if b.Interval%time.Second != 0 {
		t.complain("telemetry", "%v is no whole number of seconds, and telemetryInterval is one", b.Interval)
	}
	if v, ok := t.values["security"]; ok && v == "off" {
		t.take("security")
		b.Security = 0
	} else {
		t.duration("security", &b.Security, time.Second, 24*time.Hour)
	}
	t.duration("log", &b.Log, time.Second, 24*time.Hour)
	t.name("group", &b.Group)
	t.name("site", &b.Site)
	t.name("link", &b.Link)
	t.real("drift_ppm", &b.DriftPPM, 0, 1000)
	t.truth("reboot", &b.Reboot)
	t.end()
	return b
}

func (t *table) subnet(key string, p *netip.Prefix) {
	s := p.String()
	n := len(t.d.problems)
	if t.text(key, &s); len(t.d.problems) > n {
		return
	}
	v, err := netip.ParsePrefix(s)
	switch {
	case err != nil || !v.Addr().Is4():
		t.complain(key, "%s is no subnet of IPv4; want one such as \"10.20.0.0/16\"", show(s))
	case v != v.Masked():
		t.complain(key, "%s is an address; its subnet is %s", v, v.Masked())
	case !v.Addr().IsPrivate() || v.Bits() < 8:
		t.complain(key, "%s is not private; boards live in 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16", v)
	case v.Overlaps(services):
		t.complain(key, "%s holds %s, where the services of the fleet are", v, services)
	default:
		*p = v
	}
}

func (t *table) link() Link {
	var l Link
	t.named(&l.Name)
	t.duration("latency", &l.Latency, 0, 10*time.Second)
	t.duration("jitter", &l.Jitter, 0, 10*time.Second)
	t.share("loss", &l.Loss)
	if l.Loss > maxLoss {
		t.complain("loss", "%v lets no connection come about; at most %v (an outage is outage_every and outage_lasts)", l.Loss, maxLoss)
	}
	t.duration("outage_every", &l.OutageEvery, time.Minute, MaxDuration)
	t.duration("outage_lasts", &l.OutageLasts, time.Second, 24*time.Hour)
	if (l.OutageEvery == 0) != (l.OutageLasts == 0) {
		t.complain("outage_every", "outages need both, outage_every and outage_lasts")
	}
	t.end()
	return l
}

const maxLoss = 0.5

func (t *table) fault() Fault {
	x := Fault{Share: 1}
	kind := ""
	words := make([]string, len(FaultKinds))
	for i, k := range FaultKinds {
		words[i] = string(k)
	}
	if _, ok := t.values["kind"]; !ok {
		t.take("kind")
		t.complain("kind", "required: %s", quoted(words))
	} else {
		t.choice("kind", &kind, words...)
	}
	x.Kind = FaultKind(kind)
	t.texts("boards", &x.Boards, MaxEntries)
	t.share("share", &x.Share)
	if _, ok := t.values["every"]; !ok {
		t.complain("every", "required: how long a board goes without it on average, such as \"12h\"")
	}
	t.duration("every", &x.Every, time.Second, MaxDuration)
	t.duration("lasts", &x.Lasts, time.Second, 24*time.Hour)
	t.number("erases", &x.Cycles, 1, 10_000_000)
	if kind != "" {
		if has := x.Lasts != 0; has != (x.Kind == NetworkLoss) {
			t.complain("lasts", "network-loss needs it, and no other fault: how long it lasts on average")
		}
		if has := x.Cycles != 0; has != (x.Kind == FlashWear) {
			t.complain("erases", "flash-wear needs it, and no other fault: by how many erases the pages in use are older then")
		}
	}
	t.end()
	return x
}

// address is one of the Internet.
func (t *table) address(key string, p *netip.Addr) {
	s := ""
	n := len(t.d.problems)
	if t.text(key, &s); len(t.d.problems) > n || s == "" {
		return
	}
	a, err := netip.ParseAddr(s)
	if err != nil || !a.IsGlobalUnicast() || a.IsPrivate() {
		t.complain(key, "%s is no address of the Internet; want one such as \"203.0.113.5\"", show(s))
		return
	}
	*p = a
}

func (t *table) attack() Attack {
	var a Attack
	names := attackNames()
	if _, ok := t.values["name"]; !ok {
		t.take("name")
		t.complain("name", "required: one of %s", quoted(names))
	} else {
		t.text("name", &a.Name)
		if !slices.Contains(names, a.Name) {
			t.complain("name", "unknown attack %s%s (there are %s)", show(a.Name), nearest.Hint(a.Name, names), quoted(names))
		}
	}
	t.texts("boards", &a.Boards, MaxEntries)
	_, share := t.values["share"]
	_, count := t.values["count"]
	t.share("share", &a.Share)
	t.number("count", &a.Count, 1, MaxBoards)
	if share == count {
		t.complain("share", "want one of share, such as 0.05, and count, the first so many boards of each entry")
	}
	t.address("address", &a.Address)
	t.duration("onset", &a.Onset, 0, MaxDuration)
	t.duration("spread", &a.Spread, 0, MaxDuration)
	t.end()
	return a
}

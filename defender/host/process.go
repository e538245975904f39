package host

import (
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/wire/secmsg"
)

// The rules by what makes them look: the program of a command, or a literal in the line.
var (
	byProgram = map[string][]*rule{}
	byLiteral []*rule
)

func init() {
	for i := range rules {
		r := &rules[i]
		if len(r.literals) > 0 {
			byLiteral = append(byLiteral, r)
			continue
		}
		for _, p := range strings.Fields(r.programs) {
			byProgram[p] = append(byProgram[p], r)
		}
	}
}

// apply asks the table about a line.
func apply(l *line, found func(r *rule, subject string)) {
	for i := range l.commands {
		for _, r := range byProgram[l.commands[i].name] {
			if s := r.match(l, i); s != "" {
				found(r, s)
			}
		}
	}
	for _, r := range byLiteral {
		if containsAny(l.low, r.literals) {
			if s := r.match(l, -1); s != "" {
				found(r, s)
			}
		}
	}
}

// unpack reads what a line carries in base64 for a shell, and adds its commands.
func (l *line) unpack() {
	if !strings.Contains(l.low, "base64") {
		return
	}
	for i := 0; i < len(l.commands) && len(l.commands) < maxCommands; i++ {
		c := &l.commands[i]
		if !c.decodes() {
			continue
		}
		texts := slices.Clone(c.inputs) // base64 -d <<< text
		for _, b := range l.before(i) {
			texts = append(texts, b.args()...)
		}
		for _, t := range texts {
			if script := decoded(strings.TrimSpace(t)); script != "" && printable(script) {
				l.low += "\n" + strings.ToLower(script)
				l.script(script, true, maxDepth-1, "")
			}
		}
	}
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r == '\uFFFD' || r < ' ' && r != '\n' && r != '\t' && r != '\r' })
}

// process judges one that started.
func (e *Engine) process(f *finder, event int, p *secmsg.Process) {
	l := parse(p.Executable, p.CommandLine)
	l.unpack()
	hits := min(p.HitCount, 1<<20)
	apply(l, func(r *rule, subject string) {
		f.add(r.kind, r.name+": "+tidy(subject, 120), rulesSource, hits, event, p.Item, func() string { return ran(p, r.text) })
	})
	spaced := hidden(p.Executable)
	if spaced == "" && len(l.commands) > 0 {
		spaced = hidden(l.commands[0].words[0])
	}
	if spaced != "" {
		f.add("IoT_ExecuteFileWithTrailingSpace", "name: "+spaced, rulesSource, hits, event, p.Item, func() string {
			return ran(p, "is a file whose name ends with a blank, to look like another")
		})
	}
	e.malware(f, event, p, l, hits)
	e.webShell(f, event, p, l, hits)
	e.reconnaissance(f, event, p, l, hits)
	e.backdoor(f, event, p, l, hits)
}

// hidden is the name of a program that ends with a blank; empty: it does not.
func hidden(program string) string {
	if t := strings.TrimRight(program, " "); len(t) > 0 && len(t) < len(program) && len(t) < 200 {
		return base(program)
	}
	return ""
}

// malware compares the places from which a line loads with the lists.
func (e *Engine) malware(f *finder, event int, p *secmsg.Process, l *line, hits uint32) {
	if e.cfg.List == nil || !strings.Contains(l.raw, ".") && !strings.Contains(l.raw, "://") {
		return
	}
	list := e.cfg.List()
	for i := range l.commands {
		c := &l.commands[i]
		places := c.addresses()
		if fetchers[c.name] || c.name == "nc" {
			for _, o := range c.operands() {
				if _, err := netip.ParseAddr(o); err == nil {
					places = append(places, c.name+"://"+o)
				}
			}
		}
		for _, place := range places {
			hit, ok := listed(list, place, f.m.Enqueued)
			if !ok {
				continue
			}
			source := hit.Place()
			f.add("IoT_PossibleMalware", hit.String(), source, hits, event, p.Item, func() string {
				return ran(p, "names "+tidy(hit.String(), 120)+", which is on a list of known bad addresses ("+tidy(source, 120)+")")
			})
		}
	}
}

func listed(list List, place string, seen time.Time) (hit indicator, ok bool) {
	u, err := url.Parse(place)
	if err != nil || u.Hostname() == "" {
		return hit, false
	}
	a, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		return list.MatchDomain(u.Hostname(), seen)
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		port = uint64(map[string]int{"http": 80, "https": 443, "ftp": 21, "tftp": 69}[u.Scheme])
	}
	return list.Match(netip.AddrPortFrom(a, uint16(port)), seen)
}

// device is what is remembered of one.
type device struct {
	web     []int64 // processes that serve the web
	got     []download
	asked   [16]question
	next    int // the oldest of asked
	ransom  int // files with the endings of ransomware
	renamed time.Time
}

const (
	maxWeb      = 16
	maxDownload = 16
	window      = 10 * time.Minute // between a download and its run, and of files that change
	burst       = 10 * time.Second // of questions about the device
	manyKinds   = 5                // different questions in a burst
	manyPlain   = 3                // of which so many are such that monitoring does not ask
)

func (d *device) serves(pid int64) {
	if slices.Contains(d.web, pid) {
		return
	}
	if len(d.web) == maxWeb {
		d.web = slices.Delete(d.web, 0, 1)
	}
	d.web = append(d.web, pid)
}

var webServers = setOf("httpd nginx lighttpd apache2 apache boa thttpd uhttpd mini_httpd goahead webs h2o php-cgi hiawatha cherokee monkey")

func webServer(program string) bool {
	name := strings.ToLower(base(program))
	return webServers[name] || strings.HasPrefix(name, "php-fpm") || strings.HasPrefix(name, "php-cgi")
}

var webUsers = setOf("www-data apache nginx httpd lighttpd http wwwrun")

var webQuestions = setOf("id whoami uname nc ifconfig netstat hostname pwd")

// webShell finds a shell that a web server starts, by its parent or, when that is not known, by its user and what it does.
func (e *Engine) webShell(f *finder, event int, p *secmsg.Process, l *line, hits uint32) {
	if webServer(p.Executable) {
		e.device(f).serves(int64(p.ProcessID))
		return
	}
	d := e.devices.get(f.m.From)
	if d != nil && p.ProcessID != 0 {
		d.web = slices.DeleteFunc(d.web, func(pid int64) bool { return pid == int64(p.ProcessID) }) // the number is another's now
	}
	if len(l.commands) == 0 {
		return
	}
	c := &l.commands[0]
	if !shells[c.name] && !shells[canonical(base(p.Executable))] || shells[c.name] && c.script() != "" {
		return // a script of its own is how small devices serve pages
	}
	child := d != nil && p.ParentProcessID != 0 && slices.Contains(d.web, int64(p.ParentProcessID))
	asks := webUsers[p.UserName] && slices.ContainsFunc(l.commands, func(o command) bool {
		return webQuestions[o.name] || o.name == "cat" && o.has("/etc/passwd")
	})
	if !child && !asks {
		return
	}
	who := "a web server"
	if p.UserName != "" {
		who = p.UserName
	}
	f.add("IoT_WebShell", "shell of "+tidy(who, 60)+": "+tidy(l.commands[len(l.commands)-1].name, 60), rulesSource, hits, event, p.Item, func() string {
		return ran(p, "is a shell that a web server started: somebody may command the device through a page")
	})
}

// question is something that a process asked about its device.
type question struct {
	kind        string
	at          time.Time
	message     uint64
	event, item int
}

// plain are questions that a person asks who wants to know where he is; the others are those of monitoring too.
var (
	plainQuestions = setOf("id whoami uname hostname hostnamectl w who last lastlog lsb_release arch dmesg lscpu dmidecode groups getent printenv route arp lspci lsmod sudo crontab file:cpuinfo file:version file:passwd file:release file:issue find:suid file:group file:mounts file:sudoers")
	otherQuestions = setOf("ifconfig ip netstat ss ps df mount free uptime env lsblk lsusb nproc file:meminfo")
)

// asks is what a command asks about the device; empty: nothing.
func asks(c *command) string {
	switch c.name {
	case "cat", "head", "tail", "grep", "more", "less":
		for _, a := range c.operands() {
			switch {
			case a == "/proc/cpuinfo", a == "/proc/version", a == "/proc/meminfo", a == "/proc/mounts", a == "/etc/passwd", a == "/etc/group", a == "/etc/issue", a == "/etc/sudoers":
				return "file:" + base(a)
			case strings.HasPrefix(a, "/etc/") && strings.HasSuffix(a, "release"):
				return "file:release"
			}
		}
		return ""
	case "sudo":
		if !c.short('l') {
			return ""
		}
	case "crontab":
		if !c.short('l') {
			return ""
		}
	case "hostname", "hostnamectl", "mount":
		if len(c.operands()) > 0 {
			return "" // sets it
		}
	case "find":
		if s := strings.Join(c.args(), " "); strings.Contains(s, "-perm") && (strings.Contains(s, "4000") || strings.Contains(s, "u=s") || strings.Contains(s, "6000")) {
			return "find:suid"
		}
		return ""
	case "ip":
		if len(c.operands()) == 0 || c.has("add", "del", "set", "replace", "flush") {
			return ""
		}
	}
	if plainQuestions[c.name] || otherQuestions[c.name] {
		return c.name
	}
	return ""
}

// reconnaissance finds many different questions in a few seconds.
func (e *Engine) reconnaissance(f *finder, event int, p *secmsg.Process, l *line, hits uint32) {
	for i := range l.commands {
		kind := asks(&l.commands[i])
		if kind == "" {
			continue
		}
		d := e.device(f)
		d.asked[d.next] = question{kind, f.now, f.m.Sequence, event, p.Item}
		d.next = (d.next + 1) % len(d.asked)
		kinds, plain := map[string]bool{}, 0
		for _, q := range d.asked {
			if q.kind == "" || kinds[q.kind] || f.now.Sub(q.at).Abs() > burst {
				continue
			}
			kinds[q.kind] = true
			if plainQuestions[q.kind] {
				plain++
			}
		}
		if len(kinds) < manyKinds || plain < manyPlain {
			continue
		}
		indicator := "questions of user " + tidy(user(p), 60)
		text := func() string {
			var names []string
			for k := range kinds {
				names = append(names, strings.TrimPrefix(strings.TrimPrefix(k, "file:"), "find:"))
			}
			slices.Sort(names)
			return "was asked what it is, within seconds: " + strings.Join(names, ", ")
		}
		for _, q := range d.asked {
			if q.kind != "" && q.message == f.m.Sequence && f.now.Sub(q.at).Abs() <= burst {
				f.add("IoT_LinuxReconnaissance", indicator, rulesSource, evidence, q.event, q.item, text)
			}
		}
		f.add("IoT_LinuxReconnaissance", indicator, rulesSource, hits, event, p.Item, text)
		d.asked, d.next = [16]question{}, 0 // the next burst is another
	}
}

// download is a file that was fetched.
type download struct {
	file, from  string
	at          time.Time
	message     uint64
	event, item int
}

// backdoor finds a program that one command fetches and another one runs.
func (e *Engine) backdoor(f *finder, event int, p *secmsg.Process, l *line, hits uint32) {
	if d := e.devices.get(f.m.From); d != nil && len(d.got) > 0 {
		d.got = slices.DeleteFunc(d.got, func(g download) bool { return f.now.Sub(g.at).Abs() > window })
		names := []string{p.Executable}
		for i := range l.commands {
			names = append(names, l.commands[i].runs()...)
		}
		for _, g := range d.got {
			if g.message == f.m.Sequence && g.event == event && g.item == p.Item {
				continue
			}
			at := slices.IndexFunc(names, func(n string) bool {
				return sameFile(n, g.file) && (strings.Contains(n, "/") || n != names[0] && !shells[canonical(n)])
			})
			if at < 0 {
				continue
			}
			indicator := "downloaded: " + g.from
			text := func() string {
				return ran(p, "runs "+quoted(names[at])+", downloaded from "+quoted(g.from)+" shortly before")
			}
			if g.message == f.m.Sequence {
				f.add("IoT_LinuxBackdoor", indicator, rulesSource, evidence, g.event, g.item, text)
			}
			f.add("IoT_LinuxBackdoor", indicator, rulesSource, hits, event, p.Item, text)
		}
	}
	for i := range l.commands {
		c := &l.commands[i]
		if !fetchers[c.name] {
			continue
		}
		file := c.fetched()
		if file == "" || len(file) > 256 {
			continue
		}
		d := e.device(f)
		if len(d.got) == maxDownload {
			d.got = slices.Delete(d.got, 0, 1)
		}
		d.got = append(d.got, download{strings.Clone(file), strings.Clone(tidy(c.source(), 120)), f.now, f.m.Sequence, event, p.Item})
	}
}

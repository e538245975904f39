package host

import (
	"context"
	"encoding/json"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

type indicator = intel.Indicator

// services sign in for themselves: nobody did.
var services = setOf("cron crond atd systemd systemd-user runuser anacron")

// logins tells of those on the device itself, or from where the agent does not say.
func logins(f *finder, event int, e *secmsg.Event) {
	for _, l := range e.Logins() {
		switch strings.ToLower(strings.Trim(l.Remote, "[]")) {
		case "", "?", "0.0.0.0", "::", "127.0.0.1", "::1", "::ffff:127.0.0.1", "localhost", "localhost.localdomain", ":0":
		default:
			continue
		}
		if services[strings.ToLower(base(l.Program))] {
			continue
		}
		kind, what := alert.SuccessfulLocalLogin, "had a login on the device itself by user "
		if l.Failed {
			kind, what = alert.FailedLocalLogin, "had a failed login on the device itself by user "
		}
		f.add(kind, "user: "+tidy(l.User, 80), rulesSource, uint32(min(l.Hits, 1<<20)), event, l.Item, func() string {
			text := what + quoted(l.User)
			if l.Program != "" {
				text += " through " + quoted(l.Program)
			}
			return text
		})
	}
}

// dockerPort is where a container daemon listens that asks for no certificate.
const dockerPort = 2375

func (e *Engine) ports(f *finder, event int, ev *secmsg.Event) {
	for _, p := range ev.Listening() {
		if p.ProcessID != 0 && webServer(p.Executable) {
			e.device(f).serves(int64(p.ProcessID))
		}
		if p.Local.Port() == dockerPort && strings.HasPrefix(p.Protocol, "TCP") && !p.Local.Addr().IsLoopback() {
			f.add("IoT_ExposedDocker", "port: "+strconv.Itoa(dockerPort), rulesSource, 1, event, p.Item, func() string {
				return "listens on TCP port 2375, where container daemons obey everybody"
			})
		}
	}
}

const (
	maxPaths    = 16 // of one kind that get an alert each; of more, folders get one
	manyRansoms = 10 // files with the endings of ransomware in ten minutes
)

var (
	ransomEnds  = setOf(".locked .encrypted .enc .crypt .crypted .wncry .wcry .lockbit .ech0raix .encrypt .cry .crypto .rexx .ransom .deadbolt .babyk .avos2 .blackbyte .akira .royal_u .rook")
	ransomNotes = regexp.MustCompile(`(?i)^(readme|how|recover|restore|decrypt|!+|_+)[-_a-z0-9! ]*(decrypt|ransom|recover|restore)[-_a-z0-9! ]*\.(txt|html?|hta|md)$`)
)

var fileKinds = map[string]struct{ kind, what string }{
	secmsg.Created:  {"IoT_FileCreated", "created"},
	secmsg.Modified: {"IoT_FileModified", "modified"},
	secmsg.Deleted:  {"IoT_FileDeleted", "deleted"},
}

// fileAction is what happened to a file, by the agent's word or the bits of inotify.
func fileAction(c *secmsg.FileChange) string {
	switch {
	case c.Action != "":
		return c.Action
	case c.Mask&(0x100|0x80) != 0: // IN_CREATE, IN_MOVED_TO
		return secmsg.Created
	case c.Mask&(0x200|0x40|0x400) != 0: // IN_DELETE, IN_MOVED_FROM, IN_DELETE_SELF
		return secmsg.Deleted
	case c.Mask&(0x2|0x8) != 0: // IN_MODIFY, IN_CLOSE_WRITE
		return secmsg.Modified
	}
	return ""
}

func (e *Engine) files(f *finder, event int, ev *secmsg.Event) {
	type change struct {
		secmsg.FileChange
		item int
	}
	byKind := map[string][]change{}
	paths := map[string]map[string]bool{}
	for i := range ev.Payload {
		item, ok := ev.Known(i)
		c, is := item.(secmsg.FileChange)
		if !ok || !is || c.Path == "" {
			continue
		}
		action := fileAction(&c)
		if _, ok := fileKinds[action]; !ok {
			continue
		}
		byKind[action] = append(byKind[action], change{c, i})
		if paths[action] == nil {
			paths[action] = map[string]bool{}
		}
		paths[action][c.Path] = true
	}
	for _, action := range [...]string{secmsg.Created, secmsg.Modified, secmsg.Deleted} {
		k := fileKinds[action]
		for _, c := range byKind[action] {
			what := c.Path
			if len(paths[action]) > maxPaths {
				what = path.Dir(c.Path) + "/"
			}
			f.add(k.kind, what, rulesSource, min(c.HitCount, 1<<20), event, c.item, func() string {
				return k.what + " " + quoted(what) + ", which is watched"
			})
			if action != secmsg.Deleted {
				e.ransom(f, event, c.item, c.Path)
			}
		}
		for _, c := range byKind[action] {
			if action != secmsg.Deleted && base(c.Path) == ".htaccess" {
				f.add("IoT_AccessingHtaccessFile", "htaccess: "+c.Path, rulesSource, min(c.HitCount, 1<<20), event, c.item, func() string {
					return k.what + " " + quoted(c.Path) + ", which says what a web server allows"
				})
			}
		}
	}
}

// ransom finds notes of ransomware, and many files with its endings.
func (e *Engine) ransom(f *finder, event, item int, file string) {
	if name := base(file); ransomNotes.MatchString(name) {
		f.add("IoT_Ransomware", "note: "+name, rulesSource, 1, event, item, func() string { return "got the file " + quoted(file) + ", as ransomware leaves it" })
	}
	end := strings.ToLower(path.Ext(file))
	if !ransomEnds[end] {
		return
	}
	d := e.device(f)
	if f.now.Sub(d.renamed).Abs() > window {
		d.ransom, d.renamed = 0, f.now
	}
	if d.ransom++; d.ransom >= manyRansoms {
		f.add("IoT_Ransomware", "files: "+end, rulesSource, 1, event, item, func() string {
			return "got " + strconv.Itoa(d.ransom) + " files within ten minutes with the endings that ransomware gives, the last " + quoted(file)
		})
	}
}

func peripherals(f *finder, event int, ev *secmsg.Event) {
	for i := range ev.Payload {
		item, _ := ev.Known(i)
		p, ok := item.(secmsg.Peripheral)
		if !ok {
			continue
		}
		out := strings.EqualFold(p.Action, secmsg.Disconnect)
		if !out && !strings.EqualFold(p.Action, secmsg.Connect) {
			continue
		}
		kind, what, name := "", "", ""
		switch {
		case strings.EqualFold(p.Type, secmsg.Ethernet) || p.Type == "" && p.InterfaceName != "":
			kind, what, name = "IoT_EthernetConnection", "network card", p.InterfaceName
			if out {
				kind = "IoT_EthernetDisconnection"
			}
		default:
			kind, what, name = "IoT_USBConnection", "USB device", p.Product
			if name == "" && p.DeviceClass+p.InterfaceClass != "" {
				name = "class " + p.DeviceClass + "/" + p.InterfaceClass
			}
			if out {
				kind = "IoT_UsbDisconnection"
			}
		}
		f.add(kind, what+": "+tidy(name, 100), rulesSource, min(p.HitCount, 1<<20), event, i, func() string {
			if out {
				return "lost the " + what + " " + quoted(name)
			}
			return "got a " + what + ": " + quoted(name)
		})
	}
}

// names compares those that a device asks for with the lists, and with the pools of miners.
func (e *Engine) names(f *finder, event int, ev *secmsg.Event) {
	for _, r := range ev.Resolutions() {
		e.name(f, event, r.Item, r.Name, "", 1)
	}
	if ev.Name != "Dns" {
		return
	}
	for i := range ev.Payload {
		item, _ := ev.Known(i)
		if q, ok := item.(secmsg.DNSQuery); ok && q.Name != "" {
			e.name(f, event, i, q.Name, q.Executable, q.HitCount)
		}
	}
}

func (e *Engine) name(f *finder, event, item int, name, program string, hits uint32) {
	by := ""
	if program != "" {
		by = ", by " + quoted(program)
	}
	if e.cfg.List != nil {
		if hit, ok := e.cfg.List().MatchDomain(name, f.m.Enqueued); ok {
			f.add("IoT_MaliciousNameQueriesDetection", hit.String(), hit.Place(), hits, event, item, func() string {
				return "asked for the name " + quoted(name) + by + ", which is on a list of known bad names (" + tidy(hit.Place(), 120) + ", as " + tidy(hit.String(), 120) + ")"
			})
		}
	}
	if name = strings.ToLower(strings.TrimSuffix(name, ".")); poolName(name) {
		f.add("IoT_CryptoMiner", "pool: "+name, rulesSource, hits, event, item, func() string {
			return "asked for the name " + quoted(name) + by + ", that of a pool of miners of crypto coins"
		})
	}
}

// configuration tells of a twin that the agent could not read. What it could read and finds wrong is a recommendation's matter.
func configuration(f *finder, event int, ev *secmsg.Event) {
	for i, item := range ev.Payload {
		raw, ok := item.(secmsg.Raw)
		var v struct{ ConfigurationName, ErrorType, Message string }
		if !ok || json.Unmarshal(raw, &v) != nil || !strings.EqualFold(v.ErrorType, "TypeMismatch") {
			continue
		}
		f.add(alert.TwinNotParsed, "configuration: "+tidy(v.ConfigurationName, 100), rulesSource, 1, event, i, func() string {
			return "has an agent that cannot read " + quoted(v.ConfigurationName) + " in its twin: " + quoted(v.Message)
		})
	}
}

// lists are the last ones that a device sent.
type lists struct {
	users    []account
	known    bool            // users were sent
	firewall int             // 0: not sent
	asked    map[string]bool // names of events of which the kept ones were asked for
}

type account struct{ id, name, groups, groupNames string }

// Bounds of a list of users that is compared; a longer one is not.
const (
	maxAccounts = 512
	maxListText = 16 << 10
)

// compare judges lists of users and of firewall rules by those before them.
func (e *Engine) compare(ctx context.Context, f *finder) error {
	var merged map[string]*listing
	for i := range f.m.Report.Events {
		ev := &f.m.Report.Events[i]
		if ev.Name != "LocalUsers" && ev.Name != "FirewallConfiguration" {
			continue
		}
		// One list may come in several events of one time; of lists of other times the last counts.
		if merged == nil {
			merged = map[string]*listing{}
		}
		if have := merged[ev.Name]; have != nil && have.at.Equal(ev.Time) {
			have.events = append(have.events, i)
		} else {
			merged[ev.Name] = &listing{ev.Time, []int{i}}
		}
	}
	if merged == nil {
		return nil
	}
	// What has to be read is read before anything is remembered, so that a store that fails can be asked again.
	have := e.lists.of(f.m.From)
	for name := range merged {
		if e.cfg.Previous == nil || have.asked[name] {
			continue
		}
		ev, ok, err := e.cfg.Previous(ctx, f.m.From, name, f.m.Sequence)
		if err != nil {
			return err
		}
		if have.asked == nil {
			have.asked = make(map[string]bool, 2)
		}
		have.asked[name] = true
		switch one := []*secmsg.Event{&ev}; {
		case !ok:
		case name == "LocalUsers":
			have.users, have.known, _ = accounts(one)
		default:
			have.firewall, _, _ = guards(one)
		}
	}
	events := func(m *listing) (all []*secmsg.Event) {
		for _, i := range m.events {
			all = append(all, &f.m.Report.Events[i])
		}
		return all
	}
	if m := merged["LocalUsers"]; m != nil {
		if now, ok, places := accounts(events(m)); ok {
			if have.known {
				f.users(have.users, now, m.events, places)
			}
			have.users, have.known = now, true
		}
	}
	if m := merged["FirewallConfiguration"]; m != nil {
		now, event, item := guards(events(m))
		if have.firewall == guarded && now == open {
			f.add("IoT_DisableFirewall", "configuration: nothing is kept out", rulesSource, 1, m.events[event], item, func() string {
				return "has a firewall that keeps nothing out any more: no rule denies what comes in"
			})
		}
		have.firewall = now
	}
	return nil
}

type listing struct {
	at     time.Time
	events []int
}

// accounts are the users of a list, and where each stands: the index among events and the item. ok is false for one that cannot be compared.
func accounts(events []*secmsg.Event) (all []account, ok bool, places [][2]int) {
	size := 0
	for n, ev := range events {
		for i := range ev.Payload {
			item, _ := ev.Known(i)
			u, is := item.(secmsg.LocalUser)
			if !is {
				continue
			}
			a := account{id: u.UserID, name: u.UserName, groups: ordered(u.GroupIDs), groupNames: u.GroupNames}
			if a.id == "" {
				a.id = a.name
			}
			if a.groups == "" {
				a.groups = ordered(a.groupNames)
			}
			if a.id == "" {
				continue
			}
			if size += len(a.id) + len(a.name) + len(a.groups) + len(a.groupNames); len(all) == maxAccounts || size > maxListText {
				return nil, false, nil
			}
			all, places = append(all, a), append(places, [2]int{n, i})
		}
	}
	return all, len(all) > 0, places
}

// ordered sorts a list with semicolons between its members.
func ordered(list string) string {
	if list == "" {
		return ""
	}
	parts := strings.Split(list, ";")
	slices.Sort(parts)
	return strings.Join(slices.Compact(parts), ";")
}

// users compares two lists of users, by their numbers, which are never masked.
func (f *finder) users(before, now []account, events []int, places [][2]int) {
	old := make(map[string]*account, len(before))
	for i := range before {
		old[before[i].id+"\x00"+before[i].name] = &before[i]
	}
	type changed struct {
		was, is *account
		place   [2]int
	}
	all := make([]changed, len(now))
	seen := map[*account]bool{}
	for i := range now {
		was := old[now[i].id+"\x00"+now[i].name]
		all[i] = changed{was, &now[i], places[i]}
		seen[was] = was != nil
	}
	// A number may belong to two users, of whom one should not be. Whose name became a pseudonym in between keeps his.
	byID := map[string]*account{}
	for i := range before {
		if a := &before[i]; !seen[a] {
			byID[a.id] = a
		}
	}
	kept := 0
	for i := range all {
		if c := &all[i]; c.was == nil && byID[c.is.id] != nil {
			c.was = byID[c.is.id]
			seen[c.was] = true
			delete(byID, c.is.id)
		}
		if all[i].was != nil {
			kept++
		}
	}
	if kept == 0 {
		return // the list of another system
	}
	for _, c := range all {
		var had []string
		if c.was != nil {
			had = strings.Split(c.was.groups, ";")
		}
		has := strings.Split(c.is.groups, ";")
		event, item := events[c.place[0]], c.place[1]
		added := slices.DeleteFunc(slices.Clone(has), func(g string) bool { return g == "" || slices.Contains(had, g) })
		gone := slices.DeleteFunc(slices.Clone(had), func(g string) bool { return g == "" || slices.Contains(has, g) })
		if len(added) > 0 {
			f.add(alert.UserAddedToGroups, "user: "+c.is.name, rulesSource, 1, event, item, func() string {
				what := "has a user " + quoted(c.is.name) + " who was added to groups"
				if c.was == nil {
					what = "has a new user " + quoted(c.is.name) + " in groups"
				}
				return what + ": " + quoted(strings.Join(added, ", ")) + " of " + quoted(strings.ReplaceAll(c.is.groupNames, ";", ", "))
			})
		}
		if len(gone) > 0 {
			f.add(alert.UserDeletedFromGroups, "user: "+c.is.name, rulesSource, 1, event, item, func() string {
				return "has a user " + quoted(c.is.name) + " who was deleted from groups: " + quoted(strings.Join(gone, ", ")) + " of " + quoted(strings.ReplaceAll(c.was.groupNames, ";", ", "))
			})
		}
	}
	for i := range before {
		if a := &before[i]; !seen[a] {
			f.add(alert.UserDeleted, "user: "+a.name, rulesSource, 1, events[0], -1, func() string {
				return "has no user " + quoted(a.name) + " (number " + quoted(a.id) + ") any more"
			})
		}
	}
}

// What a firewall does.
const (
	guarded = 1 // keeps something out
	open    = 2 // keeps nothing out
)

// guards tells what a list of rules does, and where its first rule stands: the index among events, and the item.
func guards(events []*secmsg.Event) (state, event, item int) {
	item = -1
	for n, ev := range events {
		for i := range ev.Payload {
			known, _ := ev.Known(i)
			r, ok := known.(secmsg.FirewallRule)
			if !ok {
				continue
			}
			if item < 0 {
				event, item = n, i
			}
			in := strings.EqualFold(r.Direction, secmsg.In) || r.Direction == "" && !strings.EqualFold(r.ChainName, "OUTPUT")
			if r.Enabled && in && strings.EqualFold(r.Action, secmsg.Deny) {
				return guarded, event, item
			}
		}
	}
	return open, event, item
}

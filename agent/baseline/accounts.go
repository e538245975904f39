package baseline

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxAccounts bounds users and groups.
const maxAccounts = 10_000

type user struct {
	name, home, shell string
	uid, gid          uint32
}

type group struct {
	name string
	gid  uint32
}

// readAccounts reads the device's own files once: names of a tree that does not run are not those of the machine that looks.
func (m *machine) readAccounts() {
	if m.accounts {
		return
	}
	m.accounts = true
	rows, err := m.table("/etc/passwd", 7)
	m.usersErr = err
	for _, f := range rows {
		uid, err := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if err != nil || err2 != nil {
			continue
		}
		m.users = append(m.users, user{f[0], f[5], f[6], uint32(uid), uint32(gid)})
	}
	rows, err = m.table("/etc/group", 3)
	m.groupsErr = err
	for _, f := range rows {
		if gid, err := strconv.ParseUint(f[2], 10, 32); err == nil {
			m.groups = append(m.groups, group{f[0], uint32(gid)})
		}
	}
}

// table reads lines of fields between colons; those with fewer than least are left out.
func (m *machine) table(p string, least int) ([][]string, error) {
	lines, err := m.lines(p)
	if err != nil {
		return nil, err
	}
	if len(lines) > maxAccounts {
		return nil, fmt.Errorf("%s has more than %d lines", p, maxAccounts)
	}
	var rows [][]string
	for _, l := range lines {
		if f := strings.Split(l, ":"); len(f) >= least && !strings.HasPrefix(l, "#") {
			rows = append(rows, f)
		}
	}
	return rows, nil
}

// uidMin is where people's accounts begin.
func (m *machine) uidMin() uint32 {
	lines, _ := m.lines("/etc/login.defs")
	for _, l := range lines {
		if f := strings.Fields(l); len(f) >= 2 && f[0] == "UID_MIN" {
			if n, err := strconv.ParseUint(f[1], 10, 32); err == nil {
				return uint32(n)
			}
		}
	}
	return 1000
}

// locked reports a shell that lets nobody in.
func locked(shell string) bool {
	switch path.Base(shell) {
	case "nologin", "false", "sync", "shutdown", "halt":
		return true
	}
	return false
}

// people are root and the accounts of people who can sign in.
func (m *machine) people() ([]user, error) {
	m.readAccounts()
	if m.usersErr != nil {
		return nil, m.usersErr
	}
	least := m.uidMin()
	return slices.DeleteFunc(slices.Clone(m.users), func(u user) bool {
		return locked(u.shell) || u.uid != 0 && u.uid < least || u.name == "nobody"
	}), nil
}

// userDirs looks at the homes of people: they exist, belong to their users (owner), their files have at most the permissions
// of mode-mask (FileMatchPerm), or a file is in none of them (FileNotExists).
func (m *machine) userDirs(c *Check) verdict {
	people, err := m.people()
	if err != nil {
		return unread(err)
	}
	for _, u := range people {
		if v := m.userDir(c, u); v.outcome != Pass {
			return v
		}
	}
	return pass()
}

func (m *machine) userDir(c *Check, u user) verdict {
	home, err := m.tree.stat(u.home)
	there := err == nil && home.dir()
	switch c.Expect {
	case "exists":
		if !there {
			return failf("the home %s of %s is not there", u.home, u.name)
		}
	case "owner":
		if there && home.uid != u.uid {
			return failf("the home %s of %s belongs to user %s", u.home, u.name, m.userName(home.uid))
		}
	case "FileNotExists":
		if c.Path == "" || strings.Contains(c.Path, "/") {
			return errorf("path %q is not the name of a file", c.Path)
		}
		if p := path.Join(u.home, c.Path); there {
			if _, err := m.tree.lstat(p); err == nil {
				return failf("%s is there", p)
			}
		}
	case "FileMatchPerm":
		mode, err := octal(c.ModeMask, "mode-mask")
		if err != nil || c.ModeMask == "" {
			return errorf("mode-mask %q is not an octal number", c.ModeMask)
		}
		re, err := m.regexp(c.Regex)
		if err != nil {
			return errorf("%v", err)
		}
		if !there {
			return pass()
		}
		names, err := m.tree.list(u.home, maxEntries)
		if err != nil {
			return unread(err)
		}
		for _, n := range names {
			if !re.MatchString(n) {
				continue
			}
			if i, err := m.tree.lstat(path.Join(u.home, n)); err == nil && i.regular() && i.mode&^mode != 0 {
				return failf("%s has mode %04o, which is more than %04o", path.Join(u.home, n), i.mode, mode)
			}
		}
	default:
		return errorf("expect is exists, owner, FileMatchPerm or FileNotExists, not %q", c.Expect)
	}
	return pass()
}

// homePermissions wants homes that others cannot look into: 0750 or less.
func (m *machine) homePermissions(*Check) verdict {
	people, err := m.people()
	if err != nil {
		return unread(err)
	}
	for _, u := range people {
		if i, err := m.tree.stat(u.home); err == nil && i.dir() && i.mode&0o027 != 0 {
			return failf("the home %s of %s has mode %04o, which is more than 0750", u.home, u.name, i.mode)
		}
	}
	return pass()
}

// noDuplicates wants a column (variable, from 0) of passwd or group without a value that stands twice.
func (m *machine) noDuplicates(c *Check) verdict {
	column, err := strconv.Atoi(c.Variable)
	if err != nil || column < 0 || column > 15 {
		return errorf("variable %q is not the number of a column, from 0 to 15", c.Variable)
	}
	rows, err := m.table(c.Path, column+1)
	if err != nil {
		return unread(err)
	}
	first := map[string]string{}
	for _, f := range rows {
		if other, ok := first[f[column]]; ok {
			return failf("%s: %s and %s are the same in column %d", c.Path, other, f[0], column)
		}
		first[f[column]] = f[0]
	}
	return pass()
}

// groupValidity wants every user's group to be in the list of groups.
func (m *machine) groupValidity(*Check) verdict {
	m.readAccounts()
	for _, err := range []error{m.usersErr, m.groupsErr} {
		if err != nil {
			return unread(err)
		}
	}
	for _, u := range m.users {
		if !slices.ContainsFunc(m.groups, func(g group) bool { return g.gid == u.gid }) {
			return failf("the group %d of %s is not in /etc/group", u.gid, u.name)
		}
	}
	return pass()
}

// shadowDate compares a column (key) of days since 1970 with a day: now, a number, or a date.
func (m *machine) shadowDate(c *Check) verdict {
	column, err := strconv.Atoi(c.Key)
	if err != nil || column < 0 || column > 15 {
		return errorf("key %q is not the number of a column, from 0 to 15", c.Key)
	}
	if c.Expect != "before" && c.Expect != "after" {
		return errorf("expect is before or after, not %q", c.Expect)
	}
	var day int64
	if c.Value == "now" {
		day = m.now.Unix() / 86400
	} else if t, err := time.Parse(time.DateOnly, c.Value); err == nil {
		day = t.Unix() / 86400
	} else if day, err = strconv.ParseInt(c.Value, 10, 64); err != nil {
		return errorf("value %q is not now, a number of days or a date", c.Value)
	}
	rows, err := m.table(c.Path, column+1)
	if err != nil {
		return unread(err)
	}
	for _, f := range rows {
		n, err := strconv.ParseInt(f[column], 10, 64)
		if err != nil {
			continue // nothing set
		}
		if c.Expect == "before" && n > day || c.Expect == "after" && n < day {
			return failf("%s: column %d of %s is not %s %s", c.Path, column, f[0], c.Expect, c.Value)
		}
	}
	return pass()
}

// systemAccounts wants accounts of services to have no shell.
func (m *machine) systemAccounts(*Check) verdict {
	m.readAccounts()
	if m.usersErr != nil {
		return unread(m.usersErr)
	}
	least := m.uidMin()
	for _, u := range m.users {
		if u.uid != 0 && u.uid < least && !locked(u.shell) {
			return failf("the system account %s has the shell %s", u.name, cmpShell(u.shell))
		}
	}
	return pass()
}

func cmpShell(s string) string {
	if s == "" {
		return "/bin/sh (none is given)"
	}
	return s
}

// rootUID wants root alone to have user id 0.
func (m *machine) rootUID(c *Check) verdict {
	p := c.Path
	if p == "" {
		p = "/etc/passwd"
	}
	rows, err := m.table(p, 4)
	if err != nil {
		return unread(err)
	}
	for _, f := range rows {
		if n, err := strconv.ParseUint(f[2], 10, 32); err == nil && n == 0 && f[0] != "root" {
			return failf("%s has user id 0, as root", f[0])
		}
	}
	return pass()
}

// notMatchEnv wants no value of a variable, as files that set up a user's session give it, to match. No shell is run.
func (m *machine) notMatchEnv(c *Check) verdict {
	re, err := m.regexp(c.Regex)
	if err != nil {
		return errorf("%v", err)
	}
	name := c.User
	if name == "" {
		name = "root"
	}
	m.readAccounts()
	if m.usersErr != nil {
		return unread(m.usersErr)
	}
	at := slices.IndexFunc(m.users, func(u user) bool { return u.name == name })
	if at < 0 {
		return missf("there is no user %s", name)
	}
	u := m.users[at]
	paths := []string{"/etc/environment", "/etc/login.defs", "/etc/profile"}
	for _, n := range []string{".profile", ".bash_profile", ".bash_login", ".bashrc", ".pam_environment"} {
		paths = append(paths, path.Join(u.home, n))
	}
	loginKey := "ENV_PATH"
	if u.uid == 0 {
		loginKey = "ENV_SUPATH"
	}
	for _, p := range paths {
		lines, err := m.lines(p)
		if gone(err) {
			continue
		}
		if err != nil {
			return unread(err)
		}
		for n, l := range lines {
			l = strings.TrimSpace(l)
			if p == "/etc/login.defs" {
				k, v, _ := strings.Cut(l, " ")
				if k, v, ok := strings.Cut(strings.Join(strings.Fields(k+" "+v), " "), " "); ok && k == loginKey {
					l = v
				} else {
					continue
				}
			}
			l = strings.TrimPrefix(l, "export ")
			v, ok := strings.CutPrefix(l, c.Variable+"=")
			if ok && re.MatchString(strings.Trim(v, `"'`)) {
				return failf("line %d of %s gives %s such a %s", n+1, p, name, c.Variable)
			}
		}
	}
	return pass()
}

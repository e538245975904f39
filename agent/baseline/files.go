package baseline

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// fileStats wants owner, group and permissions. mode is what the file has or, with allow-stricter, the most it may have;
// mode-mask are bits that it may not have.
func (m *machine) fileStats(c *Check) verdict {
	i, err := m.tree.stat(c.Path)
	if err != nil {
		return unread(err)
	}
	return m.stats(c, c.Path, i)
}

func (m *machine) fileStatsIfExists(c *Check) verdict {
	i, err := m.tree.stat(c.Path)
	if gone(err) {
		return missf("%s is not there", c.Path)
	}
	if err != nil {
		return unread(err)
	}
	return m.stats(c, c.Path, i)
}

// dirStats asks the same of every file below a directory.
func (m *machine) dirStats(c *Check) verdict {
	if _, err := m.tree.stat(c.Path); gone(err) {
		return missf("%s is not there", c.Path)
	}
	dirs := []string{path.Clean(c.Path)}
	for seen := 0; len(dirs) > 0; dirs = dirs[1:] {
		names, err := m.tree.list(dirs[0], maxEntries)
		if err != nil {
			return unread(err)
		}
		if seen += len(names); seen > maxEntries {
			return errorf("%s: %v: more than %d", c.Path, errTooMany, maxEntries)
		}
		for _, n := range names {
			p := path.Join(dirs[0], n)
			i, err := m.tree.lstat(p)
			switch {
			case gone(err):
			case err != nil:
				return unread(err)
			case i.dir():
				dirs = append(dirs, p)
			case i.regular():
				if v := m.stats(c, p, i); v.outcome != Pass {
					return v
				}
			}
		}
	}
	return pass()
}

// unitFileStats asks the same of a unit of systemd, wherever it lies.
func (m *machine) unitFileStats(c *Check) verdict {
	for _, d := range unitDirs {
		p := path.Join(d, path.Base(c.Path))
		i, err := m.tree.stat(p)
		if gone(err) {
			continue
		}
		if err != nil {
			return unread(err)
		}
		return m.stats(c, p, i)
	}
	return missf("there is no unit %s", c.Path)
}

func (m *machine) stats(c *Check, p string, i info) verdict {
	if c.Owner == "" && c.Group == "" && c.Mode == "" && c.ModeMask == "" {
		return errorf("%s needs one of owner, group, mode and mode-mask", c.Command)
	}
	mode, err := octal(c.Mode, "mode")
	if err != nil {
		return errorf("%v", err)
	}
	mask, err := octal(c.ModeMask, "mode-mask")
	if err != nil {
		return errorf("%v", err)
	}
	if c.AllowStricter != "" && c.AllowStricter != "true" && c.AllowStricter != "false" {
		return errorf("allow-stricter is true or false, not %q", c.AllowStricter)
	}
	if c.Owner != "" {
		ok, err := m.named(c.Owner, i.uid, true)
		if err != nil {
			return unread(err)
		}
		if !ok {
			return failf("%s belongs to user %s, not to %s", p, m.userName(i.uid), c.Owner)
		}
	}
	if c.Group != "" {
		ok, err := m.named(c.Group, i.gid, false)
		if err != nil {
			return unread(err)
		}
		if !ok {
			return failf("%s belongs to group %s, not to %s", p, m.groupName(i.gid), c.Group)
		}
	}
	switch {
	case c.Mode != "" && c.AllowStricter == "true" && i.mode&^mode != 0:
		return failf("%s has mode %04o, which is more than %04o", p, i.mode, mode)
	case c.Mode != "" && c.AllowStricter != "true" && i.mode != mode:
		return failf("%s has mode %04o, not %04o", p, i.mode, mode)
	case i.mode&mask != 0:
		return failf("%s has mode %04o, with bits of %04o", p, i.mode, mask)
	}
	return pass()
}

func octal(s, what string) (uint32, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n > 0o7777 {
		return 0, fmt.Errorf("%s %q is not an octal number up to 7777", what, s)
	}
	return uint32(n), nil
}

// named reports whether one of the names, joined by commas, is that of the number.
func (m *machine) named(names string, id uint32, isUser bool) (bool, error) {
	for n := range strings.SplitSeq(names, ",") {
		n = strings.TrimSpace(n)
		if n == "root" && id == 0 {
			return true, nil
		}
		if x, err := strconv.ParseUint(n, 10, 32); err == nil && uint32(x) == id {
			return true, nil
		}
		m.readAccounts()
		if isUser {
			if slices.ContainsFunc(m.users, func(u user) bool { return u.name == n && u.uid == id }) {
				return true, nil
			}
		} else if slices.ContainsFunc(m.groups, func(g group) bool { return g.name == n && g.gid == id }) {
			return true, nil
		}
	}
	if names == "root" {
		return false, nil // needs no file of accounts
	}
	if isUser {
		return false, m.usersErr
	}
	return false, m.groupsErr
}

func (m *machine) userName(id uint32) string {
	m.readAccounts()
	for _, u := range m.users {
		if u.uid == id {
			return u.name
		}
	}
	return strconv.FormatUint(uint64(id), 10)
}

func (m *machine) groupName(id uint32) string {
	m.readAccounts()
	for _, g := range m.groups {
		if g.gid == id {
			return g.name
		}
	}
	return strconv.FormatUint(uint64(id), 10)
}

func (m *machine) fileExists(c *Check) verdict {
	if _, err := m.tree.stat(c.Path); err != nil {
		return unread(err)
	}
	return pass()
}

func (m *machine) fileNotExists(c *Check) verdict {
	_, err := m.tree.lstat(c.Path)
	switch {
	case gone(err):
		return pass()
	case err != nil:
		return unread(err)
	}
	return failf("%s is there", c.Path)
}

// fileExistsRegex wants a file with a matching name in a directory.
func (m *machine) fileExistsRegex(c *Check) verdict {
	re, err := m.regexp(c.Regex)
	if err != nil {
		return errorf("%v", err)
	}
	names, err := m.tree.list(c.Path, maxEntries)
	if err != nil {
		return unread(err)
	}
	if slices.ContainsFunc(names, re.MatchString) {
		return pass()
	}
	return failf("%s has no file of such a name", c.Path)
}

// noSelfTest fails when an operator asks for a failing check, to see that it arrives (defender §1.5).
func (m *machine) noSelfTest(c *Check) verdict {
	v := m.fileNotExists(c)
	if v.outcome == Fail {
		v.why += "; this failure was asked for, delete the file to end it"
	}
	return v
}

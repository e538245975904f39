package baseline

import (
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// expressions compiles the regex and filter of a check; the filter is nil where there is none.
func (m *machine) expressions(c *Check) (re, filter *regexp.Regexp, err error) {
	if re, err = m.regexp(c.Regex); err != nil {
		return nil, nil, err
	}
	if c.Filter != "" {
		filter, err = m.regexp(c.Filter)
	}
	return re, filter, err
}

// numbered are the lines that a filter leaves, with their numbers. Texts of verdicts name numbers, never contents: the file
// may hold secrets.
type numbered struct {
	n    int
	text string
}

func filtered(lines []string, filter *regexp.Regexp) []numbered {
	var out []numbered
	for i, l := range lines {
		if filter == nil || filter.MatchString(l) {
			out = append(out, numbered{i + 1, l})
		}
	}
	return out
}

// matchingLines wants regex in one of the lines that filter leaves.
func matchingLines(m *machine, c *Check, lines []string) verdict {
	re, filter, err := m.expressions(c)
	if err != nil {
		return errorf("%v", err)
	}
	if slices.ContainsFunc(filtered(lines, filter), func(l numbered) bool { return re.MatchString(l.text) }) {
		return pass()
	}
	return failf("no line of %s is as it should be", c.Path)
}

// matchingAll wants every group of regex to be found somewhere in the lines that filter leaves; without groups, regex in each
// of them.
func matchingAll(m *machine, c *Check, lines []string) verdict {
	re, filter, err := m.expressions(c)
	if err != nil {
		return errorf("%v", err)
	}
	left := filtered(lines, filter)
	if len(left) == 0 {
		return failf("no line of %s is as it should be", c.Path)
	}
	if re.NumSubexp() == 0 {
		for _, l := range left {
			if !re.MatchString(l.text) {
				return failf("line %d of %s is not as it should be", l.n, c.Path)
			}
		}
		return pass()
	}
	found := make([]bool, re.NumSubexp()+1)
	for _, l := range left {
		for _, at := range re.FindAllStringSubmatchIndex(l.text, -1) {
			for g := range found {
				found[g] = found[g] || at[2*g] >= 0
			}
		}
	}
	if g := slices.Index(found[1:], false); g >= 0 {
		return failf("%s lacks part %d of %d of what it should hold", c.Path, g+1, re.NumSubexp())
	}
	return pass()
}

// noMatchingLines wants no line with both filter and regex; but in tables of mounts a check with a filter names an option that
// each line which filter leaves must have (docs/divergences.md).
func noMatchingLines(m *machine, c *Check, lines []string) verdict {
	re, filter, err := m.expressions(c)
	if err != nil {
		return errorf("%v", err)
	}
	table := filter != nil && mountTable(c.Path)
	for _, l := range filtered(lines, filter) {
		switch {
		case table && strings.HasPrefix(strings.TrimSpace(l.text), "#"):
		case table && !re.MatchString(l.text):
			return failf("line %d of %s lacks what it should have", l.n, c.Path)
		case !table && re.MatchString(l.text):
			return failf("line %d of %s should not be there", l.n, c.Path)
		}
	}
	return pass()
}

func mountTable(p string) bool {
	switch path.Clean(p) {
	case "/etc/fstab", "/etc/mtab", "/proc/mounts", "/proc/self/mounts":
		return true
	}
	return false
}

// matchingInDir wants a line in one of the files of a directory.
func (m *machine) matchingInDir(c *Check) verdict {
	names, err := m.tree.list(c.Path, maxEntries)
	if err != nil {
		return unread(err)
	}
	for i, n := range names {
		names[i] = path.Join(c.Path, n)
	}
	return m.matchingAny(c, names)
}

// matchingInFiles wants a line in one of the files that path names, joined by |.
func (m *machine) matchingInFiles(c *Check) verdict {
	return m.matchingAny(c, strings.Split(c.Path, "|"))
}

func (m *machine) matchingAny(c *Check, paths []string) verdict {
	var trouble error
	for _, p := range paths {
		if i, err := m.tree.stat(p); err == nil && !i.regular() {
			continue
		}
		lines, err := m.lines(p)
		if gone(err) {
			continue
		}
		if err != nil {
			trouble = err
			continue
		}
		if v := matchingLines(m, c, lines); v.outcome != Fail {
			return v
		}
	}
	if trouble != nil {
		return unread(trouble) // it may be there
	}
	return failf("no file of %s has a line as it should be", c.Path)
}

// matchingSection wants a line between one that expect matches and the next that key matches.
func (m *machine) matchingSection(c *Check) verdict {
	lines, err := m.lines(c.Path)
	if err != nil {
		return unread(err)
	}
	re, filter, err := m.expressions(c)
	if err != nil {
		return errorf("%v", err)
	}
	begin, err := m.regexp(c.Expect)
	if err != nil {
		return errorf("%v", err)
	}
	end, err := m.regexp(c.Key)
	if err != nil {
		return errorf("%v", err)
	}
	inside := false
	for _, l := range lines {
		switch {
		case begin.MatchString(l):
			inside = true
		case end.MatchString(l):
			inside = false
		case inside && (filter == nil || filter.MatchString(l)) && re.MatchString(l):
			return pass()
		}
	}
	return failf("the section of %s has no line as it should be", c.Path)
}

// pwQuality wants long passwords of all classes of characters, of pwquality.conf and what stands beside it.
func (m *machine) pwQuality(c *Check) verdict {
	minLen := 14
	if c.MinLen != "" {
		n, err := strconv.Atoi(c.MinLen)
		if err != nil || n < 1 {
			return errorf("minlen %q is not a number above 0", c.MinLen)
		}
		minLen = n
	}
	paths := []string{c.Path}
	names, err := m.tree.list(c.Path+".d", maxEntries)
	if err != nil && !gone(err) {
		return unread(err)
	}
	for _, n := range names {
		if strings.HasSuffix(n, ".conf") {
			paths = append([]string{c.Path + ".d/" + n}, paths...) // pam_pwquality reads the folder first
		}
	}
	if _, err := m.tree.stat(c.Path); err != nil && len(paths) == 1 {
		return unread(err)
	}
	set := map[string]int{}
	for _, p := range paths {
		lines, err := m.lines(p)
		if gone(err) {
			continue
		}
		if err != nil {
			return unread(err)
		}
		for _, l := range lines {
			l, _, _ = strings.Cut(l, "#")
			if k, v, ok := strings.Cut(l, "="); ok {
				if n, err := strconv.Atoi(strings.TrimSpace(v)); err == nil {
					set[strings.TrimSpace(k)] = n
				}
			}
		}
	}
	if set["minlen"] < minLen {
		return failf("%s: minlen should be at least %d", c.Path, minLen)
	}
	if set["minclass"] >= 4 {
		return pass()
	}
	for _, k := range []string{"dcredit", "ucredit", "lcredit", "ocredit"} {
		if set[k] >= 0 {
			return failf("%s: %s should be -1, or minclass 4", c.Path, k)
		}
	}
	return pass()
}

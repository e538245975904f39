package baseline

import (
	"path"
	"slices"
	"strings"
)

// mount is a line of a table of mounts.
type mount struct {
	at      string
	kind    string
	options []string
}

// mounts are those that stand; of a tree that does not run, those that its fstab asks for.
func (m *machine) mounts() ([]mount, error) {
	var lines []string
	var err error
	if m.live {
		// Those of the first process: a service manager may have given this one a view of its own, with mounts that guard it.
		if lines, err = m.lines("/proc/1/mounts"); err != nil {
			lines, err = m.lines("/proc/self/mounts")
		}
	} else {
		lines, err = m.lines("/etc/fstab")
	}
	if err != nil {
		return nil, err
	}
	var out []mount
	for _, l := range lines {
		f := strings.Fields(l)
		if len(f) < 4 || strings.HasPrefix(f[0], "#") {
			continue
		}
		out = append(out, mount{path.Clean(unescape(f[1])), f[2], strings.Split(f[3], ",")})
	}
	return out, nil
}

// unescape reads \040 and its like.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

func (m *machine) mountAt(p string) (*mount, error) {
	all, err := m.mounts()
	if err != nil {
		return nil, err
	}
	for _, mt := range slices.Backward(all) { // the latest lies on top
		if mt.at == path.Clean(p) {
			return &mt, nil
		}
	}
	return nil, nil
}

// mountOption wants an option (value) where something is mounted at path.
func (m *machine) mountOption(c *Check) verdict {
	mt, err := m.mountAt(c.Path)
	switch {
	case err != nil:
		return unread(err)
	case mt == nil:
		return missf("nothing is mounted at %s", c.Path)
	case !slices.Contains(mt.options, c.Value):
		return failf("%s is mounted without %s", c.Path, c.Value)
	}
	return pass()
}

// separateMount wants a filesystem of its own at path.
func (m *machine) separateMount(c *Check) verdict {
	mt, err := m.mountAt(c.Path)
	switch {
	case err != nil:
		return unread(err)
	case mt == nil:
		return failf("%s shares a filesystem with its parent", c.Path)
	}
	return pass()
}

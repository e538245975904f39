package baseline

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// errNoPackages is for devices whose list of packages this agent cannot read, or that have none.
var errNoPackages = errors.New("there is no list of packages of dpkg, apk, opkg or rpm")

// installed are the names of the packages of a device.
func (m *machine) installed() (map[string]bool, error) {
	if m.packages == nil && m.packagesErr == nil {
		m.packages, m.packagesErr = m.readPackages()
	}
	return m.packages, m.packagesErr
}

func (m *machine) readPackages() (map[string]bool, error) {
	all, found := map[string]bool{}, false
	for _, list := range []struct {
		path, name string
		status     bool // whether a line of Status tells if it is there
	}{
		{"/var/lib/dpkg/status", "Package: ", true},
		{"/usr/lib/opkg/status", "Package: ", true},
		{"/var/lib/opkg/status", "Package: ", true},
		{"/lib/apk/db/installed", "P:", false},
		{"/usr/lib/apk/db/installed", "P:", false},
	} {
		b, err := m.tree.read(list.path, maxStatus)
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found = true
		if err := readStatus(b, list.name, list.status, all); err != nil {
			return nil, fmt.Errorf("%s: %w", list.path, err)
		}
	}
	for _, dir := range []string{"/usr/lib/sysimage/rpm", "/var/lib/rpm", "/usr/share/rpm"} {
		// rpm has had three forms of database; it alone reads all of them. The directory is there on others, too.
		if !m.exists(dir+"/rpmdb.sqlite") && !m.exists(dir+"/Packages.db") && !m.exists(dir+"/Packages") {
			continue
		}
		names, err := m.output("rpm", "-qa", "--queryformat", `%{NAME}\n`)
		if errors.Is(err, errNoProgram) && found {
			continue // another program keeps the packages of this device
		}
		if err != nil {
			return nil, fmt.Errorf("the list of packages in %s: %w", dir, err)
		}
		found = true
		for _, n := range names {
			all[n] = true
		}
		break
	}
	if !found {
		return nil, errNoPackages
	}
	return all, nil
}

// readStatus reads paragraphs as dpkg, opkg and apk keep them.
func readStatus(b []byte, prefix string, status bool, all map[string]bool) error {
	var name string
	installed := !status
	flush := func() {
		if name != "" && installed {
			all[name] = true
		}
		name, installed = "", !status
	}
	sc := bufio.NewScanner(bytes.NewReader(b))
	sc.Buffer(make([]byte, 0, 4096), 1<<20)
	for sc.Scan() {
		l := sc.Bytes()
		switch {
		case len(l) == 0:
			flush()
		case bytes.HasPrefix(l, []byte(prefix)):
			name = strings.TrimSpace(string(l[len(prefix):]))
		case status && bytes.HasPrefix(l, []byte("Status: ")):
			installed = bytes.HasSuffix(bytes.TrimSpace(l), []byte(" installed"))
		}
	}
	flush()
	return sc.Err()
}

// packages makes the commands about packages: whether one of a name, or of a matching name, is installed.
func packages(expression, wanted bool) func(*machine, *Check) verdict {
	return func(m *machine, c *Check) verdict {
		s := c.Package
		if !expression {
			s = "^" + regexp.QuoteMeta(s) + "$"
		}
		re, err := m.regexp(s)
		if err != nil {
			return errorf("%v", err)
		}
		all, err := m.installed()
		if errors.Is(err, errNoPackages) || errors.Is(err, errNotRunning) {
			return missf("%v", err)
		}
		if err != nil {
			return errorf("%v", err)
		}
		switch has := anyName(all, re); {
		case has && !wanted:
			return failf("the package %s is installed", c.Package)
		case !has && wanted:
			return failf("the package %s is not installed", c.Package)
		}
		return pass()
	}
}

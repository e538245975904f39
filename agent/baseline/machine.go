package baseline

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// A machine is the device during one scan: what was read of it is kept, so that all audits see the same.
type machine struct {
	ctx  context.Context
	tree *tree
	live bool     // it is the running system: its kernel and programs can be asked
	dirs []string // where programs are
	now  time.Time

	distro  distro
	files   map[string][]string
	cached  int
	regexes map[string]*regexp.Regexp

	users       []user
	usersErr    error
	groups      []group
	groupsErr   error
	accounts    bool
	packages    map[string]bool
	packagesErr error
	ssh         []string
	sshErr      error
	found       *findings
	outputs     map[string]output
	ran         []process
}

func newMachine(ctx context.Context, t *tree, cfg *Config) *machine {
	m := &machine{
		ctx: ctx, tree: t, live: t.root == "/" || cfg.live, dirs: programDirs, now: time.Now(),
		files: map[string][]string{}, regexes: map[string]*regexp.Regexp{}, outputs: map[string]output{},
	}
	m.distro = m.readDistro()
	return m
}

// met reports whether a dependency holds.
func (m *machine) met(d Dependency) (bool, error) {
	v := strings.TrimSpace(d.Value)
	if v == "" {
		return false, fmt.Errorf("it names nothing")
	}
	switch d.Type {
	case "FileExists", "FileNotExists":
		_, err := m.tree.lstat(v)
		if err != nil && !gone(err) {
			return false, err
		}
		return (err == nil) == (d.Type == "FileExists"), nil
	case "PackageInstalled", "PackageNotInstalled":
		re, err := m.regexp("^(?:" + v + ")$")
		if err != nil {
			return false, err
		}
		all, err := m.installed()
		if err != nil {
			return false, err
		}
		return anyName(all, re) == (d.Type == "PackageInstalled"), nil
	case "ServiceStatus":
		name, want, _ := strings.Cut(v, "|")
		running, err := m.serviceRuns(name)
		return running == (want == "" || want == "running"), err
	}
	return false, fmt.Errorf("this agent knows no such dependency; it knows FileExists, FileNotExists, PackageInstalled, PackageNotInstalled and ServiceStatus")
}

func anyName(names map[string]bool, re *regexp.Regexp) bool {
	for n := range names {
		if re.MatchString(n) {
			return true
		}
	}
	return false
}

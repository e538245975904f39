package baseline

import (
	"errors"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// unitDirs is where systemd looks for units, in its order.
var unitDirs = []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}

// serviceNames are the names of a service's unit: its own, and the one that it is an alias of.
func (m *machine) serviceNames(service string) []string {
	unit := service
	if path.Ext(unit) == "" || !strings.Contains(".service.socket.timer.path.target.mount", path.Ext(unit)) {
		unit += ".service"
	}
	names := []string{unit}
	for _, d := range unitDirs {
		to, err := m.tree.readlink(path.Join(d, unit))
		if err == nil && to != "/dev/null" && path.Base(to) != unit {
			names = append(names, path.Base(to))
			break
		}
	}
	return names
}

var sysvStart = regexp.MustCompile(`^S[0-9][0-9]`)

// enabledBy says what starts a service at boot: a link of systemd's, of OpenRC's or of a runlevel; empty if nothing does.
func (m *machine) enabledBy(service string) (string, error) {
	if err := serviceName(service); err != nil {
		return "", err
	}
	for _, unit := range m.serviceNames(service) {
		// A link to /dev/null masks a unit, whatever wants it.
		if to, err := m.tree.readlink("/etc/systemd/system/" + unit); err == nil && to == "/dev/null" {
			return "", nil
		}
		for _, d := range unitDirs {
			names, err := m.tree.list(d, maxEntries)
			if gone(err) {
				continue
			}
			if err != nil {
				return "", err
			}
			for _, n := range names {
				if !strings.HasSuffix(n, ".wants") && !strings.HasSuffix(n, ".requires") {
					continue
				}
				p := path.Join(d, n, unit)
				if _, err := m.tree.lstat(p); err == nil {
					return p, nil
				}
			}
		}
	}
	bare := strings.TrimSuffix(service, ".service")
	for _, level := range []string{"boot", "default", "sysinit"} { // OpenRC
		p := path.Join("/etc/runlevels", level, bare)
		if _, err := m.tree.lstat(p); err == nil {
			return p, nil
		}
	}
	// System V's runlevels, OpenWrt's list; BusyBox runs what lies in init.d under such a name.
	for _, d := range []string{"/etc/rc2.d", "/etc/rc3.d", "/etc/rc5.d", "/etc/rc.d/rc3.d", "/etc/rc.d/rc5.d", "/etc/rc.d", "/etc/init.d"} {
		names, err := m.tree.list(d, maxEntries)
		if gone(err) {
			continue
		}
		if err != nil {
			return "", err
		}
		for _, n := range names {
			if sysvStart.MatchString(n) && n[3:] == bare && !m.unitKnown(service) {
				return path.Join(d, n), nil
			}
		}
	}
	return "", nil
}

// unitKnown reports a unit of systemd's own: scripts of the same name do not count beside it.
func (m *machine) unitKnown(service string) bool {
	if !m.exists("/run/systemd/system") && !m.exists("/lib/systemd/systemd") {
		return false
	}
	for _, d := range unitDirs {
		if m.exists(path.Join(d, strings.TrimSuffix(service, ".service")+".service")) {
			return true
		}
	}
	return false
}

var plainService = regexp.MustCompile(`^[A-Za-z0-9@:_.\\-]{1,128}$`)

type badServiceError string

func (e badServiceError) Error() string {
	return strconv.Quote(string(e)) + " is no name of a service"
}

func serviceName(s string) error {
	if !plainService.MatchString(s) || strings.Contains(s, "..") {
		return badServiceError(s)
	}
	return nil
}

// serviceRuns looks at what runs, without asking the service manager: its control groups, OpenRC's list, files with process
// ids, and names of processes.
func (m *machine) serviceRuns(service string) (bool, error) {
	if err := serviceName(service); err != nil {
		return false, err
	}
	if !m.live {
		return false, errNotRunning
	}
	for _, unit := range m.serviceNames(service) {
		for _, base := range []string{"/sys/fs/cgroup/system.slice/", "/sys/fs/cgroup/systemd/system.slice/", "/sys/fs/cgroup/unified/system.slice/"} {
			if m.word(base+unit+"/cgroup.procs") != "" {
				return true, nil
			}
		}
	}
	bare := strings.TrimSuffix(service, ".service")
	if _, err := m.tree.lstat("/run/openrc/started/" + bare); err == nil {
		return true, nil
	}
	for _, p := range []string{"/run/" + bare + ".pid", "/run/" + bare + "/" + bare + ".pid"} {
		if pid, err := strconv.ParseUint(m.word(p), 10, 31); err == nil && m.exists("/proc/"+strconv.FormatUint(pid, 10)) {
			return true, nil
		}
	}
	for _, p := range m.processes() {
		if p.name == bare[:min(len(bare), 15)] { // the kernel keeps 15 bytes
			return true, nil
		}
	}
	return false, nil
}

func (m *machine) serviceDisabled(c *Check) verdict {
	by, err := m.enabledBy(c.Service)
	if err != nil {
		return unread(err)
	}
	if by != "" {
		return failf("%s starts it at boot", by)
	}
	return pass()
}

func (m *machine) serviceEnabled(c *Check) verdict {
	by, err := m.enabledBy(c.Service)
	if err != nil {
		return unread(err)
	}
	if by == "" {
		return failf("nothing starts %s at boot", c.Service)
	}
	if c.Expect == "" {
		return pass()
	}
	return m.serviceStatus(c)
}

func (m *machine) serviceStatus(c *Check) verdict {
	if c.Expect != "" && c.Expect != "running" && c.Expect != "stopped" {
		return errorf("expect is running or stopped, not %q", c.Expect)
	}
	running, err := m.serviceRuns(c.Service)
	switch {
	case errors.Is(err, errNotRunning):
		return missf("%v", err)
	case err != nil:
		return unread(err)
	case running && c.Expect == "stopped":
		return failf("%s runs", c.Service)
	case !running && c.Expect != "stopped":
		return failf("%s does not run", c.Service)
	}
	return pass()
}

// process is one that runs.
type process struct {
	name string
	argv []string
}

// maxProcesses bounds what is looked at; beyond, the oldest count.
const maxProcesses = 4096

// processes are those of this machine.
func (m *machine) processes() []process {
	if m.ran != nil || !m.live {
		return m.ran
	}
	m.ran = []process{}
	names, err := m.tree.list("/proc", 1<<16)
	if err != nil {
		return m.ran
	}
	for _, n := range names {
		if n[0] < '0' || n[0] > '9' || len(m.ran) == maxProcesses {
			continue
		}
		b, err := m.tree.read("/proc/"+n+"/cmdline", maxLine)
		if err != nil {
			continue // it ended
		}
		p := process{name: m.word("/proc/" + n + "/comm")}
		if len(b) > 0 {
			p.argv = strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
		}
		m.ran = append(m.ran, p)
	}
	return m.ran
}

package baseline

import (
	"errors"
	"path"
	"strings"
)

// sshConfig is what the SSH server goes by, as `sshd -T` prints it: names in lower case, one setting a line. Where sshd cannot
// be asked, its files are read; what they do not set is as OpenSSH has it.
func (m *machine) sshConfig() ([]string, error) {
	if m.ssh == nil && m.sshErr == nil {
		m.ssh, m.sshErr = m.readSSH()
	}
	return m.ssh, m.sshErr
}

// sshDefaults are OpenSSH's for settings that checks ask for.
var sshDefaults = [][2]string{
	{"permitrootlogin", "prohibit-password"}, {"permitemptypasswords", "no"}, {"permituserenvironment", "no"}, {"x11forwarding", "no"},
	{"maxauthtries", "6"}, {"maxsessions", "10"}, {"maxstartups", "10:30:100"}, {"logingracetime", "120"}, {"loglevel", "INFO"},
	{"ignorerhosts", "yes"}, {"hostbasedauthentication", "no"}, {"clientaliveinterval", "0"}, {"clientalivecountmax", "3"},
	{"usepam", "no"}, {"allowtcpforwarding", "yes"}, {"banner", "none"}, {"passwordauthentication", "yes"}, {"strictmodes", "yes"},
	{"gatewayports", "no"}, {"permittunnel", "no"},
}

var errNoSSH = errors.New("there is no SSH server")

func (m *machine) readSSH() ([]string, error) {
	if lines, err := m.output("sshd", "-T"); err == nil {
		return lines, nil
	}
	r := sshReader{m: m, seen: map[string]bool{}}
	const main = "/etc/ssh/sshd_config"
	if err := r.file(main, 0); gone(err) {
		return nil, errNoSSH
	} else if err != nil {
		return nil, err
	}
	for _, d := range sshDefaults {
		r.add(d[0], d[1])
	}
	return r.lines, nil
}

type sshReader struct {
	m     *machine
	seen  map[string]bool
	files int
	lines []string
}

// add takes the first value of a setting: sshd does. These may be given several times.
func (r *sshReader) add(key, value string) {
	switch key {
	case "allowusers", "allowgroups", "denyusers", "denygroups", "acceptenv", "hostkey", "listenaddress", "port":
	default:
		if r.seen[key] {
			return
		}
	}
	r.seen[key] = true
	r.lines = append(r.lines, key+" "+value)
}

func (r *sshReader) file(p string, depth int) error {
	if r.files++; r.files > 256 || depth > 16 {
		return errors.New("the configuration of sshd includes too many files")
	}
	lines, err := r.m.lines(p)
	if err != nil {
		return err
	}
	for _, l := range lines {
		key, value, _ := strings.Cut(strings.ReplaceAll(strings.TrimSpace(l), "\t", " "), " ")
		if k, v, ok := strings.Cut(key, "="); ok {
			key, value = k, v+" "+value
		}
		key = strings.ToLower(key)
		value = strings.Trim(strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(value), "=")), `"`)
		switch {
		case key == "" || key[0] == '#':
		case key == "match":
			// What follows counts for some only; the settings for all are what checks ask for.
			return nil
		case key == "include":
			for pattern := range strings.FieldsSeq(value) {
				if err := r.include(pattern, depth); err != nil {
					return err
				}
			}
		default:
			r.add(key, value)
		}
	}
	return nil
}

func (r *sshReader) include(pattern string, depth int) error {
	if !path.IsAbs(pattern) {
		pattern = path.Join("/etc/ssh", pattern)
	}
	dir, base := path.Split(pattern)
	names, err := r.m.tree.list(dir, maxEntries)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, n := range names {
		if ok, err := path.Match(base, n); err != nil || !ok || strings.HasPrefix(n, ".") {
			continue
		}
		if err := r.file(path.Join(dir, n), depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (m *machine) config(c *Check) (bool, *verdict) {
	problem := func(v verdict) (bool, *verdict) { return false, &v }
	if c.Exec != "sshcheck" {
		return problem(errorf("this agent does not run %q; exec-command may be sshcheck, which asks the SSH server", c.Exec))
	}
	re, err := m.regexp(c.Regex)
	if err != nil {
		return problem(errorf("%v", err))
	}
	lines, err := m.sshConfig()
	if errors.Is(err, errNoSSH) {
		return problem(missf("%v", err))
	}
	if err != nil {
		return problem(unread(err))
	}
	for _, l := range lines {
		if re.MatchString(l) {
			return true, nil
		}
	}
	return false, nil
}

func (m *machine) matchingConfig(c *Check) verdict {
	ok, problem := m.config(c)
	switch {
	case problem != nil:
		return *problem
	case !ok:
		return failf("the SSH server is not set so")
	}
	return pass()
}

func (m *machine) noMatchingConfig(c *Check) verdict {
	bad, problem := m.config(c)
	switch {
	case problem != nil:
		return *problem
	case bad:
		return failf("the SSH server is set so as it should not be")
	}
	return pass()
}

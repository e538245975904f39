package baseline

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// alwaysPass is for what a program cannot judge; the justification says who must.
func (m *machine) alwaysPass(c *Check) verdict { return verdict{Pass, shorten(c.Justification)} }

// maxContainers bounds the containers that are looked at.
const maxContainers = 200

// docker runs one of docker's allowed commands. Without a daemon there is nothing to judge.
func (m *machine) docker(args ...string) ([]string, *verdict) {
	lines, err := m.output("docker", args...)
	if err == nil {
		return lines, nil
	}
	v := errorf("%v", err)
	switch {
	case errors.Is(err, errNoProgram), errors.Is(err, errNotRunning):
		v = missf("%v", err)
	case !m.exists("/var/run/docker.sock") && !m.exists("/run/docker.sock"):
		v = missf("no Docker daemon runs here")
	}
	return nil, &v
}

func (m *machine) dockerVersionAtLeast(c *Check) verdict {
	client, server, ok := strings.Cut(c.Version, "/")
	if !ok {
		server = client
	}
	if !isVersion(client) || !isVersion(server) {
		return errorf("version %q is not a version of the client and one of the server, as 18.09.2/18.09.2", c.Version)
	}
	lines, problem := m.docker("version", "--format", "{{.Client.Version}}/{{.Server.Version}}")
	if problem != nil {
		return *problem
	}
	is := strings.Join(lines, "")
	isClient, isServer, _ := strings.Cut(is, "/")
	for _, v := range [][2]string{{isClient, client}, {isServer, server}} {
		number, _, _ := strings.Cut(strings.TrimSpace(v[0]), "-") // 18.09.2-ce
		number, _, _ = strings.Cut(number, "+")
		if !isVersion(number) {
			return errorf("docker says that its version is %q", shorten(is))
		}
		if compareVersions(number, v[1]) < 0 {
			return failf("the version is %s, and should be at least %s", number, v[1])
		}
	}
	return pass()
}

// dockerInfo is the inventory: it passes where Docker tells about itself, and says what.
func (m *machine) dockerInfo(*Check) verdict {
	lines, problem := m.docker("info")
	if problem != nil {
		return *problem
	}
	var facts []string
	for _, l := range lines {
		k, v, _ := strings.Cut(strings.TrimSpace(l), ": ")
		if slices.Contains([]string{"Containers", "Images", "Server Version", "Storage Driver", "Logging Driver"}, k) {
			facts = append(facts, k+" "+v)
		}
	}
	return verdict{Pass, strings.Join(facts, ", ")}
}

// noneOf wants no line with both filter and regex.
func (m *machine) noneOf(c *Check, lines []string, what string) verdict {
	re, filter, err := m.expressions(c)
	if err != nil {
		return errorf("%v", err)
	}
	for _, l := range filtered(lines, filter) {
		if re.MatchString(l.text) {
			return failf("line %d of what %s should not be", l.n, what)
		}
	}
	return pass()
}

func (m *machine) noMatchingDockerInfo(c *Check) verdict {
	lines, problem := m.docker("info")
	if problem != nil {
		return *problem
	}
	return m.noneOf(c, lines, "docker info prints")
}

// containers prints something of each running container by a template of Docker's; all of it without one.
func (m *machine) containers(template string) ([]string, *verdict) {
	return m.inspect(template, []string{"ps", "--quiet", "--no-trunc"}, []string{"inspect", "--type", "container", "--format"})
}

func (m *machine) inspect(template string, list, inspect []string) ([]string, *verdict) {
	ids, problem := m.docker(list...)
	if problem != nil || len(ids) == 0 {
		return nil, problem
	}
	if len(ids) > maxContainers {
		v := errorf("there are more than %d to look at", maxContainers)
		return nil, &v
	}
	whole := template == ""
	if whole {
		template = "{{json .}}"
	}
	lines, problem := m.docker(slices.Concat(inspect, []string{template}, ids)...)
	if problem != nil || !whole {
		return lines, problem
	}
	var b bytes.Buffer
	for _, l := range lines {
		if err := json.Indent(&b, []byte(l), "", "    "); err != nil {
			v := errorf("docker inspect printed no JSON: %v", err)
			return nil, &v
		}
		b.WriteByte('\n')
	}
	lines, err := splitLines(b.Bytes())
	if err != nil {
		v := errorf("docker inspect: %v", err)
		return nil, &v
	}
	return lines, nil
}

func (m *machine) noMatchingContainers(c *Check) verdict {
	lines, problem := m.containers(c.Key)
	if problem != nil {
		return *problem
	}
	return m.noneOf(c, lines, "docker inspect prints")
}

func (m *machine) noMatchingNetworks(c *Check) verdict {
	lines, problem := m.inspect(c.Key, []string{"network", "ls", "--quiet", "--no-trunc"}, []string{"network", "inspect", "--format"})
	if problem != nil {
		return *problem
	}
	return m.noneOf(c, lines, "docker network inspect prints")
}

// noMatchingNetstat looks at listening sockets, in the form of netstat -ltn, which is not run.
func (m *machine) noMatchingNetstat(c *Check) verdict {
	if c.Key != "" && c.Key != "-ltn" {
		return errorf("key %q: this agent knows -ltn", c.Key)
	}
	if !m.live {
		return missf("%v", errNotRunning)
	}
	all, err := m.listeners()
	if err != nil {
		return unread(err)
	}
	lines := make([]string, len(all))
	for i, l := range all {
		lines[i] = fmt.Sprintf("tcp        0      0 %s      *:*      LISTEN", l)
	}
	return m.noneOf(c, lines, "listens")
}

// noMatchingProcesses looks at command lines. Texts never show them.
func (m *machine) noMatchingProcesses(c *Check) verdict {
	if !m.live {
		return missf("%v", errNotRunning)
	}
	var lines []string
	for _, p := range m.processes() {
		lines = append(lines, strings.Join(p.argv, " "))
	}
	return m.noneOf(c, lines, "runs")
}

// matchingAuditRules wants a rule of auditd.
func (m *machine) matchingAuditRules(c *Check) verdict {
	paths := []string{"/etc/audit/audit.rules"}
	names, err := m.tree.list("/etc/audit/rules.d", maxEntries)
	if err != nil && !gone(err) {
		return unread(err)
	}
	for _, n := range names {
		if strings.HasSuffix(n, ".rules") {
			paths = append(paths, path.Join("/etc/audit/rules.d", n))
		}
	}
	v := m.matchingAny(c, paths)
	if v.outcome == Fail {
		v.why = "auditd has no such rule"
	}
	return v
}

// dockerd is what the daemon was told: by its file, and by its command line if it runs.
type dockerd struct {
	set  map[string][]string
	here bool
}

func (m *machine) dockerd() (dockerd, error) {
	d := dockerd{set: map[string][]string{}}
	b, err := m.tree.read("/etc/docker/daemon.json", maxFile)
	switch {
	case gone(err):
	case err != nil:
		return d, err
	default:
		d.here = true
		var file map[string]any
		if err := json.Unmarshal(b, &file); err != nil {
			return d, fmt.Errorf("/etc/docker/daemon.json: %w", err)
		}
		for k, v := range file {
			// Lists have a name in the plural there: hosts, authorization-plugins.
			if list, ok := v.([]any); ok {
				for _, e := range list {
					d.set[strings.TrimSuffix(k, "s")] = append(d.set[strings.TrimSuffix(k, "s")], fmt.Sprint(e))
				}
				continue
			}
			d.set[k] = append(d.set[k], fmt.Sprint(v))
		}
	}
	for _, p := range m.processes() {
		if p.name != "dockerd" {
			continue
		}
		d.here = true
		for i := 1; i < len(p.argv); i++ {
			flag := strings.TrimLeft(p.argv[i], "-")
			if flag == p.argv[i] {
				continue
			}
			k, v, ok := strings.Cut(flag, "=")
			switch {
			case ok:
			case i+1 < len(p.argv) && !strings.HasPrefix(p.argv[i+1], "-"):
				i++
				v = p.argv[i]
			default:
				v = "true"
			}
			if k == "H" {
				k = "host"
			}
			d.set[k] = append(d.set[k], v)
		}
	}
	return d, nil
}

// withDockerd runs f where there is a daemon, or its configuration.
func (m *machine) withDockerd(f func(dockerd) verdict) verdict {
	d, err := m.dockerd()
	if err != nil {
		return unread(err)
	}
	if !d.here {
		return missf("no Docker daemon is configured or runs here")
	}
	return f(d)
}

// dockerdFlagSet wants a setting (key), with a value if one is given, or one that matches regex.
func (m *machine) dockerdFlagSet(c *Check) verdict {
	return m.withDockerd(func(d dockerd) verdict {
		re, err := m.regexp(c.Regex)
		if err != nil {
			return errorf("%v", err)
		}
		for _, v := range d.set[c.Key] {
			switch {
			case c.Value != "" && v == c.Value, c.Regex != "" && re.MatchString(v), c.Value == "" && c.Regex == "":
				return pass()
			}
		}
		return failf("dockerd is not told %s as it should be", c.Key)
	})
}

// dockerdFlagNotSet wants a setting (key) not to have a value.
func (m *machine) dockerdFlagNotSet(c *Check) verdict {
	return m.withDockerd(func(d dockerd) verdict {
		if slices.Contains(d.set[c.Key], c.Value) {
			return failf("dockerd is told %s=%s", c.Key, c.Value)
		}
		return pass()
	})
}

// dockerTLSFlags wants a daemon that listens on TCP to ask for certificates.
func (m *machine) dockerTLSFlags(*Check) verdict {
	return m.withDockerd(func(d dockerd) verdict {
		if !slices.ContainsFunc(d.set["host"], func(h string) bool { return strings.HasPrefix(h, "tcp:") }) {
			return pass()
		}
		if !slices.Contains(d.set["tlsverify"], "true") {
			return failf("dockerd listens on TCP without tlsverify")
		}
		for _, k := range []string{"tlscacert", "tlscert", "tlskey"} {
			if len(d.set[k]) == 0 {
				return failf("dockerd listens on TCP without %s", k)
			}
		}
		return pass()
	})
}

// dockerTLSFileStats looks at the file that a setting (key) names.
func (m *machine) dockerTLSFileStats(c *Check) verdict {
	return m.withDockerd(func(d dockerd) verdict {
		files := d.set[c.Key]
		if len(files) == 0 {
			return missf("dockerd has no %s", c.Key)
		}
		for _, f := range files {
			i, err := m.tree.stat(f)
			if err != nil {
				return unread(err)
			}
			if v := m.stats(c, f, i); v.outcome != Pass {
				return v
			}
		}
		return pass()
	})
}

func (m *machine) dockerDefaultBridge(*Check) verdict {
	lines, problem := m.docker("network", "inspect", "--format", "{{len .Containers}}", "bridge")
	if problem != nil {
		return *problem
	}
	if s := strings.TrimSpace(strings.Join(lines, "")); s != "0" {
		return failf("%s containers are on the default bridge", shorten(s))
	}
	return pass()
}

func (m *machine) dockerSockMount(*Check) verdict {
	lines, problem := m.containers("{{json .Mounts}}")
	if problem != nil {
		return *problem
	}
	if slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, "/docker.sock") }) {
		return failf("a container has the socket of Docker")
	}
	return pass()
}

// dockerSecOps wants regex among the security options of every container.
func (m *machine) dockerSecOps(c *Check) verdict {
	re, err := m.regexp(c.Regex)
	if err != nil {
		return errorf("%v", err)
	}
	lines, problem := m.containers("{{json .HostConfig.SecurityOpt}}")
	if problem != nil {
		return *problem
	}
	if slices.ContainsFunc(lines, func(l string) bool { return !re.MatchString(l) }) {
		return failf("a container runs without such a security option")
	}
	return pass()
}

// dockerMAC wants AppArmor or SELinux to guard containers.
func (m *machine) dockerMAC(*Check) verdict {
	lines, problem := m.docker("info")
	if problem != nil {
		return *problem
	}
	if slices.ContainsFunc(lines, func(l string) bool {
		l = strings.TrimSpace(l)
		return l == "apparmor" || l == "selinux"
	}) {
		return pass()
	}
	return failf("neither AppArmor nor SELinux guards containers")
}

// dockerOutputNotMatch wants no line of an allowed command (key) to match.
func (m *machine) dockerOutputNotMatch(c *Check) verdict {
	args := strings.Fields(c.Key)
	if !mayRun(append([]string{"docker"}, args...)) {
		return errorf("this agent does not run docker %q", c.Key)
	}
	lines, problem := m.docker(args...)
	if problem != nil {
		return *problem
	}
	return m.noneOf(&Check{Regex: c.Regex}, lines, "docker prints")
}

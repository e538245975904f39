package baseline

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
)

// errNotRunning is for questions to a kernel or a program about a tree of files that does not run.
var errNotRunning = errors.New("this tells only of a running device, not of its files")

// sysctlOutput wants a line `key = value` of the kernel's parameters.
func (m *machine) sysctlOutput(c *Check) verdict {
	re, err := m.regexp(c.Regex)
	if err != nil {
		return errorf("%v", err)
	}
	if !m.live {
		return missf("%v", errNotRunning)
	}
	base := "/proc/sys"
	if key := sysctlPrefix(c.Regex); key != "" {
		p := path.Join(base, strings.ReplaceAll(key, ".", "/"))
		if i, err := m.tree.stat(p); err == nil && i.regular() {
			value, err := m.sysctl(p)
			if err != nil {
				return unread(err)
			}
			if slices.ContainsFunc(sysctlLines(key, value), re.MatchString) {
				return pass()
			}
			return failf("%s is %s", key, shorten(value))
		}
		// A key of which only the beginning is sure: what stands beside it.
		for p = path.Dir(p); len(p) > len(base); p = path.Dir(p) {
			if m.exists(p) {
				base = p
				break
			}
		}
	}
	found, err := m.sysctlBelow(base, re)
	switch {
	case err != nil:
		return unread(err)
	case !found:
		return failf("no parameter of the kernel is so")
	}
	return pass()
}

func shorten(s string) string {
	s = strings.TrimSpace(s)
	return s[:min(len(s), 100)]
}

func sysctlLines(key, value string) []string {
	lines := strings.Split(strings.TrimRight(value, "\n"), "\n")
	for i, l := range lines {
		lines[i] = key + " = " + l
	}
	return lines
}

func (m *machine) sysctl(p string) (string, error) {
	b, err := m.tree.read(p, maxLine)
	return string(b), err
}

// maxSysctl bounds the parameters that one expression is tried on: about 1000, and 60 more for each network interface.
const maxSysctl = 1 << 16

func (m *machine) sysctlBelow(base string, re *regexp.Regexp) (bool, error) {
	dirs, seen := []string{base}, 0
	for ; len(dirs) > 0; dirs = dirs[1:] {
		if err := m.ctx.Err(); err != nil {
			return false, err
		}
		names, err := m.tree.list(dirs[0], maxSysctl)
		if err != nil {
			continue // it ended, as network interfaces do
		}
		for _, n := range names {
			p := path.Join(dirs[0], n)
			i, err := m.tree.lstat(p)
			if err != nil {
				continue
			}
			if i.dir() {
				dirs = append(dirs, p)
				continue
			}
			if seen++; seen > maxSysctl {
				return false, fmt.Errorf("/proc/sys: %w: more than %d", errTooMany, maxSysctl)
			}
			value, err := m.sysctl(p)
			if err != nil {
				continue // some may only be written
			}
			// In a key, dots and slashes change places.
			key := strings.NewReplacer("/", ".", ".", "/").Replace(strings.TrimPrefix(p, "/proc/sys/"))
			if slices.ContainsFunc(sysctlLines(key, value), re.MatchString) {
				return true, nil
			}
		}
	}
	return false, nil
}

// sysctlPrefix is the text that an expression begins with: ^net\.ipv4\.ip_forward\s*=\s*0$ asks for net.ipv4.ip_forward alone.
func sysctlPrefix(expr string) string {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil || re.Op != syntax.OpConcat || len(re.Sub) < 2 || re.Sub[0].Op != syntax.OpBeginText && re.Sub[0].Op != syntax.OpBeginLine {
		return ""
	}
	lit := re.Sub[1]
	if lit.Op != syntax.OpLiteral || lit.Flags&syntax.FoldCase != 0 {
		return ""
	}
	s := strings.TrimRight(string(lit.Rune), " =")
	if strings.ContainsAny(s, "/ =") || strings.Contains(s, "..") {
		return ""
	}
	return s
}

// kernelSource wants the kernel's version to match.
func (m *machine) kernelSource(c *Check) verdict {
	if !m.live {
		return missf("%v", errNotRunning)
	}
	return ifNot(matchingLines)(m, &Check{Path: "/proc/version", Regex: c.Regex})
}

func (m *machine) interfaces(test func(dir string) bool, what string) verdict {
	if !m.live {
		return missf("%v", errNotRunning)
	}
	const base = "/sys/class/net"
	names, err := m.tree.list(base, maxEntries)
	if err != nil {
		return unread(err)
	}
	for _, n := range names {
		if test(path.Join(base, n)) {
			return failf("the interface %s %s", n, what)
		}
	}
	return pass()
}

func (m *machine) noPromisc(*Check) verdict {
	return m.interfaces(func(dir string) bool {
		flags, err := strconv.ParseUint(m.word(dir+"/flags"), 0, 32)
		return err == nil && flags&0x100 != 0 // IFF_PROMISC
	}, "receives what is for others")
}

func (m *machine) noWireless(*Check) verdict {
	return m.interfaces(func(dir string) bool { return m.exists(dir+"/wireless") || m.exists(dir+"/phy80211") }, "is wireless")
}

// moduleDisabled wants a module of the kernel (key) neither loaded nor loadable: modprobe.d gives it /bin/true or /bin/false,
// or there is no such module.
func (m *machine) moduleDisabled(c *Check) verdict {
	name := strings.ReplaceAll(c.Key, "-", "_")
	if m.live {
		if m.exists("/sys/module/" + name) {
			// What is built in stands there, too; it cannot be taken out.
			return failf("the module %s is in the kernel", c.Key)
		}
	}
	re, err := m.regexp(`^\s*install\s+` + strings.ReplaceAll(regexp.QuoteMeta(name), "_", "[_-]") + `\s+(/usr)?/bin/(true|false)\b`)
	if err != nil {
		return errorf("%v", err)
	}
	for _, dir := range []string{"/etc/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d"} {
		names, err := m.tree.list(dir, maxEntries)
		if err != nil && !gone(err) {
			return unread(err)
		}
		for _, n := range names {
			if !strings.HasSuffix(n, ".conf") {
				continue
			}
			lines, err := m.lines(path.Join(dir, n))
			if err != nil && !gone(err) {
				return unread(err)
			}
			if slices.ContainsFunc(lines, re.MatchString) {
				return pass()
			}
		}
	}
	loadable, err := m.moduleFile(name)
	if err != nil {
		return unread(err)
	}
	if loadable {
		return failf("the module %s can be loaded", c.Key)
	}
	return pass()
}

// moduleFile reports whether a kernel of this device has a module, by the list that depmod makes.
func (m *machine) moduleFile(name string) (bool, error) {
	// The first process's view comes first: systemd's ProtectKernelModules shows this one an empty directory.
	for _, base := range []string{"/proc/1/root/lib/modules", "/lib/modules", "/usr/lib/modules"} {
		kernels, err := m.tree.list(base, maxEntries)
		if gone(err) || err != nil && strings.HasPrefix(base, "/proc/") {
			continue
		}
		if err != nil {
			return false, err
		}
		for _, k := range kernels {
			b, err := m.tree.read(path.Join(base, k, "modules.dep"), maxStatus)
			if gone(err) {
				continue
			}
			if err != nil {
				return false, err
			}
			for _, n := range []string{name, strings.ReplaceAll(name, "_", "-")} {
				if strings.Contains(string(b), "/"+n+".ko") {
					return true, nil
				}
			}
		}
	}
	return false, nil
}

// noExecute wants memory of data that cannot be executed. Only x86 tells it by a flag; elsewhere it always is so.
func (m *machine) noExecute(*Check) verdict {
	if !m.live {
		return missf("%v", errNotRunning)
	}
	lines, err := m.lines("/proc/cpuinfo")
	if err != nil {
		return unread(err)
	}
	for _, l := range lines {
		k, v, _ := strings.Cut(l, ":")
		if strings.TrimSpace(k) == "flags" {
			if slices.Contains(strings.Fields(v), "nx") {
				return pass()
			}
			return failf("the processor has no NX, or it is switched off")
		}
	}
	return missf("this processor does not tell")
}

// iptablesStatus wants a line of `iptables -n -L`. A device with nftables alone is asked for its base chains, whose policies
// are put in the same words.
func (m *machine) iptablesStatus(c *Check) verdict {
	re, err := m.regexp(c.Regex)
	if err != nil {
		return errorf("%v", err)
	}
	if !m.live {
		return missf("%v", errNotRunning)
	}
	lines, err := m.output("iptables", "-n", "-L")
	if errors.Is(err, errNoProgram) {
		if lines, err = m.output("nft", "list", "chains"); err == nil {
			lines = chainPolicies(lines)
		}
	}
	if errors.Is(err, errNoProgram) {
		return failf("neither iptables nor nft is installed: nothing filters packets")
	}
	if err != nil {
		return errorf("%v", err)
	}
	if slices.ContainsFunc(lines, re.MatchString) {
		return pass()
	}
	return failf("the packet filter is not so")
}

var nftHook = regexp.MustCompile(`\bhook (input|forward|output)\b.*\bpolicy (accept|drop)\b`)

func chainPolicies(lines []string) []string {
	var out []string
	for _, l := range lines {
		if p := nftHook.FindStringSubmatch(l); p != nil {
			out = append(out, fmt.Sprintf("Chain %s (policy %s)", strings.ToUpper(p[1]), strings.ToUpper(p[2])))
		}
	}
	return out
}

// listeners are the local ends of listening TCP sockets.
func (m *machine) listeners() ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	for _, p := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, err := m.tree.read(p, maxStatus)
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for l := range strings.Lines(string(b)) {
			f := strings.Fields(l)
			if len(f) < 4 || f[3] != "0A" { // TCP_LISTEN
				continue
			}
			if a, ok := procAddr(f[1]); ok {
				out = append(out, a)
			}
		}
	}
	return out, nil
}

// procAddr reads 0100007F:1F90, words in the processor's order.
func procAddr(s string) (netip.AddrPort, bool) {
	addr, port, ok := strings.Cut(s, ":")
	p, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || len(addr) != 8 && len(addr) != 32 {
		return netip.AddrPort{}, false
	}
	var b []byte
	for i := 0; i < len(addr); i += 8 {
		w, err := strconv.ParseUint(addr[i:i+8], 16, 32)
		if err != nil {
			return netip.AddrPort{}, false
		}
		b = binary.NativeEndian.AppendUint32(b, uint32(w))
	}
	a, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), ok
}

// noExposedService wants nobody to listen on a TCP port (value) but on the loopback interface.
func (m *machine) noExposedService(c *Check) verdict {
	port, err := strconv.ParseUint(c.Value, 10, 16)
	if err != nil {
		return errorf("value %q is not a port", c.Value)
	}
	if !m.live {
		return missf("%v", errNotRunning)
	}
	all, err := m.listeners()
	if err != nil {
		return unread(err)
	}
	for _, l := range all {
		if uint64(l.Port()) == port && !l.Addr().IsLoopback() {
			return failf("a program listens on %s", l)
		}
	}
	return pass()
}

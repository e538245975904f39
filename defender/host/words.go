package host

import (
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"
)

// args are the words after the program.
func (c *command) args() []string { return c.words[1:] }

// has reports whether one of the words is an argument, alone or with =value.
func (c *command) has(words ...string) bool {
	return slices.ContainsFunc(c.args(), func(a string) bool {
		name, _, _ := strings.Cut(a, "=")
		return slices.Contains(words, a) || strings.HasPrefix(a, "-") && slices.Contains(words, name)
	})
}

// short reports whether a single-letter option is given, alone or among others: -rf has r and f.
func (c *command) short(letter byte) bool {
	return slices.ContainsFunc(c.args(), func(a string) bool {
		return len(a) > 1 && a[0] == '-' && a[1] != '-' && strings.IndexByte(a, letter) > 0
	})
}

// operands are the arguments that are no options.
func (c *command) operands() []string {
	var all []string
	for i, a := range c.args() {
		if a == "--" {
			return append(all, c.args()[i+1:]...)
		}
		if a == "-" || !strings.HasPrefix(a, "-") {
			all = append(all, a)
		}
	}
	return all
}

// value is what an option is given: -o value, --output value, --output=value, or, of a letter, -ovalue and -sovalue.
func (c *command) value(letter byte, long string) (string, bool) {
	args := c.args()
	for i, a := range args {
		if long != "" {
			if v, ok := strings.CutPrefix(a, "--"+long+"="); ok {
				return v, true
			}
			if a == "--"+long && i+1 < len(args) {
				return args[i+1], true
			}
		}
		if len(a) < 2 || a[0] != '-' || a[1] == '-' || letter == 0 {
			continue
		}
		at := strings.IndexByte(a, letter)
		switch {
		case at < 1:
		case at < len(a)-1:
			return a[at+1:], true
		case i+1 < len(args):
			return args[i+1], true
		}
	}
	return "", false
}

// after are the later commands of a pipeline.
func (l *line) after(i int) []command {
	end := i + 1
	for end < len(l.commands) && l.commands[end].pipeline == l.commands[i].pipeline {
		end++
	}
	return l.commands[i+1 : end]
}

// before are the earlier commands of a pipeline, among which those of other pipelines within them stand too.
func (l *line) before(i int) []command {
	var all []command
	for j := range i {
		if l.commands[j].pipeline == l.commands[i].pipeline {
			all = append(all, l.commands[j])
		}
	}
	return all
}

var interpreters = setOf("python perl php ruby lua node awk tclsh osascript")

// script is the file that a shell or an interpreter executes; empty: none, or a text.
func (c *command) script() string {
	if !shells[c.name] && !interpreters[c.name] && c.name != "." || c.name == "awk" {
		return ""
	}
	for _, a := range c.args() {
		switch {
		case a == "-c" || a == "-e" || a == "-r" || a == "-m" || a == "-s" || a == "-" || !strings.HasPrefix(a, "--") && shells[c.name] && strings.HasPrefix(a, "-") && strings.Contains(a, "c"):
			return ""
		case strings.HasPrefix(a, "-") || strings.HasPrefix(a, "+"):
			continue
		}
		return a
	}
	return ""
}

// inline is the program text that an interpreter is given as an argument.
func (c *command) inline() string {
	if !interpreters[c.name] {
		return ""
	}
	if c.name == "awk" {
		return strings.Join(c.args(), " ")
	}
	for i, a := range c.args() {
		if len(a) > 1 && a[0] == '-' && a[1] != '-' && (strings.HasSuffix(a, "c") || strings.HasSuffix(a, "e") || strings.HasSuffix(a, "r") || strings.HasSuffix(a, "E")) {
			return strings.Join(c.args()[i+1:], " ")
		}
	}
	return ""
}

// executes reports whether c is a shell or an interpreter that executes what it reads.
func (c *command) executes() bool {
	if !shells[c.name] && !interpreters[c.name] || c.name == "awk" {
		return false
	}
	for _, a := range c.args() {
		switch {
		case a == "-" || a == "-s" || a == "/dev/stdin":
			return true
		case !strings.HasPrefix(a, "-"):
			return false
		case shells[c.name] && !strings.HasPrefix(a, "--") && strings.Contains(a, "c"), a == "-e", a == "-m", a == "-r", a == "-c", a == "--version", a == "--help":
			return false
		}
	}
	return true
}

// runs are the names of what is executed: the program and the script.
func (c *command) runs() []string {
	if s := c.script(); s != "" {
		return []string{c.words[0], s}
	}
	return c.words[:1]
}

// bare is a file's name in lower case without what scripts end with.
func bare(file string) string {
	name := strings.ToLower(strings.TrimSpace(base(file)))
	for _, ext := range [...]string{".py", ".sh", ".pl", ".rb", ".elf", ".bin"} {
		name = strings.TrimSuffix(name, ext)
	}
	return name
}

// sameFile reports whether two spellings can be one file: whole paths are compared whole.
func sameFile(a, b string) bool {
	if strings.HasPrefix(a, "/") && strings.HasPrefix(b, "/") {
		return path.Clean(a) == path.Clean(b)
	}
	x, y := base(a), base(b)
	return x == y && x != "" && x != "." && x != "-"
}

// loose reports whether a path is where anybody may write, or hidden there: where what was not installed lies.
func loose(p string) bool {
	p = strings.TrimSpace(p)
	for _, dir := range [...]string{"/tmp/", "/var/tmp/", "/dev/shm/", "/var/run/", "/run/shm/", "/var/lock/", "/mnt/.", "/dev/."} {
		if strings.HasPrefix(p, dir) {
			return true
		}
	}
	return strings.HasPrefix(base(p), ".") && len(base(p)) > 2 && !strings.HasPrefix(base(p), "..") && strings.HasPrefix(p, "/")
}

// writes are the files that a command writes.
func (c *command) writes() []string {
	all := slices.Clone(c.outputs)
	ops := c.operands()
	switch c.name {
	case "tee", "touch", "nano", "vi", "ed", "emacs", "pico":
		all = append(all, ops...)
	case "cp", "mv", "install", "ln":
		if t, ok := c.value('t', "target-directory"); ok {
			for _, o := range ops {
				all = append(all, path.Join(t, base(o)))
			}
		} else if len(ops) > 1 {
			to := ops[len(ops)-1]
			all = append(all, to)
			if strings.HasSuffix(to, "/") || len(path.Ext(to)) == 0 { // perhaps a directory
				for _, o := range ops[:len(ops)-1] {
					all = append(all, path.Join(to, base(o)))
				}
			}
		}
	case "dd":
		for _, a := range c.args() {
			if f, ok := strings.CutPrefix(a, "of="); ok {
				all = append(all, f)
			}
		}
	case "sed":
		if c.short('i') || c.has("--in-place") {
			all = append(all, ops...)
		}
	}
	if d := c.fetched(); d != "" {
		all = append(all, d)
	}
	return all
}

// removes are the files that a command removes or empties.
func (c *command) removes() []string {
	switch c.name {
	case "rm", "unlink", "shred", "truncate", "srm", "wipe":
		return c.operands()
	}
	return nil
}

var fetchers = setOf("wget curl tftp ftpget fetch axel aria2c lwp-download uclient-fetch")

// addresses are the URLs among the arguments.
func (c *command) addresses() []string {
	var all []string
	for _, a := range c.args() {
		if i := strings.Index(a, "://"); i > 0 && i < 12 || i > 0 && strings.HasPrefix(a, "-") {
			all = append(all, a[strings.LastIndexByte(a[:i], '=')+1:])
		}
	}
	if len(all) == 0 && fetchers[c.name] && c.name != "tftp" && c.name != "ftpget" {
		for _, o := range c.operands() {
			if host, _, ok := strings.Cut(o, "/"); ok && strings.Contains(host, ".") && host != "." && host != ".." && !strings.HasPrefix(host, ".") {
				all = append(all, "http://"+o)
			}
		}
	}
	return all
}

// fetched is the file into which a downloader puts what it gets; empty: none, it writes it out.
func (c *command) fetched() string {
	remote := func() string {
		for _, a := range c.addresses() {
			if u, err := url.Parse(a); err == nil && path.Base(u.Path) != "/" && path.Base(u.Path) != "." {
				return path.Base(u.Path)
			}
		}
		return ""
	}
	var to string
	switch c.name {
	case "wget":
		if v, ok := c.value('O', "output-document"); ok {
			to = v
		} else if dir, ok := c.value('P', "directory-prefix"); ok && remote() != "" {
			to = path.Join(dir, remote())
		} else {
			to = remote()
		}
	case "curl":
		if v, ok := c.value('o', "output"); ok {
			to = v
		} else if c.short('O') || c.has("--remote-name") {
			to = remote()
		}
	case "fetch", "axel", "aria2c", "uclient-fetch":
		v, ok := c.value('o', "out")
		if !ok {
			v, ok = c.value('O', "output-document")
		}
		if to = v; !ok {
			to = remote()
		}
	case "lwp-download":
		if ops := c.operands(); len(ops) > 1 {
			to = ops[1]
		} else {
			to = remote()
		}
	case "tftp":
		if v, ok := c.value('l', ""); ok {
			to = v
		} else if v, ok := c.value('r', ""); ok {
			to = v
		} else if ops := c.operands(); len(ops) > 0 && slices.Contains(ops, "get") {
			to = ops[len(ops)-1]
		}
	case "ftpget":
		if ops := c.operands(); len(ops) > 1 {
			to = ops[1]
		}
	default:
		return ""
	}
	if to == "-" || to == "/dev/stdout" {
		to = ""
	}
	if to == "" && len(c.outputs) > 0 {
		to = c.outputs[0]
	}
	if strings.HasPrefix(to, "/dev/null") {
		return ""
	}
	return to
}

// near reports whether a host is this device or of its own network, by what is written.
func near(host string) bool {
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		host = host[i+1:]
	}
	if _, rest, ok := strings.Cut(host, "://"); ok {
		host, _, _ = strings.Cut(rest, "/")
	}
	if ap, err := netip.ParseAddrPort(host); err == nil {
		host = ap.Addr().String()
	} else if h, _, ok := strings.Cut(host, ":"); ok && !strings.Contains(host, "::") {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if a, err := netip.ParseAddr(host); err == nil {
		return a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified()
	}
	for _, end := range [...]string{".local", ".lan", ".internal", ".home.arpa", ".localdomain"} {
		if strings.HasSuffix(host, end) {
			return true
		}
	}
	return host == "localhost"
}

// ssh is where an SSH client goes, and what it forwards.
func (c *command) ssh() (target string, forwards []string) {
	valued := "BbcDEeFIiJKLlmOopQRSWw"
	if c.called == "autossh" {
		valued += "M"
	}
	args := c.args()
	for i := 0; i < len(args); i++ {
		a := args[i]
		if len(a) < 2 || a[0] != '-' {
			return a, forwards
		}
		if a == "--" {
			continue
		}
		for j := 1; j < len(a); j++ {
			if strings.IndexByte(valued, a[j]) < 0 {
				continue
			}
			v := a[j+1:]
			if v == "" && i+1 < len(args) {
				i++
				v = args[i]
			}
			if strings.IndexByte("DLRw", a[j]) >= 0 {
				forwards = append(forwards, "-"+a[j:j+1]+" "+v)
			}
			if a[j] == 'o' {
				for _, name := range [...]string{"LocalForward", "RemoteForward", "DynamicForward"} {
					if len(v) >= len(name) && strings.EqualFold(v[:len(name)], name) {
						forwards = append(forwards, v)
					}
				}
			}
			break
		}
	}
	return "", forwards
}

// decodes reports whether a command turns text into bytes.
func (c *command) decodes() bool {
	switch c.name {
	case "base64", "base32":
		return c.short('d') || c.short('D') || c.has("--decode")
	case "openssl":
		return (c.has("base64") || c.has("enc") && c.has("-base64", "-a")) && c.has("-d")
	case "xxd":
		return c.short('r')
	case "uudecode":
		return true
	}
	return false
}

package host

import (
	"regexp"
	"slices"
	"strings"
)

var admins = setOf("sudo wheel root admin docker adm shadow disk lxd")

func userAdded(l *line, i int) string {
	c := &l.commands[i]
	subject := c.name
	if ops := c.operands(); len(ops) > 0 {
		subject = ops[len(ops)-1]
	}
	if u, ok := c.value('u', "uid"); ok && u == "0" {
		return subject
	}
	groups, _ := c.value('G', "groups")
	for g := range strings.SplitSeq(groups, ",") {
		if admins[g] && c.name != "adduser" {
			return subject
		}
	}
	if c.name == "usermod" || len(c.operands()) == 0 || c.has("-D", "--help", "-h", "--defaults", "--version") && c.name == "useradd" && len(c.args()) == 1 {
		return ""
	}
	if c.has("--system", "--group") || c.short('r') || c.name == "adduser" && c.short('S') || c.has("/usr/sbin/nologin", "/sbin/nologin", "/bin/false", "/usr/bin/nologin", "/bin/nologin") {
		return "" // packages add users for their services
	}
	if shell, _ := c.value('s', "shell"); strings.HasSuffix(shell, "nologin") || strings.HasSuffix(shell, "/false") {
		return ""
	}
	if ops := c.operands(); c.name == "adduser" && len(ops) == 2 { // adds a user that stands to a group
		if admins[ops[1]] {
			return ops[0]
		}
		return ""
	}
	return subject
}

var rootUser = regexp.MustCompile(`\S*:[^:\s]*:0+:\d*:`)

func userWritten(l *line, _ int) string {
	for i := range l.commands {
		c := &l.commands[i]
		if !slices.Contains(c.writes(), "/etc/passwd") && !slices.ContainsFunc(l.after(i), func(o command) bool { return slices.Contains(o.writes(), "/etc/passwd") }) {
			continue
		}
		if m := rootUser.FindString(strings.Join(c.args(), " ")); m != "" {
			name, _, _ := strings.Cut(m, ":")
			return name
		}
	}
	return ""
}

func exposedDocker(l *line, i int) string {
	c := &l.commands[i]
	if c.name != "dockerd" && c.name != "containerd" && !c.has("daemon") || c.has("--tlsverify") {
		return ""
	}
	for _, a := range c.args() {
		_, to, ok := strings.Cut(a, "tcp://")
		host, _, _ := strings.Cut(to, ":")
		if ok && host != "127.0.0.1" && host != "localhost" && !strings.HasPrefix(to, "[::1]") {
			return "tcp://" + to
		}
	}
	return ""
}

func htaccess(l *line, _ int) string {
	for i := range l.commands {
		c := &l.commands[i]
		for _, f := range append(c.writes(), c.removes()...) {
			if base(f) == ".htaccess" {
				return f
			}
		}
	}
	return ""
}

var packers = setOf("tar dd gzip zip bzip2 xz zstd 7z cpio mysqldump pg_dump mongodump base64 openssl gpg cat lz4")

func pipedOut(l *line, i int) string {
	c := &l.commands[i]
	to := ""
	switch c.name {
	case "nc":
		if c.short('l') || c.short('z') {
			return ""
		}
		if ops := c.operands(); len(ops) > 0 {
			to = ops[0]
		}
	case "curl", "wget":
		uploads := c.has("-T-", "@-", "--upload-file", "--data-binary", "-d", "--data", "-F", "--post-file", "--body-file") && slices.ContainsFunc(c.args(), func(a string) bool { return a == "-" || strings.HasSuffix(a, "@-") || a == "/dev/stdin" })
		if t, ok := c.value('T', "upload-file"); ok && (t == "-" || t == ".") {
			uploads = true
		}
		if urls := c.addresses(); uploads && len(urls) > 0 {
			to = urls[0]
		}
	case "ssh":
		to, _ = c.ssh()
	case "openssl":
		if !c.has("s_client") {
			return ""
		}
		to, _ = c.value(0, "connect")
		for j, a := range c.args() {
			if a == "-connect" && j+1 < len(c.args()) {
				to = c.args()[j+1]
			}
		}
	case "socat", "telnet":
		for _, o := range c.operands() {
			if _, host, ok := strings.Cut(o, ":"); ok && c.name == "socat" && !strings.HasPrefix(strings.ToLower(o), "stdin") {
				to = host
			} else if c.name == "telnet" && to == "" {
				to = o
			}
		}
	}
	if to == "" || near(to) {
		return ""
	}
	from := l.before(i)
	for j, o := range from {
		if packers[o.name] && (o.name != "cat" && o.name != "openssl" && o.name != "base64" || j > 0 && packers[from[0].name] || slices.ContainsFunc(o.operands(), sensitive)) {
			return "to " + to
		}
	}
	if (c.name == "nc" || c.name == "telnet") && slices.ContainsFunc(c.inputs, sensitive) {
		return "to " + to
	}
	return ""
}

// sensitive reports whether a file holds what nobody may read.
func sensitive(f string) bool {
	f = strings.TrimLeft(f, "@<")
	if i := strings.Index(f, "=@"); i >= 0 {
		f = f[i+2:]
	}
	if strings.HasSuffix(f, ".pub") {
		return false
	}
	switch {
	case f == "/etc/shadow", f == "/etc/passwd", f == "/etc/gshadow", strings.HasPrefix(f, "/etc/ssl/private"), strings.Contains(f, "/.ssh/"), strings.HasPrefix(f, "/var/lib/iotedge"), strings.HasPrefix(f, "/etc/aziot"):
		return true
	case strings.HasPrefix(base(f), "id_rsa"), strings.HasPrefix(base(f), "id_ed25519"), strings.HasPrefix(base(f), "id_ecdsa"), strings.HasSuffix(f, ".ppk"), base(f) == ".bash_history":
		return true
	}
	return false
}

func secretSent(l *line, i int) string {
	c := &l.commands[i]
	for j, a := range c.args() {
		option := ""
		if j > 0 {
			option = c.args()[j-1]
		}
		switch c.name {
		case "curl":
			// What curl sends stands behind @, or is to be uploaded. Keys that prove who it is are no data.
			if (strings.Contains(a, "@/") || strings.Contains(a, "@~") || option == "-T" || option == "--upload-file") && sensitive(a) {
				return a
			}
		case "wget":
			if v, ok := strings.CutPrefix(a, "--post-file="); ok && sensitive(v) {
				return v
			}
		case "scp", "rsync", "sftp":
			if sensitive(a) && option != "-i" && !strings.Contains(a, ":") && j < len(c.args())-1 && strings.Contains(c.args()[len(c.args())-1], ":") && !near(strings.SplitN(c.args()[len(c.args())-1], ":", 2)[0]) {
				return a
			}
		case "ftpput", "tftp":
			if sensitive(a) && (c.name == "ftpput" || c.short('p')) {
				return a
			}
		}
	}
	if c.name == "nc" && !c.short('l') {
		for _, f := range c.inputs {
			if sensitive(f) {
				return f
			}
		}
	}
	return ""
}

func privileged(l *line, i int) string {
	c := &l.commands[i]
	if !c.has("run", "create", "exec") {
		return ""
	}
	all := c.has("--privileged") && !c.has("--privileged=false")
	if caps, ok := c.value(0, "cap-add"); ok && (strings.EqualFold(caps, "all") || strings.EqualFold(strings.TrimPrefix(strings.ToUpper(caps), "CAP_"), "sys_admin")) {
		all = true
	}
	for j, a := range c.args() {
		v := strings.TrimPrefix(strings.TrimPrefix(a, "--volume="), "-v")
		if j > 0 && (c.args()[j-1] == "-v" || c.args()[j-1] == "--volume") || v != a {
			if strings.HasPrefix(v, "/:") {
				all = true
			}
		}
		if strings.HasPrefix(a, "type=bind") && (strings.Contains(a+",", "source=/,") || strings.Contains(a+",", "src=/,")) {
			all = true
		}
	}
	if !all {
		return ""
	}
	return c.image()
}

// image is what a container command starts: the first operand after run that is no value of an option.
func (c *command) image() string {
	flags := setOf("-d -i -t -it -ti -dit -itd -td -dt -P --rm --init --privileged --detach --interactive --tty --read-only --no-healthcheck --oom-kill-disable --publish-all --sig-proxy --quiet -q")
	args := c.args()
	for j := slices.IndexFunc(args, func(a string) bool { return a == "run" || a == "create" || a == "exec" }) + 1; j < len(args); j++ {
		a := args[j]
		if !strings.HasPrefix(a, "-") {
			return a
		}
		if !flags[a] && !strings.Contains(a, "=") {
			j++
		}
	}
	return c.name
}

var readers = setOf("cat less more head tail strings grep awk sed cp scp vi nano base64 xxd od hexdump tar cut sort dd tac nl rev python perl zip gzip curl")

func secretRead(l *line, _ int) string {
	for i := range l.commands {
		c := &l.commands[i]
		if c.name == "find" && slices.ContainsFunc(c.args(), func(a string) bool { return strings.HasPrefix(a, "id_rsa") || strings.HasPrefix(a, "id_ed25519") }) && (c.has("/", "/home", "/root")) {
			return "id_rsa"
		}
		if !readers[c.name] {
			continue
		}
		args := append(slices.Clone(c.args()), c.inputs...)
		if c.name == "cp" && slices.ContainsFunc(c.writes(), func(f string) bool { return strings.HasSuffix(f, ".bak") || strings.HasPrefix(f, "/var/backups") }) {
			continue // Debian keeps a copy each day
		}
		if c.name == "sed" && (c.short('i') || c.has("--in-place")) {
			continue // changes a password: images do so when they are made
		}
		for j, a := range args {
			f := strings.TrimPrefix(strings.TrimPrefix(a, "if="), "@")
			switch {
			case f == "/etc/shadow" || f == "/etc/gshadow" || f == "/etc/shadow-":
				return f
			case c.name != "scp" && c.name != "cp" && c.name != "curl" && (j == 0 || args[j-1] != "-i") && strings.HasPrefix(base(f), "id_") && !strings.HasSuffix(f, ".pub") && strings.Contains(f, "/") && (strings.HasSuffix(f, "id_rsa") || strings.HasSuffix(f, "id_ed25519") || strings.HasSuffix(f, "id_ecdsa")):
				return f
			}
		}
		if text := c.inline(); strings.Contains(text, "/etc/shadow") && c.name != "awk" {
			return "/etc/shadow"
		}
	}
	return ""
}

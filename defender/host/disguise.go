package host

import (
	"slices"
	"strings"
)

func firewallCleared(l *line, i int) string {
	c := &l.commands[i]
	switch c.name {
	case "iptables":
		if t, ok := c.value('t', "table"); ok && t != "filter" {
			return ""
		}
		args := c.args()
		for j, a := range args {
			chain := ""
			if j+1 < len(args) {
				chain = args[j+1]
			}
			main := chain == "INPUT" || chain == "FORWARD"
			switch {
			case (a == "-F" || a == "--flush") && (chain == "" || strings.HasPrefix(chain, "-") || main || chain == "OUTPUT"):
				return "iptables " + a
			case (a == "-P" || a == "--policy") && main && j+2 < len(args) && args[j+2] == "ACCEPT":
				return "iptables " + a + " " + chain
			}
		}
	case "nft":
		if s := strings.Join(c.args(), " "); strings.Contains(s, "flush ruleset") || strings.Contains(s, "delete table inet filter") || strings.Contains(s, "flush table inet filter") {
			return "nft flush"
		}
	case "ufw":
		if c.has("disable", "reset") {
			return "ufw"
		}
	case "iptables-restore":
		if slices.Contains(c.inputs, "/dev/null") {
			return "iptables-restore"
		}
	}
	return ""
}

// stopped finds who stops, disables or kills one of some services.
func stopped(services map[string]bool) func(*line, int) string {
	service := func(s string) string {
		s = strings.TrimSuffix(base(s), ".service")
		if services[s] {
			return s
		}
		return ""
	}
	verbs := setOf("stop disable mask off kill del delete remove")
	return func(l *line, i int) string {
		c := &l.commands[i]
		switch c.name {
		case "pkill", "killall":
			for _, o := range c.operands() {
				if s := service(o); s != "" {
					return s
				}
			}
			return ""
		case "firewall", "firewalld", "iptables", "ufw", "auditd": // their scripts in /etc/init.d
			if strings.Contains(c.words[0], "init.d/") && len(c.words) > 1 && (c.words[1] == "stop" || c.words[1] == "disable") {
				return service(c.name)
			}
			return ""
		}
		ops := c.operands()
		if !slices.ContainsFunc(ops, func(o string) bool { return verbs[o] }) {
			return ""
		}
		for _, o := range ops {
			if s := service(o); s != "" {
				return s
			}
		}
		return ""
	}
}

func auditOff(l *line, i int) string {
	c := &l.commands[i]
	if v, ok := c.value('e', ""); ok && v == "0" || c.has("-D") {
		return "auditctl"
	}
	return ""
}

func nohup(l *line, _ int) string {
	for i := range l.commands {
		c := &l.commands[i]
		if !slices.Contains(c.around, "nohup") {
			continue
		}
		for _, r := range c.runs() {
			if loose(r) {
				return r
			}
		}
		if shells[c.name] && c.short('i') || fetchers[c.name] && slices.ContainsFunc(l.after(i), func(o command) bool { return o.executes() }) || c.name == "nc" {
			return c.name
		}
	}
	return ""
}

// languages are the endings of files that say what must read them.
var languages = map[string]string{
	".sh": "sh", ".bash": "sh", ".ksh": "sh", ".zsh": "sh", ".py": "python", ".pyc": "python", ".pyw": "python", ".pl": "perl", ".pm": "perl", ".php": "php", ".rb": "ruby", ".js": "node",
	".mjs": "node", ".cjs": "node", ".lua": "lua",
}

// notScripts are endings of files that nothing executes.
var notScripts = setOf(".jpg .jpeg .png .gif .bmp .ico .pdf .doc .docx .xls .xlsx .mp3 .mp4 .avi .zip .gz .tar .html .htm .css .csv .svg .webp .wav")

func mismatch(l *line, i int) string {
	c := &l.commands[i]
	file := c.script()
	dot := strings.LastIndexByte(file, '.')
	if dot < 0 {
		return ""
	}
	ext := strings.ToLower(strings.TrimRight(file[dot:], " "))
	speaks := c.name
	if shells[speaks] {
		speaks = "sh"
	}
	want, known := languages[ext]
	if known && want != speaks || notScripts[ext] {
		return base(file)
	}
	return ""
}

var systemLogs = setOf("syslog messages auth.log secure wtmp btmp utmp lastlog kern.log audit.log cron cron.log dmesg maillog mail.log faillog daemon.log user.log debug boot.log yum.log dpkg.log ufw.log firewalld journal audit sudo.log")

func systemLog(f string) bool {
	f = strings.TrimSuffix(f, "/")
	switch {
	case f == "/var/log", f == "/var/log/*", f == "/var/adm", f == "/var/log/*.log", f == "/var/log/*log", f == "/var/log/journal/*", f == "/var/log/audit/*":
		return true
	case strings.HasPrefix(f, "/var/log/") && systemLogs[strings.TrimSuffix(base(f), "*")]:
		return true
	}
	return f == "/var/run/utmp" || f == "/run/utmp" || f == "/etc/wtmp" || f == "/etc/utmp"
}

func logsRemoved(l *line, _ int) string {
	for i := range l.commands {
		c := &l.commands[i]
		for _, f := range c.removes() {
			if systemLog(f) {
				return f
			}
		}
		// What empties a file: > file, cat /dev/null > file, echo > file, cp /dev/null file.
		empties := c.name == ":" || c.name == "true" || c.name == "cat" && c.has("/dev/null") || c.name == "echo" && strings.TrimSpace(strings.Join(c.operands(), "")) == "" || c.name == "cp" && c.has("/dev/null") || c.name == "ln" && c.has("/dev/null") || c.name == "dd" && c.has("if=/dev/null", "if=/dev/zero")
		if empties {
			for _, f := range c.writes() {
				if systemLog(f) {
					return f
				}
			}
		}
		if c.name == "find" && c.has("-delete") && !c.has("-mtime", "-ctime", "-mmin", "-cmin", "-name", "-iname", "-newer", "-size", "-atime", "-empty", "-regex", "-path") {
			for _, o := range c.operands() {
				if systemLog(o) {
					return o
				}
			}
		}
	}
	return ""
}

func journalRemoved(l *line, i int) string {
	c := &l.commands[i]
	if v, ok := c.value(0, "vacuum-time"); ok && (v == "1s" || v == "0" || v == "1seconds" || v == "1m") {
		return "vacuum-time"
	}
	if v, ok := c.value(0, "vacuum-size"); ok && (v == "1" || v == "0" || v == "1K") {
		return "vacuum-size"
	}
	return ""
}

func compiled(l *line, i int) string {
	c := &l.commands[i]
	if c.has("--version", "-v", "-dumpversion", "-print-prog-name", "-dumpmachine") && len(c.args()) <= 2 {
		return ""
	}
	for _, a := range append(slices.Clone(c.operands()), c.outputs...) {
		// Go, pip and test programs of configure scripts build there too.
		if strings.HasPrefix(a, "/tmp/go-build") || strings.HasPrefix(a, "/tmp/pip-") || strings.HasPrefix(a, "/tmp/cc") || strings.HasPrefix(a, "/tmp/rustc") || strings.HasPrefix(a, "/tmp/cargo-install") {
			return ""
		}
	}
	for _, a := range c.operands() {
		if loose(a) {
			return a
		}
	}
	if c.has("-xc", "c") && c.has("-") { // a program from a pipe
		return c.name
	}
	return ""
}

func historyCleared(l *line, _ int) string {
	history := func(f string) bool {
		switch base(f) {
		case ".bash_history", ".ash_history", ".zsh_history", ".sh_history", ".history", ".python_history", ".mysql_history":
			return true
		}
		return f == "$HISTFILE" || f == "${HISTFILE}"
	}
	for i := range l.commands {
		c := &l.commands[i]
		switch {
		case c.name == "history" && (c.short('c') || c.short('d') && c.has("-d")):
			return "history -c"
		case c.name == "unset" && slices.ContainsFunc(c.args(), func(a string) bool { return strings.HasPrefix(a, "HIST") }):
			return "HISTFILE"
		}
		set := c.set
		if c.name == "export" || c.name == "declare" || c.name == "typeset" || c.name == "readonly" {
			set = append(slices.Clone(set), c.operands()...)
		}
		for _, s := range set {
			switch s {
			case "HISTFILE=", "HISTFILE=/dev/null", "HISTSIZE=0", "HISTFILESIZE=0":
				return "HISTFILE"
			}
		}
		if c.name == "set" && c.has("+o") && c.has("history") {
			return "set +o history"
		}
		for _, f := range append(c.removes(), c.outputs...) {
			if history(f) {
				return f
			}
		}
		if (c.name == "ln" || c.name == "cp") && c.has("/dev/null") && slices.ContainsFunc(c.writes(), history) {
			return "link to /dev/null"
		}
	}
	return ""
}

var common = setOf("ls ps netstat ss top login sshd bash sh dash find lsof who w passwd su sudo df du ifconfig ip crontab curl wget mount id kill killall grep cat ssh scp systemctl init chmod chown cp mv rm iptables dropbear busybox telnetd agetty getty tcpdump")

func overridden(l *line, _ int) string {
	for i := range l.commands {
		c := &l.commands[i]
		if c.name == "touch" {
			continue
		}
		for _, f := range c.writes() {
			for _, dir := range [...]string{"/bin/", "/sbin/", "/usr/bin/", "/usr/sbin/"} {
				if name, ok := strings.CutPrefix(f, dir); ok && common[name] {
					// A package or a busybox that installs itself links applets: those are no other programs.
					if c.name == "ln" && slices.ContainsFunc(c.operands(), func(o string) bool { return strings.Contains(o, "busybox") }) {
						continue
					}
					return f
				}
			}
		}
	}
	return ""
}

package host

import (
	"regexp"
	"slices"
	"strings"
)

func sshTunnel(l *line, i int) string {
	target, forwards := l.commands[i].ssh()
	if len(forwards) == 0 || target == "" || near(target) {
		return ""
	}
	return target
}

func relay(l *line, i int) string {
	c := &l.commands[i]
	args := strings.ToLower(strings.Join(c.args(), " "))
	switch c.name {
	case "socat":
		if strings.Contains(args, "listen:") || strings.Contains(args, "-l:") {
			for _, o := range c.operands() {
				kind, to, _ := strings.Cut(o, ":")
				switch k := strings.ToLower(kind); k {
				case "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6", "openssl", "ssl", "socks4", "socks4a", "proxy", "tcp-connect", "udp-connect", "tcp4-connect", "openssl-connect":
					return c.name + " to " + to
				}
			}
		}
		return ""
	case "cloudflared":
		if !strings.Contains(args, "tunnel") {
			return ""
		}
	case "ngrok":
		if !c.has("http", "tcp", "tls", "start", "tunnel") {
			return ""
		}
	case "chisel":
		if !c.has("client", "server") {
			return ""
		}
	}
	if len(c.args()) == 0 && c.name != "rinetd" && c.name != "iodine" && c.name != "frpc" || c.has("--version", "-v", "--help", "-h", "version", "help") && len(c.args()) == 1 {
		return ""
	}
	return c.name
}

func translated(l *line, i int) string {
	c := &l.commands[i]
	if c.name == "nft" {
		if s := strings.Join(c.args(), " "); strings.HasPrefix(s, "add rule") && strings.Contains(s, " dnat ") {
			return "nft dnat"
		}
		return ""
	}
	if t, _ := c.value('t', "table"); t != "nat" || !c.has("DNAT", "REDIRECT") {
		return ""
	}
	chain, ok := c.value('A', "append")
	if !ok {
		chain, ok = c.value('I', "insert")
	}
	if to, _ := c.value(0, "to-destination"); ok && (chain == "PREROUTING" || chain == "OUTPUT") && to != "" && c.has("DNAT") {
		return "iptables to " + to
	}
	return ""
}

// aShell reports whether a word names a shell, with or without arguments.
func aShell(word string) bool {
	first, _, _ := strings.Cut(strings.TrimSpace(word), " ")
	return shells[canonical(base(strings.Trim(first, `"'`)))] || strings.EqualFold(base(first), "cmd.exe") || strings.HasPrefix(strings.ToLower(base(first)), "powershell")
}

func netcatShell(l *line, i int) string {
	c := &l.commands[i]
	if c.name == "socat" {
		for _, o := range c.operands() {
			kind, rest, _ := strings.Cut(o, ":")
			if k := strings.ToLower(kind); k == "exec" || k == "system" {
				program, _, _ := strings.Cut(strings.Trim(rest, `"'`), ",")
				if aShell(program) || strings.HasPrefix(program, "login") {
					return c.name
				}
			}
		}
		return ""
	}
	args := c.args()
	for j, a := range args {
		if a == "--sh-exec" || a == "--lua-exec" || strings.HasPrefix(a, "--sh-exec=") {
			return c.name
		}
		if (a == "--exec" || len(a) > 1 && a[0] == '-' && a[1] != '-' && (strings.HasSuffix(a, "e") || strings.HasSuffix(a, "c"))) && j+1 < len(args) && aShell(args[j+1]) {
			return c.name
		}
	}
	return ""
}

var tied = regexp.MustCompile(`(0>&1|<&\d|0<&|>&\s*/dev/(tcp|udp)/|\d+<>\s*/dev/(tcp|udp)/)`)

func devTCP(l *line, _ int) string {
	if !tied.MatchString(l.raw) {
		return ""
	}
	for i := range l.commands {
		c := &l.commands[i]
		if shells[c.name] && (c.short('i') || slices.ContainsFunc(append(slices.Clone(c.outputs), c.inputs...), isSocket)) {
			return c.name
		}
		// exec 5<>/dev/tcp/host/port, and then something that reads commands from it.
		if len(c.inputs) > 0 && isSocket(c.inputs[0]) || slices.Contains(c.around, "exec") {
			if strings.Contains(l.low, "while read") || strings.Contains(l.low, "cat <&") || strings.Contains(l.low, "sh <&") {
				return "exec"
			}
		}
	}
	if strings.Contains(l.low, "while read") || strings.Contains(l.low, "sh <&") || strings.Contains(l.low, "sh 0<&") {
		return "exec"
	}
	return ""
}

func isSocket(f string) bool {
	return strings.HasPrefix(f, "/dev/tcp/") || strings.HasPrefix(f, "/dev/udp/")
}

func pipedShell(l *line, i int) string {
	c := &l.commands[i]
	switch c.name {
	case "openssl":
		if !c.has("s_client") {
			return ""
		}
	case "nc":
		if c.short('z') {
			return ""
		}
	}
	fed := func(all []command) bool {
		return slices.ContainsFunc(all, func(o command) bool { return shells[o.name] && (o.executes() || o.short('i')) })
	}
	if fed(l.before(i)) || fed(l.after(i)) {
		return c.name
	}
	return ""
}

var spawnCalls = []string{"dup2", "subprocess", "pty.spawn", "os.system", "exec", "popen", "child_process", "/bin/sh", "/bin/bash", "open(STDIN", "system(", "|&"}

var socketCalls = []string{"socket", "Socket", "fsockopen", "TCPSocket", "/inet/tcp/", "net.connect", "IO::Socket"}

func socketScript(l *line, i int) string {
	c := &l.commands[i]
	text := c.inline()
	if text == "" || !containsAny(text, socketCalls) || !containsAny(text, spawnCalls) {
		return ""
	}
	connects := strings.Contains(text, "connect") || strings.Contains(text, "fsockopen") || strings.Contains(text, "TCPSocket") || strings.Contains(text, "/inet/tcp/") || strings.Contains(text, "IO::Socket") || strings.Contains(text, ".bind(") || strings.Contains(text, "Socket(")
	if !connects {
		return ""
	}
	return c.name
}

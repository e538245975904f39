package host

import (
	"regexp"
	"slices"
	"strings"

	"github.com/vauban-iot/vauban/defender/alert"
)

// rule finds one kind of attack in one command line. It is asked for each command whose program is one of programs, or, when there are none,
// once for a line in which one of literals stands.
type rule struct {
	kind     string   // of the alert, as Azure spells it (defender §2.1)
	name     string   // what it looks for: the first half of the alert's indicator
	programs string   // canonical names, with blanks between them
	literals []string // in lower case
	text     string   // what it means, after "which"
	// match returns what it was about, the second half of the indicator; empty: nothing. i is the command's place in l; -1 when literals asked.
	match func(l *line, i int) string
}

const anyShell = "sh bash dash ash zsh ksh mksh csh tcsh fish rbash hush"

// rules are the table. A rule says in a line of a test of its own what it must find and what it must leave alone.
var rules = []rule{
	{kind: "IoT_BinaryCommandLine", name: "decoded and run", programs: "base64 base32 openssl xxd uudecode", text: "decodes a program from text and runs it", match: decodedAndRun},
	{kind: "IoT_BinaryCommandLine", name: "program in a script", programs: "python perl php ruby node", text: "runs a program that its command line carries in an encoded form", match: encodedScript},
	{kind: "IoT_BinaryCommandLine", name: "bytes written", programs: "echo printf", text: "writes the bytes of a program into a file", match: bytesWritten},

	{kind: "IoT_DisableFirewall", name: "rules removed", programs: "iptables nft ufw iptables-restore", text: "takes the firewall's rules away", match: firewallCleared},
	{kind: "IoT_DisableFirewall", name: "service stopped", programs: "systemctl service rc-service chkconfig update-rc.d rc-update firewall firewalld iptables ufw initctl pkill killall", text: "stops the firewall", match: stopped(setOf("firewalld ufw nftables iptables ip6tables netfilter-persistent firewall shorewall ferm"))},

	{kind: "IoT_PortForwarding", name: "ssh tunnel", programs: "ssh", text: "forwards ports to a host outside", match: sshTunnel},
	{kind: "IoT_PortForwarding", name: "relay", programs: "socat rinetd ngrok chisel frpc gost bore iodine cloudflared redir simpleproxy 3proxy microsocks pwnat ligolo-ng revsocks", text: "relays ports", match: relay},
	{kind: "IoT_PortForwarding", name: "address translation", programs: "iptables nft", text: "passes connections on to another address", match: translated},

	{kind: "IoT_DisableAuditdLogging", name: "audit stopped", programs: "auditctl", text: "turns the audit off", match: auditOff},
	{kind: "IoT_DisableAuditdLogging", name: "service stopped", programs: "systemctl service rc-service chkconfig update-rc.d rc-update auditd pkill killall", text: "stops the audit", match: stopped(setOf("auditd"))},

	{kind: "IoT_ReverseShell", name: "nc", programs: "nc socat", text: "gives a shell to who is at the other end of a connection", match: netcatShell},
	{kind: "IoT_ReverseShell", name: "dev tcp", literals: []string{"/dev/tcp/", "/dev/udp/"}, text: "ties a shell to a connection", match: devTCP},
	{kind: "IoT_ReverseShell", name: "piped", programs: "nc telnet openssl socat", text: "feeds a shell from a connection", match: pipedShell},
	{kind: "IoT_ReverseShell", name: "one-liner", programs: "python perl php ruby lua node awk", text: "ties a shell to a connection", match: socketScript},

	{kind: "IoT_Ransomware", name: "known name", text: "has the name of ransomware", programs: "lockbit babuk ech0raix qnapcrypt erebus ransomexx hellokitty conti blackbasta blackmatter darkside revil avoslocker deadbolt qlocker cheerscrypt royalransom akira ransomware encryptor", match: called},
	{kind: "IoT_Ransomware", name: "files encrypted", programs: "openssl gpg gpg2 7z 7za zip ccrypt rar", text: "encrypts many files and removes what they were", match: encryptsMany},

	{kind: "IoT_CryptoMiner", name: "name", literals: minerHints, text: "names a miner of crypto coins", match: minerNamed},
	{kind: "IoT_CryptoMiner", name: "pool", literals: []string{"stratum+", "stratum1+", "stratum2+", "--donate-level", "--coin=monero", "--algo=rx/", "--algo=cn/", "-a rx/", "-a cryptonight"}, text: "is told of a pool of miners", match: minerPool},
	{kind: "IoT_CryptoMiner", name: "pool", literals: poolDomains, text: "is told of a pool of miners", match: poolNamed},
	{kind: "IoT_CryptoMinerContainer", name: "image", programs: "docker ctr crictl", text: "uses a container image that mines crypto coins", match: minerImage},

	{kind: "IoT_CommonBots", name: "known name", literals: botHints, text: "has the name of a bot", match: botNamed},
	{kind: "IoT_CommonBots", name: "loader", programs: "wget curl tftp ftpget", text: "loads a program the way bots do", match: botLoader},
	{kind: "IoT_CommonBots", name: "busybox probe", literals: []string{"busybox "}, text: "asks busybox for a tool that only bots ask for", match: busyboxProbe},
	{kind: "IoT_CommonBots", name: "built for many", literals: archHints, text: "runs a program named for its processor where no programs belong", match: archBinary},
	{kind: "IoT_CommonBots", name: "scheduled download", programs: "crontab echo printf", text: "schedules a download that is run", match: scheduledDownload},

	{kind: "IoT_FairwareMalware", name: "data removed", programs: "rm", text: "removes whole trees of data", match: rootsRemoved},

	{kind: "IoT_SuspiciousNohup", name: "nohup", literals: []string{"nohup"}, text: "is to live on when its user leaves, and comes from where no programs belong", match: nohup},
	{kind: "IoT_SuspiciousUseradd", name: "user added", programs: "useradd adduser usermod", text: "adds a user who can sign in, or gives one all rights", match: userAdded},
	{kind: "IoT_SuspiciousUseradd", name: "user written", literals: []string{"/etc/passwd"}, text: "writes a user with all rights", match: userWritten},
	{kind: "IoT_ExposedDocker", name: "daemon", programs: "dockerd docker docker.io containerd", text: "lets everybody on the network command the container daemon", match: exposedDocker},
	{kind: "IoT_AccessingHtaccessFile", name: "htaccess", literals: []string{".htaccess"}, text: "changes what a web server allows", match: htaccess},
	{kind: "IoT_KnownAttackTools", name: "tool", programs: attackTools, text: "is a tool for attacks", match: called},
	{kind: "IoT_KnownAttackTools", name: "tool", programs: anyShell + " python perl ruby . php", text: "is a tool for attacks", match: toolScript},
	{kind: "IoT_ScriptInterpreterMismatch", name: "script", programs: anyShell + " python perl php ruby node lua", text: "runs a file whose name says that it is something else", match: mismatch},
	{kind: "IoT_EgressData", name: "piped out", programs: "nc curl socat openssl ssh wget telnet", text: "sends out what another program packs", match: pipedOut},
	{kind: "IoT_EgressData", name: "secret sent", programs: "curl wget scp sftp rsync ftpput tftp nc", text: "sends out files with secrets", match: secretSent},
	{kind: "IoT_PrivilegedContainer", name: "container", programs: "docker ctr", text: "gives a container all rights over the device", match: privileged},
	{kind: "IoT_RemovelOfSystemLogs", name: "logs removed", literals: []string{"/var/log", "/var/adm", "wtmp", "utmp", "btmp", "lastlog"}, text: "removes or empties logs of the system", match: logsRemoved},
	{kind: "IoT_RemovelOfSystemLogs", name: "journal removed", programs: "journalctl", text: "removes the system's journal", match: journalRemoved},
	{kind: "IoT_CredentialAccessTools", name: "tool", programs: "mimipenguin lazagne laudanum mimikatz pypykatz unshadow 3snake linikatz swap_digger swap-digger gsecdump truffleproc hashcat john", text: "is a tool that takes credentials", match: called},
	{kind: "IoT_CredentialAccessTools", name: "tool", programs: anyShell + " python perl .", text: "is a tool that takes credentials", match: credentialScript},
	{kind: "IoT_CredentialAccessTools", name: "file read", literals: []string{"/etc/shadow", "/etc/gshadow", "id_rsa", "id_ed25519", "id_ecdsa"}, text: "reads where credentials are kept", match: secretRead},
	{kind: "IoT_SuspiciousCompilation", name: "compiler", programs: "gcc cc g++ c++ clang tcc rustc", text: "builds a program where anybody may write", match: compiled},
	{kind: "IoT_DownloadFileThenRun", name: "piped", programs: "wget curl fetch uclient-fetch aria2c", text: "runs what it downloads", match: downloadPiped},
	{kind: "IoT_DownloadFileThenRun", name: "stored", programs: "wget curl tftp ftpget fetch axel aria2c lwp-download uclient-fetch", text: "runs what it downloaded before", match: downloadRun},
	{kind: "IoT_BashHistoryCleared", name: "history", literals: []string{"history", "histfile", "histsize"}, text: "makes the shell forget what was typed", match: historyCleared},
	{kind: alert.FilesOverridden, name: "program replaced", literals: []string{"bin/"}, text: "writes over a program of the system", match: overridden},
}

func called(l *line, i int) string { return l.commands[i].name }

// later reports whether a command after i runs the file, or makes it one that can be run and is in a place for that.
func (l *line) laterRuns(i int, file string) bool {
	for j := i + 1; j < len(l.commands); j++ {
		c := &l.commands[j]
		for _, r := range c.runs() {
			if strings.ContainsAny(r, "/") && sameFile(r, file) || c.script() != "" && sameFile(c.script(), file) {
				return true
			}
		}
	}
	return false
}

func (l *line) laterMadeProgram(i int, file string) bool {
	for j := i + 1; j < len(l.commands); j++ {
		c := &l.commands[j]
		if c.name == "chmod" && slices.ContainsFunc(c.operands(), func(o string) bool { return sameFile(o, file) }) {
			return true
		}
	}
	return false
}

func decodedAndRun(l *line, i int) string {
	c := &l.commands[i]
	if !c.decodes() {
		return ""
	}
	if shells[c.into] || c.into == "eval" {
		return c.name
	}
	const few = 4 // a pipeline that hides behind more is not looked through
	after := l.after(i)
	for _, next := range after[:min(len(after), few)] {
		if next.executes() {
			return c.name
		}
		files := next.writes()
		for _, f := range files[:min(len(files), few)] {
			if l.laterRuns(i, f) || l.laterMadeProgram(i, f) {
				return c.name
			}
		}
	}
	for _, f := range c.outputs[:min(len(c.outputs), few)] {
		if l.laterRuns(i, f) || l.laterMadeProgram(i, f) {
			return c.name
		}
	}
	if slices.ContainsFunc(l.before(i), func(c command) bool { return strings.Contains(strings.Join(c.words, " "), "f0VMR") }) { // an ELF header
		return c.name
	}
	return ""
}

var decodeCalls = []string{"b64decode", "base64_decode", "decode_base64", "unpack(", "fromhex(", "unhexlify", "base64 -d", "decode64", "gzinflate", "'base64'", "\"base64\"", "marshal.loads"}

var runCalls = []string{"exec", "eval", "system", "subprocess", "popen", "__import__", "passthru", "spawn", "chmod"}

func encodedScript(l *line, i int) string {
	c := &l.commands[i]
	text := c.inline()
	if text != "" && containsAny(text, decodeCalls) && containsAny(text, runCalls) {
		return c.name
	}
	return ""
}

func containsAny(s string, parts []string) bool {
	return slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(s, p) })
}

// escapes counts the bytes that a text writes as \x7f or \177.
func escapes(s string) (n int) {
	for i := 0; i+3 < len(s); i++ {
		if s[i] == '\\' && (s[i+1] == 'x' || s[i+1] >= '0' && s[i+1] <= '3') {
			n++
			i += 3
		}
	}
	return n
}

func bytesWritten(l *line, i int) string {
	c := &l.commands[i]
	if len(c.outputs) == 0 {
		return ""
	}
	file := c.outputs[0]
	if strings.HasPrefix(file, "/dev/") && !strings.HasPrefix(file, "/dev/shm/") && !strings.HasPrefix(file, "/dev/.") || strings.HasPrefix(file, "/sys/") || strings.HasPrefix(file, "/proc/") {
		return ""
	}
	text := strings.ToLower(strings.Join(c.args(), " "))
	if strings.Contains(text, `\x7felf`) || strings.Contains(text, `\x7f\x45\x4c\x46`) || strings.Contains(text, `\177elf`) || strings.Contains(text, `\177\105\114\106`) {
		return c.name
	}
	if n := escapes(text); n >= 16 && (loose(file) || l.laterRuns(i, file) || l.laterMadeProgram(i, file)) {
		return c.name
	}
	return ""
}

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

func auditOff(l *line, i int) string {
	c := &l.commands[i]
	if v, ok := c.value('e', ""); ok && v == "0" || c.has("-D") {
		return "auditctl"
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

func encryptsMany(l *line, i int) string {
	c := &l.commands[i]
	encrypts := false
	switch c.name {
	case "openssl":
		encrypts = c.has("enc", "rsautl", "smime") && !c.has("-d")
	case "gpg", "gpg2":
		encrypts = c.has("-c", "-e", "--symmetric", "--encrypt")
	case "7z", "7za", "rar":
		encrypts = slices.ContainsFunc(c.args(), func(a string) bool { return strings.HasPrefix(a, "-p") || strings.HasPrefix(a, "-hp") })
	case "zip":
		encrypts = c.has("-P", "-e", "--password")
	case "ccrypt":
		encrypts = !c.has("-d", "--decrypt")
	}
	if !encrypts {
		return ""
	}
	many := slices.Contains(c.around, "find") || slices.Contains(c.around, "xargs") || slices.Contains(c.around, "do")
	removed := slices.ContainsFunc(l.commands, func(o command) bool {
		return o.name == "rm" || o.name == "shred" || o.name == "unlink" || o.name == "mv"
	}) || c.has("-delete", "-sdel") || strings.Contains(l.low, " -delete")
	if many && removed || many && c.name == "ccrypt" {
		return c.name
	}
	return ""
}

// Programs that look for a name rather than have it.
var lookers = setOf("grep rg ag pgrep pkill killall kill ps ls which whereis man cat less more head tail find locate apropos dpkg-query vi nano journalctl stat file rm clamscan rkhunter")

var (
	minerHints = []string{"xmr", "miner", "cryptonight", "kdevtmpfsi", "wildrig", "nheqminer", "randomx", "moneroocean"}
	miners     = regexp.MustCompile(`(?:^|[^a-z0-9])(xmrig[a-z-]*|xmr-stak[a-z-]*|xmr-node-proxy|cpuminer(?:-[a-z]+)?|minerd|minergate(?:-cli)?|ccminer|cgminer|bfgminer|sgminer|ethminer|nheqminer|phoenixminer|nbminer|lolminer|nanominer|srbminer(?:-multi)?|teamredminer|bminer|gminer|wildrig(?:-multi)?|cryptonight|kdevtmpfsi|moneroocean_miner)(?:[^a-z]|$)`)
)

func minerNamed(l *line, _ int) string {
	for i := range l.commands {
		c := &l.commands[i]
		if lookers[c.name] || c.has("remove", "purge", "stop", "disable", "autoremove", "-R", "-r") && setOfPackagers[c.name] {
			continue
		}
		if m := miners.FindStringSubmatch(strings.ToLower(strings.Join(c.words, " "))); m != nil {
			return m[1]
		}
	}
	return ""
}

var setOfPackagers = setOf("apt apt-get dpkg yum dnf rpm apk opkg snap systemctl service pip pacman zypper docker")

var poolWords = regexp.MustCompile(`stratum[12]?\+[a-z]+://[^\s"']*|--donate-level|--coin=monero|--algo=(?:rx|cn)/|-a (?:rx/|cryptonight)`)

func minerPool(l *line, _ int) string {
	for i := range l.commands {
		c := &l.commands[i]
		if lookers[c.name] {
			continue
		}
		if poolWords.MatchString(strings.ToLower(strings.Join(c.words, " "))) {
			return bare(c.words[0])
		}
	}
	return ""
}

var poolDomains = []string{
	"minexmr.com", "supportxmr.com", "nanopool.org", "moneroocean.stream", "hashvault.pro", "2miners.com", "xmrpool.eu", "monerohash.com",
	"crypto-pool.fr", "dwarfpool.com", "ethermine.org", "minergate.com", "c3pool.com", "c3pool.org", "herominers.com", "unmineable.com", "nicehash.com",
	"xmrpool.net", "viabtc.com", "f2pool.com", "zpool.ca", "prohashing.com", "gulf.moneroocean.stream", "xmr.pool", "auto.c3pool.org",
}

func poolNamed(l *line, _ int) string {
	for i := range l.commands {
		c := &l.commands[i]
		if lookers[c.name] {
			continue
		}
		for _, w := range c.args() {
			low := strings.ToLower(w)
			for _, d := range poolDomains {
				if at := strings.Index(low, d); at >= 0 && (at == 0 || low[at-1] == '.' || low[at-1] == '/' || low[at-1] == '@' || low[at-1] == '=') {
					return d
				}
			}
		}
	}
	return ""
}

// poolName reports whether a name is that of a pool of miners or below it.
func poolName(name string) bool {
	return slices.ContainsFunc(poolDomains, func(d string) bool { return name == d || strings.HasSuffix(name, "."+d) })
}

var minerImages = regexp.MustCompile(`(?i)(xmrig|monero[-_a-z]*miner|cpuminer|minerd|minergate|xmr-?stak|cryptonight|kannix/monero|metal3d/xmrig|servethehome/monero|alpine-?xmr|azulu/|coinhive|ethminer|moneropool/xmr|docker-miner|xmrminer|bananajamma|pocosow/centos)`)

func minerImage(l *line, i int) string {
	c := &l.commands[i]
	if !c.has("run", "pull", "create", "start") {
		return ""
	}
	for _, o := range c.operands() {
		if minerImages.MatchString(o) {
			return o
		}
	}
	return ""
}

var (
	botHints = []string{"mirai", "gafgyt", "bashlite", "tsunami", "kaiten", "mozi", "hajime", "okiru", "satori", "owari", "masuta", "hoaxcalls", "dark_nexus", "darknexus", "kinsing", "muhstik", "xorddos", "perlbot", "rapperbot", "zerobot", "enemybot", "dofloo", "billgates", "sora.", "josho", "qbot", "lizkebab", "remaiten", "amnesia.", "hakai", "moobot", "fbot", "kdevtmpfsi", "brickerbot"}
	bots     = setOf("mirai gafgyt bashlite tsunami kaiten mozi mozi.m mozi.a hajime okiru satori owari masuta hoaxcalls dark_nexus darknexus kinsing muhstik xorddos perlbot rapperbot zerobot enemybot dofloo billgates sora josho qbot lizkebab remaiten amnesia hakai moobot fbot kdevtmpfsi brickerbot")
)

func botNamed(l *line, _ int) string {
	for i := range l.commands {
		c := &l.commands[i]
		if lookers[c.name] {
			continue
		}
		names := c.runs()
		if f := c.fetched(); f != "" {
			names = append(slices.Clone(names), f)
		}
		for _, n := range append(slices.Clone(names), c.addresses()...) {
			name := bare(n)
			stem, suffix, _ := strings.Cut(name, ".")
			if bots[name] || bots[stem] && (arches[suffix] || suffix == "") {
				return name
			}
		}
	}
	return ""
}

var (
	arches    = setOf("arm arm4 arm5 arm6 arm7 armv4l armv5l armv6l armv7l arm4n arm5n mips mpsl mipsel mips64 x86 x86_64 x64 i586 i686 i486 sh4 ppc powerpc m68k spc sparc arc aarch64 a m")
	archHints = []string{".arm", ".mips", ".mpsl", ".x86", ".sh4", ".ppc", ".m68k", ".spc", ".i686", ".i586", ".arc"}
)

func archBinary(l *line, _ int) string {
	for i := range l.commands {
		c := &l.commands[i]
		for _, r := range c.runs()[:1] {
			name := strings.ToLower(base(r))
			dot := strings.LastIndexByte(name, '.')
			if dot > 0 && arches[name[dot+1:]] && len(name[dot+1:]) > 1 && (loose(r) || strings.HasPrefix(r, "./") && l.fetchedBefore(i, r)) {
				return name
			}
		}
	}
	return ""
}

func (l *line) fetchedBefore(i int, file string) bool {
	for j := range i {
		if f := l.commands[j].fetched(); f != "" && sameFile(f, file) {
			return true
		}
	}
	return false
}

var scratch = setOf("/tmp /var/tmp /dev/shm /var/run /mnt /root / /run /var /dev /etc /home /var/lock /usr /data /data/local/tmp /dev/netslink /var/cache")

func botLoader(l *line, i int) string {
	// cd /tmp || cd /var/run || cd /mnt ...: whichever can be written.
	dirs := 0
	for j := range i {
		if c := &l.commands[j]; c.name == "cd" && len(c.words) > 1 && (scratch[c.words[1]] || scratch[strings.TrimSuffix(c.words[1], "/")]) {
			dirs++
		}
	}
	if dirs >= 3 {
		return l.commands[i].name
	}
	open := false
	for j := i + 1; j < len(l.commands); j++ {
		if c := &l.commands[j]; c.name == "chmod" && (c.has("777", "0777", "+x", "a+x") && strings.Contains(strings.Join(c.args(), " "), "*") || c.has("777", "0777")) {
			open = true
		}
	}
	erased := slices.ContainsFunc(l.commands, func(c command) bool { return c.name == "rm" && len(l.commands) > 2 })
	if open && erased && l.fetchRun(i) {
		return l.commands[i].name
	}
	return ""
}

// fetchRun reports whether something is executed after a download.
func (l *line) fetchRun(i int) bool {
	f := l.commands[i].fetched()
	if f != "" && l.laterRuns(i, f) {
		return true
	}
	return slices.ContainsFunc(l.commands[i+1:], func(c command) bool { return strings.HasPrefix(c.words[0], "./") || c.script() != "" })
}

func busyboxProbe(l *line, _ int) string {
	for i := range l.commands {
		c := &l.commands[i]
		if !slices.Contains(c.around, "busybox") || len(c.words) == 0 {
			continue
		}
		// No applet has capital letters: bots ask for one that is missing, to see that a shell answers.
		if w := c.words[0]; len(w) >= 4 && strings.ToUpper(w) == w && strings.Trim(w, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == "" && w != "MASKED" {
			return w
		}
	}
	return ""
}

var pipedToShell = regexp.MustCompile(`\|\s*(/bin/)?(ba|da|a)?sh\b`)

func scheduledDownload(l *line, i int) string {
	c := &l.commands[i]
	toCron := slices.ContainsFunc(l.commands[i+1:], func(o command) bool { return o.name == "crontab" && o.has("-") }) || slices.ContainsFunc(c.outputs, func(f string) bool { return strings.Contains(f, "/cron") }) || c.name == "crontab" && len(c.inputs) > 0
	if !toCron || c.name == "crontab" && len(c.inputs) == 0 {
		return ""
	}
	text := strings.Join(c.args(), " ") + strings.Join(c.inputs, " ")
	if (strings.Contains(text, "wget") || strings.Contains(text, "curl")) && pipedToShell.MatchString(text) {
		return c.name
	}
	return ""
}

var dataRoots = setOf("/ /* /home /home/ /home/* /var/www /var/www/ /var/www/* /var/www/html /var/www/html/ /var/www/html/* /srv /srv/* /srv/www /srv/www/* /srv/http /usr/share/nginx/html /usr/share/nginx/html/* /var/lib/mysql /var/lib/mysql/* /var/lib/postgresql /opt /opt/* /root /root/* /etc /etc/* /usr /usr/* /var /var/* /boot /boot/* /bin /lib /sbin /data /data/* ~ ~/ ~/* $HOME")

func rootsRemoved(l *line, i int) string {
	c := &l.commands[i]
	if !c.short('r') && !c.short('R') && !c.has("--recursive") || c.has("-i", "-I") {
		return ""
	}
	for _, o := range c.operands() {
		if dataRoots[o] {
			return o
		}
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

const attackTools = "nmap zmap masscan zgrab hydra medusa ncrack patator sqlmap nikto msfconsole msfvenom msfd msfrpcd ettercap bettercap responder aircrack-ng airodump-ng aireplay-ng reaver wifite arpspoof dnsspoof dsniff hping hping3 slowloris goldeneye gobuster dirb dirbuster ffuf wfuzz feroxbuster enum4linux enum4linux-ng crackmapexec cme netexec nxc linpeas linenum linux-exploit-suggester les pspy pspy32 pspy64 wpscan routersploit rsf unicornscan evil-winrm proxychains proxychains4 kerbrute smbmap onesixtyone snmpcheck ike-scan thc-ssl-dos xerxes t50 mdk3 mdk4 tcpscan zmapv6 rustscan naabu nuclei yersinia"

var (
	attackNames     = setOf(attackTools)
	credentialNames = setOf("mimipenguin lazagne pypykatz 3snake linikatz swap_digger unshadow ssh2john zip2john truffleproc mimikatz")
)

func toolScript(l *line, i int) string {
	if n := bare(l.commands[i].script()); attackNames[n] {
		return n
	}
	return ""
}

func credentialScript(l *line, i int) string {
	if n := bare(l.commands[i].script()); credentialNames[n] {
		return n
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

func downloadPiped(l *line, i int) string {
	c := &l.commands[i]
	if c.fetched() != "" {
		return ""
	}
	if shells[c.into] || c.into == "eval" || c.into == "." || c.into == "python" || c.into == "perl" {
		return c.source()
	}
	for _, next := range l.after(i) {
		if next.executes() {
			return c.source()
		}
	}
	return ""
}

// source is where a downloader gets it from, without what comes after the host's path.
func (c *command) source() string {
	for _, a := range c.addresses() {
		a, _, _ = strings.Cut(a, "?")
		return a
	}
	if ops := c.operands(); len(ops) > 0 {
		return ops[0]
	}
	return c.name
}

func downloadRun(l *line, i int) string {
	c := &l.commands[i]
	f := c.fetched()
	if f == "" {
		return ""
	}
	for j := i + 1; j < len(l.commands); j++ {
		o := &l.commands[j]
		for n, r := range o.runs() {
			if sameFile(r, f) && (n > 0 || strings.Contains(r, "/")) {
				return c.source()
			}
		}
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

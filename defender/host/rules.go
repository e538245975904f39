package host

import (
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

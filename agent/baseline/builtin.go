package baseline

import (
	"regexp"
	"strings"
)

// SelfTest is the check that fails while the file [SelfTestFile] stands in the directory for temporary files. With the prefix
// that recommendations have it is IoT_CISBenchmarks_DIoTTest (defender §1.5).
const (
	SelfTest     = "DIoTTest"
	SelfTestFile = "DefenderForIoTOSBaselineTrigger.txt"
)

// Our own baseline. Numbers are those of the CIS Distribution Independent Linux benchmark 2.0.0, so that results can be laid
// beside it; texts and checks are ours.
const (
	builtinID   = "Vauban.Linux.1"
	builtinOrig = "1"
)

// The severities, in the scanner's spelling.
const (
	critical      = "Critical"
	important     = "Important"
	warning       = "Warning"
	informational = "Informational"
)

// builtin is the baseline for a distribution: ids name it, as in CIS-debian-12-Filesystem-1.1.2.
func builtin(d distro, temp string) *Baseline {
	b := &Baseline{ID: builtinID, OrigID: builtinOrig}
	for _, g := range [][]Audit{filesystemAudits(), systemAudits(), serviceAudits(), networkAudits(), loggingAudits(), accessAudits(), accountAudits()} {
		b.Audits = append(b.Audits, g...)
	}
	for i := range b.Audits {
		a := &b.Audits[i]
		a.ID = "CIS-" + d.id + "-" + d.number + "-" + a.Group + "-" + a.Number
		a.RuleID = ruleID(a.Group + "-" + a.Number)
	}
	b.Audits = append(b.Audits, Audit{
		ID: SelfTest, Group: "SelfTest", Number: SelfTest, RuleID: ruleID(SelfTest), Severity: informational,
		Description: "No failure of the self test is asked for",
		Remediation: "Delete the file " + SelfTestFile + " in the directory for temporary files.",
		Checks:      []Check{{Command: "CheckNoSelfTest", Path: strings.TrimSuffix(temp, "/") + "/" + SelfTestFile}},
	})
	return b
}

func audit(group, number, severity, description, remediation string, checks ...Check) Audit {
	return Audit{Group: group, Number: number, Severity: severity, Description: description, Remediation: remediation, Checks: checks}
}

func (a Audit) when(kind, value string) Audit {
	a.Dependencies = append(a.Dependencies, Dependency{kind, value})
	return a
}

func sysctl(keysAndValue ...string) []Check {
	value := keysAndValue[len(keysAndValue)-1]
	var out []Check
	for _, k := range keysAndValue[:len(keysAndValue)-1] {
		out = append(out, Check{Command: "CheckSysctlOutput", Regex: "^" + regexp.QuoteMeta(k) + `\s*=\s*(` + value + `)\s*$`})
	}
	return out
}

func module(number, severity, name, what string) Audit {
	return audit("Filesystem", number, severity, "The filesystem "+name+" cannot be loaded",
		"Nothing on a device mounts "+what+": write `install "+name+" /bin/true` into a file of /etc/modprobe.d that ends in .conf, and unload the module.",
		Check{Command: "CheckModuleDisabled", Key: name})
}

func protocol(number, name string) Audit {
	return audit("Network", number, informational, "The protocol "+strings.ToUpper(name)+" cannot be loaded",
		"Write `install "+name+" /bin/true` into a file of /etc/modprobe.d that ends in .conf, unless the device speaks it.",
		Check{Command: "CheckModuleDisabled", Key: name})
}

func option(number, dir, opt, why string) Audit {
	return audit("Filesystem", number, warning, dir+" is mounted with "+opt,
		why+" Add "+opt+" to the options of "+dir+" in /etc/fstab, or in the mount unit, and mount it again.",
		Check{Command: "CheckMountOption", Path: dir, Value: opt})
}

func separate(number, dir, why string) Audit {
	return audit("Filesystem", number, informational, dir+" has a filesystem of its own", why+" Give "+dir+" a partition or volume of its own.",
		Check{Command: "CheckSeparateMount", Path: dir})
}

const (
	noDev  = "Device files there would reach around permissions."
	noSuid = "Programs there would run with the rights of their owner."
	noExec = "What an attacker drops there could be run."
)

func filesystemAudits() []Audit {
	return []Audit{
		module("1.1.1.1", informational, "cramfs", "cramfs"),
		module("1.1.1.2", informational, "freevxfs", "freevxfs"),
		module("1.1.1.3", informational, "jffs2", "jffs2 but from raw flash").when("FileNotExists", "/dev/mtd0"),
		module("1.1.1.4", informational, "hfs", "disks of old Macs"),
		module("1.1.1.5", informational, "hfsplus", "disks of Macs"),
		module("1.1.1.7", informational, "udf", "DVDs"),
		audit("Filesystem", "1.1.2", warning, "/tmp has a filesystem of its own",
			"Who fills /tmp must not fill the system. Mount a tmpfs of limited size at /tmp (systemctl enable tmp.mount).", Check{Command: "CheckSeparateMount", Path: "/tmp"}),
		option("1.1.3", "/tmp", "nodev", noDev),
		option("1.1.4", "/tmp", "nosuid", noSuid),
		option("1.1.5", "/tmp", "noexec", noExec),
		separate("1.1.6", "/var", "Data that grows must not fill the system."),
		option("1.1.8", "/var/tmp", "nodev", noDev),
		option("1.1.9", "/var/tmp", "nosuid", noSuid),
		option("1.1.10", "/var/tmp", "noexec", noExec),
		separate("1.1.11", "/var/log", "Logs must not fill the system, nor the system keep logs from being written."),
		option("1.1.14", "/home", "nodev", noDev),
		option("1.1.15", "/dev/shm", "nodev", noDev),
		option("1.1.16", "/dev/shm", "nosuid", noSuid),
		option("1.1.17", "/dev/shm", "noexec", noExec),
		audit("Filesystem", "1.1.21", important, "Directories that everybody may write to have the sticky bit",
			"Without it anybody can delete or replace the files of others there: chmod a+t DIRECTORY.", Check{Command: "CheckStickyBit"}),
		audit("Filesystem", "1.1.22", warning, "Media are not mounted by themselves", "Disable autofs: systemctl disable --now autofs.",
			Check{Command: "CheckServiceDisabled", Service: "autofs"}),
		audit("Filesystem", "1.1.23", warning, "USB storage cannot be used",
			"A stick carries data out and programs in. Write `install usb-storage /bin/true` into a file of /etc/modprobe.d that ends in .conf, unless the device needs sticks.",
			Check{Command: "CheckModuleDisabled", Key: "usb-storage"}),
	}
}

func file(command, path, group, mode string) Check {
	return Check{Command: command, Path: path, Owner: "root", Group: group, Mode: mode, AllowStricter: "true"}
}

func systemAudits() []Audit {
	banner := func(number, path, when string) Audit {
		return audit("Banners", number, informational, "What is shown "+when+" tells no version",
			"Versions help who looks for holes. Take \\m, \\r, \\s and \\v out of "+path+".",
			Check{Command: "CheckNoMatchingLinesIfExists", Path: path, Regex: `\\[mrsv]`})
	}
	return []Audit{
		audit("Integrity", "1.3.1", informational, "Changes of system files are noticed", "Install AIDE and make its database, unless the root filesystem is read-only and verified.",
			Check{Command: "CheckPackageInstalledRegexp", Package: `^(aide|aide-common|tripwire|samhain|ossec-hids-agent)$`}),
		audit("Boot", "1.4.1", important, "The configuration of the boot loader belongs to root alone",
			"chown root:root and chmod og-rwx the files of GRUB's configuration.",
			file("CheckFileStatsIfExists", "/boot/grub/grub.cfg", "root", "600"), file("CheckFileStatsIfExists", "/boot/grub2/grub.cfg", "root", "600"),
			file("CheckFileStatsIfExists", "/boot/grub2/user.cfg", "root", "600")),
		audit("Boot", "1.4.3", important, "Rescue mode asks for root's password", "Give root a password, or lock it with `passwd -l root`, so that rescue mode lets nobody in.",
			Check{Command: "CheckNoMatchingLines", Path: "/etc/shadow", Regex: `^root::`}),
		audit("Process", "1.5.1", warning, "Programs with extra rights leave no core files", "A core file holds secrets of its program. Set fs.suid_dumpable=0 in /etc/sysctl.d.",
			sysctl("fs.suid_dumpable", "0")...),
		audit("Process", "1.5.2", important, "Data cannot be executed", "Enable NX (XD) in the firmware, and take noexec=off from the kernel's command line.", Check{Command: "CheckNoNXProblem"}),
		audit("Process", "1.5.3", important, "Addresses of programs are random", "Set kernel.randomize_va_space=2 in /etc/sysctl.d.", sysctl("kernel.randomize_va_space", "2")...),
		audit("Process", "1.5.4", informational, "Prelink is not installed", "It undoes random addresses: restore binaries with `prelink -ua` and remove the package.",
			Check{Command: "CheckPackageNotInstalled", Package: "prelink"}),
		audit("Process", "1.5.5", warning, "Addresses of the kernel are hidden", "Set kernel.kptr_restrict=1 or 2 in /etc/sysctl.d.", sysctl("kernel.kptr_restrict", "1|2")...),
		audit("Process", "1.5.6", warning, "The kernel's log is for root", "Set kernel.dmesg_restrict=1 in /etc/sysctl.d.", sysctl("kernel.dmesg_restrict", "1")...),
		audit("Process", "1.5.7", warning, "Links in shared directories cannot mislead", "Set fs.protected_symlinks=1 and fs.protected_hardlinks=1 in /etc/sysctl.d.",
			sysctl("fs.protected_symlinks", "fs.protected_hardlinks", "1")...),
		audit("AccessControl", "1.6.1", informational, "AppArmor or SELinux is installed", "Install AppArmor or SELinux, so that a program which is taken over reaches only what it needs.",
			Check{Command: "CheckPackageInstalledRegexp", Package: `^(apparmor|libselinux|selinux-basics|selinux-policy.*)$`}),
		banner("1.7.1.1", "/etc/motd", "after signing in"),
		banner("1.7.1.2", "/etc/issue", "on the console"),
		banner("1.7.1.3", "/etc/issue.net", "to who connects"),
		audit("Banners", "1.7.1.4", informational, "/etc/motd belongs to root", "chown root:root /etc/motd; chmod 644 /etc/motd.", file("CheckFileStatsIfExists", "/etc/motd", "root", "644")),
		audit("Banners", "1.7.1.5", informational, "/etc/issue belongs to root", "chown root:root /etc/issue; chmod 644 /etc/issue.", file("CheckFileStatsIfExists", "/etc/issue", "root", "644")),
		audit("Banners", "1.7.1.6", informational, "/etc/issue.net belongs to root", "chown root:root /etc/issue.net; chmod 644 /etc/issue.net.",
			file("CheckFileStatsIfExists", "/etc/issue.net", "root", "644")),
	}
}

func serviceAudits() []Audit {
	off := func(number, severity, what string, services ...string) Audit {
		a := audit("Services", number, severity, what+" is not started at boot",
			"Disable it unless the device is there to do this: systemctl disable --now "+strings.Join(services, " ")+".")
		for _, s := range services {
			a.Checks = append(a.Checks, Check{Command: "CheckServiceDisabled", Service: s})
		}
		return a
	}
	inetd := func(number, name string) Audit {
		return audit("Services", number, warning, "inetd does not offer "+name, "Take the line of "+name+" out of /etc/inetd.conf.",
			Check{Command: "CheckNoMatchingLinesIfExists", Path: "/etc/inetd.conf", Regex: `^\s*` + name + `\s`})
	}
	absent := func(number, severity, what, pattern string) Audit {
		return audit("Services", number, severity, what+" is not installed", "Remove the package; it sends what it sends in the clear, or is not needed on a device.",
			Check{Command: "CheckPackageNotInstalledRegexp", Package: "^(" + pattern + ")$"})
	}
	telnet := audit("Services", "2.1.8", critical, "There is no Telnet server", "It takes passwords in the clear, and is what worms try first. Remove it and use SSH.",
		Check{Command: "CheckPackageNotInstalledRegexp", Package: `^(inetutils-|krb5-)?telnet(d|d-ssl|-server)$`},
		Check{Command: "CheckServiceDisabled", Service: "telnet.socket"}, Check{Command: "CheckServiceDisabled", Service: "telnetd"},
		Check{Command: "CheckNoMatchingLinesIfExists", Path: "/etc/inetd.conf", Regex: `^\s*telnet\s`},
		Check{Command: "CheckNoExposedService", Value: "23"})
	return []Audit{
		inetd("2.1.1", "chargen"),
		inetd("2.1.2", "daytime"),
		inetd("2.1.3", "discard"),
		inetd("2.1.4", "echo"),
		inetd("2.1.5", "time"),
		audit("Services", "2.1.6", critical, "There is no rsh server", "It believes whoever says who he is. Remove it and use SSH.",
			Check{Command: "CheckPackageNotInstalledRegexp", Package: `^(inetutils-)?rsh(-redone)?-server$`},
			Check{Command: "CheckNoMatchingLinesIfExists", Path: "/etc/inetd.conf", Regex: `^\s*(shell|login|exec)\s`}),
		audit("Services", "2.1.7", warning, "There is no talk server", "Remove it.", Check{Command: "CheckPackageNotInstalledRegexp", Package: `^((inetutils-)?talkd|talk-server)$`}),
		telnet,
		audit("Services", "2.1.9", important, "There is no TFTP server", "It asks nobody for a password. Remove it, unless devices boot from this one.",
			Check{Command: "CheckPackageNotInstalledRegexp", Package: `^(tftpd(-hpa)?|atftpd|tftp-server)$`},
			Check{Command: "CheckNoMatchingLinesIfExists", Path: "/etc/inetd.conf", Regex: `^\s*tftp\s`}),
		off("2.1.10", warning, "xinetd", "xinetd"),
		audit("Services", "2.2.1.1", important, "The clock is set over the network", "Certificates and logs need the right time. Install chrony or enable systemd-timesyncd.",
			Check{Command: "CheckPackageInstalledRegexp", Package: `^(chrony|ntp|ntpsec|openntpd|systemd-timesyncd)$`}),
		absent("2.2.2", informational, "A display server", `xserver-xorg(-core)?|xorg-x11-server-Xorg|xorg-server`),
		off("2.2.3", warning, "Avahi", "avahi-daemon", "avahi-daemon.socket"),
		off("2.2.4", warning, "The print server", "cups", "cups.socket"),
		off("2.2.5", warning, "The DHCP server", "isc-dhcp-server", "dhcpd", "kea-dhcp4-server"),
		off("2.2.6", warning, "The LDAP server", "slapd"),
		off("2.2.7", warning, "NFS", "nfs-server", "rpcbind", "rpcbind.socket"),
		off("2.2.8", warning, "The DNS server", "bind9", "named"),
		off("2.2.9", important, "The FTP server", "vsftpd", "proftpd", "pure-ftpd"),
		off("2.2.10", informational, "A web server", "apache2", "httpd", "lighttpd"),
		off("2.2.11", warning, "The IMAP server", "dovecot"),
		off("2.2.12", warning, "Samba", "smb", "smbd", "samba"),
		off("2.2.13", warning, "The HTTP proxy", "squid"),
		off("2.2.14", warning, "The SNMP agent", "snmpd"),
		audit("Services", "2.2.15", warning, "Mail is taken from this machine only", "Bind the mail server to the loopback interface (inet_interfaces = loopback-only in Postfix).",
			Check{Command: "CheckNoExposedService", Value: "25"}),
		off("2.2.16", warning, "The rsync server", "rsync", "rsyncd"),
		off("2.2.17", important, "The NIS server", "ypserv", "nis"),
		absent("2.3.1", warning, "The NIS client", `nis|ypbind|yp-tools`),
		absent("2.3.2", warning, "The rsh client", `rsh-client|rsh-redone-client|rsh`),
		absent("2.3.3", informational, "The talk client", `talk|inetutils-talk`),
		absent("2.3.4", informational, "The Telnet client", `telnet|inetutils-telnet`),
		absent("2.3.5", informational, "The LDAP client", `ldap-utils|openldap-clients`),
	}
}

func networkAudits() []Audit {
	v4 := func(number, severity, description, remediation string, keys ...string) Audit {
		return audit("Network", number, severity, description, remediation, sysctl(keys...)...)
	}
	v6 := func(number, severity, description, remediation string, keys ...string) Audit {
		return v4(number, severity, description, remediation, keys...).when("FileExists", "/proc/sys/net/ipv6/conf/all")
	}
	policy := func(number, chain string) Audit {
		return audit("Network", number, important, "What no rule of "+chain+" lets through is dropped",
			"Let in what the device needs, then: iptables -P "+chain+" DROP, or policy drop in nftables.",
			Check{Command: "CheckIptablesStatus", Regex: `^Chain ` + chain + ` \(policy (DROP|REJECT)`})
	}
	const set = " in /etc/sysctl.d, and run `sysctl --system`."
	return []Audit{
		v4("3.1.1", important, "The device forwards no packets of IPv4", "Set net.ipv4.ip_forward=0"+set+" Gateways and hosts of containers forward.", "net.ipv4.ip_forward", "0"),
		v6("3.1.1.6", important, "The device forwards no packets of IPv6", "Set net.ipv6.conf.all.forwarding=0"+set, "net.ipv6.conf.all.forwarding", "0"),
		v4("3.1.2", warning, "The device sends no redirects", "Set net.ipv4.conf.all.send_redirects=0 and the same for default"+set,
			"net.ipv4.conf.all.send_redirects", "net.ipv4.conf.default.send_redirects", "0"),
		v4("3.2.1", important, "Senders cannot choose the way of packets of IPv4", "Set net.ipv4.conf.all.accept_source_route=0 and the same for default"+set,
			"net.ipv4.conf.all.accept_source_route", "net.ipv4.conf.default.accept_source_route", "0"),
		v6("3.2.1.6", important, "Senders cannot choose the way of packets of IPv6", "Set net.ipv6.conf.all.accept_source_route=0 and the same for default"+set,
			"net.ipv6.conf.all.accept_source_route", "net.ipv6.conf.default.accept_source_route", "0|-1"),
		v4("3.2.2", important, "Redirects of IPv4 are not believed", "Set net.ipv4.conf.all.accept_redirects=0 and the same for default"+set,
			"net.ipv4.conf.all.accept_redirects", "net.ipv4.conf.default.accept_redirects", "0"),
		v6("3.2.2.6", important, "Redirects of IPv6 are not believed", "Set net.ipv6.conf.all.accept_redirects=0 and the same for default"+set,
			"net.ipv6.conf.all.accept_redirects", "net.ipv6.conf.default.accept_redirects", "0"),
		v4("3.2.3", warning, "Redirects of gateways are not believed", "Set net.ipv4.conf.all.secure_redirects=0 and the same for default"+set,
			"net.ipv4.conf.all.secure_redirects", "net.ipv4.conf.default.secure_redirects", "0"),
		v4("3.2.4", warning, "Impossible addresses are logged", "Set net.ipv4.conf.all.log_martians=1 and the same for default"+set,
			"net.ipv4.conf.all.log_martians", "net.ipv4.conf.default.log_martians", "1"),
		v4("3.2.5", warning, "Pings to everybody are not answered", "Set net.ipv4.icmp_echo_ignore_broadcasts=1"+set, "net.ipv4.icmp_echo_ignore_broadcasts", "1"),
		v4("3.2.6", informational, "Bogus ICMP errors do not fill the log", "Set net.ipv4.icmp_ignore_bogus_error_responses=1"+set, "net.ipv4.icmp_ignore_bogus_error_responses", "1"),
		v4("3.2.7", important, "Packets must come from where answers would go", "Set net.ipv4.conf.all.rp_filter=1 and the same for default"+set+" 2 suits devices with several ways out.",
			"net.ipv4.conf.all.rp_filter", "net.ipv4.conf.default.rp_filter", "1|2"),
		v4("3.2.8", important, "A flood of SYN packets does not fill the queue", "Set net.ipv4.tcp_syncookies=1"+set, "net.ipv4.tcp_syncookies", "1|2"),
		v6("3.2.9", warning, "Router advertisements are not believed", "Set net.ipv6.conf.all.accept_ra=0 and the same for default"+set+" A device that gets its address so needs it.",
			"net.ipv6.conf.all.accept_ra", "net.ipv6.conf.default.accept_ra", "0"),
		protocol("3.4.1", "dccp"),
		protocol("3.4.2", "sctp"),
		protocol("3.4.3", "rds"),
		protocol("3.4.4", "tipc"),
		policy("3.5.2.1", "INPUT"),
		policy("3.5.2.1.1", "FORWARD"),
		audit("Network", "3.6", informational, "There is no wireless interface", "Take the driver out, or `rfkill block wifi`, unless the device needs it.", Check{Command: "CheckNoWirelessInterfaces"}),
		audit("Network", "3.8", important, "No interface listens to what is for others", "Find the program that captures packets; `ip link set IFACE promisc off`. Bridges do so by design.",
			Check{Command: "CheckNoPromiscInterfaces"}),
	}
}

func loggingAudits() []Audit {
	watch := func(number, what, regex string) Audit {
		return audit("Logging", number, informational, what, "Add the rule to a file of /etc/audit/rules.d and load it with `augenrules --load`.",
			Check{Command: "CheckMatchingLinesInAuditDRules", Regex: regex}).when("PackageInstalled", "audit|auditd")
	}
	return []Audit{
		audit("Logging", "4.1.1.1", informational, "auditd is installed", "Install auditd, so that it can be told afterwards who did what.",
			Check{Command: "CheckPackageInstalledRegexp", Package: `^(audit|auditd)$`}),
		audit("Logging", "4.1.1.2", warning, "auditd starts at boot", "systemctl enable --now auditd.",
			Check{Command: "CheckServiceEnabled", Service: "auditd"}).when("PackageInstalled", "audit|auditd"),
		audit("Logging", "4.1.2.2", informational, "Audit logs are kept", "Set max_log_file_action = keep_logs in /etc/audit/auditd.conf, if there is room.",
			Check{Command: "CheckMatchingLines", Path: "/etc/audit/auditd.conf", Regex: `(?i)^\s*max_log_file_action\s*=\s*keep_logs`}).when("FileExists", "/etc/audit/auditd.conf"),
		watch("4.1.3", "Changes of the time are audited", `-k\s+time-change|-S\s+\S*(adjtimex|settimeofday|clock_settime)`),
		watch("4.1.4", "Changes of users and groups are audited", `^-w\s+/etc/passwd\s|-F\s+path=/etc/passwd\s`),
		watch("4.1.7", "Logins are audited", `^-w\s+/var/(log/lastlog|run/faillock)|-F\s+path=/var/log/lastlog`),
		watch("4.1.14", "Changes of sudo's rules are audited", `^-w\s+/etc/sudoers(\.d/?)?\s|-F\s+path=/etc/sudoers\s`),
		audit("Logging", "4.2.1.2", warning, "rsyslog starts at boot", "systemctl enable --now rsyslog.",
			Check{Command: "CheckServiceEnabled", Service: "rsyslog"}).when("PackageInstalled", "rsyslog"),
		audit("Logging", "4.2.1.4", warning, "rsyslog makes files that others cannot read", "Set $FileCreateMode 0640 in /etc/rsyslog.conf.",
			Check{Command: "CheckMatchingLines", Path: "/etc/rsyslog.conf", Regex: `(?i)^\s*\$FileCreateMode\s+0?[0-6][04]0\b`}).when("FileExists", "/etc/rsyslog.conf"),
		audit("Logging", "4.2.1.6", important, "rsyslog takes no logs from the network", "Take imudp and imtcp out of /etc/rsyslog.conf, unless this is the log server.",
			Check{Command: "CheckNoMatchingLinesIfExists", Path: "/etc/rsyslog.conf", Regex: `(?i)^\s*(\$ModLoad\s+im(udp|tcp)|module\(load="im(udp|tcp)")`}),
		audit("Logging", "4.2.2.3", warning, "journald keeps logs on the disk", "Set Storage=persistent in /etc/systemd/journald.conf, or let rsyslog keep them.",
			Check{Command: "CheckMatchingLines", Path: "/etc/systemd/journald.conf", Regex: `^\s*Storage\s*=\s*(persistent|auto)\s*$`}).when("FileExists", "/etc/systemd/journald.conf").
			when("PackageNotInstalled", "rsyslog|syslog-ng(-core)?"),
		audit("Logging", "4.3", informational, "Logs of files are rotated", "Install logrotate, unless all logs are journald's.",
			Check{Command: "CheckFileExists", Path: "/etc/logrotate.conf"}).when("PackageInstalled", "rsyslog|syslog-ng(-core)?"),
	}
}

func ssh(number, severity, description, remediation, want string) Audit {
	return audit("SSH", number, severity, description, remediation+" in /etc/ssh/sshd_config, and reload sshd.",
		Check{Command: "CheckMatchingConfigValue", Exec: "sshcheck", Regex: "(?i)^" + want})
}

func sshNot(number, severity, description, remediation, unwanted string) Audit {
	return audit("SSH", number, severity, description, remediation+" in /etc/ssh/sshd_config, and reload sshd.",
		Check{Command: "CheckNoMatchingConfigValue", Exec: "sshcheck", Regex: "(?i)^" + unwanted})
}

func accessAudits() []Audit {
	cron := func(number, path string) Audit {
		mode := "700"
		if path == "/etc/crontab" {
			mode = "600"
		}
		return audit("Cron", number, warning, path+" is for root alone", "What stands there runs as root: chown root:root "+path+"; chmod "+mode+" "+path+".",
			file("CheckFileStatsIfExists", path, "root", mode))
	}
	key := func(suffix, mode string) []Check {
		var out []Check
		for _, k := range []string{"rsa", "ecdsa", "ed25519"} {
			c := file("CheckFileStatsIfExists", "/etc/ssh/ssh_host_"+k+"_key"+suffix, "root", mode)
			c.Group = "root,ssh_keys"
			out = append(out, c)
		}
		return out
	}
	defs := func(number, severity, description, name, regex, want string) Audit {
		return audit("Accounts", number, severity, description, "Set "+name+" "+want+" in /etc/login.defs.",
			Check{Command: "CheckMatchingLines", Path: "/etc/login.defs", Regex: `^\s*` + name + `\s+(` + regex + `)\s*$`}).when("FileExists", "/etc/login.defs")
	}
	return []Audit{
		cron("5.1.2", "/etc/crontab"),
		cron("5.1.3", "/etc/cron.hourly"),
		cron("5.1.4", "/etc/cron.daily"),
		cron("5.1.5", "/etc/cron.weekly"),
		cron("5.1.6", "/etc/cron.monthly"),
		cron("5.1.7", "/etc/cron.d"),
		audit("Cron", "5.1.8", warning, "Only those who need it may use cron", "Delete /etc/cron.deny and name the users in /etc/cron.allow.",
			Check{Command: "CheckFileNotExists", Path: "/etc/cron.deny"}, Check{Command: "CheckFileExists", Path: "/etc/cron.allow"}).when("PackageInstalled", "cron|cronie"),
		audit("SSH", "5.2.1", important, "sshd_config belongs to root alone", "chown root:root /etc/ssh/sshd_config; chmod og-rwx /etc/ssh/sshd_config.",
			file("CheckFileStatsIfExists", "/etc/ssh/sshd_config", "root", "600")),
		audit("SSH", "5.2.2", critical, "The server's private keys belong to root alone", "chown root:root /etc/ssh/ssh_host_*_key; chmod 600 /etc/ssh/ssh_host_*_key.", key("", "640")...),
		audit("SSH", "5.2.3", warning, "The server's public keys can be changed by root alone", "chmod 644 /etc/ssh/ssh_host_*_key.pub.", key(".pub", "644")...),
		sshNot("5.2.4", critical, "SSH speaks version 2 only", "Take `Protocol 1` out", `protocol\s+.*1`),
		ssh("5.2.5", informational, "SSH logs who signs in", "Set LogLevel INFO or VERBOSE", `loglevel\s+(info|verbose)\s*$`),
		ssh("5.2.6", warning, "SSH forwards no displays", "Set X11Forwarding no", `x11forwarding\s+no\s*$`),
		ssh("5.2.7", warning, "SSH ends connections after few wrong passwords", "Set MaxAuthTries 4", `maxauthtries\s+[1-4]\s*$`),
		ssh("5.2.8", important, "SSH does not believe .rhosts", "Set IgnoreRhosts yes", `ignorerhosts\s+yes\s*$`),
		ssh("5.2.9", important, "SSH does not believe hosts", "Set HostbasedAuthentication no", `hostbasedauthentication\s+no\s*$`),
		ssh("5.2.10", critical, "Root does not sign in by SSH with a password", "Set PermitRootLogin no, or prohibit-password", `permitrootlogin\s+(no|prohibit-password|without-password|forced-commands-only)\s*$`),
		ssh("5.2.11", critical, "SSH takes no empty passwords", "Set PermitEmptyPasswords no", `permitemptypasswords\s+no\s*$`),
		ssh("5.2.12", warning, "Users of SSH set no environment", "Set PermitUserEnvironment no", `permituserenvironment\s+no\s*$`),
		sshNot("5.2.13", important, "SSH uses no weak ciphers", "Name only AES-GCM, AES-CTR and ChaCha20 in Ciphers", `ciphers\s.*\b(3des|arcfour|blowfish|cast128|aes(128|192|256)-cbc|rijndael)`),
		sshNot("5.2.14", important, "SSH uses no weak MACs", "Take MD5, 96-bit MACs and umac-64 out of MACs", `macs\s.*(hmac-md5|hmac-ripemd160|hmac-sha1-96)`),
		sshNot("5.2.15", important, "SSH uses no weak key exchange", "Take groups of SHA-1 out of KexAlgorithms", `kexalgorithms\s.*diffie-hellman-(group1|group14|group-exchange)-sha1\b`),
		ssh("5.2.16", informational, "SSH ends connections that are silent", "Set ClientAliveInterval 300, and ClientAliveCountMax 3", `clientaliveinterval\s+([1-9]|[1-9][0-9]|[12][0-9][0-9]|300)\s*$`),
		ssh("5.2.17", warning, "SSH waits for a password at most a minute", "Set LoginGraceTime 60", `logingracetime\s+([1-9]|[1-5][0-9]|60)s?\s*$`),
		ssh("5.2.19", informational, "SSH shows a warning before it asks", "Set Banner /etc/issue.net", `banner\s+/`),
		ssh("5.2.20", warning, "SSH signs in by PAM", "Set UsePAM yes", `usepam\s+yes\s*$`),
		ssh("5.2.21", informational, "SSH forwards no ports", "Set AllowTcpForwarding no", `allowtcpforwarding\s+no\s*$`),
		ssh("5.2.22", informational, "SSH bounds who waits to sign in", "Set MaxStartups 10:30:60", `maxstartups\s+([1-9]|10):([3-9][0-9]|100):([1-9]|[1-5][0-9]|60)\s*$`),
		audit("PAM", "5.3.1", important, "New passwords must be good", "Install libpam-pwquality, and set minlen = 14 and minclass = 4 in /etc/security/pwquality.conf.",
			Check{Command: "CheckPwQuality", Path: "/etc/security/pwquality.conf"}).when("FileExists", "/etc/pam.d"),
		audit("PAM", "5.3.2", important, "Wrong passwords lock an account for a while", "Add pam_faillock.so to the files of authentication in /etc/pam.d; deny and unlock_time go into /etc/security/faillock.conf.",
			Check{Command: "CheckMatchingLinesInFiles", Path: "/etc/pam.d/common-auth|/etc/pam.d/system-auth|/etc/pam.d/password-auth", Regex: `^\s*auth\s.*pam_(faillock|tally2)\.so`}).when("FileExists", "/etc/pam.d"),
		audit("PAM", "5.3.3", informational, "Old passwords are not used again", "Add remember=5 to pam_pwhistory.so or pam_unix.so in the files of passwords in /etc/pam.d.",
			Check{Command: "CheckMatchingLinesInFiles", Path: "/etc/pam.d/common-password|/etc/pam.d/system-auth|/etc/pam.d/password-auth", Regex: `^\s*password\s.*pam_(pwhistory|unix)\.so.*\bremember=([5-9]|[1-9][0-9]+)\b`}).when("FileExists", "/etc/pam.d"),
		audit("PAM", "5.3.4", important, "Passwords are kept as slow hashes", "Give pam_unix.so the option yescrypt or sha512 in the files of passwords in /etc/pam.d.",
			Check{Command: "CheckMatchingLinesInFiles", Path: "/etc/pam.d/common-password|/etc/pam.d/system-auth|/etc/pam.d/base-password", Filter: `^\s*password\s.*pam_unix\.so`, Regex: `\b(sha512|yescrypt|gost_yescrypt|blowfish)\b`}).when("FileExists", "/etc/pam.d"),
		defs("5.4.1.1", informational, "Passwords end after a year", "PASS_MAX_DAYS", `[1-9]|[1-9][0-9]|[12][0-9][0-9]|3[0-5][0-9]|36[0-5]`, "365"),
		defs("5.4.1.2", informational, "Passwords are not changed back at once", "PASS_MIN_DAYS", `[1-9][0-9]*`, "1"),
		defs("5.4.1.3", informational, "Users are told a week before their password ends", "PASS_WARN_AGE", `[7-9]|[1-9][0-9]+`, "7"),
		audit("Accounts", "5.4.1.5", warning, "No password was changed in the future", "Look at the clock, and at who wrote /etc/shadow.",
			Check{Command: "CheckShadowDate", Path: "/etc/shadow", Key: "2", Expect: "before", Value: "now"}),
		audit("Accounts", "5.4.2", important, "Accounts of services let nobody in", "usermod -s /usr/sbin/nologin ACCOUNT.", Check{Command: "CheckSystemAccounts"}),
		audit("Accounts", "5.4.3", important, "Root's group is 0", "usermod -g 0 root.", Check{Command: "CheckMatchingLines", Path: "/etc/passwd", Regex: `^root:[^:]*:0:0:`}),
		defs("5.4.4", warning, "Files of users cannot be read by everybody", "UMASK", `0?[0-7][2-7]7`, "027"),
		audit("Accounts", "5.6", informational, "Not everybody may become root with su", "Add `auth required pam_wheel.so use_uid` to /etc/pam.d/su.",
			Check{Command: "CheckMatchingLines", Path: "/etc/pam.d/su", Regex: `^\s*auth\s+(required|requisite)\s+pam_wheel\.so`}).when("FileExists", "/etc/pam.d/su"),
	}
}

func accountAudits() []Audit {
	perm := func(number, severity, path, group, mode string) Audit {
		command := "CheckFileStatsIfExists"
		if path == "/etc/passwd" || path == "/etc/group" {
			command = "CheckFileStats"
		}
		return audit("FilePermissions", number, severity, path+" can be changed by root alone", "chown root:root "+path+"; chmod "+mode+" "+path+" or less.",
			file(command, path, group, mode))
	}
	legacy := func(number, path string) Audit {
		return audit("Users", number, important, path+" takes no entries from elsewhere", "Delete lines that begin with + in "+path+".",
			Check{Command: "CheckNoMatchingLinesIfExists", Path: path, Regex: `^\+`})
	}
	twice := func(number, what, path, column string) Audit {
		return audit("Users", number, important, "No two "+what+" are the same", "Give one of them another, and its files with it.",
			Check{Command: "CheckNoDuplicateAccounts", Path: path, Variable: column})
	}
	none := func(number, severity, name, why string) Audit {
		return audit("Users", number, severity, "Nobody has a file "+name, why+" Delete it.", Check{Command: "CheckUserDirs", Expect: "FileNotExists", Path: name})
	}
	return []Audit{
		perm("6.1.2", critical, "/etc/passwd", "root", "644"),
		perm("6.1.3", critical, "/etc/shadow", "root,shadow", "640"),
		perm("6.1.4", critical, "/etc/group", "root", "644"),
		perm("6.1.5", important, "/etc/gshadow", "root,shadow", "640"),
		perm("6.1.6", important, "/etc/passwd-", "root", "644"),
		perm("6.1.7", important, "/etc/shadow-", "root,shadow", "640"),
		perm("6.1.8", important, "/etc/group-", "root", "644"),
		perm("6.1.9", important, "/etc/gshadow-", "root,shadow", "640"),
		audit("FilePermissions", "6.1.10", important, "No file can be changed by everybody", "chmod o-w FILE.", Check{Command: "CheckNoWorldWritable"}),
		audit("FilePermissions", "6.1.11", warning, "Every file belongs to a known user and group", "Give it to one: chown. The next account with that number would own it.", Check{Command: "CheckNoUnowned"}),
		audit("Users", "6.2.1", critical, "Every account has a password or is locked", "passwd -l ACCOUNT, or give it a password.",
			Check{Command: "CheckNoMatchingLines", Path: "/etc/shadow", Regex: `^[^:]+::`}),
		legacy("6.2.2", "/etc/passwd"),
		legacy("6.2.3", "/etc/shadow"),
		legacy("6.2.4", "/etc/group"),
		audit("Users", "6.2.5", critical, "Root alone has user id 0", "Give the other account a number of its own, or delete it.", Check{Command: "CheckRootUID", Path: "/etc/passwd"}),
		audit("Users", "6.2.6", important, "Root's PATH has no current directory", "Take `.` and empty parts out of PATH: a program there would run as root.",
			Check{Command: "CheckNotMatchEnvVariable", User: "root", Variable: "PATH", Regex: `^:|::|:$|(^|:)\.{1,2}(:|$)`}),
		audit("Users", "6.2.7", warning, "People's homes are there", "Make the directory, or lock the account.", Check{Command: "CheckUserDirs", Expect: "exists"}),
		audit("Users", "6.2.8", warning, "Others cannot look into homes", "chmod 750 HOME.", Check{Command: "CheckHomeDirectoryPermissions"}),
		audit("Users", "6.2.9", important, "Homes belong to their users", "chown USER HOME.", Check{Command: "CheckUserDirs", Expect: "owner"}),
		audit("Users", "6.2.10", warning, "Others cannot change what configures a session", "chmod go-w FILE.", Check{Command: "CheckUserDirs", Expect: "FileMatchPerm", Regex: `^\.\S+`, ModeMask: "755"}),
		none("6.2.11", informational, ".forward", "It sends mail away."),
		none("6.2.12", important, ".netrc", "It holds passwords in the clear."),
		none("6.2.14", critical, ".rhosts", "It lets others in without a password."),
		audit("Users", "6.2.15", warning, "Every user's group is known", "Add the group to /etc/group.", Check{Command: "CheckGroupValidity"}),
		twice("6.2.16", "user ids", "/etc/passwd", "2"),
		twice("6.2.17", "group ids", "/etc/group", "2"),
		twice("6.2.18", "names of users", "/etc/passwd", "0"),
		twice("6.2.19", "names of groups", "/etc/group", "0"),
		audit("Users", "6.2.20", important, "Nobody is in the group shadow", "It may read password hashes: take its members out of /etc/group.",
			Check{Command: "CheckNoMatchingLines", Path: "/etc/group", Regex: `^shadow:[^:]*:[^:]*:[^:]`}),
	}
}

//go:build linux

package baseline

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// device makes a tree of files: contents by path. A path that ends in / is a directory; contents that begin with "-> " are a
// link, with "pipe" a named pipe, and with "0640 " and the like a file of that mode.
func device(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for p, content := range files {
		at := filepath.Join(root, p)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		mode := os.FileMode(0o644)
		if head, rest, ok := strings.Cut(content, " "); ok && len(head) == 4 {
			if n, perr := strconv.ParseUint(head, 8, 12); perr == nil {
				mode, content = os.FileMode(n), rest
			}
		}
		switch to, link := strings.CutPrefix(content, "-> "); {
		case strings.HasSuffix(p, "/"):
			err = os.MkdirAll(at, 0o755)
			if mode != 0o644 {
				err = os.Chmod(at, mode)
			}
		case link:
			err = os.Symlink(to, at)
		case content == "pipe":
			err = syscall.Mkfifo(at, 0o644)
		default:
			// A program cannot be run while a process that another test forks still has it open for writing.
			syscall.ForkLock.RLock()
			if err = os.WriteFile(at, []byte(content), mode); err == nil {
				err = os.Chmod(at, mode) // whatever the umask
			}
			syscall.ForkLock.RUnlock()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// me is the line of passwd and group by which files of this test belong to root of the device.
func me() string { return "me:x:" + strconv.Itoa(os.Getuid()) + ":" + strconv.Itoa(os.Getgid()) }

func machineOf(t *testing.T, cfg Config) *machine {
	t.Helper()
	tr, err := openTree(cfg.Root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tr.close)
	return newMachine(t.Context(), tr, &cfg)
}

func TestCommands(t *testing.T) {
	t.Parallel()
	huge := strings.Repeat("x", maxLine+1)
	passwd := "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/bash\ndaemon:x:1:1::/:/usr/sbin/nologin\n"
	group := "root:x:0:\nann:x:1000:\ndaemon:x:1:\n"
	dpkg := "Package: bash\nStatus: install ok installed\n\nPackage: telnetd\nStatus: deinstall ok config-files\n\nPackage: auditd\nStatus: install ok installed\n"
	tests := []struct {
		name  string
		check Check
		files map[string]string
		want  Outcome
		why   string // part of the text
	}{
		{"a line is there", Check{Command: "CheckMatchingLines", Path: "/etc/f", Regex: "^a=1$"}, map[string]string{"etc/f": "b\na=1\n"}, Pass, ""},
		{"no line is so", Check{Command: "CheckMatchingLines", Path: "/etc/f", Regex: "^a=1$"}, map[string]string{"etc/f": "a=2"}, Fail, "no line of /etc/f"},
		{"the filter leaves other lines", Check{Command: "CheckMatchingLines", Path: "/etc/f", Regex: "1", Filter: "^b"}, map[string]string{"etc/f": "a=1\nb=2\n"}, Fail, ""},
		{"the file is not there", Check{Command: "CheckMatchingLines", Path: "/etc/f", Regex: "."}, nil, Fail, "no such file"},
		{"its directory is a file", Check{Command: "CheckMatchingLines", Path: "/etc/f/g", Regex: "."}, map[string]string{"etc/f": ""}, Fail, "not a directory"},
		{"the file may be missing", Check{Command: "CheckMatchingLinesIfExists", Path: "/etc/f", Regex: "."}, nil, Missing, "is not there"},
		{"the file may be missing and is not", Check{Command: "CheckMatchingLinesIfExists", Path: "/etc/f", Regex: "b"}, map[string]string{"etc/f": "a"}, Fail, ""},
		{"all groups, over lines", Check{Command: "CheckMatchingLinesAll", Path: "/f", Regex: "(a=1)|(b=2)"}, map[string]string{"f": "x a=1\nx b=2\n"}, Pass, ""},
		{"all groups, in a line", Check{Command: "CheckMatchingLinesAll", Path: "/f", Regex: "(a=1)|(b=2)", Filter: "^x"}, map[string]string{"f": "x b=2 a=1\ny\n"}, Pass, ""},
		{"a group lacks", Check{Command: "CheckMatchingLinesAll", Path: "/f", Regex: "(a=1)|(b=2)"}, map[string]string{"f": "a=1\n"}, Fail, "part 2 of 2"},
		{"all lines, without groups", Check{Command: "CheckMatchingLinesAll", Path: "/f", Regex: "a"}, map[string]string{"f": "a\nb\n"}, Fail, "line 2"},
		{"all, but the filter leaves nothing", Check{Command: "CheckMatchingLinesAll", Path: "/f", Regex: "a", Filter: "z"}, map[string]string{"f": "a\n"}, Fail, ""},
		{"all, missing", Check{Command: "CheckMatchingLinesAllIfExists", Path: "/f", Regex: "a"}, nil, Missing, ""},
		{"in a directory", Check{Command: "CheckMatchingLinesInDir", Path: "/d", Regex: "^install x"}, map[string]string{"d/a": "", "d/b": "install x", "d/sub/": ""}, Pass, ""},
		{"not in a directory, but below", Check{Command: "CheckMatchingLinesInDir", Path: "/d", Regex: "^install x"}, map[string]string{"d/sub/b": "install x"}, Fail, ""},
		{"no directory", Check{Command: "CheckMatchingLinesInDir", Path: "/d", Regex: "."}, nil, Fail, ""},
		{"in one of files", Check{Command: "CheckMatchingLinesInFiles", Path: "/a|/b", Regex: "1"}, map[string]string{"b": "1"}, Pass, ""},
		{"in none of files", Check{Command: "CheckMatchingLinesInFiles", Path: "/a|/b", Regex: "1"}, map[string]string{"b": "2"}, Fail, ""},
		{"in the section", Check{Command: "CheckMatchingLinesSection", Path: "/s", Regex: "min = 2", Expect: `^\[global\]`, Key: `^\[.+\]`}, map[string]string{"s": "[a]\nmin = 1\n[global]\nmin = 2\n"}, Pass, ""},
		{"in another section", Check{Command: "CheckMatchingLinesSection", Path: "/s", Regex: "min = 2", Expect: `^\[global\]`, Key: `^\[.+\]`}, map[string]string{"s": "[global]\nmin = 1\n[a]\nmin = 2\n"}, Fail, ""},

		{"no such line", Check{Command: "CheckNoMatchingLines", Path: "/f", Regex: `^\+`}, map[string]string{"f": "a\n"}, Pass, ""},
		{"such a line, which is not shown", Check{Command: "CheckNoMatchingLines", Path: "/f", Regex: `^\+`}, map[string]string{"f": "a\n+secret\n"}, Fail, "line 2 of /f should not be there"},
		{"a filter and a regex outside mounts", Check{Command: "CheckNoMatchingLines", Path: "/etc/shadow", Regex: "bad", Filter: "^root"}, map[string]string{"etc/shadow": "root bad\n"}, Fail, "line 1"},
		{"a filter and a regex on different lines", Check{Command: "CheckNoMatchingLines", Path: "/etc/shadow", Regex: "bad", Filter: "^root"}, map[string]string{"etc/shadow": "root\nann bad\n"}, Pass, ""},
		{"fstab with the option", Check{Command: "CheckNoMatchingLines", Path: "/etc/fstab", Regex: "nodev", Filter: `\s/tmp\s`}, map[string]string{"etc/fstab": "# /tmp is here\ntmpfs /tmp tmpfs nodev 0 0\n"}, Pass, ""},
		{"fstab without the option", Check{Command: "CheckNoMatchingLines", Path: "/etc/fstab", Regex: "nodev", Filter: `\s/tmp\s`}, map[string]string{"etc/fstab": "tmpfs /tmp tmpfs defaults 0 0\n"}, Fail, "lacks"},
		{"no such line, missing", Check{Command: "CheckNoMatchingLinesIfExists", Path: "/f", Regex: "."}, nil, Missing, ""},

		{"a pipe", Check{Command: "CheckMatchingLines", Path: "/p", Regex: "."}, map[string]string{"p": "pipe"}, Error, "not a regular file"},
		{"a pipe in a directory is passed over", Check{Command: "CheckMatchingLinesInDir", Path: "/d", Regex: "a"}, map[string]string{"d/p": "pipe", "d/q": "a"}, Pass, ""},
		{"a loop of links", Check{Command: "CheckMatchingLines", Path: "/l", Regex: "."}, map[string]string{"l": "-> /l"}, Error, "symbolic links"},
		{"a huge line", Check{Command: "CheckMatchingLines", Path: "/f", Regex: "."}, map[string]string{"f": "a\n" + huge}, Error, "line 2 is longer"},
		{"a huge file", Check{Command: "CheckMatchingLines", Path: "/f", Regex: "."}, map[string]string{"f": strings.Repeat("x\n", maxFile)}, Error, "is larger than"},
		{"links stay in the tree", Check{Command: "CheckMatchingLines", Path: "/l", Regex: "inside"}, map[string]string{"l": "-> ../../../../etc/x", "etc/x": "inside"}, Pass, ""},
		{"a relative path", Check{Command: "CheckFileExists", Path: "etc/x"}, map[string]string{"etc/x": ""}, Error, "absolute"},
		{"a bad expression", Check{Command: "CheckMatchingLines", Path: "/f", Regex: "("}, map[string]string{"f": ""}, Error, "missing closing"},
		{"an expression that looks back", Check{Command: "CheckMatchingLines", Path: "/f", Regex: `(a)\1`}, map[string]string{"f": ""}, Error, "invalid escape"},
		{"a long expression", Check{Command: "CheckMatchingLines", Path: "/f", Regex: strings.Repeat("a", maxRegex+1)}, map[string]string{"f": ""}, Error, "too long"},
		{"no expression", Check{Command: "CheckMatchingLines", Path: "/f"}, map[string]string{"f": ""}, Error, "needs the attribute regex"},
		{"an unknown command", Check{Command: "RunThis"}, nil, Error, `knows no command "RunThis"`},

		{"permissions", Check{Command: "CheckFileStats", Path: "/f", Owner: "me", Group: "me", Mode: "640"}, map[string]string{"f": "0640 ", "etc/passwd": me() + "::/:/", "etc/group": strings.Replace(me(), ":x:"+strconv.Itoa(os.Getuid())+":", ":x:", 1) + ":"}, Pass, ""},
		{"other permissions", Check{Command: "CheckFileStats", Path: "/f", Mode: "644"}, map[string]string{"f": "0640 "}, Fail, "mode 0640, not 0644"},
		{"stricter ones", Check{Command: "CheckFileStats", Path: "/f", Mode: "644", AllowStricter: "true"}, map[string]string{"f": "0600 "}, Pass, ""},
		{"not stricter ones", Check{Command: "CheckFileStats", Path: "/f", Mode: "640", AllowStricter: "true"}, map[string]string{"f": "0604 "}, Fail, "more than 0640"},
		{"none of the bits", Check{Command: "CheckFileStats", Path: "/f", ModeMask: "07177"}, map[string]string{"f": "0600 "}, Pass, ""},
		{"one of the bits", Check{Command: "CheckFileStats", Path: "/f", ModeMask: "07177"}, map[string]string{"f": "0640 "}, Fail, "bits"},
		{"an owner that nobody knows", Check{Command: "CheckFileStats", Path: "/f", Owner: "bob"}, map[string]string{"f": "", "etc/passwd": passwd}, Fail, "not to bob"},
		{"an owner by number", Check{Command: "CheckFileStats", Path: "/f", Owner: strconv.Itoa(os.Getuid())}, map[string]string{"f": ""}, Pass, ""},
		{"nothing asked", Check{Command: "CheckFileStats", Path: "/f"}, map[string]string{"f": ""}, Error, "needs one of"},
		{"no octal number", Check{Command: "CheckFileStats", Path: "/f", Mode: "rw"}, map[string]string{"f": ""}, Error, "octal"},
		{"allow-stricter of another word", Check{Command: "CheckFileStats", Path: "/f", Mode: "600", AllowStricter: "yes"}, map[string]string{"f": ""}, Error, "true or false"},
		{"no file", Check{Command: "CheckFileStats", Path: "/f", Mode: "600"}, nil, Fail, "no such file"},
		{"permissions, missing", Check{Command: "CheckFileStatsIfExists", Path: "/f", Mode: "600"}, nil, Missing, ""},
		{"files of a directory", Check{Command: "CheckDirStats", Path: "/d", Mode: "444", AllowStricter: "true"}, map[string]string{"d/a/b": "0400 ", "d/c": "0644 "}, Fail, "/d/c"},
		{"a unit", Check{Command: "CheckUnitFileStats", Path: "x.service", Mode: "644"}, map[string]string{"usr/lib/systemd/system/x.service": "0644 "}, Pass, ""},
		{"a file is there", Check{Command: "CheckFileExists", Path: "/f"}, map[string]string{"f": ""}, Pass, ""},
		{"a file is not there", Check{Command: "CheckFileExists", Path: "/f"}, nil, Fail, ""},
		{"a file should not be there", Check{Command: "CheckFileNotExists", Path: "/f"}, map[string]string{"f": "-> nowhere"}, Fail, "is there"},
		{"a file is rightly not there", Check{Command: "CheckFileNotExists", Path: "/f"}, nil, Pass, ""},
		{"a name", Check{Command: "CheckFileExistsRegex", Path: "/var/log", Regex: `\.log$`}, map[string]string{"var/log/a.log": ""}, Pass, ""},
		{"no name", Check{Command: "CheckFileExistsRegex", Path: "/var/log", Regex: `\.log$`}, map[string]string{"var/log/a": ""}, Fail, ""},

		{"systemd starts it", Check{Command: "CheckServiceDisabled", Service: "cups"}, map[string]string{"etc/systemd/system/multi-user.target.wants/cups.service": "-> /lib/x"}, Fail, "multi-user.target.wants"},
		{"by its other name", Check{Command: "CheckServiceDisabled", Service: "bind9"}, map[string]string{"etc/systemd/system/bind9.service": "-> /usr/lib/systemd/system/named.service", "etc/systemd/system/multi-user.target.wants/named.service": "-> /lib/x"}, Fail, "named"},
		{"masked", Check{Command: "CheckServiceDisabled", Service: "cups"}, map[string]string{"etc/systemd/system/cups.service": "-> /dev/null", "etc/systemd/system/a.wants/cups.service": "-> /lib/x"}, Pass, ""},
		{"a socket", Check{Command: "CheckServiceDisabled", Service: "telnet.socket"}, map[string]string{"etc/systemd/system/sockets.target.wants/telnet.socket": "-> /lib/x"}, Fail, ""},
		{"System V starts it", Check{Command: "CheckServiceDisabled", Service: "cups"}, map[string]string{"etc/rc3.d/S01cups": ""}, Fail, "rc3.d"},
		{"System V ends it", Check{Command: "CheckServiceDisabled", Service: "cups"}, map[string]string{"etc/rc3.d/K01cups": ""}, Pass, ""},
		{"OpenRC starts it", Check{Command: "CheckServiceDisabled", Service: "cups"}, map[string]string{"etc/runlevels/default/cups": "-> /etc/init.d/cups"}, Fail, "runlevels"},
		{"BusyBox starts it", Check{Command: "CheckServiceEnabled", Service: "syslogd"}, map[string]string{"etc/init.d/S01syslogd": ""}, Pass, ""},
		{"nothing starts it", Check{Command: "CheckServiceEnabled", Service: "cron"}, nil, Fail, "nothing starts cron"},
		{"no name of a service", Check{Command: "CheckServiceEnabled", Service: "../cron"}, nil, Error, "no name of a service"},
		{"it runs", Check{Command: "CheckServiceEnabled", Service: "cron", Expect: "running"}, map[string]string{"etc/systemd/system/a.wants/cron.service": "", "sys/fs/cgroup/system.slice/cron.service/cgroup.procs": "7\n"}, Pass, ""},
		{"it is enabled, and does not run", Check{Command: "CheckServiceEnabled", Service: "cron", Expect: "running"}, map[string]string{"etc/systemd/system/a.wants/cron.service": "", "proc/1/comm": "init"}, Fail, "does not run"},
		{"it runs by its pid", Check{Command: "CheckServiceStatus", Service: "crond"}, map[string]string{"run/crond.pid": "7\n", "proc/7/comm": "x"}, Pass, ""},
		{"it runs by its name", Check{Command: "CheckServiceStatus", Service: "systemd-journald", Expect: "running"}, map[string]string{"proc/7/comm": "systemd-journal", "proc/7/cmdline": ""}, Pass, ""},
		{"it should not run", Check{Command: "CheckServiceStatus", Service: "x", Expect: "stopped"}, map[string]string{"run/openrc/started/x": ""}, Fail, "runs"},

		{"a package is not there", Check{Command: "CheckPackageNotInstalled", Package: "telnetd"}, map[string]string{"var/lib/dpkg/status": dpkg}, Pass, ""},
		{"a package is there", Check{Command: "CheckPackageNotInstalled", Package: "bash"}, map[string]string{"var/lib/dpkg/status": dpkg}, Fail, "is installed"},
		{"names are whole", Check{Command: "CheckPackageNotInstalled", Package: "bas."}, map[string]string{"var/lib/dpkg/status": dpkg}, Pass, ""},
		{"apk", Check{Command: "CheckPackageInstalledRegexp", Package: "^busy"}, map[string]string{"lib/apk/db/installed": "C:Q1\nP:busybox\nV:1\n\nP:musl\n"}, Pass, ""},
		{"opkg", Check{Command: "CheckPackageInstalled", Package: "dropbear"}, map[string]string{"usr/lib/opkg/status": "Package: dropbear\nStatus: install user installed\n"}, Pass, ""},
		{"opkg, unpacked only", Check{Command: "CheckPackageInstalled", Package: "dropbear"}, map[string]string{"usr/lib/opkg/status": "Package: dropbear\nStatus: install user unpacked\n"}, Fail, ""},
		{"rpm", Check{Command: "CheckPackageNotInstalledRegexp", Package: "telnet"}, map[string]string{"var/lib/rpm/rpmdb.sqlite": "", "usr/bin/rpm": "0755 #!/bin/sh\n[ \"$*\" = '-qa --queryformat %{NAME}\\n' ] && printf 'bash\\ntelnet-server\\n'\n"}, Fail, "is installed"},
		{"no list of packages", Check{Command: "CheckPackageNotInstalled", Package: "x"}, nil, Missing, "no list of packages"},

		{"a parameter", Check{Command: "CheckSysctlOutput", Regex: `^net\.ipv4\.ip_forward\s*=\s*0$`}, map[string]string{"proc/sys/net/ipv4/ip_forward": "0\n"}, Pass, ""},
		{"another value", Check{Command: "CheckSysctlOutput", Regex: `^net\.ipv4\.ip_forward\s*=\s*0$`}, map[string]string{"proc/sys/net/ipv4/ip_forward": "1\n"}, Fail, "ip_forward is 1"},
		{"one of several", Check{Command: "CheckSysctlOutput", Regex: `^net\.ipv4\.conf\.(all|eth0)\.x = 1`}, map[string]string{"proc/sys/net/ipv4/conf/all/x": "0\n", "proc/sys/net/ipv4/conf/eth0/x": "1\n"}, Pass, ""},
		{"a dot in an interface's name", Check{Command: "CheckSysctlOutput", Regex: `conf\.eth0/5\.x = 1`}, map[string]string{"proc/sys/net/ipv4/conf/eth0.5/x": "1\n"}, Pass, ""},
		{"no such parameter", Check{Command: "CheckSysctlOutput", Regex: `^kernel\.nothing = 1`}, map[string]string{"proc/sys/kernel/x": "1\n"}, Fail, "no parameter"},
		{"iptables", Check{Command: "CheckIptablesStatus", Regex: `Chain\sINPUT\s\(policy\sDROP\)`}, map[string]string{"usr/sbin/iptables": "0755 #!/bin/sh\necho 'Chain INPUT (policy DROP)'\n"}, Pass, ""},
		{"nftables alone", Check{Command: "CheckIptablesStatus", Regex: `Chain\sINPUT\s\(policy\sDROP\)`}, map[string]string{"usr/sbin/nft": "0755 #!/bin/sh\necho 'type filter hook input priority filter; policy drop;'\n"}, Pass, ""},
		{"no filter of packets", Check{Command: "CheckIptablesStatus", Regex: `DROP`}, nil, Fail, "nothing filters"},
		{"a program that others may change", Check{Command: "CheckIptablesStatus", Regex: `DROP`}, map[string]string{"usr/sbin/iptables": "0777 #!/bin/sh\necho DROP\n"}, Error, "others may change it"},
		{"a program that fails", Check{Command: "CheckIptablesStatus", Regex: `DROP`}, map[string]string{"usr/sbin/iptables": "0755 #!/bin/sh\necho must be root >&2; exit 4\n"}, Error, "must be root"},
		{"a program that never stops talking", Check{Command: "CheckIptablesStatus", Regex: `DROP`}, map[string]string{"usr/sbin/iptables": "0755 #!/bin/sh\nexec yes\n"}, Error, "printed more than"},
		{"the kernel", Check{Command: "VerifyKernelSource", Regex: "-Ubuntu "}, map[string]string{"proc/version": "Linux version 6 #31-Ubuntu SMP\n"}, Pass, ""},
		{"promiscuous", Check{Command: "CheckNoPromiscInterfaces"}, map[string]string{"sys/class/net/eth0/flags": "0x1103\n"}, Fail, "eth0"},
		{"not promiscuous", Check{Command: "CheckNoPromiscInterfaces"}, map[string]string{"sys/class/net/eth0/flags": "0x1003\n"}, Pass, ""},
		{"wireless", Check{Command: "CheckNoWirelessInterfaces"}, map[string]string{"sys/class/net/wlan0/wireless/": ""}, Fail, "wlan0"},
		{"not wireless", Check{Command: "CheckNoWirelessInterfaces"}, map[string]string{"sys/class/net/eth0/flags": ""}, Pass, ""},

		{"homes", Check{Command: "CheckUserDirs", Expect: "exists"}, map[string]string{"etc/passwd": passwd, "etc/group": group, "root/": "", "home/ann/": ""}, Pass, ""},
		{"a home is missing", Check{Command: "CheckUserDirs", Expect: "exists"}, map[string]string{"etc/passwd": passwd, "root/": ""}, Fail, "/home/ann"},
		{"a home of another", Check{Command: "CheckUserDirs", Expect: "owner"}, map[string]string{"etc/passwd": strings.Replace(passwd, "1000:1000", "4242:4242", 1), "home/ann/": ""}, Fail, "/home/ann of ann"},
		{"a file that should not be", Check{Command: "CheckUserDirs", Expect: "FileNotExists", Path: ".rhosts"}, map[string]string{"etc/passwd": passwd, "home/ann/.rhosts": ""}, Fail, "/home/ann/.rhosts"},
		{"a path that leads out of homes", Check{Command: "CheckUserDirs", Expect: "FileNotExists", Path: "../x"}, map[string]string{"etc/passwd": passwd, "home/ann/": ""}, Error, "not the name"},
		{"a file that others may change", Check{Command: "CheckUserDirs", Expect: "FileMatchPerm", Regex: `^\.`, ModeMask: "744"}, map[string]string{"etc/passwd": passwd, "home/ann/.profile": "0666 ", "home/ann/x": "0666 "}, Fail, ".profile has mode 0666"},
		{"files that others may not change", Check{Command: "CheckUserDirs", Expect: "FileMatchPerm", Regex: `^\.`, ModeMask: "744"}, map[string]string{"etc/passwd": passwd, "home/ann/.profile": "0644 ", "home/ann/x": "0666 "}, Pass, ""},
		{"another word", Check{Command: "CheckUserDirs", Expect: "x"}, map[string]string{"etc/passwd": passwd}, Error, "expect is"},
		{"an open home", Check{Command: "CheckHomeDirectoryPermissions"}, map[string]string{"etc/passwd": passwd, "home/ann/": "0755 "}, Fail, "0755"},
		{"a closed home", Check{Command: "CheckHomeDirectoryPermissions"}, map[string]string{"etc/passwd": passwd, "home/ann/": "0750 "}, Pass, ""},
		{"twice", Check{Command: "CheckNoDuplicateAccounts", Path: "/etc/passwd", Variable: "2"}, map[string]string{"etc/passwd": passwd + "bob:x:1000:1::/:\n"}, Fail, "ann and bob"},
		{"once", Check{Command: "CheckNoDuplicateAccounts", Path: "/etc/passwd", Variable: "2"}, map[string]string{"etc/passwd": passwd}, Pass, ""},
		{"no column", Check{Command: "CheckNoDuplicateAccounts", Path: "/etc/passwd", Variable: "x"}, map[string]string{"etc/passwd": passwd}, Error, "column"},
		{"groups are known", Check{Command: "CheckGroupValidity"}, map[string]string{"etc/passwd": passwd, "etc/group": group}, Pass, ""},
		{"a group is not known", Check{Command: "CheckGroupValidity"}, map[string]string{"etc/passwd": passwd, "etc/group": "root:x:0:\n"}, Fail, "ann"},
		{"passwords of the past", Check{Command: "CheckShadowDate", Path: "/etc/shadow", Key: "2", Expect: "before", Value: "now"}, map[string]string{"etc/shadow": "root:*:19000:0\nann:*::0\n"}, Pass, ""},
		{"a password of the future", Check{Command: "CheckShadowDate", Path: "/etc/shadow", Key: "2", Expect: "before", Value: "now"}, map[string]string{"etc/shadow": "root:*:99999:0\n"}, Fail, "root"},
		{"a date", Check{Command: "CheckShadowDate", Path: "/etc/shadow", Key: "2", Expect: "after", Value: "2020-01-01"}, map[string]string{"etc/shadow": "root:*:10000:0\n"}, Fail, ""},
		{"system accounts", Check{Command: "CheckSystemAccounts"}, map[string]string{"etc/passwd": passwd}, Pass, ""},
		{"a system account with a shell", Check{Command: "CheckSystemAccounts"}, map[string]string{"etc/passwd": passwd + "db:x:99:99::/:\n"}, Fail, "db"},
		{"UID_MIN counts", Check{Command: "CheckSystemAccounts"}, map[string]string{"etc/passwd": passwd + "db:x:600:99::/:/bin/sh\n", "etc/login.defs": "UID_MIN 500\n"}, Pass, ""},
		{"another root", Check{Command: "CheckRootUID", Path: "/etc/passwd"}, map[string]string{"etc/passwd": passwd + "toor:x:00:0::/:/bin/sh\n"}, Fail, "toor"},
		{"one root", Check{Command: "CheckRootUID", Path: "/etc/passwd"}, map[string]string{"etc/passwd": passwd}, Pass, ""},
		{"a bad PATH", Check{Command: "CheckNotMatchEnvVariable", User: "root", Variable: "PATH", Regex: `^\.:|:\.:|:\.$`}, map[string]string{"etc/passwd": passwd, "root/.profile": "export PATH=\"/bin:.\"\n"}, Fail, "line 1 of /root/.profile"},
		{"a bad PATH in login.defs", Check{Command: "CheckNotMatchEnvVariable", User: "root", Variable: "PATH", Regex: `:\.$`}, map[string]string{"etc/passwd": passwd, "etc/login.defs": "ENV_PATH PATH=/x:.\nENV_SUPATH\tPATH=/bin:.\n"}, Fail, "line 2"},
		{"a good PATH", Check{Command: "CheckNotMatchEnvVariable", User: "root", Variable: "PATH", Regex: `:\.$`}, map[string]string{"etc/passwd": passwd, "etc/login.defs": "ENV_PATH PATH=/x:.\nENV_SUPATH PATH=/bin\n"}, Pass, ""},
		{"good passwords", Check{Command: "CheckPwQuality", Path: "/q.conf"}, map[string]string{"q.conf": "minlen = 14 # at least\ndcredit=-1\nucredit=-1\nlcredit=-1\nocredit=-1\n"}, Pass, ""},
		{"good passwords by classes", Check{Command: "CheckPwQuality", Path: "/q.conf", MinLen: "10"}, map[string]string{"q.conf": "minclass=4\nminlen = 10\n"}, Pass, ""},
		{"short passwords", Check{Command: "CheckPwQuality", Path: "/q.conf"}, map[string]string{"q.conf": "minlen = 8\nminclass=4\n"}, Fail, "minlen"},
		{"passwords of one class", Check{Command: "CheckPwQuality", Path: "/q.conf"}, map[string]string{"q.conf": "minlen = 14\n"}, Fail, "dcredit"},

		{"sshd says so", Check{Command: "CheckMatchingConfigValue", Exec: "sshcheck", Regex: "(?i)^permitrootlogin no$"}, map[string]string{"usr/sbin/sshd": "0755 #!/bin/sh\n[ \"$*\" = -T ] && echo permitrootlogin no\n"}, Pass, ""},
		{"its files say so", Check{Command: "CheckMatchingConfigValue", Exec: "sshcheck", Regex: "^permitrootlogin no$"}, map[string]string{"etc/ssh/sshd_config": "Include /etc/ssh/sshd_config.d/*.conf\nPermitRootLogin yes\n", "etc/ssh/sshd_config.d/a.conf": "PermitRootLogin=no\n"}, Pass, ""},
		{"only for some", Check{Command: "CheckMatchingConfigValue", Exec: "sshcheck", Regex: "^x11forwarding yes"}, map[string]string{"etc/ssh/sshd_config": "Match User ann\nX11Forwarding yes\n"}, Fail, ""},
		{"as OpenSSH has it", Check{Command: "CheckNoMatchingConfigValue", Exec: "sshcheck", Regex: "^permitemptypasswords yes"}, map[string]string{"etc/ssh/sshd_config": ""}, Pass, ""},
		{"as it should not be", Check{Command: "CheckNoMatchingConfigValue", Exec: "sshcheck", Regex: "^permitemptypasswords yes"}, map[string]string{"etc/ssh/sshd_config": "permitemptypasswords yes"}, Fail, ""},
		{"files that include each other", Check{Command: "CheckNoMatchingConfigValue", Exec: "sshcheck", Regex: "x"}, map[string]string{"etc/ssh/sshd_config": "Include sshd_config"}, Error, "too many files"},
		{"no SSH server", Check{Command: "CheckMatchingConfigValue", Exec: "sshcheck", Regex: "x"}, nil, Missing, "no SSH server"},
		{"a command line", Check{Command: "CheckMatchingConfigValue", Exec: "rm -rf /", Regex: "x"}, nil, Error, "does not run"},

		{"always", Check{Command: "CheckAlwaysPass", Justification: "people decide"}, nil, Pass, "people decide"},
		{"Docker is new", Check{Command: "CheckDockerVersionAtLeast", Version: "18.09.2/18.09.2"}, docker("echo 20.10.5+dfsg1/18.09.2"), Pass, ""},
		{"Docker is old", Check{Command: "CheckDockerVersionAtLeast", Version: "18.09.2/18.09.2"}, docker("echo 20.10.5/17.06.0-ce"), Fail, "17.06.0"},
		{"Docker of no version", Check{Command: "CheckDockerVersionAtLeast", Version: "new"}, docker("echo 1/1"), Error, "not a version"},
		{"inventory", Check{Command: "CheckDockerInfo"}, docker("echo ' Server Version: 20.10.5'"), Pass, "Server Version 20.10.5"},
		{"no Docker", Check{Command: "CheckDockerInfo"}, nil, Missing, "not installed"},
		{"no daemon", Check{Command: "CheckDockerInfo"}, docker("exit 1"), Missing, "no Docker daemon"},
		{"containers", Check{Command: "CheckNoMatchingLinesDockerContainerInspect", Key: "{{ .Id }}: Privileged={{ .HostConfig.Privileged }}", Regex: "Privileged=true"}, docker(`case $1 in ps) echo 0123456789abcdef;; *) echo "x: Privileged=true";; esac`), Fail, "docker inspect"},
		{"containers, whole", Check{Command: "CheckNoMatchingLinesDockerContainerInspect", Filter: `"User"`, Regex: `""`}, docker(`case $1 in ps) echo 0123456789abcdef;; *) echo '{"Name":"","User":"1"}';; esac`), Pass, ""},
		{"ids that are none", Check{Command: "CheckNoMatchingLinesDockerContainerInspect", Key: "x", Regex: "x"}, docker(`echo --help`, "run/docker.sock"), Error, "does not run"},
		{"a flag in the file", Check{Command: "CheckDockerdFlagSet", Key: "live-restore", Value: "true"}, map[string]string{"etc/docker/daemon.json": `{"live-restore": true}`}, Pass, ""},
		{"a flag of the command line", Check{Command: "CheckDockerdFlagSet", Key: "log-level", Value: "info"}, map[string]string{"proc/7/comm": "dockerd", "proc/7/cmdline": "dockerd\x00--log-level\x00debug\x00"}, Fail, "log-level"},
		{"a flag that should not be", Check{Command: "CheckDockerdFlagNotSet", Key: "iptables", Value: "false"}, map[string]string{"etc/docker/daemon.json": `{"iptables": false}`}, Fail, "iptables=false"},
		{"TCP without TLS", Check{Command: "CheckDockerTLSFlagsSet"}, map[string]string{"etc/docker/daemon.json": `{"hosts": ["tcp://0.0.0.0:2375"]}`}, Fail, "tlsverify"},
		{"TLS files", Check{Command: "CheckDockerTLSFileStats", Key: "tlskey", Mode: "400"}, map[string]string{"etc/docker/daemon.json": `{"tlskey": "/k"}`, "k": "0644 "}, Fail, "/k"},
		{"a broken file", Check{Command: "CheckDockerdFlagSet", Key: "x"}, map[string]string{"etc/docker/daemon.json": `{`}, Error, "daemon.json"},
		{"another command of Docker", Check{Command: "CheckDockerCommandOutputNotMatch", Key: "rm -f x", Regex: "x"}, docker("echo x"), Error, "does not run"},
		{"the swarm's key", Check{Command: "CheckDockerCommandOutputNotMatch", Key: "swarm unlock-key", Regex: "no unlock key is set"}, docker("echo no unlock key is set"), Fail, ""},
		{"the default bridge", Check{Command: "CheckDockerNotUsingDefaultBridge"}, docker("echo 0"), Pass, ""},
		{"the socket in a container", Check{Command: "CheckDockerSockMount"}, docker(`case $1 in ps) echo 0123456789abcdef;; *) echo '[{"Source":"/var/run/docker.sock"}]';; esac`), Fail, "socket"},
		{"security options", Check{Command: "CheckDockerSecOps", Regex: "no-new-privileges"}, docker(`case $1 in ps) echo 0123456789abcdef;; *) echo null;; esac`), Fail, "security option"},
		{"AppArmor", Check{Command: "CheckMACEnabledDocker"}, docker(`printf ' Security Options:\n  apparmor\n'`), Pass, ""},
		{"audit rules", Check{Command: "CheckMatchingLinesInAuditDRules", Regex: `^-w /etc/docker\s`}, map[string]string{"etc/audit/rules.d/a.rules": "-w /etc/docker -k d\n"}, Pass, ""},
		{"netstat", Check{Command: "CheckNoMatchingLinesNetstat", Key: "-ltn", Filter: "2377", Regex: `(?:0.0.0.0:|\[::\]):?2377`}, map[string]string{"proc/net/tcp": "h\n 0: 00000000:0949 00000000:0000 0A 0\n"}, Fail, "listens"},
		{"processes", Check{Command: "CheckNoMatchingLinesPSCommand", Filter: "dockerd", Regex: "--insecure-registry"}, map[string]string{"proc/7/cmdline": "dockerd\x00--insecure-registry=x\x00", "proc/7/comm": "dockerd"}, Fail, "runs"},

		{"an option of a mount", Check{Command: "CheckMountOption", Path: "/tmp", Value: "nodev"}, map[string]string{"proc/self/mounts": "tmpfs /tmp tmpfs rw,nodev 0 0\n"}, Pass, ""},
		{"the mount on top lacks it", Check{Command: "CheckMountOption", Path: "/tmp", Value: "nodev"}, map[string]string{"proc/self/mounts": "tmpfs /tmp tmpfs rw,nodev 0 0\ntmpfs /tmp tmpfs rw 0 0\n"}, Fail, "without nodev"},
		{"a view of its own does not count", Check{Command: "CheckSeparateMount", Path: "/home"}, map[string]string{"proc/self/mounts": "/dev/x /home ext4 ro 0 0\n", "proc/1/mounts": "/dev/x / ext4 rw 0 0\n"}, Fail, "shares"},
		{"nothing is mounted", Check{Command: "CheckSeparateMount", Path: "/tmp"}, map[string]string{"proc/self/mounts": ""}, Fail, ""},
		{"a module that is ruled out", Check{Command: "CheckModuleDisabled", Key: "usb-storage"}, map[string]string{"etc/modprobe.d/x.conf": "install usb-storage /bin/true\n", "lib/modules/6/modules.dep": "kernel/drivers/usb-storage.ko.xz:\n"}, Pass, ""},
		{"a module that can be loaded", Check{Command: "CheckModuleDisabled", Key: "usb-storage"}, map[string]string{"lib/modules/6/modules.dep": "kernel/drivers/usb-storage.ko.xz:\n"}, Fail, "can be loaded"},
		{"a module that is hidden from this process", Check{Command: "CheckModuleDisabled", Key: "dccp"}, map[string]string{"lib/modules/": "", "proc/1/root/lib/modules/6/modules.dep": "kernel/net/dccp/dccp.ko:\n"}, Fail, "can be loaded"},
		{"a module that is loaded", Check{Command: "CheckModuleDisabled", Key: "usb-storage"}, map[string]string{"sys/module/usb_storage/": "", "etc/modprobe.d/x.conf": "install usb-storage /bin/true\n"}, Fail, "in the kernel"},
		{"a file for everybody", Check{Command: "CheckNoWorldWritable"}, map[string]string{"etc/passwd": passwd + me() + "::/:\n", "etc/group": group + "me:x:" + strconv.Itoa(os.Getgid()) + ":\n", "opt/a/b": "0666 ", "opt/l": "-> b"}, Fail, "/opt/a/b"},
		{"no file for everybody", Check{Command: "CheckNoWorldWritable"}, map[string]string{"etc/passwd": passwd, "etc/group": group, "opt/a/b": "", "proc/x": "0666 "}, Pass, ""},
		{"a directory for everybody", Check{Command: "CheckStickyBit"}, map[string]string{"etc/passwd": passwd, "etc/group": group, "opt/a/": "0777 "}, Fail, "/opt/a"},
		{"files of somebody", Check{Command: "CheckNoUnowned"}, map[string]string{"etc/passwd": passwd + me() + "::/:\n", "etc/group": group + "me:x:" + strconv.Itoa(os.Getgid()) + ":\n"}, Pass, ""},
		{"no NX", Check{Command: "CheckNoNXProblem"}, map[string]string{"proc/cpuinfo": "model name\t: x\nflags\t\t: fpu sse\n"}, Fail, "NX"},
		{"NX", Check{Command: "CheckNoNXProblem"}, map[string]string{"proc/cpuinfo": "flags\t\t: fpu nx\n"}, Pass, ""},
		{"a self test", Check{Command: "CheckNoSelfTest", Path: "/tmp/x"}, map[string]string{"tmp/x": ""}, Fail, "was asked for"},
		{"Docker's driver", Check{Command: "CheckNoMatchingLinesDockerInfo", Regex: `^Storage Driver:\s*aufs\s*$`}, docker("echo Storage Driver: aufs"), Fail, "docker info"},
		{"networks", Check{Command: "CheckNoMatchingLinesDockerNetworkInspect", Key: "{{ .Name }}: {{ .Options.encrypted }}", Regex: "<no value>"}, docker(`case $2 in ls) echo 0123456789abcdef;; *) echo 'n: <no value>';; esac`), Fail, "network inspect"},
		{"an exposed port", Check{Command: "CheckNoExposedService", Value: "23"}, map[string]string{"proc/net/tcp6": "h\n 0: 00000000000000000000000000000000:0017 0:0 0A 0\n"}, Fail, "[::]:23"},
		{"a port for itself", Check{Command: "CheckNoExposedService", Value: "25"}, map[string]string{"proc/net/tcp": "h\n 0: 0100007F:0019 00000000:0000 0A 0\n"}, Pass, ""},
	}
	covered := map[string]bool{}
	for _, tt := range tests {
		covered[tt.check.Command] = true
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := machineOf(t, Config{Root: device(t, tt.files), live: true})
			got := m.run(&tt.check)
			if got.outcome != tt.want || !strings.Contains(got.why, tt.why) {
				t.Errorf("%+v: %s %q, want %s with %q", tt.check, got.outcome.ScannerWord(), got.why, tt.want.ScannerWord(), tt.why)
			}
			if strings.Contains(got.why, "secret") {
				t.Errorf("%q shows contents", got.why)
			}
		})
	}
	for name := range commands {
		if !covered[name] {
			t.Errorf("no case for %s", name)
		}
	}
}

// docker is a device where a docker client does what script says.
func docker(script string, also ...string) map[string]string {
	files := map[string]string{"usr/bin/docker": "0755 #!/bin/sh\n" + script + "\n"}
	for _, p := range also {
		files[p] = ""
	}
	return files
}

// Without a running system, nothing is asked of a kernel or a program.
func TestCommands_OfFilesOnly(t *testing.T) {
	t.Parallel()
	m := machineOf(t, Config{Root: device(t, map[string]string{"usr/sbin/iptables": "0755 #!/bin/sh\necho x\n", "proc/sys/a": "1"})})
	for _, c := range []Check{
		{Command: "CheckIptablesStatus", Regex: "x"}, {Command: "CheckSysctlOutput", Regex: "^a = 1"}, {Command: "CheckDockerInfo"},
		{Command: "CheckServiceStatus", Service: "x"}, {Command: "CheckNoPromiscInterfaces"}, {Command: "CheckNoExposedService", Value: "23"},
	} {
		if v := m.run(&c); v.outcome != Missing {
			t.Errorf("%s: %s %q", c.Command, v.outcome.ScannerWord(), v.why)
		}
	}
}

func TestMayRun(t *testing.T) {
	t.Parallel()
	for _, argv := range [][]string{
		{"sh", "-c", "x"}, {"sshd"}, {"sshd", "-T", "-f", "/x"}, {"iptables", "-F"}, {"docker", "rm", "x"},
		{"docker", "inspect", "--type", "container", "--format", "--size", "0123456789ab"},
		{"docker", "inspect", "--type", "container", "--format", "{{.}}", "--help"},
		{"docker", "inspect", "--type", "container", "--format"},
	} {
		if mayRun(argv) {
			t.Errorf("%q may run", argv)
		}
	}
	if !mayRun([]string{"docker", "inspect", "--type", "container", "--format", "{{.}}", "0123456789ab"}) {
		t.Error("a container cannot be looked at")
	}
}

func TestDistro(t *testing.T) {
	t.Parallel()
	d := func(release string) distro {
		return machineOf(t, Config{Root: device(t, map[string]string{"usr/lib/os-release": release, "etc/os-release": "-> ../usr/lib/os-release"})}).distro
	}
	debian, ubuntu := d("ID=debian\nVERSION_ID=\"12\"\n"), d("ID=ubuntu\nID_LIKE=debian\nVERSION_ID=18.04\n")
	centos, mint, poky := d("ID=\"centos\"\nVERSION_ID=6.10\n"), d("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\nVERSION_ID=21\n"), d("ID=poky\nVERSION_ID=4.0.1\n")
	tests := []struct {
		d    distro
		expr string
		want bool
	}{
		{debian, "*", true}, {debian, "", true}, {debian, "Ubuntu|Debian", true}, {ubuntu, "Debian", false}, {debian, "!Debian", false}, {debian, "!SLES", true},
		{centos, "CentOS=6|RedHat=6", true}, {centos, "CentOS>6", false}, {centos, "CentOS>=6", true}, {centos, "CentOS<7", true}, {centos, "CentOS<=6", true}, {centos, "CentOS<6", false},
		{ubuntu, "Ubuntu>=18.04", true}, {ubuntu, "Ubuntu>18.04", false}, {ubuntu, "!Ubuntu>=18.04", false},
		{debian, "and|!RedHat|!CentOS", true}, {centos, "and|!RedHat|!CentOS", false}, {debian, "and|!Ubuntu>=18.04|!Debian>=9", false},
		{debian, "!Debian|!Ubuntu", true}, {mint, "Ubuntu", true}, {mint, "Ubuntu>=18.04", false}, {poky, "Poky>=4", true}, {d("ID=raspbian\nVERSION_ID=12\nID_LIKE=debian"), "Debian=12", true},
		{debian, "debian", true},
	}
	for _, tt := range tests {
		if got, err := tt.d.matches(tt.expr); err != nil || got != tt.want {
			t.Errorf("%+v matches %q = %v, %v", tt.d, tt.expr, got, err)
		}
	}
	for _, bad := range []string{"|", "A=", "A=x", "A>=1.", "!", "=6", "and|", "A B"} {
		if _, err := debian.matches(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if none := d(""); none.id != "linux" || none.number != "any" {
		t.Errorf("a system without a name is %+v", none)
	}
	if odd := d("ID=\"../../x y\"\nVERSION_ID=1/2\n"); strings.ContainsAny(odd.id+odd.number, "/ ") {
		t.Errorf("%+v", odd)
	}
}

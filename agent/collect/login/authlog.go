package login

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/vauban-iot/vauban/wire/secmsg"
)

// quiet services open sessions on behalf of nobody.
var quiet = []string{"cron", "crond", "systemd-user", "atd", "runuser", "runuser-l", "anacron"}

// The lines of sshd, of PAM's pam_unix, which speaks for login, su, sudo and others, of dropbear, and of busybox's login.
var (
	syslogHead = regexp.MustCompile(`^(?:[A-Z][a-z]{2} [ 0-9]\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT\S+|<\d+>\S.{0,40}?) (?:\S+ )?(?:[a-z0-9]+\.[a-z]+ )?([\w./-]+)(?:\[(\d+)\])?: (.*)$`)

	repeated = regexp.MustCompile(`^message repeated (\d+) times: \[ ?(.*)\]$`)

	sshAccepted = regexp.MustCompile(`^Accepted (\S+) for (.*) from (\S+) port \d+`)
	sshFailed   = regexp.MustCompile(`^Failed (?:password|publickey|keyboard-interactive/pam|none) for (?:invalid user )?(.*) from (\S+) port \d+`)

	pamSession = regexp.MustCompile(`^pam_unix\(([^:)]+):session\): session (opened|closed) for user ([^( ]+)`)
	pamFailure = regexp.MustCompile(`^pam_unix\(([^:)]+):auth\): authentication failure;.*?\btty=(\S*) .*?\brhost=(\S*)(?:\s+user=(\S+))?`)

	dropbearGood = regexp.MustCompile(`^(?:Password|Pubkey|PAM password) auth succeeded for '([^']*)'.* from (\S+):\d+$`)
	dropbearBad  = regexp.MustCompile(`^(?:Bad (?:PAM )?password attempt|Login attempt for nonexistent user)(?: for '([^']*)')? from (\S+):\d+$`)
	dropbearExit = regexp.MustCompile(`^Exit \(([^)]*)\)`)

	busyboxBad  = regexp.MustCompile(`^invalid password for '([^']*)' on '([^']*)'(?: from '([^']*)')?`)
	busyboxGood = regexp.MustCompile(`^(\S+) login on '([^']*)'(?: from '([^']*)')?`)
)

// parseSyslog reads a line of the system's log.
func parseSyslog(line string) (secmsg.LoginRecord, bool) {
	m := syslogHead.FindStringSubmatch(line)
	if m == nil {
		return secmsg.LoginRecord{}, false
	}
	pid, _ := strconv.ParseUint(m[2], 10, 32)
	return parseMessage(m[1], uint32(pid), m[3])
}

// parseMessage reads what a program logged.
func parseMessage(program string, pid uint32, message string) (secmsg.LoginRecord, bool) {
	program = program[strings.LastIndexByte(program, '/')+1:]
	hits := uint32(1)
	if m := repeated.FindStringSubmatch(message); m != nil {
		if n, err := strconv.ParseUint(m[1], 10, 32); err == nil && n > 0 {
			hits = uint32(n)
		}
		message = m[2]
	}
	record := func(operation, service, user, terminal, remote string) (secmsg.LoginRecord, bool) {
		if a, err := netip.ParseAddr(remote); err == nil {
			remote = a.Unmap().WithZone("").String()
		}
		return secmsg.LoginRecord{
			Operation: operation, ProcessID: pid, UserName: clean(user), Executable: clean(service), Terminal: clean(strings.TrimPrefix(terminal, "/dev/")),
			RemoteAddress: clean(remote), HitCount: hits,
		}, true
	}
	none := secmsg.LoginRecord{}
	switch {
	case strings.HasPrefix(program, "sshd"): // newer ones are sshd-session
		if m := sshAccepted.FindStringSubmatch(message); m != nil {
			return record(secmsg.LoggedIn, "sshd", m[2], "", m[3])
		}
		if m := sshFailed.FindStringSubmatch(message); m != nil {
			return record(secmsg.LoginFailed, "sshd", m[1], "", m[2])
		}
		if m := pamSession.FindStringSubmatch(message); m != nil && m[2] == "closed" {
			return record(secmsg.LoggedOut, "sshd", m[3], "", "")
		}
		return none, false // what pam_unix says of logins says less
	case program == "dropbear":
		if m := dropbearGood.FindStringSubmatch(message); m != nil {
			return record(secmsg.LoggedIn, program, m[1], "", m[2])
		}
		if m := dropbearBad.FindStringSubmatch(message); m != nil {
			return record(secmsg.LoginFailed, program, m[1], "", m[2])
		}
		if m := dropbearExit.FindStringSubmatch(message); m != nil {
			return record(secmsg.LoggedOut, program, m[1], "", "")
		}
		return none, false
	}
	if m := pamSession.FindStringSubmatch(message); m != nil && !slices.Contains(quiet, m[1]) {
		return record(map[string]string{"opened": secmsg.LoggedIn, "closed": secmsg.LoggedOut}[m[2]], m[1], m[3], "", "")
	}
	if m := pamFailure.FindStringSubmatch(message); m != nil {
		return record(secmsg.LoginFailed, m[1], m[4], m[2], m[3])
	}
	if program == "login" {
		if m := busyboxBad.FindStringSubmatch(message); m != nil {
			return record(secmsg.LoginFailed, program, m[1], m[2], m[3])
		}
		if m := busyboxGood.FindStringSubmatch(message); m != nil {
			return record(secmsg.LoggedIn, program, m[1], m[2], m[3])
		}
	}
	return none, false
}

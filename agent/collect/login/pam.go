package login

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/wire/secmsg"
)

// DefaultPAMLog is where the helper writes.
const DefaultPAMLog = "/var/lib/defender_iot_micro_agent/pam.log"

// maxPAMLog is when the helper's file is put aside and a new one begun.
const maxPAMLog = 1 << 20

// The codes that PAM's configuration gives the helper (defender §3.3).
const (
	PAMOpen   = 0 // open_session: a login
	PAMClose  = 1 // close_session: a logout
	PAMFailed = 2 // in common-auth: a login that failed
)

// AppendPAM is the helper that pam_exec.so calls: it adds a line to the file at path, made of what PAM gives it in the environment. getenv is
// os.Getenv.
func AppendPAM(path string, code int, getenv func(string) string, now time.Time) error {
	if code < PAMOpen || code > PAMFailed {
		return fmt.Errorf("%d is no code of the helper: 0 is a login, 1 a logout, 2 a login that failed", code)
	}
	if st, err := os.Stat(path); err == nil && st.Size() > maxPAMLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	fields := []string{now.Format("2006-01-02T15:04:05.000-07:00"), "0", strconv.Itoa(os.Getppid())}
	for _, name := range []string{"PAM_TYPE", "PAM_SERVICE", "PAM_USER", "PAM_RHOST", "PAM_TTY"} {
		fields = append(fields, clean(getenv(name)))
	}
	var line strings.Builder
	w := csv.NewWriter(&line)
	if err := w.Write(append(fields, strconv.Itoa(code))); err != nil {
		return err
	}
	w.Flush()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(line.String()); err != nil { // one write: others append at the same time
		f.Close()
		return err
	}
	return f.Close()
}

// clean takes line ends and their like out, and cuts.
func clean(s string) string {
	const most = 256
	s = strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, s)
	return strings.ToValidUTF8(s[:min(len(s), most)], "\uFFFD")
}

// ParsePAM reads a line of the helper's file: time, two numbers of which the second is a process, PAM's type, service, user, remote host,
// terminal, code.
func ParsePAM(line string) (secmsg.LoginRecord, bool) {
	f, err := csv.NewReader(strings.NewReader(line)).Read()
	if err != nil || len(f) != 9 {
		return secmsg.LoginRecord{}, false
	}
	if _, err := time.Parse(time.RFC3339, strings.TrimSpace(f[0])); err != nil {
		return secmsg.LoginRecord{}, false
	}
	for i := range f {
		f[i] = strings.TrimSpace(f[i])
	}
	operation, ok := map[string]string{"0": secmsg.LoggedIn, "1": secmsg.LoggedOut, "2": secmsg.LoginFailed}[f[8]]
	if !ok {
		return secmsg.LoginRecord{}, false
	}
	pid, _ := strconv.ParseUint(f[2], 10, 32)
	return secmsg.LoginRecord{
		Operation: operation, ProcessID: uint32(pid), Executable: f[4], UserName: f[5], RemoteAddress: f[6], Terminal: strings.TrimPrefix(f[7], "/dev/"), HitCount: 1,
	}, true
}

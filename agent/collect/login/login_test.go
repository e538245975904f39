package login

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// watch runs a watcher until the test ends. wait waits until as many records were seen, and returns them; the journal's may be more.
func watch(t *testing.T, cfg Config) (w *Watcher, wait func(n int) []secmsg.LoginRecord) {
	t.Helper()
	w = New(cfg)
	var mu sync.Mutex
	var all []secmsg.LoginRecord
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- w.Run(ctx, func(o collect.Observation) {
			mu.Lock()
			defer mu.Unlock()
			r := o.Item.(secmsg.LoginRecord)
			if o.Event != "Login" || o.Hits != r.HitCount || !strings.Contains(o.Key, r.UserName) || time.Since(o.Time) > time.Minute {
				t.Errorf("observation %+v", o)
			}
			all = append(all, r)
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	for deadline := time.Now().Add(10 * time.Second); w.Source() == "not started"; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not start")
		}
	}
	return w, func(n int) []secmsg.LoginRecord {
		t.Helper()
		for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			mu.Lock()
			if len(all) >= n || time.Now().After(deadline) {
				defer mu.Unlock()
				if len(all) < n || len(all) > n && cfg.Journal == "" {
					t.Fatalf("%d records, want %d: %+v", len(all), n, all)
				}
				return slices.Clone(all)
			}
			mu.Unlock()
		}
	}
}

func add(t *testing.T, path string, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func same(t *testing.T, got, want []secmsg.LoginRecord) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n%+v, want\n%+v", got, want)
	}
}

var authLines = []struct {
	line string
	want secmsg.LoginRecord // zero: nothing
}{
	{"Nov 28 02:01:00 host sshd[123]: Accepted publickey for ada from 203.0.113.5 port 50000 ssh2: ED25519 SHA256:x", secmsg.LoginRecord{Operation: "Login", ProcessID: 123, UserName: "ada", Executable: "sshd", RemoteAddress: "203.0.113.5", HitCount: 1}},
	{"2026-11-28T02:01:00.123456+00:00 host sshd-session[124]: Failed password for invalid user eve from 2001:db8::5 port 22 ssh2", secmsg.LoginRecord{Operation: "LoginFailed", ProcessID: 124, UserName: "eve", Executable: "sshd", RemoteAddress: "2001:db8::5", HitCount: 1}},
	{"Nov 28 02:01:00 host sshd[123]: message repeated 4 times: [ Failed password for root from 203.0.113.5 port 22 ssh2]", secmsg.LoginRecord{Operation: "LoginFailed", ProcessID: 123, UserName: "root", Executable: "sshd", RemoteAddress: "203.0.113.5", HitCount: 4}},
	{"Nov 28 02:01:00 host sshd[123]: Failed password for root from 203.0.113.6 port 22 from 203.0.113.5 port 22 ssh2", secmsg.LoginRecord{Operation: "LoginFailed", ProcessID: 123, UserName: "root from 203.0.113.6 port 22", Executable: "sshd", RemoteAddress: "203.0.113.5", HitCount: 1}},
	{"Nov 28 02:01:00 host sshd[123]: pam_unix(sshd:session): session opened for user ada(uid=1000) by (uid=0)", secmsg.LoginRecord{}},
	{"Nov 28 02:01:00 host sshd[123]: pam_unix(sshd:session): session closed for user ada", secmsg.LoginRecord{Operation: "Logout", ProcessID: 123, UserName: "ada", Executable: "sshd", HitCount: 1}},
	{"Nov 28 02:01:00 host sshd[123]: pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=203.0.113.5  user=ada", secmsg.LoginRecord{}},
	{"Nov  8 02:01:00 host login[7]: pam_unix(login:session): session opened for user root(uid=0) by LOGIN(uid=0)", secmsg.LoginRecord{Operation: "Login", ProcessID: 7, UserName: "root", Executable: "login", HitCount: 1}},
	{"Nov  8 02:01:00 host login[7]: pam_unix(login:auth): authentication failure; logname=LOGIN uid=0 euid=0 tty=/dev/tty1 ruser= rhost=  user=ada", secmsg.LoginRecord{Operation: "LoginFailed", ProcessID: 7, UserName: "ada", Executable: "login", Terminal: "tty1", HitCount: 1}},
	{"Nov  8 02:01:00 host su[8]: pam_unix(su:session): session closed for user postgres", secmsg.LoginRecord{Operation: "Logout", ProcessID: 8, UserName: "postgres", Executable: "su", HitCount: 1}},
	{"Nov  8 02:01:00 host sudo: pam_unix(sudo:session): session opened for user root(uid=0) by ada(uid=1000)", secmsg.LoginRecord{Operation: "Login", UserName: "root", Executable: "sudo", HitCount: 1}},
	{"Nov  8 02:01:00 host sudo: pam_unix(sudo:auth): authentication failure; logname=ada uid=1000 euid=0 tty=/dev/pts/0 ruser=ada rhost=  user=ada", secmsg.LoginRecord{Operation: "LoginFailed", UserName: "ada", Executable: "sudo", Terminal: "pts/0", HitCount: 1}},
	{"Nov  8 02:01:00 host CRON[9]: pam_unix(cron:session): session opened for user root(uid=0) by (uid=0)", secmsg.LoginRecord{}},
	{"Nov  8 02:01:00 router authpriv.warn dropbear[55]: Bad password attempt for 'root' from 192.0.2.7:5000", secmsg.LoginRecord{Operation: "LoginFailed", ProcessID: 55, UserName: "root", Executable: "dropbear", RemoteAddress: "192.0.2.7", HitCount: 1}},
	{"Nov  8 02:01:00 router dropbear[55]: Pubkey auth succeeded for 'root' with ssh-ed25519 key SHA256:x from 192.0.2.7:5000", secmsg.LoginRecord{Operation: "Login", ProcessID: 55, UserName: "root", Executable: "dropbear", RemoteAddress: "192.0.2.7", HitCount: 1}},
	{"Nov  8 02:01:00 router dropbear[55]: Exit (root): Disconnect received", secmsg.LoginRecord{Operation: "Logout", ProcessID: 55, UserName: "root", Executable: "dropbear", HitCount: 1}},
	{"Nov  8 02:01:00 router login[5]: invalid password for 'ada' on 'pts/0' from '192.0.2.8'", secmsg.LoginRecord{Operation: "LoginFailed", ProcessID: 5, UserName: "ada", Executable: "login", Terminal: "pts/0", RemoteAddress: "192.0.2.8", HitCount: 1}},
	{"Nov  8 02:01:00 router login[5]: root login on 'ttyS0'", secmsg.LoginRecord{Operation: "Login", ProcessID: 5, UserName: "root", Executable: "login", Terminal: "ttyS0", HitCount: 1}},
	{"Nov  8 02:01:00 host other[5]: Accepted publickey for ada from 203.0.113.5 port 50000 ssh2", secmsg.LoginRecord{}},
	{"something else", secmsg.LoginRecord{}},
}

func TestParseSyslog(t *testing.T) {
	t.Parallel()
	for _, l := range authLines {
		if got, ok := parseSyslog(l.line); got != l.want || ok != (l.want != secmsg.LoginRecord{}) {
			t.Errorf("%s:\ngot  %+v, %v\nwant %+v", l.line, got, ok, l.want)
		}
	}
}

// A log is read from where it ends; then lines in pieces, a rotation, a log that was cut short, and a line that is too long.
func TestAuthLog_Followed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "auth.log")
	line := func(user string) string {
		return "Nov 28 02:01:00 host sshd[1]: Failed password for " + user + " from 203.0.113.5 port 1 ssh2\n"
	}
	want := func(users ...string) (all []secmsg.LoginRecord) {
		for _, u := range users {
			all = append(all, secmsg.LoginRecord{Operation: "LoginFailed", ProcessID: 1, UserName: u, Executable: "sshd", RemoteAddress: "203.0.113.5", HitCount: 1})
		}
		return all
	}
	add(t, path, line("before"))
	w, wait := watch(t, Config{AuthLogs: []string{path + ".none", path}})
	if w.Source() != path {
		t.Errorf("the source is %s", w.Source())
	}
	add(t, path, line("a")+line("b")[:20])
	wait(1)
	add(t, path, line("b")[20:])
	same(t, wait(2), want("a", "b"))
	add(t, path, line("c"))
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	add(t, path, line("d"))
	wait(4)
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond) // so that it is not as long again before it is looked at
	add(t, path, strings.Repeat("x", 3*maxLine)+"\n"+line("e"))
	same(t, wait(5), want("a", "b", "c", "d", "e"))
	if w.Cut() != 1 {
		t.Errorf("%d lines were cut", w.Cut())
	}
}

// Records that utmpdump made, not this package.
func TestWtmpAndBtmp(t *testing.T) {
	t.Parallel()
	dump, err := exec.LookPath("utmpdump")
	if err != nil {
		t.Fatal("utmpdump is missing: it is in util-linux")
	}
	records := func(text string) string {
		cmd := exec.Command(dump, "-r")
		cmd.Stdin = strings.NewReader(text)
		var complaint bytes.Buffer
		cmd.Stderr = &complaint
		out, err := cmd.Output()
		if err != nil || len(out) == 0 || len(out)%utmpSize != 0 {
			t.Fatalf("utmpdump: %d bytes, %v: %s", len(out), err, complaint.String())
		}
		return string(out)
	}
	dir := t.TempDir()
	wtmp, btmp := filepath.Join(dir, "wtmp"), filepath.Join(dir, "btmp")
	add(t, wtmp, records("[7] [00001] [ts/9] [before  ] [pts/9       ] [                    ] [0.0.0.0        ] [2026-11-28T02:00:00,000000+00:00]\n"))
	w, wait := watch(t, Config{AuthLogs: []string{}, NoJournal: true, Wtmp: wtmp, Btmp: btmp})
	if !strings.HasPrefix(w.Source(), wtmp+", "+btmp+" (") {
		t.Errorf("the source is %s", w.Source())
	}
	add(t, wtmp, records(`[7] [01234] [ts/0] [ada     ] [pts/0       ] [203.0.113.5         ] [203.0.113.5    ] [2026-11-28T02:01:00,000000+00:00]
[6] [00042] [tty1] [LOGIN   ] [tty1        ] [                    ] [0.0.0.0        ] [2026-11-28T02:01:00,000000+00:00]
[7] [00042] [tty1] [root    ] [tty1        ] [                    ] [0.0.0.0        ] [2026-11-28T02:01:00,000000+00:00]
[8] [01234] [ts/0] [        ] [pts/0       ] [                    ] [0.0.0.0        ] [2026-11-28T02:02:00,000000+00:00]
[8] [09999] [ts/5] [        ] [pts/5       ] [                    ] [0.0.0.0        ] [2026-11-28T02:02:00,000000+00:00]
`))
	wait(3)
	add(t, btmp, records("[6] [00077] [    ] [eve     ] [ssh:notty   ] [2001:db8::5         ] [2001:db8::5    ] [2026-11-28T02:03:00,000000+00:00]\n"))
	same(t, wait(4), []secmsg.LoginRecord{
		{Operation: "Login", ProcessID: 1234, UserName: "ada", Executable: "sshd", Terminal: "pts/0", RemoteAddress: "203.0.113.5", HitCount: 1},
		{Operation: "Login", ProcessID: 42, UserName: "root", Executable: "login", Terminal: "tty1", HitCount: 1},
		{Operation: "Logout", ProcessID: 1234, UserName: "ada", Executable: "login", Terminal: "pts/0", HitCount: 1},
		{Operation: "LoginFailed", ProcessID: 77, UserName: "eve", Executable: "sshd", Terminal: "ssh:notty", RemoteAddress: "2001:db8::5", HitCount: 1},
	})
}

// The helper's lines, by code, are read back; so is the line of Microsoft's form.
func TestPAM(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "made", "pam.log")
	w, wait := watch(t, Config{PAM: true, PAMLog: path})
	if !strings.HasPrefix(w.Source(), "PAM") {
		t.Errorf("the source is %s", w.Source())
	}
	now := time.Date(2026, 11, 28, 2, 1, 0, 0, time.FixedZone("", 3600))
	for code := range 3 {
		env := map[string]string{"PAM_TYPE": "open_session", "PAM_SERVICE": "sshd", "PAM_USER": "a\"d,a\n" + strconv.Itoa(code), "PAM_RHOST": "203.0.113.5", "PAM_TTY": "/dev/pts/0"}
		if err := AppendPAM(path, code, func(name string) string { return env[name] }, now); err != nil {
			t.Fatal(err)
		}
	}
	add(t, path, "2021-07-20T17:43:40.123+03:00,1,1234,auth,login,eve,,/dev/tty1,2\nnot one\n2021-07-20T17:43:40+03:00,1,1,a,b,c,d,e,7\n")
	want := []secmsg.LoginRecord{{Operation: "Login"}, {Operation: "Logout"}, {Operation: "LoginFailed"}}
	for i := range want {
		want[i] = secmsg.LoginRecord{Operation: want[i].Operation, ProcessID: uint32(os.Getppid()), UserName: "a\"d,a " + strconv.Itoa(i), Executable: "sshd", Terminal: "pts/0", RemoteAddress: "203.0.113.5", HitCount: 1}
	}
	want = append(want, secmsg.LoginRecord{Operation: "LoginFailed", ProcessID: 1234, UserName: "eve", Executable: "login", Terminal: "tty1", HitCount: 1})
	same(t, wait(4), want)

	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode: %v, %v", st.Mode(), err)
	}
	if err := AppendPAM(path, 3, os.Getenv, now); err == nil || !strings.Contains(err.Error(), "3 is no code") {
		t.Errorf("code 3: %v", err)
	}
	if err := os.Truncate(path, maxPAMLog+1); err != nil {
		t.Fatal(err)
	}
	if err := AppendPAM(path, 0, os.Getenv, now); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Size() > 200 {
		t.Errorf("the file was not put aside: %v", err)
	}
}

// A journal that systemd wrote, and goes on writing.
func TestJournal(t *testing.T) {
	t.Parallel()
	remote := "/lib/systemd/systemd-journal-remote"
	if !there(remote) {
		t.Fatal(remote + " is missing: make deps installs it")
	}
	dir := t.TempDir()
	cmd := exec.Command(remote, "--output="+filepath.Join(dir, "auth.journal"), "-")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %s", err, complaint.String())
		}
	})
	n := 0
	entry := func(facility int, uid, message string) {
		n++
		fmt.Fprintf(in, "__CURSOR=s=1;i=%x\n__REALTIME_TIMESTAMP=%d\n__MONOTONIC_TIMESTAMP=%d\n_BOOT_ID=0123456789abcdef0123456789abcdef\n_MACHINE_ID=0123456789abcdef0123456789abcdef\n"+
			"SYSLOG_FACILITY=%d\nSYSLOG_IDENTIFIER=sshd\n_PID=77\n_UID=%s\nMESSAGE=%s\n\n", n, time.Now().UnixMicro(), 1000*n, facility, uid, message)
	}
	entry(10, "0", "Accepted password for before from 203.0.113.5 port 1 ssh2")
	written := func() bool {
		out, err := exec.Command("journalctl", "-q", "-o", "cat", "-D", dir).Output()
		return err == nil && strings.Contains(string(out), "before")
	}
	for deadline := time.Now().Add(10 * time.Second); !written(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no journal: %s", complaint.String())
		}
	}
	w, wait := watch(t, Config{AuthLogs: []string{}, Journal: dir})
	if w.Source() != "journald" {
		t.Fatalf("the source is %s", w.Source())
	}
	// journalctl does not say when it waits for more: entries are written until one comes.
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for {
			entry(10, "1000", "Accepted password for forged from 203.0.113.5 port 1 ssh2")
			entry(3, "0", "Accepted password for other from 203.0.113.5 port 1 ssh2") // not about authentication
			entry(10, "0", "Accepted password for ada from 203.0.113.5 port 1 ssh2")
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	got := wait(1)
	close(stop)
	writer.Wait()
	same(t, got[:1], []secmsg.LoginRecord{{Operation: "Login", ProcessID: 77, UserName: "ada", Executable: "sshd", RemoteAddress: "203.0.113.5", HitCount: 1}})
}

func TestRun_WithoutAnySource(t *testing.T) {
	t.Parallel()
	none := filepath.Join(t.TempDir(), "none")
	err := New(Config{AuthLogs: []string{none}, Journal: none, Wtmp: none, Btmp: none}).Run(t.Context(), func(collect.Observation) {})
	if err == nil || !strings.Contains(err.Error(), "install a system log") {
		t.Errorf("got %v", err)
	}
}

func FuzzParsers(f *testing.F) {
	for _, l := range authLines {
		f.Add([]byte(l.line))
		b, err := json.Marshal(map[string]string{"MESSAGE": l.line, "SYSLOG_IDENTIFIER": "sshd"})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("2021-07-20T17:43:40.123+03:00,1,1234,auth,login,eve,,/dev/tty1,2"))
	f.Add(make([]byte, utmpSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		check := func(r secmsg.LoginRecord, ok bool) {
			if ok && (r.Operation == "" || r.HitCount == 0 || len(r.UserName) > 800 || strings.ContainsAny(r.UserName, "\n\x00")) {
				t.Errorf("%+v", r)
			}
		}
		check(parseSyslog(string(b)))
		check(parseJournal(b))
		check(ParsePAM(string(b)))
		check(parseWtmp(b, map[string]string{}))
		check(parseBtmp(b))
	})
}

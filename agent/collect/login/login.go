// Package login sees people sign in and out, and fail to. With PAM asked for, it reads what the helper writes that PAM calls; otherwise
// the log of authentications, as a file or from the journal; where there is none, the records wtmp and btmp (defender §3.3). Only
// one of them is read, for each would tell the same again.
package login

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Config of a Watcher. The zero value is ready.
type Config struct {
	PAM       bool     // the twin's Login_UsePAM
	PAMLog    string   // default DefaultPAMLog
	AuthLogs  []string // default /var/log/auth.log, /var/log/secure, /var/log/messages
	Journal   string   // directory of the journal; default /run/log/journal and /var/log/journal
	Wtmp      string   // default /var/log/wtmp
	Btmp      string   // default /var/log/btmp
	NoJournal bool     // the journal is not read
}

// Watcher sees logins.
type Watcher struct {
	cfg    Config
	source atomic.Pointer[string]
	cut    atomic.Uint64
}

var _ collect.Watcher = (*Watcher)(nil)

// New makes a watcher.
func New(cfg Config) *Watcher {
	set := func(s *string, usual string) {
		if *s == "" {
			*s = usual
		}
	}
	set(&cfg.PAMLog, DefaultPAMLog)
	set(&cfg.Wtmp, "/var/log/wtmp")
	set(&cfg.Btmp, "/var/log/btmp")
	if cfg.AuthLogs == nil {
		cfg.AuthLogs = []string{"/var/log/auth.log", "/var/log/secure", "/var/log/messages"}
	}
	return &Watcher{cfg: cfg}
}

// Source says where it looks.
func (w *Watcher) Source() string {
	if s := w.source.Load(); s != nil {
		return *s
	}
	return "not started"
}

// Cut counts lines that were too long to be read.
func (w *Watcher) Cut() uint64 { return w.cut.Load() }

func there(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Run follows the source until ctx ends.
func (w *Watcher) Run(ctx context.Context, emit func(collect.Observation)) error {
	see := func(r secmsg.LoginRecord) { emit(observation(r)) }
	if w.cfg.PAM {
		f := &follower{path: w.cfg.PAMLog, lines: func(line string) {
			if r, ok := ParsePAM(line); ok {
				see(r)
			}
		}, cut: &w.cut}
		return w.follow(ctx, "PAM ("+w.cfg.PAMLog+")", f)
	}
	if i := slices.IndexFunc(w.cfg.AuthLogs, there); i >= 0 {
		f := &follower{path: w.cfg.AuthLogs[i], lines: func(line string) {
			if r, ok := parseSyslog(line); ok {
				see(r)
			}
		}, cut: &w.cut}
		return w.follow(ctx, w.cfg.AuthLogs[i], f)
	}
	var reasons []string
	err := w.journal(ctx, see)
	if ctx.Err() != nil {
		return nil
	}
	if len(w.cfg.AuthLogs) > 0 {
		reasons = append(reasons, "no "+strings.Join(w.cfg.AuthLogs, ", "))
	}
	reasons = append(reasons, "no journal: "+err.Error())
	if !there(w.cfg.Wtmp) && !there(w.cfg.Btmp) {
		return fmt.Errorf("logins cannot be watched: %s, no %s and no %s; install a system log, or call the agent's helper from PAM and set Login_UsePAM", strings.Join(reasons, "; "), w.cfg.Wtmp, w.cfg.Btmp)
	}
	records := func(path string, parse func([]byte) (secmsg.LoginRecord, bool)) *follower {
		return &follower{path: path, size: utmpSize, record: func(b []byte) {
			if r, ok := parse(b); ok {
				see(r)
			}
		}}
	}
	lines := map[string]string{} // who is at a terminal, for a logout says the terminal alone
	return w.follow(ctx, w.cfg.Wtmp+", "+w.cfg.Btmp+" ("+strings.Join(reasons, "; ")+")",
		records(w.cfg.Wtmp, func(b []byte) (secmsg.LoginRecord, bool) { return parseWtmp(b, lines) }), records(w.cfg.Btmp, parseBtmp))
}

func observation(r secmsg.LoginRecord) collect.Observation {
	r.HitCount = max(r.HitCount, 1)
	return collect.Observation{
		Event: "Login", Key: strings.Join([]string{r.Operation, r.UserName, r.Executable, r.Terminal, r.RemoteAddress}, "\x00"),
		Time: time.Now(), Hits: r.HitCount, Item: r,
	}
}

// journalDirectories are where a journal is that services write to.
func (w *Watcher) journalDirectories() []string {
	if w.cfg.Journal != "" {
		return []string{w.cfg.Journal}
	}
	return []string{"/run/log/journal", "/var/log/journal"}
}

func hasJournal(dir string) bool {
	for _, pattern := range []string{"*.journal", "*/*.journal"} {
		if m, err := filepath.Glob(filepath.Join(dir, pattern)); err == nil && len(m) > 0 {
			return true
		}
	}
	return false
}

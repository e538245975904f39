package login

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vauban-iot/vauban/wire/secmsg"
)

// journal follows the journal by journalctl, which knows its format. Only what was logged as about authentication is asked for.
func (w *Watcher) journal(ctx context.Context, see func(secmsg.LoginRecord)) error {
	if w.cfg.NoJournal {
		return errors.New("not wanted")
	}
	i := slices.IndexFunc(w.journalDirectories(), hasJournal)
	if i < 0 {
		return fmt.Errorf("nothing in %s", strings.Join(w.journalDirectories(), " and "))
	}
	path, err := exec.LookPath("journalctl")
	if err != nil {
		return err
	}
	args := []string{"-f", "-o", "json", "-n", "0", "-q", "SYSLOG_FACILITY=4", "SYSLOG_FACILITY=10"}
	if w.cfg.Journal != "" {
		args = append(args, "-D", w.cfg.Journal)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	source := "journald"
	w.source.Store(&source)
	s := bufio.NewScanner(out)
	s.Buffer(make([]byte, 0, 4096), 1<<20)
	for s.Scan() {
		if r, ok := parseJournal(s.Bytes()); ok {
			see(r)
		}
	}
	if s.Err() != nil {
		w.cut.Add(1)
		_ = cmd.Cancel()
	}
	return fmt.Errorf("journalctl ended: %w", errors.Join(s.Err(), cmd.Wait()))
}

// parseJournal reads an entry as journalctl writes it. A message that is no text is a list of numbers, and of no concern.
func parseJournal(b []byte) (secmsg.LoginRecord, bool) {
	var e struct {
		Message    string `json:"MESSAGE"`
		Identifier string `json:"SYSLOG_IDENTIFIER"`
		Command    string `json:"_COMM"`
		PID        string `json:"_PID"`
		SyslogPID  string `json:"SYSLOG_PID"`
		UID        string `json:"_UID"`
	}
	if json.Unmarshal(b, &e) != nil || e.UID != "" && e.UID != "0" { // anyone may log in another's name, but not as root
		return secmsg.LoginRecord{}, false
	}
	program := e.Identifier
	if program == "" {
		program = e.Command
	}
	if e.SyslogPID != "" {
		e.PID = e.SyslogPID
	}
	pid, _ := strconv.ParseUint(e.PID, 10, 32)
	return parseMessage(program, uint32(pid), e.Message)
}

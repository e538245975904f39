// Package process sees programs start. It prefers eBPF, which sees those that live for less than a millisecond too, with their
// arguments; then the kernel's process connector over netlink, which sees all but may come too late to read the arguments of the
// shortest; then it looks at /proc every tenth of a second (defender §3.3).
package process

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/agent/collect/proc"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Mode is the twin's Process_Mode (defender §1.5).
type Mode int

// The modes. Zero is Auto.
const (
	Auto    Mode = 1 // the best that works here
	Netlink Mode = 2
	Polling Mode = 3
)

// Config of a Watcher. The zero value is ready.
type Config struct {
	Mode            Mode
	PollingInterval time.Duration // default 100 ms, at least 10 ms
	FS              proc.FS       // default /proc
	Names           *proc.Names   // default /etc/passwd
}

// Watcher sees processes start.
type Watcher struct {
	cfg    Config
	source atomic.Pointer[string]
	lost   atomic.Uint64
}

var _ collect.Watcher = (*Watcher)(nil)

// New makes a watcher.
func New(cfg Config) *Watcher {
	if cfg.PollingInterval <= 0 {
		cfg.PollingInterval = 100 * time.Millisecond
	}
	cfg.PollingInterval = max(cfg.PollingInterval, 10*time.Millisecond)
	if cfg.FS == "" {
		cfg.FS = proc.Root
	}
	if cfg.Names == nil {
		cfg.Names = &proc.Names{}
	}
	return &Watcher{cfg: cfg}
}

// Source says where it looks, and why not at something better.
func (w *Watcher) Source() string {
	if s := w.source.Load(); s != nil {
		return *s
	}
	return "not started"
}

// Lost counts the starts that were missed because they came faster than they were read.
func (w *Watcher) Lost() uint64 { return w.lost.Load() }

// event is a program that was started, as a source tells of it.
type event struct {
	pid, parent, uid uint32
	path             string // as it was asked for; may be relative
	line             string
	whole            bool // the source told everything but the full path
}

// source hands over events until ctx ends. ready is called when nothing is missed any more.
type source struct {
	name string
	run  func(ctx context.Context, ready func(), see func(event)) error
}

// Run tries the sources in turn. One that fails when it ran already is given up for the next.
func (w *Watcher) Run(ctx context.Context, emit func(collect.Observation)) error {
	all := []source{{"eBPF", w.runEBPF}, {"netlink", w.runNetlink}, {"polling " + string(w.cfg.FS), w.runPolling}}
	switch w.cfg.Mode {
	case Netlink:
		all = all[1:2]
	case Polling:
		all = all[2:]
	}
	var reasons []string
	var err error
	for _, s := range all {
		ready := func() {
			name := s.name
			if len(reasons) > 0 {
				name += " (" + strings.Join(reasons, "; ") + ")"
			}
			w.source.Store(&name)
		}
		if err = s.run(ctx, ready, func(e event) { w.see(e, emit) }); ctx.Err() != nil {
			return nil
		}
		if err == nil {
			err = errors.New("it ended")
		}
		reasons = append(reasons, fmt.Sprintf("no %s: %v", s.name, err))
	}
	return fmt.Errorf("processes cannot be watched: %s; run the agent as root, or set Process_Mode to 3 for polling", strings.Join(reasons, "; "))
}

// see fills in what /proc knows and hands it over.
func (w *Watcher) see(e event, emit func(collect.Observation)) {
	p := secmsg.Process{
		Executable: e.path, ProcessID: e.pid, ParentProcessID: e.parent, UserID: e.uid, CommandLine: e.line, EventType: "EXEC", HitCount: 1,
	}
	if !e.whole {
		now, err := w.cfg.FS.Process(e.pid)
		if err != nil {
			if p.Executable == "" && p.CommandLine == "" {
				w.lost.Add(1) // gone before anyone could look; nothing can be said of it
				return
			}
		} else {
			p.Executable, p.CommandLine, p.ParentProcessID, p.UserID = now.Executable, now.CommandLine, now.Parent, now.UserID
		}
		if p.Executable == "" && p.CommandLine == "" {
			return // a thread of the kernel
		}
	} else if !filepath.IsAbs(p.Executable) {
		if full, _ := w.cfg.FS.Program(e.pid); full != "" {
			p.Executable = full
		}
	}
	p.UserName = w.cfg.Names.Name(p.UserID)
	if p.CommandLine == "" {
		p.CommandLine = p.Executable
	}
	emit(collect.Observation{
		Event: "Process", Key: strconv.FormatUint(uint64(p.UserID), 10) + "\x00" + p.CommandLine, Time: time.Now(), Hits: 1, Item: p,
	})
}

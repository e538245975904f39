package process

import (
	"context"
	"time"
)

// settled is for how long a new process is looked at again: it may be the copy of another that is about to become its own program.
const settled = time.Second

// seen is a process that polling knows.
type seen struct {
	start uint64
	line  string
	since time.Time
	round uint64
}

func (w *Watcher) runPolling(ctx context.Context, ready func(), see func(event)) error {
	known := map[uint32]*seen{}
	var round uint64
	look := func(first bool) error {
		pids, err := w.cfg.FS.PIDs()
		if err != nil {
			return err
		}
		round++
		now := time.Now()
		for _, pid := range pids {
			s, ok := known[pid]
			if ok {
				s.round = round
				if now.Sub(s.since) > settled {
					continue
				}
			}
			p, err := w.cfg.FS.Process(pid)
			if err != nil {
				continue
			}
			line := p.Executable + "\x00" + p.CommandLine
			if ok && s.start == p.Start && s.line == line {
				continue
			}
			fresh := &seen{start: p.Start, line: line, since: now, round: round}
			if first {
				fresh.since = time.Time{}
			}
			inherited := !ok && known[p.Parent] != nil && known[p.Parent].line == line // a copy that runs no program of its own yet
			known[pid] = fresh
			if !first && !inherited {
				see(event{pid: pid})
			}
		}
		for pid, s := range known {
			if s.round != round {
				delete(known, pid)
			}
		}
		return nil
	}
	if err := look(true); err != nil {
		return err
	}
	ready()
	tick := time.NewTicker(w.cfg.PollingInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := look(false); err != nil {
				return err
			}
		}
	}
}

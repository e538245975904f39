package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/agent/config"
)

// What is asked of the status socket is one line: nothing, for the status alone, or "flush" and names of collectors.
const (
	flushWord = "flush"
	flushTime = snapshotTime + time.Minute
	maxLine   = 1024

	maxWaiting = 16 // who wait for the agent to look
)

// flush makes collectors due at once.
type flush struct {
	names []string      // none: all
	done  chan struct{} // closed when what they saw is in the queue
	err   chan error    // says what is wrong; has room for one
}

// flush of the loop: what is asked for is due now.
func (a *Agent) flush(f flush) {
	for _, name := range f.names {
		if _, ok := a.due[name]; !ok {
			f.err <- fmt.Errorf("there is no collector %s, or it is switched off", name)
			return
		}
	}
	if len(a.waiting) >= maxWaiting {
		f.err <- fmt.Errorf("%d wait already for the agent to look", maxWaiting)
		return
	}
	now := time.Now()
	for name := range a.due {
		if len(f.names) == 0 || slices.Contains(f.names, name) {
			a.due[name] = now
		}
	}
	a.waiting = append(a.waiting, f.done)
}

// answer does what one line asks for, and tells the status.
func (a *Agent) answer(ctx context.Context, c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(statusTime))
	line, _ := bufio.NewReader(io.LimitReader(c, maxLine)).ReadString('\n') // who asks for nothing gets the status
	words := strings.Fields(line)
	var out answer
	if len(words) > 0 && words[0] == flushWord {
		_ = c.SetDeadline(time.Now().Add(flushTime))
		if err := a.flushed(ctx, words[1:]); err != nil {
			out.Refused = err.Error()
		}
	}
	out.Status = a.Status()
	_ = json.NewEncoder(c).Encode(out) // who left does not want it
}

var errEnding = errors.New("the agent ends")

func (a *Agent) flushed(ctx context.Context, names []string) error {
	f := flush{names: names, done: make(chan struct{}), err: make(chan error, 1)}
	late := time.NewTimer(flushTime)
	defer late.Stop()
	select {
	case a.flushes <- f:
	case <-ctx.Done():
		return errEnding
	case <-late.C:
		return errors.New("the agent is busy")
	}
	select {
	case <-f.done:
		return nil
	case err := <-f.err:
		return err
	case <-ctx.Done():
		return errEnding
	case <-late.C:
		return errors.New("it takes longer than expected, and goes on")
	}
}

// Flush makes the agent that runs in a state folder look at once, by the collectors that are named or, without names, by all, and put
// what they see into its queue. It returns the agent's status afterwards.
func Flush(dir string, names ...string) (Status, error) {
	for _, n := range names {
		if !slices.Contains(config.Names, n) {
			return Status{}, fmt.Errorf("there is no collector %q; there are %s", n, strings.Join(config.Names, ", "))
		}
	}
	a, err := ask(dir, strings.Join(append([]string{flushWord}, names...), " "), flushTime+statusTime)
	if err == nil && a.Refused != "" {
		err = errors.New(a.Refused)
	}
	return a.Status, err
}

// states are the collectors whose snapshot says something when nothing is there: that there is no open port any more.
var states = []string{config.Baseline, config.SBoM, config.ListeningPorts, config.LocalUsers, config.FirewallConfiguration}

// told is what is told of a snapshot: one of states that found nothing is an event without content, unless it could not see.
func told(name string, all []collect.Observation, err error) []collect.Observation {
	if len(all) == 0 && err == nil && slices.Contains(states, name) {
		return []collect.Observation{{Event: name, Time: time.Now(), Hits: 1}}
	}
	return all
}

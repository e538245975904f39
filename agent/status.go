package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/vauban-iot/vauban/agent/collect"
)

// Status is what a running agent says of itself.
type Status struct {
	Version         string    `json:"version"`
	PID             int       `json:"pid"`
	Started         time.Time `json:"started"`
	Hub             string    `json:"hub"`
	Device          string    `json:"device"`
	Module          string    `json:"module"`
	Connected       bool      `json:"connected"`
	ConnectionError string    `json:"connectionError,omitempty"`

	Queued      int       `json:"queuedMessages"`
	QueuedBytes int64     `json:"queuedBytes"`
	Sent        uint64    `json:"sentMessages"` // since it started
	LastSent    time.Time `json:"lastSent,omitzero"`
	Dropped     uint64    `json:"droppedMessages"` // because the queue was full
	Expired     uint64    `json:"expiredMessages"` // because they waited for too long

	InvalidProperties []string       `json:"invalidProperties,omitempty"` // of the twin
	Sources           []SourceStatus `json:"sources"`

	hubResource string
}

// SourceStatus is one collector.
type SourceStatus struct {
	Name     string    `json:"name"`
	From     string    `json:"from,omitempty"` // where a watcher looks
	Priority string    `json:"priority"`
	Every    string    `json:"every"`
	Last     time.Time `json:"last,omitzero"`
	Error    string    `json:"error,omitempty"` // why it sees less than everything

	watcher collect.Watcher
}

// Status returns it.
func (a *Agent) Status() Status {
	q := a.queue.State()
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.status
	s.Sources = slices.Clone(s.Sources)
	for i := range s.Sources {
		if w := s.Sources[i].watcher; w != nil {
			s.Sources[i].From = w.Source()
		}
	}
	s.Version, s.PID, s.Started = a.cfg.Version, os.Getpid(), a.start
	s.Hub, s.Device, s.Module = a.client.ID()
	s.Queued, s.QueuedBytes, s.Dropped = q.Messages, q.Bytes, q.Dropped
	return s
}

const statusSocket = "agent.sock"

func socketPath(dir string) string { return filepath.Join(dir, statusSocket) }

// listenStatus opens the socket where the status is told to whoever may enter the folder.
func listenStatus(dir string) (net.Listener, error) {
	path := socketPath(dir)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // of one that was killed: the lock is ours
		return nil, err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("the status socket: %w (the path of the state folder may be too long: a socket's has 107 bytes at most)", err)
	}
	return ln, nil
}

const statusTime = 5 * time.Second

func (a *Agent) serveStatus(ctx context.Context, ln net.Listener) {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := ln.Accept()
		if err != nil {
			if ctx.Err() == nil {
				a.log.Error("the status is not told any longer", "err", err)
			}
			return
		}
		wg.Go(func() {
			defer c.Close()
			a.answer(ctx, c)
		})
	}
}

// ErrNotRunning is returned by ReadStatus and Flush when no agent runs in the folder.
var ErrNotRunning = errors.New("no agent runs in this state folder")

// ReadStatus asks the agent that runs in a state folder.
func ReadStatus(dir string) (Status, error) {
	a, err := ask(dir, "", statusTime)
	return a.Status, err
}

// answer is what the socket says.
type answer struct {
	Status
	Refused string `json:"refused,omitempty"`
}

// ask sends a line and reads the answer.
func ask(dir, line string, wait time.Duration) (s answer, err error) {
	c, err := net.DialTimeout("unix", socketPath(dir), statusTime)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return s, ErrNotRunning
	}
	if err != nil {
		return s, fmt.Errorf("the agent cannot be asked: %w", err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(wait))
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		return s, fmt.Errorf("the agent cannot be asked: %w", err)
	}
	if err := json.NewDecoder(io.LimitReader(c, 1<<20)).Decode(&s); err != nil {
		return s, fmt.Errorf("the agent's answer cannot be read: %w", err)
	}
	return s, nil
}

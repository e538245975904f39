package agent

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/agent/config"
	"github.com/vauban-iot/vauban/agent/queue"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// counted is a snapshot that says how often it was taken; it sees what it says.
type counted struct {
	n    atomic.Int32
	all  []collect.Observation
	fail error
}

func (c *counted) Take(context.Context) ([]collect.Observation, error) {
	c.n.Add(1)
	return c.all, c.fail
}

// Whoever may enter the folder makes the agent look at once; what is found is on the disk when the answer comes.
func TestFlush(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	if err := a.queue.Close(); err != nil { // Run opens its own
		t.Fatal(err)
	}
	ports, users, packages := &counted{}, &counted{all: []collect.Observation{{Event: config.LocalUsers, Hits: 1, Item: secmsg.LocalUser{UserName: "root"}}}}, &counted{fail: errors.New("no dpkg")}
	a.cfg.First = time.Hour
	a.cfg.Sources = func(config.Settings) []Source {
		return []Source{{Name: config.ListeningPorts, Snapshot: ports}, {Name: config.LocalUsers, Snapshot: users}, {Name: config.SBoM, Snapshot: packages}}
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	dir := a.cfg.Dir
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := ReadStatus(dir); err == nil {
			break
		} else if !errors.Is(err, ErrNotRunning) || time.Now().After(end) {
			t.Fatal(err)
		}
	}
	if s, err := Flush(dir, config.ListeningPorts); err != nil || s.Queued != 1 || ports.n.Load() != 1 || users.n.Load() != 0 {
		t.Errorf("one collector: %d messages, %d and %d snapshots, %v", s.Queued, ports.n.Load(), users.n.Load(), err)
	}
	if s, err := Flush(dir); err != nil || s.Queued != 2 || ports.n.Load() != 2 || users.n.Load() != 1 || packages.n.Load() != 1 {
		t.Errorf("all: %d messages, %v", s.Queued, err)
	}
	for name, want := range map[string]string{"Nonsense": "there is no collector", config.Process: "Process, or it is switched off"} {
		if _, err := Flush(dir, name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Who sends nothing is told the status, and what is no request is none.
	for _, line := range []string{"", strings.Repeat("x", 4*maxLine) + "\n"} {
		c, err := net.Dial("unix", socketPath(dir))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte(line))
		_ = c.(*net.UnixConn).CloseWrite()
		b := make([]byte, 1)
		if n, err := c.Read(b); n != 1 || b[0] != '{' {
			t.Errorf("%.10q: %d bytes, %v", line, n, err)
		}
		c.Close()
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := Flush(dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("of none that runs: %v", err)
	}
	q, err := queue.Open(dir+"/queue", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	var events []string
	for range 2 {
		m, mark, err := q.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		r, err := secmsg.Decode(m.Label, m.Body)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range r.Events {
			name := e.Name
			if e.Empty {
				name += " without content"
			}
			events = append(events, name)
		}
		if err := q.Done(mark); err != nil {
			t.Fatal(err)
		}
	}
	// That there is no port is told; that nobody knows what is installed is not that nothing is.
	for _, want := range []string{"ListeningPorts without content", config.LocalUsers} {
		if !slices.Contains(events, want) {
			t.Errorf("%s is not among %q", want, events)
		}
	}
	if strings.Contains(strings.Join(events, " "), config.SBoM) {
		t.Errorf("a snapshot that failed is told: %q", events)
	}
}

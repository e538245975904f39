// Package ports lists the sockets that wait for others, with their processes.
package ports

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/agent/collect/proc"
	"github.com/vauban-iot/vauban/agent/collect/socket"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// maxPorts bounds a listing. A machine that listens on more is told with as many.
const maxPorts = 1024

// Snapshot lists listening ports. The zero value is ready.
type Snapshot struct {
	FS proc.FS // default /proc

	source atomic.Pointer[string]
}

var _ collect.Snapshot = (*Snapshot)(nil)

// Source says where it looked last.
func (s *Snapshot) Source() string {
	if p := s.source.Load(); p != nil {
		return *p
	}
	return "not started"
}

// Take returns a ListeningPort for each.
func (s *Snapshot) Take(context.Context) ([]collect.Observation, error) {
	fs := s.FS
	if fs == "" {
		fs = proc.Root
	}
	all, source, err := socket.List(fs)
	if err != nil {
		return nil, err
	}
	s.source.Store(&source)
	processes, _, err := fs.Sockets()
	var ports []secmsg.ListeningPort
	for _, k := range all {
		if !k.Listening || k.Local.Port() == 0 {
			continue
		}
		p := secmsg.ListeningPort{Local: k.Local, Protocol: k.Protocol, ProcessID: processes[k.Inode]}
		if p.ProcessID != 0 {
			p.Executable, _ = fs.Program(p.ProcessID)
		}
		ports = append(ports, p)
	}
	slices.SortFunc(ports, func(a, b secmsg.ListeningPort) int {
		if c := strings.Compare(a.Protocol, b.Protocol); c != 0 {
			return c
		}
		return a.Local.Compare(b.Local)
	})
	ports = slices.CompactFunc(ports, func(a, b secmsg.ListeningPort) bool { return a.Protocol == b.Protocol && a.Local == b.Local }) // SO_REUSEPORT
	if n := len(ports); n > maxPorts {
		ports = ports[:maxPorts]
		err = fmt.Errorf("%d listening ports are more than the %d that are told", n, maxPorts)
	}
	now := time.Now()
	observations := make([]collect.Observation, 0, len(ports))
	for _, p := range ports {
		observations = append(observations, collect.Observation{Event: "ListeningPorts", Time: now, Hits: 1, Item: p})
	}
	return observations, err
}

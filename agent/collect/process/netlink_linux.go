package process

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Of linux/connector.h and linux/cn_proc.h.
const (
	cnIdxProc, cnValProc = 1, 1
	mcastListen          = 1
	eventNone            = 0
	eventExec            = 2

	headerSize  = 16 // struct nlmsghdr
	cnSize      = 20 // struct cn_msg
	eventHeader = 16 // what, cpu, timestamp
)

var native = binary.NativeEndian

// runNetlink asks the process connector, which tells of the network namespace the machine started with alone.
func (w *Watcher) runNetlink(ctx context.Context, ready func(), see func(event)) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_CONNECTOR)
	if err != nil {
		return fmt.Errorf("the process connector: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: cnIdxProc}); err != nil {
		return fmt.Errorf("the process connector: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1<<20) // bursts; the usual size serves too
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000}); err != nil {
		return fmt.Errorf("the process connector: %w", err)
	}
	if err := unix.Sendto(fd, listen(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("the process connector: %w", err)
	}
	b := make([]byte, 16<<10)
	acknowledged, asked := false, time.Now()
	for ctx.Err() == nil {
		n, from, err := unix.Recvfrom(fd, b, 0)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			if !acknowledged && time.Since(asked) > 2*time.Second {
				return errors.New("the process connector does not answer; it answers root, outside of containers")
			}
			continue
		case errors.Is(err, unix.ENOBUFS):
			w.lost.Add(1)
			continue
		case err != nil:
			return fmt.Errorf("the process connector: %w", err)
		}
		if a, ok := from.(*unix.SockaddrNetlink); !ok || a.Pid != 0 {
			continue // only the kernel is believed
		}
		for e := range connectorEvents(b[:n]) {
			switch {
			case e.what == eventNone && !acknowledged:
				acknowledged = true
				if e.pid != 0 {
					return fmt.Errorf("the process connector: %w", unix.Errno(e.pid))
				}
				ready()
			case e.what == eventExec:
				see(event{pid: e.pid})
			}
		}
	}
	return nil
}

// listen is the request for events.
func listen() []byte {
	b := make([]byte, headerSize+cnSize+4)
	native.PutUint32(b[0:], uint32(len(b)))
	native.PutUint16(b[4:], unix.NLMSG_DONE)
	cn := b[headerSize:]
	native.PutUint32(cn[0:], cnIdxProc)
	native.PutUint32(cn[4:], cnValProc)
	native.PutUint16(cn[16:], 4)
	native.PutUint32(cn[cnSize:], mcastListen)
	return b
}

// connectorEvent is an event of the connector. Of eventNone, the answer to a request, pid is its error.
type connectorEvent struct{ what, pid uint32 }

// connectorEvents reads the messages of a datagram.
func connectorEvents(b []byte) func(yield func(connectorEvent) bool) {
	return func(yield func(connectorEvent) bool) {
		for len(b) >= headerSize {
			n := int(native.Uint32(b))
			if n < headerSize || n > len(b) {
				return
			}
			m := b[headerSize:n]
			b = b[min(len(b), (n+3)&^3):]
			if len(m) < cnSize || native.Uint32(m) != cnIdxProc || native.Uint32(m[4:]) != cnValProc {
				continue
			}
			e := m[cnSize:]
			if size := int(native.Uint16(m[16:])); size < eventHeader+4 || size > len(e) {
				continue
			}
			what, first := native.Uint32(e), native.Uint32(e[eventHeader:])
			if what == eventExec {
				if len(e) < eventHeader+8 {
					continue
				}
				first = native.Uint32(e[eventHeader+4:]) // of the process, not of the thread
			}
			if !yield(connectorEvent{what, first}) {
				return
			}
		}
	}
}

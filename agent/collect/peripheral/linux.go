//go:build linux

package peripheral

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vauban-iot/vauban/wire/secmsg"
)

type ueventSocket struct {
	fd int
	b  []byte
}

func openUevents() (ueventSource, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, err
	}
	const kernel = 1 // the other group is udev's
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernel}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &ueventSocket{fd: fd, b: make([]byte, 16<<10)}, nil
}

func (u *ueventSocket) close() { unix.Close(u.fd) }

func (u *ueventSocket) read(wait time.Duration) ([]byte, error) {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(u.fd), Events: unix.POLLIN}}, int(wait.Milliseconds()))
	if errors.Is(err, unix.EINTR) || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	n, from, err := unix.Recvfrom(u.fd, u.b, unix.MSG_DONTWAIT)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOBUFS): // too many at once: some are lost
		return nil, nil
	case err != nil:
		return nil, err
	}
	if a, ok := from.(*unix.SockaddrNetlink); !ok || a.Pid != 0 {
		return nil, nil // only the kernel is believed
	}
	return u.b[:n], nil
}

// linkWatch follows network cards.
type linkWatch struct {
	virtual bool
	updates chan netlink.LinkUpdate
	failed  chan error
	done    chan struct{}
	up      map[string]bool // those with a cable
}

// maxLinks bounds the cards that are remembered.
const maxLinks = 1024

// openLinks subscribes first and lists then, so that nothing falls between.
func openLinks(virtual bool) (*linkWatch, error) {
	l := &linkWatch{virtual: virtual, updates: make(chan netlink.LinkUpdate, 64), failed: make(chan error, 1), done: make(chan struct{}), up: map[string]bool{}}
	err := netlink.LinkSubscribeWithOptions(l.updates, l.done, netlink.LinkSubscribeOptions{ErrorCallback: func(err error) {
		select {
		case l.failed <- err:
		default:
		}
	}})
	if err != nil {
		return nil, err
	}
	all, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		close(l.done)
		return nil, err
	}
	for _, k := range all {
		if a := k.Attrs(); l.counts(k) && a.RawFlags&unix.IFF_LOWER_UP != 0 {
			l.up[a.Name] = true
		}
	}
	return l, nil
}

// counts reports whether a link is an Ethernet card, or the like.
func (l *linkWatch) counts(k netlink.Link) bool {
	a := k.Attrs()
	if a.EncapType != "ether" || slices.Contains([]string{"bridge", "vlan", "bond", "dummy"}, k.Type()) {
		return false
	}
	return l.virtual || k.Type() == "device" // what software makes has a kind of its own
}

func (l *linkWatch) run(ctx context.Context, see func(secmsg.Peripheral)) error {
	defer close(l.done)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-l.failed:
			return fmt.Errorf("rtnetlink: %w", err)
		case u, ok := <-l.updates:
			if !ok {
				return errors.New("rtnetlink ended")
			}
			if l.counts(u.Link) {
				a := u.Attrs()
				up := u.Header.Type != unix.RTM_DELLINK && a.RawFlags&unix.IFF_LOWER_UP != 0
				if up == l.up[a.Name] || up && len(l.up) >= maxLinks {
					continue
				}
				p := secmsg.Peripheral{Type: secmsg.Ethernet, Action: secmsg.Connect, InterfaceName: a.Name}
				if up {
					l.up[a.Name] = true
				} else {
					delete(l.up, a.Name)
					p.Action = secmsg.Disconnect
				}
				see(p)
			}
		}
	}
}

// Package socket lists the machine's IP sockets: by inet_diag, which counts the bytes of TCP, or from /proc/net where that is not
// allowed.
package socket

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vauban-iot/vauban/agent/collect/proc"
)

// max bounds the sockets of one listing.
const maxSockets = 1 << 16

// Socket is a TCP or UDP socket.
type Socket struct {
	Protocol      string // TCP or UDP
	Local, Remote netip.AddrPort
	Listening     bool // for connections or, of UDP, for datagrams from anyone
	Inode         uint64
	UserID        uint32
	BytesIn       uint64 // of TCP, by inet_diag only
	BytesOut      uint64
}

// List returns all sockets and how it came to know them.
func List(fs proc.FS) (all []Socket, source string, err error) {
	if all, err = diag(); err == nil {
		return all, "inet_diag", nil
	}
	all, fallback := FromProc(fs)
	if fallback != nil {
		return nil, "", fmt.Errorf("sockets cannot be listed: inet_diag: %w; /proc/net: %w", err, fallback)
	}
	return all, fmt.Sprintf("/proc/net (no inet_diag: %v)", err), nil
}

// FromProc reads /proc/net, of the network namespace of the thread that asks.
func FromProc(fs proc.FS) ([]Socket, error) {
	var all []Socket
	var missing error
	found := false
	for _, name := range []string{"tcp", "tcp6", "udp", "udp6"} {
		f, err := os.Open(filepath.Join(string(fs), "thread-self/net", name))
		if err != nil {
			missing = err
			continue // a kernel without IPv6
		}
		found = true
		all = append(all, parse(f, strings.ToUpper(name[:3]), maxSockets-len(all))...)
		f.Close()
	}
	if !found {
		return nil, missing
	}
	return all, nil
}

// States of include/net/tcp_states.h.
const (
	established = 1
	closed      = 7
	listening   = 10
)

// listens reports whether a socket waits for anyone.
func listens(protocol string, state uint64, remote netip.AddrPort) bool {
	if protocol == "TCP" {
		return state == listening
	}
	return state == closed && remote.Port() == 0
}

// parse reads a table of /proc/net. Lines that it does not understand are left out.
func parse(r io.Reader, protocol string, most int) []Socket {
	var all []Socket
	for s := bufio.NewScanner(r); s.Scan() && len(all) < most; {
		f := strings.Fields(s.Text())
		if len(f) < 10 || !strings.HasSuffix(f[0], ":") {
			continue
		}
		local, ok := parseAddress(f[1])
		remote, ok2 := parseAddress(f[2])
		state, err := strconv.ParseUint(f[3], 16, 8)
		uid, err2 := strconv.ParseUint(f[7], 10, 32)
		inode, err3 := strconv.ParseUint(f[9], 10, 64)
		if !ok || !ok2 || err != nil || err2 != nil || err3 != nil {
			continue
		}
		all = append(all, Socket{
			Protocol: protocol, Local: local, Remote: remote, Listening: listens(protocol, state, remote), Inode: inode, UserID: uint32(uid),
		})
	}
	return all
}

// parseAddress reads ADDRESS:PORT in hex. The address is of 32-bit words in the machine's own order.
func parseAddress(s string) (netip.AddrPort, bool) {
	a, p, ok := strings.Cut(s, ":")
	b, err := hex.DecodeString(a)
	port, err2 := strconv.ParseUint(p, 16, 16)
	if !ok || err != nil || err2 != nil || len(b) != 4 && len(b) != 16 {
		return netip.AddrPort{}, false
	}
	if littleEndian {
		for i := 0; i < len(b); i += 4 {
			b[i], b[i+1], b[i+2], b[i+3] = b[i+3], b[i+2], b[i+1], b[i]
		}
	}
	addr, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)), true
}

package login

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"runtime"
	"strings"

	"github.com/vauban-iot/vauban/wire/secmsg"
)

// A record of wtmp and btmp, struct utmp of utmp(5). Where a long has 64 bits and no older program had to be able to read it, it is
// longer at its end.
var (
	utmpSize = map[bool]int{false: 384, true: 400}[wide]
	utmpAddr = map[bool]int{false: 348, true: 360}[wide]
)

var wide = runtime.GOARCH == "arm64" || runtime.GOARCH == "loong64"

const (
	utmpType = 0
	utmpPID  = 4
	utmpLine = 8
	utmpUser = 44
	utmpHost = 76
	utmpExit = 332

	userProcess = 7
	deadProcess = 8

	maxTerminals = 1024
)

func utmpText(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return clean(strings.ToValidUTF8(string(b), "\uFFFD"))
}

func parseUtmp(b []byte) (kind int16, r secmsg.LoginRecord) {
	kind = int16(binary.NativeEndian.Uint16(b[utmpType:]))
	r = secmsg.LoginRecord{
		ProcessID: binary.NativeEndian.Uint32(b[utmpPID:]), Terminal: utmpText(b[utmpLine:][:32]), UserName: utmpText(b[utmpUser:][:32]),
		RemoteAddress: utmpText(b[utmpHost:utmpExit]), HitCount: 1,
	}
	// The address says more than a host's name, if there is one. IPv4 has the first word alone.
	if a := [16]byte(b[utmpAddr:]); a != [16]byte{} {
		if bytes.Equal(a[4:], make([]byte, 12)) {
			r.RemoteAddress = netip.AddrFrom4([4]byte(a[:])).String()
		} else {
			r.RemoteAddress = netip.AddrFrom16(a).Unmap().String()
		}
	}
	switch {
	case strings.HasPrefix(r.Terminal, "ssh"), r.RemoteAddress != "" && r.Terminal != "":
		r.Executable = "sshd"
	default:
		r.Executable = "login"
	}
	return kind, r
}

// parseWtmp reads a record of wtmp. at keeps who is at which terminal.
func parseWtmp(b []byte, at map[string]string) (secmsg.LoginRecord, bool) {
	if len(b) < utmpSize {
		return secmsg.LoginRecord{}, false
	}
	kind, r := parseUtmp(b)
	switch {
	case kind == userProcess && r.UserName != "":
		r.Operation = secmsg.LoggedIn
		if len(at) < maxTerminals || at[r.Terminal] != "" {
			at[r.Terminal] = r.UserName
		}
		return r, true
	case kind == deadProcess:
		if r.UserName == "" {
			r.UserName = at[r.Terminal]
		}
		delete(at, r.Terminal)
		r.Operation = secmsg.LoggedOut
		return r, r.UserName != "" // else of someone who was there before us
	}
	return secmsg.LoginRecord{}, false
}

// parseBtmp reads a record of btmp: each is a login that failed.
func parseBtmp(b []byte) (secmsg.LoginRecord, bool) {
	if len(b) < utmpSize {
		return secmsg.LoginRecord{}, false
	}
	_, r := parseUtmp(b)
	r.Operation = secmsg.LoginFailed
	return r, true
}

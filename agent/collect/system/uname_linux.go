package system

import "golang.org/x/sys/unix"

func kernel() (uname, string) {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return uname{platform: "Linux"}, ""
	}
	text := func(b [65]byte) string { return unix.ByteSliceToString(b[:]) }
	return uname{text(u.Sysname), text(u.Release) + " " + text(u.Version), text(u.Nodename)}, text(u.Machine)
}

package baseline

import (
	"errors"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// otherMounts are the places, by their path in the tree, where something is mounted that is not looked into. They are not even
// asked what they are: a server that is gone would not answer.
func (m *machine) otherMounts() (map[string]bool, error) {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	skip := map[string]bool{}
	for l := range strings.Lines(string(b)) {
		f := strings.Fields(l)
		if len(f) < 3 || walkKinds[f[2]] {
			continue
		}
		at := path.Clean(unescape(f[1]))
		if m.tree.root != "/" {
			var ok bool
			if at, ok = strings.CutPrefix(at, m.tree.root); !ok || at != "" && at[0] != '/' {
				continue
			}
		}
		skip[at] = true
	}
	return skip, nil
}

// walk looks at the files of a device, those nearest to the root first, without following links.
func (m *machine) walk(uids, gids map[uint32]bool) *findings {
	f := &findings{}
	skip, err := m.otherMounts()
	if err != nil {
		f.err = err
		return f
	}
	delete(skip, "/")
	queue := []string{"/"}
	for ; len(queue) > 0 && !f.over; queue = queue[1:] {
		if f.err = m.ctx.Err(); f.err != nil {
			return f
		}
		var below []string
		below, f.err = m.walkDir(queue[0], f, skip, uids, gids)
		if f.err != nil {
			return f
		}
		queue = append(queue, below...)
	}
	return f
}

func (m *machine) walkDir(dir string, f *findings, skip map[string]bool, uids, gids map[uint32]bool) ([]string, error) {
	found, err := m.tree.find(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		if gone(err) || errors.Is(err, unix.EACCES) {
			return nil, nil // it was there a moment ago; or not everybody may look, so nobody else may write
		}
		return nil, err
	}
	defer unix.Close(found)
	fd, err := reopen(found, unix.O_DIRECTORY)
	if err != nil {
		return nil, nil //nolint:nilerr // a directory that this user may not read
	}
	d := os.NewFile(uintptr(fd), "/proc/self/fd/"+strconv.Itoa(fd))
	defer d.Close()
	var below []string
	for {
		names, err := d.Readdirnames(1024)
		for _, n := range names {
			p := path.Join(dir, n)
			if skip[p] || walkSkips[p] {
				continue
			}
			if f.entries == maxWalk {
				f.over = true
				return below, nil
			}
			f.entries++
			var st unix.Stat_t
			if unix.Fstatat(fd, n, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT) != nil {
				continue
			}
			i := infoOf(&st)
			if !uids[i.uid] || !gids[i.gid] {
				f.unowned.add(p)
			}
			switch {
			case i.dir():
				if i.mode&0o002 != 0 && i.mode&unix.S_ISVTX == 0 {
					f.sticky.add(p)
				}
				below = append(below, p)
			case i.regular() && i.mode&0o002 != 0:
				f.writable.add(p)
			}
		}
		if errors.Is(err, io.EOF) || err == nil && len(names) == 0 {
			return below, nil
		}
		if err != nil {
			return below, nil //nolint:nilerr // the directory went away
		}
	}
}

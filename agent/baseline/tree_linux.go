package baseline

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A tree is the filesystem of a device: that of the running system, or one that is mounted below a directory, whose links
// cannot lead out of it.
type tree struct {
	root string // as the running system sees it
	fd   int    // of root; -1 when that is /
}

func openTree(root string) (*tree, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	if root, err = filepath.EvalSymlinks(root); err != nil {
		return nil, err
	}
	if root == "/" {
		return &tree{root, -1}, nil
	}
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: root, Err: err}
	}
	return &tree{root, fd}, nil
}

func (t *tree) close() {
	if t.fd >= 0 {
		unix.Close(t.fd)
	}
}

// find returns a handle that names a file without opening it.
func (t *tree) find(path string, flags int) (int, error) {
	if !strings.HasPrefix(path, "/") {
		return -1, &fs.PathError{Op: "open", Path: path, Err: errors.New("is not an absolute path")}
	}
	flags |= unix.O_PATH | unix.O_CLOEXEC
	for tries := 0; ; tries++ {
		var fd int
		var err error
		if t.fd < 0 {
			fd, err = unix.Open(path, flags, 0)
		} else {
			fd, err = unix.Openat2(t.fd, path, &unix.OpenHow{Flags: uint64(flags), Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
		}
		// EAGAIN: something was renamed while the kernel looked; it asks to try again.
		if (err == unix.EINTR || err == unix.EAGAIN) && tries < 16 {
			continue
		}
		if err != nil {
			return -1, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		return fd, nil
	}
}

// reopen opens the very file that find found, whatever stands under its name by now.
func reopen(fd, flags int) (int, error) {
	return unix.Open("/proc/self/fd/"+strconv.Itoa(fd), flags|unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
}

func (t *tree) stat(path string) (info, error)  { return t.statWith(path, 0) }
func (t *tree) lstat(path string) (info, error) { return t.statWith(path, unix.O_NOFOLLOW) }

func (t *tree) statWith(path string, flags int) (info, error) {
	fd, err := t.find(path, flags)
	if err != nil {
		return info{}, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return info{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return infoOf(&st), nil
}

func infoOf(st *unix.Stat_t) info {
	i := info{mode: st.Mode & 0o7777, uid: st.Uid, gid: st.Gid}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		i.kind = fs.ModeDir
	case unix.S_IFLNK:
		i.kind = fs.ModeSymlink
	default:
		i.kind = fs.ModeIrregular
	}
	return i
}

// openRegular opens a file for reading once it is known to be one.
func (t *tree) openRegular(path string) (fd int, size int64, err error) {
	found, err := t.find(path, 0)
	if err != nil {
		return -1, 0, err
	}
	defer unix.Close(found)
	var st unix.Stat_t
	if err := unix.Fstat(found, &st); err != nil {
		return -1, 0, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return -1, 0, &fs.PathError{Op: "read", Path: path, Err: errNotRegular}
	}
	if fd, err = reopen(found, 0); err != nil {
		return -1, 0, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, st.Size, nil
}

func tooLarge(path string, limit int64) error {
	return fmt.Errorf("%s is larger than %d bytes; it was not read", path, limit)
}

// read returns the contents of a regular file of at most limit bytes. Files of the kernel that would wait are an error.
func (t *tree) read(path string, limit int) ([]byte, error) {
	fd, size, err := t.openRegular(path)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if size > int64(limit) {
		return nil, tooLarge(path, int64(limit))
	}
	var b []byte
	for {
		if len(b) == cap(b) {
			b = slices.Grow(b, max(4096, int(size)+1, len(b)))
		}
		n, err := unix.Read(fd, b[len(b):cap(b)])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "read", Path: path, Err: err}
		}
		if n == 0 {
			return b, nil
		}
		if b = b[:len(b)+n]; len(b) > limit {
			return nil, tooLarge(path, int64(limit))
		}
	}
}

// list returns the names in a directory in order, at most limit.
func (t *tree) list(path string, limit int) ([]string, error) {
	found, err := t.find(path, unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(found)
	entries, err := readDir(found, limit)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	slices.Sort(names)
	return names, nil
}

// errTooMany is for directories with more names than are looked at.
var errTooMany = errors.New("too many files")

func readDir(found, limit int) ([]fs.DirEntry, error) {
	fd, err := reopen(found, unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	// The name lets ReadDir look at entries whose kind the filesystem does not tell.
	d := os.NewFile(uintptr(fd), "/proc/self/fd/"+strconv.Itoa(fd))
	defer d.Close()
	entries, err := d.ReadDir(limit + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(entries) > limit {
		return nil, fmt.Errorf("%w: more than %d", errTooMany, limit)
	}
	return entries, nil
}

func (t *tree) readlink(path string) (string, error) {
	fd, err := t.find(path, unix.O_NOFOLLOW)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var buf [unix.PathMax]byte
	n, err := unix.Readlinkat(fd, "", buf[:])
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: path, Err: err}
	}
	return string(buf[:n]), nil
}

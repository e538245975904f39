package baseline

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// What is read of a device, at most. More is an error that says so: a part of a file proves nothing.
const (
	maxFile    = 1 << 20  // bytes of a configuration file
	maxStatus  = 64 << 20 // bytes of a package manager's list
	maxLine    = 64 << 10 // bytes of a line
	maxEntries = 4096     // names in a directory of configuration
	maxCached  = 8 << 20  // bytes of files kept during a scan
)

// errNotRegular is for pipes, devices, sockets and directories where a file should be. They are never opened: opening a pipe
// waits for its writer, and opening a watchdog starts it.
var errNotRegular = errors.New("is not a regular file; it was not opened")

// info is what a check wants to know about a file.
type info struct {
	mode     uint32 // permissions with setuid, setgid and sticky bit
	kind     fs.FileMode
	uid, gid uint32
}

func (i info) regular() bool { return i.kind == 0 }
func (i info) dir() bool     { return i.kind == fs.ModeDir }

// lines returns the lines of a file, without their ends.
func (m *machine) lines(path string) ([]string, error) {
	if l, ok := m.files[path]; ok {
		return l, nil
	}
	b, err := m.tree.read(path, maxFile)
	if err != nil {
		return nil, err
	}
	l, err := splitLines(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if m.cached += len(b); m.cached <= maxCached {
		m.files[path] = l
	}
	return l, nil
}

func splitLines(b []byte) ([]string, error) {
	var lines []string
	for l := range bytes.Lines(b) {
		if len(l) > maxLine {
			return nil, fmt.Errorf("line %d is longer than %d bytes", len(lines)+1, maxLine)
		}
		lines = append(lines, strings.TrimSuffix(string(l), "\n"))
	}
	return lines, nil
}

func (m *machine) exists(path string) bool {
	_, err := m.tree.stat(path)
	return err == nil
}

// word is the first line of a small file, without white space around it; empty if it cannot be read.
func (m *machine) word(path string) string {
	b, err := m.tree.read(path, maxLine)
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(first)
}

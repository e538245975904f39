// Package proc reads what /proc tells of processes and their sockets, for the collectors. Processes come and go while it reads: one
// that is gone is left out, not an error.
package proc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// What is kept of a process: a command line may be megabytes long, and a machine may have any number of sockets.
const (
	MaxCommandLine = 4096
	maxSockets     = 1 << 16
)

// FS is where /proc is.
type FS string

// Root is the machine's own.
const Root FS = "/proc"

// Process is one process.
type Process struct {
	PID, Parent, UserID uint32
	Executable          string // path of the program; empty for threads of the kernel and without permission
	CommandLine         string // arguments joined by blanks
	Start               uint64 // ticks after boot; tells processes of the same number apart
}

// PIDs returns the numbers of all processes.
func (fs FS) PIDs() ([]uint32, error) {
	d, err := os.Open(string(fs))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	pids := make([]uint32, 0, len(names))
	for _, n := range names {
		if pid, err := strconv.ParseUint(n, 10, 32); err == nil {
			pids = append(pids, uint32(pid))
		}
	}
	return pids, nil
}

func (fs FS) path(pid uint32, name string) string {
	return filepath.Join(string(fs), strconv.FormatUint(uint64(pid), 10), name)
}

// Process reads one. An error means that it is gone.
func (fs FS) Process(pid uint32) (Process, error) {
	p := Process{PID: pid}
	stat, err := readSome(fs.path(pid, "stat"), 4096)
	if err != nil {
		return p, err
	}
	if p.Parent, p.Start, err = parseStat(stat); err != nil {
		return p, err
	}
	status, err := readSome(fs.path(pid, "status"), 8192)
	if err != nil {
		return p, err
	}
	p.UserID = parseUID(status)
	p.Executable, p.CommandLine = fs.Program(pid)
	return p, nil
}

// Program returns the path of a process's program and its command line, each empty when it cannot be read.
func (fs FS) Program(pid uint32) (executable, commandLine string) {
	executable, _ = os.Readlink(fs.path(pid, "exe"))
	executable = strings.TrimSuffix(executable, " (deleted)")
	line, _ := readSome(fs.path(pid, "cmdline"), MaxCommandLine)
	return executable, JoinArguments(line)
}

// JoinArguments makes a line of arguments that each end with a zero byte.
func JoinArguments(b []byte) string {
	b = bytes.TrimRight(b[:min(len(b), MaxCommandLine)], "\x00")
	return strings.ToValidUTF8(string(bytes.ReplaceAll(b, []byte{0}, []byte{' '})), "\uFFFD")
}

var errStat = errors.New("proc: a stat line of another form")

// parseStat returns the parent and the start time. The program's name, which stands in parentheses, may hold anything.
func parseStat(b []byte) (parent uint32, start uint64, err error) {
	const parentField, startField = 4 - 3, 22 - 3 // numbered from the first behind the name, the third
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return 0, 0, errStat
	}
	fields := bytes.Fields(b[i+1:])
	if len(fields) <= startField {
		return 0, 0, errStat
	}
	p, err := strconv.ParseUint(string(fields[parentField]), 10, 32)
	if err != nil {
		return 0, 0, errStat
	}
	if start, err = strconv.ParseUint(string(fields[startField]), 10, 64); err != nil {
		return 0, 0, errStat
	}
	return uint32(p), start, nil
}

// parseUID returns the real user of a status file.
func parseUID(b []byte) uint32 {
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("Uid:")); ok {
			if f := bytes.Fields(rest); len(f) > 0 {
				uid, _ := strconv.ParseUint(string(f[0]), 10, 32)
				return uint32(uid)
			}
		}
	}
	return 0
}

// Sockets maps the inodes of sockets to the process that holds each; of several the lowest number, which is the eldest but for wraps. The
// second result counts the sockets beyond the bound.
func (fs FS) Sockets() (map[uint64]uint32, int, error) {
	pids, err := fs.PIDs()
	if err != nil {
		return nil, 0, err
	}
	sockets, left := map[uint64]uint32{}, 0
	for _, pid := range pids {
		d, err := os.Open(fs.path(pid, "fd"))
		if err != nil {
			continue // gone, or not ours to see
		}
		for {
			names, err := d.Readdirnames(256)
			for _, n := range names {
				target, _ := os.Readlink(filepath.Join(d.Name(), n))
				rest, ok := strings.CutPrefix(target, "socket:[")
				if !ok {
					continue
				}
				inode, err := strconv.ParseUint(strings.TrimSuffix(rest, "]"), 10, 64)
				if err != nil {
					continue
				}
				holder, known := sockets[inode]
				switch {
				case !known && len(sockets) >= maxSockets:
					left++
				case !known || pid < holder:
					sockets[inode] = pid
				}
			}
			if err != nil {
				break
			}
		}
		d.Close()
	}
	return sockets, left, nil
}

// readSome reads at most n bytes.
func readSome(path string, n int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, n)
	read := 0
	for read < n {
		k, err := f.Read(b[read:])
		read += k
		if err != nil || k == 0 {
			if read == 0 && err != nil && err != io.EOF {
				return nil, fmt.Errorf("proc: %w", err)
			}
			break
		}
	}
	return b[:read], nil
}

package export

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/internal/linefile"
)

// rotateAt is after how many bytes a file of a day is followed by another.
const rotateAt = 256 << 20

// files writes lines to a file for each table and day (UTC), named SecurityAlert-2026-01-02-0001.ndjson, and -0002 and so on when the
// first is full. The oldest go when all have more bytes than allowed.
type files struct {
	dir      string
	maxBytes int64
	rotate   int64
	now      func() time.Time
}

const extension = ".ndjson"

func (s *files) close() {}

// send returns when the lines are on disk.
func (s *files) send(_ context.Context, items []item) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	for len(items) > 0 {
		var lines []byte
		n := 0
		for n < len(items) && items[n].table == items[0].table {
			lines = append(append(lines, items[n].text...), '\n')
			n++
		}
		path, err := s.path(string(items[0].table), int64(len(lines)))
		if err != nil {
			return err
		}
		if err := linefile.Append(path, lines, 0o640); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
		items = items[n:]
	}
	return s.bound()
}

// path is the file of this day that has room: the last one, or the one behind it.
func (s *files) path(prefix string, room int64) (string, error) {
	rotate := min(s.rotate, s.maxBytes/4) // so that a small bound keeps more than one file
	day := prefix + "-" + s.now().UTC().Format(time.DateOnly) + "-"
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return "", err
	}
	last, size := 0, int64(0)
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), day)
		n, err := strconv.Atoi(strings.TrimSuffix(number, extension))
		if !ok || err != nil || n <= last {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return "", err
		}
		last, size = n, info.Size()
	}
	if last == 0 || size > 0 && size+room > rotate {
		last++
	}
	return filepath.Join(s.dir, fmt.Sprintf("%s%04d%s", day, last, extension)), nil
}

// bound removes the oldest files, but for the newest one of all.
func (s *files) bound() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	type file struct {
		name string
		info os.FileInfo
	}
	var all []file
	var total int64
	for _, e := range entries {
		if !e.Type().IsRegular() || !strings.HasSuffix(e.Name(), extension) {
			continue
		}
		info, err := e.Info()
		if err != nil {
			continue // gone meanwhile
		}
		all = append(all, file{e.Name(), info})
		total += info.Size()
	}
	slices.SortFunc(all, func(a, b file) int { return a.info.ModTime().Compare(b.info.ModTime()) })
	for i := 0; total > s.maxBytes && i < len(all)-1; i++ {
		if err := os.Remove(filepath.Join(s.dir, all[i].name)); err != nil {
			return err
		}
		total -= all[i].info.Size()
	}
	return nil
}

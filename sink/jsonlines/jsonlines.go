// Package jsonlines delivers routed messages to files of JSON lines, one record (routing.AppendRecord) a line, named by hub and
// time like Azure's storage endpoint does (hub-service §7.1).
package jsonlines

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/routing"
	"github.com/vauban-iot/vauban/iot"
)

// DefaultFormat is the file name when an endpoint gives none.
const DefaultFormat = "{iothub}/{YYYY}/{MM}/{DD}/{HH}/{mm}"

// Sink writes below one folder. It is for one runner at a time.
type Sink struct {
	folder string
	format string
	hub    string
	opened map[string]bool // files whose end was looked at
}

var _ routing.Sink = (*Sink)(nil)

var (
	goodFolder = regexp.MustCompile(`^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$`)
	goodFormat = regexp.MustCompile(`^([A-Za-z0-9_/-]|\{iothub\}|\{partition\}|\{YYYY\}|\{MM\}|\{DD\}|\{HH\}|\{mm\})+$`)
)

// New checks the endpoint's folder and file name; its error is fault.Invalid. root is the folder of all endpoints.
func New(root, hub string, e routing.Endpoint) (*Sink, error) {
	folder, format := e.Folder, e.FileNameFormat
	if folder == "" {
		folder = e.Name
	}
	if format == "" {
		format = DefaultFormat
	}
	if !goodFolder.MatchString(folder) {
		return nil, fault.New(fault.Invalid, "endpoint %q: folder must be names of letters, digits, - and _ with / between them", e.Name)
	}
	if !goodFormat.MatchString(format) || strings.Contains(format, "//") || strings.HasPrefix(format, "/") || strings.HasSuffix(format, "/") {
		return nil, fault.New(fault.Invalid, "endpoint %q: fileNameFormat may hold {iothub} {partition} {YYYY} {MM} {DD} {HH} {mm}, letters, digits, -, _ and /", e.Name)
	}
	for _, token := range []string{"{YYYY}", "{MM}", "{DD}", "{HH}", "{mm}"} {
		if strings.Count(format, token) != 1 {
			return nil, fault.New(fault.Invalid, "endpoint %q: fileNameFormat must hold %s once", e.Name, token)
		}
	}
	name, _, _ := strings.Cut(hub, ".")
	return &Sink{folder: filepath.Join(root, filepath.FromSlash(folder)), format: format, hub: name, opened: map[string]bool{}}, nil
}

func (s *Sink) path(at time.Time) string {
	at = at.UTC()
	name := strings.NewReplacer("{iothub}", s.hub, "{partition}", "0", "{YYYY}", at.Format("2006"), "{MM}", at.Format("01"),
		"{DD}", at.Format("02"), "{HH}", at.Format("15"), "{mm}", at.Format("04")).Replace(s.format)
	return filepath.Join(s.folder, filepath.FromSlash(name)+".json")
}

// Deliver implements routing.Sink: the lines are on disk when it returns.
func (s *Sink) Deliver(_ context.Context, ms []*iot.Message) error {
	for start := 0; start < len(ms); {
		path := s.path(ms[start].Enqueued)
		var lines []byte
		end := start
		for ; end < len(ms) && s.path(ms[end].Enqueued) == path; end++ {
			lines = append(routing.AppendRecord(lines, ms[end]), '\n')
		}
		if err := s.append(path, lines); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
		start = end
	}
	return nil
}

func (s *Sink) append(path string, lines []byte) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o640)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if !s.opened[path] {
		// A crash may have left half a line; its message comes again.
		if end, err = whole(f, end); err != nil {
			return err
		}
		if err := f.Truncate(end); err != nil {
			return err
		}
		if len(s.opened) > 1024 {
			clear(s.opened)
		}
		s.opened[path] = true
	}
	if _, err := f.WriteAt(lines, end); err != nil {
		// What was written of it goes, or the next line would be broken.
		return errors.Join(err, f.Truncate(end))
	}
	return f.Sync()
}

// whole is the length of the file up to its last line feed.
func whole(f *os.File, size int64) (int64, error) {
	buf := make([]byte, 64<<10)
	for size > 0 {
		n := min(int64(len(buf)), size)
		if _, err := f.ReadAt(buf[:n], size-n); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(buf[:n], '\n'); i >= 0 {
			return size - n + int64(i) + 1, nil
		}
		size -= n
	}
	return 0, nil
}

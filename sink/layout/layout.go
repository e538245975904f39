// Package layout names the files of storage endpoints by hub and time, as Azure's storage endpoint does (hub-service §7.1).
package layout

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/routing"
)

// DefaultFormat is the file name when an endpoint gives none.
const DefaultFormat = "{iothub}/{YYYY}/{MM}/{DD}/{HH}/{mm}"

// Layout is where the files of one endpoint lie.
type Layout struct {
	Folder string // of the endpoint
	format string
	hub    string
}

var (
	goodFolder = regexp.MustCompile(`^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$`)
	goodFormat = regexp.MustCompile(`^([A-Za-z0-9_/-]|\{iothub\}|\{partition\}|\{YYYY\}|\{MM\}|\{DD\}|\{HH\}|\{mm\})+$`)
)

// New checks the endpoint's folder and file name; its error is fault.Invalid. root is the folder of all endpoints.
func New(root, hub string, e routing.Endpoint) (Layout, error) {
	folder, format := e.Folder, e.FileNameFormat
	if folder == "" {
		folder = e.Name
	}
	if format == "" {
		format = DefaultFormat
	}
	if !goodFolder.MatchString(folder) {
		return Layout{}, fault.New(fault.Invalid, "endpoint %q: folder must be names of letters, digits, - and _ with / between them", e.Name)
	}
	if !goodFormat.MatchString(format) || strings.Contains(format, "//") || strings.HasPrefix(format, "/") || strings.HasSuffix(format, "/") {
		return Layout{}, fault.New(fault.Invalid, "endpoint %q: fileNameFormat may hold {iothub} {partition} {YYYY} {MM} {DD} {HH} {mm}, letters, digits, -, _ and /", e.Name)
	}
	for _, token := range []string{"{YYYY}", "{MM}", "{DD}", "{HH}", "{mm}"} {
		if strings.Count(format, token) != 1 {
			return Layout{}, fault.New(fault.Invalid, "endpoint %q: fileNameFormat must hold %s once", e.Name, token)
		}
	}
	name, _, _ := strings.Cut(hub, ".")
	return Layout{Folder: filepath.Join(root, filepath.FromSlash(folder)), format: format, hub: name}, nil
}

// Path is the file of a moment, without an ending.
func (l Layout) Path(at time.Time) string {
	at = at.UTC()
	name := strings.NewReplacer("{iothub}", l.hub, "{partition}", "0", "{YYYY}", at.Format("2006"), "{MM}", at.Format("01"),
		"{DD}", at.Format("02"), "{HH}", at.Format("15"), "{mm}", at.Format("04")).Replace(l.format)
	return filepath.Join(l.Folder, filepath.FromSlash(name))
}

// MakeFolder makes the folder of a file, on disk: a file in a folder that a crash takes away is lost with it.
func MakeFolder(path string) error {
	dir := filepath.Dir(path)
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if parent := filepath.Dir(dir); parent != dir {
		if err := MakeFolder(dir); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o750); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return SyncFolder(dir)
}

// SyncFolder puts the entry of path in its folder on disk.
func SyncFolder(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

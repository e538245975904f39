// Package sbom lists the software of the machine: packages of dpkg, apk, opkg and rpm, and what bills of materials that the
// image's maker left in a directory say (CycloneDX and SPDX, as JSON).
package sbom

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// What is read and kept.
const (
	maxStatus    = 64 << 20 // bytes of a package manager's file, which is read in a stream
	maxDocument  = 8 << 20  // bytes of a bill of materials, which is not
	maxDocuments = 256
	maxText      = 512 // bytes of one value
)

// Config of a Snapshot. The zero value is ready.
type Config struct {
	Root        string   // of the files that are read; default /
	Directories []string // where bills of materials are, under Root
	MaxPackages int      // default 20000
}

// Snapshot lists packages.
type Snapshot struct{ cfg Config }

var _ collect.Snapshot = (*Snapshot)(nil)

// New makes a snapshot.
func New(cfg Config) *Snapshot {
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	if cfg.MaxPackages <= 0 {
		cfg.MaxPackages = 20000
	}
	return &Snapshot{cfg}
}

// list gathers packages, each once.
type list struct {
	all  []secmsg.Package
	seen map[secmsg.Package]bool
	most int
	left int
}

func (l *list) add(p secmsg.Package) {
	for _, s := range []*string{&p.Name, &p.Version, &p.Vendor, &p.Type, &p.Arch, &p.Source} {
		if *s = strings.TrimSpace(*s); len(*s) > maxText {
			*s = (*s)[:maxText]
		}
		*s = strings.Clone(strings.ToValidUTF8(*s, "\uFFFD")) // not of the line it came from
	}
	if p.Source == p.Name {
		p.Source = ""
	}
	switch {
	case p.Name == "" || l.seen[p]:
	case len(l.all) >= l.most:
		l.left++
	default:
		l.seen[p] = true
		l.all = append(l.all, p)
	}
}

// Take returns a Package for each. A manager that is not there is no error.
func (s *Snapshot) Take(ctx context.Context) ([]collect.Observation, error) {
	l := &list{seen: map[secmsg.Package]bool{}, most: s.cfg.MaxPackages}
	var problems []error
	read := func(parse func(io.Reader, func(secmsg.Package)) error, names ...string) {
		for _, n := range names {
			if err := s.file(n, parse, l.add); err != nil && !errors.Is(err, fs.ErrNotExist) {
				problems = append(problems, fmt.Errorf("%s: %w", n, err))
			}
		}
	}
	read(parseDpkg("deb"), append([]string{"var/lib/dpkg/status"}, s.glob("var/lib/dpkg/status.d/*")...)...)
	read(parseDpkg("opkg"), "usr/lib/opkg/status", "var/lib/opkg/status")
	read(parseApk, "lib/apk/db/installed", "usr/lib/apk/db/installed")
	if err := s.rpm(ctx, l.add); err != nil {
		problems = append(problems, err)
	}
	for _, d := range s.cfg.Directories {
		if err := s.documents(d, l.add); err != nil {
			problems = append(problems, err)
		}
	}
	if l.left > 0 {
		problems = append(problems, fmt.Errorf("%d packages are left out: more than %d are not told", l.left, l.most))
	}
	now := time.Now()
	all := make([]collect.Observation, 0, len(l.all))
	for _, p := range l.all {
		all = append(all, collect.Observation{Event: "SBoM", Time: now, Hits: 1, Item: p})
	}
	return all, errors.Join(problems...)
}

func (s *Snapshot) glob(pattern string) []string {
	names, _ := filepath.Glob(filepath.Join(s.cfg.Root, pattern)) // the pattern is good
	var all []string
	for _, n := range names {
		if rel, err := filepath.Rel(s.cfg.Root, n); err == nil && !strings.HasSuffix(n, ".md5sums") {
			all = append(all, rel)
		}
	}
	return all
}

func (s *Snapshot) file(name string, parse func(io.Reader, func(secmsg.Package)) error, add func(secmsg.Package)) error {
	f, err := os.Open(filepath.Join(s.cfg.Root, name))
	if err != nil {
		return err
	}
	defer f.Close()
	return parse(io.LimitReader(f, maxStatus), add)
}

// rpmDirectories are where rpm keeps what it installed.
var rpmDirectories = []string{"var/lib/rpm", "usr/lib/sysimage/rpm", "usr/share/rpm"}

// rpm asks rpm itself, which knows all the formats its database had.
func (s *Snapshot) rpm(ctx context.Context, add func(secmsg.Package)) error {
	i := slices.IndexFunc(rpmDirectories, func(d string) bool {
		there := false
		for _, name := range []string{"rpmdb.sqlite", "Packages", "Packages.db"} {
			_, err := os.Stat(filepath.Join(s.cfg.Root, d, name))
			there = there || err == nil
		}
		return there
	})
	if i < 0 {
		return nil
	}
	path, err := exec.LookPath("rpm")
	if err != nil {
		return fmt.Errorf("%s is there, but no rpm command to read it: install the package rpm", rpmDirectories[i])
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--root", s.cfg.Root, "--dbpath", "/"+rpmDirectories[i], "-qa", "--queryformat", rpmFormat)
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	var complaint strings.Builder
	cmd.Stderr = &limited{&complaint, 500}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("rpm: %w", err)
	}
	reading := parseRPM(io.LimitReader(out, maxStatus), add)
	_, _ = io.Copy(io.Discard, out)
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("rpm -qa: %w: %s", err, strings.TrimSpace(complaint.String()))
	}
	return reading
}

// limited writes as much as fits and takes the rest.
type limited struct {
	to   *strings.Builder
	room int
}

func (l *limited) Write(b []byte) (int, error) {
	l.to.Write(b[:min(len(b), max(0, l.room-l.to.Len()))])
	return len(b), nil
}

// documents reads the bills of materials in a directory.
func (s *Snapshot) documents(dir string, add func(secmsg.Package)) error {
	entries, err := os.ReadDir(filepath.Join(s.cfg.Root, dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var problems []error
	n := 0
	for _, e := range entries {
		if !e.Type().IsRegular() || !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		if n++; n > maxDocuments {
			problems = append(problems, fmt.Errorf("%s: more than %d files; the others are not read", dir, maxDocuments))
			break
		}
		if err := s.document(filepath.Join(dir, e.Name()), add); err != nil {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

func (s *Snapshot) document(name string, add func(secmsg.Package)) error {
	f, err := os.Open(filepath.Join(s.cfg.Root, name))
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err != nil {
		return err
	}
	if len(b) > maxDocument {
		return fmt.Errorf("%s is larger than %d MiB", name, maxDocument>>20)
	}
	if err := parseDocument(b, add); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

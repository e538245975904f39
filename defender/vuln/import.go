package vuln

import (
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/defender/vuln/format"
	"github.com/vauban-iot/vauban/fault"
)

// Bounds of a file that is imported.
const (
	MaxFile     = 4 << 30  // bytes, packed
	maxUnpacked = 64 << 30 // bytes
	maxPlain    = 64 << 20 // bytes of a catalogue or a document that is read as a whole
	maxEntries  = 2_000_000
)

// Progress hears how far an import is.
type Progress func(records int)

// Read reads a file, tells what it is by what stands in it, and packs it. name is the source's; empty: its kind, or the ecosystem
// of most of its packages. fault.Invalid says what is wrong with the file.
func Read(ctx context.Context, f *os.File, name string, progress Progress) (s Source, data []byte, err error) {
	st, err := f.Stat()
	if err != nil {
		return s, nil, err
	}
	if st.Size() > MaxFile {
		return s, nil, fault.New(fault.Invalid, "the file is over %d GiB", MaxFile>>30)
	}
	if progress == nil {
		progress = func(int) {}
	}
	s.Name = name
	head := make([]byte, 4)
	if _, err := io.ReadFull(f, head); err != nil {
		return s, nil, fault.New(fault.Invalid, "the file is empty")
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return s, nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte("PK")):
		data, err = s.readZip(ctx, f, st.Size(), progress)
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		var z *gzip.Reader
		if z, err = gzip.NewReader(f); err == nil {
			data, err = s.readStream(ctx, io.LimitReader(z, maxUnpacked), progress)
		}
	default:
		data, err = s.readStream(ctx, f, progress)
	}
	switch {
	case ctx.Err() != nil:
		return s, nil, ctx.Err()
	case err != nil && fault.KindOf(err) == fault.Internal:
		return s, nil, fault.New(fault.Invalid, "the file cannot be imported: %v", err)
	case err != nil:
		return s, nil, err
	case s.Records == 0:
		reason := "it holds no record"
		if s.Broken > 0 {
			reason = fmt.Sprintf("none of its %d records can be read: %s", s.Broken, s.Problems[0])
		} else if s.Left > 0 {
			reason = fmt.Sprintf("all of its %d records are withdrawn or of ecosystems that are not compared", s.Left)
		}
		return s, nil, fault.New(fault.Invalid, "the file is not imported: %s", reason)
	}
	s.Bytes = int64(len(data))
	return s, data, nil
}

func (s *Source) readZip(ctx context.Context, f *os.File, size int64, progress Progress) ([]byte, error) {
	z, err := zip.NewReader(f, size)
	if err != nil {
		return nil, err
	}
	if len(z.File) > maxEntries {
		return nil, fmt.Errorf("the archive has over %d files", maxEntries)
	}
	b := newBuilder()
	s.Kind = OSV
	unpacked := int64(0)
	var text bytes.Buffer
	for i, e := range z.File {
		if i%1000 == 0 {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			progress(s.Records)
		}
		if e.FileInfo().IsDir() || !strings.HasSuffix(e.Name, ".json") {
			continue
		}
		r, err := e.Open()
		if err != nil {
			s.broke("%s: %v", format.Clip(e.Name, 80), err)
			continue
		}
		text.Reset()
		n, err := io.Copy(&text, io.LimitReader(r, format.MaxRecord+1))
		r.Close()
		if unpacked += n; unpacked > maxUnpacked {
			return nil, fmt.Errorf("the archive unpacks to over %d GiB", int64(maxUnpacked)>>30)
		}
		if err != nil {
			s.broke("%s: %v", format.Clip(e.Name, 80), err)
			continue
		}
		if err := s.record(b, text.Bytes(), e.Name); err != nil {
			return nil, err
		}
	}
	return s.packed(b)
}

func (s *Source) record(b *builder, text []byte, where string) error {
	r, err := format.ParseOSV(text)
	if err != nil {
		s.broke("%s: %s", format.Clip(where, 80), format.Clip(err.Error(), 160))
		return nil
	}
	kept, err := b.add(&r)
	switch {
	case err != nil:
		return err
	case !kept:
		s.Left++
		return nil
	}
	s.Records++
	if r.Modified.After(s.Published) {
		s.Published = r.Modified.UTC()
	}
	return nil
}

func (s *Source) packed(b *builder) ([]byte, error) {
	most := 0
	for e, n := range b.counts {
		s.Ecosystems = append(s.Ecosystems, e)
		if n > most && s.Kind == OSV && s.Name == "" {
			most = n
		}
	}
	slices.Sort(s.Ecosystems)
	if s.Name == "" && most > 0 {
		for _, e := range s.Ecosystems {
			if b.counts[e] == most {
				s.Name = strings.ReplaceAll(strings.ToLower(e), " ", "-")
				break
			}
		}
	}
	return b.finish()
}

// readStream reads what is no archive: JSON lines, a JSON document, or CSV.
func (s *Source) readStream(ctx context.Context, r io.Reader, progress Progress) ([]byte, error) {
	in := bufio.NewReaderSize(r, 1<<20)
	if mark, _ := in.Peek(3); bytes.Equal(mark, []byte("\xef\xbb\xbf")) {
		_, _ = in.Discard(3) // peeked already
	}
	first, err := in.Peek(1)
	if err != nil {
		return nil, err
	}
	if first[0] != '{' && first[0] != '[' && first[0] != ' ' && first[0] != '\n' {
		return s.readEPSS(in)
	}
	b := newBuilder()
	s.Kind = OSV
	for line := 1; ; line++ {
		text, err := readLine(in, maxPlain)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		end := errors.Is(err, io.EOF)
		if line%1000 == 0 {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			progress(s.Records)
		}
		if line == 1 {
			// The first line is a record of its own, or the file is one document.
			if trimmed := bytes.TrimSpace(text); !json.Valid(trimmed) || end || trimmed[0] == '[' {
				rest, err := io.ReadAll(io.LimitReader(in, maxPlain+1))
				if err != nil {
					return nil, err
				}
				if len(text)+len(rest) > maxPlain {
					return nil, fmt.Errorf("a document of over %d MiB; give records of OSV one a line, or as the zip of their ecosystem", maxPlain>>20)
				}
				return s.readDocument(b, append(text, rest...))
			}
			if isKEV(text) { // one line and a newline
				return s.readKEV(text)
			}
		}
		if text = bytes.TrimSpace(text); len(text) > 0 {
			if err := s.record(b, text, fmt.Sprintf("line %d", line)); err != nil {
				return nil, err
			}
		}
		if end {
			return s.packed(b)
		}
	}
}

// readLine reads a line of bounded length, with its end.
func readLine(in *bufio.Reader, most int) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > most {
			return nil, fmt.Errorf("a line of over %d MiB", most>>20)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

func isKEV(text []byte) bool {
	var members struct {
		Version *string         `json:"catalogVersion"`
		List    json.RawMessage `json:"vulnerabilities"`
		ID      string          `json:"id"`
	}
	return json.Unmarshal(text, &members) == nil && members.ID == "" && (members.Version != nil || members.List != nil)
}

func (s *Source) readDocument(b *builder, text []byte) ([]byte, error) {
	text = bytes.TrimSpace(text)
	if len(text) > 0 && text[0] == '[' {
		var list []json.RawMessage
		if err := json.Unmarshal(text, &list); err != nil {
			return nil, err
		}
		for i, r := range list {
			if err := s.record(b, r, fmt.Sprintf("item %d", i+1)); err != nil {
				return nil, err
			}
		}
		return s.packed(b)
	}
	if isKEV(text) {
		return s.readKEV(text)
	}
	if err := s.record(b, text, "the document"); err != nil {
		return nil, err
	}
	if s.Name == "" && s.Records == 1 {
		s.Name = strings.ToLower(b.block[0].ID)
	}
	return s.packed(b)
}

func (s *Source) readKEV(text []byte) ([]byte, error) {
	c, err := format.ParseKEV(text)
	if err != nil {
		return nil, err
	}
	s.Kind, s.Records, s.Broken, s.Published = KEV, len(c.All), c.Broken, c.Released.UTC()
	if s.Broken > 0 {
		s.Problems = append(s.Problems, fmt.Sprintf("%d entries have no id of a CVE", s.Broken))
	}
	if s.Name == "" {
		s.Name = string(KEV)
	}
	return json.Marshal(c.All)
}

func (s *Source) readEPSS(r io.Reader) ([]byte, error) {
	all, day, broken, err := format.ReadEPSS(r)
	if err != nil {
		return nil, fmt.Errorf("it is neither JSON nor the CSV of EPSS: %w", err)
	}
	s.Kind, s.Records, s.Broken, s.Published = EPSS, len(all), broken, day
	if broken > 0 {
		s.Problems = append(s.Problems, fmt.Sprintf("%d lines have no CVE with a probability", broken))
	}
	if s.Name == "" {
		s.Name = string(EPSS)
	}
	slices.SortFunc(all, func(a, b format.Chance) int { return int(int64(a.CVE) - int64(b.CVE)) })
	data := make([]byte, 0, 12*len(all))
	for _, c := range all {
		data = binary.LittleEndian.AppendUint32(data, c.CVE)
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(c.Probability))
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(c.Percentile))
	}
	return data, nil
}

// originOf tells a file of the watched folder from a later one of the same name.
func originOf(path string, st os.FileInfo) string {
	return fmt.Sprintf("%s, %d bytes, %s", filepath.Base(path), st.Size(), st.ModTime().UTC().Format(time.RFC3339Nano))
}

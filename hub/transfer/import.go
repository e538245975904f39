package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/registry"
)

const (
	batchLines = 1000 // lines that share a transaction
	appliers   = 2    // batches in the store at once: one is prepared while another is written
)

// refusal is a line of importErrors.log.
type refusal struct {
	Line     int    `json:"lineNumber"`
	ID       string `json:"id,omitempty"`
	ModuleID string `json:"moduleId,omitempty"`
	Code     string `json:"errorCode"`
	Text     string `json:"errorStatus"`
}

// codes are Azure's names for what keeps a row from being carried out, of devices.
var codes = map[fault.Kind]string{
	fault.Invalid: "ArgumentInvalid", fault.Malformed: "IotHubFormatError", fault.InvalidScope: "InvalidDeviceScope", fault.NotFound: "DeviceNotFound",
	fault.AlreadyExists: "DeviceAlreadyExists", fault.PreconditionFailed: "PreconditionFailed", fault.TooLarge: "TooManyModulesOnDevice",
	fault.Forbidden: "SystemModuleModifyUnauthorizedAccess", fault.Unavailable: "ServiceUnavailable", fault.Throttled: "ThrottlingException",
}

func codeOf(err error, module bool) string {
	c, ok := codes[fault.KindOf(err)]
	if !ok {
		return "ServerError"
	}
	if module && strings.HasPrefix(c, "Device") {
		c = "Module" + strings.TrimPrefix(c, "Device")
	}
	return c
}

// tally counts what became of lines.
type tally struct {
	mu     sync.Mutex
	out    io.Writer // takes refusals
	err    error     // why out takes no more
	done   int
	failed int
}

func (t *tally) note(l Line, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done++
	if err == nil {
		return
	}
	t.failed++
	id := l.Entry.ID
	if _, werr := t.out.Write(append(marshal(refusal{l.Number, id.Device, id.Module, codeOf(err, id.Module != ""), fault.Public(err)}), '\n')); werr != nil && t.err == nil {
		t.err = werr
	}
}

// errUnavailable ends an import whose store does not answer: each of its lines would fail.
var errUnavailable = errors.New("the store does not answer")

// load carries out the import of j and returns what is to be said of it.
func (s *Service) load(ctx context.Context, j Job, progress func(done, of int64)) (note string, err error) {
	in, err := s.cfg.Blobs.Open(j.Input, j.IdentityBased)
	if err != nil {
		return "", err
	}
	out, err := s.cfg.Blobs.Open(j.Output, j.IdentityBased)
	if err != nil {
		return "", err
	}
	up, err := out.Put(ctx, ErrorsBlob)
	if err != nil {
		return "", err
	}
	defer up.Abort()
	t := &tally{out: up}
	if j.Configurations {
		if err := s.importConfigurations(ctx, j, in, t); err != nil {
			return "", err
		}
	}
	// Modules come when all devices are there, wherever they stand in the file.
	modules, err := s.pass(ctx, j, in, false, t, progress)
	if err == nil && modules > 0 {
		_, err = s.pass(ctx, j, in, true, t, func(int64, int64) {})
	}
	if err == nil {
		err = t.err
	}
	// What was refused until then is worth reading even when the rest cannot be done.
	if cerr := up.Commit(); err == nil {
		err = cerr
	}
	if t.failed > 0 {
		note = fmt.Sprintf("%d of %d lines were refused; see %s in the output container", t.failed, t.done, ErrorsBlob)
	}
	return note, err
}

// pass reads the file once and carries out its rows of devices, or of modules. It returns how many rows of modules there are.
func (s *Service) pass(ctx context.Context, j Job, in Container, modules bool, t *tally, progress func(done, of int64)) (int, error) {
	r, size, err := in.Get(ctx, j.InputBlob)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	return Load(ctx, r, s.cfg.Hub.Import, modules, t.note, func(done int64) { progress(done, size) })
}

// Load reads a file and carries out its rows of devices, or of modules, with apply. note hears of each line once, read of how many
// bytes were read. It returns how many rows of modules there are, and fails with what keeps the file from being read.
func Load(ctx context.Context, r io.Reader, apply func(context.Context, []registry.Entry) []error, modules bool,
	note func(Line, error), read func(bytes int64),
) (int, error) {
	g, ctx := errgroup.WithContext(ctx)
	cut, parsed := make(chan []raw, 2), make(chan []Line, 2)
	var count atomic.Int64
	g.Go(func() error {
		defer close(cut)
		for s := newScanner(r); ; {
			batch := make([]raw, 0, batchLines)
			var err error
			for len(batch) < batchLines {
				var l raw
				if l, err = s.next(); err != nil {
					break
				}
				batch = append(batch, l)
			}
			if err != nil && !errors.Is(err, io.EOF) {
				return fault.Wrap(fault.KindOf(err), err, "the file cannot be read to its end: %s", fault.Public(err))
			}
			select {
			case cut <- batch:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			read(s.bytes)
			if err != nil {
				return nil
			}
		}
	})
	var parsers sync.WaitGroup
	parsers.Add(max(1, runtime.GOMAXPROCS(0)/2))
	for range max(1, runtime.GOMAXPROCS(0)/2) {
		g.Go(func() error {
			defer parsers.Done()
			for batch := range cut {
				lines := make([]Line, 0, len(batch))
				for _, b := range batch {
					l := b.parse()
					switch module := l.Entry.ID.Module != ""; {
					case module != modules && l.Err == nil:
						if module {
							count.Add(1)
						}
					case l.Err == nil:
						lines = append(lines, l)
					case !modules: // said once
						note(l, l.Err)
					}
				}
				select {
				case parsed <- lines:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		parsers.Wait()
		close(parsed)
		return nil
	})
	for range appliers {
		g.Go(func() error {
			for lines := range parsed {
				rows := make([]registry.Entry, len(lines))
				for i := range lines {
					rows[i] = lines[i].Entry
				}
				for i, err := range apply(ctx, rows) {
					if err != nil && ctx.Err() != nil {
						return context.Cause(ctx)
					}
					if fault.Is(err, fault.Unavailable) {
						return fault.Wrap(fault.Unavailable, fmt.Errorf("%w: %w", errUnavailable, err), "the hub's store does not answer")
					}
					note(lines[i], err)
				}
			}
			return nil
		})
	}
	err := g.Wait()
	return int(count.Load()), err
}

func (s *Service) importConfigurations(ctx context.Context, j Job, in Container, t *tally) error {
	if s.cfg.Configurations == nil {
		return fault.New(fault.Invalid, "this hub has no configurations")
	}
	r, _, err := in.Get(ctx, j.ConfigurationsBlob)
	if err != nil {
		return err
	}
	defer r.Close()
	for sc := newScanner(r); ; {
		l, err := sc.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if l.long {
			err = fault.New(fault.Invalid, "the line has more than %d bytes", MaxLine)
		} else {
			err = s.cfg.Configurations.Import(ctx, l.text)
		}
		if fault.Is(err, fault.Unavailable) || ctx.Err() != nil {
			return err
		}
		t.note(Line{Number: l.number}, err)
	}
}

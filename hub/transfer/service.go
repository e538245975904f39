package transfer

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/internal/nonce"
	"github.com/vauban-iot/vauban/iot"
)

// Hub is what jobs do to identities, and how they read them.
type Hub interface {
	Import(ctx context.Context, rows []registry.Entry) []error
	Records(ctx context.Context, after iot.ID, limit int) ([]registry.Record, error)
	Statistics(ctx context.Context) (registry.Statistics, error)
}

// Configurations carries automatic configurations.
type Configurations interface {
	// Export returns the documents of all, each on one line.
	Export(ctx context.Context) ([][]byte, error)
	// Import carries out one line.
	Import(ctx context.Context, line []byte) error
}

// Blobs opens containers.
type Blobs interface {
	// Open checks the URI of a container and whether this hub may go there; fault.Invalid. identity says that the hub's own right is
	// to be used instead of a token in the URI. It does not connect yet.
	Open(uri string, identity bool) (Container, error)
}

// Container is a place for files. Failures are fault.NotFound, Forbidden (the token does not allow it), Invalid and Unavailable.
type Container interface {
	// Get opens a file. size is -1 when the store does not say. The caller closes it.
	Get(ctx context.Context, name string) (r io.ReadCloser, size int64, err error)
	// Put begins a file, which appears, or takes the place of another, when it is committed.
	Put(ctx context.Context, name string) (Upload, error)
}

// Upload is a file that is being written.
type Upload interface {
	io.Writer
	Commit() error
	Abort() // does nothing after Commit
}

// Config of a service. Fields are required unless they say otherwise.
type Config struct {
	Store          Store
	Hub            Hub
	Configurations Configurations   // nil: none can be carried
	Blobs          Blobs            // nil: jobs are refused
	Now            func() time.Time // nil: time.Now
	Logger         *slog.Logger     // nil: slog.Default()
}

// Service keeps jobs and, in Run, carries them out. It is safe for concurrent use.
type Service struct {
	cfg  Config
	log  *slog.Logger
	now  func() time.Time
	wake chan struct{}

	mu      sync.Mutex
	current string // job under way
	stop    context.CancelCauseFunc
}

// New returns a service.
func New(cfg Config) *Service {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Service{cfg: cfg, log: cfg.Logger, now: cfg.Now, wake: make(chan struct{}, 1)}
}

const (
	retention = 30 * 24 * time.Hour
	period    = time.Second // how often progress is written, and other servers' doings are looked for
	maxTime   = 6 * time.Hour
)

var (
	errNoBlobs   = fault.New(fault.Invalid, "this hub reaches no containers of blobs")
	errOver      = fault.New(fault.PreconditionFailed, "the job is over")
	errCancelled = errors.New("the job is cancelled")
	errTooLong   = fault.New(fault.Timeout, "the job took longer than %v", maxTime)
	errStopped   = fault.New(fault.Unavailable, "the server stopped while the import ran; what was done stays, and the file may be imported again")
)

// Create adds a job. Failures are fault.Invalid and ErrBusy.
func (s *Service) Create(ctx context.Context, r Request) (Job, error) {
	if s.cfg.Blobs == nil {
		return Job{}, errNoBlobs
	}
	for _, uri := range []string{r.Input, r.Output} {
		if uri == "" {
			continue
		}
		if _, err := s.cfg.Blobs.Open(uri, r.IdentityBased); err != nil {
			return Job{}, err
		}
	}
	j, err := s.cfg.Store.CreateTransfer(ctx, Job{ID: nonce.New(), Request: r, Status: Enqueued, Created: s.now()})
	if err == nil {
		s.nudge()
	}
	return j, err
}

func (s *Service) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Job returns a job; fault.NotFound.
func (s *Service) Job(ctx context.Context, id string) (Job, error) {
	return s.cfg.Store.Transfer(ctx, id)
}

// Jobs lists jobs, the newest first.
func (s *Service) Jobs(ctx context.Context) ([]Job, error) {
	return s.cfg.Store.Transfers(ctx, false)
}

// Cancel ends a job. Rows of a batch that is being written are written still. Failures are fault.NotFound, and PreconditionFailed when it
// is over.
func (s *Service) Cancel(ctx context.Context, id string) (Job, error) {
	now := s.now()
	j, err := s.cfg.Store.UpdateTransfer(ctx, id, func(j Job) (Job, error) {
		if j.Status.Over() {
			return j, errOver
		}
		j.Status, j.End = Cancelled, now
		return j, nil
	})
	if err == nil {
		s.end(id, errCancelled)
	}
	return j, err
}

func (s *Service) end(id string, cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == id && s.stop != nil {
		s.stop(cause)
	}
}

// Run carries out jobs until ctx ends. It must run on one server at a time.
func (s *Service) Run(ctx context.Context) error {
	left, err := s.cfg.Store.Transfers(ctx, true)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	for _, j := range left {
		if j.Status == Running && j.Type == Import {
			s.finish(ctx, j.ID, Failed, fault.Public(errStopped))
		}
	}
	tick := time.NewTicker(period)
	defer tick.Stop()
	for cleaned := (time.Time{}); ; {
		jobs, err := s.cfg.Store.Transfers(ctx, true)
		if err != nil && ctx.Err() == nil {
			s.log.Error("imports and exports cannot be read", "err", err)
		}
		for _, j := range jobs {
			s.execute(ctx, j)
		}
		if now := s.now(); now.Sub(cleaned) > time.Hour {
			if err := s.cfg.Store.ForgetTransfers(ctx, now.Add(-retention)); err != nil && ctx.Err() == nil {
				s.log.Error("old imports and exports not removed", "err", err)
			}
			cleaned = now
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-tick.C:
		}
	}
}

// execute carries a job out. When ctx ends it is left as it is.
func (s *Service) execute(ctx context.Context, j Job) {
	run, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	run, cancel := context.WithTimeoutCause(run, maxTime, errTooLong)
	defer cancel()
	s.mu.Lock()
	s.current, s.stop = j.ID, stop
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.current, s.stop = "", nil
		s.mu.Unlock()
	}()
	j, err := s.cfg.Store.UpdateTransfer(run, j.ID, func(j Job) (Job, error) {
		if j.Status.Over() {
			return j, errCancelled
		}
		j.Status, j.Began, j.Progress = Running, s.now(), 0
		return j, nil
	})
	if err != nil {
		if !errors.Is(err, errCancelled) && ctx.Err() == nil {
			s.log.Error("an import or export cannot begin; it is tried again", "job", j.ID, "err", err)
		}
		return
	}
	s.log.Info("a job over identities begins", "job", j.ID, "type", string(j.Type))
	var percent atomic.Int64
	watched := make(chan struct{})
	ended, over := context.WithCancel(run)
	go func() {
		defer close(watched)
		s.watch(ended, j.ID, &percent, stop)
	}()
	progress := func(done, of int64) {
		if of > 0 {
			percent.Store(min(99, 100*done/of))
		}
	}
	note := ""
	if j.Type == Import {
		note, err = s.load(run, j, progress)
	} else {
		err = s.export(run, j, progress)
	}
	over()
	<-watched
	if ctx.Err() != nil {
		return // for the next run to judge
	}
	if err != nil && run.Err() != nil {
		err = context.Cause(run)
	}
	switch {
	case errors.Is(err, errCancelled):
		s.log.Info("a job over identities was cancelled", "job", j.ID)
	case err != nil:
		text := fault.Public(err)
		if note != "" {
			text += "; " + note
		}
		s.log.Warn("a job over identities failed", "job", j.ID, "type", string(j.Type), "err", err)
		s.finish(ctx, j.ID, Failed, text)
	default:
		s.log.Info("a job over identities is done", "job", j.ID, "type", string(j.Type), "note", note)
		s.finish(ctx, j.ID, Completed, note)
	}
}

// finish ends a job unless it is over.
func (s *Service) finish(ctx context.Context, id string, status Status, failure string) {
	now := s.now()
	_, err := s.cfg.Store.UpdateTransfer(ctx, id, func(j Job) (Job, error) {
		if j.Status.Over() {
			return j, errCancelled
		}
		j.Status, j.Failure, j.End = status, failure, now
		if status == Completed {
			j.Progress = 100
		}
		return j, nil
	})
	if err != nil && !errors.Is(err, errCancelled) && ctx.Err() == nil {
		s.log.Error("the end of an import or export is not written down", "job", id, "err", err)
	}
}

// watch writes the progress of a job down, and stops it when another server cancelled it.
func (s *Service) watch(ctx context.Context, id string, percent *atomic.Int64, stop context.CancelCauseFunc) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		_, err := s.cfg.Store.UpdateTransfer(ctx, id, func(j Job) (Job, error) {
			if j.Status.Over() {
				return j, errCancelled
			}
			j.Progress = int(percent.Load())
			return j, nil
		})
		if errors.Is(err, errCancelled) || fault.Is(err, fault.NotFound) {
			stop(errCancelled)
			return
		}
	}
}

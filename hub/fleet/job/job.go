// Package job does the same thing to many devices: a twin update or a direct method, at a time of its own
// choice, with an outcome for each device that programs can query (hub-service §5.2).
//
// Jobs live in the store, so they go on after a restart. A row is pending until its turn comes. A twin update whose
// row was pending when the server stopped is simply done again. A method is marked running before the device is asked, and never
// asked twice: when the server stops meanwhile, its row fails.
package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/command"
	"github.com/vauban-iot/vauban/hub/query"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

// Hub is what jobs do to devices.
type Hub interface {
	PatchTwin(ctx context.Context, id iot.ID, match *iot.Match, p twin.Patch) (registry.Identity, twin.Twin, error)
	Invoke(ctx context.Context, id iot.ID, m command.Method) (command.Result, error)
}

// Finder tells which devices meet a condition.
type Finder interface {
	Find(ctx context.Context, c *query.Condition, visit func(iot.ID) error) error
}

// Config of a service. Fields are required unless they say otherwise.
type Config struct {
	Store  Store
	Hub    Hub
	Finder Finder
	Tell   func(Row) []iot.Message // what the log is told of a row that is over; nil: nothing
	Ended  func(Status)            // hears of every job that completed or failed; may be nil
	Now    func() time.Time        // nil: time.Now
	Logger *slog.Logger            // nil: slog.Default()
}

// Service keeps jobs and, in Run, carries them out. It is safe for concurrent use.
type Service struct {
	cfg  Config
	log  *slog.Logger
	now  func() time.Time
	wake chan struct{}

	mu     sync.Mutex
	active map[string]context.CancelFunc // ends the job's feed of rows
}

// New returns a service.
func New(cfg Config) *Service {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Service{cfg: cfg, log: cfg.Logger, now: cfg.Now, wake: make(chan struct{}, 1), active: make(map[string]context.CancelFunc)}
}

// Bounds of what runs at once; the rest waits.
const (
	maxUnfinished = 1000 // jobs
	maxActive     = 10   // jobs (hub-service §5.2)
	workers       = 64   // devices of one job
	listChunk     = 500  // rows written together
	retention     = 30 * 24 * time.Hour
	period        = time.Second // how often other servers' doings are looked for
)

// Create adds a job that [Parse] read. Failures are fault.AlreadyExists and QueueFull.
func (s *Service) Create(ctx context.Context, j Job) (Job, error) {
	j.Created = s.now()
	j.Status = Queued
	if j.Start.IsZero() || j.Start.Before(j.Created) {
		j.Start = j.Created
	}
	if j.Start.After(j.Created) {
		j.Status = Scheduled
	}
	if err := s.cfg.Store.CreateJob(ctx, j, maxUnfinished); err != nil {
		return Job{}, err
	}
	s.nudge()
	return j, nil
}

func (s *Service) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Job returns a job; fault.NotFound.
func (s *Service) Job(ctx context.Context, id string) (Job, Statistics, error) {
	j, err := s.cfg.Store.Job(ctx, id)
	if err != nil {
		return Job{}, Statistics{}, err
	}
	return s.counted(ctx, j)
}

func (s *Service) counted(ctx context.Context, j Job) (Job, Statistics, error) {
	all, err := s.cfg.Store.JobStatistics(ctx, []string{j.ID})
	return j, all[j.ID], err
}

var errOver = fault.New(fault.PreconditionFailed, "the job is over")

// Cancel ends a job; devices that are being asked may still answer. Failures are fault.NotFound, and
// PreconditionFailed when it is over.
func (s *Service) Cancel(ctx context.Context, id string) (Job, Statistics, error) {
	now := s.now()
	j, err := s.cfg.Store.UpdateJob(ctx, id, &Row{Status: RowCanceled, End: now, Updated: now, Tell: s.cfg.Tell}, func(j Job) (Job, error) {
		if j.Status.over() {
			return j, errOver
		}
		j.Status, j.End = Cancelled, now
		return j, nil
	})
	if err != nil {
		return Job{}, Statistics{}, err
	}
	s.stopFeed(id)
	return s.counted(ctx, j)
}

func (s *Service) stopFeed(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if stop := s.active[id]; stop != nil {
		stop()
	}
}

// MaxPage is the most jobs of one page.
const MaxPage = 1000

// List returns the documents of a page of jobs, and the token of the next page; empty on the last. Failures are fault.Invalid.
func (s *Service) List(ctx context.Context, f Filter, token string) (docs [][]byte, next string, err error) {
	if f.Limit < 1 || f.Limit > MaxPage {
		return nil, "", fault.New(fault.Invalid, "a page has 1 to %d items", MaxPage)
	}
	if token != "" {
		if f.After, err = strconv.ParseInt(token, 36, 64); err != nil || f.After < 0 {
			return nil, "", fault.New(fault.Invalid, "the continuation token is none of this list")
		}
	}
	limit := f.Limit
	f.Limit++ // one more than fits: there is another page
	jobs, err := s.cfg.Store.Jobs(ctx, f)
	if err != nil {
		return nil, "", err
	}
	if len(jobs) > limit {
		jobs = jobs[:limit]
		next = strconv.FormatInt(jobs[limit-1].Sequence, 36)
	}
	ids := make([]string, len(jobs))
	for i, j := range jobs {
		ids[i] = j.ID
	}
	counts, err := s.cfg.Store.JobStatistics(ctx, ids)
	if err != nil {
		return nil, "", err
	}
	for _, j := range jobs {
		docs = append(docs, j.Document(counts[j.ID]))
	}
	return docs, next, nil
}

// Run carries out jobs until ctx ends. It must run on one server at a time.
func (s *Service) Run(ctx context.Context) error {
	now := s.now()
	if err := s.cfg.Store.AbortRows(ctx, Row{Status: RowFailed, End: now, Updated: now, Code: codeOf(errStopped), Reason: fault.Public(errStopped), Tell: s.cfg.Tell}); err != nil {
		if ctx.Err() != nil {
			return nil // stopped while starting
		}
		return err
	}
	var running sync.WaitGroup
	defer running.Wait()
	tick := time.NewTicker(period)
	defer tick.Stop()
	for cleaned := (time.Time{}); ; {
		if err := s.startDue(ctx, &running); err != nil && ctx.Err() == nil {
			s.log.Error("jobs that are due cannot be read", "err", err)
		}
		if now := s.now(); now.Sub(cleaned) > time.Hour {
			if err := s.cfg.Store.ForgetJobs(ctx, now.Add(-retention)); err != nil && ctx.Err() == nil {
				s.log.Error("old jobs not removed", "err", err)
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

// startDue starts jobs that are due while there is room, and queues the others.
func (s *Service) startDue(ctx context.Context, running *sync.WaitGroup) error {
	jobs, err := s.cfg.Store.Jobs(ctx, Filter{Due: s.now(), Limit: maxUnfinished})
	if err != nil {
		return err
	}
	for _, j := range jobs {
		s.mu.Lock()
		_, active := s.active[j.ID]
		room := len(s.active) < maxActive
		feed, stop := context.WithCancel(ctx)
		if !active && room {
			s.active[j.ID] = stop
		}
		s.mu.Unlock()
		switch {
		case active:
			stop()
		case room:
			running.Go(func() {
				defer s.nudge()
				defer func() {
					stop()
					s.mu.Lock()
					delete(s.active, j.ID)
					s.mu.Unlock()
				}()
				if err := s.execute(ctx, feed, j); err != nil && ctx.Err() == nil {
					s.log.Error("a job failed for now; it is tried again", "job", j.ID, "err", err)
				}
			})
		default:
			stop()
			if j.Status == Scheduled {
				if _, err := s.cfg.Store.UpdateJob(ctx, j.ID, nil, func(j Job) (Job, error) {
					if j.Status == Scheduled {
						j.Status = Queued
					}
					return j, nil
				}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

var errStopped = fault.New(fault.Unavailable, "the server stopped while the device was asked")

// errCancelled ends the execution of a job that somebody cancelled meanwhile.
var errCancelled = errors.New("the job is cancelled")

// execute carries a job out, or what an earlier run left of it. feed ends when no more devices may be asked.
func (s *Service) execute(ctx, feed context.Context, j Job) error {
	j, err := s.cfg.Store.UpdateJob(ctx, j.ID, nil, func(j Job) (Job, error) {
		if j.Status.over() {
			return j, errCancelled
		}
		j.Status = Running
		if j.Began.IsZero() {
			j.Began = s.now()
		}
		return j, nil
	})
	if errors.Is(err, errCancelled) || fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	do, err := s.deed(j)
	if err != nil { // it was checked when it was created
		return s.finish(ctx, j, Failed, fault.Public(err))
	}
	if !j.Listed {
		err := s.list(feed, j)
		switch {
		case feed.Err() != nil:
			return ctx.Err()
		case fault.Is(err, fault.Invalid):
			return s.finish(ctx, j, Failed, fault.Public(err))
		case err != nil:
			return err
		}
	}
	left := j.Began.Add(j.MaxTime).Sub(s.now())
	asking, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	handing, stop := context.WithTimeout(feed, left)
	defer stop()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		s.watch(handing, j.ID, stop)
	}()
	err = s.work(ctx, asking, handing, j, do)
	ended := errors.Is(handing.Err(), context.Canceled) // here or by another server
	stop()
	<-watched
	switch {
	case ctx.Err() != nil:
		return ctx.Err() // the rest stays for the next run
	case err != nil:
		return err
	case ended:
		return nil
	}
	return s.finish(ctx, j, Completed, "")
}

// finish ends a job unless it is over. Rows that are still pending had no time left.
func (s *Service) finish(ctx context.Context, j Job, status Status, failure string) error {
	now := s.now()
	rest := &Row{Status: RowFailed, End: now, Updated: now, Code: codes[fault.Timeout], Reason: "the job's time was over", Tell: s.cfg.Tell}
	_, err := s.cfg.Store.UpdateJob(ctx, j.ID, rest, func(j Job) (Job, error) {
		if j.Status.over() {
			return j, errCancelled
		}
		j.Status, j.Failure, j.End = status, failure, now
		return j, nil
	})
	if errors.Is(err, errCancelled) || fault.Is(err, fault.NotFound) {
		return nil
	}
	if err == nil && s.cfg.Ended != nil {
		s.cfg.Ended(status)
	}
	return err
}

// watch ends the work when another server cancelled the job.
func (s *Service) watch(ctx context.Context, id string, cancel func()) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if j, err := s.cfg.Store.Job(ctx, id); err == nil && j.Status.over() || fault.Is(err, fault.NotFound) {
				cancel()
				return
			}
		}
	}
}

// list writes a pending row for every device that meets the condition now.
func (s *Service) list(ctx context.Context, j Job) error {
	c, err := query.ParseCondition(j.Condition)
	if err != nil {
		return err
	}
	var ids []iot.ID
	flush := func() error {
		defer func() { ids = ids[:0] }()
		return s.cfg.Store.AddRows(ctx, j, ids, s.now())
	}
	err = s.cfg.Finder.Find(ctx, c, func(id iot.ID) error {
		if ids = append(ids, id); len(ids) < listChunk {
			return nil
		}
		return flush()
	})
	if err == nil && len(ids) > 0 {
		err = flush()
	}
	if err != nil {
		return fmt.Errorf("job %s: list its devices: %w", j.ID, err)
	}
	_, err = s.cfg.Store.UpdateJob(ctx, j.ID, nil, func(j Job) (Job, error) {
		j.Listed = true
		return j, nil
	})
	return err
}

// deed is what a job does to one device.
func (s *Service) deed(j Job) (func(context.Context, iot.ID) (json.RawMessage, error), error) {
	if j.Type == UpdateTwin {
		p, err := j.patch()
		return func(ctx context.Context, id iot.ID) (json.RawMessage, error) {
			_, _, err := s.cfg.Hub.PatchTwin(ctx, id, nil, p)
			return nil, err
		}, err
	}
	m, err := j.Call()
	return func(ctx context.Context, id iot.ID) (json.RawMessage, error) {
		res, err := s.cfg.Hub.Invoke(ctx, id, m)
		if err != nil {
			return nil, err
		}
		if res.Payload == nil {
			res.Payload = json.RawMessage("null")
		}
		return marshal(struct {
			Status  int             `json:"status"`
			Payload json.RawMessage `json:"payload"`
		}{res.Status, res.Payload}), nil
	}, err
}

// work hands pending rows to workers and writes down what became of them. handing bounds the handing out, asking the
// waiting for devices; what was done by then is still written.
func (s *Service) work(ctx, asking, handing context.Context, j Job, do func(context.Context, iot.ID) (json.RawMessage, error)) error {
	todo, done := make(chan Row), make(chan Row, workers)
	var crew sync.WaitGroup
	for range workers {
		crew.Go(func() {
			for r := range todo {
				r.Start = s.now()
				result, err := do(asking, r.ID)
				if err != nil && ctx.Err() != nil {
					if j.Type == UpdateTwin {
						continue // pending still, for the next run
					}
					err = errStopped
				}
				r.Result, r.Status, r.End = result, RowCompleted, s.now()
				if err != nil {
					r.Status, r.Code, r.Reason = RowFailed, codeOf(err), fault.Public(err)
				}
				r.Updated, r.Tell = r.End, s.cfg.Tell
				done <- r
			}
		})
	}
	saved := make(chan error, 1)
	go func() { saved <- s.save(ctx, done) }()
	err := s.hand(handing, j, todo)
	close(todo)
	crew.Wait()
	close(done)
	if serr := <-saved; serr != nil {
		return serr
	}
	if handing.Err() != nil {
		return nil
	}
	return err
}

// hand sends the pending rows of a job to todo.
func (s *Service) hand(feed context.Context, j Job, todo chan<- Row) error {
	var after iot.ID
	for {
		rows, err := s.cfg.Store.PendingRows(feed, j.ID, after, 4*workers)
		if err != nil || len(rows) == 0 {
			return err
		}
		after = rows[len(rows)-1].ID
		size := len(rows)
		if j.Type == DeviceMethod {
			size = workers // few are marked before their turn: a stop fails them all
		}
		for len(rows) > 0 {
			part := rows[:min(size, len(rows))]
			rows = rows[len(part):]
			if j.Type == DeviceMethod {
				now := s.now()
				for i := range part {
					part[i].Status, part[i].Start, part[i].Updated = RowRunning, now, now
				}
				// Cut short, it could be done and not known to be.
				if err := s.cfg.Store.SaveRows(context.WithoutCancel(feed), part); err != nil {
					return err
				}
			}
			for i, r := range part {
				if feed.Err() != nil {
					return s.release(feed, j, part[i:])
				}
				select {
				case todo <- r:
				case <-feed.Done():
					return s.release(feed, j, part[i:])
				}
			}
		}
	}
}

// release makes rows pending again that were marked but not handed out.
func (s *Service) release(feed context.Context, j Job, rows []Row) error {
	if j.Type != DeviceMethod {
		return nil
	}
	ctx := context.WithoutCancel(feed)
	now := s.now()
	over := Row{Status: RowPending}
	if current, err := s.cfg.Store.Job(ctx, j.ID); err == nil && current.Status == Cancelled {
		over = Row{Status: RowCanceled, End: now}
	}
	for i := range rows {
		rows[i].Status, rows[i].Start, rows[i].End, rows[i].Updated = over.Status, time.Time{}, over.End, now
		if over.Status == RowCanceled {
			rows[i].Tell = s.cfg.Tell
		}
	}
	return s.cfg.Store.SaveRows(ctx, rows)
}

// save writes rows as they come, those that wait together. A server that stops still writes what it knows.
func (s *Service) save(ctx context.Context, done <-chan Row) error {
	ctx = context.WithoutCancel(ctx)
	var failed error
	for r := range done {
		rows := []Row{r}
	more:
		for len(rows) < listChunk {
			select {
			case r, ok := <-done:
				if !ok {
					break more
				}
				rows = append(rows, r)
			default:
				break more
			}
		}
		if err := s.cfg.Store.SaveRows(ctx, rows); err != nil {
			failed = err // keep taking rows: workers must not block
		}
	}
	return failed
}

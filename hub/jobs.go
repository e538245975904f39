package hub

import (
	"context"

	"github.com/vauban-iot/vauban/hub/fleet/job"
	"github.com/vauban-iot/vauban/hub/meter"
)

// CreateJob adds a job. Failures are fault.Invalid, AlreadyExists and QueueFull.
func (h *Hub) CreateJob(ctx context.Context, j job.Job) (job.Job, error) {
	success, failure := meter.CreateTwinJobSuccess, meter.CreateTwinJobFailure
	if j.Type == job.DeviceMethod {
		success, failure = meter.CreateMethodJobSuccess, meter.CreateMethodJobFailure
	}
	j, err := h.createJob(ctx, j)
	h.cfg.Meter.Outcome(err, success, failure)
	return j, err
}

// jobEnded is job.Config.Ended.
func (h *Hub) jobEnded(s job.Status) {
	if s == job.Failed {
		h.cfg.Meter.Count(meter.JobsFailed)
	} else {
		h.cfg.Meter.Count(meter.JobsCompleted)
	}
}

func (h *Hub) createJob(ctx context.Context, j job.Job) (job.Job, error) {
	if j.Type == job.DeviceMethod {
		m, err := j.Call()
		if err != nil {
			return job.Job{}, err
		}
		if err := checkMethod(m); err != nil { // rather now than once per device
			return job.Job{}, err
		}
	}
	return h.jobs.Create(ctx, j)
}

// Job returns a job; fault.NotFound.
func (h *Hub) Job(ctx context.Context, id string) (job.Job, job.Statistics, error) {
	return h.jobs.Job(ctx, id)
}

// CancelJob ends a job; fault.NotFound, and PreconditionFailed when it is over.
func (h *Hub) CancelJob(ctx context.Context, id string) (job.Job, job.Statistics, error) {
	return h.jobs.Cancel(ctx, id)
}

// Jobs lists jobs, a page at a time; see [job.Service.List].
func (h *Hub) Jobs(ctx context.Context, f job.Filter, token string) ([][]byte, string, error) {
	return h.jobs.List(ctx, f, token)
}

// RunJobs carries out jobs until ctx ends. It must run on one server at a time.
func (h *Hub) RunJobs(ctx context.Context) error { return h.jobs.Run(ctx) }

package service

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/hub/fleet"
	"github.com/vauban-iot/vauban/hub/fleet/job"
)

// jobs is what the job routes need of the hub.
type jobs interface {
	CreateJob(ctx context.Context, j job.Job) (job.Job, error)
	Job(ctx context.Context, id string) (job.Job, job.Statistics, error)
	CancelJob(ctx context.Context, id string) (job.Job, job.Statistics, error)
	Jobs(ctx context.Context, f job.Filter, token string) (docs [][]byte, next string, err error)
}

var jobRoutes = []route{
	{method: "GET", path: []string{"jobs", "v2", "query"}, rights: access.ServiceConnect, serve: (*Head).listJobs},
	{method: "PUT", path: []string{"jobs", "v2", "*"}, rights: access.ServiceConnect, limit: maxTwin, serve: (*Head).createJob},
	{method: "GET", path: []string{"jobs", "v2", "*"}, rights: access.ServiceConnect, serve: (*Head).getJob},
	{method: "POST", path: []string{"jobs", "v2", "*", "cancel"}, rights: access.ServiceConnect, serve: (*Head).cancelJob},
}

// jobCodes are the codes that mean something else where jobs are asked for.
var jobCodes = map[fault.Kind]code{
	fault.NotFound:      {404, 404002, "JobNotFound"},
	fault.AlreadyExists: {409, 409104, "JobAlreadyExists"},
	fault.QueueFull:     {403, 403003, "JobQuotaExceeded"},
}

// coded is an error whose code depends on what was asked for.
type coded struct {
	code
	error
}

func (c coded) Unwrap() error { return c.error }

// in gives err the code that its kind has in table, if it has one there.
func in(table map[fault.Kind]code, err error) error {
	if c, ok := table[fault.KindOf(err)]; ok && err != nil {
		return coded{c, err}
	}
	return err
}

func (h *Head) createJob(q *request) error {
	j, err := job.Parse(q.segments[2], q.body)
	if err != nil {
		return err
	}
	if j, err = h.core.CreateJob(q.Context(), j); err != nil {
		return in(jobCodes, err)
	}
	j.Status = job.Queued // whatever its time: clients look for this word (hub-service §5.2)
	rest.JSON(q.w, http.StatusOK, "", j.Document(job.Statistics{}))
	return nil
}

func (h *Head) getJob(q *request) error {
	j, s, err := h.core.Job(q.Context(), q.segments[2])
	return writeJob(q, j, s, err)
}

func (h *Head) cancelJob(q *request) error {
	j, s, err := h.core.CancelJob(q.Context(), q.segments[2])
	return writeJob(q, j, s, err)
}

func writeJob(q *request, j job.Job, s job.Statistics, err error) error {
	if err != nil {
		return in(jobCodes, err)
	}
	rest.JSON(q.w, http.StatusOK, "", j.Document(s))
	return nil
}

var (
	jobTypes    = []string{string(job.UpdateTwin), string(job.DeviceMethod)}
	jobStatuses = []string{
		string(job.Scheduled), string(job.Queued), string(job.Running), string(job.Completed), string(job.Failed), string(job.Cancelled),
		"unknown", "enqueued", // words of the API that no job of ours has
	}
)

func (h *Head) listJobs(q *request) error {
	params := q.URL.Query()
	kind, err := oneOf("jobType", params.Get("jobType"), jobTypes)
	if err != nil {
		return err
	}
	status, err := oneOf("jobStatus", params.Get("jobStatus"), jobStatuses)
	if err != nil {
		return err
	}
	f := job.Filter{Type: job.Type(kind), Status: job.Status(status), Limit: fleet.DefaultPage}
	if s := q.Header.Get("x-ms-max-item-count"); s != "" {
		if f.Limit, err = strconv.Atoi(s); err != nil {
			return fault.New(fault.Invalid, "x-ms-max-item-count must be a number from 1")
		}
	}
	docs, next, err := h.core.Jobs(q.Context(), f, q.Header.Get("x-ms-continuation"))
	if err != nil {
		return err
	}
	writePage(q, docs, "JobResponse", next)
	return nil
}

// oneOf is the word that value means, in any case; none for an empty value.
func oneOf(name, value string, words []string) (string, error) {
	if value == "" {
		return "", nil
	}
	for _, w := range words {
		if strings.EqualFold(w, value) {
			return w, nil
		}
	}
	return "", fault.New(fault.Invalid, "%s must be one of %s", name, strings.Join(words, ", "))
}

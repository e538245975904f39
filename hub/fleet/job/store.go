package job

import (
	"context"
	"encoding/json"
	"time"

	"github.com/vauban-iot/vauban/iot"
)

// Type is what a job does, in Azure's spelling.
type Type string

// The types.
const (
	UpdateTwin   Type = "scheduleUpdateTwin"
	DeviceMethod Type = "scheduleDeviceMethod"
)

// Status is the state of a job.
type Status string

// The states. A job waits as Scheduled for its time and as Queued for its turn.
const (
	Scheduled Status = "scheduled"
	Queued    Status = "queued"
	Running   Status = "running"
	Completed Status = "completed"
	Failed    Status = "failed"
	Cancelled Status = "cancelled"
)

func (s Status) over() bool { return s == Completed || s == Failed || s == Cancelled }

// Job is a twin update or a direct method for all devices that meet a condition.
type Job struct {
	Sequence  int64 // of its creation, given by the store
	ID        string
	Type      Type
	Condition string
	Method    json.RawMessage // cloudToDeviceMethod as it was sent; nil: none
	Update    json.RawMessage // updateTwin as it was sent; nil: none
	Created   time.Time
	Start     time.Time     // not before this
	MaxTime   time.Duration // from Began
	Began     time.Time
	End       time.Time
	Status    Status
	Failure   string // why it Failed
	Listed    bool   // its rows are complete
}

// RowStatus is the state of a row. Azure spells it unlike a job's.
type RowStatus string

// The states of a row.
const (
	RowPending   RowStatus = "pending"
	RowRunning   RowStatus = "running"
	RowCompleted RowStatus = "completed"
	RowFailed    RowStatus = "failed"
	RowCanceled  RowStatus = "canceled"
)

// Row is what a job does to one device or module, a row of devices.jobs (hub-service §4.3).
type Row struct {
	Job     string
	Type    Type
	ID      iot.ID
	Status  RowStatus
	Created time.Time
	Start   time.Time
	End     time.Time
	Updated time.Time
	Result  json.RawMessage // what the device answered; nil: nothing
	Code    string          // Azure's number of what went wrong; empty: nothing did
	Reason  string
	// Tell makes what the log is told of the row as it is written, in the same transaction; nil: nothing. Reads leave it empty.
	Tell func(Row) []iot.Message
}

// Statistics counts the rows of a job.
type Statistics struct{ Devices, Failed, Succeeded, Running, Pending int }

// Filter picks jobs. Zero members pick all.
type Filter struct {
	Type   Type
	Status Status
	Due    time.Time // unfinished ones that may start at this time
	After  int64     // a sequence
	Limit  int
}

// Scan picks rows, in order of job and device. Empty members pick all.
type Scan struct {
	Job, Device string // equal to these
	AfterJob    string // what comes behind this row
	After       iot.ID
}

// Rows reads rows.
type Rows interface {
	// ScanRows calls visit for each row until it returns an error, which ScanRows returns.
	ScanRows(ctx context.Context, s Scan, visit func(*Row) error) error
}

// Store keeps jobs. Every write is on disk when the call returns.
type Store interface {
	Rows
	// CreateJob adds a job; fault.AlreadyExists when its id is taken, fault.QueueFull when limit jobs are unfinished.
	CreateJob(ctx context.Context, j Job, limit int) error
	// Job returns a job; fault.NotFound.
	Job(ctx context.Context, id string) (Job, error)
	// JobStatistics counts the rows of jobs.
	JobStatistics(ctx context.Context, ids []string) (map[string]Statistics, error)
	// UpdateJob reads, changes and writes in one transaction; fault.NotFound. When rest is not nil, rows that are pending
	// get its status, times, code and reason, and its Tell is called for each. change is as in twin.Store.
	UpdateJob(ctx context.Context, id string, rest *Row, change func(Job) (Job, error)) (Job, error)
	// Jobs lists jobs in order of their sequence.
	Jobs(ctx context.Context, f Filter) ([]Job, error)
	// AddRows adds pending rows to a job, but for those it has already.
	AddRows(ctx context.Context, job Job, ids []iot.ID, now time.Time) error
	// PendingRows returns pending rows of a job behind the given one, in order.
	PendingRows(ctx context.Context, job string, after iot.ID, limit int) ([]Row, error)
	// SaveRows writes rows that exist.
	SaveRows(ctx context.Context, rows []Row) error
	// AbortRows gives the rows of all jobs that are running the status, times, code and reason of rest, and calls its Tell for each.
	AbortRows(ctx context.Context, rest Row) error
	// ForgetJobs removes jobs that ended before the given time.
	ForgetJobs(ctx context.Context, before time.Time) error
}

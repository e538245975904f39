package job

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/command"
	"github.com/vauban-iot/vauban/hub/query"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

// Limits of a job (hub-service §5.2).
const (
	defaultTime = time.Hour
	maxTime     = 7 * 24 * time.Hour
	defaultWait = 30 * time.Second // for the answer of a method
)

// Parse reads the body of a job's creation. Failures are fault.Malformed and Invalid.
func Parse(id string, body []byte) (Job, error) {
	var doc struct {
		ID        string          `json:"jobId"`
		Type      string          `json:"type"`
		Method    json.RawMessage `json:"cloudToDeviceMethod"`
		Update    json.RawMessage `json:"updateTwin"`
		Condition string          `json:"queryCondition"`
		Start     string          `json:"startTime"`
		MaxTime   float64         `json:"maxExecutionTimeInSeconds"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return Job{}, fault.Wrap(fault.Malformed, err, "the body is not a job")
	}
	if err := iot.ValidateID("jobId", id); err != nil {
		return Job{}, err
	}
	if doc.ID != "" && doc.ID != id {
		return Job{}, fault.New(fault.Invalid, "the body's jobId is not the one in the path")
	}
	j := Job{ID: id, Condition: doc.Condition, MaxTime: defaultTime}
	switch strings.ToLower(doc.Type) {
	case "scheduleupdatetwin", "scheduletwinupdate":
		j.Type, j.Update = UpdateTwin, doc.Update
		if _, err := j.patch(); err != nil {
			return Job{}, err
		}
	case "scheduledevicemethod":
		j.Type, j.Method = DeviceMethod, doc.Method
		if _, err := j.Call(); err != nil {
			return Job{}, err
		}
	default:
		return Job{}, fault.New(fault.Invalid, "type must be scheduleUpdateTwin or scheduleDeviceMethod")
	}
	c, err := query.ParseCondition(j.Condition)
	switch {
	case err != nil:
		return Job{}, err
	case c.None:
		return Job{}, fault.New(fault.Invalid, "queryCondition is missing; * means every device")
	case c.From == query.Jobs:
		return Job{}, fault.New(fault.Invalid, "queryCondition must be about devices or devices.modules")
	}
	if doc.Start != "" {
		if j.Start, err = time.Parse(time.RFC3339, doc.Start); err != nil {
			return Job{}, fault.New(fault.Invalid, "startTime is not an RFC 3339 time")
		}
	}
	if doc.MaxTime != 0 {
		if doc.MaxTime < 1 || doc.MaxTime > maxTime.Seconds() {
			return Job{}, fault.New(fault.Invalid, "maxExecutionTimeInSeconds must be 1 to %.0f", maxTime.Seconds())
		}
		j.MaxTime = time.Duration(doc.MaxTime * float64(time.Second))
	}
	return j, nil
}

func absent(doc json.RawMessage) bool { return len(doc) == 0 || string(doc) == "null" }

// patch is the twin patch of an UpdateTwin job.
func (j Job) patch() (twin.Patch, error) {
	if absent(j.Update) {
		return twin.Patch{}, fault.New(fault.Invalid, "updateTwin is missing")
	}
	var doc struct {
		ETag *string `json:"etag"`
	}
	if err := json.Unmarshal(j.Update, &doc); err != nil {
		return twin.Patch{}, fault.Wrap(fault.Malformed, err, "updateTwin is not a twin document")
	}
	if doc.ETag != nil && *doc.ETag != "*" {
		return twin.Patch{}, fault.New(fault.Invalid, "updateTwin.etag must be *: many twins have no ETag in common")
	}
	p, err := twin.ParsePatch(j.Update)
	if err != nil {
		return p, err
	}
	_, _, err = twin.New(iot.ID{}).Apply(p, time.Time{}) // breaks a rule on every twin, or on none
	return p, err
}

// Call is the method of a DeviceMethod job; fault.Malformed and Invalid.
func (j Job) Call() (command.Method, error) {
	if absent(j.Method) {
		return command.Method{}, fault.New(fault.Invalid, "cloudToDeviceMethod is missing")
	}
	var doc struct {
		Name     string          `json:"methodName"`
		Payload  json.RawMessage `json:"payload"`
		Response *float64        `json:"responseTimeoutInSeconds"`
		Connect  float64         `json:"connectTimeoutInSeconds"`
	}
	if err := json.Unmarshal(j.Method, &doc); err != nil {
		return command.Method{}, fault.Wrap(fault.Malformed, err, "cloudToDeviceMethod is not a method request")
	}
	m := command.Method{Name: doc.Name, Payload: doc.Payload, ResponseTimeout: defaultWait, ConnectTimeout: seconds(doc.Connect)}
	if absent(m.Payload) {
		m.Payload = nil
	}
	if doc.Response != nil {
		m.ResponseTimeout = seconds(*doc.Response)
	}
	return m, nil
}

// seconds converts without overflow; what is out of range stays out of range.
func seconds(s float64) time.Duration {
	if s > 1e6 || s < -1e6 {
		s = 1e6
	}
	return time.Duration(s * float64(time.Second))
}

type jobDocument struct {
	ID         string          `json:"jobId"`
	Condition  string          `json:"queryCondition"`
	Created    string          `json:"createdTime"`
	Start      string          `json:"startTime"`
	End        *string         `json:"endTime"`
	MaxTime    int64           `json:"maxExecutionTimeInSeconds"`
	Type       Type            `json:"type"`
	Method     json.RawMessage `json:"cloudToDeviceMethod"`
	Update     json.RawMessage `json:"updateTwin"`
	Status     Status          `json:"status"`
	Failure    *string         `json:"failureReason"`
	Message    *string         `json:"statusMessage"`
	Statistics struct {
		Devices   int `json:"deviceCount"`
		Failed    int `json:"failedCount"`
		Succeeded int `json:"succeededCount"`
		Running   int `json:"runningCount"`
		Pending   int `json:"pendingCount"`
	} `json:"deviceJobStatistics"`
}

// Document is a job as programs read it (hub-service §5.2).
func (j Job) Document(s Statistics) []byte {
	doc := jobDocument{
		ID: j.ID, Condition: j.Condition, Created: iot.FormatTime(j.Created), Start: iot.FormatTime(j.Start), End: moment(j.End),
		MaxTime: int64(j.MaxTime / time.Second), Type: j.Type, Method: j.Method, Update: j.Update, Status: j.Status,
	}
	if j.Failure != "" {
		doc.Failure = &j.Failure
	}
	doc.Statistics.Devices, doc.Statistics.Failed, doc.Statistics.Succeeded = s.Devices, s.Failed, s.Succeeded
	doc.Statistics.Running, doc.Statistics.Pending = s.Running, s.Pending
	return marshal(doc)
}

// moment is null for a time that has not come.
func moment(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	s := iot.FormatTime(t)
	return &s
}

type rowDocument struct {
	Device  string      `json:"deviceId"`
	Module  string      `json:"moduleId,omitempty"`
	Job     string      `json:"jobId"`
	Type    Type        `json:"jobType"`
	Status  RowStatus   `json:"status"`
	Start   *string     `json:"startTimeUtc"`
	End     *string     `json:"endTimeUtc"`
	Created string      `json:"createdDateTimeUtc"`
	Updated string      `json:"lastUpdatedDateTimeUtc"`
	Outcome *rowOutcome `json:"outcome"`
	Error   *rowError   `json:"error"`
}

type rowOutcome struct {
	Response json.RawMessage `json:"deviceMethodResponse"`
}

type rowError struct {
	Code        string `json:"code"`
	Description string `json:"description"`
}

// Document is a row of devices.jobs (hub-service §4.3).
func (r *Row) Document() []byte {
	doc := rowDocument{
		Device: r.ID.Device, Module: r.ID.Module, Job: r.Job, Type: r.Type, Status: r.Status, Start: moment(r.Start), End: moment(r.End),
		Created: iot.FormatTime(r.Created), Updated: iot.FormatTime(r.Updated),
	}
	if len(r.Result) > 0 {
		doc.Outcome = &rowOutcome{r.Result}
	}
	if r.Code != "" {
		doc.Error = &rowError{r.Code, r.Reason}
	}
	return marshal(doc)
}

// members of a row. Programs write createdTimeUtc, too.
var members = []string{
	"deviceId", "moduleId", "jobId", "jobType", "status", "startTimeUtc", "endTimeUtc", "createdDateTimeUtc", "lastUpdatedDateTimeUtc", "outcome", "error",
}

// Find implements query.Document.
func (r *Row) Find(p query.Path) query.Value {
	if len(p) == 0 {
		return query.Value{}
	}
	name := query.Pick(p[0].Name, members)
	if strings.EqualFold(name, "createdTimeUtc") {
		name = "createdDateTimeUtc"
	}
	return query.JSON(string(r.Document())).Member(name).Find(p[1:])
}

// codes are Azure's numbers for what keeps a device from doing its part (hub-service §2.9, §5.1).
var codes = map[fault.Kind]string{
	fault.Invalid: "400004", fault.Malformed: "400006", fault.Disabled: "403012", fault.NotFound: "404001", fault.NotOnline: "404103",
	fault.ConnectionClosed: "404104", fault.PreconditionFailed: "412001", fault.TooLarge: "413001", fault.Throttled: "403800",
	fault.BadDeviceResponse: "502000", fault.Unavailable: "503001", fault.Timeout: "504101",
}

func codeOf(err error) string {
	if c, ok := codes[fault.KindOf(err)]; ok {
		return c
	}
	return "500001"
}

// marshal leaves what a device or program wrote as it is.
func marshal(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // texts, numbers, and JSON that was read as such
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

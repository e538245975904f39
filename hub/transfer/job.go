// Package transfer carries identities in and out of a hub by the file: import and export jobs over containers of a blob store
// (hub-service §2.7).
//
// A file holds one JSON object a line. An import reads it in batches, whose rows share a transaction, and writes what it
// refused, line by line, to importErrors.log in the output container. One job of a hub is unfinished at a time.
//
// Jobs live in the store. When the server stops, an export begins again at the next start; an import that was under way has failed,
// since a row must not be carried out twice: what was done by then stays, and the file may be imported again.
package transfer

import (
	"bytes"
	"context"
	"encoding/json"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/iot"
)

// Type is what a job does, in Azure's spelling.
type Type string

// The types.
const (
	Import Type = "import"
	Export Type = "export"
)

// Status is the state of a job.
type Status string

// The states.
const (
	Enqueued  Status = "enqueued"
	Running   Status = "running"
	Completed Status = "completed"
	Failed    Status = "failed"
	Cancelled Status = "cancelled"
)

// Over reports whether nothing happens to such a job any more.
func (s Status) Over() bool { return s == Completed || s == Failed || s == Cancelled }

// Names of files where a request does not say another.
const (
	DefaultBlob           = "devices.txt"
	DefaultConfigurations = "configurations.txt"
	ErrorsBlob            = "importErrors.log"
)

// Request is what a program asks for. The containers are secrets: their URIs hold tokens.
type Request struct {
	Type               Type
	Input, Output      string // URIs of containers
	InputBlob          string
	OutputBlob         string
	ExcludeKeys        bool
	Configurations     bool // configurations, too
	ConfigurationsBlob string
	IdentityBased      bool // the hub's own right opens the containers
}

// Job is an import or export.
type Job struct {
	Sequence int64 // of its creation, given by the store
	ID       string
	Request
	Status   Status
	Progress int    // percent
	Failure  string // why it failed, or what did not go well
	Created  time.Time
	Began    time.Time
	End      time.Time
}

// ErrBusy refuses a job while another one is unfinished. It is fault.QueueFull.
var ErrBusy = fault.New(fault.QueueFull, "another import or export is enqueued or running; only one may be at a time")

// Store keeps jobs. Every write is on disk when the call returns.
type Store interface {
	// CreateTransfer adds a job; ErrBusy while one is unfinished.
	CreateTransfer(ctx context.Context, j Job) (Job, error)
	// Transfer returns a job; fault.NotFound.
	Transfer(ctx context.Context, id string) (Job, error)
	// Transfers lists jobs, the newest first; unfinished picks those.
	Transfers(ctx context.Context, unfinished bool) ([]Job, error)
	// UpdateTransfer reads, changes and writes status, progress, failure and times in one transaction; fault.NotFound. change is as in
	// twin.Store.
	UpdateTransfer(ctx context.Context, id string, change func(Job) (Job, error)) (Job, error)
	// ForgetTransfers removes jobs that ended before the given time.
	ForgetTransfers(ctx context.Context, before time.Time) error
}

// maxURI bounds the URI of a container.
const maxURI = 8 << 10

// Parse reads the body of a request. Failures are fault.Malformed and Invalid.
func Parse(body []byte) (Request, error) {
	var doc struct {
		Type                   string
		InputBlobContainerURI  *string `json:"inputBlobContainerUri"`
		OutputBlobContainerURI *string `json:"outputBlobContainerUri"`
		InputBlobName          *string
		OutputBlobName         *string
		ExcludeKeysInExport    *bool
		StorageAuthentication  *string `json:"storageAuthenticationType"`
		IncludeConfigurations  *bool
		ConfigurationsBlobName *string
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return Request{}, fault.Wrap(fault.Malformed, err, "the body is not a job")
	}
	r := Request{
		Input: deref(doc.InputBlobContainerURI), Output: deref(doc.OutputBlobContainerURI), InputBlob: deref(doc.InputBlobName), OutputBlob: deref(doc.OutputBlobName),
		ConfigurationsBlob: deref(doc.ConfigurationsBlobName),
		ExcludeKeys:        doc.ExcludeKeysInExport != nil && *doc.ExcludeKeysInExport, Configurations: doc.IncludeConfigurations != nil && *doc.IncludeConfigurations,
	}
	for _, name := range []struct {
		value    *string
		fallback string
	}{{&r.InputBlob, DefaultBlob}, {&r.OutputBlob, DefaultBlob}, {&r.ConfigurationsBlob, DefaultConfigurations}} {
		if *name.value == "" {
			*name.value = name.fallback
		}
		if err := checkBlob(*name.value); err != nil {
			return Request{}, err
		}
	}
	switch auth := deref(doc.StorageAuthentication); {
	case auth == "", strings.EqualFold(auth, "keyBased"):
	case strings.EqualFold(auth, "identityBased"):
		r.IdentityBased = true
	default:
		return Request{}, fault.New(fault.Invalid, "storageAuthenticationType must be keyBased or identityBased")
	}
	switch {
	case strings.EqualFold(doc.Type, string(Import)):
		r.Type = Import
		if r.Input == "" {
			return Request{}, fault.New(fault.Invalid, "inputBlobContainerUri is missing")
		}
	case strings.EqualFold(doc.Type, string(Export)):
		r.Type = Export
		r.Input = ""
	default:
		return Request{}, fault.New(fault.Invalid, "type must be import or export")
	}
	if r.Output == "" {
		return Request{}, fault.New(fault.Invalid, "outputBlobContainerUri is missing")
	}
	if len(r.Input) > maxURI || len(r.Output) > maxURI {
		return Request{}, fault.New(fault.Invalid, "the URI of a container has more than %d bytes", maxURI)
	}
	return r, nil
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// checkBlob refuses names that a URL or a file store would read as another one.
func checkBlob(name string) error {
	if !utf8.ValidString(name) || utf8.RuneCountInString(name) > 1024 ||
		strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' }) {
		return fault.New(fault.Invalid, "the name of a blob has at most 1024 characters, none of them a control character or a backslash")
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return fault.New(fault.Invalid, "a part of a blob's name is empty, . or ..")
		}
	}
	return nil
}

// document is a job as programs read it.
type document struct {
	ID                 string  `json:"jobId"`
	Type               Type    `json:"type"`
	Status             Status  `json:"status"`
	Progress           int     `json:"progress"`
	Start              *string `json:"startTimeUtc"`
	End                *string `json:"endTimeUtc"`
	Failure            *string `json:"failureReason"`
	Input              *string `json:"inputBlobContainerUri"`
	InputBlob          *string `json:"inputBlobName"`
	Output             string  `json:"outputBlobContainerUri"`
	OutputBlob         string  `json:"outputBlobName"`
	ExcludeKeys        bool    `json:"excludeKeysInExport"`
	Authentication     string  `json:"storageAuthenticationType"`
	Configurations     bool    `json:"includeConfigurations"`
	ConfigurationsBlob string  `json:"configurationsBlobName"`
}

// Document is the JSON document of a job. The signatures in its URIs are hidden: who reads of a job may not hold them.
func (j Job) Document() []byte {
	d := document{
		ID: j.ID, Type: j.Type, Status: j.Status, Progress: j.Progress, Start: when(j.Began), End: when(j.End),
		Output: hidden(j.Output), OutputBlob: j.OutputBlob, ExcludeKeys: j.ExcludeKeys, Authentication: "keyBased",
		Configurations: j.Configurations, ConfigurationsBlob: j.ConfigurationsBlob,
	}
	if j.Failure != "" {
		d.Failure = &j.Failure
	}
	if j.Type == Import {
		in := hidden(j.Input)
		d.Input, d.InputBlob = &in, &j.InputBlob
	}
	if j.IdentityBased {
		d.Authentication = "identityBased"
	}
	return marshal(d)
}

func when(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	s := iot.FormatTime(t)
	return &s
}

// hidden is a URI without the signature in its query.
func hidden(uri string) string {
	base, query, ok := strings.Cut(uri, "?")
	if !ok {
		return uri
	}
	parts := strings.Split(query, "&")
	for i, p := range parts {
		name, _, _ := strings.Cut(p, "=")
		if n, err := url.QueryUnescape(name); err != nil || strings.EqualFold(n, "sig") {
			parts[i] = "sig=hidden"
		}
	}
	return base + "?" + strings.Join(parts, "&")
}

// marshal leaves what was written as it is, on one line.
func marshal(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // texts, numbers, and JSON that was read as such
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

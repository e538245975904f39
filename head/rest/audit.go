package rest

import (
	"context"
	"log/slog"
	"net/http"
	"strings"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/wire/sas"
)

// Recorder remembers the status of an answer.
type Recorder struct {
	http.ResponseWriter
	Status int // 0: nothing was answered
}

// WriteHeader implements http.ResponseWriter.
func (r *Recorder) WriteHeader(status int) {
	if r.Status == 0 {
		r.Status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (r *Recorder) Write(p []byte) (int, error) {
	if r.Status == 0 {
		r.Status = http.StatusOK
	}
	return r.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (r *Recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// Change is one request that should change something, once it is over.
type Change struct {
	Who    string // whoever proved itself: the name of a policy, or operator
	What   string // the operation: method and path, with * for names
	Target string // the path as it was meant
	Status int    // of the answer
	Code   string // Azure's word for a refusal; empty: none
	Err    error  // why it was refused; nil: it was not
	Remote string // where the request came from
	// Details are more of what was changed, as slog takes them. They hold no secret: neither bodies nor headers come here.
	Details []any
}

// Audit writes the record of a change. Requests of callers that proved nothing change nothing and are no matter of the
// audit; heads log their refusal.
func Audit(ctx context.Context, log *slog.Logger, c Change) {
	if fault.Is(c.Err, fault.Unauthorized) {
		return
	}
	outcome, level := "done", slog.LevelInfo
	switch {
	case c.Status == 0 || c.Status >= 500:
		outcome = "failed"
	case c.Status >= 400:
		outcome = "refused"
	}
	args := append([]any{
		"audit", true, "who", c.Who, "what", c.What, "target", c.Target, "outcome", outcome, "status", c.Status,
	}, c.Details...)
	if c.Code != "" {
		args = append(args, "code", c.Code)
	}
	log.Log(ctx, level, "change", append(args, "from", c.Remote)...)
}

// Policy is the shared access policy that a request names. It is who asks once the request is authorized.
func Policy(r *http.Request) string {
	t, err := sas.Parse(r.Header.Get("Authorization"))
	if err != nil {
		return ""
	}
	return t.KeyName
}

// Operation names a route: "PUT /devices/*".
func Operation(method string, path []string) string { return method + " /" + strings.Join(path, "/") }

type detailsKey struct{}

// Detailed returns a context in which Note works, and what it noted.
func Detailed(ctx context.Context) (context.Context, *[]any) {
	details := new([]any)
	return context.WithValue(ctx, detailsKey{}, details), details
}

// Note adds to the audit record of the request under way. It does nothing when there will be none.
func Note(ctx context.Context, args ...any) {
	if details, ok := ctx.Value(detailsKey{}).(*[]any); ok {
		*details = append(*details, args...)
	}
}

package ui

import (
	"errors"
	"net/http"
	"strings"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
)

// change is a form that somebody sent: it is read up to limit bytes, and audited as the API's changes are. Actions add to the
// record with rest.Note.
func (c *Console) change(limit int64, a signedIn) http.Handler {
	return c.page(func(w http.ResponseWriter, r *http.Request, s *session) (err error) {
		ctx, details := rest.Detailed(r.Context())
		rec := &rest.Recorder{ResponseWriter: w}
		defer func() {
			ch := rest.Change{
				Who: user, What: r.Method + " " + r.URL.Path, Target: strings.TrimPrefix(r.URL.Path, "/console/"),
				Status: rec.Status, Err: err, Remote: r.RemoteAddr, Details: *details,
			}
			if err != nil {
				ch.Status, _ = statusOf(err)
			}
			rest.Audit(ctx, c.log, ch)
		}()
		r.Body = http.MaxBytesReader(rec, r.Body, limit)
		if strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/form-data") {
			err = r.ParseMultipartForm(limit)
		} else {
			err = r.ParseForm()
		}
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return fault.Wrap(fault.TooLarge, err, "The form is over %d bytes.", limit)
		}
		if err != nil {
			return fault.Wrap(fault.Malformed, err, "The form cannot be read.")
		}
		return a(rec, r.WithContext(ctx), s)
	})
}

// errNothingToDo refuses a form whose button is not ours.
var errNothingToDo = fault.New(fault.Invalid, "The form says nothing that can be done.")

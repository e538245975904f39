// Package rest is what the HTTPS heads share: Azure's way of writing paths, headers
// and bodies (hub-service §0.3).
package rest

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/vauban-iot/vauban/fault"
)

// Segments splits the request's path as Azure's clients mean it: one trailing slash is
// nothing, each segment is decoded once, and a path that was encoded as a whole
// ("/devices%2Fd1", IoT explorer) is decoded once before that. A segment with a
// broken escape is taken literally.
func Segments(r *http.Request) []string {
	raw := strings.TrimPrefix(r.URL.EscapedPath(), "/")
	if !strings.Contains(raw, "/") && strings.Contains(strings.ToLower(raw), "%2f") {
		if s, err := url.PathUnescape(raw); err == nil {
			raw = s
		}
	}
	raw = strings.TrimSuffix(raw, "/")
	if raw == "" {
		return nil
	}
	segments := strings.Split(raw, "/")
	for i, s := range segments {
		if d, err := url.PathUnescape(s); err == nil {
			segments[i] = d
		}
	}
	return segments
}

// Is reports whether segments are want, word for word without case; "*" in want is any one segment.
func Is(segments []string, want ...string) bool {
	if len(segments) != len(want) {
		return false
	}
	for i, w := range want {
		if w != "*" && !strings.EqualFold(segments[i], w) {
			return false
		}
	}
	return true
}

// Body reads the request's body of at most limit bytes; more is fault.TooLarge.
func Body(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, fault.New(fault.TooLarge, "the body is over %d bytes", limit)
		}
		return nil, fault.Wrap(fault.Malformed, err, "the body cannot be read")
	}
	return b, nil
}

// JSONType is the content type of every JSON answer; azure-iothub reads bodies under no other.
const JSONType = "application/json; charset=utf-8"

// JSON writes body with status. A non-empty etag is written quoted, and the header's
// name as Azure spells it: clients compare it letter by letter (hub-device §4.1).
func JSON(w http.ResponseWriter, status int, etag string, body []byte) {
	h := w.Header()
	h["Content-Type"] = []string{JSONType}
	if etag != "" {
		h["ETag"] = []string{`"` + etag + `"`}
	}
	w.WriteHeader(status)
	w.Write(body) // a peer that left is no error of ours
}

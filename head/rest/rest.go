// Package rest is what the HTTPS heads share: Azure's way of writing paths, headers
// and bodies (hub-service §0.3).
package rest

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/vauban-iot/vauban/fault"
)

// Segments splits the request's path as Azure's clients mean it: one trailing slash is
// nothing, each segment is decoded once, and a path that was encoded as a whole
// ("/devices%2Fd1", IoT explorer) is decoded once before that. A segment with a
// broken escape is taken literally.
func Segments(r *http.Request) []string {
	raw, _ := split(r)
	segments := make([]string, len(raw))
	for i, s := range raw {
		segments[i] = s
		if d, err := url.PathUnescape(s); err == nil {
			segments[i] = d
		}
	}
	return segments
}

// Literal is the second reading of a path that was encoded as a whole: IoT explorer encodes
// ids before that for some calls only, so an id with a percent sign may stand as it is
// (hub-service §0.3). It is nil when there is no second reading.
func Literal(r *http.Request) []string {
	raw, whole := split(r)
	if !whole || slices.Equal(raw, Segments(r)) {
		return nil
	}
	return raw
}

// split cuts the path into segments that are still encoded, but for the encoding of the whole.
func split(r *http.Request) (raw []string, whole bool) {
	path := strings.TrimPrefix(r.URL.EscapedPath(), "/")
	if !strings.Contains(path, "/") && strings.Contains(strings.ToLower(path), "%2f") {
		if s, err := url.PathUnescape(path); err == nil {
			path, whole = s, true
		}
	}
	path = strings.TrimSuffix(path, "/")
	if path == "" {
		return nil, whole
	}
	return strings.Split(path, "/"), whole
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

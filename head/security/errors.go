package security

import (
	"errors"
	"log/slog"
	"net/http"
	"strings"

	"github.com/vauban-iot/vauban/head/arm"
	"github.com/vauban-iot/vauban/head/rest"
)

// refuse answers a failure, and logs it once.
func (h *Head) refuse(q *request, path []string, err error) {
	if q.Context().Err() != nil {
		return // the peer left
	}
	a := arm.AnswerOf(err)
	level := slog.LevelInfo
	if a.Status >= http.StatusInternalServerError {
		level = slog.LevelError
	}
	h.log.Log(q.Context(), level, "request refused", "head", "security", "method", q.Method, "path", q.URL.EscapedPath(),
		"status", a.Status, "code", a.Code, "who", q.who, "remote", q.RemoteAddr, "err", err)
	header := q.w.Header()
	arm.Headers(header, "security", err)
	if errors.Is(err, arm.ErrMethod) {
		header.Set("Allow", strings.Join(allowed(path), ", "))
	}
	rest.JSON(q.w, a.Status, "", arm.Body(header, err))
}

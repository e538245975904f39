package agent

import (
	"context"
	"log/slog"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Log is a slog handler that hands records on, and keeps warnings and errors for the log collector: the newest 256.
type Log struct {
	next slog.Handler
	kept *kept
	with string
}

type kept struct {
	mu  sync.Mutex
	all []collect.Observation
}

const (
	maxRecords = 256
	maxRecord  = 1024 // bytes of one
)

// NewLog returns a handler in front of next.
func NewLog(next slog.Handler) *Log { return &Log{next: next, kept: &kept{}} }

// Enabled implements slog.Handler.
func (l *Log) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn || l.next.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (l *Log) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn {
		l.keep(r)
	}
	if !l.next.Enabled(ctx, r.Level) {
		return nil
	}
	return l.next.Handle(ctx, r)
}

func (l *Log) keep(r slog.Record) {
	var b strings.Builder
	b.WriteString(r.Message + l.with)
	r.Attrs(func(at slog.Attr) bool {
		b.WriteString(" " + at.String())
		return b.Len() < maxRecord
	})
	text := strings.ToValidUTF8(b.String()[:min(b.Len(), maxRecord)], "")
	level := "WARN"
	if r.Level >= slog.LevelError {
		level = "ERROR"
	}
	frame, _ := runtime.CallersFrames([]uintptr{r.PC}).Next()
	o := collect.Observation{Event: "Log", Time: r.Time, Hits: 1, Item: secmsg.Record{
		Message: text, Level: level, Timestamp: uint64(max(r.Time.Unix(), 0)), Line: uint32(max(frame.Line, 0)), File: filepath.Base(frame.File),
	}}
	l.kept.mu.Lock()
	defer l.kept.mu.Unlock()
	if len(l.kept.all) == maxRecords {
		l.kept.all = append(l.kept.all[:0], l.kept.all[1:]...)
	}
	l.kept.all = append(l.kept.all, o)
}

// take is the log collector.
func (l *Log) take() []collect.Observation {
	l.kept.mu.Lock()
	defer l.kept.mu.Unlock()
	all := l.kept.all
	l.kept.all = nil
	return all
}

// WithAttrs implements slog.Handler.
func (l *Log) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := l.with
	for _, at := range attrs {
		with += " " + at.String()
	}
	return &Log{l.next.WithAttrs(attrs), l.kept, with}
}

// WithGroup implements slog.Handler.
func (l *Log) WithGroup(name string) slog.Handler {
	return &Log{l.next.WithGroup(name), l.kept, l.with}
}

var _ slog.Handler = (*Log)(nil)

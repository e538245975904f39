package hubtest

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
)

// Log is a slog.Handler that remembers every line.
type Log struct {
	mu    sync.Mutex
	lines []Line
}

// Line is one log record.
type Line struct {
	Level slog.Level
	Text  string // message and attributes
	attrs map[string]string
}

// Attr is an attribute's value; empty when there is none of that name.
func (l Line) Attr(name string) string { return l.attrs[name] }

// Enabled implements slog.Handler.
func (*Log) Enabled(context.Context, slog.Level) bool { return true }

// WithAttrs implements slog.Handler.
func (l *Log) WithAttrs([]slog.Attr) slog.Handler { return l }

// WithGroup implements slog.Handler.
func (l *Log) WithGroup(string) slog.Handler { return l }

// Handle implements slog.Handler.
func (l *Log) Handle(_ context.Context, r slog.Record) error {
	line := Line{Level: r.Level, Text: r.Message, attrs: make(map[string]string)}
	r.Attrs(func(a slog.Attr) bool {
		v := a.Value.Resolve().String()
		line.attrs[a.Key] = v
		line.Text += fmt.Sprintf(" %s=%q", a.Key, v)
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
	return nil
}

// Lines returns the lines of at least the given level in which part occurs.
func (l *Log) Lines(level slog.Level, part string) []Line {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(l.lines), func(line Line) bool {
		return line.Level < level || !strings.Contains(line.Text, part)
	})
}

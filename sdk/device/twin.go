package device

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vauban-iot/vauban/wire/topic"
)

// Twin is a device's twin as the device sees it (hub-device §3.7).
type Twin struct {
	Desired  json.RawMessage // an object, with $version
	Reported json.RawMessage
}

// TwinEvent is a whole twin, or a change of the desired part.
type TwinEvent struct {
	Twin  *Twin           // nil: it is a change
	Patch json.RawMessage // the change: members that are null are gone
	// Version of the desired part.
	Version int64
}

// TwinError is an answer of the hub that is no success.
type TwinError struct {
	Status  int // as in HTTP
	Message string
}

func (e *TwinError) Error() string {
	return fmt.Sprintf("the hub answered %d: %s", e.Status, e.Message)
}

var requests atomic.Uint64 // ids of all requests

// request asks something about the twin on the next connection there is, and again on another when that breaks.
func (c *Client) request(ctx context.Context, to func(rid string) []byte, body []byte) (answer, error) {
	for {
		conn, err := c.connection(ctx)
		if err != nil {
			return answer{}, err
		}
		a, err := c.requestOn(ctx, conn, to, body)
		if !errors.Is(err, errClosed) {
			return a, err
		}
		if err := c.leave(ctx, conn); err != nil {
			return answer{}, err
		}
	}
}

func (c *Client) requestOn(ctx context.Context, conn *conn, to func(rid string) []byte, body []byte) (answer, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTime, errSilent)
	defer cancel()
	rid := strconv.FormatUint(requests.Add(1), 16)
	a, err := conn.ask(ctx, rid, to(rid), body)
	switch {
	case err != nil:
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, errClosed) {
			err = cause
		}
		return a, err
	case a.status < 200 || a.status > 299:
		return a, &TwinError{a.status, strings.TrimSpace(string(a.body))}
	}
	return a, nil
}

// ReadTwin asks for the whole twin.
func (c *Client) ReadTwin(ctx context.Context) (Twin, error) {
	a, err := c.request(ctx, getTopic, nil)
	if err != nil {
		return Twin{}, err
	}
	t, _, err := parseTwin(a.body)
	return t, err
}

func getTopic(rid string) []byte { return topic.AppendTwinGet(nil, rid) }

func parseTwin(body []byte) (Twin, int64, error) {
	var doc struct{ Desired, Reported json.RawMessage }
	var version struct {
		Version int64 `json:"$version"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return Twin{}, 0, fmt.Errorf("the hub's twin cannot be read: %w", err)
	}
	if err := json.Unmarshal(doc.Desired, &version); err != nil {
		return Twin{}, 0, fmt.Errorf("the hub's twin has no desired part: %w", err)
	}
	return Twin(doc), version.Version, nil
}

// Report merges patch, which marshals to an object, into the reported part, and returns its new version.
func (c *Client) Report(ctx context.Context, patch any) (version int64, err error) {
	body, err := json.Marshal(patch)
	if err != nil {
		return 0, err
	}
	a, err := c.request(ctx, func(rid string) []byte { return topic.AppendTwinPatch(nil, rid) }, body)
	return a.version, err
}

// whole asks for the twin and puts it before the changes that come meanwhile.
func (in *inbox) whole(ctx context.Context) {
	for wait := time.Second; ; wait *= 2 {
		a, err := in.c.requestOn(ctx, in.conn, getTopic, nil)
		var t Twin
		var version int64
		if err == nil {
			t, version, err = parseTwin(a.body)
		}
		if err == nil {
			in.begin(TwinEvent{Twin: &t, Version: version})
			return
		}
		if te, ok := errors.AsType[*TwinError](err); !ok || te.Status != 429 && te.Status < 500 || wait > time.Minute {
			in.conn.close(fmt.Errorf("reading the twin: %w", err))
			return
		}
		select {
		case <-time.After(wait):
		case <-in.conn.done:
			return
		case <-ctx.Done():
			return
		}
	}
}

package device

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/wire/mqtt"
	"github.com/vauban-iot/vauban/wire/topic"
)

var (
	// ErrEnded is returned by a Session that is over, with the reason.
	ErrEnded = errors.New("device: the session is over")
	// ErrTokenDue is why a session ended whose token would soon be good no longer.
	ErrTokenDue = errors.New("a new token is due")
)

// Session is one connection. It ends when the connection is lost, the token is due or Close is called, and is not made
// anew: whoever called Connect decides when to try again. It is safe for concurrent use.
type Session struct {
	c       *Client
	conn    *conn
	twin    Twin
	version int64
	stop    context.CancelFunc // of handlers
	renew   *time.Timer
	wg      sync.WaitGroup
}

// Connect connects once, in the place of Run. ctx is for connecting only. Without Config.Twin the session reads no twin;
// with it the whole twin is read before Connect returns, is the session's, and Config.Twin hears only changes. Config.State hears of the
// session's end. Every session must be closed.
func (c *Client) Connect(ctx context.Context) (*Session, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTime, errSilent)
	defer cancel()
	conn, life, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	s := &Session{c: c, conn: conn}
	in := newInbox(c, conn)
	in.once = true
	handlers, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.wg.Go(func() { in.run(handlers) })
	s.wg.Go(func() { conn.ping(c.cfg.KeepAlive) })
	established := make(chan bool, 1)
	s.wg.Go(func() {
		conn.read(in.take)
		if <-established && c.cfg.State != nil {
			c.cfg.State(conn.why())
		}
	})
	if err = c.subscribe(ctx, conn); err == nil && c.cfg.Twin != nil {
		err = s.read(ctx, in)
	}
	if err != nil {
		established <- false
		s.Close()
		return nil, err
	}
	if life != 0 {
		s.renew = time.AfterFunc(life, func() { s.end(ErrTokenDue) })
	}
	established <- true
	return s, nil
}

// read asks for the twin, after which changes may come.
func (s *Session) read(ctx context.Context, in *inbox) error {
	a, err := s.c.requestOn(ctx, s.conn, getTopic, nil)
	if err == nil {
		s.twin, s.version, err = parseTwin(a.body)
	}
	if errors.Is(err, errClosed) {
		err = s.conn.why()
	}
	if err != nil {
		return fmt.Errorf("reading the twin: %w", err)
	}
	in.begin(TwinEvent{Twin: &s.twin, Version: s.version})
	return nil
}

// Twin is the twin as it was when the session began, and the version of its desired part.
func (s *Session) Twin() (Twin, int64) { return s.twin, s.version }

// Send sends a message and returns when the hub has it. It fails with ErrEnded when the session ends before; the hub may have the
// message nevertheless.
func (s *Session) Send(ctx context.Context, m Message) error {
	to, err := s.c.telemetry(&m)
	if err != nil {
		return err
	}
	return s.ended(s.conn.publish(ctx, to, m.Body))
}

// ReadTwin asks for the whole twin.
func (s *Session) ReadTwin(ctx context.Context) (Twin, error) {
	a, err := s.c.requestOn(ctx, s.conn, getTopic, nil)
	if err != nil {
		return Twin{}, s.ended(err)
	}
	t, _, err := parseTwin(a.body)
	return t, err
}

// Report merges patch, which marshals to an object, into the reported part, and returns its new version.
func (s *Session) Report(ctx context.Context, patch any) (version int64, err error) {
	body, err := json.Marshal(patch)
	if err != nil {
		return 0, err
	}
	a, err := s.c.requestOn(ctx, s.conn, func(rid string) []byte { return topic.AppendTwinPatch(nil, rid) }, body)
	return a.version, s.ended(err)
}

// ended gives the reason to an error that only says that the connection is closed.
func (s *Session) ended(err error) error {
	if errors.Is(err, errClosed) {
		return fmt.Errorf("%w: %w", ErrEnded, s.conn.why())
	}
	return err
}

// Done is closed when the session is over.
func (s *Session) Done() <-chan struct{} { return s.conn.done }

// Err is why the session is over; nil while it is not.
func (s *Session) Err() error { return s.conn.why() }

func (s *Session) end(why error) {
	if s.conn.why() == nil {
		s.conn.write(mqtt.AppendDisconnect(nil))
	}
	s.conn.close(why)
}

// Close ends the session and waits until nothing of it is left: handlers see their context end. What is being sent fails. It may not be
// called by a handler.
func (s *Session) Close() {
	s.end(errClosed)
	s.stop()
	if s.renew != nil {
		s.renew.Stop()
	}
	s.wg.Wait()
}

package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"
)

const (
	// leadPeriod is how often a waiting node asks for the lead, and a leading one whether it still has it.
	leadPeriod = 500 * time.Millisecond
	// leadTimeout is how long the database may take to answer before whatever this node leads counts as lost.
	leadTimeout = 10 * time.Second
)

var errLeadLost = errors.New("the connection that held it is gone")

// leads is everything that this node leads or waits to lead. All of it stands on one connection: what is led is an advisory lock of its
// session, so it is free as soon as the connection is gone, however that happened, and is lost all at once.
type leads struct {
	pool    *pool
	timeout time.Duration
	turn    chan struct{} // holds one while somebody uses what follows

	users int       // who leads or waits
	conn  *sql.Conn // nil: none
	lost  chan struct{}
	asked time.Time       // when conn last answered
	held  map[string]bool // a session gets a lock again that it has: its own second leader would get it, too
}

func newLeads(p *pool) *leads {
	return &leads{pool: p, timeout: leadTimeout, turn: make(chan struct{}, 1), held: make(map[string]bool)}
}

// take waits for the turn, which the caller gives back.
func (l *leads) take(ctx context.Context) error {
	select {
	case l.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *leads) give() { <-l.turn }

// join makes room for the connection beside those of the pool, which must not lack one.
func (l *leads) join(ctx context.Context) error {
	if err := l.take(ctx); err != nil {
		return err
	}
	defer l.give()
	if l.users++; l.users == 1 {
		l.pool.allow(1)
	}
	return nil
}

func (l *leads) leave() {
	_ = l.take(context.Background()) // which does not end
	defer l.give()
	if l.users--; l.users == 0 {
		l.drop()
		l.pool.allow(-1)
	}
}

// drop ends the connection, and with it all that it holds. The turn must be the caller's.
func (l *leads) drop() {
	if l.conn == nil {
		return
	}
	// So the pool does not give it to others: the server may believe that it lives, and it may hold locks.
	_ = l.conn.Raw(func(any) error { return driver.ErrBadConn })
	_ = l.conn.Close()
	close(l.lost)
	l.conn, l.lost = nil, nil
}

// ask runs a question on the connection; one that fails is dropped. The turn must be the caller's. A caller that goes away does not take the
// connection along, as pgx closes one whose question is cancelled.
func (l *leads) ask(ctx context.Context, question func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.timeout)
	defer cancel()
	if l.conn == nil {
		conn, err := l.pool.db.Conn(ctx)
		if err != nil {
			return err
		}
		l.conn, l.lost = conn, make(chan struct{})
	}
	if err := question(ctx); err != nil {
		l.drop()
		return err
	}
	l.asked = time.Now()
	return nil
}

// try asks for the lead. What it returns is closed when the lead is lost; nil: somebody else leads.
func (l *leads) try(ctx context.Context, name string) (lost <-chan struct{}, err error) {
	if err := l.take(ctx); err != nil {
		return nil, err
	}
	defer l.give()
	if l.held[name] {
		return nil, nil
	}
	var got bool
	err = l.ask(ctx, func(ctx context.Context) error {
		return l.conn.QueryRowContext(ctx, "SELECT pg_try_advisory_lock($1, hashtext($2))", lockSpace, "lead "+name).Scan(&got)
	})
	if err != nil || !got {
		return nil, err
	}
	l.held[name] = true
	return l.lost, nil
}

// check asks whether the connection lives, once a period for all that stand on it.
func (l *leads) check(ctx context.Context) {
	if l.take(ctx) != nil {
		return
	}
	defer l.give()
	if l.conn != nil && time.Since(l.asked) > leadPeriod/2 {
		_ = l.ask(ctx, l.conn.PingContext) // whoever loses by it is told
	}
}

// free ends a lead whose run ended.
func (l *leads) free(name string, lost <-chan struct{}) error {
	_ = l.take(context.Background())
	defer l.give()
	delete(l.held, name)
	if l.lost == nil || l.lost != lost {
		return errLeadLost
	}
	return l.ask(context.Background(), func(ctx context.Context) error {
		_, err := l.conn.ExecContext(ctx, "SELECT pg_advisory_unlock($1, hashtext($2))", lockSpace, "lead "+name)
		return err
	})
}

// lead implements sqlstore.Backend.
func (p *pool) lead(ctx context.Context, name string, run func(context.Context) error) error {
	l := p.leads
	if err := l.join(ctx); err != nil {
		return err
	}
	defer l.leave()
	tick := time.NewTicker(leadPeriod)
	defer tick.Stop()
	var lost <-chan struct{}
	for {
		var err error
		if lost, err = l.try(ctx, name); err != nil && ctx.Err() == nil {
			return fmt.Errorf("store: lead %s: %w", name, err)
		}
		if lost != nil {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	leading, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- run(leading) }()
	for {
		select {
		case err := <-done:
			if uerr := l.free(name, lost); err == nil && uerr != nil {
				err = fmt.Errorf("store: end the lead of %s: %w", name, uerr)
			}
			return err
		case <-lost:
			// Another node may lead already. Ours ends before we return.
			stop()
			err := <-done
			return fmt.Errorf("store: the lead of %s is lost: %w", name, errors.Join(l.free(name, lost), err))
		case <-tick.C:
			l.check(ctx)
		}
	}
}

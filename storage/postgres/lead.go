package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// leadPeriod is how often a waiting node asks for the lead, and a leading one whether it still has it.
const leadPeriod = 500 * time.Millisecond

// allow changes how many connections there may be: whoever leads, or waits to, keeps one, and must not take it from the rest.
func (p *pool) allow(more int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns += more
	p.db.SetMaxOpenConns(p.conns)
	p.db.SetMaxIdleConns(p.conns)
}

// lead implements sqlstore.Backend: the lead is an advisory lock of one connection, so it is free as soon as
// the leader's connection is gone, however that happened.
func (p *pool) lead(ctx context.Context, name string, run func(context.Context) error) error {
	p.allow(1)
	defer p.allow(-1)
	conn, err := p.db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("store: lead %s: %w", name, err)
	}
	defer conn.Close()
	tick := time.NewTicker(leadPeriod)
	defer tick.Stop()
	for {
		var got bool
		if err := conn.QueryRowContext(ctx, "SELECT pg_try_advisory_lock($1, hashtext($2))", lockSpace, "lead "+name).Scan(&got); err != nil {
			return fmt.Errorf("store: lead %s: %w", name, err)
		}
		if got {
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
			_, uerr := conn.ExecContext(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1, hashtext($2))", lockSpace, "lead "+name)
			if err == nil && uerr != nil {
				err = fmt.Errorf("store: end the lead of %s: %w", name, uerr)
			}
			return err
		case <-tick.C:
			if err := conn.PingContext(ctx); err != nil && ctx.Err() == nil {
				// Another node may lead already. Ours ends before we return.
				stop()
				return fmt.Errorf("store: the lead of %s is lost: %w", name, errors.Join(err, <-done))
			}
		}
	}
}

package sqlstore

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/notice"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/bag"
)

// Enqueue implements [command.Mailbox]. A zero Expires never expires. LockToken and Delivered are not written.
func (s *Store) Enqueue(ctx context.Context, m iot.Mail, limit int, now time.Time) (sequence uint64, err error) {
	system, err := packBag(m.System)
	if err != nil {
		return 0, err
	}
	properties, err := packBag(m.Properties)
	if err != nil {
		return 0, err
	}
	body := m.Body
	if body == nil {
		body = []byte{} // nil would be NULL
	}
	err = s.write(ctx, func(ctx context.Context, c Conn) error {
		if err := s.hold(ctx, c, m.To); err != nil {
			return err
		}
		waiting, err := one(ctx, s, c, "count mail", scanInt,
			`SELECT COUNT(*) FROM mail WHERE device = $1 AND module = $2 AND (expires = 0 OR expires > $3)`,
			m.To.Device, m.To.Module, micros(now))
		if err != nil {
			return err
		}
		if waiting >= int64(limit) {
			return fault.New(fault.QueueFull, "%d messages wait for %s %s already", waiting, kind(m.To), m.To)
		}
		n, err := one(ctx, s, c, "enqueue mail", scanInt, `INSERT INTO mail (device, module, lock_token, locked_until,
			message_id, enqueued, expires, delivery_count, ack, system, properties, body)
			VALUES ($1, $2, '', 0, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING sequence`,
			m.To.Device, m.To.Module,
			m.MessageID, micros(m.Enqueued), micros(m.Expires), m.DeliveryCount, m.Ack, system, properties, body)
		sequence = uint64(n)
		return err
	})
	if err != nil {
		return 0, err
	}
	return sequence, nil
}

// Lock implements [command.Mailbox].
func (s *Store) Lock(ctx context.Context, id iot.ID, n int, now, until time.Time) ([]iot.Mail, error) {
	// Most devices have no mail most of the time: do not queue for the writer then.
	if ok, err := s.exists(ctx, "look for mail", `SELECT 1 FROM mail WHERE device = $1 AND module = $2 LIMIT 1`, id); !ok || err != nil {
		return nil, err
	}
	var all []iot.Mail
	err := s.write(ctx, func(ctx context.Context, c Conn) (err error) {
		all, err = list(ctx, s, c, "read mail", scanMail, s.lock(`SELECT sequence, device, module, lock_token, message_id,
			enqueued, expires, delivery_count, ack, system, properties, body FROM mail
			WHERE device = $1 AND module = $2 AND locked_until <= $3 AND (expires = 0 OR expires > $3)
			ORDER BY sequence LIMIT $4`), id.Device, id.Module, micros(now), n)
		if err != nil {
			return err
		}
		for i := range all {
			m := &all[i]
			m.LockToken = newToken()
			if _, err := s.exec(ctx, c, "lock mail", `UPDATE mail SET lock_token = $1, locked_until = $2 WHERE sequence = $3`,
				m.LockToken, micros(until), int64(m.Sequence)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// Settle implements [command.Mailbox].
func (s *Store) Settle(ctx context.Context, id iot.ID, lockToken string, how iot.Settlement, maxDelivery int, now time.Time) error {
	lost := fault.New(fault.LockLost, "the lock of the message is lost")
	if lockToken == "" {
		return lost
	}
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		left, err := one(ctx, s, c, "read locked mail", scanMailEnd, s.lock(selectMailEnd+
			`WHERE device = $1 AND module = $2 AND lock_token = $3`), id.Device, id.Module, lockToken)
		if errors.Is(err, errNoRow) {
			return lost
		}
		if err != nil {
			return err
		}
		outcome := notice.Success
		switch {
		case how == iot.Rejected:
			outcome = notice.Rejected
		case how == iot.Abandoned && left.deliveries+1 < int64(maxDelivery):
			_, err := s.exec(ctx, c, "abandon mail", `UPDATE mail SET locked_until = 0, delivery_count = delivery_count + 1,
				lock_token = $1 WHERE sequence = $2`, newToken(), left.sequence) // the new token is nobody's: the old one is spent
			return err
		case how == iot.Abandoned:
			outcome = notice.DeliveryExceeded
		}
		return s.endMail(ctx, c, []mailEnd{left}, outcome, now)
	})
}

// mailEnd is what the end of a message needs to know of it.
type mailEnd struct {
	sequence   int64
	to         iot.ID
	messageID  string
	ack        string
	expires    time.Time
	deliveries int64
}

const selectMailEnd = `SELECT sequence, device, module, message_id, ack, expires, delivery_count FROM mail `

func scanMailEnd(r *sql.Rows) (m mailEnd, err error) {
	err = r.Scan(&m.sequence, &m.to.Device, &m.to.Module, &m.messageID, &m.ack, stamp{&m.expires}, &m.deliveries)
	return m, err
}

// endMail removes messages and queues the feedback they owe. A zero time stands for each message's expiry.
func (s *Store) endMail(ctx context.Context, c Conn, all []mailEnd, outcome notice.Outcome, at time.Time) error {
	for _, m := range all {
		if _, err := s.exec(ctx, c, "remove mail", `DELETE FROM mail WHERE sequence = $1`, m.sequence); err != nil {
			return err
		}
		if !outcome.Wanted(m.ack) {
			continue
		}
		generation, err := one(ctx, s, c, "read generation", func(r *sql.Rows) (g string, err error) {
			err = r.Scan(&g)
			return g, err
		}, `SELECT generation FROM identities WHERE device = $1 AND module = $2`, m.to.Device, m.to.Module)
		if err != nil {
			return err
		}
		when := at
		if when.IsZero() {
			when = m.expires
		}
		r := notice.Record{MessageID: m.messageID, At: when, Outcome: outcome, To: m.to, Generation: generation}
		if err := s.notify(ctx, c, notice.Feedback, &m.to, r.Document(), when, when.Add(notice.Life)); err != nil {
			return err
		}
	}
	return nil
}

// Release implements [command.Mailbox]. Lock tokens stay good.
func (s *Store) Release(ctx context.Context, id iot.ID) error {
	ok, err := s.exists(ctx, "look for locked mail", `SELECT 1 FROM mail WHERE device = $1 AND module = $2 AND locked_until <> 0 LIMIT 1`, id)
	if !ok || err != nil {
		return err
	}
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		_, err := s.exec(ctx, c, "release mail", `UPDATE mail SET locked_until = 0 WHERE device = $1 AND module = $2 AND locked_until <> 0`,
			id.Device, id.Module)
		return err
	})
}

// Purge implements [command.Mailbox].
func (s *Store) Purge(ctx context.Context, id iot.ID, now time.Time) (int, error) {
	var all []mailEnd
	err := s.write(ctx, func(ctx context.Context, c Conn) (err error) {
		if err := s.hold(ctx, c, id); err != nil {
			return err
		}
		all, err = list(ctx, s, c, "read mail to purge", scanMailEnd, s.lock(selectMailEnd+
			`WHERE device = $1 AND module = $2 ORDER BY sequence`), id.Device, id.Module)
		if err != nil {
			return err
		}
		return s.endMail(ctx, c, all, notice.Purged, now)
	})
	return len(all), err
}

// expireBatch bounds how long other writes wait for one round of expiry.
const expireBatch = 500

// Expire implements [command.Mailbox].
func (s *Store) Expire(ctx context.Context, now time.Time) (int, error) {
	for total := 0; ; {
		var n int
		err := s.write(ctx, func(ctx context.Context, c Conn) error {
			all, err := list(ctx, s, c, "read expired mail", scanMailEnd, s.lock(selectMailEnd+
				`WHERE expires <> 0 AND expires <= $1 ORDER BY sequence LIMIT $2`), micros(now), expireBatch)
			if err != nil {
				return err
			}
			n = len(all)
			return s.endMail(ctx, c, all, notice.Expired, time.Time{})
		})
		if err != nil {
			return total, err
		}
		if total += n; n < expireBatch {
			return total, nil
		}
	}
}

// exists reports whether a query about id finds a committed row.
func (s *Store) exists(ctx context.Context, what, query string, id iot.ID) (bool, error) {
	_, err := one(ctx, s, s.b.Reader, what, scanInt, query, id.Device, id.Module)
	if errors.Is(err, errNoRow) {
		return false, nil
	}
	return err == nil, err
}

func scanMail(r *sql.Rows) (m iot.Mail, err error) {
	var before string
	var system, properties [][]string
	err = r.Scan(&m.Sequence, &m.To.Device, &m.To.Module, &before, &m.MessageID, stamp{&m.Enqueued}, stamp{&m.Expires},
		&m.DeliveryCount, &m.Ack, jsonText{&system}, jsonText{&properties}, &m.Body)
	m.Delivered = before != ""
	m.System, m.Properties = unpackBag(system), unpackBag(properties)
	return m, err
}

// newToken makes a lock token: a random UUID, because AMQP sends it as one (hub-device §5).
func newToken() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// packBag writes properties as a JSON array of [name, value], or [name] for null.
func packBag(ps []bag.Property) (string, error) {
	items := make([][]string, len(ps))
	for i, p := range ps {
		if !utf8.ValidString(p.Name) || !utf8.ValidString(p.Value) {
			return "", fault.New(fault.Invalid, "property %q is not valid UTF-8", p.Name)
		}
		items[i] = []string{p.Name, p.Value}
		if p.Null {
			items[i] = items[i][:1]
		}
	}
	return toJSON(items)
}

func unpackBag(items [][]string) []bag.Property {
	var ps []bag.Property
	for _, it := range items {
		switch len(it) {
		case 1:
			ps = append(ps, bag.Property{Name: it[0], Null: true})
		case 2:
			ps = append(ps, bag.Property{Name: it[0], Value: it[1]})
		}
	}
	return ps
}

// Session implements [command.Sessions].
func (s *Store) Session(ctx context.Context, id iot.ID) (subs []iot.Subscription, ok bool, err error) {
	subs, err = one(ctx, s, s.b.Reader, "read session", func(r *sql.Rows) (subs []iot.Subscription, err error) {
		err = r.Scan(jsonText{&subs})
		return subs, err
	}, `SELECT subscriptions FROM sessions WHERE device = $1 AND module = $2`, id.Device, id.Module)
	if errors.Is(err, errNoRow) {
		return nil, false, nil
	}
	return subs, err == nil, err
}

// SaveSession implements [command.Sessions]; fault.NotFound for an unknown identity.
func (s *Store) SaveSession(ctx context.Context, id iot.ID, subs []iot.Subscription) error {
	for _, sub := range subs {
		if !utf8.ValidString(sub.Filter) || strings.IndexByte(sub.Filter, 0) >= 0 {
			return fault.New(fault.Invalid, "topic filter is not valid UTF-8")
		}
	}
	text, err := toJSON(subs)
	if err != nil {
		return err
	}
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		if err := s.hold(ctx, c, id); err != nil {
			return err
		}
		_, err := s.exec(ctx, c, "save session", `INSERT INTO sessions (device, module, subscriptions) VALUES ($1, $2, $3)
			ON CONFLICT (device, module) DO UPDATE SET subscriptions = excluded.subscriptions`, id.Device, id.Module, text)
		return err
	})
}

// DropSession implements [command.Sessions].
func (s *Store) DropSession(ctx context.Context, id iot.ID) error {
	// Clean sessions are the rule and have nothing to drop: do not queue for the writer then.
	if ok, err := s.exists(ctx, "look for session", `SELECT 1 FROM sessions WHERE device = $1 AND module = $2`, id); !ok || err != nil {
		return err
	}
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		_, err := s.exec(ctx, c, "drop session", `DELETE FROM sessions WHERE device = $1 AND module = $2`, id.Device, id.Module)
		return err
	})
}

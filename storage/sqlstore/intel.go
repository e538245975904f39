package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/vauban-iot/vauban/defender/intel/feed"
	"github.com/vauban-iot/vauban/fault"
)

var _ feed.Store = (*Store)(nil)

const feedConfigs = "feed" // the purpose that seals configurations

const selectFeed = `SELECT name, config, generation, state, wanted, accept FROM intel_feeds `

// scanFeed opens what was sealed, too.
func (s *Store) scanFeed(r *sql.Rows) (f feed.Feed, err error) {
	var name string
	var sealed []byte
	if err := r.Scan(&name, &sealed, &f.Generation, jsonText{&f.State}, stamp{&f.Wanted}, &f.Accept); err != nil {
		return f, err
	}
	text, err := s.open(feedConfigs, name, sealed)
	if err != nil {
		return f, err
	}
	f.Config, err = feed.UnmarshalConfig(text)
	return f, err
}

// changedIntel tells whoever follows that something is new. It is the first write of a transaction, so that transactions follow each other.
func (s *Store) changedIntel(ctx context.Context, c Conn) error {
	_, err := s.exec(ctx, c, "count change of intelligence", `UPDATE intel_version SET version = version + 1`)
	return err
}

// IntelVersion implements [feed.Store].
func (s *Store) IntelVersion(ctx context.Context) (int64, error) {
	return one(ctx, s, s.b.Reader, "read version of intelligence", scanInt, `SELECT version FROM intel_version`)
}

// Feeds implements [feed.Store].
func (s *Store) Feeds(ctx context.Context) ([]feed.Feed, error) {
	return list(ctx, s, s.b.Reader, "list feeds", s.scanFeed, selectFeed+`ORDER BY name`)
}

func (s *Store) feed(ctx context.Context, c Conn, name, query string) (feed.Feed, error) {
	return one(ctx, s, c, "read feed", s.scanFeed, query, name)
}

// Feed implements [feed.Store].
func (s *Store) Feed(ctx context.Context, name string) (feed.Feed, error) {
	f, err := s.feed(ctx, s.b.Reader, name, selectFeed+`WHERE name = $1`)
	return f, notFound(err, "feed", name)
}

// PutFeed implements [feed.Store].
func (s *Store) PutFeed(ctx context.Context, name string, change func(*feed.Feed) (feed.Feed, error)) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		if err := s.changedIntel(ctx, c); err != nil {
			return err
		}
		var standing *feed.Feed
		// Generations of one name never repeat, not even when the feed was deleted meanwhile.
		generation, err := one(ctx, s, c, "read version of intelligence", scanInt, `SELECT version FROM intel_version`)
		if err != nil {
			return err
		}
		switch f, err := s.feed(ctx, c, name, s.lock(selectFeed+`WHERE name = $1`)); {
		case err == nil:
			standing = &f
		case !errors.Is(err, errNoRow):
			return err
		}
		next, err := change(standing)
		if err != nil {
			return err
		}
		next.Name = name
		text, err := feed.MarshalConfig(next.Config)
		if err != nil {
			return err
		}
		state, err := toJSON(next.State)
		if err != nil {
			return err
		}
		if _, err = s.exec(ctx, c, "write feed", `INSERT INTO intel_feeds (name, config, generation, state, wanted, accept)
			VALUES ($1, $2, $3, $4, 0, $5)
			ON CONFLICT (name) DO UPDATE SET config = excluded.config, generation = excluded.generation, state = excluded.state,
			wanted = excluded.wanted, accept = excluded.accept`, name, s.seal(feedConfigs, name, text), generation, state, false); err != nil {
			return err
		}
		return s.dropFeedContent(ctx, c, name, next.State.Revision)
	})
}

// DeleteFeed implements [feed.Store].
func (s *Store) DeleteFeed(ctx context.Context, name string) error {
	return s.changeFeed(ctx, name, "delete feed", `DELETE FROM intel_feeds WHERE name = $1`, name)
}

// changeFeed runs a statement that changes one row.
func (s *Store) changeFeed(ctx context.Context, name, what, query string, args ...any) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		n, err := s.exec(ctx, c, what, query, args...)
		if err != nil {
			return err
		}
		if n == 0 {
			return notFound(errNoRow, "feed", name)
		}
		return s.changedIntel(ctx, c)
	})
}

// WantFeed implements [feed.Store].
func (s *Store) WantFeed(ctx context.Context, name string, at time.Time, accept bool) error {
	return s.changeFeed(ctx, name, "refresh feed", `UPDATE intel_feeds SET wanted = $1, accept = $2 WHERE name = $3`, micros(at), accept, name)
}

// SetFeedState implements [feed.Store].
func (s *Store) SetFeedState(ctx context.Context, name string, generation int64, st feed.State, seen time.Time) error {
	text, err := toJSON(st)
	if err != nil {
		return err
	}
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		n, err := s.exec(ctx, c, "write state of feed", `UPDATE intel_feeds SET state = $1 WHERE name = $2 AND generation = $3`, text, name, generation)
		if err != nil {
			return err
		}
		if n == 0 {
			return fault.New(fault.PreconditionFailed, "feed %s was changed meanwhile", name)
		}
		if _, err := s.exec(ctx, c, "end wish for feed", `UPDATE intel_feeds SET wanted = 0, accept = $1 WHERE name = $2 AND wanted <= $3`, false, name, micros(seen)); err != nil {
			return err
		}
		return s.changedIntel(ctx, c)
	})
}

// AddFeedContent implements [feed.Store].
func (s *Store) AddFeedContent(ctx context.Context, name string, revision int64, piece int, data []byte) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		// The feed may be deleted at this moment; its row is locked until the piece stands.
		if _, err := one(ctx, s, c, "read feed", scanInt, s.lock(`SELECT generation FROM intel_feeds WHERE name = $1`), name); err != nil {
			return notFound(err, "feed", name)
		}
		_, err := s.exec(ctx, c, "write content of feed", `INSERT INTO intel_content (feed, revision, piece, data) VALUES ($1, $2, $3, $4)
			ON CONFLICT (feed, revision, piece) DO UPDATE SET data = excluded.data`, name, revision, piece, data)
		return err
	})
}

// FeedContent implements [feed.Store]. Pieces are read one by one, so that no large content is in memory twice.
func (s *Store) FeedContent(ctx context.Context, name string, revision int64, piece func([]byte) error) error {
	for n := 0; ; n++ {
		data, err := one(ctx, s, s.b.Reader, "read content of feed", func(r *sql.Rows) (v []byte, err error) {
			err = r.Scan(&v)
			return v, err
		}, `SELECT data FROM intel_content WHERE feed = $1 AND revision = $2 AND piece = $3`, name, revision, n)
		if errors.Is(err, errNoRow) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := piece(data); err != nil {
			return err
		}
	}
}

// DropFeedContent implements [feed.Store].
func (s *Store) DropFeedContent(ctx context.Context, name string, but int64) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error { return s.dropFeedContent(ctx, c, name, but) })
}

func (s *Store) dropFeedContent(ctx context.Context, c Conn, name string, but int64) error {
	_, err := s.exec(ctx, c, "drop content of feed", `DELETE FROM intel_content WHERE feed = $1 AND revision <> $2`, name, but)
	return err
}

// Exemptions implements [feed.Store].
func (s *Store) Exemptions(ctx context.Context) ([]feed.Exemption, error) {
	return list(ctx, s, s.b.Reader, "list exemptions", func(r *sql.Rows) (e feed.Exemption, err error) {
		err = r.Scan(&e.Value, &e.Note, stamp{&e.Added})
		return e, err
	}, `SELECT value, note, added FROM intel_exemptions ORDER BY value`)
}

// PutExemption implements [feed.Store].
func (s *Store) PutExemption(ctx context.Context, e feed.Exemption) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		if _, err := s.exec(ctx, c, "write exemption", `INSERT INTO intel_exemptions (value, note, added) VALUES ($1, $2, $3)
			ON CONFLICT (value) DO UPDATE SET note = excluded.note`, e.Value, e.Note, micros(e.Added)); err != nil {
			return err
		}
		return s.changedIntel(ctx, c)
	})
}

// DeleteExemption implements [feed.Store].
func (s *Store) DeleteExemption(ctx context.Context, value string) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		n, err := s.exec(ctx, c, "delete exemption", `DELETE FROM intel_exemptions WHERE value = $1`, value)
		if err != nil {
			return err
		}
		if n == 0 {
			return notFound(errNoRow, "exemption", value)
		}
		return s.changedIntel(ctx, c)
	})
}

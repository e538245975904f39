package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"slices"
	"sort"
	"time"

	"github.com/vauban-iot/vauban/defender/record"
)

// pruneRows and pruneBlocks are how much one transaction forgets: others wait for it.
const (
	pruneRows   = 5000
	pruneBlocks = 50
)

// PruneEvents implements [record.Store]. A block goes when all of it is too old or too much.
func (s *Store) PruneEvents(ctx context.Context, before time.Time, keep int, bytes int64) (int, error) {
	total, err := s.pruneAge(ctx, before)
	if err != nil {
		return total, err
	}
	n, err := s.pruneBound(ctx, "COUNT(*)", func(b *blockInfo) int64 { return b.events }, int64(keep))
	if total += n; err != nil {
		return total, err
	}
	n, err = s.pruneBound(ctx, "SUM(size)", func(b *blockInfo) int64 { return b.size }, bytes)
	return total + n, err
}

func (s *Store) pruneAge(ctx context.Context, before time.Time) (int, error) {
	// Messages are in the order in which they came: the newest of those that are too old goes with all before it.
	cut, err := one(ctx, s, s.b.Reader, "find old security events", scanInt, `SELECT COALESCE((SELECT message FROM security_events WHERE message < (SELECT COALESCE(
		(SELECT message FROM security_events WHERE enqueued >= $1 ORDER BY message, ordinal LIMIT 1), $2)) ORDER BY message DESC, ordinal DESC LIMIT 1), -1)`, micros(before), int64(1<<63-1))
	if err != nil {
		return 0, err
	}
	n, err := s.forgetRows(ctx, cut)
	if err != nil {
		return n, err
	}
	blocks, err := s.blocks(ctx)
	if err != nil {
		return n, err
	}
	more, err := s.forgetBlocks(ctx, slices.DeleteFunc(blocks, func(b *blockInfo) bool { return !b.newest.Before(before) }))
	return n + more, err
}

// pruneBound forgets the oldest events beyond a bound on what they weigh together; rows is the weight of rows in SQL.
func (s *Store) pruneBound(ctx context.Context, rows string, weight func(*blockInfo) int64, bound int64) (int, error) {
	newer := func(than int64) (int64, error) {
		return one(ctx, s, s.b.Reader, "weigh security events", scanInt, `SELECT CAST(COALESCE(`+rows+`, 0) AS BIGINT) FROM security_events WHERE message > $1`, than)
	}
	blocks, err := s.blocks(ctx)
	if err != nil {
		return 0, err
	}
	above := make([]int64, len(blocks)+1) // above[i] is what the blocks later than i weigh
	for i, b := range blocks {
		above[i+1] = above[i] + weight(b)
	}
	all, err := newer(-1)
	if err != nil || all+above[len(blocks)] <= bound {
		return 0, err
	}
	// The first block that does not fit whole is the last that stays.
	var failed error
	edge := sort.Search(len(blocks), func(i int) bool {
		n, err := newer(int64(blocks[i].last.Message))
		failed = cmp.Or(failed, err)
		return above[i+1]+n > bound
	})
	if failed != nil {
		return 0, failed
	}
	var cut int64
	if edge < len(blocks) {
		cut = int64(blocks[edge].first.Message) - 1
	} else if cut, err = s.rowCut(ctx, rows, bound-above[edge]); err != nil {
		return 0, err
	}
	n, err := s.forgetRows(ctx, cut)
	if err != nil || edge == len(blocks) {
		return n, err
	}
	more, err := s.forgetBlocks(ctx, blocks[edge+1:])
	return n + more, err
}

// rowCut is the newest message whose rows, with all that are later, weigh more than a bound; -1: there is none.
func (s *Store) rowCut(ctx context.Context, weight string, bound int64) (int64, error) {
	if weight == "COUNT(*)" {
		return one(ctx, s, s.b.Reader, "find security events", scanInt, `SELECT COALESCE((SELECT message FROM security_events ORDER BY message DESC, ordinal DESC LIMIT 1 OFFSET $1), -1)`, bound)
	}
	return one(ctx, s, s.b.Reader, "find security events", scanInt, `SELECT COALESCE(MAX(message), -1) FROM (
		SELECT message, SUM(size) OVER (ORDER BY message DESC, ordinal DESC) AS total FROM security_events) AS counted WHERE total > $1`, bound)
}

// forgetRows forgets the rows up to a message, some at a time.
func (s *Store) forgetRows(ctx context.Context, cut int64) (total int, err error) {
	for cut >= 0 {
		var n int64
		err := s.write(ctx, func(ctx context.Context, c Conn) (err error) {
			n, err = s.exec(ctx, c, "forget security events", `DELETE FROM security_events WHERE message <= (SELECT MIN(m) FROM (SELECT CAST($1 AS BIGINT) AS m UNION ALL
				SELECT message FROM (SELECT message FROM security_events ORDER BY message, ordinal LIMIT 1 OFFSET $2) AS later) AS ends)`, cut, pruneRows)
			return err
		})
		if total += int(n); err != nil || n == 0 {
			return total, err
		}
	}
	return total, nil
}

func (s *Store) forgetBlocks(ctx context.Context, blocks []*blockInfo) (total int, err error) {
	for part := range slices.Chunk(blocks, pruneBlocks) {
		err := s.write(ctx, func(ctx context.Context, c Conn) error {
			for _, b := range part {
				if err := s.dropBlock(ctx, c, b.first); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return total, err
		}
		for _, b := range part {
			total += int(b.events)
		}
	}
	return total, nil
}

// weighed is an event of a device, as far as bounds ask.
type weighed struct {
	place record.Place
	size  int64
}

// PruneDevice implements [record.Store].
func (s *Store) PruneDevice(ctx context.Context, device string, keep int, bytes int64) (int, error) {
	all, err := list(ctx, s, s.b.Reader, "weigh security events", func(r *sql.Rows) (w weighed, err error) {
		err = r.Scan(&w.place.Message, &w.place.Ordinal, &w.size)
		return w, err
	}, `SELECT message, ordinal, size FROM security_events WHERE device = $1`, device)
	if err != nil {
		return 0, err
	}
	blocks, err := s.blocks(ctx)
	if err != nil {
		return 0, err
	}
	blocks = slices.DeleteFunc(blocks, func(b *blockInfo) bool { return !b.has(device) })
	for _, b := range blocks {
		events, err := s.unpack(ctx, s.b.Reader, b.first)
		if err != nil {
			return 0, err
		}
		for i := range events {
			if events[i].Device == device {
				all = append(all, weighed{events[i].Place, events[i].Size()})
			}
		}
	}
	slices.SortFunc(all, func(a, b weighed) int { return b.place.Compare(a.place) })
	var size int64
	over := slices.IndexFunc(all, func(w weighed) bool {
		size += w.size
		keep--
		return keep < 0 || size > bytes
	})
	if over < 0 {
		return 0, nil
	}
	cut := all[over].place.Message
	var n int64
	err = s.write(ctx, func(ctx context.Context, c Conn) (err error) {
		n, err = s.exec(ctx, c, "forget security events", `DELETE FROM security_events WHERE device = $1 AND message <= $2`, device, int64(cut))
		return err
	})
	total := int(n)
	for _, b := range blocks {
		if err != nil {
			return total, err
		}
		if b.first.Message <= cut {
			var gone int
			gone, err = s.forgetInBlock(ctx, b.first, func(e record.Event) bool { return e.Device == device && e.Message <= cut })
			total += gone
		}
	}
	return total, err
}

// forgetInBlock packs a block anew, without some of its events.
func (s *Store) forgetInBlock(ctx context.Context, first record.Place, out func(record.Event) bool) (gone int, err error) {
	err = s.write(ctx, func(ctx context.Context, c Conn) error {
		events, err := s.unpack(ctx, c, first)
		if err != nil {
			return err
		}
		before := len(events)
		events = slices.DeleteFunc(events, out)
		if gone = before - len(events); gone == 0 {
			return nil
		}
		if err := s.dropBlock(ctx, c, first); err != nil || len(events) == 0 {
			return err
		}
		b := record.Pack(events)
		return s.writeBlock(ctx, c, &b)
	})
	if err != nil {
		return 0, err
	}
	return gone, nil
}

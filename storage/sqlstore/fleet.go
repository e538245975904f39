package sqlstore

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vauban-iot/vauban/hub/fleet"
	"github.com/vauban-iot/vauban/hub/query"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

// indexTags keeps tag_values in step with a twin's tags.
func (s *Store) indexTags(ctx context.Context, c Conn, id iot.ID, old, next json.RawMessage) error {
	if bytes.Equal(old, next) {
		return nil
	}
	had := map[string]string{}
	twin.Scalars(old, func(path, value string) { had[path] = query.JSON(value).Key() })
	var add [][2]string
	twin.Scalars(next, func(path, value string) {
		key := query.JSON(value).Key()
		if was, ok := had[path]; ok && was == key {
			delete(had, path)
			return
		}
		add = append(add, [2]string{path, key})
	})
	for path, key := range had {
		if _, err := s.exec(ctx, c, "index tags", `DELETE FROM tag_values WHERE path = $1 AND value = $2 AND device = $3 AND module = $4`,
			path, key, id.Device, id.Module); err != nil {
			return err
		}
	}
	for _, a := range add {
		if _, err := s.exec(ctx, c, "index tags", `INSERT INTO tag_values (path, value, device, module) VALUES ($1, $2, $3, $4)`,
			a[0], a[1], id.Device, id.Module); err != nil {
			return err
		}
	}
	return nil
}

// selection builds the SQL of a scan. The number of different texts stays small, since statements are cached: a
// few tag conditions, a few comparisons, lists in powers of two.
type selection struct {
	tags  []string // tables of tag conditions, with their aliases
	where []string
	args  []any
}

func (q *selection) arg(v any) string {
	q.args = append(q.args, v)
	return fmt.Sprintf("$%d", len(q.args))
}

// Bounds of what a scan hands to the database; the rest is judged by the reader.
const (
	maxTagConditions = 2
	maxComparisons   = 2
	maxChoices       = 64
)

// byTag narrows a scan by an equality of a tag.
func (q *selection) byTag(path query.Path, values []query.Value) bool {
	if len(path) < 2 || path[0].Name != "tags" || len(q.tags) == maxTagConditions || len(values) == 0 || len(values) > maxChoices {
		return false
	}
	var names []string
	for _, s := range path[1:] {
		if s.Name == "" {
			return false
		}
		names = append(names, s.Name)
	}
	name := strings.Join(names, ".")
	if strings.IndexByte(name, 0) >= 0 {
		return false
	}
	var keys []string
	for _, v := range values {
		if k := v.Key(); k != "" {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return false // undefined equals nothing; the reader sees to it
	}
	for len(keys)&(len(keys)-1) != 0 {
		keys = append(keys, keys[0])
	}
	alias := fmt.Sprintf("v%d", len(q.tags)+1)
	q.tags = append(q.tags, "tag_values "+alias)
	q.where = append(q.where, alias+".path = "+q.arg(name))
	var params []string
	for _, k := range keys {
		params = append(params, q.arg(k))
	}
	if len(params) == 1 {
		q.where = append(q.where, alias+".value = "+params[0])
	} else {
		q.where = append(q.where, alias+".value IN ("+strings.Join(params, ", ")+")")
	}
	return true
}

// compare narrows a scan by a comparison inside a JSON column. It reports whether it did.
func (s *Store) compare(q *selection, path query.Path, op string, v query.Value) bool {
	column := ""
	switch {
	case len(path) > 2 && path[0].Name == "properties" && (path[1].Name == "desired" || path[1].Name == "reported"):
		column, path = "t."+path[1].Name, path[2:]
	case len(path) > 1 && path[0].Name == "tags":
		column, path = "t.tags", path[1:]
	default:
		return false
	}
	var names []string
	for _, step := range path {
		// $version and $metadata are no members of the column; names with these characters are never keys of a twin.
		if step.Name == "" || strings.ContainsAny(step.Name, "$.\"\\\x00") {
			return false
		}
		names = append(names, step.Name)
	}
	if text, ok := v.Str(); ok && (len(text) > maxConstant || strings.IndexByte(text, 0) >= 0) {
		return false
	}
	condition, ok := s.b.Compare(column, names, op, v, q.arg)
	if ok {
		q.where = append(q.where, condition)
	}
	return ok
}

// maxConstant bounds the text that a database compares with.
const maxConstant = 1 << 10

// narrow uses what a condition says for certain.
func (s *Store) narrow(q *selection, where query.Expr) {
	comparisons := 0
	conjuncts := query.Conjuncts(where)
	// Equalities leave fewer rows than ranges, and those with texts are decided soonest.
	slices.SortStableFunc(conjuncts, func(a, b query.Expr) int { return rank(a) - rank(b) })
	for _, x := range conjuncts {
		path, op, values, ok := query.Comparison(x)
		if !ok {
			continue
		}
		if op == "=" || op == "IN" {
			if q.byTag(path, values) {
				continue
			}
			if len(path) == 1 && strings.EqualFold(path[0].Name, "deviceId") && op == "=" {
				if text, ok := values[0].Str(); ok && strings.IndexByte(text, 0) < 0 {
					q.where = append(q.where, "t.device = "+q.arg(text))
				}
				continue
			}
		}
		if len(values) == 1 && op != "IN" && comparisons < maxComparisons && s.compare(q, path, op, values[0]) {
			comparisons++
		}
	}
}

func rank(x query.Expr) int {
	_, op, values, _ := query.Comparison(x)
	switch {
	case op == "":
		return 3
	case op != "=" && op != "IN":
		return 2
	case len(values) == 0 || values[0].Kind != query.String:
		return 1
	}
	return 0
}

// A scan reads in chunks, small ones first: a page of a query often needs few rows, and PostgreSQL
// sends all that a statement finds.
const (
	firstChunk = 256
	lastChunk  = 16 << 10
)

// Scan implements [fleet.Store].
func (s *Store) Scan(ctx context.Context, f fleet.Scan, visit func(*fleet.Row) error) error {
	for chunk := firstChunk; ; chunk = min(4*chunk, lastChunk) {
		n, err := s.scanChunk(ctx, &f, chunk, visit)
		if errors.Is(err, fleet.ErrStop) {
			return nil
		}
		if err != nil || n < chunk {
			return err
		}
	}
}

// scanChunk visits up to limit rows behind f.After, which it moves, and returns how many there were.
func (s *Store) scanChunk(ctx context.Context, f *fleet.Scan, limit int, visit func(*fleet.Row) error) (n int, err error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	text, args := s.scanQuery(f, limit)
	if err := checkText(args); err != nil {
		return 0, err
	}
	rows, err := s.b.Reader.Query(ctx, text, args...)
	if err != nil {
		return 0, s.fail("query twins", err)
	}
	defer rows.Close()
	for ; rows.Next(); n++ {
		if n%256 == 0 && ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		var r fleet.Row
		if err := scanRow(rows, f, &r); err != nil {
			return n, s.fail("query twins", err)
		}
		f.After = r.Twin.ID
		if err := visit(&r); err != nil {
			return n, err
		}
	}
	if err := rows.Err(); err != nil {
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		return n, s.fail("query twins", err)
	}
	return n, nil
}

func (s *Store) scanQuery(f *fleet.Scan, limit int) (text string, args []any) {
	q := &selection{}
	s.narrow(q, f.Where)
	// With a tag the scan walks the tag's rows, which stand in order of device; without, the twins.
	driver := "t"
	tables := append(slices.Clone(q.tags), "twins t")
	for i, table := range q.tags {
		_, alias, _ := strings.Cut(table, " ")
		if i == 0 {
			driver = alias
		}
		q.where = append(q.where, alias+".device = t.device", alias+".module = t.module")
	}
	if f.Modules {
		q.where = append(q.where, driver+".device >= "+q.arg(f.After.Device), "t.module <> ''",
			"(t.device, t.module) > ("+q.arg(f.After.Device)+", "+q.arg(f.After.Module)+")")
	} else {
		q.where = append(q.where, driver+".device > "+q.arg(f.After.Device), "t.module = ''")
	}
	columns := "t.device, t.module, t.model_id, t.version, t.tags, t.configurations, t.configured"
	if f.Desired {
		columns += ", t.desired, t.desired_version"
	}
	if f.Reported {
		columns += ", t.reported, t.reported_version"
	}
	if f.Metadata {
		columns += ", t.desired_metadata, t.reported_metadata"
	}
	from := strings.Join(tables, " CROSS JOIN ")
	if f.Identity {
		columns += ", " + identityColumns
		from += " JOIN identities i ON i.device = t.device AND i.module = t.module"
	}
	return "SELECT " + columns + " FROM " + from + " WHERE " + strings.Join(q.where, " AND ") +
		" ORDER BY " + driver + ".device, " + driver + ".module LIMIT " + q.arg(limit), q.args
}

const identityColumns = `i.generation, i.etag, i.status, i.status_reason, i.status_time, i.auth_type,
	i.primary_thumbprint, i.secondary_thumbprint, i.edge, i.scope, i.parent_scopes, i.connected, i.connection_time, i.last_activity,
	(SELECT COUNT(*) FROM mail WHERE mail.device = i.device AND mail.module = i.module)`

func scanRow(rows *sql.Rows, f *fleet.Scan, r *fleet.Row) error {
	t, d := &r.Twin, &r.Identity
	dest := []any{&t.ID.Device, &t.ID.Module, &t.ModelID, &t.Version, (*[]byte)(&t.Tags), (*[]byte)(&t.Configurations), (*[]byte)(&t.Configured)}
	if f.Desired {
		dest = append(dest, (*[]byte)(&t.Desired), &t.DesiredVersion)
	}
	if f.Reported {
		dest = append(dest, (*[]byte)(&t.Reported), &t.ReportedVersion)
	}
	if f.Metadata {
		dest = append(dest, (*[]byte)(&t.DesiredMetadata), (*[]byte)(&t.ReportedMetadata))
	}
	if f.Identity {
		a := &d.Authentication
		dest = append(dest, &d.Generation, &d.ETag, &d.Status, &d.StatusReason, stamp{&d.StatusTime}, &a.Type,
			&a.PrimaryThumbprint, &a.SecondaryThumbprint, &d.Edge, &d.Scope, jsonText{&d.ParentScopes},
			&d.Connected, stamp{&d.ConnectionTime}, stamp{&d.LastActivity}, &d.Pending)
	}
	if err := rows.Scan(dest...); err != nil {
		return err
	}
	t.Configurations, t.Configured = orNil(t.Configurations), orNil(t.Configured)
	d.ID = t.ID
	if len(d.ParentScopes) == 0 {
		d.ParentScopes = nil
	}
	return nil
}

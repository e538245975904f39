package sqlstore

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/vauban-iot/vauban/hub/query"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

const selectRecord = `SELECT i.device, i.module, i.generation, i.etag, i.status, i.status_reason, i.status_time,
	i.auth_type, i.auth_keys, i.primary_thumbprint, i.secondary_thumbprint, i.edge, i.scope, i.parent_scopes, i.managed_by,
	i.connected, i.connection_time, i.last_activity,
	t.model_id, t.version, t.tags, t.desired, t.desired_metadata, t.desired_version,
	t.reported, t.reported_metadata, t.reported_version, t.configurations, t.configured
	FROM identities i JOIN twins t ON t.device = i.device AND t.module = i.module WHERE `

func (s *Store) scanRecord(r *sql.Rows) (rec registry.Record, err error) {
	d, t := &rec.Identity, &rec.Twin
	a := &d.Authentication
	var keys sql.RawBytes
	var scopes sql.RawBytes
	err = r.Scan(&d.ID.Device, &d.ID.Module, &d.Generation, &d.ETag, &d.Status, &d.StatusReason, stamp{&d.StatusTime},
		&a.Type, &keys, &a.PrimaryThumbprint, &a.SecondaryThumbprint, &d.Edge, &d.Scope, &scopes, &d.ManagedBy,
		&d.Connected, stamp{&d.ConnectionTime}, stamp{&d.LastActivity},
		&t.ModelID, &t.Version, (*[]byte)(&t.Tags), (*[]byte)(&t.Desired), (*[]byte)(&t.DesiredMetadata), &t.DesiredVersion,
		(*[]byte)(&t.Reported), (*[]byte)(&t.ReportedMetadata), &t.ReportedVersion, (*[]byte)(&t.Configurations), (*[]byte)(&t.Configured))
	if err != nil {
		return rec, err
	}
	if len(scopes) > len("null") || len(scopes) > 0 && scopes[0] == '[' && len(scopes) > len("[]") {
		if err := json.Unmarshal(scopes, &d.ParentScopes); err != nil {
			return rec, err
		}
	}
	if len(d.ParentScopes) == 0 {
		d.ParentScopes = nil
	}
	t.ID, rec.Exists = d.ID, true
	t.Configurations, t.Configured = orNil(t.Configurations), orNil(t.Configured)
	return rec, s.openKeys(identityKeys, d.ID.String(), keys, &a.PrimaryKey, &a.SecondaryKey)
}

// Records implements [registry.BatchStore].
func (s *Store) Records(ctx context.Context, after iot.ID, limit int) ([]registry.Record, error) {
	return list(ctx, s, s.b.Reader, "list identities with twins", s.scanRecord,
		selectRecord+`(i.device, i.module) > ($1, $2) ORDER BY i.device, i.module LIMIT $3`, after.Device, after.Module, limit)
}

// ChangeDevices implements [registry.BatchStore].
func (s *Store) ChangeDevices(ctx context.Context, ids []string, change func([]registry.Record)) error {
	sorted := slices.Sorted(slices.Values(ids)) // two transactions lock rows in the same order
	at := make(map[string]int, len(ids))
	for i, id := range ids {
		at[id] = i
	}
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		rs := make([]registry.Record, len(ids))
		for i, id := range ids {
			rs[i].Identity.ID.Device = id
		}
		var standing []string
		err := s.chunks(len(sorted), rowsRead, func(from, to int) error {
			found, err := list(ctx, s, c, "read devices", s.scanRecord,
				s.lock(selectRecord+`i.module = '' AND i.device `+among(to-from)+` ORDER BY i.device`), texts(sorted[from:to])...)
			for _, r := range found {
				rs[at[r.Identity.ID.Device]] = r
				standing = append(standing, r.Identity.ID.Device)
			}
			return err
		})
		if err != nil {
			return err
		}
		err = s.chunks(len(standing), rowsRead, func(from, to int) error {
			found, err := list(ctx, s, c, "list modules", func(r *sql.Rows) (id iot.ID, err error) {
				err = r.Scan(&id.Device, &id.Module)
				return id, err
			}, `SELECT device, module FROM identities WHERE module > '' AND device `+among(to-from)+` ORDER BY device, module`, texts(standing[from:to])...)
			for _, id := range found {
				r := &rs[at[id.Device]]
				r.Modules = append(r.Modules, id.Module)
			}
			return err
		})
		if err != nil {
			return err
		}
		tags := make([]json.RawMessage, len(rs))
		for i := range rs {
			tags[i] = rs[i].Twin.Tags
		}
		change(rs)
		return s.writeRecords(ctx, c, rs, tags)
	})
}

// writeRecords writes what a batch says; tags are those that stand.
func (s *Store) writeRecords(ctx context.Context, c Conn, rs []registry.Record, tags []json.RawMessage) error {
	var fresh, identities, twins, gone []*registry.Record
	var add, drop []tagValue
	for i := range rs {
		r := &rs[i]
		if r.Write != registry.WriteNothing {
			if err := s.tell(ctx, c, r.Twin.Facts); err != nil {
				return err
			}
		}
		switch {
		case r.Write == registry.Remove:
			gone = append(gone, r)
			continue
		case r.Write == registry.WriteNothing:
			continue
		case !r.Exists:
			r.Twin.ID = r.Identity.ID
			fresh = append(fresh, r)
		default:
			if r.Write&registry.WriteIdentity != 0 {
				identities = append(identities, r)
			}
			if r.Write&registry.WriteTwin != 0 {
				twins = append(twins, r)
			}
		}
		if r.Write&registry.WriteTwin != 0 || !r.Exists {
			a, d := tagChanges(iot.ID{Device: r.Identity.ID.Device}, tags[i], r.Twin.Tags)
			add, drop = append(add, a...), append(drop, d...)
		}
	}
	if err := s.insertRecords(ctx, c, fresh); err != nil {
		return err
	}
	if err := s.updateIdentities(ctx, c, identities); err != nil {
		return err
	}
	if err := s.updateTwins(ctx, c, twins); err != nil {
		return err
	}
	err := s.chunks(len(gone), rowsRead, func(from, to int) error {
		ids := make([]any, 0, to-from)
		for _, r := range gone[from:to] {
			ids = append(ids, r.Identity.ID.Device)
		}
		if _, err := s.exec(ctx, c, "delete devices", `DELETE FROM identities WHERE device `+among(len(ids)), ids...); err != nil {
			return err
		}
		return s.forgetFree(ctx, c, among(len(ids)), ids...)
	})
	if err != nil {
		return err
	}
	return s.writeTags(ctx, c, add, drop)
}

func (s *Store) insertRecords(ctx context.Context, c Conn, fresh []*registry.Record) error {
	slices.SortFunc(fresh, func(a, b *registry.Record) int { return strings.Compare(a.Identity.ID.Device, b.Identity.ID.Device) })
	err := s.chunks(len(fresh), rowsWrite, func(from, to int) error {
		const columns = 19
		args := make([]any, 0, columns*(to-from))
		for _, r := range fresh[from:to] {
			d := &r.Identity
			scopes, err := toJSON(d.ParentScopes)
			if err != nil {
				return err
			}
			a := &d.Authentication
			args = append(args, d.ID.Device, d.ID.Module, d.Generation, string(d.ETag),
				string(d.Status), d.StatusReason, micros(d.StatusTime), string(a.Type), s.sealKeys(identityKeys, d.ID.String(), a.PrimaryKey, a.SecondaryKey),
				a.PrimaryThumbprint, a.SecondaryThumbprint, d.Edge, d.Scope, scopes, d.ManagedBy, d.Connected, "", micros(d.ConnectionTime), micros(d.LastActivity))
		}
		n, err := s.exec(ctx, c, "create devices", `INSERT INTO identities (device, module, generation, etag,
			status, status_reason, status_time, auth_type, auth_keys, primary_thumbprint, secondary_thumbprint,
			edge, scope, parent_scopes, managed_by, connected, node, connection_time, last_activity) VALUES `+
			tuples(to-from, columns)+` ON CONFLICT DO NOTHING`, args...)
		if err == nil && n != int64(to-from) {
			err = ErrRetry // somebody made one of them since they were looked for
		}
		return err
	})
	if err != nil {
		return err
	}
	return s.chunks(len(fresh), rowsWrite, func(from, to int) error {
		const columns = 13
		args := make([]any, 0, columns*(to-from))
		for _, r := range fresh[from:to] {
			t := &r.Twin
			args = append(args, t.ID.Device, t.ID.Module, t.ModelID, t.Version, tree(t.Tags), tree(t.Desired),
				tree(t.DesiredMetadata), t.DesiredVersion, tree(t.Reported), tree(t.ReportedMetadata), t.ReportedVersion, string(t.Configurations), string(t.Configured))
		}
		_, err := s.exec(ctx, c, "create twins", `INSERT INTO twins (device, module, model_id, version, tags, desired,
			desired_metadata, desired_version, reported, reported_metadata, reported_version, configurations, configured) VALUES `+tuples(to-from, columns), args...)
		return err
	})
}

var (
	identityUpdate = []column{
		{"device", "TEXT"}, {"generation", "TEXT"}, {"etag", "TEXT"}, {"status", "TEXT"}, {"status_reason", "TEXT"}, {"status_time", "BIGINT"},
		{"auth_type", "TEXT"}, {"auth_keys", "BYTEA"}, {"primary_thumbprint", "TEXT"}, {"secondary_thumbprint", "TEXT"},
	}
	twinUpdate = []column{
		{"device", "TEXT"}, {"version", "BIGINT"}, {"tags", "TEXT"}, {"desired", "TEXT"}, {"desired_metadata", "TEXT"}, {"desired_version", "BIGINT"},
	}
)

// updateIdentities writes what a batch may change of devices; their place in the hierarchy it may not.
func (s *Store) updateIdentities(ctx context.Context, c Conn, rs []*registry.Record) error {
	return s.updateRows(ctx, c, "identities", identityUpdate, rs, func(r *registry.Record) []any {
		d := &r.Identity
		a := &d.Authentication
		return []any{
			d.ID.Device, d.Generation, string(d.ETag), string(d.Status), d.StatusReason, micros(d.StatusTime),
			string(a.Type), s.sealKeys(identityKeys, d.ID.String(), a.PrimaryKey, a.SecondaryKey), a.PrimaryThumbprint, a.SecondaryThumbprint,
		}
	})
}

func (s *Store) updateTwins(ctx context.Context, c Conn, rs []*registry.Record) error {
	return s.updateRows(ctx, c, "twins", twinUpdate, rs, func(r *registry.Record) []any {
		t := &r.Twin
		return []any{r.Identity.ID.Device, t.Version, tree(t.Tags), tree(t.Desired), tree(t.DesiredMetadata), t.DesiredVersion}
	})
}

// column is one that a batch writes, with PostgreSQL's type.
type column struct{ name, kind string }

// updateRows writes the columns of devices; the first column finds the row.
func (s *Store) updateRows(ctx context.Context, c Conn, table string, columns []column, rs []*registry.Record, values func(*registry.Record) []any) error {
	return s.chunks(len(rs), rowsWrite, func(from, to int) error {
		var args []any
		for _, r := range rs[from:to] {
			args = append(args, values(r)...)
		}
		var set, names, kinds []string
		for i, col := range columns {
			names = append(names, col.name)
			kinds = append(kinds, col.kind)
			if i > 0 && s.b.BatchRows == 1 {
				set = append(set, fmt.Sprintf("%s = $%d", col.name, i))
			} else if i > 0 {
				set = append(set, col.name+" = v."+col.name)
			}
		}
		if s.b.BatchRows == 1 {
			args = append(args[1:], args[0])
			_, err := s.exec(ctx, c, "update devices", fmt.Sprintf("UPDATE %s SET %s WHERE device = $%d AND module = ''", table, strings.Join(set, ", "), len(columns)), args...)
			return err
		}
		_, err := s.exec(ctx, c, "update devices", rowsOf(to-from, names, kinds)+"UPDATE "+table+" SET "+strings.Join(set, ", ")+
			" FROM v WHERE "+table+".device = v.device AND "+table+".module = ''", args...)
		return err
	})
}

// tagValue is a row of tag_values.
type tagValue struct {
	path, value string
	id          iot.ID
}

// tagChanges is what must be added to tag_values and dropped from them when a twin's tags change.
func tagChanges(id iot.ID, old, next json.RawMessage) (add, drop []tagValue) {
	if bytes.Equal(old, next) {
		return nil, nil
	}
	had := map[string]string{}
	if len(old) > 0 {
		twin.Scalars(old, func(path, value string) { had[path] = query.JSON(value).Key() })
	}
	twin.Scalars(next, func(path, value string) {
		key := query.JSON(value).Key()
		if was, ok := had[path]; ok && was == key {
			delete(had, path)
			return
		}
		add = append(add, tagValue{path, key, id})
	})
	for path, key := range had {
		drop = append(drop, tagValue{path, key, id})
	}
	return add, drop
}

func (s *Store) writeTags(ctx context.Context, c Conn, add, drop []tagValue) error {
	args := func(vs []tagValue) []any {
		a := make([]any, 0, 4*len(vs))
		for _, v := range vs {
			a = append(a, v.path, v.value, v.id.Device, v.id.Module)
		}
		return a
	}
	// Their order is that of the table's key.
	slices.SortFunc(add, func(a, b tagValue) int {
		return cmp.Or(strings.Compare(a.path, b.path), strings.Compare(a.value, b.value), strings.Compare(a.id.Device, b.id.Device))
	})
	err := s.chunks(len(drop), rowsWrite, func(from, to int) error {
		text := `DELETE FROM tag_values WHERE path = $1 AND value = $2 AND device = $3 AND module = $4`
		if s.b.BatchRows > 1 {
			text = rowsOf(to-from, []string{"path", "value", "device", "module"}, []string{"TEXT", "TEXT", "TEXT", "TEXT"}) +
				`DELETE FROM tag_values x USING v WHERE x.path = v.path AND x.value = v.value AND x.device = v.device AND x.module = v.module`
		}
		_, err := s.exec(ctx, c, "index tags", text, args(drop[from:to])...)
		return err
	})
	if err != nil {
		return err
	}
	return s.chunks(len(add), rowsWrite, func(from, to int) error {
		_, err := s.exec(ctx, c, "index tags", `INSERT INTO tag_values (path, value, device, module) VALUES `+tuples(to-from, 4), args(add[from:to])...)
		return err
	})
}

// How many rows a statement of a batch has on SQLite, where the number of parameters counts squared: more rows save time when they
// are looked for, and none when they are written.
const (
	rowsRead  = 32
	rowsWrite = 1
)

// chunks cuts n rows into statements of at most BatchRows, or size when that is more. The sizes are powers of two: statements are kept
// prepared, and should be few.
func (s *Store) chunks(n, size int, do func(from, to int) error) error {
	for from, size := 0, max(s.b.BatchRows, size); from < n; {
		for size > n-from {
			size = (size + 1) / 2
		}
		if err := do(from, from+size); err != nil {
			return err
		}
		from += size
	}
	return nil
}

func texts(ss []string) []any {
	args := make([]any, len(ss))
	for i, s := range ss {
		args[i] = s
	}
	return args
}

// among is a condition on n values.
func among(n int) string {
	if n == 1 {
		return "= $1"
	}
	return "IN " + tuples(1, n)
}

// tuples is the text of n rows of parameters.
func tuples(n, columns int) string {
	key := [2]int{n, columns}
	if text, ok := tupleTexts.Load(key); ok {
		return text.(string)
	}
	text := makeTuples(n, columns)
	tupleTexts.Store(key, text)
	return text
}

// tupleTexts holds what tuples made: chunks sees to it that there are few.
var tupleTexts sync.Map

func makeTuples(n, columns int) string {
	var b strings.Builder
	for i := range n * columns {
		switch {
		case i == 0:
			b.WriteString("(")
		case i%columns == 0:
			b.WriteString("), (")
		default:
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "$%d", i+1)
	}
	b.WriteString(")")
	return b.String()
}

// rowsOf is a table v of n rows of parameters, for PostgreSQL.
func rowsOf(n int, names, kinds []string) string {
	var b strings.Builder
	b.WriteString("WITH v (" + strings.Join(names, ", ") + ") AS (VALUES ")
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString("(")
		for j, kind := range kinds {
			if j > 0 {
				b.WriteString(", ")
			}
			fmt.Fprintf(&b, "CAST($%d AS %s)", i*len(kinds)+j+1, kind)
		}
		b.WriteString(")")
	}
	b.WriteString(") ")
	return b.String()
}

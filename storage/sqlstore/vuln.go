package sqlstore

import (
	"bytes"
	"cmp"
	"compress/flate"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/defender/vuln"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/query"
)

var _ vuln.Store = (*Store)(nil)

// changedVuln tells who evaluates that something is new, and returns the new version. It is the first write of a transaction.
func (s *Store) changedVuln(ctx context.Context, c Conn) (int64, error) {
	return one(ctx, s, c, "count change of vulnerabilities", scanInt, `UPDATE vuln_version SET version = version + 1 RETURNING version`)
}

// VulnVersion implements [vuln.Store].
func (s *Store) VulnVersion(ctx context.Context) (int64, error) {
	return one(ctx, s, s.b.Reader, "read version of vulnerabilities", scanInt, `SELECT version FROM vuln_version`)
}

func scanText(r *sql.Rows) (v string, err error) {
	err = r.Scan(&v)
	return v, err
}

func scanSource(r *sql.Rows) (v vuln.Source, err error) {
	err = r.Scan(jsonText{&v})
	return v, err
}

// Sources implements [vuln.Store].
func (s *Store) Sources(ctx context.Context) ([]vuln.Source, error) {
	return list(ctx, s, s.b.Reader, "list sources of vulnerabilities", scanSource, `SELECT about FROM vuln_sources ORDER BY name`)
}

// vulnChunk is how much of a source a row holds, and a transaction writes.
const vulnChunk = 1 << 20

// PutSource implements [vuln.Store]. Chunks are written one by one, so that others get their turn; nobody sees them before the last.
func (s *Store) PutSource(ctx context.Context, src vuln.Source, data []byte) (vuln.Source, error) {
	err := s.write(ctx, func(ctx context.Context, c Conn) (err error) {
		src.Generation, err = s.changedVuln(ctx, c)
		if err != nil {
			return err
		}
		n, err := one(ctx, s, c, "count sources", scanInt, `SELECT COUNT(*) FROM vuln_sources WHERE name <> $1`, src.Name)
		if err == nil && n >= vuln.MaxSources {
			return fault.New(fault.QuotaExceeded, "the database has %d sources already; remove some first: vauban vuln remove", n)
		}
		return err
	})
	if err != nil {
		return src, err
	}
	for i := 0; i*vulnChunk < len(data); i++ {
		chunk := data[i*vulnChunk : min((i+1)*vulnChunk, len(data))]
		err := s.write(ctx, func(ctx context.Context, c Conn) error {
			_, err := s.exec(ctx, c, "keep source of vulnerabilities", `INSERT INTO vuln_chunks (name, generation, ordinal, data) VALUES ($1, $2, $3, $4)`, src.Name, src.Generation, i, chunk)
			return err
		})
		if err != nil {
			return src, err
		}
	}
	about, err := toJSON(src)
	if err != nil {
		return src, err
	}
	return src, s.write(ctx, func(ctx context.Context, c Conn) error {
		if _, err := s.changedVuln(ctx, c); err != nil {
			return err
		}
		// Of two imports of one name the later one stands.
		n, err := s.exec(ctx, c, "keep source of vulnerabilities", `INSERT INTO vuln_sources (name, generation, about) VALUES ($1, $2, $3) ON CONFLICT (name)
			DO UPDATE SET generation = excluded.generation, about = excluded.about WHERE vuln_sources.generation < excluded.generation`, src.Name, src.Generation, about)
		if err != nil {
			return err
		}
		drop := `generation < $2`
		if n == 0 {
			drop = `generation = $2`
		}
		_, err = s.exec(ctx, c, "forget source of vulnerabilities", `DELETE FROM vuln_chunks WHERE name = $1 AND `+drop, src.Name, src.Generation)
		return err
	})
}

// SourceData implements [vuln.Store].
func (s *Store) SourceData(ctx context.Context, src vuln.Source) ([]byte, error) {
	data := make([]byte, 0, src.Bytes)
	for i := 0; int64(len(data)) < src.Bytes; i++ {
		chunk, err := one(ctx, s, s.b.Reader, "read source of vulnerabilities", func(r *sql.Rows) (v []byte, err error) {
			err = r.Scan(&v)
			return v, err
		}, `SELECT data FROM vuln_chunks WHERE name = $1 AND generation = $2 AND ordinal = $3`, src.Name, src.Generation, i)
		if err != nil {
			return nil, notFound(err, "source", src.Name)
		}
		data = append(data, chunk...)
	}
	return data, nil
}

// deleteVuln deletes a row by its name.
func (s *Store) deleteVuln(ctx context.Context, table, what, name string) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		if _, err := s.changedVuln(ctx, c); err != nil {
			return err
		}
		n, err := s.exec(ctx, c, "delete "+what, `DELETE FROM `+table+` WHERE name = $1`, name)
		if err == nil && n == 0 {
			return fault.New(fault.NotFound, "%s %s does not exist", what, name)
		}
		return err
	})
}

// DeleteSource implements [vuln.Store].
func (s *Store) DeleteSource(ctx context.Context, name string) error {
	if err := s.deleteVuln(ctx, "vuln_sources", "source", name); err != nil {
		return err
	}
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		_, err := s.exec(ctx, c, "delete source", `DELETE FROM vuln_chunks WHERE name = $1 AND NOT EXISTS (SELECT 1 FROM vuln_sources v WHERE v.name = vuln_chunks.name)`, name)
		return err
	})
}

// VEXDocuments implements [vuln.Store].
func (s *Store) VEXDocuments(ctx context.Context) ([]vuln.VEX, error) {
	return list(ctx, s, s.b.Reader, "list documents of VEX", func(r *sql.Rows) (v vuln.VEX, err error) {
		err = r.Scan(&v.Name, stamp{&v.Updated}, jsonText{&v.Scope}, jsonText{&v.Statements})
		return v, err
	}, `SELECT name, updated, scope, data FROM vex_documents ORDER BY name`)
}

// PutVEX implements [vuln.Store].
func (s *Store) PutVEX(ctx context.Context, v vuln.VEX) error {
	scope, err := toJSON(v.Scope)
	if err != nil {
		return err
	}
	data, err := toJSON(v.Statements)
	if err != nil {
		return err
	}
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		if err := s.roomFor(ctx, c, "vex_documents", v.Name); err != nil {
			return err
		}
		_, err := s.exec(ctx, c, "keep document of VEX", `INSERT INTO vex_documents (name, updated, scope, data) VALUES ($1, $2, $3, $4)
			ON CONFLICT (name) DO UPDATE SET updated = excluded.updated, scope = excluded.scope, data = excluded.data`, v.Name, micros(v.Updated), scope, data)
		return err
	})
}

// roomFor counts the change, and refuses one document too many.
func (s *Store) roomFor(ctx context.Context, c Conn, table, name string) error {
	if _, err := s.changedVuln(ctx, c); err != nil {
		return err
	}
	n, err := one(ctx, s, c, "count documents", scanInt, `SELECT COUNT(*) FROM `+table+` WHERE name <> $1`, name)
	if err == nil && n >= vuln.MaxDocuments {
		return fault.New(fault.QuotaExceeded, "there are %d such documents already; delete some first", n)
	}
	return err
}

// DeleteVEX implements [vuln.Store].
func (s *Store) DeleteVEX(ctx context.Context, name string) error {
	return s.deleteVuln(ctx, "vex_documents", "document of VEX", name)
}

// Bills implements [vuln.Store].
func (s *Store) Bills(ctx context.Context) ([]vuln.Document, error) {
	return list(ctx, s, s.b.Reader, "list bills of materials", func(r *sql.Rows) (v vuln.Document, err error) {
		err = r.Scan(&v.Name, stamp{&v.Updated}, jsonText{&v.Scope}, &v.Format, &v.Packages, &v.Set)
		return v, err
	}, `SELECT name, updated, scope, format, packages, set_id FROM software_bills ORDER BY name`)
}

// PutBill implements [vuln.Store].
func (s *Store) PutBill(ctx context.Context, d vuln.Document, set vuln.Set) error {
	scope, err := toJSON(d.Scope)
	if err != nil {
		return err
	}
	packages, err := deflated(set.Packages)
	if err != nil {
		return err
	}
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		if err := s.roomFor(ctx, c, "software_bills", d.Name); err != nil {
			return err
		}
		if _, err := s.keepSet(ctx, c, set.ID, packages); err != nil {
			return err
		}
		_, err := s.exec(ctx, c, "keep bill of materials", `INSERT INTO software_bills (name, updated, scope, format, packages, set_id) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (name) DO UPDATE SET updated = excluded.updated, scope = excluded.scope, format = excluded.format, packages = excluded.packages, set_id = excluded.set_id`,
			d.Name, micros(d.Updated), scope, d.Format, len(set.Packages), set.ID)
		return err
	})
}

// DeleteBill implements [vuln.Store].
func (s *Store) DeleteBill(ctx context.Context, name string) error {
	return s.deleteVuln(ctx, "software_bills", "bill of materials", name)
}

func deflated(packages []vuln.Package) ([]byte, error) {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestSpeed)
	if err != nil {
		return nil, err
	}
	if err := json.NewEncoder(w).Encode(packages); err != nil {
		return nil, err
	}
	err = w.Close()
	return b.Bytes(), err
}

// inflated scans what deflated wrote.
type inflated struct{ packages *[]vuln.Package }

func (i inflated) Scan(v any) error {
	data, ok := v.([]byte)
	if !ok {
		return fmt.Errorf("stored packages are a %T", v)
	}
	return json.NewDecoder(io.LimitReader(flate.NewReader(bytes.NewReader(data)), 256<<20)).Decode(i.packages)
}

// keepSet reports whether the set is a new one.
func (s *Store) keepSet(ctx context.Context, c Conn, id string, packages []byte) (bool, error) {
	n, err := s.exec(ctx, c, "keep set of software", `INSERT INTO software_sets (id, packages) VALUES ($1, $2) ON CONFLICT DO NOTHING`, id, packages)
	return n > 0, err
}

// KeepParts implements [vuln.Store].
func (s *Store) KeepParts(ctx context.Context, parts []vuln.Part, most int) (left int, err error) {
	rows := make([][]byte, len(parts))
	for i := range parts {
		if rows[i], err = deflated(parts[i].Packages); err != nil {
			return 0, err
		}
	}
	err = s.write(ctx, func(ctx context.Context, c Conn) error {
		left = 0
		for i := range parts {
			p := &parts[i]
			if _, err := s.exec(ctx, c, "forget software", `DELETE FROM software_parts WHERE device = $1 AND module = $2 AND taken < $3`, p.ID.Device, p.ID.Module, micros(p.Taken)); err != nil {
				return err
			}
			n, err := one(ctx, s, c, "count software", scanInt, `SELECT COUNT(*) FROM software_parts WHERE device = $1`, p.ID.Device)
			if err != nil {
				return err
			}
			if n >= int64(most) {
				left++
				continue
			}
			// What is of an earlier snapshot than one that is there, or that was settled, is late.
			_, err = s.exec(ctx, c, "keep software", `INSERT INTO software_parts (device, module, message, ordinal, taken, enqueued, packages)
				SELECT i.device, i.module, CAST($1 AS BIGINT), CAST($2 AS BIGINT), CAST($3 AS BIGINT), CAST($4 AS BIGINT), $5 FROM identities i WHERE i.device = $6 AND i.module = $7
				AND NOT EXISTS (SELECT 1 FROM software_parts p WHERE p.device = i.device AND p.module = i.module AND p.taken > CAST($8 AS BIGINT))
				AND NOT EXISTS (SELECT 1 FROM software w WHERE w.device = i.device AND w.module = i.module AND w.told >= CAST($9 AS BIGINT)) ON CONFLICT DO NOTHING`,
				int64(p.Message), p.Ordinal, micros(p.Taken), micros(p.Enqueued), rows[i], p.ID.Device, p.ID.Module, micros(p.Taken), int64(p.Message))
			if err != nil {
				return err
			}
		}
		return nil
	})
	return left, err
}

// KeepSystem implements [vuln.Store].
func (s *Store) KeepSystem(ctx context.Context, v vuln.System) error {
	same, err := list(ctx, s, s.b.Reader, "read system", scanInt, `SELECT 1 FROM software WHERE device = $1 AND module = $2 AND distro = $3`, v.ID.Device, v.ID.Module, v.Distro)
	if err != nil || len(same) > 0 {
		return err
	}
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		if _, err := s.changedVuln(ctx, c); err != nil {
			return err
		}
		_, err := s.exec(ctx, c, "keep system", `INSERT INTO software (device, module, distro, told, set_id, taken)
			SELECT i.device, i.module, $1, 0, '', 0 FROM identities i WHERE i.device = $2 AND i.module = $3
			ON CONFLICT (device, module) DO UPDATE SET distro = excluded.distro`, v.Distro, v.ID.Device, v.ID.Module)
		return err
	})
}

// WaitingParts implements [vuln.Store].
func (s *Store) WaitingParts(ctx context.Context, before time.Time, limit int) ([]vuln.Waiting, error) {
	return list(ctx, s, s.b.Reader, "list software", func(r *sql.Rows) (w vuln.Waiting, err error) {
		err = r.Scan(&w.ID.Device, &w.ID.Module, stamp{&w.Taken}, &w.Set)
		return w, err
	}, `SELECT p.device, p.module, MAX(p.taken), COALESCE(MAX(CASE WHEN w.taken = p.taken THEN w.set_id END), '') FROM software_parts p LEFT JOIN software w ON w.device = p.device AND w.module = p.module
		GROUP BY p.device, p.module HAVING MAX(p.enqueued) < $1 ORDER BY p.device, p.module LIMIT $2`, micros(before), limit)
}

// PartsOf implements [vuln.Store].
func (s *Store) PartsOf(ctx context.Context, w vuln.Waiting) ([]vuln.Package, error) {
	parts, err := list(ctx, s, s.b.Reader, "read software", func(r *sql.Rows) (v []vuln.Package, err error) {
		err = r.Scan(inflated{&v})
		return v, err
	}, `SELECT packages FROM software_parts WHERE device = $1 AND module = $2 AND taken = $3 ORDER BY message, ordinal`, w.ID.Device, w.ID.Module, micros(w.Taken))
	var all []vuln.Package
	for _, p := range parts {
		all = append(all, p...)
	}
	return all, err
}

// SettleSoftware implements [vuln.Store].
func (s *Store) SettleSoftware(ctx context.Context, w vuln.Waiting, set vuln.Set, most vuln.Limits) error {
	packages, err := deflated(set.Packages)
	if err != nil {
		return err
	}
	err = s.write(ctx, func(ctx context.Context, c Conn) error {
		had, err := list(ctx, s, c, "read software", scanText, s.lock(`SELECT set_id FROM software WHERE device = $1 AND module = $2`), w.ID.Device, w.ID.Module)
		if err != nil {
			return err
		}
		if len(had) == 0 || had[0] != set.ID {
			if _, err := s.changedVuln(ctx, c); err != nil {
				return err
			}
		}
		n, err := one(ctx, s, c, "count software", scanInt, `SELECT COUNT(*) FROM software WHERE device = $1 AND module <> $2 AND set_id <> ''`, w.ID.Device, w.ID.Module)
		if err != nil {
			return err
		}
		if n >= int64(most.Agents) {
			return fault.New(fault.QuotaExceeded, "%d other agents of the device tell of its software already", n)
		}
		fresh, err := s.keepSet(ctx, c, set.ID, packages)
		if err != nil {
			return err
		}
		if _, err := s.exec(ctx, c, "keep software", `INSERT INTO software (device, module, distro, told, set_id, taken)
			SELECT i.device, i.module, '', COALESCE((SELECT MAX(message) FROM software_parts p WHERE p.device = i.device AND p.module = i.module AND p.taken = $1), 0), $2, CAST($3 AS BIGINT)
			FROM identities i WHERE i.device = $4 AND i.module = $5
			ON CONFLICT (device, module) DO UPDATE SET told = excluded.told, set_id = excluded.set_id, taken = excluded.taken`,
			micros(w.Taken), set.ID, micros(w.Taken), w.ID.Device, w.ID.Module); err != nil {
			return err
		}
		if fresh {
			if err := s.roomForSets(ctx, c, most); err != nil {
				return err
			}
		}
		return s.forgetParts(ctx, c, w)
	})
	if fault.Is(err, fault.QuotaExceeded) { // it keeps the set it has
		if err := s.write(ctx, func(ctx context.Context, c Conn) error { return s.forgetParts(ctx, c, w) }); err != nil {
			return err
		}
	}
	return err
}

func (s *Store) forgetParts(ctx context.Context, c Conn, w vuln.Waiting) error {
	_, err := s.exec(ctx, c, "forget software", `DELETE FROM software_parts WHERE device = $1 AND module = $2 AND taken <= $3`, w.ID.Device, w.ID.Module, micros(w.Taken))
	return err
}

// roomForSets refuses one set too many. Sets of nobody do not count.
func (s *Store) roomForSets(ctx context.Context, c Conn, most vuln.Limits) error {
	type sum struct{ sets, bytes int64 }
	count := func() (sum, error) {
		return one(ctx, s, c, "count sets of software", func(r *sql.Rows) (v sum, err error) {
			err = r.Scan(&v.sets, &v.bytes)
			return v, err
		}, `SELECT COUNT(*), COALESCE(SUM(LENGTH(packages)), 0) FROM software_sets`)
	}
	fits := func(v sum) bool { return v.sets <= int64(most.Sets) && v.bytes <= most.Bytes }
	v, err := count()
	if err != nil || fits(v) {
		return err
	}
	if _, err := s.exec(ctx, c, "tidy sets of software", tidySets); err != nil {
		return err
	}
	if v, err = count(); err == nil && !fits(v) {
		return fault.New(fault.QuotaExceeded, "there is no room for more software: at most %d different sets of packages, and %d bytes of them, are kept", most.Sets, most.Bytes)
	}
	return err
}

// tidySets forgets the sets that neither a device nor a bill of materials has.
const tidySets = `DELETE FROM software_sets WHERE NOT EXISTS (SELECT 1 FROM software w WHERE w.set_id = software_sets.id)
	AND NOT EXISTS (SELECT 1 FROM software_bills b WHERE b.set_id = software_sets.id)`

// SoftwareSet implements [vuln.Store].
func (s *Store) SoftwareSet(ctx context.Context, id string) (vuln.Set, error) {
	v, err := one(ctx, s, s.b.Reader, "read set of software", func(r *sql.Rows) (v vuln.Set, err error) {
		err = r.Scan(&v.ID, inflated{&v.Packages})
		return v, err
	}, `SELECT id, packages FROM software_sets WHERE id = $1`, id)
	return v, notFound(err, "set of software", id)
}

// SoftwareDevices implements [vuln.Store].
func (s *Store) SoftwareDevices(ctx context.Context, after string, limit int) ([]vuln.Device, error) {
	type row struct {
		d           vuln.Device
		set, distro string
	}
	rows, err := list(ctx, s, s.b.Reader, "list devices with software", func(r *sql.Rows) (v row, err error) {
		var tag, model string
		var reported []byte
		if err := r.Scan(&v.d.ID, &model, &reported, &tag, &v.set, &v.distro, &v.d.Profile); err != nil {
			return v, err
		}
		v.d.Group = group.Default
		if strings.HasPrefix(tag, `"`) {
			if name, ok := query.JSON(tag).Str(); ok {
				v.d.Group = name
			}
		}
		v.d.Product, v.d.Firmware = posture.FirmwareOf(reported)
		v.d.Product = cmp.Or(v.d.Product, model)
		return v, nil
	}, `SELECT i.device, t.model_id, CASE WHEN t.reported = '{}' THEN '' ELSE t.reported END,
		COALESCE((SELECT v.value FROM tag_values v WHERE v.device = i.device AND v.module = '' AND v.path = '`+groupTag+`'), ''), COALESCE(w.set_id, ''), COALESCE(w.distro, ''), COALESCE(p.profile, '')
		FROM (SELECT device FROM identities WHERE module = '' AND device > $1 ORDER BY device LIMIT $2) i JOIN twins t ON t.device = i.device AND t.module = ''
		LEFT JOIN software w ON w.device = i.device LEFT JOIN vuln_devices p ON p.device = i.device ORDER BY i.device, w.module`, after, limit)
	if err != nil {
		return nil, err
	}
	var all []vuln.Device
	for _, r := range rows {
		if n := len(all); n == 0 || all[n-1].ID != r.d.ID {
			all = append(all, r.d)
		}
		if r.set != "" {
			d := &all[len(all)-1]
			d.Sets = append(d.Sets, vuln.Software(r.set, r.distro))
		}
	}
	return all, nil
}

// ProfileStates implements [vuln.Store].
func (s *Store) ProfileStates(ctx context.Context) (map[string]string, error) {
	rows, err := list(ctx, s, s.b.Reader, "read profiles", func(r *sql.Rows) (v [2]string, err error) {
		err = r.Scan(&v[0], &v[1])
		return v, err
	}, `SELECT id, state FROM vuln_profiles`)
	all := make(map[string]string, len(rows))
	for _, r := range rows {
		all[r[0]] = r[1]
	}
	return all, err
}

// PutProfile implements [vuln.Store].
func (s *Store) PutProfile(ctx context.Context, p vuln.Profile) error {
	sets, err := toJSON(p.Sets)
	if err != nil {
		return err
	}
	const columns = 9
	args := make([]any, 0, columns*len(p.Findings))
	number := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	for i := range p.Findings {
		f := &p.Findings[i]
		data, err := toJSON(f)
		if err != nil {
			return err
		}
		args = append(args, p.ID, f.ID, f.Package, f.Installed, i, f.Priority.Rank(), number(f.Exploited != nil), number(f.Status == vuln.Suppressed), data)
	}
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		if _, err := s.exec(ctx, c, "keep profile", `INSERT INTO vuln_profiles (id, state, sets, packages, left_out) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (id) DO UPDATE SET state = excluded.state, packages = excluded.packages, left_out = excluded.left_out`, p.ID, p.State, sets, p.Packages, p.Left); err != nil {
			return err
		}
		if _, err := s.exec(ctx, c, "forget findings", `DELETE FROM vuln_findings WHERE profile = $1`, p.ID); err != nil {
			return err
		}
		return s.chunks(len(p.Findings), rowsWrite, func(from, to int) error {
			_, err := s.exec(ctx, c, "keep findings", `INSERT INTO vuln_findings (profile, vulnerability, package, installed, ordinal, priority, exploited, suppressed, data) VALUES `+
				tuples(to-from, columns)+` ON CONFLICT DO NOTHING`, args[from*columns:to*columns]...)
			return err
		})
	})
}

// AssignProfiles implements [vuln.Store].
func (s *Store) AssignProfiles(ctx context.Context, of map[string]string) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		for device, profile := range of {
			var err error
			if profile == "" {
				_, err = s.exec(ctx, c, "assign profile", `DELETE FROM vuln_devices WHERE device = $1`, device)
			} else {
				_, err = s.exec(ctx, c, "assign profile", `INSERT INTO vuln_devices (device, profile) SELECT device, $1 FROM identities WHERE device = $2 AND module = ''
					ON CONFLICT (device) DO UPDATE SET profile = excluded.profile`, profile, device)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// TidyVuln implements [vuln.Store].
func (s *Store) TidyVuln(ctx context.Context) error {
	return s.write(ctx, func(ctx context.Context, c Conn) error {
		for _, statement := range []string{
			`DELETE FROM vuln_profiles WHERE NOT EXISTS (SELECT 1 FROM vuln_devices d WHERE d.profile = vuln_profiles.id)`,
			tidySets,
			`DELETE FROM vuln_chunks WHERE NOT EXISTS (SELECT 1 FROM vuln_sources v WHERE v.name = vuln_chunks.name)
				AND generation < (SELECT version FROM vuln_version) - 1000`, // of imports that broke off
		} {
			if _, err := s.exec(ctx, c, "tidy vulnerabilities", statement); err != nil {
				return err
			}
		}
		return nil
	})
}

func scanFinding(r *sql.Rows) (f vuln.Finding, err error) {
	err = r.Scan(jsonText{&f})
	return f, err
}

// ProfileFindings implements [vuln.Store].
func (s *Store) ProfileFindings(ctx context.Context, profile string) ([]vuln.Finding, error) {
	return list(ctx, s, s.b.Reader, "read findings", scanFinding, `SELECT data FROM vuln_findings WHERE profile = $1 ORDER BY ordinal`, profile)
}

// place is where a page of vulnerabilities ends: priority, vulnerability, package, installed.
func place(priority int64, parts ...string) string {
	text, _ := json.Marshal(parts) // texts always do
	return strconv.FormatInt(priority, 10) + " " + string(text)
}

func parsePlace(s string, n int) (priority int64, parts []string, err error) {
	if s == "" {
		return math.MaxInt64, make([]string, n), nil
	}
	number, text, _ := strings.Cut(s, " ")
	priority, err = strconv.ParseInt(number, 10, 64)
	if err != nil || json.Unmarshal([]byte(text), &parts) != nil || len(parts) != n {
		return 0, nil, fault.New(fault.Invalid, "after must be the place with which a page ended")
	}
	return priority, parts, nil
}

// Vulnerabilities implements [vuln.Store].
func (s *Store) Vulnerabilities(ctx context.Context, f vuln.Filter) ([]vuln.Row, error) {
	q := &selection{}
	priority, last, err := parsePlace(f.After, 3)
	if err != nil {
		return nil, err
	}
	var where []string
	if f.Device != "" {
		where = append(where, "f.profile = (SELECT profile FROM vuln_devices WHERE device = "+q.arg(f.Device)+")")
	} else {
		where = append(where, "n.devices > 0")
	}
	if f.Vulnerability != "" {
		where = append(where, "f.vulnerability = "+q.arg(f.Vulnerability))
	}
	if f.Package != "" {
		where = append(where, "f.package = "+q.arg(f.Package))
	}
	if f.Exploited {
		where = append(where, "f.exploited = 1")
	}
	switch f.Status {
	case vuln.Unsuppressed:
		where = append(where, "f.suppressed = 0")
	case vuln.Suppressed:
		where = append(where, "f.suppressed = 1")
	}
	// Of the fleet, what is installed in several versions is one row: with the highest priority of them, and the details of any one.
	inner := `SELECT f.vulnerability, f.package, ` + map[bool]string{true: "''", false: "f.installed"}[f.Device == ""] + ` AS installed, MAX(f.priority) AS priority,
		CAST(SUM(n.devices) AS BIGINT) AS devices, MIN(f.data) AS data FROM vuln_findings f
		JOIN (SELECT profile, COUNT(*) AS devices FROM vuln_devices GROUP BY profile) n ON n.profile = f.profile WHERE ` + strings.Join(where, " AND ") +
		` GROUP BY f.vulnerability, f.package` + map[bool]string{false: ", f.installed"}[f.Device == ""]
	page := "priority < " + q.arg(priority) + " OR priority = " + q.arg(priority) + " AND (vulnerability, package, installed) > (" + q.arg(last[0]) + ", " + q.arg(last[1]) + ", " + q.arg(last[2]) + ")"
	return list(ctx, s, s.b.Reader, "list vulnerabilities", func(r *sql.Rows) (v vuln.Row, err error) {
		var id, pkg, installed string
		var priority int64
		err = r.Scan(&id, &pkg, &installed, &priority, &v.Devices, jsonText{&v.Finding})
		v.Place = place(priority, id, pkg, installed)
		if f.Device != "" {
			v.Devices = 1
		}
		return v, err
	}, `SELECT vulnerability, package, installed, priority, devices, data FROM (`+inner+`) AS r WHERE `+page+` ORDER BY priority DESC, vulnerability, package, installed LIMIT `+q.arg(pageLimit(f.Limit)), q.args...)
}

// VulnerableDevices implements [vuln.Store].
func (s *Store) VulnerableDevices(ctx context.Context, vulnerability, after string, limit int) ([]string, error) {
	return list(ctx, s, s.b.Reader, "list vulnerable devices", scanText, `SELECT d.device FROM vuln_devices d WHERE d.device > $1
		AND EXISTS (SELECT 1 FROM vuln_findings f WHERE f.profile = d.profile AND f.vulnerability = $2 AND f.suppressed = 0) ORDER BY d.device LIMIT $3`, after, vulnerability, pageLimit(limit))
}

// VulnTotals implements [vuln.Store].
func (s *Store) VulnTotals(ctx context.Context) (vuln.Totals, error) {
	const held = ` FROM vuln_findings f WHERE EXISTS (SELECT 1 FROM vuln_devices d WHERE d.profile = f.profile)`
	return one(ctx, s, s.b.Reader, "count vulnerabilities", func(r *sql.Rows) (t vuln.Totals, err error) {
		err = r.Scan(&t.Devices, &t.Sets, &t.Vulnerabilities, &t.Exploited, &t.Suppressed, &t.NotCompared)
		t.Suppressed -= t.Vulnerabilities
		return t, err
	}, `SELECT (SELECT COUNT(*) FROM vuln_devices), (SELECT COUNT(DISTINCT profile) FROM vuln_devices),
		(SELECT COUNT(DISTINCT f.vulnerability)`+held+` AND f.suppressed = 0), (SELECT COUNT(DISTINCT f.vulnerability)`+held+` AND f.suppressed = 0 AND f.exploited = 1),
		(SELECT COUNT(DISTINCT f.vulnerability)`+held+`),
		(SELECT CAST(COALESCE(SUM(p.left_out), 0) AS BIGINT) FROM vuln_profiles p WHERE EXISTS (SELECT 1 FROM vuln_devices d WHERE d.profile = p.id))`)
}

// DeviceSets implements [vuln.Store].
func (s *Store) DeviceSets(ctx context.Context, device string) ([]string, error) {
	sets, err := one(ctx, s, s.b.Reader, "read software of device", func(r *sql.Rows) (v []string, err error) {
		err = r.Scan(jsonText{&v})
		return v, err
	}, `SELECT p.sets FROM vuln_devices d JOIN vuln_profiles p ON p.id = d.profile WHERE d.device = $1`, device)
	return sets, notFound(err, "software of device", device)
}

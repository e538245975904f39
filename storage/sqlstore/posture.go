package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/defender/group"
	"github.com/vauban-iot/vauban/defender/posture"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/query"
)

var _ posture.Store = (*Store)(nil)

const recommendationColumns = `sequence, id, type, device, module, severity, state, discovered, first_evaluated, status_changed, resolved, message, data`

const selectRecommendation = `SELECT ` + recommendationColumns + ` FROM recommendations r `

func scanRecommendation(r *sql.Rows) (v posture.Recommendation, err error) {
	err = r.Scan(&v.Sequence, &v.ID, &v.Type, &v.Device, &v.Module, &v.Severity, &v.State, stamp{&v.Discovered}, stamp{&v.FirstEvaluated},
		stamp{&v.StatusChanged}, stamp{&v.Resolved}, &v.Message, (*[]byte)(&v.Data))
	v.Explain()
	return v, err
}

// ofTypes is the condition of types and families.
func ofTypes(q *selection, types []string) string {
	var params []string
	for _, t := range types {
		params = append(params, q.arg(t))
	}
	in := strings.Join(params, ", ")
	// The same parameters twice would need their numbers twice, which not every driver takes: a type is one of its own family, too.
	var again []string
	for _, t := range types {
		again = append(again, q.arg(t))
	}
	return "(r.family IN (" + in + ") OR r.type IN (" + strings.Join(again, ", ") + "))"
}

// inScope lists what stands in a scope: what is active, and what is found again.
func (s *Store) inScope(ctx context.Context, c Conn, scope *posture.Scope, lock bool) ([]posture.Recommendation, error) {
	q := &selection{}
	where := []string{ofTypes(q, scope.Types)}
	switch {
	case scope.First == "" && scope.Last == "" && !scope.Open:
		where = append(where, "r.device = ''")
	case scope.Open:
		where = append(where, "r.device >= "+q.arg(scope.First))
	case scope.First == scope.Last:
		where = append(where, "r.device = "+q.arg(scope.First))
	default:
		where = append(where, "r.device >= "+q.arg(scope.First), "r.device <= "+q.arg(scope.Last))
	}
	if scope.Module != nil {
		where = append(where, "r.module = "+q.arg(*scope.Module))
	}
	text := selectRecommendation + `WHERE ` + strings.Join(where, " AND ") + ` ORDER BY r.device, r.type, r.module`
	if lock {
		text = s.lock(text)
	}
	return list(ctx, s, c, "read recommendations", scanRecommendation, text, q.args...)
}

// Assess implements [posture.Store].
func (s *Store) Assess(ctx context.Context, a posture.Assessment) (changed []posture.Recommendation, err error) {
	if len(a.Scope.Types) == 0 {
		return nil, nil
	}
	next, err := recommendationsOf(&a)
	if err != nil {
		return nil, err
	}
	stands, err := s.inScope(ctx, s.b.Reader, &a.Scope, false)
	if err != nil || len(differences(&a, next, stands)) == 0 {
		return nil, err
	}
	err = s.write(ctx, func(ctx context.Context, c Conn) error {
		stands, err := s.inScope(ctx, c, &a.Scope, true)
		if err != nil {
			return err
		}
		changed = differences(&a, next, stands)
		return s.keepRecommendations(ctx, c, changed)
	})
	if err != nil {
		return nil, err
	}
	return changed, nil
}

// recommendationsOf are the findings of an assessment as they would be kept if they were new.
func recommendationsOf(a *posture.Assessment) ([]posture.Recommendation, error) {
	all := make([]posture.Recommendation, 0, len(a.Findings))
	at := stored(a.At)
	for i := range a.Findings {
		f := &a.Findings[i]
		r := posture.Recommendation{
			ID: posture.ID(f.Type, f.About), Type: f.Type, Device: f.About.Device, Module: f.About.Module, Severity: f.Severity, State: posture.Active,
			Discovered: at, FirstEvaluated: at, StatusChanged: at, Message: a.Message, Data: json.RawMessage("{}"),
		}
		if r.Severity == "" {
			r.Severity = posture.Lookup(f.Type).Severity
		}
		if f.Data != nil {
			var b strings.Builder
			enc := json.NewEncoder(&b)
			enc.SetEscapeHTML(false)
			if err := enc.Encode(f.Data); err != nil {
				return nil, fmt.Errorf("store: additional data of %s: %w", f.Type, err)
			}
			r.Data = json.RawMessage(strings.TrimSuffix(b.String(), "\n"))
		}
		r.Explain()
		all = append(all, r)
	}
	return all, nil
}

// differences are what an assessment changes: new ones, those that come back or have other data, and those that are over.
func differences(a *posture.Assessment, next, stands []posture.Recommendation) (changed []posture.Recommendation) {
	at := stored(a.At)
	now := make(map[string]*posture.Recommendation, len(stands))
	for i := range stands {
		now[stands[i].ID] = &stands[i]
	}
	found := make(map[string]bool, len(next))
	for _, n := range next {
		if found[n.ID] {
			continue
		}
		found[n.ID] = true
		old, ok := now[n.ID]
		switch {
		case !ok:
			changed = append(changed, n)
		case a.Message != 0 && old.Message > a.Message: // a replay
		case old.State == posture.Resolved:
			n.FirstEvaluated = old.FirstEvaluated
			changed = append(changed, n)
		case string(old.Data) != string(n.Data) || old.Severity != n.Severity:
			n.FirstEvaluated, n.Discovered, n.StatusChanged = old.FirstEvaluated, old.Discovered, old.StatusChanged
			changed = append(changed, n)
		}
	}
	for _, old := range stands {
		if old.State != posture.Active || found[old.ID] || a.Message != 0 && old.Message > a.Message {
			continue
		}
		old.State, old.StatusChanged, old.Resolved, old.Message = posture.Resolved, at, at, a.Message
		changed = append(changed, old)
	}
	return changed
}

// keepRecommendations gives rows their sequences and writes them. Their rows are locked already: sequences are committed in their order,
// because the row of the last one is held until then.
func (s *Store) keepRecommendations(ctx context.Context, c Conn, changed []posture.Recommendation) error {
	if len(changed) == 0 {
		return nil
	}
	last, err := s.nextRecommendations(ctx, c, len(changed))
	if err != nil {
		return err
	}
	const columns = 15
	args := make([]any, 0, columns*len(changed))
	for i := range changed {
		r := &changed[i]
		r.Sequence = uint64(last) - uint64(len(changed)-1-i)
		args = append(args, int64(r.Sequence), r.ID, r.Type, posture.Family(r.Type), r.Device, r.Module, string(r.Severity), posture.Weight(r.Severity), string(r.State),
			micros(r.Discovered), micros(r.FirstEvaluated), micros(r.StatusChanged), micros(r.Resolved), int64(r.Message), string(r.Data))
	}
	return s.chunks(len(changed), rowsWrite, func(from, to int) error {
		_, err := s.exec(ctx, c, "keep recommendations", `INSERT INTO recommendations (sequence, id, type, family, device, module, severity, weight, state,
			discovered, first_evaluated, status_changed, resolved, message, data) VALUES `+tuples(to-from, columns)+`
			ON CONFLICT (device, type, module) DO UPDATE SET sequence = excluded.sequence, severity = excluded.severity, weight = excluded.weight, state = excluded.state,
			discovered = excluded.discovered, status_changed = excluded.status_changed, resolved = excluded.resolved, message = excluded.message, data = excluded.data`,
			args[from*columns:to*columns]...)
		return err
	})
}

// nextRecommendations takes n sequences and returns the last.
func (s *Store) nextRecommendations(ctx context.Context, c Conn, n int) (int64, error) {
	return one(ctx, s, c, "number recommendations", scanInt, `UPDATE recommendation_sequence SET last = last + $1 RETURNING last`, n)
}

// member is the condition that the device of a column is in a security group.
func member(q *selection, column, name string) (string, error) {
	quoted, err := json.Marshal(name)
	if err != nil {
		return "", err
	}
	tag := `(SELECT 1 FROM tag_values t WHERE t.device = ` + column + ` AND t.module = '' AND t.path = '` + groupTag + `' AND t.value `
	in := `EXISTS ` + tag + `= ` + q.arg(query.JSON(string(quoted)).Key()) + `)`
	if name == group.Default {
		in = `(` + in + ` OR NOT EXISTS ` + tag + `LIKE '"%'))`
	}
	return in, nil
}

// Recommendations implements [posture.Store].
func (s *Store) Recommendations(ctx context.Context, f posture.Filter) ([]posture.Recommendation, error) {
	q := &selection{}
	before := int64(math.MaxInt64)
	if f.Before != 0 {
		before = int64(min(f.Before, math.MaxInt64))
	}
	where := []string{"r.sequence > " + q.arg(int64(min(f.After, math.MaxInt64))), "r.sequence < " + q.arg(before)}
	if f.Hub {
		where = append(where, "r.device = ''")
	}
	if f.Type != "" {
		where = append(where, ofTypes(q, []string{f.Type}))
	}
	for _, c := range []struct{ column, value string }{{"device", f.Device}, {"state", string(f.State)}, {"severity", string(f.Severity)}} {
		if c.value != "" {
			where = append(where, "r."+c.column+" = "+q.arg(c.value))
		}
	}
	if f.Group != "" {
		in, err := member(q, "r.device", f.Group)
		if err != nil {
			return nil, err
		}
		where = append(where, "r.device <> ''", in)
	}
	order := " DESC"
	if f.Oldest {
		order = ""
	}
	return list(ctx, s, s.b.Reader, "list recommendations", scanRecommendation,
		selectRecommendation+`WHERE `+strings.Join(where, " AND ")+` ORDER BY r.sequence`+order+` LIMIT `+q.arg(pageLimit(f.Limit)), q.args...)
}

// Recommendation implements [posture.Store].
func (s *Store) Recommendation(ctx context.Context, id string) (posture.Recommendation, error) {
	r, err := one(ctx, s, s.b.Reader, "read recommendation", scanRecommendation, selectRecommendation+`WHERE r.id = $1`, id)
	return r, notFound(err, "recommendation", id)
}

// Totals implements [posture.Store].
func (s *Store) Totals(ctx context.Context, of posture.Whole) (t posture.Totals, err error) {
	// Each query has parameters of its own.
	devices := func(q *selection) (string, error) {
		where := "i.module = ''"
		if of.Device != "" {
			where += " AND i.device = " + q.arg(of.Device)
		}
		if of.Group == "" {
			return where, nil
		}
		in, err := member(q, "i.device", of.Group)
		return where + " AND " + in, err
	}
	q := &selection{}
	where, err := devices(q)
	if err != nil {
		return t, err
	}
	n, err := one(ctx, s, s.b.Reader, "count devices", scanInt, `SELECT COUNT(*) FROM identities i WHERE `+where, q.args...)
	if err != nil {
		return t, err
	}
	if t.Devices = int(n); n == 0 && of.Device != "" {
		return t, fault.New(fault.NotFound, "device %s does not exist", of.Device)
	}
	// A device loses the weight of the gravest of each family once.
	q = &selection{}
	if where, err = devices(q); err != nil {
		return t, err
	}
	each := `SELECT r.device, r.family, MAX(r.weight) AS w, COUNT(*) AS n FROM recommendations r JOIN identities i ON i.device = r.device AND ` + where +
		` WHERE r.state = 'Active' AND r.device <> '' GROUP BY r.device, r.family`
	counts := make(map[string]*posture.Tally)
	rows, err := list(ctx, s, s.b.Reader, "sum recommendations", func(r *sql.Rows) (y posture.Tally, err error) {
		var gravest int
		err = r.Scan(&y.Type, &y.Devices, &y.Weight, &gravest, &y.Count)
		y.Severity = posture.Graver(gravest)
		return y, err
	}, `SELECT family, COUNT(*), CAST(SUM(w) AS BIGINT), MAX(w), CAST(SUM(n) AS BIGINT) FROM (`+each+`) AS each GROUP BY family`, q.args...)
	if err != nil {
		return t, err
	}
	for i := range rows {
		counts[rows[i].Type] = &rows[i]
	}
	sums, err := list(ctx, s, s.b.Reader, "sum recommendations", func(r *sql.Rows) (v [2]int, err error) {
		err = r.Scan(&v[0], &v[1])
		return v, err
	}, `SELECT COUNT(*), CAST(COALESCE(SUM(CASE WHEN lost > 100 THEN 100 ELSE lost END), 0) AS BIGINT) FROM
		(SELECT device, SUM(w) AS lost FROM (`+each+`) AS each GROUP BY device) AS devices`, q.args...)
	if err != nil {
		return t, err
	}
	t.Unhealthy, t.Lost = sums[0][0], sums[0][1]
	if of == (posture.Whole{}) {
		rows, err := list(ctx, s, s.b.Reader, "sum recommendations", func(r *sql.Rows) (y posture.Tally, err error) {
			err = r.Scan(&y.Type, &y.HubTakes, &y.Count)
			y.Severity = posture.Graver(y.HubTakes)
			return y, err
		}, `SELECT family, MAX(weight), COUNT(*) FROM recommendations WHERE state = 'Active' AND device = '' GROUP BY family`)
		if err != nil {
			return t, err
		}
		for i := range rows {
			if have, ok := counts[rows[i].Type]; ok {
				have.HubTakes, have.Count = rows[i].HubTakes, have.Count+rows[i].Count
			} else {
				counts[rows[i].Type] = &rows[i]
			}
		}
	}
	for _, y := range counts {
		t.Tallies = append(t.Tallies, *y)
	}
	slices.SortFunc(t.Tallies, func(a, b posture.Tally) int { return strings.Compare(a.Type, b.Type) })
	return t, nil
}

// resolveChunk is how many are resolved in one transaction, so that others get their turn.
const resolveChunk = 5000

// resolve resolves active recommendations that a condition finds.
func (s *Store) resolve(ctx context.Context, at time.Time, where func(q *selection) string) (resolved int, err error) {
	for {
		n := 0
		err := s.write(ctx, func(ctx context.Context, c Conn) error {
			q := &selection{}
			some, err := list(ctx, s, c, "read recommendations", scanRecommendation,
				s.lock(selectRecommendation+`WHERE r.state = 'Active' AND `+where(q)+` ORDER BY r.device, r.type, r.module LIMIT `+q.arg(resolveChunk)), q.args...)
			if err != nil {
				return err
			}
			for i := range some {
				some[i].State, some[i].StatusChanged, some[i].Resolved = posture.Resolved, stored(at), stored(at)
			}
			n = len(some)
			return s.keepRecommendations(ctx, c, some)
		})
		resolved += n
		if err != nil || n < resolveChunk {
			return resolved, err
		}
	}
}

// any reports whether there is an active recommendation that a condition finds: mostly there is none, and nothing to write.
func (s *Store) anyActive(ctx context.Context, where func(q *selection) string) (bool, error) {
	q := &selection{}
	_, err := one(ctx, s, s.b.Reader, "read recommendations", scanInt, `SELECT 1 FROM recommendations r WHERE r.state = 'Active' AND `+where(q)+` LIMIT 1`, q.args...)
	if errors.Is(err, errNoRow) {
		return false, nil
	}
	return err == nil, err
}

// ResolveTypes implements [posture.Store].
func (s *Store) ResolveTypes(ctx context.Context, types []string, at time.Time) (resolved int, err error) {
	for some := range slices.Chunk(types, 100) {
		where := func(q *selection) string { return ofTypes(q, some) }
		found, err := s.anyActive(ctx, where)
		if err != nil {
			return resolved, err
		}
		if !found {
			continue
		}
		n, err := s.resolve(ctx, at, where)
		resolved += n
		if err != nil {
			return resolved, err
		}
	}
	return resolved, nil
}

// Tidy implements [posture.Store].
func (s *Store) Tidy(ctx context.Context, at, before time.Time) (resolved, forgotten int, err error) {
	gone := func(*selection) string {
		return `r.device <> '' AND NOT EXISTS (SELECT 1 FROM identities i WHERE i.device = r.device AND i.module = r.module)`
	}
	found, err := s.anyActive(ctx, gone)
	if err != nil {
		return 0, 0, err
	}
	if found {
		if resolved, err = s.resolve(ctx, at, gone); err != nil {
			return resolved, 0, err
		}
	}
	old, err := one(ctx, s, s.b.Reader, "count recommendations", scanInt, `SELECT (SELECT COUNT(*) FROM recommendations WHERE state = 'Resolved' AND resolved < $1)
		+ (SELECT COUNT(*) FROM device_links l WHERE NOT EXISTS (SELECT 1 FROM identities i WHERE i.device = l.device AND i.module = l.module))`, micros(before))
	if err != nil || old == 0 {
		return resolved, 0, err
	}
	err = s.write(ctx, func(ctx context.Context, c Conn) error {
		n, err := s.exec(ctx, c, "forget recommendations", `DELETE FROM recommendations WHERE state = 'Resolved' AND resolved < $1`, micros(before))
		if err != nil {
			return err
		}
		forgotten = int(n)
		_, err = s.exec(ctx, c, "forget links", `DELETE FROM device_links WHERE NOT EXISTS
			(SELECT 1 FROM identities i WHERE i.device = device_links.device AND i.module = device_links.module)`)
		return err
	})
	return resolved, forgotten, err
}

// seenAgain is how old the note of a link may be that did not change.
const seenAgain = 24 * time.Hour

// KeepLinks implements [posture.Store].
func (s *Store) KeepLinks(ctx context.Context, links []posture.Link) error {
	const columns = 8
	links = slices.Clone(links) // rows are locked in the same order by all
	slices.SortFunc(links, func(a, b posture.Link) int {
		if c := strings.Compare(a.ID.Device, b.ID.Device); c != 0 {
			return c
		}
		return strings.Compare(a.ID.Module, b.ID.Module)
	})
	for now := range slices.Chunk(links, resolveChunk) {
		args := make([]any, 0, columns*len(now))
		for _, k := range now {
			remote := ""
			if k.Remote.IsValid() {
				remote = k.Remote.String()
			}
			args = append(args, k.ID.Device, k.ID.Module, remote, int(k.Version), int(k.CipherSuite), micros(k.NotBefore), micros(k.NotAfter), micros(k.At))
		}
		err := s.write(ctx, func(ctx context.Context, c Conn) error {
			return s.chunks(len(now), rowsWrite, func(from, to int) error {
				_, err := s.exec(ctx, c, "keep links", `INSERT INTO device_links (device, module, remote, tls_version, cipher_suite, not_before, not_after, seen) VALUES `+
					tuples(to-from, columns)+` ON CONFLICT (device, module) DO UPDATE SET remote = excluded.remote, tls_version = excluded.tls_version,
					cipher_suite = excluded.cipher_suite, not_before = excluded.not_before, not_after = excluded.not_after, seen = excluded.seen
					WHERE device_links.remote <> excluded.remote OR device_links.tls_version <> excluded.tls_version OR device_links.cipher_suite <> excluded.cipher_suite
					OR device_links.not_before <> excluded.not_before OR device_links.not_after <> excluded.not_after
					OR device_links.seen < excluded.seen - `+fmt.Sprint(seenAgain.Microseconds()), args[from*columns:to*columns]...)
				return err
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// DeviceFacts implements [posture.Store].
func (s *Store) DeviceFacts(ctx context.Context, after string, devices int) ([]posture.Fact, error) {
	facts, err := list(ctx, s, s.b.Reader, "read facts of devices", s.scanFact, `SELECT i.device, i.module, i.edge, i.auth_type, i.auth_keys, i.primary_thumbprint, i.secondary_thumbprint,
		t.model_id,
		COALESCE((SELECT v.value FROM tag_values v WHERE v.device = i.device AND v.module = '' AND v.path = '`+groupTag+`'), ''),
		CASE WHEN i.module = '' THEN '' ELSE t.desired END,
		CASE WHEN i.module IN ('`+posture.AgentModule+`', '`+posture.MicroAgentModule+`') THEN t.desired_metadata ELSE '' END,
		CASE WHEN i.module IN ('', '`+posture.AgentModule+`', '`+posture.MicroAgentModule+`') THEN t.reported ELSE '' END,
		COALESCE(l.remote, ''), COALESCE(l.tls_version, 0), COALESCE(l.cipher_suite, 0), COALESCE(l.not_before, 0), COALESCE(l.not_after, 0), COALESCE(l.seen, 0),
		CASE WHEN i.module = '' AND EXISTS (SELECT 1 FROM security_events e WHERE e.device = i.device) THEN 1 ELSE 0 END
		FROM identities i JOIN twins t ON t.device = i.device AND t.module = i.module LEFT JOIN device_links l ON l.device = i.device AND l.module = i.module
		WHERE i.device IN (SELECT device FROM identities WHERE module = '' AND device > $1 ORDER BY device LIMIT $2) ORDER BY i.device, i.module`, after, devices)
	if err != nil {
		return nil, err
	}
	packed, err := s.inBlocks(ctx)
	if err != nil {
		return nil, err
	}
	for i := range facts {
		if f := &facts[i]; f.ID.Module == "" && !f.SecurityMessage {
			f.SecurityMessage = packed(f.ID.Device)
		}
	}
	return facts, nil
}

func (s *Store) scanFact(r *sql.Rows) (f posture.Fact, err error) {
	var keys []byte
	var tag, remote, metadata string
	var said int
	a := &f.Authentication
	err = r.Scan(&f.ID.Device, &f.ID.Module, &f.Edge, &a.Type, &keys, &a.PrimaryThumbprint, &a.SecondaryThumbprint, &f.ModelID, &tag, (*[]byte)(&f.Desired), &metadata,
		(*[]byte)(&f.Reported), &remote, &f.Link.Version, &f.Link.CipherSuite, stamp{&f.Link.NotBefore}, stamp{&f.Link.NotAfter}, stamp{&f.Link.At}, &said)
	if err != nil {
		return f, err
	}
	f.Link.ID, f.SecurityMessage = f.ID, said == 1
	f.Link.Remote, _ = netip.ParseAddr(remote) // '' when it is not known
	if strings.HasPrefix(tag, `"`) {
		if name, ok := query.JSON(tag).Str(); ok {
			f.Group = name
		}
	}
	if metadata != "" {
		var m struct {
			LastUpdated time.Time `json:"$lastUpdated"`
		}
		if json.Unmarshal([]byte(metadata), &m) == nil {
			f.DesiredUpdated = m.LastUpdated
		}
	}
	return f, s.openKeys(identityKeys, f.ID.String(), keys, &a.PrimaryKey, &a.SecondaryKey)
}

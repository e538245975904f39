package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"

	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

const oneTwin = `SELECT device, module, model_id, version, tags, desired, desired_metadata, desired_version,
	reported, reported_metadata, reported_version, configurations, configured FROM twins WHERE device = $1 AND module = $2`

func scanTwin(r *sql.Rows) (t twin.Twin, err error) {
	// *[]byte, because database/sql copies text into it and into no other slice type.
	err = r.Scan(&t.ID.Device, &t.ID.Module, &t.ModelID, &t.Version, (*[]byte)(&t.Tags),
		(*[]byte)(&t.Desired), (*[]byte)(&t.DesiredMetadata), &t.DesiredVersion,
		(*[]byte)(&t.Reported), (*[]byte)(&t.ReportedMetadata), &t.ReportedVersion,
		(*[]byte)(&t.Configurations), (*[]byte)(&t.Configured))
	t.Configurations, t.Configured = orNil(t.Configurations), orNil(t.Configured)
	return t, err
}

func (s *Store) twin(ctx context.Context, c Conn, id iot.ID, query string) (twin.Twin, error) {
	t, err := one(ctx, s, c, "read twin", scanTwin, query, id.Device, id.Module)
	return t, notFound(err, kind(id), id.String())
}

func (s *Store) insertTwin(ctx context.Context, c Conn, t twin.Twin) error {
	_, err := s.exec(ctx, c, "create twin", `INSERT INTO twins (device, module, model_id, version, tags, desired,
		desired_metadata, desired_version, reported, reported_metadata, reported_version, configurations, configured)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`,
		t.ID.Device, t.ID.Module, t.ModelID, t.Version, tree(t.Tags), tree(t.Desired),
		tree(t.DesiredMetadata), t.DesiredVersion, tree(t.Reported), tree(t.ReportedMetadata), t.ReportedVersion, string(t.Configurations), string(t.Configured))
	if err != nil {
		return err
	}
	return s.indexTags(ctx, c, t.ID, nil, t.Tags)
}

// tree is the stored text of a JSON tree, exactly as given; nil reads as {}.
func tree(j json.RawMessage) string {
	if len(j) == 0 {
		return "{}"
	}
	return string(j)
}

// Twin implements [twin.Store].
func (s *Store) Twin(ctx context.Context, id iot.ID) (twin.Twin, error) {
	return s.twin(ctx, s.b.Reader, id, oneTwin)
}

// UpdateTwin implements [twin.Store]. The ID is not written.
func (s *Store) UpdateTwin(ctx context.Context, id iot.ID, change func(twin.Twin) (twin.Twin, error)) (twin.Twin, error) {
	var next twin.Twin
	err := s.write(ctx, func(ctx context.Context, c Conn) error {
		now, err := s.twin(ctx, c, id, s.lock(oneTwin))
		if err != nil {
			return err
		}
		if next, err = change(now); err != nil {
			return err
		}
		next.ID = id
		next.Configurations, next.Configured = orNil(next.Configurations), orNil(next.Configured)
		for _, j := range []*json.RawMessage{&next.Tags, &next.Desired, &next.DesiredMetadata, &next.Reported, &next.ReportedMetadata} {
			if len(*j) == 0 {
				*j = json.RawMessage("{}")
			}
		}
		_, err = s.exec(ctx, c, "update twin", `UPDATE twins SET model_id = $1, version = $2, tags = $3, desired = $4,
			desired_metadata = $5, desired_version = $6, reported = $7, reported_metadata = $8, reported_version = $9,
			configurations = $10, configured = $11 WHERE device = $12 AND module = $13`,
			next.ModelID, next.Version, string(next.Tags), string(next.Desired),
			string(next.DesiredMetadata), next.DesiredVersion, string(next.Reported), string(next.ReportedMetadata), next.ReportedVersion,
			string(next.Configurations), string(next.Configured), id.Device, id.Module)
		if err != nil {
			return err
		}
		if err := s.tell(ctx, c, next.Facts); err != nil {
			return err
		}
		next.Facts = nil
		return s.indexTags(ctx, c, id, now.Tags, next.Tags)
	})
	if err != nil {
		return twin.Twin{}, err
	}
	return next, nil
}

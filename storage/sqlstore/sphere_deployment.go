package sqlstore

import (
	"context"
	"database/sql"
	"math"
	"strconv"
	"strings"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/sphere"
)

const selectDeployment = `SELECT tenant, id, grp, number, images, created, author FROM sphere_deployments `

func scanDeployment(r *sql.Rows) (d sphere.Deployment, err error) {
	err = r.Scan(&d.Tenant, &d.ID, &d.Group, &d.Number, jsonText{&d.Images}, stamp{&d.Created}, &d.By)
	return d, err
}

// AddDeployment implements [sphere.DeploymentStore].
func (s *Store) AddDeployment(ctx context.Context, d sphere.Deployment, keep int) (sphere.Deployment, error) {
	d.Created = stored(d.Created)
	images, err := toJSON(d.Images)
	if err != nil {
		return sphere.Deployment{}, err
	}
	err = s.write(ctx, func(ctx context.Context, c Conn) error {
		if err := s.lockTenant(ctx, c, d.Tenant); err != nil {
			return err
		}
		g, err := one(ctx, s, c, "read device group", scanGroup, oneGroup, d.Tenant, d.Group)
		if err != nil {
			return notFound(err, "device group", d.Group)
		}
		d.Number = 1
		if g.Deployment != nil {
			d.Number = g.Deployment.Number + 1
		}
		n, err := s.exec(ctx, c, "write deployment", `INSERT INTO sphere_deployments (tenant, grp, number, id, images, created, author)
			VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING`, d.Tenant, d.Group, d.Number, d.ID, images, micros(d.Created), d.By)
		if err != nil {
			return err
		}
		if n == 0 {
			return fault.New(fault.AlreadyExists, "there is a deployment %s already", d.ID)
		}
		_, err = s.exec(ctx, c, "forget deployments", `DELETE FROM sphere_deployments WHERE tenant = $1 AND grp = $2 AND number <= $3`,
			d.Tenant, d.Group, d.Number-int64(keep))
		return err
	})
	if err != nil {
		return sphere.Deployment{}, err
	}
	return d, nil
}

// Deployment implements [sphere.DeploymentStore].
func (s *Store) Deployment(ctx context.Context, tenant, group, id string) (sphere.Deployment, error) {
	d, err := one(ctx, s, s.b.Reader, "read deployment", scanDeployment, selectDeployment+`WHERE tenant = $1 AND grp = $2 AND id = $3`, tenant, group, id)
	return d, notFound(err, "deployment", id)
}

// Deployments implements [sphere.DeploymentStore].
func (s *Store) Deployments(ctx context.Context, tenant, group, after string, limit int) ([]sphere.Deployment, error) {
	afterGroup, number, _ := strings.Cut(after, "/")
	before, _ := strconv.ParseInt(number, 10, 64) // what is no number ends its group
	if group == "" {
		return list(ctx, s, s.b.Reader, "list deployments", scanDeployment,
			selectDeployment+`WHERE tenant = $1 AND (grp > $2 OR grp = $2 AND number < $3) ORDER BY grp, number DESC LIMIT $4`, tenant, afterGroup, before, limit)
	}
	if afterGroup < group {
		before = math.MaxInt64
	} else if afterGroup > group {
		return nil, nil
	}
	return list(ctx, s, s.b.Reader, "list deployments", scanDeployment,
		selectDeployment+`WHERE tenant = $1 AND grp = $2 AND number < $3 ORDER BY number DESC LIMIT $4`, tenant, group, before, limit)
}

package sphere

import (
	"context"
	"slices"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/iot"
)

// ProductChange is what an update sets; nil leaves a field.
type ProductChange struct {
	Name        *string
	Description *string
}

// GroupChange is what an update sets, or a new group has; nil leaves a field, or means the default: Retail, UpdateAll, no dumps, no boundary.
type GroupChange struct {
	Name             *string
	Description      *string
	OSFeed           *OSFeed
	UpdatePolicy     *UpdatePolicy
	AllowCrashDumps  *bool
	RegionalBoundary *string
}

// DefaultGroups are the five groups of sphere §4.3, in its order.
func DefaultGroups() []DeviceGroup {
	group := func(name, description string, feed OSFeed, policy UpdatePolicy) DeviceGroup {
		return DeviceGroup{Name: name, Description: description, OSFeed: feed, UpdatePolicy: policy, RegionalBoundary: RegionNone}
	}
	return []DeviceGroup{
		group("Development", "Default development device group", Retail, No3rdPartyAppUpdates),
		group("Field Test", "Default field test device group", Retail, UpdateAll),
		group("Production", "Default production device group", Retail, UpdateAll),
		group("Field Test OS Evaluation", "Default field test OS evaluation device group", RetailEval, UpdateAll),
		group("Production OS Evaluation", "Default production OS evaluation device group", RetailEval, UpdateAll),
	}
}

// Products lists a tenant's by name.
func (s *Service) Products(ctx context.Context, c Caller, tenant string, p Page) (List[Product], error) {
	id, err := s.allow(ctx, c, tenant, "Products")
	if err != nil {
		return List[Product]{}, err
	}
	return page(p, func(p Product) string { return Fold(p.Name) }, func(after string, limit int) ([]Product, error) {
		return s.store.Products(ctx, id, after, limit)
	})
}

// Product returns one by its id.
func (s *Service) Product(ctx context.Context, c Caller, tenant, product string) (Product, error) {
	id, err := s.allow(ctx, c, tenant, "Product")
	if err != nil {
		return Product{}, err
	}
	return s.store.Product(ctx, id, Fold(product))
}

// ProductByName returns the one of that name.
func (s *Service) ProductByName(ctx context.Context, c Caller, tenant, name string) (Product, error) {
	id, err := s.allow(ctx, c, tenant, "ProductByName")
	if err != nil {
		return Product{}, err
	}
	return byName("product", name, func(p Product) string { return Fold(p.Name) }, func(after string, limit int) ([]Product, error) {
		return s.store.Products(ctx, id, after, limit)
	})
}

// byName finds what has a name in a list that is ordered by folded names.
func byName[T any](what, name string, key func(T) string, list func(after string, limit int) ([]T, error)) (T, error) {
	var zero T
	missing := fault.New(fault.NotFound, "there is no %s %q", what, name)
	if checkName(what, name) != nil {
		return zero, missing
	}
	folded := Fold(name)
	// Just before it in the order: names hold no DEL.
	last := len(folded) - 1
	items, err := list(folded[:last]+string(folded[last]-1)+"\x7f", 1)
	if err != nil {
		return zero, err
	}
	if len(items) == 0 || key(items[0]) != folded {
		return zero, missing
	}
	return items[0], nil
}

// CreateProduct makes one without groups. fault.AlreadyExists when the name is taken.
func (s *Service) CreateProduct(ctx context.Context, c Caller, tenant, name, description string) (Product, error) {
	id, err := s.allow(ctx, c, tenant, "CreateProduct")
	if err != nil {
		return Product{}, err
	}
	now := s.now().UTC()
	p := Product{Tenant: id, ID: newGUID(), ETag: newETag(), Created: now, Updated: now}
	if err := p.apply(ProductChange{Name: &name, Description: &description}); err != nil {
		return Product{}, err
	}
	p, err = s.store.PutProduct(ctx, id, p.ID, func(*Product) (Product, error) { return p, nil })
	if err != nil {
		return Product{}, hide(err, tenant)
	}
	s.audit(c, "CreateProduct", id, p.ID, "name", name)
	return p, nil
}

func (p *Product) apply(change ProductChange) error {
	if change.Name != nil {
		if err := checkName("product", *change.Name); err != nil {
			return err
		}
		p.Name = *change.Name
	}
	if change.Description != nil {
		if err := checkText("a description", *change.Description, maxDescription); err != nil {
			return err
		}
		p.Description = *change.Description
	}
	return nil
}

// UpdateProduct changes one. fault.PreconditionFailed when match does not.
func (s *Service) UpdateProduct(ctx context.Context, c Caller, tenant, product string, change ProductChange, match *iot.Match) (Product, error) {
	id, err := s.allow(ctx, c, tenant, "UpdateProduct")
	if err != nil {
		return Product{}, err
	}
	tag, now := newETag(), s.now().UTC()
	p, err := s.store.PutProduct(ctx, id, Fold(product), func(p *Product) (Product, error) {
		if p == nil {
			return Product{}, fault.New(fault.NotFound, "there is no product %q", product)
		}
		if err := match.Check(p.ETag); err != nil {
			return Product{}, err
		}
		next := *p
		next.ETag, next.Updated = tag, now
		err := next.apply(change)
		return next, err
	})
	if err == nil {
		s.audit(c, "UpdateProduct", id, p.ID, "name", p.Name)
	}
	return p, err
}

// DeleteProduct removes one with its groups. fault.AlreadyExists (a conflict) while devices are in one of them.
func (s *Service) DeleteProduct(ctx context.Context, c Caller, tenant, product string, match *iot.Match) error {
	id, err := s.allow(ctx, c, tenant, "DeleteProduct")
	if err != nil {
		return err
	}
	if err := s.store.DeleteProduct(ctx, id, Fold(product), func(p Product) error { return match.Check(p.ETag) }); err != nil {
		return err
	}
	s.audit(c, "DeleteProduct", id, Fold(product))
	return nil
}

// DeviceGroups lists the groups of a product by name, or with "" those of all products, by product.
func (s *Service) DeviceGroups(ctx context.Context, c Caller, tenant, product string, p Page) (List[DeviceGroup], error) {
	id, err := s.allow(ctx, c, tenant, "DeviceGroups")
	if err != nil {
		return List[DeviceGroup]{}, err
	}
	if product != "" {
		if _, err := s.store.Product(ctx, id, Fold(product)); err != nil {
			return List[DeviceGroup]{}, err
		}
	}
	return page(p, GroupKey, func(after string, limit int) ([]DeviceGroup, error) {
		return s.store.DeviceGroups(ctx, id, Fold(product), after, limit)
	})
}

// DeviceGroup returns one by its id.
func (s *Service) DeviceGroup(ctx context.Context, c Caller, tenant, group string) (DeviceGroup, error) {
	id, err := s.allow(ctx, c, tenant, "DeviceGroup")
	if err != nil {
		return DeviceGroup{}, err
	}
	return s.store.DeviceGroup(ctx, id, Fold(group))
}

// DeviceGroupByName returns the one of that name in a product, which is named by its id.
func (s *Service) DeviceGroupByName(ctx context.Context, c Caller, tenant, product, name string) (DeviceGroup, error) {
	id, err := s.allow(ctx, c, tenant, "DeviceGroupByName")
	if err != nil {
		return DeviceGroup{}, err
	}
	product = Fold(product)
	return byName("device group", name, func(g DeviceGroup) string { return Fold(g.Name) }, func(after string, limit int) ([]DeviceGroup, error) {
		return s.store.DeviceGroups(ctx, id, product, product+"/"+after, limit)
	})
}

// maxGroups bounds the groups of a product.
const maxGroups = 500

func tooManyGroups(n int) error {
	if n > maxGroups {
		return fault.New(fault.QuotaExceeded, "a product has at most %d device groups", maxGroups)
	}
	return nil
}

// CreateDeviceGroup makes one; its name is required. fault.AlreadyExists when the name is taken in the product.
func (s *Service) CreateDeviceGroup(ctx context.Context, c Caller, tenant, product string, with GroupChange) (DeviceGroup, error) {
	id, err := s.allow(ctx, c, tenant, "CreateDeviceGroup")
	if err != nil {
		return DeviceGroup{}, err
	}
	now := s.now().UTC()
	g := DeviceGroup{
		Tenant: id, ID: newGUID(), Product: Fold(product), OSFeed: Retail, UpdatePolicy: UpdateAll, RegionalBoundary: RegionNone,
		ETag: newETag(), Created: now, Updated: now,
	}
	if with.Name == nil {
		return DeviceGroup{}, fault.New(fault.Invalid, "a device group has a name")
	}
	if err := g.apply(with); err != nil {
		return DeviceGroup{}, err
	}
	gs, err := s.store.PutDeviceGroups(ctx, id, g.Product, func(all []DeviceGroup) ([]DeviceGroup, error) {
		return []DeviceGroup{g}, tooManyGroups(len(all) + 1)
	})
	if err != nil {
		return DeviceGroup{}, err
	}
	s.audit(c, "CreateDeviceGroup", id, g.ID, "name", g.Name, "product", g.Product)
	return gs[0], nil
}

// GenerateDefaultGroups makes those of the five default groups that the product does not have, and returns all five. A group that stands under one
// of their names stays as it is.
func (s *Service) GenerateDefaultGroups(ctx context.Context, c Caller, tenant, product string) ([]DeviceGroup, error) {
	id, err := s.allow(ctx, c, tenant, "GenerateDefaultGroups")
	if err != nil {
		return nil, err
	}
	now, product := s.now().UTC(), Fold(product)
	fresh := DefaultGroups()
	for i := range fresh {
		g := &fresh[i]
		g.Tenant, g.ID, g.Product, g.ETag, g.Created, g.Updated = id, newGUID(), product, newETag(), now, now
	}
	var five []DeviceGroup
	made, err := s.store.PutDeviceGroups(ctx, id, product, func(all []DeviceGroup) ([]DeviceGroup, error) {
		five = slices.Clone(fresh)
		var write []DeviceGroup
		for i := range five {
			at := slices.IndexFunc(all, func(g DeviceGroup) bool { return Fold(g.Name) == Fold(five[i].Name) })
			if at < 0 {
				write = append(write, five[i])
			} else {
				five[i] = all[at]
			}
		}
		return write, tooManyGroups(len(all) + len(write))
	})
	if err != nil {
		return nil, err
	}
	for _, g := range made {
		s.audit(c, "GenerateDefaultGroups", id, g.ID, "name", g.Name, "product", product)
	}
	return five, nil
}

func (g *DeviceGroup) apply(change GroupChange) error {
	if change.Name != nil {
		if err := checkName("device group", *change.Name); err != nil {
			return err
		}
		g.Name = *change.Name
	}
	if change.Description != nil {
		if err := checkText("a description", *change.Description, maxDescription); err != nil {
			return err
		}
		g.Description = *change.Description
	}
	if change.OSFeed != nil {
		if err := checkFeed(*change.OSFeed); err != nil {
			return err
		}
		g.OSFeed = *change.OSFeed
	}
	if v := change.UpdatePolicy; v != nil {
		if *v != UpdateAll && *v != No3rdPartyAppUpdates {
			return fault.New(fault.Invalid, "there is no update policy %q; there are UpdateAll and No3rdPartyAppUpdates", *v)
		}
		g.UpdatePolicy = *v
	}
	if v := change.RegionalBoundary; v != nil {
		if *v != RegionNone && *v != RegionEU {
			return fault.New(fault.Invalid, "there is no regional boundary %q; there are None and EU", *v)
		}
		g.RegionalBoundary = *v
	}
	if change.AllowCrashDumps != nil {
		g.AllowCrashDumps = *change.AllowCrashDumps
	}
	return nil
}

func checkFeed(f OSFeed) error {
	if f != Retail && f != RetailEval {
		return fault.New(fault.Invalid, "there is no OS feed %q; there are Retail and RetailEval", f)
	}
	return nil
}

// UpdateDeviceGroup changes one. fault.PreconditionFailed when match does not.
func (s *Service) UpdateDeviceGroup(ctx context.Context, c Caller, tenant, group string, change GroupChange, match *iot.Match) (DeviceGroup, error) {
	id, err := s.allow(ctx, c, tenant, "UpdateDeviceGroup")
	if err != nil {
		return DeviceGroup{}, err
	}
	missing := fault.New(fault.NotFound, "there is no device group %q", group)
	standing, err := s.store.DeviceGroup(ctx, id, Fold(group))
	if err != nil {
		return DeviceGroup{}, err
	}
	tag, now := newETag(), s.now().UTC()
	gs, err := s.store.PutDeviceGroups(ctx, id, standing.Product, func(all []DeviceGroup) ([]DeviceGroup, error) {
		at := slices.IndexFunc(all, func(g DeviceGroup) bool { return g.ID == standing.ID })
		if at < 0 {
			return nil, missing
		}
		next := all[at]
		if err := match.Check(next.ETag); err != nil {
			return nil, err
		}
		next.ETag, next.Updated = tag, now
		err := next.apply(change)
		return []DeviceGroup{next}, err
	})
	if err != nil {
		return DeviceGroup{}, err
	}
	s.audit(c, "UpdateDeviceGroup", id, standing.ID, "name", gs[0].Name)
	return gs[0], nil
}

// DeleteDeviceGroup removes one. fault.AlreadyExists (a conflict) while devices are in it.
func (s *Service) DeleteDeviceGroup(ctx context.Context, c Caller, tenant, group string, match *iot.Match) error {
	id, err := s.allow(ctx, c, tenant, "DeleteDeviceGroup")
	if err != nil {
		return err
	}
	if err := s.store.DeleteDeviceGroup(ctx, id, Fold(group), func(g DeviceGroup) error { return match.Check(g.ETag) }); err != nil {
		return err
	}
	s.audit(c, "DeleteDeviceGroup", id, Fold(group))
	return nil
}

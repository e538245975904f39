-- +goose Up
-- The Security Service. Ids are GUIDs in lower case, folded names are in ASCII lower case, and all but devices' own rows begin with their tenant.
CREATE TABLE sphere_tenants (
	id      TEXT    NOT NULL PRIMARY KEY,
	name    TEXT    NOT NULL,
	etag    TEXT    NOT NULL,
	created INTEGER NOT NULL,
	updated INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE sphere_members (
	tenant TEXT    NOT NULL REFERENCES sphere_tenants (id),
	folded TEXT    NOT NULL,
	name   TEXT    NOT NULL, -- the user as it was typed
	roles  TEXT    NOT NULL, -- JSON
	added  INTEGER NOT NULL,
	PRIMARY KEY (tenant, folded)
) STRICT, WITHOUT ROWID;
CREATE INDEX sphere_members_user ON sphere_members (folded, tenant);

CREATE TABLE sphere_products (
	tenant      TEXT    NOT NULL REFERENCES sphere_tenants (id),
	id          TEXT    NOT NULL,
	folded      TEXT    NOT NULL,
	name        TEXT    NOT NULL,
	description TEXT    NOT NULL,
	etag        TEXT    NOT NULL,
	created     INTEGER NOT NULL,
	updated     INTEGER NOT NULL,
	PRIMARY KEY (tenant, id),
	UNIQUE (tenant, folded)
) STRICT, WITHOUT ROWID;

CREATE TABLE sphere_groups (
	tenant   TEXT    NOT NULL,
	id       TEXT    NOT NULL,
	product  TEXT    NOT NULL,
	folded   TEXT    NOT NULL,
	name     TEXT    NOT NULL,
	document TEXT    NOT NULL, -- the remaining fields, JSON
	etag     TEXT    NOT NULL,
	created  INTEGER NOT NULL,
	updated  INTEGER NOT NULL,
	PRIMARY KEY (tenant, id),
	UNIQUE (tenant, product, folded),
	FOREIGN KEY (tenant, product) REFERENCES sphere_products (tenant, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- What is known of devices before they are claimed; several tenants may say that they know one.
CREATE TABLE sphere_manufacture (
	tenant   TEXT    NOT NULL REFERENCES sphere_tenants (id),
	device   TEXT    NOT NULL,
	reserved INTEGER NOT NULL, -- for this tenant, by the installation
	document TEXT    NOT NULL, -- the remaining fields, JSON
	created  INTEGER NOT NULL,
	PRIMARY KEY (tenant, device)
) STRICT, WITHOUT ROWID;
CREATE INDEX sphere_manufacture_device ON sphere_manufacture (device);
CREATE UNIQUE INDEX sphere_manufacture_reserved ON sphere_manufacture (device) WHERE reserved = 1;

-- A device is here once: its tenant has it for ever.
CREATE TABLE sphere_devices (
	id        TEXT    NOT NULL PRIMARY KEY,
	tenant    TEXT    NOT NULL REFERENCES sphere_tenants (id),
	product   TEXT    NOT NULL, -- '' without a group
	grp       TEXT    NOT NULL, -- '' for none
	state     TEXT    NOT NULL,
	sku       TEXT    NOT NULL,
	enabled   INTEGER NOT NULL,
	document  TEXT    NOT NULL, -- the remaining fields, JSON
	installed TEXT    NOT NULL, -- what it last measured, JSON
	etag      TEXT    NOT NULL,
	claimed   INTEGER NOT NULL,
	updated   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sphere_devices_tenant ON sphere_devices (tenant, id);
CREATE INDEX sphere_devices_group ON sphere_devices (tenant, grp, id);
CREATE INDEX sphere_devices_product ON sphere_devices (tenant, product, id);

CREATE TABLE sphere_capabilities (
	device     TEXT    NOT NULL REFERENCES sphere_devices (id),
	id         TEXT    NOT NULL,
	kinds      TEXT    NOT NULL, -- JSON
	expires    INTEGER NOT NULL, -- 0: never
	granted    INTEGER NOT NULL,
	granted_by TEXT    NOT NULL,
	PRIMARY KEY (device, id)
) STRICT, WITHOUT ROWID;

-- Nonces of claim challenges that were used, until the challenges end.
CREATE TABLE sphere_spent (
	nonce TEXT    NOT NULL PRIMARY KEY,
	until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sphere_spent_until ON sphere_spent (until);

-- Software that devices may run; of tenant '': those of all tenants.
CREATE TABLE sphere_releases (
	tenant    TEXT    NOT NULL,
	kind      TEXT    NOT NULL,
	feed      TEXT    NOT NULL,
	version   TEXT    NOT NULL,
	images    TEXT    NOT NULL, -- JSON
	released  INTEGER NOT NULL,
	withdrawn INTEGER NOT NULL, -- 0: it is not
	author    TEXT    NOT NULL,
	PRIMARY KEY (tenant, kind, feed, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE sphere_minimums (
	tenant  TEXT    NOT NULL,
	feed    TEXT    NOT NULL,
	since   INTEGER NOT NULL,
	version TEXT    NOT NULL,
	author  TEXT    NOT NULL,
	PRIMARY KEY (tenant, feed, since)
) STRICT, WITHOUT ROWID;

CREATE TABLE sphere_cas (
	tenant      TEXT    NOT NULL REFERENCES sphere_tenants (id),
	serial      TEXT    NOT NULL,
	certificate BLOB    NOT NULL, -- DER
	private_key BLOB    NOT NULL, -- PKCS #8, sealed
	not_after   INTEGER NOT NULL,
	active_from INTEGER NOT NULL,
	revoked     INTEGER NOT NULL, -- 0: it is not
	created     INTEGER NOT NULL,
	PRIMARY KEY (tenant, serial)
) STRICT, WITHOUT ROWID;

-- What devices tell of failures, one row for a day and a kind.
CREATE TABLE sphere_events (
	tenant      TEXT    NOT NULL,
	device      TEXT    NOT NULL REFERENCES sphere_devices (id),
	day         INTEGER NOT NULL, -- since 1970, of its end
	digest      TEXT    NOT NULL, -- of type, class and description
	type        TEXT    NOT NULL,
	class       TEXT    NOT NULL,
	category    TEXT    NOT NULL,
	description TEXT    NOT NULL,
	count       INTEGER NOT NULL,
	started     INTEGER NOT NULL,
	ended       INTEGER NOT NULL,
	PRIMARY KEY (device, day, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX sphere_events_device ON sphere_events (device, ended);
CREATE INDEX sphere_events_tenant ON sphere_events (tenant, ended);

-- +goose Up
-- The Security Service. Ids are GUIDs in lower case, folded names are in ASCII lower case, and all but devices' own rows begin with their tenant.
CREATE TABLE sphere_tenants (
	id      TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	name    TEXT             NOT NULL,
	etag    TEXT             NOT NULL,
	created BIGINT           NOT NULL,
	updated BIGINT           NOT NULL
);

CREATE TABLE sphere_members (
	tenant TEXT COLLATE "C" NOT NULL REFERENCES sphere_tenants (id),
	folded TEXT COLLATE "C" NOT NULL,
	name   TEXT             NOT NULL, -- the user as it was typed
	roles  TEXT             NOT NULL, -- JSON
	added  BIGINT           NOT NULL,
	PRIMARY KEY (tenant, folded)
);
CREATE INDEX sphere_members_user ON sphere_members (folded, tenant);

CREATE TABLE sphere_products (
	tenant      TEXT COLLATE "C" NOT NULL REFERENCES sphere_tenants (id),
	id          TEXT COLLATE "C" NOT NULL,
	folded      TEXT COLLATE "C" NOT NULL,
	name        TEXT             NOT NULL,
	description TEXT             NOT NULL,
	etag        TEXT             NOT NULL,
	created     BIGINT           NOT NULL,
	updated     BIGINT           NOT NULL,
	PRIMARY KEY (tenant, id),
	UNIQUE (tenant, folded)
);

CREATE TABLE sphere_groups (
	tenant   TEXT COLLATE "C" NOT NULL,
	id       TEXT COLLATE "C" NOT NULL,
	product  TEXT COLLATE "C" NOT NULL,
	folded   TEXT COLLATE "C" NOT NULL,
	name     TEXT             NOT NULL,
	document TEXT             NOT NULL, -- the remaining fields, JSON
	etag     TEXT             NOT NULL,
	created  BIGINT           NOT NULL,
	updated  BIGINT           NOT NULL,
	PRIMARY KEY (tenant, id),
	UNIQUE (tenant, product, folded),
	FOREIGN KEY (tenant, product) REFERENCES sphere_products (tenant, id) ON DELETE CASCADE
);

-- What is known of devices before they are claimed; several tenants may say that they know one.
CREATE TABLE sphere_manufacture (
	tenant   TEXT COLLATE "C" NOT NULL REFERENCES sphere_tenants (id),
	device   TEXT COLLATE "C" NOT NULL,
	reserved BOOLEAN          NOT NULL, -- for this tenant, by the installation
	document TEXT             NOT NULL, -- the remaining fields, JSON
	created  BIGINT           NOT NULL,
	PRIMARY KEY (tenant, device)
);
CREATE INDEX sphere_manufacture_device ON sphere_manufacture (device);
CREATE UNIQUE INDEX sphere_manufacture_reserved ON sphere_manufacture (device) WHERE reserved;

-- A device is here once: its tenant has it for ever.
CREATE TABLE sphere_devices (
	id        TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	tenant    TEXT COLLATE "C" NOT NULL REFERENCES sphere_tenants (id),
	product   TEXT COLLATE "C" NOT NULL, -- '' without a group
	grp       TEXT COLLATE "C" NOT NULL, -- '' for none
	state     TEXT COLLATE "C" NOT NULL,
	sku       TEXT COLLATE "C" NOT NULL,
	enabled   BOOLEAN          NOT NULL,
	document  TEXT             NOT NULL, -- the remaining fields, JSON
	installed TEXT             NOT NULL, -- what it last measured, JSON
	etag      TEXT             NOT NULL,
	claimed   BIGINT           NOT NULL,
	updated   BIGINT           NOT NULL
);
CREATE INDEX sphere_devices_tenant ON sphere_devices (tenant, id);
CREATE INDEX sphere_devices_group ON sphere_devices (tenant, grp, id);
CREATE INDEX sphere_devices_product ON sphere_devices (tenant, product, id);

CREATE TABLE sphere_capabilities (
	device     TEXT COLLATE "C" NOT NULL REFERENCES sphere_devices (id),
	id         TEXT COLLATE "C" NOT NULL,
	kinds      TEXT             NOT NULL, -- JSON
	expires    BIGINT           NOT NULL, -- 0: never
	granted    BIGINT           NOT NULL,
	granted_by TEXT             NOT NULL,
	PRIMARY KEY (device, id)
);

-- Nonces of claim challenges that were used, until the challenges end.
CREATE TABLE sphere_spent (
	nonce TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	until BIGINT           NOT NULL
);
CREATE INDEX sphere_spent_until ON sphere_spent (until);

-- Software that devices may run; of tenant '': those of all tenants.
CREATE TABLE sphere_releases (
	tenant    TEXT COLLATE "C" NOT NULL,
	kind      TEXT COLLATE "C" NOT NULL,
	feed      TEXT COLLATE "C" NOT NULL,
	version   TEXT COLLATE "C" NOT NULL,
	images    TEXT             NOT NULL, -- JSON
	released  BIGINT           NOT NULL,
	withdrawn BIGINT           NOT NULL, -- 0: it is not
	author    TEXT             NOT NULL,
	PRIMARY KEY (tenant, kind, feed, version)
);

CREATE TABLE sphere_minimums (
	tenant  TEXT COLLATE "C" NOT NULL,
	feed    TEXT COLLATE "C" NOT NULL,
	since   BIGINT           NOT NULL,
	version TEXT             NOT NULL,
	author  TEXT             NOT NULL,
	PRIMARY KEY (tenant, feed, since)
);

CREATE TABLE sphere_cas (
	tenant      TEXT COLLATE "C" NOT NULL REFERENCES sphere_tenants (id),
	serial      TEXT COLLATE "C" NOT NULL,
	certificate BYTEA            NOT NULL, -- DER
	private_key BYTEA            NOT NULL, -- PKCS #8, sealed
	not_after   BIGINT           NOT NULL,
	active_from BIGINT           NOT NULL,
	revoked     BIGINT           NOT NULL, -- 0: it is not
	created     BIGINT           NOT NULL,
	PRIMARY KEY (tenant, serial)
);

-- What devices tell of failures, one row for a day and a kind.
CREATE TABLE sphere_events (
	tenant      TEXT COLLATE "C" NOT NULL,
	device      TEXT COLLATE "C" NOT NULL REFERENCES sphere_devices (id),
	day         BIGINT           NOT NULL, -- since 1970, of its end
	digest      TEXT COLLATE "C" NOT NULL, -- of type, class and description
	type        TEXT             NOT NULL,
	class       TEXT             NOT NULL,
	category    TEXT             NOT NULL,
	description TEXT             NOT NULL,
	count       BIGINT           NOT NULL,
	started     BIGINT           NOT NULL,
	ended       BIGINT           NOT NULL,
	PRIMARY KEY (device, day, digest)
);
CREATE INDEX sphere_events_device ON sphere_events (device, ended);
CREATE INDEX sphere_events_tenant ON sphere_events (tenant, ended);

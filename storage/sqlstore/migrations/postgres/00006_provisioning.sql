-- +goose Up
-- CAs that enrollment groups refer to by name, hubs beside this installation's own, and what webhooks tell devices.
CREATE TABLE provisioning_cas (
	name         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	certificate  TEXT             NOT NULL, -- PEM
	verified     BOOLEAN          NOT NULL,
	code         TEXT             NOT NULL, -- that a verification certificate must name; '' for none
	code_expires BIGINT           NOT NULL,
	etag         TEXT             NOT NULL,
	created      BIGINT           NOT NULL,
	updated      BIGINT           NOT NULL
);

CREATE TABLE linked_hubs (
	folded            TEXT COLLATE "C" NOT NULL PRIMARY KEY, -- the host in lower case
	host              TEXT             NOT NULL,
	connection_string BYTEA,            -- sealed; NULL for this installation's own hub
	document          TEXT             NOT NULL, -- the remaining fields, JSON
	created           BIGINT           NOT NULL,
	updated           BIGINT           NOT NULL
);

ALTER TABLE registrations ADD COLUMN payload TEXT; -- JSON text exactly as a webhook gave it

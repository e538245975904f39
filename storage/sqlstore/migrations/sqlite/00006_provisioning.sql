-- +goose Up
-- CAs that enrollment groups refer to by name, hubs beside this installation's own, and what webhooks tell devices.
CREATE TABLE provisioning_cas (
	name         TEXT    NOT NULL PRIMARY KEY,
	certificate  TEXT    NOT NULL, -- PEM
	verified     INTEGER NOT NULL,
	code         TEXT    NOT NULL, -- that a verification certificate must name; '' for none
	code_expires INTEGER NOT NULL,
	etag         TEXT    NOT NULL,
	created      INTEGER NOT NULL,
	updated      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE linked_hubs (
	folded            TEXT    NOT NULL PRIMARY KEY, -- the host in lower case
	host              TEXT    NOT NULL,
	connection_string BLOB,             -- sealed; NULL for this installation's own hub
	document          TEXT    NOT NULL, -- the remaining fields, JSON
	created           INTEGER NOT NULL,
	updated           INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

ALTER TABLE registrations ADD COLUMN payload TEXT; -- JSON text exactly as a webhook gave it

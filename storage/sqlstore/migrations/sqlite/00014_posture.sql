-- +goose Up
-- Recommendations. They outlive their device until they are forgotten.
CREATE TABLE recommendations (
	sequence        INTEGER NOT NULL UNIQUE, -- of the last change
	id              TEXT    NOT NULL UNIQUE,
	type            TEXT    NOT NULL,
	family          TEXT    NOT NULL, -- the type's, or the type itself
	device          TEXT    NOT NULL, -- '' for the hub
	module          TEXT    NOT NULL,
	severity        TEXT    NOT NULL,
	weight          INTEGER NOT NULL, -- of the severity
	state           TEXT    NOT NULL,
	discovered      INTEGER NOT NULL,
	first_evaluated INTEGER NOT NULL,
	status_changed  INTEGER NOT NULL,
	resolved        INTEGER NOT NULL,
	message         INTEGER NOT NULL,
	data            TEXT    NOT NULL, -- JSON
	PRIMARY KEY (device, type, module)
) STRICT, WITHOUT ROWID;
CREATE INDEX recommendations_active ON recommendations (device, family, weight) WHERE state = 'Active';
CREATE INDEX recommendations_family ON recommendations (family, sequence);
CREATE INDEX recommendations_resolved ON recommendations (resolved) WHERE state = 'Resolved';

-- The last sequence of a recommendation: one row.
CREATE TABLE recommendation_sequence (
	last INTEGER NOT NULL
) STRICT;
INSERT INTO recommendation_sequence (last) VALUES (0);

-- How devices and modules connected last.
CREATE TABLE device_links (
	device       TEXT    NOT NULL,
	module       TEXT    NOT NULL,
	remote       TEXT    NOT NULL,
	tls_version  INTEGER NOT NULL,
	cipher_suite INTEGER NOT NULL,
	not_before   INTEGER NOT NULL, -- of the certificate that proved it; 0: something else did
	not_after    INTEGER NOT NULL,
	seen         INTEGER NOT NULL,
	PRIMARY KEY (device, module)
) STRICT, WITHOUT ROWID;

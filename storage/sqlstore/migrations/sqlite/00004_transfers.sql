-- +goose Up
-- Import and export jobs over identities.
CREATE TABLE transfers (
	sequence INTEGER PRIMARY KEY AUTOINCREMENT,
	id       TEXT    NOT NULL UNIQUE,
	request  BLOB    NOT NULL, -- sealed: the URIs of containers hold tokens
	status   TEXT    NOT NULL,
	progress INTEGER NOT NULL, -- percent
	failure  TEXT    NOT NULL,
	created  INTEGER NOT NULL,
	began    INTEGER NOT NULL,
	ended    INTEGER NOT NULL
) STRICT;
CREATE INDEX transfers_unfinished ON transfers (sequence) WHERE status IN ('enqueued', 'running');

-- +goose Up
-- Security events that came many at a time, packed.
CREATE TABLE security_blocks (
	first         INTEGER NOT NULL, -- place of the first event
	first_ordinal INTEGER NOT NULL,
	last          INTEGER NOT NULL, -- place of the last event
	last_ordinal  INTEGER NOT NULL,
	oldest        INTEGER NOT NULL, -- of when they were enqueued
	newest        INTEGER NOT NULL,
	events        INTEGER NOT NULL,
	size          INTEGER NOT NULL, -- bytes of details
	invalid       INTEGER NOT NULL, -- events that could not be read
	names         TEXT    NOT NULL, -- JSON, of the events
	devices       BLOB    NOT NULL, -- hashes in order, 8 bytes each
	data          BLOB    NOT NULL,
	PRIMARY KEY (first, first_ordinal)
) STRICT;
CREATE INDEX security_blocks_last ON security_blocks (last, last_ordinal);

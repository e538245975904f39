-- +goose Up
-- Security events that came many at a time, packed.
CREATE TABLE security_blocks (
	first         BIGINT NOT NULL, -- place of the first event
	first_ordinal BIGINT NOT NULL,
	last          BIGINT NOT NULL, -- place of the last event
	last_ordinal  BIGINT NOT NULL,
	oldest        BIGINT NOT NULL, -- of when they were enqueued
	newest        BIGINT NOT NULL,
	events        BIGINT NOT NULL,
	size          BIGINT NOT NULL, -- bytes of details
	invalid       BIGINT NOT NULL, -- events that could not be read
	names         TEXT COLLATE "C" NOT NULL, -- JSON, of the events
	devices       BYTEA NOT NULL, -- hashes in order, 8 bytes each
	data          BYTEA NOT NULL,
	PRIMARY KEY (first, first_ordinal)
);
CREATE INDEX security_blocks_last ON security_blocks (last, last_ordinal);

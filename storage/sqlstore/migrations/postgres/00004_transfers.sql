-- +goose Up
-- Import and export jobs over identities.
CREATE TABLE transfers (
	sequence BIGINT           GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	id       TEXT COLLATE "C" NOT NULL UNIQUE,
	request  BYTEA            NOT NULL, -- sealed: the URIs of containers hold tokens
	status   TEXT             NOT NULL,
	progress BIGINT           NOT NULL, -- percent
	failure  TEXT             NOT NULL,
	created  BIGINT           NOT NULL,
	began    BIGINT           NOT NULL,
	ended    BIGINT           NOT NULL
);
CREATE INDEX transfers_unfinished ON transfers (sequence) WHERE status IN ('enqueued', 'running');

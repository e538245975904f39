-- +goose Up
-- What devices proved of themselves last, and the counters that must not go back.
CREATE TABLE attestations (
	device       TEXT COLLATE "C" NOT NULL PRIMARY KEY, -- 128 hex digits
	boot_counter BIGINT           NOT NULL,
	boot_id      TEXT             NOT NULL,
	sequence     BIGINT           NOT NULL,
	nonce_issued BIGINT           NOT NULL, -- of the last nonce that was spent
	attested     BIGINT           NOT NULL,
	outcome      TEXT             NOT NULL,
	suspicions   BIGINT           NOT NULL,
	suspected    BIGINT           NOT NULL, -- the last time; 0: never
	document     TEXT             NOT NULL  -- the remaining fields, JSON
);

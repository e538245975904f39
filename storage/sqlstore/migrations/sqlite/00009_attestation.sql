-- +goose Up
-- What devices proved of themselves last, and the counters that must not go back.
CREATE TABLE attestations (
	device       TEXT    NOT NULL PRIMARY KEY, -- 128 hex digits
	boot_counter INTEGER NOT NULL,
	boot_id      TEXT    NOT NULL,
	sequence     INTEGER NOT NULL,
	nonce_issued INTEGER NOT NULL, -- of the last nonce that was spent
	attested     INTEGER NOT NULL,
	outcome      TEXT    NOT NULL,
	suspicions   INTEGER NOT NULL,
	suspected    INTEGER NOT NULL, -- the last time; 0: never
	document     TEXT    NOT NULL  -- the remaining fields, JSON
) STRICT, WITHOUT ROWID;

-- +goose Up
-- Changes of alerts are numbered in the order in which they are committed, so that exports can continue behind the last one they told.
ALTER TABLE alerts ADD COLUMN born    INTEGER NOT NULL DEFAULT 0; -- number of the change that made it
ALTER TABLE alerts ADD COLUMN change  INTEGER NOT NULL DEFAULT 0; -- of the last one
ALTER TABLE alerts ADD COLUMN changed INTEGER NOT NULL DEFAULT 0; -- when that was
UPDATE alerts SET changed = MAX(status_time, last_seen);
CREATE INDEX alerts_change ON alerts (change, sequence);

-- One row: the number of the last change.
CREATE TABLE alert_clock (
	change INTEGER NOT NULL
) STRICT;
INSERT INTO alert_clock (change) VALUES (0);

-- Where security data is sent, and how far that is.
CREATE TABLE exports (
	name       TEXT    NOT NULL PRIMARY KEY,
	config     BLOB    NOT NULL, -- JSON, sealed: it holds keys
	generation INTEGER NOT NULL, -- of config
	state      TEXT    NOT NULL  -- JSON
) STRICT, WITHOUT ROWID;

-- One row. Generations of one name never repeat, not even when the export was deleted meanwhile.
CREATE TABLE export_generation (
	generation INTEGER NOT NULL
) STRICT;
INSERT INTO export_generation (generation) VALUES (0);

-- +goose Up
-- Changes of alerts are numbered in the order in which they are committed, so that exports can continue behind the last one they told.
ALTER TABLE alerts
	ADD COLUMN born    BIGINT NOT NULL DEFAULT 0, -- number of the change that made it
	ADD COLUMN change  BIGINT NOT NULL DEFAULT 0, -- of the last one
	ADD COLUMN changed BIGINT NOT NULL DEFAULT 0; -- when that was
UPDATE alerts SET changed = CASE WHEN status_time > last_seen THEN status_time ELSE last_seen END;
CREATE INDEX alerts_change ON alerts (change, sequence);

-- One row: the number of the last change.
CREATE TABLE alert_clock (
	change BIGINT NOT NULL
);
INSERT INTO alert_clock (change) VALUES (0);

-- Where security data is sent, and how far that is.
CREATE TABLE exports (
	name       TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	config     BYTEA            NOT NULL, -- JSON, sealed: it holds keys
	generation BIGINT           NOT NULL, -- of config
	state      TEXT             NOT NULL  -- JSON
);

-- One row. Generations of one name never repeat, not even when the export was deleted meanwhile.
CREATE TABLE export_generation (
	generation BIGINT NOT NULL
);
INSERT INTO export_generation (generation) VALUES (0);

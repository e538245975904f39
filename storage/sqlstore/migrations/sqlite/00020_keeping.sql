-- +goose Up
-- A device that is held back stays so when it is deleted and comes again: the id is held back, not the identity.
CREATE TABLE containments_by_id (
	device  TEXT    NOT NULL PRIMARY KEY,
	level   INTEGER NOT NULL,
	reason  TEXT    NOT NULL,
	by_whom TEXT    NOT NULL,
	since   INTEGER NOT NULL,
	before  TEXT    NOT NULL -- JSON of what one undo returns to; '' for nothing
) STRICT, WITHOUT ROWID;
INSERT INTO containments_by_id SELECT device, level, reason, by_whom, since, before FROM containments;
DROP TABLE containments;
ALTER TABLE containments_by_id RENAME TO containments;

-- Closed alerts are forgotten by age; open ones are not looked at for it.
CREATE INDEX alerts_closed ON alerts (changed, sequence) WHERE status IN ('dismissed', 'resolved');

-- +goose Up
-- Devices that are held back. A row stays when the level returns to 0, so that this can be undone.
CREATE TABLE containments (
	device  TEXT    NOT NULL PRIMARY KEY,
	module  TEXT    NOT NULL DEFAULT '', -- always ''
	level   INTEGER NOT NULL,
	reason  TEXT    NOT NULL,
	by_whom TEXT    NOT NULL,
	since   INTEGER NOT NULL,
	before  TEXT    NOT NULL, -- JSON of what one undo returns to; '' for nothing
	FOREIGN KEY (device, module) REFERENCES identities (device, module) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

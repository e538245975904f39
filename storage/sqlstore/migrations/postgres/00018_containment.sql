-- +goose Up
-- Devices that are held back. A row stays when the level returns to 0, so that this can be undone.
CREATE TABLE containments (
	device  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	module  TEXT COLLATE "C" NOT NULL DEFAULT '', -- always ''
	level   SMALLINT         NOT NULL,
	reason  TEXT             NOT NULL,
	by_whom TEXT             NOT NULL,
	since   BIGINT           NOT NULL,
	before  TEXT             NOT NULL, -- JSON of what one undo returns to; '' for nothing
	FOREIGN KEY (device, module) REFERENCES identities (device, module) ON DELETE CASCADE
);

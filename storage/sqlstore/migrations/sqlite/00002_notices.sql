-- +goose Up
-- What services read: feedback about mail, and notices of uploaded files.

CREATE TABLE notices (
	sequence       INTEGER PRIMARY KEY AUTOINCREMENT,
	queue          TEXT    NOT NULL,
	device         TEXT, -- with module the identity it goes away with; NULL when it outlives it
	module         TEXT,
	document       TEXT    NOT NULL, -- JSON as it goes over the wire
	enqueued       INTEGER NOT NULL,
	expires        INTEGER NOT NULL,
	lock_token     TEXT    NOT NULL, -- shared by the notices that were taken together; '' when there is none
	locked_until   INTEGER NOT NULL, -- hidden while this is in the future
	delivery_count INTEGER NOT NULL,
	FOREIGN KEY (device, module) REFERENCES identities (device, module) ON DELETE CASCADE
) STRICT;
CREATE INDEX notices_queue ON notices (queue, sequence);
CREATE INDEX notices_expires ON notices (expires);
CREATE INDEX notices_owner ON notices (device, module) WHERE device IS NOT NULL;
CREATE INDEX notices_lock ON notices (lock_token) WHERE lock_token <> '';

-- Uploads of files under way.
CREATE TABLE uploads (
	correlation_id TEXT    NOT NULL PRIMARY KEY,
	device         TEXT    NOT NULL,
	module         TEXT    NOT NULL,
	blob           TEXT    NOT NULL,
	started        INTEGER NOT NULL,
	expires        INTEGER NOT NULL,
	FOREIGN KEY (device, module) REFERENCES identities (device, module) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX uploads_device ON uploads (device, module);
CREATE INDEX uploads_expires ON uploads (expires);

CREATE INDEX mail_lock ON mail (device, module, lock_token) WHERE lock_token <> '';

-- +goose Up
-- What services read: feedback about mail, and notices of uploaded files.

CREATE TABLE notices (
	sequence       BIGINT           GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	queue          TEXT COLLATE "C" NOT NULL,
	device         TEXT COLLATE "C", -- with module the identity it goes away with; NULL when it outlives it
	module         TEXT COLLATE "C",
	document       TEXT             NOT NULL, -- JSON as it goes over the wire
	enqueued       BIGINT           NOT NULL,
	expires        BIGINT           NOT NULL,
	lock_token     TEXT             NOT NULL, -- shared by the notices that were taken together; '' when there is none
	locked_until   BIGINT           NOT NULL, -- hidden while this is in the future
	delivery_count BIGINT           NOT NULL,
	FOREIGN KEY (device, module) REFERENCES identities (device, module) ON DELETE CASCADE
);
CREATE INDEX notices_queue ON notices (queue, sequence);
CREATE INDEX notices_expires ON notices (expires);
CREATE INDEX notices_owner ON notices (device, module) WHERE device IS NOT NULL;
CREATE INDEX notices_lock ON notices (lock_token) WHERE lock_token <> '';

-- Uploads of files under way.
CREATE TABLE uploads (
	correlation_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	device         TEXT COLLATE "C" NOT NULL,
	module         TEXT COLLATE "C" NOT NULL,
	blob           TEXT             NOT NULL,
	started        BIGINT           NOT NULL,
	expires        BIGINT           NOT NULL,
	FOREIGN KEY (device, module) REFERENCES identities (device, module) ON DELETE CASCADE
);
CREATE INDEX uploads_device ON uploads (device, module);
CREATE INDEX uploads_expires ON uploads (expires);

CREATE INDEX mail_lock ON mail (device, module, lock_token) WHERE lock_token <> '';

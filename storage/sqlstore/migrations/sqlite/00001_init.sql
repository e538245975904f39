-- +goose Up
-- Text compares by bytes (SQLite's default). Times are microseconds since 1970, UTC; 0 is the zero time.

CREATE TABLE identities (
	device               TEXT    NOT NULL,
	module               TEXT    NOT NULL, -- '' for the device itself
	generation           TEXT    NOT NULL,
	etag                 TEXT    NOT NULL,
	status               TEXT    NOT NULL,
	status_reason        TEXT    NOT NULL,
	status_time          INTEGER NOT NULL,
	auth_type            TEXT    NOT NULL,
	auth_keys            BLOB,             -- both keys, sealed; NULL when there are none
	primary_thumbprint   TEXT    NOT NULL,
	secondary_thumbprint TEXT    NOT NULL,
	edge                 INTEGER NOT NULL,
	scope                TEXT    NOT NULL,
	parent_scopes        TEXT    NOT NULL, -- JSON array
	managed_by           TEXT    NOT NULL, -- of a module; '' when nobody says
	connected            INTEGER NOT NULL,
	node                 TEXT    NOT NULL, -- of the session, or of the last one
	connection_time      INTEGER NOT NULL,
	last_activity        INTEGER NOT NULL,
	PRIMARY KEY (device, module)
) STRICT, WITHOUT ROWID;

CREATE INDEX identities_connected ON identities (node) WHERE connected;

-- Servers that share this database.
CREATE TABLE nodes (
	name TEXT    NOT NULL PRIMARY KEY,
	seen INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The trees are JSON text exactly as given.
CREATE TABLE twins (
	device            TEXT    NOT NULL,
	module            TEXT    NOT NULL,
	model_id          TEXT    NOT NULL,
	version           INTEGER NOT NULL,
	tags              TEXT    NOT NULL,
	desired           TEXT    NOT NULL,
	desired_metadata  TEXT    NOT NULL,
	desired_version   INTEGER NOT NULL,
	reported          TEXT    NOT NULL,
	reported_metadata TEXT    NOT NULL,
	reported_version  INTEGER NOT NULL,
	configurations    TEXT    NOT NULL, -- those that select it, as programs read them; '' for none, as configured
	configured        TEXT    NOT NULL, -- what those that apply configurations remember
	PRIMARY KEY (device, module),
	FOREIGN KEY (device, module) REFERENCES identities (device, module) ON DELETE CASCADE
) STRICT;

-- Every scalar tag, so that queries find devices by tag. The value is JSON text, cut to 200 bytes.
CREATE TABLE tag_values (
	path   TEXT NOT NULL, -- names joined by dots
	value  TEXT NOT NULL,
	device TEXT NOT NULL,
	module TEXT NOT NULL,
	PRIMARY KEY (path, value, device, module),
	FOREIGN KEY (device, module) REFERENCES identities (device, module) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX tag_values_device ON tag_values (device, module);

CREATE TABLE mail (
	sequence       INTEGER PRIMARY KEY AUTOINCREMENT,
	device         TEXT    NOT NULL,
	module         TEXT    NOT NULL,
	lock_token     TEXT    NOT NULL, -- '' until it is locked for the first time
	locked_until   INTEGER NOT NULL, -- hidden while this is in the future
	message_id     TEXT    NOT NULL,
	enqueued       INTEGER NOT NULL,
	expires        INTEGER NOT NULL, -- 0: never
	delivery_count INTEGER NOT NULL,
	ack            TEXT    NOT NULL,
	system         TEXT    NOT NULL, -- JSON array of [name, value], or [name] for null
	properties     TEXT    NOT NULL,
	body           BLOB    NOT NULL,
	FOREIGN KEY (device, module) REFERENCES identities (device, module) ON DELETE CASCADE
) STRICT;
CREATE INDEX mail_queue ON mail (device, module, sequence);
CREATE INDEX mail_expires ON mail (expires) WHERE expires <> 0;

CREATE TABLE sessions (
	device        TEXT NOT NULL,
	module        TEXT NOT NULL,
	subscriptions TEXT NOT NULL, -- JSON array
	PRIMARY KEY (device, module),
	FOREIGN KEY (device, module) REFERENCES identities (device, module) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE enrollments (
	grp              INTEGER NOT NULL, -- 1: an enrollment group
	folded           TEXT    NOT NULL, -- the name in lower case
	name             TEXT    NOT NULL,
	etag             TEXT    NOT NULL,
	enabled          INTEGER NOT NULL,
	attestation_type TEXT    NOT NULL,
	auth_keys        BLOB,             -- both keys, sealed; NULL when there are none
	tags             TEXT,             -- JSON text exactly as given, as desired and info
	desired          TEXT,
	info             TEXT,
	document         TEXT    NOT NULL, -- the remaining fields, JSON
	created          INTEGER NOT NULL,
	updated          INTEGER NOT NULL,
	PRIMARY KEY (grp, folded)
) STRICT;

CREATE TABLE registrations (
	folded       TEXT    NOT NULL PRIMARY KEY,
	id           TEXT    NOT NULL,
	grp          TEXT    NOT NULL, -- enrollment group as spelled, '' for an individual
	folded_group TEXT    NOT NULL,
	device_id    TEXT    NOT NULL,
	hub          TEXT    NOT NULL,
	status       TEXT    NOT NULL,
	substatus    TEXT    NOT NULL,
	error_code   INTEGER NOT NULL,
	error        TEXT    NOT NULL,
	etag         TEXT    NOT NULL,
	created      INTEGER NOT NULL,
	updated      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX registrations_group ON registrations (folded_group, folded);

CREATE TABLE alerts (
	sequence     INTEGER PRIMARY KEY AUTOINCREMENT,
	id           TEXT    NOT NULL UNIQUE,
	type         TEXT    NOT NULL,
	severity     TEXT    NOT NULL,
	title        TEXT    NOT NULL,
	description  TEXT    NOT NULL,
	device       TEXT    NOT NULL, -- not a foreign key: alerts outlive their device
	module       TEXT    NOT NULL,
	indicator    TEXT    NOT NULL,
	source       TEXT    NOT NULL,
	day          TEXT    NOT NULL,
	remote       TEXT    NOT NULL,
	local        TEXT    NOT NULL,
	protocol     TEXT    NOT NULL,
	direction    TEXT    NOT NULL,
	count        INTEGER NOT NULL,
	first_seen   INTEGER NOT NULL,
	last_seen    INTEGER NOT NULL,
	last_message INTEGER NOT NULL,
	UNIQUE (device, module, indicator, day)
) STRICT;
CREATE INDEX alerts_device ON alerts (device, sequence);

CREATE TABLE settings (
	name  TEXT NOT NULL PRIMARY KEY,
	value BLOB NOT NULL -- sealed
) STRICT, WITHOUT ROWID;

-- Jobs over many devices, and what they do to each.
CREATE TABLE jobs (
	sequence  INTEGER PRIMARY KEY AUTOINCREMENT,
	id        TEXT    NOT NULL UNIQUE,
	type      TEXT    NOT NULL,
	status    TEXT    NOT NULL,
	condition TEXT    NOT NULL,
	method    TEXT    NOT NULL, -- JSON text exactly as given, '' for none, as patch
	patch     TEXT    NOT NULL,
	failure   TEXT    NOT NULL,
	created   INTEGER NOT NULL,
	start     INTEGER NOT NULL, -- not before this
	began     INTEGER NOT NULL,
	ended     INTEGER NOT NULL,
	max_time  INTEGER NOT NULL, -- nanoseconds
	listed    INTEGER NOT NULL
) STRICT;
CREATE INDEX jobs_unfinished ON jobs (start) WHERE status IN ('scheduled', 'queued', 'running');

CREATE TABLE job_rows (
	job     TEXT    NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
	device  TEXT    NOT NULL, -- not a foreign key: outcomes outlive their device
	module  TEXT    NOT NULL,
	type    TEXT    NOT NULL,
	status  TEXT    NOT NULL,
	created INTEGER NOT NULL,
	start   INTEGER NOT NULL,
	ended   INTEGER NOT NULL,
	updated INTEGER NOT NULL,
	result  TEXT    NOT NULL, -- JSON text, '' for none
	code    TEXT    NOT NULL,
	reason  TEXT    NOT NULL,
	PRIMARY KEY (job, device, module)
) STRICT, WITHOUT ROWID;
CREATE INDEX job_rows_pending ON job_rows (job, device, module) WHERE status = 'pending';
CREATE INDEX job_rows_running ON job_rows (job) WHERE status = 'running';
CREATE INDEX job_rows_device ON job_rows (device);

-- Automatic configurations and deployments.
CREATE TABLE configurations (
	id       TEXT    NOT NULL PRIMARY KEY,
	document TEXT    NOT NULL, -- JSON
	results  TEXT    NOT NULL -- JSON, counts of the last evaluation
) STRICT, WITHOUT ROWID;

-- +goose Up
-- The same tables as SQLite's. Text that is ordered or looked up compares by bytes (COLLATE "C"). JSON is
-- kept as text, not jsonb, because number text must survive. Times are microseconds since 1970, UTC; 0 is the zero time.

CREATE TABLE identities (
	device               TEXT COLLATE "C" NOT NULL,
	module               TEXT COLLATE "C" NOT NULL, -- '' for the device itself
	generation           TEXT             NOT NULL,
	etag                 TEXT             NOT NULL,
	status               TEXT             NOT NULL,
	status_reason        TEXT             NOT NULL,
	status_time          BIGINT           NOT NULL,
	auth_type            TEXT             NOT NULL,
	auth_keys            BYTEA, -- both keys, sealed; NULL when there are none
	primary_thumbprint   TEXT             NOT NULL,
	secondary_thumbprint TEXT             NOT NULL,
	edge                 BOOLEAN          NOT NULL,
	scope                TEXT             NOT NULL,
	parent_scopes        TEXT             NOT NULL, -- JSON array
	managed_by           TEXT             NOT NULL, -- of a module; '' when nobody says
	connected            BOOLEAN          NOT NULL,
	node                 TEXT COLLATE "C" NOT NULL, -- of the session, or of the last one
	connection_time      BIGINT           NOT NULL,
	last_activity        BIGINT           NOT NULL,
	PRIMARY KEY (device, module)
);

CREATE INDEX identities_connected ON identities (node) WHERE connected;

-- Servers that share this database.
CREATE TABLE nodes (
	name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	seen BIGINT           NOT NULL
);

-- The trees are JSON text exactly as given.
CREATE TABLE twins (
	device            TEXT COLLATE "C" NOT NULL,
	module            TEXT COLLATE "C" NOT NULL,
	model_id          TEXT             NOT NULL,
	version           BIGINT           NOT NULL,
	tags              TEXT             NOT NULL,
	desired           TEXT             NOT NULL,
	desired_metadata  TEXT             NOT NULL,
	desired_version   BIGINT           NOT NULL,
	reported          TEXT             NOT NULL,
	reported_metadata TEXT             NOT NULL,
	reported_version  BIGINT           NOT NULL,
	configurations    TEXT             NOT NULL,
	configured        TEXT             NOT NULL,
	PRIMARY KEY (device, module),
	FOREIGN KEY (device, module) REFERENCES identities (device, module) ON DELETE CASCADE
);

-- Every scalar tag, so that queries find devices by tag. The value is JSON text, cut to 200 bytes.
CREATE TABLE tag_values (
	path   TEXT COLLATE "C" NOT NULL, -- names joined by dots
	value  TEXT COLLATE "C" NOT NULL,
	device TEXT COLLATE "C" NOT NULL,
	module TEXT COLLATE "C" NOT NULL,
	PRIMARY KEY (path, value, device, module),
	FOREIGN KEY (device, module) REFERENCES identities (device, module) ON DELETE CASCADE
);
CREATE INDEX tag_values_device ON tag_values (device, module);

CREATE TABLE mail (
	sequence       BIGINT           GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	device         TEXT COLLATE "C" NOT NULL,
	module         TEXT COLLATE "C" NOT NULL,
	lock_token     TEXT             NOT NULL, -- '' until it is locked for the first time
	locked_until   BIGINT           NOT NULL, -- hidden while this is in the future
	message_id     TEXT             NOT NULL,
	enqueued       BIGINT           NOT NULL,
	expires        BIGINT           NOT NULL, -- 0: never
	delivery_count BIGINT           NOT NULL,
	ack            TEXT             NOT NULL,
	system         TEXT             NOT NULL, -- JSON array of [name, value], or [name] for null
	properties     TEXT             NOT NULL,
	body           BYTEA            NOT NULL,
	FOREIGN KEY (device, module) REFERENCES identities (device, module) ON DELETE CASCADE
);
CREATE INDEX mail_queue ON mail (device, module, sequence);
CREATE INDEX mail_expires ON mail (expires) WHERE expires <> 0;

CREATE TABLE sessions (
	device        TEXT COLLATE "C" NOT NULL,
	module        TEXT COLLATE "C" NOT NULL,
	subscriptions TEXT             NOT NULL, -- JSON array
	PRIMARY KEY (device, module),
	FOREIGN KEY (device, module) REFERENCES identities (device, module) ON DELETE CASCADE
);

CREATE TABLE enrollments (
	grp              BOOLEAN          NOT NULL, -- TRUE: an enrollment group
	folded           TEXT COLLATE "C" NOT NULL, -- the name in lower case
	name             TEXT COLLATE "C" NOT NULL,
	etag             TEXT             NOT NULL,
	enabled          BOOLEAN          NOT NULL,
	attestation_type TEXT             NOT NULL,
	auth_keys        BYTEA, -- both keys, sealed; NULL when there are none
	tags             TEXT, -- JSON text exactly as given, as desired and info
	desired          TEXT,
	info             TEXT,
	document         TEXT             NOT NULL, -- the remaining fields, JSON
	created          BIGINT           NOT NULL,
	updated          BIGINT           NOT NULL,
	PRIMARY KEY (grp, folded)
);

CREATE TABLE registrations (
	folded       TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	id           TEXT COLLATE "C" NOT NULL,
	grp          TEXT             NOT NULL, -- enrollment group as spelled, '' for an individual
	folded_group TEXT COLLATE "C" NOT NULL,
	device_id    TEXT             NOT NULL,
	hub          TEXT             NOT NULL,
	status       TEXT             NOT NULL,
	substatus    TEXT             NOT NULL,
	error_code   BIGINT           NOT NULL,
	error        TEXT             NOT NULL,
	etag         TEXT             NOT NULL,
	created      BIGINT           NOT NULL,
	updated      BIGINT           NOT NULL
);
CREATE INDEX registrations_group ON registrations (folded_group, folded);

CREATE TABLE alerts (
	sequence     BIGINT           GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	id           TEXT COLLATE "C" NOT NULL UNIQUE,
	type         TEXT             NOT NULL,
	severity     TEXT             NOT NULL,
	title        TEXT             NOT NULL,
	description  TEXT             NOT NULL,
	device       TEXT COLLATE "C" NOT NULL, -- not a foreign key: alerts outlive their device
	module       TEXT COLLATE "C" NOT NULL,
	indicator    TEXT COLLATE "C" NOT NULL,
	source       TEXT             NOT NULL,
	day          TEXT COLLATE "C" NOT NULL,
	remote       TEXT             NOT NULL,
	local        TEXT             NOT NULL,
	protocol     TEXT             NOT NULL,
	direction    TEXT             NOT NULL,
	count        BIGINT           NOT NULL,
	first_seen   BIGINT           NOT NULL,
	last_seen    BIGINT           NOT NULL,
	last_message BIGINT           NOT NULL,
	UNIQUE (device, module, indicator, day)
);
CREATE INDEX alerts_device ON alerts (device, sequence);

CREATE TABLE settings (
	name  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	value BYTEA            NOT NULL -- sealed
);

-- Jobs over many devices, and what they do to each.
CREATE TABLE jobs (
	sequence  BIGINT           GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	id        TEXT COLLATE "C" NOT NULL UNIQUE,
	type      TEXT             NOT NULL,
	status    TEXT             NOT NULL,
	condition TEXT             NOT NULL,
	method    TEXT             NOT NULL, -- JSON text exactly as given, '' for none, as patch
	patch     TEXT             NOT NULL,
	failure   TEXT             NOT NULL,
	created   BIGINT           NOT NULL,
	start     BIGINT           NOT NULL, -- not before this
	began     BIGINT           NOT NULL,
	ended     BIGINT           NOT NULL,
	max_time  BIGINT           NOT NULL, -- nanoseconds
	listed    BOOLEAN          NOT NULL
);
CREATE INDEX jobs_unfinished ON jobs (start) WHERE status IN ('scheduled', 'queued', 'running');

CREATE TABLE job_rows (
	job     TEXT COLLATE "C" NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
	device  TEXT COLLATE "C" NOT NULL, -- not a foreign key: outcomes outlive their device
	module  TEXT COLLATE "C" NOT NULL,
	type    TEXT             NOT NULL,
	status  TEXT             NOT NULL,
	created BIGINT           NOT NULL,
	start   BIGINT           NOT NULL,
	ended   BIGINT           NOT NULL,
	updated BIGINT           NOT NULL,
	result  TEXT             NOT NULL, -- JSON text, '' for none
	code    TEXT             NOT NULL,
	reason  TEXT             NOT NULL,
	PRIMARY KEY (job, device, module)
);
CREATE INDEX job_rows_pending ON job_rows (job, device, module) WHERE status = 'pending';
CREATE INDEX job_rows_running ON job_rows (job) WHERE status = 'running';
CREATE INDEX job_rows_device ON job_rows (device);

-- Automatic configurations and deployments.
CREATE TABLE configurations (
	id       TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	document TEXT             NOT NULL, -- JSON
	results  TEXT             NOT NULL -- JSON, counts of the last evaluation
);

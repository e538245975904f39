-- +goose Up
-- The type tells alerts apart, too, and an alert has a life. SQLite changes constraints by a new table only.
CREATE TABLE alerts_new (
	sequence     INTEGER PRIMARY KEY AUTOINCREMENT,
	id           TEXT    NOT NULL UNIQUE,
	type         TEXT    NOT NULL,
	severity     TEXT    NOT NULL,
	title        TEXT    NOT NULL,
	description  TEXT    NOT NULL,
	device       TEXT    NOT NULL, -- not a foreign key: alerts outlive their device; '' is the hub
	module       TEXT    NOT NULL,
	grp          TEXT    NOT NULL,
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
	status       TEXT    NOT NULL,
	status_time  INTEGER NOT NULL,
	status_by    TEXT    NOT NULL,
	comment      TEXT    NOT NULL,
	suppression  TEXT    NOT NULL, -- id of the one that holds it back
	until        INTEGER NOT NULL, -- when that ends
	evidence     TEXT    NOT NULL, -- JSON
	UNIQUE (device, module, type, indicator, day)
) STRICT;
INSERT INTO alerts_new SELECT sequence, id, type, severity, title, description, device, module, '', indicator, source, day, remote, local, protocol, direction,
	count, first_seen, last_seen, last_message, 'open', 0, '', '', '', 0, '[]' FROM alerts;
DROP TABLE alerts;
ALTER TABLE alerts_new RENAME TO alerts;
CREATE INDEX alerts_device ON alerts (device, sequence);
CREATE INDEX alerts_status ON alerts (status, sequence);
CREATE INDEX alerts_suppression ON alerts (suppression) WHERE suppression <> '';

CREATE TABLE alert_suppressions (
	id        TEXT    NOT NULL PRIMARY KEY,
	type      TEXT    NOT NULL, -- '' fits all, as device and indicator
	device    TEXT    NOT NULL,
	indicator TEXT    NOT NULL,
	reason    TEXT    NOT NULL,
	author    TEXT    NOT NULL,
	created   INTEGER NOT NULL,
	expires   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What devices' security agents said, one row an event.
CREATE TABLE security_events (
	message       INTEGER NOT NULL, -- its place in the log
	ordinal       INTEGER NOT NULL, -- of the event in its message
	device        TEXT    NOT NULL,
	module        TEXT    NOT NULL,
	enqueued      INTEGER NOT NULL,
	time          INTEGER NOT NULL, -- by the device's clock
	event         TEXT    NOT NULL, -- the agent's id of it
	name          TEXT    NOT NULL,
	kind          TEXT    NOT NULL,
	category      TEXT    NOT NULL,
	agent         TEXT    NOT NULL,
	agent_version TEXT    NOT NULL,
	form          TEXT    NOT NULL,
	empty         INTEGER NOT NULL,
	problem       TEXT    NOT NULL,
	verdict       INTEGER NOT NULL, -- of the strict schema
	left_out      INTEGER NOT NULL,
	notes         TEXT    NOT NULL, -- JSON
	size          INTEGER NOT NULL, -- bytes of details
	details       TEXT    NOT NULL, -- JSON, an array of the payload items
	PRIMARY KEY (message, ordinal)
) STRICT, WITHOUT ROWID;
CREATE INDEX security_events_device ON security_events (device, message, ordinal, size); -- with size, so that sums read no row
CREATE INDEX security_events_problem ON security_events (message, ordinal) WHERE problem <> '';

-- How often something was done by or with a device in a minute, for rules over time.
CREATE TABLE security_activity (
	kind   TEXT    NOT NULL,
	minute INTEGER NOT NULL, -- since 1970
	device TEXT    NOT NULL,
	count  INTEGER NOT NULL,
	PRIMARY KEY (kind, minute, device)
) STRICT, WITHOUT ROWID;
CREATE INDEX security_activity_minute ON security_activity (minute);

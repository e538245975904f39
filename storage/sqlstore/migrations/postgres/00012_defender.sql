-- +goose Up
-- The type tells alerts apart, too, and an alert has a life.
ALTER TABLE alerts
	ADD COLUMN grp         TEXT   NOT NULL DEFAULT '',
	ADD COLUMN status      TEXT   NOT NULL DEFAULT 'open',
	ADD COLUMN status_time BIGINT NOT NULL DEFAULT 0,
	ADD COLUMN status_by   TEXT   NOT NULL DEFAULT '',
	ADD COLUMN comment     TEXT   NOT NULL DEFAULT '',
	ADD COLUMN suppression TEXT   NOT NULL DEFAULT '', -- id of the one that holds it back
	ADD COLUMN until       BIGINT NOT NULL DEFAULT 0,  -- when that ends
	ADD COLUMN evidence    TEXT   NOT NULL DEFAULT '[]', -- JSON
	DROP CONSTRAINT alerts_device_module_indicator_day_key,
	ADD UNIQUE (device, module, type, indicator, day);
CREATE INDEX alerts_status ON alerts (status, sequence);
CREATE INDEX alerts_suppression ON alerts (suppression) WHERE suppression <> '';

CREATE TABLE alert_suppressions (
	id            TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	type          TEXT COLLATE "C" NOT NULL, -- '' fits all, as device and indicator
	device        TEXT COLLATE "C" NOT NULL,
	indicator     TEXT COLLATE "C" NOT NULL,
	reason        TEXT             NOT NULL,
	author        TEXT             NOT NULL,
	created       BIGINT           NOT NULL,
	expires       BIGINT           NOT NULL
);

-- What devices' security agents said, one row an event.
CREATE TABLE security_events (
	message       BIGINT           NOT NULL, -- its place in the log
	ordinal       BIGINT           NOT NULL, -- of the event in its message
	device        TEXT COLLATE "C" NOT NULL,
	module        TEXT COLLATE "C" NOT NULL,
	enqueued      BIGINT           NOT NULL,
	time          BIGINT           NOT NULL, -- by the device's clock
	event         TEXT             NOT NULL, -- the agent's id of it
	name          TEXT COLLATE "C" NOT NULL,
	kind          TEXT COLLATE "C" NOT NULL,
	category      TEXT             NOT NULL,
	agent         TEXT             NOT NULL,
	agent_version TEXT             NOT NULL,
	form          TEXT             NOT NULL,
	empty         BIGINT           NOT NULL,
	problem       TEXT             NOT NULL,
	verdict       BIGINT           NOT NULL, -- of the strict schema
	left_out      BIGINT           NOT NULL,
	notes         TEXT             NOT NULL, -- JSON
	size          BIGINT           NOT NULL, -- bytes of details
	details       TEXT             NOT NULL, -- JSON, an array of the payload items
	PRIMARY KEY (message, ordinal)
);
CREATE INDEX security_events_device ON security_events (device, message, ordinal, size); -- with size, so that sums read no row
CREATE INDEX security_events_problem ON security_events (message, ordinal) WHERE problem <> '';

-- How often something was done by or with a device in a minute, for rules over time.
CREATE TABLE security_activity (
	kind          TEXT COLLATE "C" NOT NULL,
	minute        BIGINT           NOT NULL, -- since 1970
	device        TEXT COLLATE "C" NOT NULL,
	count         BIGINT           NOT NULL,
	PRIMARY KEY (kind, minute, device)
);
CREATE INDEX security_activity_minute ON security_activity (minute);

-- +goose Up
-- Events that are not on the log yet. Each was written in the transaction of the change it tells of.
CREATE TABLE facts (
	sequence INTEGER PRIMARY KEY AUTOINCREMENT,
	data     BLOB    NOT NULL -- a batch of one record (hub/telemetry)
) STRICT;

-- Messages that endpoints of routes did not take.
CREATE TABLE dead_letters (
	sequence INTEGER PRIMARY KEY AUTOINCREMENT,
	endpoint TEXT    NOT NULL,
	message  INTEGER NOT NULL, -- its place in the log
	device   TEXT    NOT NULL, -- not a foreign key: a message outlives its sender
	module   TEXT    NOT NULL,
	source   TEXT    NOT NULL,
	enqueued INTEGER NOT NULL,
	died     INTEGER NOT NULL,
	reason   TEXT    NOT NULL,
	attempts INTEGER NOT NULL, -- how often it came here
	replay   INTEGER NOT NULL, -- 1: to be delivered again
	size     INTEGER NOT NULL, -- of data
	data     BLOB    NOT NULL, -- a batch of one record (hub/telemetry), as it would have been delivered
	UNIQUE (endpoint, message)
) STRICT;
CREATE INDEX dead_letters_endpoint ON dead_letters (endpoint, sequence);
CREATE INDEX dead_letters_replay ON dead_letters (endpoint, sequence) WHERE replay = 1;

-- +goose Up
-- Events that are not on the log yet. Each was written in the transaction of the change it tells of.
CREATE TABLE facts (
	sequence BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	data     BYTEA  NOT NULL -- a batch of one record (hub/telemetry)
);

-- Messages that endpoints of routes did not take.
CREATE TABLE dead_letters (
	sequence BIGINT           GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	endpoint TEXT COLLATE "C" NOT NULL,
	message  BIGINT           NOT NULL, -- its place in the log
	device   TEXT COLLATE "C" NOT NULL, -- not a foreign key: a message outlives its sender
	module   TEXT COLLATE "C" NOT NULL,
	source   TEXT             NOT NULL,
	enqueued BIGINT           NOT NULL,
	died     BIGINT           NOT NULL,
	reason   TEXT             NOT NULL,
	attempts BIGINT           NOT NULL, -- how often it came here
	replay   BIGINT           NOT NULL, -- 1: to be delivered again
	size     BIGINT           NOT NULL, -- of data
	data     BYTEA            NOT NULL, -- a batch of one record (hub/telemetry), as it would have been delivered
	UNIQUE (endpoint, message)
);
CREATE INDEX dead_letters_endpoint ON dead_letters (endpoint, sequence);
CREATE INDEX dead_letters_replay ON dead_letters (endpoint, sequence) WHERE replay = 1;

-- +goose Up
-- Feeds of threat intelligence, what they gave, and what the operator exempts.
CREATE TABLE intel_feeds (
	name       TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	config     BYTEA            NOT NULL, -- JSON, sealed: it holds keys
	generation BIGINT           NOT NULL, -- of config
	state      TEXT             NOT NULL, -- JSON
	wanted     BIGINT           NOT NULL, -- when a refresh was asked for; 0: it was not
	accept     BOOLEAN          NOT NULL  -- and may shrink
);

-- Contents, compressed, in pieces of some 256 KiB.
CREATE TABLE intel_content (
	feed     TEXT COLLATE "C" NOT NULL REFERENCES intel_feeds (name) ON DELETE CASCADE,
	revision BIGINT           NOT NULL,
	piece    BIGINT           NOT NULL,
	data     BYTEA            NOT NULL,
	PRIMARY KEY (feed, revision, piece)
);

CREATE TABLE intel_exemptions (
	value TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	note  TEXT             NOT NULL,
	added BIGINT           NOT NULL
);

-- One row, which tells the other servers that there is something new.
CREATE TABLE intel_version (
	version BIGINT NOT NULL
);
INSERT INTO intel_version (version) VALUES (1);

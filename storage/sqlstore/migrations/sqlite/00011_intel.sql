-- +goose Up
-- Feeds of threat intelligence, what they gave, and what the operator exempts.
CREATE TABLE intel_feeds (
	name       TEXT    NOT NULL PRIMARY KEY,
	config     BLOB    NOT NULL, -- JSON, sealed: it holds keys
	generation INTEGER NOT NULL, -- of config
	state      TEXT    NOT NULL, -- JSON
	wanted     INTEGER NOT NULL, -- when a refresh was asked for; 0: it was not
	accept     INTEGER NOT NULL  -- and may shrink
) STRICT, WITHOUT ROWID;

-- Contents, compressed, in pieces of some 256 KiB.
CREATE TABLE intel_content (
	feed     TEXT    NOT NULL REFERENCES intel_feeds (name) ON DELETE CASCADE,
	revision INTEGER NOT NULL,
	piece    INTEGER NOT NULL,
	data     BLOB    NOT NULL,
	PRIMARY KEY (feed, revision, piece)
) STRICT;

CREATE TABLE intel_exemptions (
	value TEXT    NOT NULL PRIMARY KEY,
	note  TEXT    NOT NULL,
	added INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One row, which tells the other servers that there is something new.
CREATE TABLE intel_version (
	version INTEGER NOT NULL
) STRICT;
INSERT INTO intel_version (version) VALUES (1);

-- +goose Up
-- What the devices of a security group are expected to do.
CREATE TABLE security_baselines (
	grp      TEXT    NOT NULL PRIMARY KEY,
	epoch    INTEGER NOT NULL, -- which learning it is
	document TEXT    NOT NULL  -- JSON
) STRICT, WITHOUT ROWID;

-- What was learned of a group, with the place in the log up to which it was.
CREATE TABLE security_baseline_lessons (
	grp      TEXT    NOT NULL PRIMARY KEY REFERENCES security_baselines (grp) ON DELETE CASCADE,
	epoch    INTEGER NOT NULL,
	data     BLOB    NOT NULL
) STRICT;

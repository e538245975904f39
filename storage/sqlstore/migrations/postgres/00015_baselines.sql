-- +goose Up
-- What the devices of a security group are expected to do.
CREATE TABLE security_baselines (
	grp      TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	epoch    BIGINT           NOT NULL, -- which learning it is
	document TEXT             NOT NULL  -- JSON
);

-- What was learned of a group, with the place in the log up to which it was.
CREATE TABLE security_baseline_lessons (
	grp      TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES security_baselines (grp) ON DELETE CASCADE,
	epoch    BIGINT           NOT NULL,
	data     BYTEA            NOT NULL
);

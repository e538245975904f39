-- +goose Up
-- What is deployed to device groups of the Security Service: the highest number of a group is in force.
CREATE TABLE sphere_deployments (
	tenant  TEXT COLLATE "C" NOT NULL,
	grp     TEXT COLLATE "C" NOT NULL,
	number  BIGINT           NOT NULL,
	id      TEXT COLLATE "C" NOT NULL,
	images  TEXT             NOT NULL, -- JSON
	created BIGINT           NOT NULL,
	author  TEXT             NOT NULL,
	PRIMARY KEY (tenant, grp, number),
	UNIQUE (tenant, id),
	FOREIGN KEY (tenant, grp) REFERENCES sphere_groups (tenant, id) ON DELETE CASCADE
);

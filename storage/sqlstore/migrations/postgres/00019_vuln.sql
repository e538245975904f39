-- +goose Up
-- Vulnerabilities: what is published of them, what software devices have, and what was found.
CREATE TABLE vuln_version (
	version BIGINT NOT NULL
);
INSERT INTO vuln_version VALUES (1);
CREATE TABLE vuln_sources (
	name       TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	generation BIGINT NOT NULL,
	about      TEXT NOT NULL -- JSON of a vuln.Source
);
CREATE TABLE vuln_chunks (
	name       TEXT COLLATE "C" NOT NULL,
	generation BIGINT NOT NULL,
	ordinal    BIGINT NOT NULL,
	data       BYTEA NOT NULL,
	PRIMARY KEY (name, generation, ordinal)
);
CREATE TABLE vex_documents (
	name    TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	updated BIGINT NOT NULL,
	scope   TEXT NOT NULL, -- JSON
	data    TEXT NOT NULL  -- JSON of its statements
);
CREATE TABLE software_sets (
	id       TEXT COLLATE "C" NOT NULL PRIMARY KEY, -- of what it holds
	packages BYTEA NOT NULL              -- JSON, deflated
);
CREATE TABLE software_bills (
	name     TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	updated  BIGINT NOT NULL,
	scope    TEXT NOT NULL, -- JSON
	format   TEXT COLLATE "C" NOT NULL,
	packages BIGINT NOT NULL,
	set_id   TEXT COLLATE "C" NOT NULL
);
CREATE TABLE software_parts (
	device   TEXT COLLATE "C" NOT NULL,
	module   TEXT COLLATE "C" NOT NULL,
	message  BIGINT NOT NULL,
	ordinal  BIGINT NOT NULL,
	taken    BIGINT NOT NULL,
	enqueued BIGINT NOT NULL,
	packages BYTEA NOT NULL, -- JSON, deflated
	PRIMARY KEY (device, module, message, ordinal),
	FOREIGN KEY (device, module) REFERENCES identities (device, module) ON DELETE CASCADE
);
CREATE TABLE software (
	device  TEXT COLLATE "C" NOT NULL,
	module  TEXT COLLATE "C" NOT NULL, -- the agent's
	distro  TEXT COLLATE "C" NOT NULL, -- '' when it is not known
	told    BIGINT NOT NULL, -- log position of the message that told it
	set_id  TEXT COLLATE "C" NOT NULL, -- '' when it is not known
	taken   BIGINT NOT NULL, -- of the set
	PRIMARY KEY (device, module),
	FOREIGN KEY (device, module) REFERENCES identities (device, module) ON DELETE CASCADE
);
CREATE TABLE vuln_profiles (
	id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	state       TEXT COLLATE "C" NOT NULL, -- of database and documents when it was evaluated
	sets        TEXT NOT NULL, -- JSON of their ids
	packages    BIGINT NOT NULL,
	left_out    BIGINT NOT NULL
);
CREATE TABLE vuln_findings (
	profile       TEXT COLLATE "C" NOT NULL,
	vulnerability TEXT COLLATE "C" NOT NULL,
	package       TEXT COLLATE "C" NOT NULL,
	installed     TEXT COLLATE "C" NOT NULL,
	ordinal       BIGINT NOT NULL,
	priority      BIGINT NOT NULL,
	exploited     BIGINT NOT NULL,
	suppressed    BIGINT NOT NULL,
	data          TEXT NOT NULL, -- JSON of a vuln.Finding
	PRIMARY KEY (profile, vulnerability, package, installed),
	FOREIGN KEY (profile) REFERENCES vuln_profiles (id) ON DELETE CASCADE
);
CREATE INDEX vuln_findings_vulnerability ON vuln_findings (vulnerability, package);
CREATE TABLE vuln_devices (
	device  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	module  TEXT COLLATE "C" NOT NULL DEFAULT '', -- always ''
	profile TEXT COLLATE "C" NOT NULL,
	FOREIGN KEY (device, module) REFERENCES identities (device, module) ON DELETE CASCADE
);
CREATE INDEX vuln_devices_profile ON vuln_devices (profile);

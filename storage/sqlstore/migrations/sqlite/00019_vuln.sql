-- +goose Up
-- Vulnerabilities: what is published of them, what software devices have, and what was found.
CREATE TABLE vuln_version (
	version INTEGER NOT NULL
) STRICT;
INSERT INTO vuln_version VALUES (1);
CREATE TABLE vuln_sources (
	name       TEXT    NOT NULL PRIMARY KEY,
	generation INTEGER NOT NULL,
	about      TEXT    NOT NULL -- JSON of a vuln.Source
) STRICT, WITHOUT ROWID;
CREATE TABLE vuln_chunks (
	name       TEXT    NOT NULL,
	generation INTEGER NOT NULL,
	ordinal    INTEGER NOT NULL,
	data       BLOB    NOT NULL,
	PRIMARY KEY (name, generation, ordinal)
) STRICT;
CREATE TABLE vex_documents (
	name    TEXT    NOT NULL PRIMARY KEY,
	updated INTEGER NOT NULL,
	scope   TEXT    NOT NULL, -- JSON
	data    TEXT    NOT NULL  -- JSON of its statements
) STRICT;
CREATE TABLE software_sets (
	id       TEXT NOT NULL PRIMARY KEY, -- of what it holds
	packages BLOB NOT NULL              -- JSON, deflated
) STRICT;
CREATE TABLE software_bills (
	name     TEXT    NOT NULL PRIMARY KEY,
	updated  INTEGER NOT NULL,
	scope    TEXT    NOT NULL, -- JSON
	format   TEXT    NOT NULL,
	packages INTEGER NOT NULL,
	set_id   TEXT    NOT NULL
) STRICT;
CREATE TABLE software_parts (
	device   TEXT    NOT NULL,
	module   TEXT    NOT NULL,
	message  INTEGER NOT NULL,
	ordinal  INTEGER NOT NULL,
	taken    INTEGER NOT NULL,
	enqueued INTEGER NOT NULL,
	packages BLOB    NOT NULL, -- JSON, deflated
	PRIMARY KEY (device, module, message, ordinal),
	FOREIGN KEY (device, module) REFERENCES identities (device, module) ON DELETE CASCADE
) STRICT;
CREATE TABLE software (
	device  TEXT    NOT NULL,
	module  TEXT    NOT NULL, -- the agent's
	distro  TEXT    NOT NULL, -- '' when it is not known
	told    INTEGER NOT NULL, -- log position of the message that told it
	set_id  TEXT    NOT NULL, -- '' when it is not known
	taken   INTEGER NOT NULL, -- of the set
	PRIMARY KEY (device, module),
	FOREIGN KEY (device, module) REFERENCES identities (device, module) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE TABLE vuln_profiles (
	id          TEXT    NOT NULL PRIMARY KEY,
	state       TEXT    NOT NULL, -- of database and documents when it was evaluated
	sets        TEXT    NOT NULL, -- JSON of their ids
	packages    INTEGER NOT NULL,
	left_out    INTEGER NOT NULL
) STRICT;
CREATE TABLE vuln_findings (
	profile       TEXT    NOT NULL,
	vulnerability TEXT    NOT NULL,
	package       TEXT    NOT NULL,
	installed     TEXT    NOT NULL,
	ordinal       INTEGER NOT NULL,
	priority      INTEGER NOT NULL,
	exploited     INTEGER NOT NULL,
	suppressed    INTEGER NOT NULL,
	data          TEXT    NOT NULL, -- JSON of a vuln.Finding
	PRIMARY KEY (profile, vulnerability, package, installed),
	FOREIGN KEY (profile) REFERENCES vuln_profiles (id) ON DELETE CASCADE
) STRICT;
CREATE INDEX vuln_findings_vulnerability ON vuln_findings (vulnerability, package);
CREATE TABLE vuln_devices (
	device  TEXT NOT NULL PRIMARY KEY,
	module  TEXT NOT NULL DEFAULT '', -- always ''
	profile TEXT NOT NULL,
	FOREIGN KEY (device, module) REFERENCES identities (device, module) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX vuln_devices_profile ON vuln_devices (profile);

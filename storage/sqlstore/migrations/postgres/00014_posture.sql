-- +goose Up
-- Recommendations. They outlive their device until they are forgotten.
CREATE TABLE recommendations (
	sequence        BIGINT           NOT NULL UNIQUE, -- of the last change
	id              TEXT COLLATE "C" NOT NULL UNIQUE,
	type            TEXT COLLATE "C" NOT NULL,
	family          TEXT COLLATE "C" NOT NULL, -- the type's, or the type itself
	device          TEXT COLLATE "C" NOT NULL, -- '' for the hub
	module          TEXT COLLATE "C" NOT NULL,
	severity        TEXT             NOT NULL,
	weight          BIGINT           NOT NULL, -- of the severity
	state           TEXT             NOT NULL,
	discovered      BIGINT           NOT NULL,
	first_evaluated BIGINT           NOT NULL,
	status_changed  BIGINT           NOT NULL,
	resolved        BIGINT           NOT NULL,
	message         BIGINT           NOT NULL,
	data            TEXT             NOT NULL, -- JSON
	PRIMARY KEY (device, type, module)
);
CREATE INDEX recommendations_active ON recommendations (device, family, weight) WHERE state = 'Active';
CREATE INDEX recommendations_family ON recommendations (family, sequence);
CREATE INDEX recommendations_resolved ON recommendations (resolved) WHERE state = 'Resolved';

-- The last sequence of a recommendation: one row.
CREATE TABLE recommendation_sequence (
	last BIGINT NOT NULL
);
INSERT INTO recommendation_sequence (last) VALUES (0);

-- How devices and modules connected last.
CREATE TABLE device_links (
	device       TEXT COLLATE "C" NOT NULL,
	module       TEXT COLLATE "C" NOT NULL,
	remote       TEXT             NOT NULL,
	tls_version  BIGINT           NOT NULL,
	cipher_suite BIGINT           NOT NULL,
	not_before   BIGINT           NOT NULL, -- of the certificate that proved it; 0: something else did
	not_after    BIGINT           NOT NULL,
	seen         BIGINT           NOT NULL,
	PRIMARY KEY (device, module)
);

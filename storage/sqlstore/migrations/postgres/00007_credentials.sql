-- +goose Up
-- Certificates that devices asked for and did not take yet: one operation for each identity.
CREATE TABLE credentials (
	device         TEXT COLLATE "C" NOT NULL,
	module         TEXT COLLATE "C" NOT NULL,
	request_id     TEXT             NOT NULL, -- the device's
	correlation_id TEXT             NOT NULL,
	request        BYTEA            NOT NULL, -- PKCS #10, DER
	began          BIGINT           NOT NULL,
	expires        BIGINT           NOT NULL,
	certificates   TEXT             NOT NULL, -- JSON array of base64 of DER, or null
	refusal        TEXT             NOT NULL, -- '' when there is none
	PRIMARY KEY (device, module),
	FOREIGN KEY (device, module) REFERENCES identities (device, module) ON DELETE CASCADE
);
CREATE INDEX credentials_expires ON credentials (expires);

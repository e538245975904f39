-- +goose Up
-- Certificates that devices asked for and did not take yet: one operation for each identity.
CREATE TABLE credentials (
	device         TEXT    NOT NULL,
	module         TEXT    NOT NULL,
	request_id     TEXT    NOT NULL, -- the device's
	correlation_id TEXT    NOT NULL,
	request        BLOB    NOT NULL, -- PKCS #10, DER
	began          INTEGER NOT NULL,
	expires        INTEGER NOT NULL,
	certificates   TEXT    NOT NULL, -- JSON array of base64 of DER, or null
	refusal        TEXT    NOT NULL, -- '' when there is none
	PRIMARY KEY (device, module),
	FOREIGN KEY (device, module) REFERENCES identities (device, module) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX credentials_expires ON credentials (expires);

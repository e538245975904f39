-- +goose Up
-- People who use the Security Service, how they prove themselves, and the tokens they got.
CREATE TABLE signin_accounts (
	subject  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	folded   TEXT COLLATE "C" NOT NULL UNIQUE, -- the mail address in lower case
	mail     TEXT             NOT NULL,
	password BYTEA,            -- the hash, sealed; NULL for who signs in at a provider
	disabled BOOLEAN          NOT NULL,
	epoch    BIGINT           NOT NULL, -- tokens of lower ones are dead
	places   TEXT             NOT NULL, -- where it signed in, JSON
	created  BIGINT           NOT NULL,
	updated  BIGINT           NOT NULL
);

CREATE TABLE signin_identities (
	issuer  TEXT COLLATE "C" NOT NULL,
	subject TEXT COLLATE "C" NOT NULL, -- at the issuer
	account TEXT COLLATE "C" NOT NULL REFERENCES signin_accounts (subject) ON DELETE CASCADE,
	PRIMARY KEY (issuer, subject)
);

-- Authorization codes, device codes and invitations, by the hash of the code.
CREATE TABLE signin_grants (
	hash     BYTEA            NOT NULL PRIMARY KEY,
	kind     TEXT COLLATE "C" NOT NULL,
	lookup   TEXT COLLATE "C",            -- another way to find it; NULL for none
	good_for BIGINT           NOT NULL, -- until when
	expires  BIGINT           NOT NULL,
	document TEXT             NOT NULL, -- the remaining fields, JSON
	UNIQUE (kind, lookup)
);
CREATE INDEX signin_grants_expires ON signin_grants (expires);

CREATE TABLE signin_sessions (
	family     TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	account    TEXT COLLATE "C" NOT NULL,
	client     TEXT             NOT NULL,
	epoch      BIGINT           NOT NULL,
	generation BIGINT           NOT NULL,
	token      BYTEA            NOT NULL, -- hash of the refresh token that is good
	revoked    BOOLEAN          NOT NULL,
	began_at   TEXT             NOT NULL, -- an address
	created    BIGINT           NOT NULL,
	used       BIGINT           NOT NULL,
	ends       BIGINT           NOT NULL, -- whatever happens
	expires    BIGINT           NOT NULL  -- unless it is used
);
CREATE INDEX signin_sessions_account ON signin_sessions (account, used);
CREATE INDEX signin_sessions_expires ON signin_sessions (expires);

CREATE TABLE signin_revocations (
	name    TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	epoch   BIGINT           NOT NULL,
	expires BIGINT           NOT NULL
);

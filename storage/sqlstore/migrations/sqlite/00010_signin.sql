-- +goose Up
-- People who use the Security Service, how they prove themselves, and the tokens they got.
CREATE TABLE signin_accounts (
	subject  TEXT    NOT NULL PRIMARY KEY,
	folded   TEXT    NOT NULL UNIQUE, -- the mail address in lower case
	mail     TEXT    NOT NULL,
	password BLOB,             -- the hash, sealed; NULL for who signs in at a provider
	disabled INTEGER NOT NULL,
	epoch    INTEGER NOT NULL, -- tokens of lower ones are dead
	places   TEXT    NOT NULL, -- where it signed in, JSON
	created  INTEGER NOT NULL,
	updated  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE signin_identities (
	issuer  TEXT NOT NULL,
	subject TEXT NOT NULL, -- at the issuer
	account TEXT NOT NULL REFERENCES signin_accounts (subject) ON DELETE CASCADE,
	PRIMARY KEY (issuer, subject)
) STRICT, WITHOUT ROWID;

-- Authorization codes, device codes and invitations, by the hash of the code.
CREATE TABLE signin_grants (
	hash     BLOB    NOT NULL PRIMARY KEY,
	kind     TEXT    NOT NULL,
	lookup   TEXT,             -- another way to find it; NULL for none
	good_for INTEGER NOT NULL, -- until when
	expires  INTEGER NOT NULL,
	document TEXT    NOT NULL, -- the remaining fields, JSON
	UNIQUE (kind, lookup)
) STRICT, WITHOUT ROWID;
CREATE INDEX signin_grants_expires ON signin_grants (expires);

CREATE TABLE signin_sessions (
	family     TEXT    NOT NULL PRIMARY KEY,
	account    TEXT    NOT NULL,
	client     TEXT    NOT NULL,
	epoch      INTEGER NOT NULL,
	generation INTEGER NOT NULL,
	token      BLOB    NOT NULL, -- hash of the refresh token that is good
	revoked    INTEGER NOT NULL,
	began_at   TEXT    NOT NULL, -- an address
	created    INTEGER NOT NULL,
	used       INTEGER NOT NULL,
	ends       INTEGER NOT NULL, -- whatever happens
	expires    INTEGER NOT NULL  -- unless it is used
) STRICT, WITHOUT ROWID;
CREATE INDEX signin_sessions_account ON signin_sessions (account, used);
CREATE INDEX signin_sessions_expires ON signin_sessions (expires);

CREATE TABLE signin_revocations (
	name    TEXT    NOT NULL PRIMARY KEY,
	epoch   INTEGER NOT NULL,
	expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

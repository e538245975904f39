-- +goose Up
-- Alerts of a type and a day that somebody dismissed for good: later ones of that day are dismissed when they are raised.
CREATE TABLE alert_dismissals (
	type   TEXT    NOT NULL,
	day    TEXT    NOT NULL,
	author TEXT    NOT NULL,
	time   INTEGER NOT NULL,
	PRIMARY KEY (type, day)
) STRICT, WITHOUT ROWID;
CREATE INDEX alerts_day ON alerts (day, type);

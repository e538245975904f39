-- +goose Up
-- Alerts of a type and a day that somebody dismissed for good: later ones of that day are dismissed when they are raised.
CREATE TABLE alert_dismissals (
	type   TEXT COLLATE "C" NOT NULL,
	day    TEXT COLLATE "C" NOT NULL,
	author TEXT             NOT NULL,
	time   BIGINT           NOT NULL,
	PRIMARY KEY (type, day)
);
CREATE INDEX alerts_day ON alerts (day, type);

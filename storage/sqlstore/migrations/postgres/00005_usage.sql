-- +goose Up
-- How many messages a hub took in a day, for the quota.
CREATE TABLE usage (
	day      TEXT COLLATE "C" NOT NULL PRIMARY KEY, -- of UTC: 2026-05-01
	messages BIGINT           NOT NULL
);

-- +goose Up
-- A device that is held back stays so when it is deleted and comes again: the id is held back, not the identity.
ALTER TABLE containments DROP COLUMN module; -- and the foreign key, of which it was part

-- Closed alerts are forgotten by age; open ones are not looked at for it.
CREATE INDEX alerts_closed ON alerts (changed, sequence) WHERE status IN ('dismissed', 'resolved');

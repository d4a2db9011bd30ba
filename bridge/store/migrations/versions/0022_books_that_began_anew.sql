-- A gateway whose spool was lost, or is an older one, reports lower totals than before. What the former books said is kept
-- beside the present ones. See docs/decisions/0038-spools-that-are-away-lost-or-brought-back.md.

ALTER TABLE gateway_books
    ADD COLUMN run              text,                       -- the process that reported it
    ADD COLUMN spooled_before   bigint NOT NULL DEFAULT 0,  -- of former books: readings and quarantined rows
    ADD COLUMN delivered_before bigint NOT NULL DEFAULT 0,
    ADD COLUMN shed_before      bigint NOT NULL DEFAULT 0,
    ADD COLUMN lost_before      bigint NOT NULL DEFAULT 0;  -- with what waited in the spool then: at most

-- What waits for a sensor is looked for at each change of the registry.
CREATE INDEX quarantine_waiting ON quarantine (received_at) WHERE code = 'unknown_sensor' AND replayed_at IS NULL;

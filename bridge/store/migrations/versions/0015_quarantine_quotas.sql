-- Quotas of quarantine: who brought a row, whose quota it uses up, what is held of each account, and what was thinned.

ALTER TABLE ingest_ledger ADD COLUMN thinned bigint NOT NULL DEFAULT 0;  -- refused like what is quarantined; not kept

-- Rows that are there already have no account and are not counted: to count them here would hold up everybody who
-- stores meanwhile. They go as they age.
ALTER TABLE quarantine
    ADD COLUMN account     bigint,   -- whose quota it uses up: a device, 0 everybody's, below 0 a gateway (-id)
    ADD COLUMN gateway_id  bigint,   -- the gateway that brought it
    ADD COLUMN sender      text,     -- whose key brought it: device:7, api:3
    ADD COLUMN whole_bytes integer;  -- how long it was, where the payload is cut
ALTER TABLE quarantine ALTER COLUMN account SET DEFAULT 0;

-- What quarantine holds of each account; by the trigger below.
CREATE TABLE quarantine_held (
    account bigint PRIMARY KEY,
    rows    bigint NOT NULL,
    bytes   bigint NOT NULL
) WITH (fillfactor = 50);

-- The sum of quarantine_held, in parts.
CREATE TABLE quarantine_total (
    part  smallint PRIMARY KEY,
    rows  bigint NOT NULL,
    bytes bigint NOT NULL
) WITH (fillfactor = 50);

-- What was thinned, for the ledger's recount, and how many samples of it were kept.
CREATE TABLE quarantine_thinned (
    account    bigint NOT NULL,
    device_id  bigint NOT NULL,  -- under which the ledger has it
    code       text NOT NULL,
    thinned    bigint NOT NULL DEFAULT 0,
    samples    bigint NOT NULL DEFAULT 0,
    thinned_at timestamptz NOT NULL DEFAULT now(),
    sampled_at timestamptz,
    PRIMARY KEY (account, device_id, code)
) WITH (fillfactor = 50);

-- Its body comes from sql/functions.
CREATE FUNCTION count_quarantine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';

CREATE TRIGGER quarantine_added AFTER INSERT ON quarantine REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION count_quarantine();
CREATE TRIGGER quarantine_deleted AFTER DELETE ON quarantine REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION count_quarantine();

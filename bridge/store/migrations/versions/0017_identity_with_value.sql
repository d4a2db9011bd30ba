-- A reading sent again is told from another one by its value. docs/decisions/0026-identity-with-value.md

-- Whose clock `timestamp` is: device, gateway, server. NULL: stored by an older release.
ALTER TABLE sensor_readings ADD COLUMN clock text;

-- Of the reading that took the key. NULL: of an older release, equal to any.
ALTER TABLE ingest_event_keys ADD COLUMN sensor_id bigint, ADD COLUMN value double precision;

-- The contracts get columns at the end, and come anew with all functions. The former ones have another name until the next
-- release, and are not dropped: a call under way returns through them.
DO $$
BEGIN
    IF to_regproc('sp_insert_readings') IS NOT NULL THEN
        ALTER FUNCTION sp_insert_reading_and_check_threshold(
            bigint, double precision, timestamptz, bigint, timestamptz, text, boolean, boolean) RENAME TO former_sp_insert_reading;
        ALTER FUNCTION sp_insert_readings(
            bigint[], double precision[], bigint[], bigint[], bigint[], boolean[], text[], boolean[], boolean[], text[], text[],
            integer) RENAME TO former_sp_insert_readings;
    END IF;
END $$;

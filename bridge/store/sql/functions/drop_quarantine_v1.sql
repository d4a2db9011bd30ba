-- Deletes rows of quarantine, and counts them for the ledger; returns how many there were.
CREATE OR REPLACE FUNCTION drop_quarantine_v1(p_ids bigint[]) RETURNS integer LANGUAGE sql AS $body$
    WITH gone AS (DELETE FROM quarantine WHERE id = ANY (p_ids) RETURNING device_id),
    counted AS (
        INSERT INTO quarantine_dropped AS d SELECT device_id, count(*) FROM gone GROUP BY 1 ORDER BY 1
        ON CONFLICT (device_id) DO UPDATE SET dropped = d.dropped + excluded.dropped
    )
    SELECT count(*)::integer FROM gone
$body$;

-- Closes the books of processes that are gone: what was pending was never acknowledged, so its
-- senders still have it (returned). Its outbox rows stay under its id and are swept by the living.
-- A process lives while it holds advisory lock (7001, id). After a restart of the server, or a cut
-- line, the living need a while to take it again: hence the grace.
CREATE OR REPLACE FUNCTION fold_dead_instances_v1(p_grace interval DEFAULT '5 minutes') RETURNS integer
LANGUAGE plpgsql AS $body$
DECLARE
    v_id     integer;
    v_folded integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(7002, 1);
    FOR v_id IN
        SELECT id FROM ingest_instances
        WHERE id <> 0 AND last_seen_at <= now() - p_grace AND pg_postmaster_start_time() <= now() - p_grace
        ORDER BY id
    LOOP
        CONTINUE WHEN NOT pg_try_advisory_xact_lock(7001, v_id);
        INSERT INTO ingest_ledger AS l (instance, device_id, source, received, returned, stored, duplicate, quarantined,
                                        thinned)
        SELECT 0, device_id, source, received, received - stored - duplicate - quarantined - thinned, stored, duplicate,
               quarantined, thinned
        FROM ingest_ledger WHERE instance = v_id ORDER BY device_id, source
        ON CONFLICT (instance, device_id, source) DO UPDATE
        SET received = l.received + excluded.received, returned = l.returned + excluded.returned,
            stored = l.stored + excluded.stored, duplicate = l.duplicate + excluded.duplicate,
            quarantined = l.quarantined + excluded.quarantined, thinned = l.thinned + excluded.thinned;
        DELETE FROM ingest_instances WHERE id = v_id;  -- its ledger lines go with it
        v_folded := v_folded + 1;
    END LOOP;
    RETURN v_folded;
END $body$;

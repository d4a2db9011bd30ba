-- Readings of other programs, which call the procedures themselves: received here, settled here.
-- Outcomes: 0 stored, 1 duplicate, 2 quarantined, 3 thinned.
CREATE OR REPLACE FUNCTION book_direct_calls(p_sensor_ids bigint[], p_sources text[], p_outcomes smallint[]) RETURNS void
LANGUAGE sql AS $body$
    INSERT INTO ingest_ledger AS l (instance, device_id, source, received, stored, duplicate, quarantined, thinned)
    SELECT 0, s.device_id, i.source, count(*), count(*) FILTER (WHERE i.outcome = 0), count(*) FILTER (WHERE i.outcome = 1),
           count(*) FILTER (WHERE i.outcome = 2), count(*) FILTER (WHERE i.outcome = 3)
    FROM unnest(p_sensor_ids, p_sources, p_outcomes) AS i (sensor_id, source, outcome) JOIN sensors s ON s.id = i.sensor_id
    GROUP BY s.device_id, i.source ORDER BY s.device_id, i.source
    ON CONFLICT (instance, device_id, source) DO UPDATE
    SET received = l.received + excluded.received, stored = l.stored + excluded.stored,
        duplicate = l.duplicate + excluded.duplicate, quarantined = l.quarantined + excluded.quarantined,
        thinned = l.thinned + excluded.thinned
$body$;

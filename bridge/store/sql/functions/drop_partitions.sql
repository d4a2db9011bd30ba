-- Drops partitions that lie wholly before p_before, and counts what was in them for the ledger.
CREATE OR REPLACE FUNCTION drop_partitions(p_before timestamptz) RETURNS integer LANGUAGE plpgsql AS $body$
DECLARE
    v_name    text;
    v_dropped integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(7002, 0);
    FOR v_name IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'sensor_readings'::regclass AND c.relname ~ '^sensor_readings_\d{4}_\d{2}$'
          AND (to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month') AT TIME ZONE 'UTC' <= p_before
        ORDER BY 1
    LOOP
        EXECUTE format('INSERT INTO readings_dropped AS d
                        SELECT coalesce(s.device_id, t.device_id, 0), count(*) FROM %I r LEFT JOIN sensors s ON s.id = r.sensor_id
                        LEFT JOIN sensor_tombstones t ON t.sensor_id = r.sensor_id GROUP BY 1
                        ON CONFLICT (device_id) DO UPDATE SET dropped = d.dropped + excluded.dropped', v_name);
        EXECUTE format('DROP TABLE %I', v_name);
        v_dropped := v_dropped + 1;
    END LOOP;
    -- Backfills of months without a partition lie in the default.
    WITH gone AS (DELETE FROM sensor_readings_default WHERE "timestamp" < p_before RETURNING sensor_id)
    INSERT INTO readings_dropped AS d
    SELECT coalesce(s.device_id, t.device_id, 0), count(*) FROM gone g LEFT JOIN sensors s ON s.id = g.sensor_id
    LEFT JOIN sensor_tombstones t ON t.sensor_id = g.sensor_id GROUP BY 1
    ON CONFLICT (device_id) DO UPDATE SET dropped = d.dropped + excluded.dropped;
    RETURN v_dropped;
END $body$;

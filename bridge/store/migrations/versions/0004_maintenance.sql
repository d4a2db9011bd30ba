-- Partitions, retention, and the books of processes that are gone.

-- Makes the monthly partitions from p_from to p_until; returns how many were new.
CREATE FUNCTION ensure_partitions(p_from timestamptz, p_until timestamptz) RETURNS integer LANGUAGE plpgsql AS $body$
DECLARE
    v_month timestamp := date_trunc('month', p_from AT TIME ZONE 'UTC');
    v_name  text;
    v_low   timestamptz;
    v_high  timestamptz;
    v_made  integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(7002, 0);  -- several processes maintain one database
    WHILE v_month AT TIME ZONE 'UTC' <= p_until LOOP
        v_name := 'sensor_readings_' || to_char(v_month, 'YYYY_MM');
        v_low := v_month AT TIME ZONE 'UTC';
        v_high := (v_month + interval '1 month') AT TIME ZONE 'UTC';
        IF to_regclass(v_name) IS NULL THEN
            -- A partition may not be attached while the default holds rows of its range, nor may any come
            -- in meanwhile: writers to the default wait.
            LOCK TABLE sensor_readings_default IN ACCESS EXCLUSIVE MODE;
            EXECUTE format('CREATE TABLE %I (LIKE sensor_readings INCLUDING DEFAULTS)', v_name);
            EXECUTE format('WITH gone AS (DELETE FROM sensor_readings_default WHERE "timestamp" >= $1 AND "timestamp" < $2
                            RETURNING *) INSERT INTO %I SELECT * FROM gone', v_name) USING v_low, v_high;
            EXECUTE format('ALTER TABLE sensor_readings ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                           v_name, v_low, v_high);
            v_made := v_made + 1;
        END IF;
        v_month := v_month + interval '1 month';
    END LOOP;
    RETURN v_made;
END $body$;

-- Drops partitions that lie wholly before p_before, and counts what was in them for the ledger.
CREATE FUNCTION drop_partitions(p_before timestamptz) RETURNS integer LANGUAGE plpgsql AS $body$
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
                        SELECT coalesce(s.device_id, 0), count(*) FROM %I r LEFT JOIN sensors s ON s.id = r.sensor_id GROUP BY 1
                        ON CONFLICT (device_id) DO UPDATE SET dropped = d.dropped + excluded.dropped', v_name);
        EXECUTE format('DROP TABLE %I', v_name);
        v_dropped := v_dropped + 1;
    END LOOP;
    -- Backfills of months without a partition lie in the default.
    WITH gone AS (DELETE FROM sensor_readings_default WHERE "timestamp" < p_before RETURNING sensor_id)
    INSERT INTO readings_dropped AS d
    SELECT coalesce(s.device_id, 0), count(*) FROM gone g LEFT JOIN sensors s ON s.id = g.sensor_id GROUP BY 1
    ON CONFLICT (device_id) DO UPDATE SET dropped = d.dropped + excluded.dropped;
    RETURN v_dropped;
END $body$;

-- Sensors that have not been heard of since p_before become STALE; returns how many.
CREATE FUNCTION mark_stale_sensors(p_before timestamptz) RETURNS integer LANGUAGE plpgsql AS $body$
DECLARE
    v_silent bigint[];
    v_marked integer;
BEGIN
    -- A sensor that is being written is not silent: its mutex is not waited for.
    SELECT array_agg(l.sensor_id) INTO v_silent FROM (
        SELECT l.sensor_id FROM sensor_readings_latest l JOIN sensors s ON s.id = l.sensor_id
        WHERE l.received_at < p_before AND s.operational_state <> 'STALE'
        ORDER BY l.sensor_id LIMIT 10000 FOR NO KEY UPDATE OF l SKIP LOCKED
    ) l;
    UPDATE sensors s SET operational_state = 'STALE', state_changed_at = now()
    FROM sensor_readings_latest l
    WHERE s.id = ANY (v_silent) AND l.sensor_id = s.id AND l.received_at < p_before;
    GET DIAGNOSTICS v_marked = ROW_COUNT;
    RETURN v_marked;
END $body$;

CREATE FUNCTION drop_quarantine(p_ids bigint[]) RETURNS integer LANGUAGE sql AS $body$
    WITH gone AS (DELETE FROM quarantine WHERE id = ANY (p_ids) RETURNING device_id),
    counted AS (
        INSERT INTO quarantine_dropped AS d SELECT device_id, count(*) FROM gone GROUP BY 1 ORDER BY 1
        ON CONFLICT (device_id) DO UPDATE SET dropped = d.dropped + excluded.dropped
    )
    SELECT count(*)::integer FROM gone
$body$;

-- Closes the books of processes that are gone: what was pending was never acknowledged, so its
-- senders still have it (returned). Its outbox rows stay under its id and are swept by the living.
-- A process lives while it holds advisory lock (7001, id). After a restart of the server, or a cut
-- line, the living need a while to take it again: hence the grace.
CREATE FUNCTION fold_dead_instances(p_grace interval DEFAULT '5 minutes') RETURNS integer LANGUAGE plpgsql AS $body$
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
        INSERT INTO ingest_ledger AS l (instance, device_id, source, received, returned, stored, duplicate, quarantined)
        SELECT 0, device_id, source, received, received - stored - duplicate - quarantined, stored, duplicate, quarantined
        FROM ingest_ledger WHERE instance = v_id ORDER BY device_id, source
        ON CONFLICT (instance, device_id, source) DO UPDATE
        SET received = l.received + excluded.received, returned = l.returned + excluded.returned,
            stored = l.stored + excluded.stored, duplicate = l.duplicate + excluded.duplicate,
            quarantined = l.quarantined + excluded.quarantined;
        DELETE FROM ingest_instances WHERE id = v_id;  -- its ledger lines go with it
        v_folded := v_folded + 1;
    END LOOP;
    RETURN v_folded;
END $body$;

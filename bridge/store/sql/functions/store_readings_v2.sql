-- Stores a batch in one call, with the same result as its rows stored one by one, in order. One set-based statement
-- inserts, one evaluates and moves `latest`; only readings that find their places taken, and rows of sensors whose state can
-- change, go through a loop, in order. docs/decisions/0026-identity-with-value.md
--
-- Locks: the row of sensor_readings_latest is the mutex of a sensor. All are taken first, in order
-- of sensor_id, then devices in order of id: two batches wait for each other and never deadlock.
--
-- Under ingest_batch_v3 and both contracts. NULL stands for the usual in every row: no sequence, received now, the
-- device's own time, no key, fresh, redelivered, from `sql`, through no gateway.
--
-- Outcomes: 0 stored, 1 duplicate, 2 refused: `codes` and `details` say why, NULL where nothing is. Refused readings of
-- other programs (instance 0) are in quarantine then, those of our processes are for them to keep. Classes: 0 clean,
-- 1 warning, 2 alert. `alerts` are the events for iot:alerts, in the order of their readings. `stored_ts_us` are the times
-- of the rows, NULL where all are as given.
-- Raises 22008 for a time of another program before the year 1, 23503 for a sensor that does not exist.
CREATE OR REPLACE FUNCTION store_readings_v2(
    p_sensor_ids   bigint[],
    p_values       double precision[],
    p_ts_us        bigint[],
    p_sequences    bigint[],
    p_received_us  bigint[],
    p_clocks       text[],     -- whose ts is: device, gateway, server
    p_keys         text[],     -- identity where ts is not the device's; else without meaning
    p_fresh        boolean[],  -- false: says nothing of the device being alive
    p_redelivered  boolean[],  -- false: a known key belongs to an older reading
    p_sources      text[],
    p_gateways     text[],
    p_instance     integer,
    p_max_ahead_us bigint,     -- a reading further ahead of now is refused; NULL: none
    OUT outcomes       smallint[],
    OUT classes        smallint[],
    OUT stored_us      bigint,
    OUT outbox_id      bigint,
    OUT alerts         jsonb,
    OUT after_instance integer[],
    OUT after_outbox   bigint[],
    OUT codes          text[],
    OUT details        text[],
    OUT stored_ts_us   bigint[]
) LANGUAGE plpgsql AS $body$
DECLARE
    v_count    integer := cardinality(p_sensor_ids);
    v_now      timestamptz := now();
    v_now_us   bigint;
    r          record;
    v_ids      bigint[];
    v_missing  integer[];
    v_outbox   bigint;
    v_steps    reading_step[];
    v_step_ids bigint[];
    v_devices  bigint[];
    v_stored   integer;
    v_held     integer;
BEGIN
    outcomes := '{}'; classes := '{}'; alerts := '[]'; after_instance := '{}'; after_outbox := '{}';
    stored_us := to_us(clock_timestamp());
    IF v_count = 0 THEN
        RETURN;
    END IF;
    -- What our processes send is bounded by their own rules; to_us holds no more than this, and is asked for every sensor.
    IF p_instance = 0 AND EXISTS (SELECT 1 FROM unnest(p_ts_us) t (us) WHERE t.us < -62135596800000000) THEN
        RAISE EXCEPTION 'a time is not within the years 1 to 9999' USING ERRCODE = '22008';
    END IF;
    p_received_us := coalesce(p_received_us, array_fill(stored_us, ARRAY[v_count]));
    p_sources := coalesce(p_sources, array_fill('sql'::text, ARRAY[v_count]));
    outcomes := array_fill(0::smallint, ARRAY[v_count]);
    r := judge_inputs(p_sensor_ids, p_values, p_ts_us, p_received_us, p_max_ahead_us, p_instance = 0);
    IF r.places IS NOT NULL THEN
        codes := array_fill(NULL::text, ARRAY[v_count]);
        details := codes;
        FOR i IN 1 .. cardinality(r.places) LOOP
            outcomes[r.places[i]] := 2; codes[r.places[i]] := r.codes[i]; details[r.places[i]] := r.details[i];
        END LOOP;
    END IF;
    IF p_instance = 0 THEN
        -- Received in the future: the device would be alive, and its sensors heard, until then.
        SELECT array_agg(least(i.us, stored_us) ORDER BY i.ord) INTO p_received_us
        FROM unnest(p_received_us) WITH ORDINALITY AS i (us, ord);
    END IF;

    INSERT INTO sensor_readings_latest (sensor_id)
    SELECT DISTINCT s FROM unnest(p_sensor_ids) s
    WHERE NOT EXISTS (SELECT 1 FROM sensor_readings_latest l WHERE l.sensor_id = s)
    ORDER BY s
    ON CONFLICT DO NOTHING;
    PERFORM 1 FROM sensor_readings_latest WHERE sensor_id = ANY (p_sensor_ids)
    ORDER BY sensor_id FOR NO KEY UPDATE;
    GET DIAGNOSTICS v_held = ROW_COUNT;
    IF v_held <> (SELECT count(DISTINCT s) FROM unnest(p_sensor_ids) s) THEN  -- deleted while it was waited for
        RAISE EXCEPTION 'a sensor of the batch does not exist' USING ERRCODE = '23503';
    END IF;
    v_now_us := to_us(clock_timestamp());  -- after the wait: nobody's later

    IF p_keys IS NOT NULL THEN
        SELECT array_agg(CASE WHEN i.clock <> 'device' THEN i.key END ORDER BY i.ord) INTO p_keys
        FROM unnest(p_keys, p_clocks, outcomes) WITH ORDINALITY AS i (key, clock, outcome, ord) WHERE i.outcome IS NOT NULL;
        r := compare_event_keys(p_keys, p_redelivered, p_sensor_ids, p_values, outcomes, v_now);
        FOR i IN 1 .. coalesce(cardinality(r.duplicates), 0) LOOP
            outcomes[r.duplicates[i]] := 1;
        END LOOP;
        FOR i IN 1 .. coalesce(cardinality(r.conflicts), 0) LOOP
            codes := coalesce(codes, array_fill(NULL::text, ARRAY[v_count]));
            details := coalesce(details, codes);
            outcomes[r.conflicts[i]] := 2; codes[r.conflicts[i]] := 'conflicting_identity';
            details[r.conflicts[i]] := r.details[i];
        END LOOP;
        IF false = ANY (p_redelivered) THEN  -- on the streams a first delivery goes by its sender's key, as ever
            SELECT array_agg(CASE WHEN i.redelivered THEN i.key ELSE regexp_replace(i.key, '^g-.*[|]', '') END
                             ORDER BY i.ord)
            INTO p_keys FROM unnest(p_keys, p_redelivered) WITH ORDINALITY AS i (key, redelivered, ord);
        END IF;
    END IF;
    v_outbox := nextval(pg_get_serial_sequence('ingest_outbox', 'id'));

    WITH input AS MATERIALIZED (
        SELECT nextval('sensor_readings_id_seq') AS id, a.*
        FROM (
            SELECT i.ord::integer, i.sensor_id, i.value, i.ts_us, i.sequence, coalesce(i.clock, 'device') AS clock, i.outcome
            FROM unnest(p_sensor_ids, p_values, p_ts_us, p_sequences, p_clocks, outcomes)
                 WITH ORDINALITY AS i (sensor_id, value, ts_us, sequence, clock, outcome, ord)
            ORDER BY i.ord
        ) a
    ), inserted AS (
        INSERT INTO sensor_readings (id, sensor_id, value, "timestamp", device_timestamp, ingested_at, sequence, clock)
        SELECT id, sensor_id, value, from_us(ts_us), CASE WHEN clock = 'device' THEN from_us(ts_us) END, v_now, sequence, clock
        FROM input WHERE outcome = 0
        ORDER BY ord
        ON CONFLICT DO NOTHING
        RETURNING id
    )
    SELECT array_agg(i.id ORDER BY i.ord), array_agg(i.ord ORDER BY i.ord) FILTER (WHERE i.outcome = 0 AND x.id IS NULL)
    INTO v_ids, v_missing
    FROM input i LEFT JOIN inserted x USING (id);

    IF v_missing IS NOT NULL THEN
        r := resolve_taken_places(v_ids, p_sensor_ids, p_values, p_ts_us, p_sequences, p_clocks, outcomes, codes, details,
                                  v_missing, v_now);
        outcomes := r.outcomes; codes := r.codes; details := r.details; stored_ts_us := r.stored_ts_us;
        p_ts_us := coalesce(stored_ts_us, p_ts_us);
    END IF;

    WITH input AS MATERIALIZED (
        SELECT i.ord::integer, i.sensor_id, i.value, i.ts_us, i.received_us, i.outcome, s.device_id, s.operational_state,
               s.valid_readings_count, s.min_readings_for_normal
        FROM unnest(p_sensor_ids, p_values, p_ts_us, p_received_us, outcomes)
             WITH ORDINALITY AS i (sensor_id, value, ts_us, received_us, outcome, ord)
        JOIN sensors s ON s.id = i.sensor_id
    ), stored AS (
        SELECT i.*, l.latest_value, l.outbox_instance, l.outbox_id AS latest_outbox,
               -- A latest ahead of now is of a clock that was set back, or of an older release: it judges nobody.
               greatest(CASE WHEN to_us(l.latest_timestamp) <= v_now_us THEN to_us(l.latest_timestamp) END,
                        max(least(i.ts_us, v_now_us)) OVER (PARTITION BY i.sensor_id ORDER BY i.ord
                                                            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) AS newest_us
        FROM input i JOIN sensor_readings_latest l USING (sensor_id)
        WHERE i.outcome = 0
    ), marked AS (
        -- Strictly older than the newest so far, in the table or earlier in this batch.
        SELECT *, coalesce(ts_us < newest_us, false) AS late FROM stored
    ), lagged AS (
        SELECT m.*,
               CASE WHEN NOT late THEN coalesce(lag(value) OVER w, latest_value) END AS prev_value,
               CASE WHEN NOT late THEN newest_us END AS prev_us
        FROM marked m WINDOW w AS (PARTITION BY sensor_id, late ORDER BY ord)
    ), judged AS (
        SELECT g.*, t.id AS threshold_id, t.severity, d.id AS delta_id
        FROM lagged g
        LEFT JOIN LATERAL (
            SELECT a.id, a.severity FROM alert_thresholds a
            WHERE a.sensor_id = g.sensor_id AND a.is_active AND CASE a.condition_type
                WHEN 'greater_than' THEN g.value > a.threshold_value_min
                WHEN 'less_than' THEN g.value < coalesce(a.threshold_value_min, a.threshold_value_max)
                WHEN 'equal_to' THEN g.value = a.threshold_value_min
                ELSE coalesce(g.value < a.threshold_value_min, false) OR coalesce(g.value > a.threshold_value_max, false)
            END
            ORDER BY severity_rank(a.severity) DESC, a.id LIMIT 1
        ) t ON true
        LEFT JOIN LATERAL (
            SELECT x.id FROM delta_thresholds x
            CROSS JOIN LATERAL (
                SELECT abs(bounded_value(g.value) - bounded_value(g.prev_value)) AS jump,
                       greatest(abs(bounded_value(g.prev_value)), 1e-6) AS base,
                       (g.ts_us - g.prev_us) / 1e6::double precision AS seconds
            ) m
            WHERE x.sensor_id = g.sensor_id AND x.is_active AND g.prev_value IS NOT NULL AND (
                m.jump > x.abs_delta OR m.jump / m.base > x.rel_delta
                OR (g.ts_us - g.prev_us >= 1000 AND (m.jump / m.seconds > x.abs_slope OR m.jump / m.base / m.seconds > x.rel_slope)))
            ORDER BY severity_rank(x.severity) DESC, x.id LIMIT 1
        ) d ON true
    ), newest AS (
        -- Never ahead of now: what comes after a reading that is would be late.
        SELECT DISTINCT ON (sensor_id) sensor_id, value, greatest(newest_us, least(ts_us, v_now_us)) AS ts_us, received_us
        FROM judged WHERE NOT late ORDER BY sensor_id, ord DESC
    ), moved AS (
        UPDATE sensor_readings_latest l
        SET latest_value = n.value, latest_timestamp = from_us(n.ts_us), received_at = from_us(n.received_us),
            outbox_instance = p_instance, outbox_id = v_outbox
        FROM newest n WHERE l.sensor_id = n.sensor_id
    ), restless AS (
        SELECT DISTINCT sensor_id FROM judged
        WHERE operational_state <> 'NORMAL' OR threshold_id IS NOT NULL OR delta_id IS NOT NULL
           OR (late AND is_within_past_alert(sensor_id, ts_us))
    ), waited AS (
        -- A process publishes its rows in order, so its newest stands for all of them. Rows of
        -- instance 0 are written by any session and may be published in any order.
        SELECT outbox_instance, max(latest_outbox) AS latest_outbox FROM stored
        WHERE outbox_instance <> p_instance
        GROUP BY outbox_instance, CASE WHEN outbox_instance = 0 THEN latest_outbox END
    )
    SELECT (SELECT array_agg(CASE WHEN j.threshold_id IS NOT NULL THEN 2 WHEN j.delta_id IS NOT NULL THEN 1 ELSE 0 END::smallint
                             ORDER BY i.ord)
            FROM input i LEFT JOIN judged j USING (ord)),
           -- What a reading ahead of now raises and resolves, it does now: else an alert would be over before it begins, and
           -- a cool-down last until then. The time since the reading before stays.
           (SELECT array_agg((j.ord, j.sensor_id, j.device_id, j.value, least(j.ts_us, v_now_us), j.late, j.prev_value,
                              j.prev_us - greatest(j.ts_us - v_now_us, 0),
                              j.operational_state, j.valid_readings_count, j.min_readings_for_normal,
                              j.threshold_id, j.severity, j.delta_id)::reading_step ORDER BY j.sensor_id, j.ord)
            FROM judged j JOIN restless USING (sensor_id)),
           (SELECT array_agg(v_ids[j.ord] ORDER BY j.sensor_id, j.ord) FROM judged j JOIN restless USING (sensor_id)),
           (SELECT array_agg(DISTINCT i.device_id) FROM input i
            WHERE p_fresh IS NULL OR p_fresh[i.ord]),
           (SELECT array_agg(w.outbox_instance ORDER BY w.outbox_instance, w.latest_outbox) FROM waited w
            WHERE EXISTS (SELECT 1 FROM ingest_outbox o WHERE o.id = w.latest_outbox)),
           (SELECT array_agg(w.latest_outbox ORDER BY w.outbox_instance, w.latest_outbox) FROM waited w
            WHERE EXISTS (SELECT 1 FROM ingest_outbox o WHERE o.id = w.latest_outbox))
    INTO classes, v_steps, v_step_ids, v_devices, after_instance, after_outbox;

    after_instance := coalesce(after_instance, '{}');
    after_outbox := coalesce(after_outbox, '{}');
    IF v_steps IS NOT NULL THEN
        alerts := step_readings(v_steps, v_step_ids);
    END IF;
    PERFORM touch_devices(p_sensor_ids, p_received_us, p_fresh, v_devices);
    IF p_instance = 0 THEN
        PERFORM book_direct_calls(
            p_sensor_ids, p_sources,
            CASE WHEN codes IS NULL THEN outcomes
                 ELSE quarantine_direct_calls(p_sensor_ids, p_values, p_ts_us, p_sequences, p_received_us, p_clocks, p_keys,
                                              p_sources, outcomes, codes, details) END);
    END IF;

    v_stored := coalesce(array_length(array_positions(outcomes, 0::smallint), 1), 0);
    IF v_stored > 0 THEN
        PERFORM fill_outbox(v_outbox, p_instance, stored_us, v_stored = v_count, outcomes, p_sensor_ids, p_values, p_ts_us,
                            p_sequences, p_received_us, p_keys, classes, p_sources, p_gateways, alerts,
                            after_instance, after_outbox);
        outbox_id := v_outbox;
    END IF;
END $body$;

-- Storing readings, and everything that follows from it.
--
-- sp_insert_readings is the core: a batch in one call, with the same result as its rows stored one
-- by one, in order. One set-based statement inserts, evaluates and moves `latest`; only rows of
-- sensors whose state can change go through a loop, in order.
--
-- Locks: the row of sensor_readings_latest is the mutex of a sensor. All are taken first, in order
-- of sensor_id, then devices in order of id: two batches wait for each other and never deadlock.

CREATE FUNCTION severity_rank(p_severity text) RETURNS integer LANGUAGE sql IMMUTABLE AS $body$
    SELECT CASE p_severity WHEN 'critical' THEN 3 WHEN 'warning' THEN 2 ELSE 1 END
$body$;

-- STABLE, as what they call is: a function that claims more is not inlined, and costs a microsecond a call.
CREATE FUNCTION from_us(p_us bigint) RETURNS timestamptz LANGUAGE sql STABLE AS $body$
    SELECT 'epoch'::timestamptz + p_us * interval '1 microsecond'
$body$;

-- In doubles, exact to the microsecond until the year 2242; `extract` would compute in numeric.
CREATE FUNCTION to_us(p_at timestamptz) RETURNS bigint LANGUAGE sql STABLE AS $body$
    SELECT (date_part('epoch', p_at) * 1000000)::bigint
$body$;

-- A stored row whose sensor needs the loop.
CREATE TYPE reading_step AS (
    ord          integer,
    sensor_id    bigint,
    device_id    bigint,
    value        double precision,
    ts_us        bigint,
    late         boolean,
    prev_value   double precision,
    prev_us      bigint,
    state        text,
    valid_count  integer,
    min_readings integer,
    threshold_id bigint,
    severity     text,
    delta_id     bigint
);

-- Outcomes: 0 stored, 1 duplicate. Classes: 0 clean, 1 warning, 2 alert. `alerts` are the events
-- for iot:alerts, in the order of their readings.
-- Raises 22003 for a value that is not finite, 23503 for a sensor that does not exist.
CREATE FUNCTION sp_insert_readings(
    p_sensor_ids   bigint[],
    p_values       double precision[],
    p_ts_us        bigint[],
    p_sequences    bigint[] DEFAULT NULL,
    p_received_us  bigint[] DEFAULT NULL,
    p_device_time  boolean[] DEFAULT NULL,  -- whether ts is the device's own
    p_keys         text[] DEFAULT NULL,
    p_fresh        boolean[] DEFAULT NULL,  -- false: says nothing of the device being alive
    p_redelivered  boolean[] DEFAULT NULL,  -- false: a known key belongs to an older reading
    p_sources      text[] DEFAULT NULL,
    p_gateways     text[] DEFAULT NULL,
    p_instance     integer DEFAULT 0,
    OUT outcomes       smallint[],
    OUT classes        smallint[],
    OUT stored_us      bigint,
    OUT outbox_id      bigint,
    OUT alerts         jsonb,
    OUT after_instance integer[],
    OUT after_outbox   bigint[]
) LANGUAGE plpgsql AS $body$
DECLARE
    v_count    integer := cardinality(p_sensor_ids);
    v_now      timestamptz := now();
    v_known    integer[] := '{}';
    v_outbox   bigint;
    v_steps    reading_step[];
    v_devices  bigint[];
    v_stored   integer;
BEGIN
    outcomes := '{}'; classes := '{}'; alerts := '[]'; after_instance := '{}'; after_outbox := '{}';
    stored_us := to_us(clock_timestamp());
    IF v_count = 0 THEN
        RETURN;
    END IF;
    IF 'NaN' = ANY (p_values) OR 'Infinity' = ANY (p_values) OR '-Infinity' = ANY (p_values) THEN
        RAISE EXCEPTION 'a value is not finite' USING ERRCODE = '22003';
    END IF;
    p_received_us := coalesce(p_received_us, array_fill(stored_us, ARRAY[v_count]));
    p_sources := coalesce(p_sources, array_fill('sql'::text, ARRAY[v_count]));

    INSERT INTO sensor_readings_latest (sensor_id)
    SELECT DISTINCT s FROM unnest(p_sensor_ids) s
    WHERE NOT EXISTS (SELECT 1 FROM sensor_readings_latest l WHERE l.sensor_id = s)
    ORDER BY s
    ON CONFLICT DO NOTHING;
    PERFORM 1 FROM sensor_readings_latest WHERE sensor_id = ANY (p_sensor_ids)
    ORDER BY sensor_id FOR NO KEY UPDATE;

    IF p_keys IS NOT NULL THEN
        v_known := remember_event_keys(p_keys, coalesce(p_redelivered, array_fill(true, ARRAY[v_count])), v_now);
    END IF;
    v_outbox := nextval(pg_get_serial_sequence('ingest_outbox', 'id'));

    WITH input AS MATERIALIZED (
        SELECT nextval('sensor_readings_id_seq') AS id, i.ord::integer, i.sensor_id, i.value, i.ts_us, i.sequence,
               i.received_us, i.device_time, s.device_id, s.operational_state, s.valid_readings_count,
               s.min_readings_for_normal
        FROM unnest(p_sensor_ids, p_values, p_ts_us, p_sequences, p_received_us, p_device_time)
             WITH ORDINALITY AS i (sensor_id, value, ts_us, sequence, received_us, device_time, ord)
        JOIN sensors s ON s.id = i.sensor_id
    ), inserted AS (
        INSERT INTO sensor_readings (id, sensor_id, value, "timestamp", device_timestamp, ingested_at, sequence)
        SELECT id, sensor_id, value, from_us(ts_us),
               CASE WHEN coalesce(device_time, true) THEN from_us(ts_us) END, v_now, sequence
        FROM input WHERE ord <> ALL (v_known)
        ORDER BY ord
        ON CONFLICT DO NOTHING
        RETURNING id
    ), stored AS (
        SELECT i.*, l.latest_value, to_us(l.latest_timestamp) AS latest_us, l.outbox_instance, l.outbox_id AS latest_outbox,
               max(i.ts_us) OVER (PARTITION BY i.sensor_id ORDER BY i.ord
                                  ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before_us
        FROM input i JOIN inserted USING (id) JOIN sensor_readings_latest l USING (sensor_id)
    ), marked AS (
        -- Strictly older than the newest so far, in the table or earlier in this batch.
        SELECT *, coalesce(ts_us < greatest(latest_us, before_us), false) AS late FROM stored
    ), lagged AS (
        SELECT m.*,
               CASE WHEN NOT late THEN coalesce(lag(value) OVER w, latest_value) END AS prev_value,
               CASE WHEN NOT late THEN coalesce(lag(ts_us) OVER w, latest_us) END AS prev_us
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
            WHERE x.sensor_id = g.sensor_id AND x.is_active AND g.prev_value IS NOT NULL AND (
                abs(g.value - g.prev_value) > x.abs_delta
                OR abs(g.value - g.prev_value) / greatest(abs(g.prev_value), 1e-6) > x.rel_delta
                OR (g.ts_us > g.prev_us AND (
                    abs(g.value - g.prev_value) / ((g.ts_us - g.prev_us) / 1e6::double precision) > x.abs_slope
                    OR abs(g.value - g.prev_value) / greatest(abs(g.prev_value), 1e-6)
                        / ((g.ts_us - g.prev_us) / 1e6::double precision) > x.rel_slope)))
            ORDER BY severity_rank(x.severity) DESC, x.id LIMIT 1
        ) d ON true
    ), newest AS (
        SELECT DISTINCT ON (sensor_id) sensor_id, value, ts_us, received_us
        FROM judged WHERE NOT late ORDER BY sensor_id, ord DESC
    ), moved AS (
        UPDATE sensor_readings_latest l
        SET latest_value = n.value, latest_timestamp = from_us(n.ts_us), received_at = from_us(n.received_us),
            outbox_instance = p_instance, outbox_id = v_outbox
        FROM newest n WHERE l.sensor_id = n.sensor_id
    ), restless AS (
        SELECT DISTINCT sensor_id FROM judged
        WHERE operational_state <> 'NORMAL' OR (NOT late AND (threshold_id IS NOT NULL OR delta_id IS NOT NULL))
    ), waited AS (
        -- A process publishes its rows in order, so its newest stands for all of them. Rows of
        -- instance 0 are written by any session and may be published in any order.
        SELECT outbox_instance, max(latest_outbox) AS latest_outbox FROM stored
        WHERE outbox_instance <> p_instance
        GROUP BY outbox_instance, CASE WHEN outbox_instance = 0 THEN latest_outbox END
    )
    SELECT (SELECT array_agg(CASE WHEN j.id IS NULL THEN 1 ELSE 0 END::smallint ORDER BY i.ord)
            FROM input i LEFT JOIN judged j USING (id)),
           (SELECT array_agg(CASE WHEN j.threshold_id IS NOT NULL THEN 2 WHEN j.delta_id IS NOT NULL THEN 1 ELSE 0 END::smallint
                             ORDER BY i.ord)
            FROM input i LEFT JOIN judged j USING (id)),
           (SELECT array_agg((j.ord, j.sensor_id, j.device_id, j.value, j.ts_us, j.late, j.prev_value, j.prev_us,
                              j.operational_state, j.valid_readings_count, j.min_readings_for_normal,
                              j.threshold_id, j.severity, j.delta_id)::reading_step ORDER BY j.sensor_id, j.ord)
            FROM judged j JOIN restless USING (sensor_id) WHERE NOT j.late),
           (SELECT array_agg(DISTINCT i.device_id) FROM input i
            WHERE p_fresh IS NULL OR p_fresh[i.ord]),
           (SELECT array_agg(w.outbox_instance ORDER BY w.outbox_instance, w.latest_outbox) FROM waited w
            WHERE EXISTS (SELECT 1 FROM ingest_outbox o WHERE o.id = w.latest_outbox)),
           (SELECT array_agg(w.latest_outbox ORDER BY w.outbox_instance, w.latest_outbox) FROM waited w
            WHERE EXISTS (SELECT 1 FROM ingest_outbox o WHERE o.id = w.latest_outbox))
    INTO outcomes, classes, v_steps, v_devices, after_instance, after_outbox;

    IF cardinality(outcomes) IS DISTINCT FROM v_count THEN
        RAISE EXCEPTION 'a sensor of the batch does not exist' USING ERRCODE = '23503';
    END IF;
    after_instance := coalesce(after_instance, '{}');
    after_outbox := coalesce(after_outbox, '{}');
    IF v_steps IS NOT NULL THEN
        alerts := step_sensor_states(v_steps);
    END IF;
    PERFORM touch_devices(p_sensor_ids, p_received_us, p_fresh, v_devices);
    IF p_instance = 0 THEN
        PERFORM book_direct_calls(p_sensor_ids, p_sources, outcomes);
    END IF;

    v_stored := v_count - coalesce(array_length(array_positions(outcomes, 1::smallint), 1), 0);
    IF v_stored > 0 THEN
        PERFORM fill_outbox(v_outbox, p_instance, stored_us, v_stored = v_count, outcomes, p_sensor_ids, p_values, p_ts_us,
                            p_sequences, p_received_us, p_keys, classes, p_sources, p_gateways, alerts,
                            after_instance, after_outbox);
        outbox_id := v_outbox;
    END IF;
END $body$;

-- Readings of other programs, which call the procedures themselves: received here, settled here.
CREATE FUNCTION book_direct_calls(p_sensor_ids bigint[], p_sources text[], p_outcomes smallint[]) RETURNS void
LANGUAGE sql AS $body$
    INSERT INTO ingest_ledger AS l (instance, device_id, source, received, stored, duplicate)
    SELECT 0, s.device_id, i.source, count(*), count(*) FILTER (WHERE i.outcome = 0), count(*) FILTER (WHERE i.outcome = 1)
    FROM unnest(p_sensor_ids, p_sources, p_outcomes) AS i (sensor_id, source, outcome) JOIN sensors s ON s.id = i.sensor_id
    GROUP BY s.device_id, i.source ORDER BY s.device_id, i.source
    ON CONFLICT (instance, device_id, source) DO UPDATE
    SET received = l.received + excluded.received, stored = l.stored + excluded.stored,
        duplicate = l.duplicate + excluded.duplicate
$body$;

-- Remembers the keys of a batch; returns the places (from 1) of rows that are known already.
CREATE FUNCTION remember_event_keys(p_keys text[], p_redelivered boolean[], p_now timestamptz) RETURNS integer[]
LANGUAGE plpgsql AS $body$
DECLARE
    v_known integer[];
BEGIN
    WITH keyed AS (
        SELECT k.ord::integer, k.key, k.redelivered, row_number() OVER (PARTITION BY k.key ORDER BY k.ord) AS nth
        FROM unnest(p_keys, p_redelivered) WITH ORDINALITY AS k (key, redelivered, ord)
        WHERE k.key IS NOT NULL
    ), remembered AS (
        INSERT INTO ingest_event_keys (key, seen_at)
        SELECT key, p_now FROM keyed WHERE nth = 1 ORDER BY key
        ON CONFLICT (key) DO UPDATE SET seen_at = excluded.seen_at
    )
    SELECT array_agg(k.ord) INTO v_known FROM keyed k
    WHERE k.redelivered AND (k.nth > 1 OR EXISTS (SELECT 1 FROM ingest_event_keys e WHERE e.key = k.key));
    RETURN coalesce(v_known, '{}');
END $body$;

-- Warm-up, alerts, warnings and states, row by row in order of sensor and arrival.
-- Returns the events for iot:alerts in order of arrival.
CREATE FUNCTION step_sensor_states(p_steps reading_step[]) RETURNS jsonb LANGUAGE plpgsql AS $body$
DECLARE
    s             reading_step;
    v_sensor      bigint;
    v_state       text;
    v_old_state   text;
    v_target      text;
    v_valid       integer;
    v_old_valid   integer;
    v_changed_us  bigint;
    v_alert       alerts%ROWTYPE;
    v_warning     ml_events%ROWTYPE;
    v_loaded      boolean;
    v_warming     boolean;
    v_step        record;
    v_events      jsonb := '[]';
    v_result      jsonb;
BEGIN
    FOREACH s IN ARRAY p_steps LOOP
        IF s.sensor_id IS DISTINCT FROM v_sensor THEN
            PERFORM keep_sensor_state(v_sensor, v_state, v_valid, v_changed_us)
            WHERE (v_state, v_valid) IS DISTINCT FROM (v_old_state, v_old_valid) OR v_changed_us IS NOT NULL;
            v_sensor := s.sensor_id;
            v_state := s.state; v_old_state := s.state;
            v_valid := s.valid_count; v_old_valid := s.valid_count;
            v_changed_us := NULL;
            v_loaded := false;
        END IF;

        IF v_state = 'STALE' THEN
            v_state := 'INITIALIZING'; v_valid := 0; v_changed_us := s.ts_us;
        END IF;
        -- Alone, such a reading would not have come here: rows of other programs may be open.
        CONTINUE WHEN v_state = 'NORMAL' AND s.threshold_id IS NULL AND s.delta_id IS NULL;
        v_warming := v_state = 'INITIALIZING' AND v_valid < s.min_readings;
        IF v_warming THEN
            v_valid := v_valid + 1;
            CONTINUE WHEN v_valid < s.min_readings;
        END IF;

        IF NOT v_loaded THEN
            v_alert := NULL; v_warning := NULL;
            SELECT * INTO v_alert FROM alerts a
            WHERE a.sensor_id = s.sensor_id AND a.status IN ('active', 'acknowledged');
            SELECT * INTO v_warning FROM ml_events e
            WHERE e.sensor_id = s.sensor_id AND e.status IN ('active', 'acknowledged') AND e.event_type = 'warning';
            v_loaded := true;
        END IF;

        IF NOT v_warming THEN
            v_step := step_alerts(s, v_alert, v_warning);
            v_alert := v_step.p_alert;
            v_warning := v_step.p_warning;
            v_events := v_events || v_step.events;
        END IF;
        -- The reading that ends the warm-up raises and resolves nothing, but an alert may be open
        -- from before the sensor fell silent.
        v_target := CASE WHEN v_alert.id IS NOT NULL THEN 'ALERT' WHEN v_warning.id IS NOT NULL THEN 'WARNING'
                         ELSE 'NORMAL' END;
        IF v_state <> v_target THEN
            v_state := v_target;
            v_changed_us := s.ts_us;
        END IF;
    END LOOP;
    PERFORM keep_sensor_state(v_sensor, v_state, v_valid, v_changed_us)
    WHERE (v_state, v_valid) IS DISTINCT FROM (v_old_state, v_old_valid) OR v_changed_us IS NOT NULL;

    SELECT coalesce(jsonb_agg(e.event - 'ord' ORDER BY (e.event ->> 'ord')::integer, e.nth), '[]') INTO v_result
    FROM jsonb_array_elements(v_events) WITH ORDINALITY AS e (event, nth);
    RETURN v_result;
END $body$;

-- What one reading does to the open alert and the active warning of its sensor.
CREATE FUNCTION step_alerts(
    s reading_step, INOUT p_alert alerts, INOUT p_warning ml_events, OUT events jsonb
) LANGUAGE plpgsql AS $body$
BEGIN
    events := '[]';
    IF p_alert.id IS NOT NULL AND p_alert.severity IS DISTINCT FROM s.severity THEN
        UPDATE alerts SET status = 'resolved', resolved_at = from_us(s.ts_us) WHERE id = p_alert.id;
        events := events || alert_event('a', p_alert.id, 'resolved', p_alert.severity, p_alert.threshold_id, s);
        p_alert := NULL;
    END IF;
    IF p_alert.id IS NULL AND s.threshold_id IS NOT NULL THEN
        INSERT INTO alerts (sensor_id, device_id, threshold_id, severity, triggered_value, triggered_at)
        VALUES (s.sensor_id, s.device_id, s.threshold_id, s.severity, s.value, from_us(s.ts_us))
        ON CONFLICT DO NOTHING  -- another program has just opened one
        RETURNING * INTO p_alert;
        IF p_alert.id IS NOT NULL THEN
            events := events || alert_event('a', p_alert.id, 'alert', s.severity, s.threshold_id, s);
        END IF;
    END IF;

    -- Warnings of other origin (event_code) are theirs to resolve; while one is active there is no second.
    IF p_warning.event_code = 'DELTA_SPIKE' AND s.delta_id IS NULL THEN
        UPDATE ml_events SET status = 'resolved', resolved_at = from_us(s.ts_us) WHERE id = p_warning.id;
        events := events || alert_event('w', p_warning.id, 'resolved', coalesce(p_warning.payload ->> 'severity', 'warning'),
                                        (p_warning.payload ->> 'delta_threshold_id')::bigint, s);
        p_warning := NULL;
    END IF;
    IF p_warning.id IS NULL AND s.delta_id IS NOT NULL THEN
        p_warning := raise_delta_spike(s);
        IF p_warning.id IS NOT NULL THEN
            events := events || alert_event('w', p_warning.id, 'warning', p_warning.payload ->> 'severity', s.delta_id, s);
        END IF;
    END IF;
END $body$;

CREATE FUNCTION keep_sensor_state(p_sensor bigint, p_state text, p_valid integer, p_changed_us bigint) RETURNS void
LANGUAGE sql AS $body$
    UPDATE sensors SET operational_state = p_state, valid_readings_count = p_valid,
           state_changed_at = coalesce(from_us(p_changed_us), state_changed_at)
    WHERE id = p_sensor
$body$;

CREATE FUNCTION alert_event(
    p_prefix text, p_id bigint, p_kind text, p_severity text, p_threshold bigint, p_step reading_step
) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $body$
    SELECT jsonb_build_object(
        'event_id', p_prefix || '-' || p_id || '-' || p_kind, 'alert_id', p_id, 'sensor_id', p_step.sensor_id,
        'kind', p_kind, 'severity', p_severity, 'value', p_step.value, 'threshold_id', p_threshold,
        'triggered_at_us', p_step.ts_us, 'ord', p_step.ord)
$body$;

-- A warning for a jump, unless its threshold is cooling down. Returns the row, or null.
CREATE FUNCTION raise_delta_spike(s reading_step) RETURNS ml_events LANGUAGE plpgsql AS $body$
DECLARE
    d       delta_thresholds%ROWTYPE;
    v_delta double precision := abs(s.value - s.prev_value);
    v_rel   double precision := v_delta / greatest(abs(s.prev_value), 1e-6);
    v_s     double precision := nullif(s.ts_us - s.prev_us, 0) / 1e6::double precision;
    v_event ml_events%ROWTYPE;
BEGIN
    SELECT * INTO d FROM delta_thresholds WHERE id = s.delta_id;
    IF EXISTS (
        SELECT 1 FROM ml_events e
        WHERE e.sensor_id = s.sensor_id AND e.event_code = 'DELTA_SPIKE'
          AND (e.payload ->> 'delta_threshold_id')::bigint = d.id
          AND e.created_at > from_us(s.ts_us) - d.cooldown_seconds * interval '1 second'
    ) THEN
        RETURN NULL;
    END IF;
    INSERT INTO ml_events (sensor_id, device_id, event_type, event_code, status, created_at, title, message, payload)
    VALUES (s.sensor_id, s.device_id, 'warning', 'DELTA_SPIKE', 'active', from_us(s.ts_us),
            'Sudden change', format('from %s to %s', s.prev_value, s.value),
            jsonb_build_object('delta_threshold_id', d.id, 'severity', d.severity, 'previous', s.prev_value,
                               'value', s.value, 'abs_delta', v_delta, 'rel_delta', v_rel,
                               'abs_slope', v_delta / v_s, 'rel_slope', v_rel / v_s))
    ON CONFLICT DO NOTHING  -- another program has just raised one
    RETURNING * INTO v_event;
    RETURN v_event;
END $body$;

-- last_seen_at in steps of 10 s: a busy device costs one update in 10 s, not one a batch.
CREATE FUNCTION touch_devices(p_sensor_ids bigint[], p_received_us bigint[], p_fresh boolean[], p_devices bigint[])
RETURNS void LANGUAGE plpgsql AS $body$
DECLARE
    v_stale bigint[];
    v_most_us bigint;
BEGIN
    SELECT max(r.us) INTO v_most_us FROM unnest(p_received_us) r (us);
    SELECT array_agg(d.id) INTO v_stale FROM devices d
    WHERE d.id = ANY (p_devices)
      AND (d.last_seen_at IS NULL OR d.status = 'offline'
           OR d.last_seen_at < from_us(v_most_us / 10000000 * 10000000));
    IF v_stale IS NULL THEN
        RETURN;
    END IF;
    PERFORM 1 FROM devices WHERE id = ANY (v_stale) ORDER BY id FOR NO KEY UPDATE;
    UPDATE devices d
    SET last_seen_at = greatest(d.last_seen_at, x.seen),
        status = CASE WHEN d.status = 'offline' THEN 'online' ELSE d.status END
    FROM (
        SELECT s.device_id, from_us(max(i.received_us) / 10000000 * 10000000) AS seen
        FROM unnest(p_sensor_ids, p_received_us, p_fresh) AS i (sensor_id, received_us, fresh)
        JOIN sensors s ON s.id = i.sensor_id
        WHERE s.device_id = ANY (v_stale) AND coalesce(i.fresh, true)
        GROUP BY s.device_id
    ) x
    WHERE d.id = x.device_id AND (d.last_seen_at IS NULL OR d.last_seen_at < x.seen OR d.status = 'offline');
END $body$;

CREATE FUNCTION fill_outbox(
    p_id bigint, p_instance integer, p_stored_us bigint, p_whole boolean, p_outcomes smallint[],
    p_sensor_ids bigint[], p_values double precision[], p_ts_us bigint[], p_sequences bigint[], p_received_us bigint[],
    p_keys text[], p_classes smallint[], p_sources text[], p_gateways text[], p_alerts jsonb,
    p_after_instance integer[], p_after_outbox bigint[]
) RETURNS void LANGUAGE plpgsql AS $body$
BEGIN
    IF NOT p_whole THEN
        SELECT array_agg(i.sensor_id ORDER BY i.ord), array_agg(i.value ORDER BY i.ord), array_agg(i.ts_us ORDER BY i.ord),
               array_agg(i.sequence ORDER BY i.ord), array_agg(i.received_us ORDER BY i.ord),
               array_agg(i.key ORDER BY i.ord), array_agg(i.class ORDER BY i.ord),
               array_agg(i.source ORDER BY i.ord), array_agg(i.gateway ORDER BY i.ord)
        INTO p_sensor_ids, p_values, p_ts_us, p_sequences, p_received_us, p_keys, p_classes, p_sources, p_gateways
        FROM unnest(p_sensor_ids, p_values, p_ts_us, p_sequences, p_received_us, p_keys, p_classes, p_sources, p_gateways,
                    p_outcomes)
             WITH ORDINALITY AS i (sensor_id, value, ts_us, sequence, received_us, key, class, source, gateway, outcome, ord)
        WHERE i.outcome = 0;
    END IF;
    INSERT INTO ingest_outbox (id, instance, stored_us, sensor_ids, "values", ts_us, sequences, received_us, keys, classes,
                               sources, gateways, alerts, after_instance, after_outbox)
    VALUES (p_id, p_instance, p_stored_us, p_sensor_ids, p_values, p_ts_us, p_sequences, p_received_us, p_keys, p_classes,
            p_sources, p_gateways, p_alerts,
            p_after_instance, p_after_outbox);
END $body$;

-- One reading: a batch of one, for other systems that call it.
CREATE FUNCTION sp_insert_reading_and_check_threshold(
    p_sensor_id        bigint,
    p_value            double precision,
    p_device_timestamp timestamptz DEFAULT NULL,
    p_sequence         bigint DEFAULT NULL,
    p_received_at      timestamptz DEFAULT NULL,
    p_key              text DEFAULT NULL,
    p_fresh            boolean DEFAULT true,
    p_redelivered      boolean DEFAULT true,
    OUT inserted boolean,
    OUT class    text,
    OUT alerts   jsonb
) LANGUAGE plpgsql AS $body$
DECLARE
    v_received_us bigint := to_us(coalesce(p_received_at, clock_timestamp()));
    r             record;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM sensors WHERE id = p_sensor_id) THEN
        RAISE EXCEPTION 'sensor % does not exist', p_sensor_id USING ERRCODE = '23503';
    END IF;
    r := sp_insert_readings(
        ARRAY[p_sensor_id], ARRAY[p_value], ARRAY[coalesce(to_us(p_device_timestamp), v_received_us)],
        ARRAY[p_sequence], ARRAY[v_received_us], ARRAY[p_device_timestamp IS NOT NULL],
        CASE WHEN p_key IS NOT NULL THEN ARRAY[p_key] END, ARRAY[p_fresh], ARRAY[p_redelivered]);
    inserted := r.outcomes[1] = 0;
    class := (ARRAY['clean', 'warning', 'alert'])[r.classes[1] + 1];
    alerts := r.alerts;
END $body$;

-- What the service calls: everything a batch writes, in one round trip.
CREATE FUNCTION ingest_batch(
    p_instance integer, p_batch bigint,
    p_device_ids bigint[], p_sensor_ids bigint[], p_values double precision[], p_ts_us bigint[], p_sequences bigint[],
    p_received_us bigint[], p_device_time boolean[], p_keys text[], p_fresh boolean[], p_redelivered boolean[],
    p_sources text[], p_gateways text[],
    q_codes text[], q_details text[], q_payloads bytea[], q_sources text[], q_topics text[], q_gateways text[],
    q_device_ids bigint[], q_device_uuids uuid[], q_indexes integer[], q_received_us bigint[], q_identities text[],
    l_device_ids bigint[], l_sources text[], l_received bigint[], l_returned bigint[],
    p_published bigint[],
    OUT outcomes smallint[], OUT classes smallint[], OUT stored_us bigint, OUT outbox_id bigint, OUT alerts jsonb,
    OUT after_instance integer[], OUT after_outbox bigint[]
) LANGUAGE plpgsql AS $body$
DECLARE
    r     record;
    v_new text[];
BEGIN
    IF cardinality(p_published) > 0 THEN
        DELETE FROM ingest_outbox WHERE id = ANY (p_published);
    END IF;
    r := sp_insert_readings(p_sensor_ids, p_values, p_ts_us, p_sequences, p_received_us, p_device_time, p_keys, p_fresh,
                            p_redelivered, p_sources, p_gateways, p_instance);
    outcomes := r.outcomes; classes := r.classes; stored_us := r.stored_us; outbox_id := r.outbox_id;
    alerts := r.alerts; after_instance := r.after_instance; after_outbox := r.after_outbox;

    IF cardinality(q_codes) > 0 THEN
        WITH kept AS (
            INSERT INTO quarantine (code, detail, payload, source, topic, gateway, device_id, device_uuid, reading_index,
                                    received_at, identity)
            SELECT q.code, q.detail, q.payload, q.source, q.topic, q.gateway, q.device_id, q.device_uuid, q.idx,
                   from_us(q.received_us), q.identity
            FROM unnest(q_codes, q_details, q_payloads, q_sources, q_topics, q_gateways, q_device_ids, q_device_uuids,
                        q_indexes, q_received_us, q_identities)
                 AS q (code, detail, payload, source, topic, gateway, device_id, device_uuid, idx, received_us, identity)
            ON CONFLICT (identity) WHERE identity IS NOT NULL DO NOTHING
            RETURNING identity
        )
        SELECT array_agg(identity) INTO v_new FROM kept WHERE identity IS NOT NULL;
    END IF;

    INSERT INTO ingest_ledger AS l (instance, device_id, source, received, returned, stored, duplicate, quarantined)
    SELECT p_instance, b.device_id, b.source, sum(b.received), sum(b.returned), sum(b.stored), sum(b.duplicate),
           sum(b.quarantined)
    FROM (
        SELECT d.device_id, d.source, d.received, d.returned, 0 AS stored, 0 AS duplicate, 0 AS quarantined
        FROM unnest(l_device_ids, l_sources, l_received, l_returned) AS d (device_id, source, received, returned)
        UNION ALL
        SELECT s.device_id, s.source || coalesce('@' || s.gateway, ''), 0, 0, (s.outcome = 0)::integer,
               (s.outcome = 1)::integer, 0
        FROM unnest(p_device_ids, p_sources, p_gateways, outcomes) AS s (device_id, source, gateway, outcome)
        UNION ALL
        SELECT q.device_id, q.source || coalesce('@' || q.gateway, ''), 0, 0, 0, (NOT q.is_new)::integer, q.is_new::integer
        FROM (
            SELECT i.*, i.identity IS NULL OR (coalesce(i.identity = ANY (v_new), false)
                        AND row_number() OVER (PARTITION BY i.identity ORDER BY i.ord) = 1) AS is_new
            FROM unnest(q_device_ids, q_sources, q_gateways, q_identities) WITH ORDINALITY
                 AS i (device_id, source, gateway, identity, ord)
        ) q
    ) b
    GROUP BY b.device_id, b.source
    ON CONFLICT (instance, device_id, source) DO UPDATE
    SET received = greatest(l.received, excluded.received), returned = greatest(l.returned, excluded.returned),
        stored = l.stored + excluded.stored, duplicate = l.duplicate + excluded.duplicate,
        quarantined = l.quarantined + excluded.quarantined;

    UPDATE ingest_instances SET last_batch = p_batch, last_seen_at = now() WHERE id = p_instance;
    IF NOT FOUND THEN
        -- Our books were closed as those of a dead process: stop before they are written twice.
        RAISE EXCEPTION 'instance % is not registered', p_instance USING ERRCODE = '57P05';
    END IF;
END $body$;

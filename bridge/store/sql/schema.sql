-- The whole schema, as pg_dump gives it after all migrations. Written by scripts/schema: do not edit.
-- Nothing runs it; a test holds it against the migrations.

CREATE TYPE public.reading_step AS (
	ord integer,
	sensor_id bigint,
	device_id bigint,
	value double precision,
	ts_us bigint,
	late boolean,
	prev_value double precision,
	prev_us bigint,
	state text,
	valid_count integer,
	min_readings integer,
	threshold_id bigint,
	severity text,
	delta_id bigint
);

CREATE FUNCTION public.add_command(p_device_uuid uuid, p_payload json, p_expires_s double precision, p_key text, p_most integer, OUT id uuid, OUT is_new boolean, OUT refusal text) RETURNS record
    LANGUAGE plpgsql
    AS $$
DECLARE
    v_device bigint;
    v_status text;
BEGIN
    is_new := false;
    -- Locked, so that two senders do not count the same room.
    SELECT d.id, d.status INTO v_device, v_status FROM devices d WHERE d.device_uuid = p_device_uuid FOR NO KEY UPDATE;
    IF v_device IS NULL THEN
        refusal := 'unknown_device';
        RETURN;
    END IF;
    SELECT c.id INTO id FROM commands c WHERE c.device_id = v_device AND c.idempotency_key = p_key;
    IF id IS NOT NULL THEN
        RETURN;
    END IF;
    IF v_status = 'disabled' THEN
        refusal := 'device_disabled';
        RETURN;
    END IF;
    IF (SELECT count(*) FROM commands c WHERE c.device_id = v_device AND c.state = 'queued' AND c.expires_at > now()) >= p_most THEN
        refusal := 'too_many_commands';
        RETURN;
    END IF;
    INSERT INTO commands AS c (device_id, payload, expires_at, idempotency_key)
    VALUES (v_device, p_payload, now() + p_expires_s * interval '1 second', p_key)
    RETURNING c.id INTO id;
    is_new := true;
END $$;

CREATE FUNCTION public.alert_event(p_prefix text, p_id bigint, p_kind text, p_severity text, p_threshold bigint, p_step public.reading_step) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    AS $$
    SELECT jsonb_build_object(
        'event_id', p_prefix || '-' || p_id || '-' || p_kind, 'alert_id', p_id, 'sensor_id', p_step.sensor_id,
        'kind', p_kind, 'severity', p_severity, 'value', p_step.value, 'threshold_id', p_threshold,
        'triggered_at_us', p_step.ts_us, 'ord', p_step.ord)
$$;

CREATE FUNCTION public.book_direct_calls(p_sensor_ids bigint[], p_sources text[], p_outcomes smallint[]) RETURNS void
    LANGUAGE sql
    AS $$
    INSERT INTO ingest_ledger AS l (instance, device_id, source, received, stored, duplicate)
    SELECT 0, s.device_id, i.source, count(*), count(*) FILTER (WHERE i.outcome = 0), count(*) FILTER (WHERE i.outcome = 1)
    FROM unnest(p_sensor_ids, p_sources, p_outcomes) AS i (sensor_id, source, outcome) JOIN sensors s ON s.id = i.sensor_id
    GROUP BY s.device_id, i.source ORDER BY s.device_id, i.source
    ON CONFLICT (instance, device_id, source) DO UPDATE
    SET received = l.received + excluded.received, stored = l.stored + excluded.stored,
        duplicate = l.duplicate + excluded.duplicate
$$;

CREATE FUNCTION public.drop_partitions(p_before timestamp with time zone) RETURNS integer
    LANGUAGE plpgsql
    AS $_$
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
END $_$;

CREATE FUNCTION public.drop_quarantine(p_ids bigint[]) RETURNS integer
    LANGUAGE sql
    AS $$
    WITH gone AS (DELETE FROM quarantine WHERE id = ANY (p_ids) RETURNING device_id),
    counted AS (
        INSERT INTO quarantine_dropped AS d SELECT device_id, count(*) FROM gone GROUP BY 1 ORDER BY 1
        ON CONFLICT (device_id) DO UPDATE SET dropped = d.dropped + excluded.dropped
    )
    SELECT count(*)::integer FROM gone
$$;

CREATE FUNCTION public.ensure_partitions(p_from timestamp with time zone, p_until timestamp with time zone) RETURNS integer
    LANGUAGE plpgsql
    AS $_$
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
END $_$;

CREATE FUNCTION public.fill_outbox(p_id bigint, p_instance integer, p_stored_us bigint, p_whole boolean, p_outcomes smallint[], p_sensor_ids bigint[], p_values double precision[], p_ts_us bigint[], p_sequences bigint[], p_received_us bigint[], p_keys text[], p_classes smallint[], p_sources text[], p_gateways text[], p_alerts jsonb, p_after_instance integer[], p_after_outbox bigint[]) RETURNS void
    LANGUAGE plpgsql
    AS $$
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
END $$;

CREATE FUNCTION public.fold_dead_instances(p_grace interval DEFAULT '00:05:00'::interval) RETURNS integer
    LANGUAGE plpgsql
    AS $$
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
END $$;

CREATE FUNCTION public.from_us(p_us bigint) RETURNS timestamp with time zone
    LANGUAGE sql STABLE
    AS $$
    SELECT 'epoch'::timestamptz + p_us * interval '1 microsecond'
$$;

CREATE FUNCTION public.ingest_batch(p_instance integer, p_batch bigint, p_device_ids bigint[], p_sensor_ids bigint[], p_values double precision[], p_ts_us bigint[], p_sequences bigint[], p_received_us bigint[], p_device_time boolean[], p_keys text[], p_fresh boolean[], p_redelivered boolean[], p_sources text[], p_gateways text[], q_codes text[], q_details text[], q_payloads bytea[], q_sources text[], q_topics text[], q_gateways text[], q_device_ids bigint[], q_device_uuids uuid[], q_indexes integer[], q_received_us bigint[], q_identities text[], l_device_ids bigint[], l_sources text[], l_received bigint[], l_returned bigint[], p_published bigint[], OUT outcomes smallint[], OUT classes smallint[], OUT stored_us bigint, OUT outbox_id bigint, OUT alerts jsonb, OUT after_instance integer[], OUT after_outbox bigint[]) RETURNS record
    LANGUAGE plpgsql
    AS $$
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
END $$;

CREATE FUNCTION public.keep_sensor_state(p_sensor bigint, p_state text, p_valid integer, p_changed_us bigint) RETURNS void
    LANGUAGE sql
    AS $$
    UPDATE sensors SET operational_state = p_state, valid_readings_count = p_valid,
           state_changed_at = coalesce(from_us(p_changed_us), state_changed_at)
    WHERE id = p_sensor
$$;

CREATE FUNCTION public.mark_silent_sensors(p_sensor_ids bigint[], p_silent_s double precision[]) RETURNS SETOF bigint
    LANGUAGE plpgsql
    AS $$
DECLARE
    v_silent bigint[];
BEGIN
    SELECT array_agg(l.sensor_id) INTO v_silent FROM (
        SELECT l.sensor_id
        FROM unnest(p_sensor_ids, p_silent_s) AS i (sensor_id, silent_s)
        JOIN sensor_readings_latest l ON l.sensor_id = i.sensor_id
        WHERE l.received_at < now() - i.silent_s * interval '1 second'
        ORDER BY l.sensor_id FOR NO KEY UPDATE OF l SKIP LOCKED
    ) l;
    UPDATE sensors s SET operational_state = 'STALE', state_changed_at = now()
    WHERE s.id = ANY (v_silent) AND s.operational_state <> 'STALE';
    RETURN QUERY SELECT unnest(v_silent);
END $$;

CREATE FUNCTION public.mark_stale_sensors(p_before timestamp with time zone) RETURNS integer
    LANGUAGE plpgsql
    AS $$
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
END $$;

CREATE FUNCTION public.note_account() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    INSERT INTO registry_changes (kind, ref) VALUES ('account', '');
    RETURN NULL;
END $$;

CREATE FUNCTION public.note_device_row() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    INSERT INTO registry_changes (kind, ref) VALUES ('device', OLD.device_uuid::text);
    RETURN NULL;
END $$;

CREATE FUNCTION public.note_gateway() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    INSERT INTO registry_changes (kind, ref) VALUES ('gateway', '');
    RETURN NULL;
END $$;

CREATE FUNCTION public.note_key_row() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    INSERT INTO registry_changes (kind, ref)
    VALUES ('key', CASE WHEN TG_OP = 'DELETE' THEN OLD.api_key_hash ELSE NEW.api_key_hash END);
    RETURN NULL;
END $$;

CREATE FUNCTION public.note_sensor_row() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    INSERT INTO registry_changes (kind, ref)
    VALUES ('sensor', NEW.id::text), ('sensor', NEW.sensor_uuid::text), ('sensor', OLD.sensor_uuid::text);
    INSERT INTO registry_changes (kind, ref)
    SELECT DISTINCT 'external', name FROM unnest(ARRAY[OLD.external_id, NEW.external_id]) AS name WHERE name IS NOT NULL;
    RETURN NULL;
END $$;

CREATE FUNCTION public.note_sensor_rows() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF (SELECT count(*) FROM (SELECT 1 FROM changed LIMIT 1001) c) > 1000 THEN
        INSERT INTO registry_changes (kind, ref) VALUES ('all', '');
    ELSE
        INSERT INTO registry_changes (kind, ref)
        SELECT 'sensor', id::text FROM changed UNION ALL SELECT 'sensor', sensor_uuid::text FROM changed
        UNION ALL SELECT 'external', external_id FROM changed WHERE external_id IS NOT NULL;
    END IF;
    RETURN NULL;
END $$;

CREATE TABLE public.ml_events (
    id bigint NOT NULL,
    sensor_id bigint NOT NULL,
    device_id bigint NOT NULL,
    event_type text NOT NULL,
    event_code text NOT NULL,
    status text DEFAULT 'active'::text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    resolved_at timestamp with time zone,
    title text NOT NULL,
    message text NOT NULL,
    payload jsonb DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT ml_events_status_check CHECK ((status = ANY (ARRAY['active'::text, 'acknowledged'::text, 'resolved'::text])))
);

CREATE FUNCTION public.raise_delta_spike(s public.reading_step) RETURNS public.ml_events
    LANGUAGE plpgsql
    AS $$
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
END $$;

CREATE FUNCTION public.remember_event_keys(p_keys text[], p_redelivered boolean[], p_now timestamp with time zone) RETURNS integer[]
    LANGUAGE plpgsql
    AS $$
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
END $$;

CREATE FUNCTION public.severity_rank(p_severity text) RETURNS integer
    LANGUAGE sql IMMUTABLE
    AS $$
    SELECT CASE p_severity WHEN 'critical' THEN 3 WHEN 'warning' THEN 2 ELSE 1 END
$$;

CREATE FUNCTION public.sp_insert_reading_and_check_threshold(p_sensor_id bigint, p_value double precision, p_device_timestamp timestamp with time zone DEFAULT NULL::timestamp with time zone, p_sequence bigint DEFAULT NULL::bigint, p_received_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_key text DEFAULT NULL::text, p_fresh boolean DEFAULT true, p_redelivered boolean DEFAULT true, OUT inserted boolean, OUT class text, OUT alerts jsonb) RETURNS record
    LANGUAGE plpgsql
    AS $$
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
END $$;

CREATE FUNCTION public.sp_insert_readings(p_sensor_ids bigint[], p_values double precision[], p_ts_us bigint[], p_sequences bigint[] DEFAULT NULL::bigint[], p_received_us bigint[] DEFAULT NULL::bigint[], p_device_time boolean[] DEFAULT NULL::boolean[], p_keys text[] DEFAULT NULL::text[], p_fresh boolean[] DEFAULT NULL::boolean[], p_redelivered boolean[] DEFAULT NULL::boolean[], p_sources text[] DEFAULT NULL::text[], p_gateways text[] DEFAULT NULL::text[], p_instance integer DEFAULT 0, OUT outcomes smallint[], OUT classes smallint[], OUT stored_us bigint, OUT outbox_id bigint, OUT alerts jsonb, OUT after_instance integer[], OUT after_outbox bigint[]) RETURNS record
    LANGUAGE plpgsql
    AS $$
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
        SELECT nextval('sensor_readings_id_seq') AS id, a.*
        FROM (
            SELECT i.ord::integer, i.sensor_id, i.value, i.ts_us, i.sequence, i.received_us, i.device_time, s.device_id,
                   s.operational_state, s.valid_readings_count, s.min_readings_for_normal
            FROM unnest(p_sensor_ids, p_values, p_ts_us, p_sequences, p_received_us, p_device_time)
                 WITH ORDINALITY AS i (sensor_id, value, ts_us, sequence, received_us, device_time, ord)
            JOIN sensors s ON s.id = i.sensor_id
            ORDER BY i.ord
        ) a
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
END $$;

CREATE TABLE public.alerts (
    id bigint NOT NULL,
    sensor_id bigint NOT NULL,
    device_id bigint NOT NULL,
    threshold_id bigint,
    severity text NOT NULL,
    status text DEFAULT 'active'::text NOT NULL,
    triggered_value double precision NOT NULL,
    triggered_at timestamp with time zone NOT NULL,
    resolved_at timestamp with time zone,
    CONSTRAINT alerts_severity_check CHECK ((severity = ANY (ARRAY['info'::text, 'warning'::text, 'critical'::text]))),
    CONSTRAINT alerts_status_check CHECK ((status = ANY (ARRAY['active'::text, 'acknowledged'::text, 'resolved'::text])))
);

CREATE FUNCTION public.step_alerts(s public.reading_step, INOUT p_alert public.alerts, INOUT p_warning public.ml_events, OUT events jsonb) RETURNS record
    LANGUAGE plpgsql
    AS $$
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
END $$;

CREATE FUNCTION public.step_sensor_states(p_steps public.reading_step[]) RETURNS jsonb
    LANGUAGE plpgsql
    AS $$
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
END $$;

CREATE FUNCTION public.to_us(p_at timestamp with time zone) RETURNS bigint
    LANGUAGE sql STABLE
    AS $$
    SELECT (date_part('epoch', p_at) * 1000000)::bigint
$$;

CREATE FUNCTION public.touch_devices(p_sensor_ids bigint[], p_received_us bigint[], p_fresh boolean[], p_devices bigint[]) RETURNS void
    LANGUAGE plpgsql
    AS $$
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
END $$;

CREATE TABLE public.alert_notifications (
    id bigint NOT NULL,
    alert_id bigint,
    channel text NOT NULL,
    status text DEFAULT 'pending'::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    sent_at timestamp with time zone,
    error text,
    event_id text,
    rule text,
    sensor_id bigint,
    kind text,
    severity text,
    title text,
    body text,
    details jsonb,
    due_at timestamp with time zone DEFAULT now() NOT NULL,
    digest boolean DEFAULT false NOT NULL,
    repeat_s double precision DEFAULT 0 NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    claimed_at timestamp with time zone,
    message text
);

ALTER TABLE public.alert_notifications ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.alert_notifications_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.alert_thresholds (
    id bigint NOT NULL,
    sensor_id bigint NOT NULL,
    condition_type text NOT NULL,
    threshold_value_min double precision,
    threshold_value_max double precision,
    severity text DEFAULT 'warning'::text NOT NULL,
    is_active boolean DEFAULT true NOT NULL,
    CONSTRAINT alert_thresholds_condition_type_check CHECK ((condition_type = ANY (ARRAY['greater_than'::text, 'less_than'::text, 'equal_to'::text, 'out_of_range'::text]))),
    CONSTRAINT alert_thresholds_severity_check CHECK ((severity = ANY (ARRAY['info'::text, 'warning'::text, 'critical'::text])))
);

ALTER TABLE public.alert_thresholds ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.alert_thresholds_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE public.alerts ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.alerts_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.api_keys (
    id bigint NOT NULL,
    name text NOT NULL,
    api_key_hash text NOT NULL,
    is_active boolean DEFAULT true NOT NULL,
    revoked_at timestamp with time zone,
    expires_at timestamp with time zone,
    last_used_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE public.api_keys ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.api_keys_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.commands (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    device_id bigint NOT NULL,
    payload json NOT NULL,
    state text DEFAULT 'queued'::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    sent_at timestamp with time zone,
    delivered_at timestamp with time zone,
    finished_at timestamp with time zone,
    result json,
    attempts integer DEFAULT 0 NOT NULL,
    due_at timestamp with time zone DEFAULT now() NOT NULL,
    idempotency_key text,
    CONSTRAINT commands_state_check CHECK ((state = ANY (ARRAY['queued'::text, 'delivered'::text, 'done'::text, 'failed'::text, 'expired'::text])))
);

CREATE TABLE public.consumer_states (
    consumer text NOT NULL,
    key bigint NOT NULL,
    state bytea NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
)
WITH (fillfactor='50');

CREATE TABLE public.delta_thresholds (
    id bigint NOT NULL,
    sensor_id bigint NOT NULL,
    abs_delta double precision,
    rel_delta double precision,
    abs_slope double precision,
    rel_slope double precision,
    severity text DEFAULT 'warning'::text NOT NULL,
    is_active boolean DEFAULT true NOT NULL,
    cooldown_seconds integer DEFAULT 60 NOT NULL,
    CONSTRAINT delta_thresholds_severity_check CHECK ((severity = ANY (ARRAY['info'::text, 'warning'::text, 'critical'::text])))
);

ALTER TABLE public.delta_thresholds ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.delta_thresholds_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.device_api_keys (
    id bigint NOT NULL,
    device_id bigint NOT NULL,
    api_key_hash text NOT NULL,
    is_active boolean DEFAULT true NOT NULL,
    revoked_at timestamp with time zone,
    expires_at timestamp with time zone,
    last_used_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    mosquitto_hash text
);

ALTER TABLE public.device_api_keys ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.device_api_keys_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.devices (
    id bigint NOT NULL,
    device_uuid uuid DEFAULT gen_random_uuid() NOT NULL,
    name text NOT NULL,
    status text DEFAULT 'offline'::text NOT NULL,
    last_seen_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT devices_status_check CHECK ((status = ANY (ARRAY['online'::text, 'offline'::text, 'disabled'::text])))
)
WITH (fillfactor='80');

ALTER TABLE public.devices ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.devices_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.gateway_books (
    gateway_id bigint NOT NULL,
    device_id bigint NOT NULL,
    source text NOT NULL,
    received bigint NOT NULL,
    returned bigint NOT NULL,
    spooled bigint NOT NULL,
    duplicate bigint NOT NULL,
    quarantined bigint NOT NULL,
    stored bigint NOT NULL,
    known bigint NOT NULL,
    refused bigint NOT NULL,
    shed bigint NOT NULL,
    lost bigint NOT NULL,
    reported_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE public.gateway_codes (
    code_hash text NOT NULL,
    gateway_id bigint NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    used_at timestamp with time zone
);

CREATE TABLE public.gateway_devices (
    gateway_id bigint NOT NULL,
    device_id bigint NOT NULL
);

CREATE TABLE public.gateway_keys (
    id bigint NOT NULL,
    gateway_id bigint NOT NULL,
    key_hash text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    revoked_at timestamp with time zone
);

ALTER TABLE public.gateway_keys ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.gateway_keys_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.gateways (
    id bigint NOT NULL,
    name text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    last_seen_at timestamp with time zone,
    all_devices boolean DEFAULT false NOT NULL,
    revoked_at timestamp with time zone,
    enrolled_at timestamp with time zone,
    version text,
    state jsonb,
    state_at timestamp with time zone
);

ALTER TABLE public.gateways ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.gateways_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.ingest_event_keys (
    key text NOT NULL,
    seen_at timestamp with time zone NOT NULL
);

CREATE TABLE public.ingest_instances (
    id integer NOT NULL,
    name text NOT NULL,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    last_seen_at timestamp with time zone DEFAULT now() NOT NULL,
    last_batch bigint DEFAULT 0 NOT NULL
)
WITH (fillfactor='50');

ALTER TABLE public.ingest_instances ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.ingest_instances_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.ingest_ledger (
    instance integer NOT NULL,
    device_id bigint NOT NULL,
    source text NOT NULL,
    received bigint DEFAULT 0 NOT NULL,
    returned bigint DEFAULT 0 NOT NULL,
    stored bigint DEFAULT 0 NOT NULL,
    duplicate bigint DEFAULT 0 NOT NULL,
    quarantined bigint DEFAULT 0 NOT NULL
)
WITH (fillfactor='50');

CREATE TABLE public.ingest_outbox (
    id bigint NOT NULL,
    instance integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    stored_us bigint NOT NULL,
    sensor_ids bigint[] NOT NULL,
    "values" double precision[] NOT NULL,
    ts_us bigint[] NOT NULL,
    sequences bigint[],
    received_us bigint[] NOT NULL,
    keys text[],
    classes smallint[] NOT NULL,
    sources text[] NOT NULL,
    gateways text[],
    alerts jsonb DEFAULT '[]'::jsonb NOT NULL,
    after_instance integer[] DEFAULT '{}'::integer[] NOT NULL,
    after_outbox bigint[] DEFAULT '{}'::bigint[] NOT NULL
);
ALTER TABLE ONLY public.ingest_outbox ALTER COLUMN sensor_ids SET STORAGE EXTERNAL;
ALTER TABLE ONLY public.ingest_outbox ALTER COLUMN "values" SET STORAGE EXTERNAL;
ALTER TABLE ONLY public.ingest_outbox ALTER COLUMN ts_us SET STORAGE EXTERNAL;
ALTER TABLE ONLY public.ingest_outbox ALTER COLUMN sequences SET STORAGE EXTERNAL;
ALTER TABLE ONLY public.ingest_outbox ALTER COLUMN received_us SET STORAGE EXTERNAL;
ALTER TABLE ONLY public.ingest_outbox ALTER COLUMN keys SET STORAGE EXTERNAL;
ALTER TABLE ONLY public.ingest_outbox ALTER COLUMN classes SET STORAGE EXTERNAL;
ALTER TABLE ONLY public.ingest_outbox ALTER COLUMN sources SET STORAGE EXTERNAL;
ALTER TABLE ONLY public.ingest_outbox ALTER COLUMN gateways SET STORAGE EXTERNAL;

ALTER TABLE public.ingest_outbox ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.ingest_outbox_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE public.ml_events ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.ml_events_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.mqtt_accounts (
    id bigint NOT NULL,
    name text NOT NULL,
    role text NOT NULL,
    password_hash text NOT NULL,
    mosquitto_hash text NOT NULL,
    is_active boolean DEFAULT true NOT NULL,
    revoked_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT mqtt_accounts_role_check CHECK ((role = ANY (ARRAY['bridge'::text, 'publisher'::text])))
);

ALTER TABLE public.mqtt_accounts ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.mqtt_accounts_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.mqtt_subscriptions (
    client_id text NOT NULL,
    broker text NOT NULL,
    filters text[] NOT NULL,
    changed_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE public.predictions (
    id bigint NOT NULL,
    sensor_id bigint NOT NULL,
    model_id text NOT NULL,
    predicted_value double precision NOT NULL,
    confidence double precision,
    predicted_at timestamp with time zone DEFAULT now() NOT NULL,
    target_timestamp timestamp with time zone NOT NULL,
    is_anomaly boolean DEFAULT false NOT NULL,
    anomaly_score double precision,
    explanation text
);

ALTER TABLE public.predictions ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.predictions_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.quarantine (
    id bigint NOT NULL,
    code text NOT NULL,
    detail text NOT NULL,
    payload bytea NOT NULL,
    source text NOT NULL,
    topic text NOT NULL,
    gateway text,
    device_id bigint DEFAULT 0 NOT NULL,
    device_uuid uuid,
    reading_index integer DEFAULT 0 NOT NULL,
    received_at timestamp with time zone NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    replayed_at timestamp with time zone,
    identity text
);

CREATE TABLE public.quarantine_dropped (
    device_id bigint NOT NULL,
    dropped bigint NOT NULL
);

ALTER TABLE public.quarantine ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.quarantine_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.readings_dropped (
    device_id bigint NOT NULL,
    dropped bigint NOT NULL
);

CREATE TABLE public.registry_changes (
    id bigint NOT NULL,
    kind text NOT NULL,
    ref text NOT NULL,
    changed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

ALTER TABLE public.registry_changes ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.registry_changes_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.schema_version (
    version_num character varying(32) NOT NULL
);

CREATE SEQUENCE public.sensor_readings_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

CREATE TABLE public.sensor_readings (
    id bigint DEFAULT nextval('public.sensor_readings_id_seq'::regclass) NOT NULL,
    sensor_id bigint NOT NULL,
    value double precision NOT NULL,
    "timestamp" timestamp with time zone NOT NULL,
    device_timestamp timestamp with time zone,
    ingested_at timestamp with time zone DEFAULT now() NOT NULL,
    sequence bigint
)
PARTITION BY RANGE ("timestamp");

CREATE TABLE public.sensor_readings_default (
    id bigint DEFAULT nextval('public.sensor_readings_id_seq'::regclass) CONSTRAINT sensor_readings_id_not_null NOT NULL,
    sensor_id bigint CONSTRAINT sensor_readings_sensor_id_not_null NOT NULL,
    value double precision CONSTRAINT sensor_readings_value_not_null NOT NULL,
    "timestamp" timestamp with time zone CONSTRAINT sensor_readings_timestamp_not_null NOT NULL,
    device_timestamp timestamp with time zone,
    ingested_at timestamp with time zone DEFAULT now() CONSTRAINT sensor_readings_ingested_at_not_null NOT NULL,
    sequence bigint
);

CREATE TABLE public.sensor_readings_latest (
    sensor_id bigint NOT NULL,
    latest_value double precision,
    latest_timestamp timestamp with time zone,
    received_at timestamp with time zone,
    outbox_instance integer,
    outbox_id bigint
)
WITH (fillfactor='50');

CREATE TABLE public.sensors (
    id bigint NOT NULL,
    sensor_uuid uuid DEFAULT gen_random_uuid() NOT NULL,
    device_id bigint NOT NULL,
    name text NOT NULL,
    sensor_type text NOT NULL,
    unit text,
    is_active boolean DEFAULT true NOT NULL,
    operational_state text DEFAULT 'INITIALIZING'::text NOT NULL,
    valid_readings_count integer DEFAULT 0 NOT NULL,
    min_readings_for_normal integer DEFAULT 10 NOT NULL,
    state_changed_at timestamp with time zone DEFAULT now() NOT NULL,
    min_value double precision,
    max_value double precision,
    external_id text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    unit_in text,
    unit_factor double precision DEFAULT 1 NOT NULL,
    unit_offset double precision DEFAULT 0 NOT NULL,
    CONSTRAINT sensors_operational_state_check CHECK ((operational_state = ANY (ARRAY['INITIALIZING'::text, 'NORMAL'::text, 'WARNING'::text, 'ALERT'::text, 'STALE'::text])))
)
WITH (fillfactor='80');

ALTER TABLE public.sensors ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.sensors_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE ONLY public.sensor_readings ATTACH PARTITION public.sensor_readings_default DEFAULT;

ALTER TABLE ONLY public.alert_notifications
    ADD CONSTRAINT alert_notifications_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.alert_thresholds
    ADD CONSTRAINT alert_thresholds_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.alerts
    ADD CONSTRAINT alerts_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_api_key_hash_key UNIQUE (api_key_hash);

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.commands
    ADD CONSTRAINT commands_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.consumer_states
    ADD CONSTRAINT consumer_states_pkey PRIMARY KEY (consumer, key);

ALTER TABLE ONLY public.delta_thresholds
    ADD CONSTRAINT delta_thresholds_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.device_api_keys
    ADD CONSTRAINT device_api_keys_api_key_hash_key UNIQUE (api_key_hash);

ALTER TABLE ONLY public.device_api_keys
    ADD CONSTRAINT device_api_keys_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.devices
    ADD CONSTRAINT devices_device_uuid_key UNIQUE (device_uuid);

ALTER TABLE ONLY public.devices
    ADD CONSTRAINT devices_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.gateway_books
    ADD CONSTRAINT gateway_books_pkey PRIMARY KEY (gateway_id, device_id, source);

ALTER TABLE ONLY public.gateway_codes
    ADD CONSTRAINT gateway_codes_pkey PRIMARY KEY (code_hash);

ALTER TABLE ONLY public.gateway_devices
    ADD CONSTRAINT gateway_devices_pkey PRIMARY KEY (gateway_id, device_id);

ALTER TABLE ONLY public.gateway_keys
    ADD CONSTRAINT gateway_keys_key_hash_key UNIQUE (key_hash);

ALTER TABLE ONLY public.gateway_keys
    ADD CONSTRAINT gateway_keys_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.gateways
    ADD CONSTRAINT gateways_name_key UNIQUE (name);

ALTER TABLE ONLY public.gateways
    ADD CONSTRAINT gateways_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.ingest_event_keys
    ADD CONSTRAINT ingest_event_keys_pkey PRIMARY KEY (key);

ALTER TABLE ONLY public.ingest_instances
    ADD CONSTRAINT ingest_instances_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.ingest_ledger
    ADD CONSTRAINT ingest_ledger_pkey PRIMARY KEY (instance, device_id, source);

ALTER TABLE ONLY public.ingest_outbox
    ADD CONSTRAINT ingest_outbox_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.ml_events
    ADD CONSTRAINT ml_events_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.mqtt_accounts
    ADD CONSTRAINT mqtt_accounts_password_hash_key UNIQUE (password_hash);

ALTER TABLE ONLY public.mqtt_accounts
    ADD CONSTRAINT mqtt_accounts_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.mqtt_subscriptions
    ADD CONSTRAINT mqtt_subscriptions_pkey PRIMARY KEY (client_id, broker);

ALTER TABLE ONLY public.predictions
    ADD CONSTRAINT predictions_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.quarantine_dropped
    ADD CONSTRAINT quarantine_dropped_pkey PRIMARY KEY (device_id);

ALTER TABLE ONLY public.quarantine
    ADD CONSTRAINT quarantine_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.readings_dropped
    ADD CONSTRAINT readings_dropped_pkey PRIMARY KEY (device_id);

ALTER TABLE ONLY public.registry_changes
    ADD CONSTRAINT registry_changes_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.schema_version
    ADD CONSTRAINT schema_version_pkc PRIMARY KEY (version_num);

ALTER TABLE ONLY public.sensor_readings_latest
    ADD CONSTRAINT sensor_readings_latest_pkey PRIMARY KEY (sensor_id);

ALTER TABLE ONLY public.sensors
    ADD CONSTRAINT sensors_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.sensors
    ADD CONSTRAINT sensors_sensor_uuid_key UNIQUE (sensor_uuid);

CREATE INDEX alert_notifications_alert ON public.alert_notifications USING btree (alert_id);

CREATE UNIQUE INDEX alert_notifications_event ON public.alert_notifications USING btree (event_id, channel);

CREATE INDEX alert_notifications_open ON public.alert_notifications USING btree (channel, due_at) WHERE (status = ANY (ARRAY['pending'::text, 'sending'::text]));

CREATE INDEX alert_notifications_sensor ON public.alert_notifications USING btree (sensor_id, created_at);

CREATE INDEX alert_notifications_sent ON public.alert_notifications USING btree (channel, sent_at) WHERE (status = 'sent'::text);

CREATE INDEX alert_thresholds_sensor ON public.alert_thresholds USING btree (sensor_id) WHERE is_active;

CREATE UNIQUE INDEX alerts_one_open ON public.alerts USING btree (sensor_id) WHERE (status = ANY (ARRAY['active'::text, 'acknowledged'::text]));

CREATE INDEX alerts_sensor ON public.alerts USING btree (sensor_id, triggered_at DESC);

CREATE INDEX commands_device ON public.commands USING btree (device_id, created_at DESC);

CREATE UNIQUE INDEX commands_key ON public.commands USING btree (device_id, idempotency_key);

CREATE INDEX commands_open ON public.commands USING btree (due_at) WHERE (state = 'queued'::text);

CREATE INDEX delta_thresholds_sensor ON public.delta_thresholds USING btree (sensor_id) WHERE is_active;

CREATE INDEX device_api_keys_device ON public.device_api_keys USING btree (device_id);

CREATE INDEX gateway_keys_gateway ON public.gateway_keys USING btree (gateway_id);

CREATE INDEX ingest_event_keys_seen ON public.ingest_event_keys USING brin (seen_at);

CREATE UNIQUE INDEX ml_events_one_active_warning ON public.ml_events USING btree (sensor_id) WHERE ((status = ANY (ARRAY['active'::text, 'acknowledged'::text])) AND (event_type = 'warning'::text));

CREATE INDEX ml_events_sensor ON public.ml_events USING btree (sensor_id, created_at DESC);

CREATE UNIQUE INDEX mqtt_accounts_name ON public.mqtt_accounts USING btree (name) WHERE is_active;

CREATE INDEX predictions_at ON public.predictions USING brin (predicted_at);

CREATE UNIQUE INDEX predictions_once ON public.predictions USING btree (sensor_id, target_timestamp, model_id);

CREATE INDEX predictions_unexplained ON public.predictions USING btree (id) WHERE (is_anomaly AND (explanation IS NULL));

CREATE INDEX quarantine_created ON public.quarantine USING btree (created_at);

CREATE UNIQUE INDEX quarantine_identity ON public.quarantine USING btree (identity) WHERE (identity IS NOT NULL);

CREATE INDEX registry_changes_at ON public.registry_changes USING btree (changed_at);

CREATE INDEX sensor_readings_ingested ON ONLY public.sensor_readings USING brin (ingested_at);

CREATE INDEX sensor_readings_default_ingested_at_idx ON public.sensor_readings_default USING brin (ingested_at);

CREATE UNIQUE INDEX sensor_readings_identity ON ONLY public.sensor_readings USING btree (sensor_id, "timestamp", sequence) NULLS NOT DISTINCT;

CREATE UNIQUE INDEX sensor_readings_default_sensor_id_timestamp_sequence_idx ON public.sensor_readings_default USING btree (sensor_id, "timestamp", sequence) NULLS NOT DISTINCT;

CREATE INDEX sensors_device ON public.sensors USING btree (device_id);

CREATE UNIQUE INDEX sensors_external_id ON public.sensors USING btree (external_id) WHERE (external_id IS NOT NULL);

ALTER INDEX public.sensor_readings_ingested ATTACH PARTITION public.sensor_readings_default_ingested_at_idx;

ALTER INDEX public.sensor_readings_identity ATTACH PARTITION public.sensor_readings_default_sensor_id_timestamp_sequence_idx;

CREATE TRIGGER api_keys_updated AFTER UPDATE ON public.api_keys FOR EACH ROW WHEN (((((old.api_key_hash IS DISTINCT FROM new.api_key_hash) OR (old.is_active IS DISTINCT FROM new.is_active)) OR (old.revoked_at IS DISTINCT FROM new.revoked_at)) OR (old.expires_at IS DISTINCT FROM new.expires_at))) EXECUTE FUNCTION public.note_key_row();

CREATE TRIGGER api_keys_written AFTER INSERT OR DELETE ON public.api_keys FOR EACH ROW EXECUTE FUNCTION public.note_key_row();

CREATE TRIGGER device_api_keys_updated AFTER UPDATE ON public.device_api_keys FOR EACH ROW WHEN ((((((old.api_key_hash IS DISTINCT FROM new.api_key_hash) OR (old.is_active IS DISTINCT FROM new.is_active)) OR (old.revoked_at IS DISTINCT FROM new.revoked_at)) OR (old.expires_at IS DISTINCT FROM new.expires_at)) OR (old.device_id IS DISTINCT FROM new.device_id))) EXECUTE FUNCTION public.note_key_row();

CREATE TRIGGER device_api_keys_written AFTER INSERT OR DELETE ON public.device_api_keys FOR EACH ROW EXECUTE FUNCTION public.note_key_row();

CREATE TRIGGER devices_deleted AFTER DELETE ON public.devices FOR EACH ROW EXECUTE FUNCTION public.note_device_row();

CREATE TRIGGER devices_updated AFTER UPDATE ON public.devices FOR EACH ROW WHEN (((old.device_uuid IS DISTINCT FROM new.device_uuid) OR ((old.status = 'disabled'::text) IS DISTINCT FROM (new.status = 'disabled'::text)))) EXECUTE FUNCTION public.note_device_row();

CREATE TRIGGER gateway_devices_written AFTER INSERT OR DELETE OR UPDATE ON public.gateway_devices FOR EACH STATEMENT EXECUTE FUNCTION public.note_gateway();

CREATE TRIGGER gateway_keys_written AFTER INSERT OR DELETE OR UPDATE ON public.gateway_keys FOR EACH STATEMENT EXECUTE FUNCTION public.note_gateway();

CREATE TRIGGER gateways_revoked AFTER UPDATE OF revoked_at, all_devices ON public.gateways FOR EACH STATEMENT EXECUTE FUNCTION public.note_gateway();

CREATE TRIGGER mqtt_accounts_written AFTER INSERT OR DELETE OR UPDATE ON public.mqtt_accounts FOR EACH STATEMENT EXECUTE FUNCTION public.note_account();

CREATE TRIGGER sensors_deleted AFTER DELETE ON public.sensors REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION public.note_sensor_rows();

CREATE TRIGGER sensors_inserted AFTER INSERT ON public.sensors REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION public.note_sensor_rows();

CREATE TRIGGER sensors_updated AFTER UPDATE ON public.sensors FOR EACH ROW WHEN ((((((((((old.sensor_uuid IS DISTINCT FROM new.sensor_uuid) OR (old.device_id IS DISTINCT FROM new.device_id)) OR (old.sensor_type IS DISTINCT FROM new.sensor_type)) OR (old.is_active IS DISTINCT FROM new.is_active)) OR (old.min_value IS DISTINCT FROM new.min_value)) OR (old.max_value IS DISTINCT FROM new.max_value)) OR (old.external_id IS DISTINCT FROM new.external_id)) OR (old.unit_factor IS DISTINCT FROM new.unit_factor)) OR (old.unit_offset IS DISTINCT FROM new.unit_offset))) EXECUTE FUNCTION public.note_sensor_row();

ALTER TABLE ONLY public.alert_notifications
    ADD CONSTRAINT alert_notifications_alert_id_fkey FOREIGN KEY (alert_id) REFERENCES public.alerts(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.alert_thresholds
    ADD CONSTRAINT alert_thresholds_sensor_id_fkey FOREIGN KEY (sensor_id) REFERENCES public.sensors(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.alerts
    ADD CONSTRAINT alerts_sensor_id_fkey FOREIGN KEY (sensor_id) REFERENCES public.sensors(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.commands
    ADD CONSTRAINT commands_device_id_fkey FOREIGN KEY (device_id) REFERENCES public.devices(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.delta_thresholds
    ADD CONSTRAINT delta_thresholds_sensor_id_fkey FOREIGN KEY (sensor_id) REFERENCES public.sensors(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.device_api_keys
    ADD CONSTRAINT device_api_keys_device_id_fkey FOREIGN KEY (device_id) REFERENCES public.devices(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.gateway_books
    ADD CONSTRAINT gateway_books_gateway_id_fkey FOREIGN KEY (gateway_id) REFERENCES public.gateways(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.gateway_codes
    ADD CONSTRAINT gateway_codes_gateway_id_fkey FOREIGN KEY (gateway_id) REFERENCES public.gateways(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.gateway_devices
    ADD CONSTRAINT gateway_devices_device_id_fkey FOREIGN KEY (device_id) REFERENCES public.devices(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.gateway_devices
    ADD CONSTRAINT gateway_devices_gateway_id_fkey FOREIGN KEY (gateway_id) REFERENCES public.gateways(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.gateway_keys
    ADD CONSTRAINT gateway_keys_gateway_id_fkey FOREIGN KEY (gateway_id) REFERENCES public.gateways(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.ingest_ledger
    ADD CONSTRAINT ingest_ledger_instance_fkey FOREIGN KEY (instance) REFERENCES public.ingest_instances(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.ml_events
    ADD CONSTRAINT ml_events_sensor_id_fkey FOREIGN KEY (sensor_id) REFERENCES public.sensors(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.predictions
    ADD CONSTRAINT predictions_sensor_id_fkey FOREIGN KEY (sensor_id) REFERENCES public.sensors(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.sensor_readings_latest
    ADD CONSTRAINT sensor_readings_latest_sensor_id_fkey FOREIGN KEY (sensor_id) REFERENCES public.sensors(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.sensors
    ADD CONSTRAINT sensors_device_id_fkey FOREIGN KEY (device_id) REFERENCES public.devices(id) ON DELETE CASCADE;

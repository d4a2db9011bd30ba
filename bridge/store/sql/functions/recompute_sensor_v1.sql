-- Mends a sensor that a time in the future has made deaf: what is newer than now in its latest value, its alerts and its
-- jump warnings. `latest` becomes the newest stored reading that is not ahead of now; open alert, warning and state are judged
-- by it. Returns what was and what is, and NULL where there is no such sensor; p_dry_run changes nothing.
CREATE OR REPLACE FUNCTION recompute_sensor_v1(
    p_sensor bigint, p_dry_run boolean, OUT before jsonb, OUT after jsonb, OUT ahead bigint, OUT events jsonb
) LANGUAGE plpgsql AS $body$
DECLARE
    n         sensors%ROWTYPE;
    l         record;
    s         reading_step;
    a         alerts%ROWTYPE;
    w         ml_events%ROWTYPE;
    v_now     timestamptz := clock_timestamp();
    v_step    record;
    v_state   text;
    v_violated record;
BEGIN
    events := '[]';
    PERFORM 1 FROM sensor_readings_latest WHERE sensor_id = p_sensor FOR NO KEY UPDATE;
    SELECT * INTO n FROM sensors WHERE id = p_sensor;
    IF n.id IS NULL THEN
        RETURN;
    END IF;
    before := sensor_summary(p_sensor);
    SELECT count(*) INTO ahead FROM sensor_readings WHERE sensor_id = p_sensor AND "timestamp" > v_now;
    SELECT r."timestamp" AS at, r.value, r.ingested_at INTO l FROM sensor_readings r
    WHERE r.sensor_id = p_sensor AND r."timestamp" <= v_now ORDER BY r."timestamp" DESC, r.id DESC LIMIT 1;

    BEGIN
        -- Received in the future, it would never be silent, and its device never offline.
        UPDATE sensor_readings_latest
        SET latest_value = l.value, latest_timestamp = l.at, received_at = least(greatest(received_at, l.ingested_at), v_now)
        WHERE sensor_id = p_sensor AND ((latest_value, latest_timestamp) IS DISTINCT FROM (l.value, l.at) OR received_at > v_now);
        UPDATE devices SET last_seen_at = v_now WHERE id = n.device_id AND last_seen_at > v_now;
        UPDATE alerts SET triggered_at = least(triggered_at, v_now), resolved_at = least(resolved_at, v_now)
        WHERE sensor_id = p_sensor AND (triggered_at > v_now OR resolved_at > v_now);
        -- A cool-down counts from created_at: one that begins in the future never ends.
        UPDATE ml_events SET created_at = least(created_at, v_now), resolved_at = least(resolved_at, v_now)
        WHERE sensor_id = p_sensor AND event_code = 'DELTA_SPIKE' AND (created_at > v_now OR resolved_at > v_now);

        -- Deaf, it was thought silent: what is heard since is not.
        IF l.at IS NOT NULL AND (n.operational_state IN ('NORMAL', 'WARNING', 'ALERT')
                                 OR (n.operational_state = 'STALE' AND n.warmed_up AND l.ingested_at > n.state_changed_at)) THEN
            SELECT * INTO v_violated FROM violated_threshold(p_sensor, l.value);
            SELECT * INTO a FROM alerts x WHERE x.sensor_id = p_sensor AND x.status IN ('active', 'acknowledged');
            SELECT * INTO w FROM ml_events e
            WHERE e.sensor_id = p_sensor AND e.status IN ('active', 'acknowledged') AND e.event_type = 'warning';
            -- The moment of judging, not of the reading: what is resolved now was open until now.
            s := (1, p_sensor, n.device_id, l.value, to_us(v_now), false, NULL, NULL, n.operational_state, n.valid_readings_count,
                  n.min_readings_for_normal, v_violated.threshold_id, v_violated.severity, NULL)::reading_step;
            v_step := step_alerts(s, a, w);
            a := v_step.p_alert; w := v_step.p_warning; events := v_step.events;
            v_state := CASE WHEN a.id IS NOT NULL THEN 'ALERT' WHEN w.id IS NOT NULL THEN 'WARNING' ELSE 'NORMAL' END;
            UPDATE sensors SET operational_state = v_state, state_changed_at = v_now
            WHERE id = p_sensor AND operational_state <> v_state;
        END IF;
        UPDATE sensors SET state_changed_at = least(state_changed_at, v_now) WHERE id = p_sensor AND state_changed_at > v_now;
        after := sensor_summary(p_sensor);
        IF p_dry_run THEN
            RAISE EXCEPTION 'dry run' USING ERRCODE = 'IB001';
        END IF;
        PERFORM publish_alert_events(ARRAY[p_sensor], events);
    EXCEPTION WHEN SQLSTATE 'IB001' THEN
        NULL;  -- undone; `after` stays as it would be
    END;
    SELECT coalesce(jsonb_agg(e - 'ord'), '[]') INTO events FROM jsonb_array_elements(events) e;
END $body$;

-- A warning for a jump, unless its threshold is cooling down. Returns the row, or null.
CREATE OR REPLACE FUNCTION raise_delta_spike(s reading_step) RETURNS ml_events LANGUAGE plpgsql AS $body$
DECLARE
    d       delta_thresholds%ROWTYPE;
    v_delta double precision := abs(bounded_value(s.value) - bounded_value(s.prev_value));
    v_rel   double precision := v_delta / greatest(abs(bounded_value(s.prev_value)), 1e-6);
    -- Within a millisecond there is no slope: readings of one moment are stored a microsecond apart.
    v_s     double precision := CASE WHEN s.ts_us - s.prev_us >= 1000 THEN (s.ts_us - s.prev_us) / 1e6::double precision END;
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

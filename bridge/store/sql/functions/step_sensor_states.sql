-- Warm-up, alerts, warnings and states, row by row in order of sensor and arrival.
-- Returns the events for iot:alerts in order of arrival.
CREATE OR REPLACE FUNCTION step_sensor_states(p_steps reading_step[]) RETURNS jsonb LANGUAGE plpgsql AS $body$
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

-- Warm-up, alerts, warnings and states, row by row in order of sensor and arrival; p_ids are the ids of the rows, where
-- late ones are among them. Returns the events for iot:alerts in order of arrival.
CREATE OR REPLACE FUNCTION step_readings(p_steps reading_step[], p_ids bigint[]) RETURNS jsonb LANGUAGE plpgsql AS $body$
DECLARE
    s             reading_step;
    v_nth         integer := 0;
    v_sensor      bigint;
    v_state       text;
    v_old_state   text;
    v_target      text;
    v_valid       integer;
    v_old_valid   integer;
    v_changed_us  bigint;
    v_alert       alerts%ROWTYPE;
    v_warning     ml_events%ROWTYPE;
    v_past        alerts%ROWTYPE;
    v_warmed      boolean;
    v_loaded      boolean;
    v_warming     boolean;
    v_ends        boolean;
    v_step        record;
    v_events      jsonb[] := '{}';  -- appended to in place, where a jsonb would be copied each time
    v_result      jsonb;
BEGIN
    FOREACH s IN ARRAY p_steps LOOP
        v_nth := v_nth + 1;
        IF s.sensor_id IS DISTINCT FROM v_sensor THEN
            PERFORM keep_sensor_state(v_sensor, v_state, v_valid, v_changed_us)
            WHERE (v_state, v_valid) IS DISTINCT FROM (v_old_state, v_old_valid) OR v_changed_us IS NOT NULL;
            v_sensor := s.sensor_id;
            v_state := s.state; v_old_state := s.state;
            v_valid := s.valid_count; v_old_valid := s.valid_count;
            v_changed_us := NULL;
            v_loaded := false;
            v_past := NULL;
            v_warmed := CASE WHEN s.state NOT IN ('INITIALIZING', 'STALE') OR s.valid_count >= s.min_readings THEN true END;
        END IF;

        IF s.late THEN
            -- The warm-up after a silence is no first one: what was late in it is told.
            v_warmed := coalesce(v_warmed, (SELECT warmed_up FROM sensors WHERE id = s.sensor_id));
            IF v_warmed THEN
                v_step := step_late_reading(s, p_ids[v_nth], v_past);
                v_past := v_step.p_run;
                v_events := array_append(v_events, v_step.events);
            END IF;
            CONTINUE;
        END IF;
        IF v_state = 'STALE' THEN
            v_state := 'INITIALIZING'; v_valid := 0; v_changed_us := s.ts_us;
        END IF;
        -- Alone, such a reading would not have come here: rows of other programs may be open.
        CONTINUE WHEN v_state = 'NORMAL' AND s.threshold_id IS NULL AND s.delta_id IS NULL;
        v_warming := v_state = 'INITIALIZING' AND v_valid < s.min_readings;
        v_ends := NOT v_warming;
        IF v_warming THEN
            v_valid := v_valid + 1;
            v_ends := v_valid >= s.min_readings;
        END IF;
        v_warmed := v_warmed OR (v_ends AND v_state = 'INITIALIZING');

        IF NOT v_loaded THEN
            v_alert := NULL; v_warning := NULL;
            SELECT * INTO v_alert FROM alerts a
            WHERE a.sensor_id = s.sensor_id AND a.status IN ('active', 'acknowledged');
            SELECT * INTO v_warning FROM ml_events e
            WHERE e.sensor_id = s.sensor_id AND e.status IN ('active', 'acknowledged') AND e.event_type = 'warning';
            v_loaded := true;
        END IF;

        IF v_warming THEN
            -- It raises nothing; but what is open from before the sensor fell silent ends with the first reading in range.
            s.threshold_id := NULL;
            s.severity := CASE WHEN s.severity IS NOT NULL THEN v_alert.severity END;
            s.delta_id := CASE WHEN v_warning.id IS NOT NULL THEN s.delta_id END;
        END IF;
        IF NOT v_warming OR v_alert.id IS NOT NULL OR v_warning.id IS NOT NULL THEN
            v_step := step_alerts(s, v_alert, v_warning);
            v_alert := v_step.p_alert;
            v_warning := v_step.p_warning;
            v_events := array_append(v_events, v_step.events);
        END IF;
        CONTINUE WHEN NOT v_ends;
        v_target := CASE WHEN v_alert.id IS NOT NULL THEN 'ALERT' WHEN v_warning.id IS NOT NULL THEN 'WARNING'
                         ELSE 'NORMAL' END;
        IF v_state <> v_target THEN
            v_state := v_target;
            v_changed_us := s.ts_us;
        END IF;
    END LOOP;
    PERFORM keep_sensor_state(v_sensor, v_state, v_valid, v_changed_us)
    WHERE (v_state, v_valid) IS DISTINCT FROM (v_old_state, v_old_valid) OR v_changed_us IS NOT NULL;

    SELECT coalesce(jsonb_agg(e.event - 'ord' ORDER BY (e.event ->> 'ord')::integer, r.nth, e.nth), '[]') INTO v_result
    FROM unnest(v_events) WITH ORDINALITY AS r (events, nth),
         jsonb_array_elements(r.events) WITH ORDINALITY AS e (event, nth);
    RETURN v_result;
END $body$;

-- What one reading does to the open alert and the active warning of its sensor.
CREATE OR REPLACE FUNCTION step_alerts(
    s reading_step, INOUT p_alert alerts, INOUT p_warning ml_events, OUT events jsonb
) LANGUAGE plpgsql AS $body$
DECLARE
    v_resolution text := CASE WHEN s.severity IS NULL THEN 'in_range' ELSE 'severity_changed' END;
    v_end        reading_step := s;  -- what another program has raised ahead of now is not over before it began
BEGIN
    events := '[]';
    IF p_alert.id IS NOT NULL AND p_alert.severity IS DISTINCT FROM s.severity THEN
        IF p_alert.triggered_at > from_us(s.ts_us) AND isfinite(p_alert.triggered_at) THEN
            v_end.ts_us := to_us(p_alert.triggered_at);
        END IF;
        UPDATE alerts SET status = 'resolved', resolved_at = from_us(v_end.ts_us), resolution = v_resolution WHERE id = p_alert.id;
        events := events || (alert_event('a', p_alert.id, 'resolved', p_alert.severity, p_alert.threshold_id, v_end)
                             || jsonb_build_object('resolution', v_resolution));
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
        v_end.ts_us := s.ts_us;
        IF p_warning.created_at > from_us(s.ts_us) AND isfinite(p_warning.created_at) THEN
            v_end.ts_us := to_us(p_warning.created_at);
        END IF;
        UPDATE ml_events SET status = 'resolved', resolved_at = from_us(v_end.ts_us), resolution = 'in_range' WHERE id = p_warning.id;
        events := events || (alert_event('w', p_warning.id, 'resolved', coalesce(p_warning.payload ->> 'severity', 'warning'),
                                         (p_warning.payload ->> 'delta_threshold_id')::bigint, v_end)
                             || jsonb_build_object('resolution', 'in_range'));
        p_warning := NULL;
    END IF;
    IF p_warning.id IS NULL AND s.delta_id IS NOT NULL THEN
        p_warning := raise_delta_spike(s);
        IF p_warning.id IS NOT NULL THEN
            events := events || alert_event('w', p_warning.id, 'warning', p_warning.payload ->> 'severity', s.delta_id, s);
        END IF;
    END IF;
END $body$;

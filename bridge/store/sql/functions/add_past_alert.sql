-- Adds an alert that was over before it was known. Returns its two events: raised, and resolved.
CREATE OR REPLACE FUNCTION add_past_alert(
    s reading_step, p_threshold bigint, p_severity text, p_value double precision, p_at timestamptz, p_until timestamptz,
    p_resolution text
) RETURNS jsonb LANGUAGE plpgsql AS $body$
DECLARE
    v_id bigint;
BEGIN
    INSERT INTO alerts (sensor_id, device_id, threshold_id, severity, status, triggered_value, triggered_at, resolved_at,
                        is_past, resolution)
    VALUES (s.sensor_id, s.device_id, p_threshold, p_severity, 'resolved', p_value, p_at, p_until, true, p_resolution)
    RETURNING id INTO v_id;
    s.value := p_value;
    s.ts_us := to_us(p_at);
    RETURN jsonb_build_array(
        alert_event('a', v_id, 'alert', p_severity, p_threshold, s)
        || jsonb_build_object('past', true, 'resolved_at_us', to_us(p_until), 'resolution', p_resolution),
        alert_event('a', v_id, 'resolved', p_severity, p_threshold, s)
        || jsonb_build_object(
            'past', true, 'triggered_at_us', to_us(p_until), 'resolution', p_resolution,
            'value', coalesce((SELECT r.value FROM sensor_readings r
                               WHERE r.sensor_id = s.sensor_id AND r."timestamp" = p_until ORDER BY r.id LIMIT 1), p_value)));
END $body$;

-- Whether a moment lies within a past alert of a sensor.
CREATE OR REPLACE FUNCTION is_within_past_alert(p_sensor bigint, p_us bigint) RETURNS boolean LANGUAGE sql STABLE AS $body$
    SELECT (SELECT a.resolved_at FROM alerts a WHERE a.sensor_id = p_sensor AND a.is_past AND a.triggered_at <= from_us(p_us)
            ORDER BY a.triggered_at DESC, a.id DESC LIMIT 1) > from_us(p_us)
$body$;

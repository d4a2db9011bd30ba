-- What alerts follow from, of one sensor: its latest value, its state, its open alert and active warning.
CREATE OR REPLACE FUNCTION sensor_summary(p_sensor bigint) RETURNS jsonb LANGUAGE sql STABLE AS $body$
    SELECT jsonb_build_object(
        'latest_value', l.latest_value, 'latest_timestamp', l.latest_timestamp, 'operational_state', s.operational_state,
        'alert_active', (SELECT jsonb_build_object('id', a.id, 'severity', a.severity, 'triggered_at', a.triggered_at)
                         FROM alerts a WHERE a.sensor_id = s.id AND a.status IN ('active', 'acknowledged')),
        'warning_active', (SELECT jsonb_build_object('id', e.id, 'event_code', e.event_code, 'created_at', e.created_at)
                           FROM ml_events e WHERE e.sensor_id = s.id AND e.status IN ('active', 'acknowledged')
                             AND e.event_type = 'warning'),
        'heard_ahead', coalesce(greatest(l.received_at, d.last_seen_at) > clock_timestamp(), false),
        'resolved_ahead', (SELECT count(*) FROM alerts a WHERE a.sensor_id = s.id AND a.resolved_at > clock_timestamp()))
    FROM sensors s JOIN devices d ON d.id = s.device_id LEFT JOIN sensor_readings_latest l ON l.sensor_id = s.id WHERE s.id = p_sensor
$body$;

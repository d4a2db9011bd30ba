-- The rank of the severity of the alert of its time that was open for a sensor at a moment; 0 where none was. Past alerts
-- do not count.
CREATE OR REPLACE FUNCTION alert_severity_at(p_sensor bigint, p_at timestamptz) RETURNS integer LANGUAGE sql STABLE AS $body$
    SELECT coalesce((
        SELECT CASE WHEN a.status <> 'resolved' OR a.resolved_at > p_at THEN severity_rank(a.severity) END
        FROM alerts a WHERE a.sensor_id = p_sensor AND NOT a.is_past AND a.triggered_at <= p_at
        ORDER BY a.triggered_at DESC, a.id DESC LIMIT 1), 0)
$body$;

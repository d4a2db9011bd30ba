-- Stream entries, made again from what is stored. Columns are the fields of docs/streams.md, as text.

-- name: readings
-- The class is not stored: a reading counts as `alert` within an alert or beyond a threshold of today, and as
-- `warning` where a jump was noted at its time. Its source is `replay`: it says nothing of the device being alive.
SELECT concat(r.sensor_id, '-', to_us(r."timestamp"), '-', r.sequence), r.sensor_id::text, s.sensor_type, r.value,
       to_us(r."timestamp"), to_us(r.ingested_at), coalesce(r.sequence::text, ''),
       CASE
           WHEN EXISTS (SELECT 1 FROM alerts a WHERE a.sensor_id = r.sensor_id AND a.triggered_at <= r."timestamp"
                        AND (a.resolved_at IS NULL OR a.resolved_at > r."timestamp"))
             OR EXISTS (SELECT 1 FROM alert_thresholds t WHERE t.sensor_id = r.sensor_id AND t.is_active
                        AND CASE t.condition_type
                            WHEN 'greater_than' THEN r.value > t.threshold_value_min
                            WHEN 'less_than' THEN r.value < coalesce(t.threshold_value_min, t.threshold_value_max)
                            WHEN 'equal_to' THEN r.value = t.threshold_value_min
                            ELSE coalesce(r.value < t.threshold_value_min, false)
                                OR coalesce(r.value > t.threshold_value_max, false)
                            END)
           THEN 'alert'
           WHEN EXISTS (SELECT 1 FROM ml_events e WHERE e.sensor_id = r.sensor_id AND e.event_code = 'DELTA_SPIKE'
                        AND e.created_at = r."timestamp")
           THEN 'warning'
           ELSE 'clean'
       END,
       s.device_id::text
FROM sensor_readings r JOIN sensors s ON s.id = r.sensor_id
WHERE r.ingested_at >= from_us(%(from_us)s) AND r.ingested_at < from_us(%(until_us)s)
ORDER BY r.ingested_at, r.id

-- name: alerts
SELECT e.event_id, e.alert_id::text, e.sensor_id::text, e.kind, e.severity, e.value, e.threshold_id, to_us(e.at),
       CASE WHEN e.threshold_id = '' THEN '' WHEN e.event_id LIKE 'a-%%' THEN 'alert' ELSE 'delta' END,
       CASE WHEN e.past THEN '1' ELSE '' END, to_us(e.until), coalesce(e.resolution, '')
FROM (
    SELECT concat('a-', a.id, '-alert') AS event_id, a.id AS alert_id, a.sensor_id, 'alert' AS kind, a.severity,
           a.triggered_value AS value, coalesce(a.threshold_id::text, '') AS threshold_id, a.triggered_at AS at, 1 AS nth,
           a.is_past AS past, CASE WHEN a.is_past THEN a.resolved_at END AS until,
           CASE WHEN a.is_past THEN a.resolution END AS resolution
    FROM alerts a
    UNION ALL
    SELECT concat('a-', a.id, '-resolved'), a.id, a.sensor_id, 'resolved', a.severity,
           coalesce(r.value, a.triggered_value), coalesce(a.threshold_id::text, ''), a.resolved_at, 0,
           a.is_past, NULL, a.resolution
    FROM alerts a LEFT JOIN LATERAL (
        SELECT r.value FROM sensor_readings r WHERE r.sensor_id = a.sensor_id AND r."timestamp" = a.resolved_at LIMIT 1
    ) r ON true
    WHERE a.resolved_at IS NOT NULL
    UNION ALL
    SELECT concat('w-', w.id, '-warning'), w.id, w.sensor_id, 'warning', coalesce(w.payload ->> 'severity', 'warning'),
           coalesce((w.payload ->> 'value')::double precision, 0), coalesce(w.payload ->> 'delta_threshold_id', ''),
           w.created_at, 1, false, NULL, NULL
    FROM ml_events w WHERE w.event_type = 'warning' AND w.event_code = 'DELTA_SPIKE'
    UNION ALL
    SELECT concat('w-', w.id, '-resolved'), w.id, w.sensor_id, 'resolved', coalesce(w.payload ->> 'severity', 'warning'),
           coalesce(r.value, 0), coalesce(w.payload ->> 'delta_threshold_id', ''), w.resolved_at, 0,
           false, NULL, w.resolution
    FROM ml_events w LEFT JOIN LATERAL (
        SELECT r.value FROM sensor_readings r WHERE r.sensor_id = w.sensor_id AND r."timestamp" = w.resolved_at LIMIT 1
    ) r ON true
    WHERE w.event_type = 'warning' AND w.event_code = 'DELTA_SPIKE' AND w.resolved_at IS NOT NULL
) e
WHERE e.at >= from_us(%(from_us)s) AND e.at < from_us(%(until_us)s)
ORDER BY e.at, e.nth, e.alert_id

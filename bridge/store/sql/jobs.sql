-- What batch jobs ask.

-- name: unpredicted_sensors
-- Sensors with readings of late, and no prediction of what is to come.
SELECT s.id FROM sensors s JOIN sensor_readings_latest l ON l.sensor_id = s.id
WHERE s.is_active AND l.latest_timestamp > now() - %(hours)s * interval '1 hour'
  AND NOT EXISTS (SELECT 1 FROM predictions p WHERE p.sensor_id = s.id AND p.target_timestamp > now())
ORDER BY s.id

-- name: recent_readings
-- Whether they are clean is not stored: those within an alert are not.
SELECT r.sensor_id, r.value, to_us(r."timestamp"),
       NOT EXISTS (SELECT 1 FROM alerts a WHERE a.sensor_id = r.sensor_id AND a.triggered_at <= r."timestamp"
                   AND (a.resolved_at IS NULL OR a.resolved_at > r."timestamp"))
FROM sensor_readings r
WHERE r.sensor_id = ANY (%(sensors)s::bigint[]) AND r."timestamp" > now() - %(hours)s * interval '1 hour'
ORDER BY r.sensor_id, r."timestamp"

-- name: unexplained
SELECT p.id, p.sensor_id, s.name, s.sensor_type, coalesce(s.unit, ''), s.device_id, p.model_id, p.predicted_value,
       p.anomaly_score, to_us(p.target_timestamp),
       (SELECT r.value FROM sensor_readings r WHERE r.sensor_id = p.sensor_id AND r."timestamp" = p.target_timestamp LIMIT 1),
       (SELECT coalesce(jsonb_agg(jsonb_build_object('timestamp', to_us(b."timestamp") / 1e6, 'value', b.value)
                                  ORDER BY b."timestamp"), '[]')
        FROM (SELECT r."timestamp", r.value FROM sensor_readings r
              WHERE r.sensor_id = p.sensor_id AND r."timestamp" < p.target_timestamp
              ORDER BY r."timestamp" DESC LIMIT %(before)s) b)
FROM predictions p JOIN sensors s ON s.id = p.sensor_id
WHERE p.is_anomaly AND p.explanation IS NULL AND p.id > %(after)s
ORDER BY p.id LIMIT %(limit)s

-- name: explain
UPDATE predictions SET explanation = %(text)s WHERE id = %(id)s AND explanation IS NULL

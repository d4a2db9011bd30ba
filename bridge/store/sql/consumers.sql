-- What consumers ask, the notifier apart.

-- name: load_states
SELECT key, state FROM consumer_states WHERE consumer = %(consumer)s ORDER BY updated_at

-- name: save_states
INSERT INTO consumer_states AS c (consumer, key, state)
SELECT %(consumer)s, s.key, s.state FROM unnest(%(keys)s::bigint[], %(states)s::bytea[]) AS s (key, state) ORDER BY s.key
ON CONFLICT (consumer, key) DO UPDATE SET state = excluded.state, updated_at = now()

-- name: forget_states
DELETE FROM consumer_states WHERE consumer = %(consumer)s AND key = ANY (%(keys)s::bigint[])

-- name: hold_leader_lock
SELECT pg_try_advisory_lock(7005, hashtext(%(consumer)s))

-- name: mark_silent_sensors
SELECT * FROM mark_silent_sensors_v1(%(ids)s::bigint[], %(silent_s)s::double precision[])

-- name: silent_devices
-- Of these devices, those of which no sensor has been heard for so long; when they last were, and whether they pass for online.
SELECT d.id, coalesce(to_us(l.received_at), 0), d.status = 'online'
FROM unnest(%(ids)s::bigint[], %(silent_s)s::double precision[]) AS i (id, silent_s)
JOIN devices d ON d.id = i.id
CROSS JOIN LATERAL (
    SELECT max(l.received_at) AS received_at
    FROM sensors s JOIN sensor_readings_latest l ON l.sensor_id = s.id WHERE s.device_id = d.id
) l
WHERE coalesce(l.received_at < now() - i.silent_s * interval '1 second', true)

-- name: set_offline
UPDATE devices d SET status = 'offline' FROM unnest(%(ids)s::bigint[], %(silent_s)s::double precision[]) AS i (id, silent_s)
WHERE d.id = i.id AND d.status = 'online' AND NOT EXISTS (
    SELECT 1 FROM sensors s JOIN sensor_readings_latest l ON l.sensor_id = s.id
    WHERE s.device_id = d.id AND l.received_at >= now() - i.silent_s * interval '1 second')

-- name: write_predictions
INSERT INTO predictions (sensor_id, model_id, predicted_value, confidence, target_timestamp, is_anomaly, anomaly_score)
SELECT p.sensor_id, p.model_id, p.value, p.confidence, from_us(p.target_us), p.is_anomaly, p.score
FROM unnest(%(sensor_ids)s::bigint[], %(model_ids)s::text[], %(values)s::double precision[],
            %(confidences)s::double precision[], %(target_us)s::bigint[], %(anomalies)s::boolean[],
            %(scores)s::double precision[])
     AS p (sensor_id, model_id, value, confidence, target_us, is_anomaly, score)
JOIN sensors s ON s.id = p.sensor_id  -- it may be gone
ORDER BY p.sensor_id, p.target_us
ON CONFLICT (sensor_id, target_timestamp, model_id) DO NOTHING

-- name: expire_predictions
DELETE FROM predictions WHERE id IN (
    SELECT id FROM predictions WHERE predicted_at < now() - %(days)s * interval '1 day' LIMIT 10000)

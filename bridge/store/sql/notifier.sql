-- What the notifier asks. A row of alert_notifications is pending, sending, and then sent, failed or suppressed.

-- name: describe
SELECT s.id, s.name, s.sensor_type, coalesce(s.unit, ''), d.id, d.device_uuid::text, d.name
FROM sensors s JOIN devices d ON d.id = s.device_id
WHERE s.id = ANY (%(ids)s::bigint[])

-- name: recent
-- When each sensor was last notified on each channel, by kind and severity.
SELECT sensor_id, channel, kind, severity, to_us(max(created_at))
FROM alert_notifications
WHERE sensor_id = ANY (%(sensors)s::bigint[]) AND status <> 'suppressed'
  AND created_at > now() - %(seconds)s * interval '1 second'
GROUP BY sensor_id, channel, kind, severity

-- name: spans
SELECT id, to_us(triggered_at), to_us(resolved_at) FROM alerts WHERE id = ANY (%(ids)s::bigint[]) AND resolved_at IS NOT NULL

-- name: record
INSERT INTO alert_notifications (alert_id, channel, status, event_id, rule, sensor_id, kind, severity, title, body, details,
                                 due_at, digest, repeat_s)
SELECT a.id, n.channel, CASE WHEN n.suppressed THEN 'suppressed' ELSE 'pending' END, n.event_id, n.rule, n.sensor_id, n.kind,
       n.severity, n.title, n.body, n.details::jsonb, from_us(n.due_us), n.digest, n.repeat_s
FROM unnest(%(alert_ids)s::bigint[], %(channels)s::text[], %(event_ids)s::text[], %(rules)s::text[], %(sensor_ids)s::bigint[],
            %(kinds)s::text[], %(severities)s::text[], %(titles)s::text[], %(bodies)s::text[], %(details)s::text[],
            %(due_us)s::bigint[], %(digests)s::boolean[], %(repeats_s)s::double precision[], %(suppressed)s::boolean[])
     AS n (alert_id, channel, event_id, rule, sensor_id, kind, severity, title, body, details, due_us, digest, repeat_s,
           suppressed)
LEFT JOIN alerts a ON a.id = n.alert_id  -- it may be gone, with its sensor
ON CONFLICT (event_id, channel) DO NOTHING

-- name: backlog
-- Messages of the last minute, seconds since the last digest of too many, what is due, and for how long.
SELECT
    (SELECT count(DISTINCT message) FROM alert_notifications
     WHERE channel = %(channel)s AND status = 'sent' AND sent_at > now() - interval '1 minute'),
    (SELECT extract(epoch FROM now() - max(sent_at))::double precision FROM alert_notifications
     WHERE channel = %(channel)s AND status = 'sent' AND sent_at > now() - interval '1 day' AND message LIKE 'digest-%%'),
    count(*) FILTER (WHERE NOT digest), count(*) FILTER (WHERE digest),
    coalesce(extract(epoch FROM now() - min(due_at) FILTER (WHERE NOT digest)), 0)::double precision
FROM alert_notifications
WHERE channel = %(channel)s AND ((status = 'pending' AND due_at <= now())
    OR (status = 'sending' AND claimed_at < now() - %(forgotten_s)s * interval '1 second'))

-- name: take
UPDATE alert_notifications SET status = 'sending', claimed_at = now()
WHERE id IN (
    SELECT id FROM alert_notifications
    WHERE channel = %(channel)s AND digest = %(digest)s AND ((status = 'pending' AND due_at <= now())
        OR (status = 'sending' AND claimed_at < now() - %(forgotten_s)s * interval '1 second'))
    ORDER BY id LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
RETURNING id, event_id, kind, severity, title, body, details::text, attempts

-- name: settle_sent
UPDATE alert_notifications SET status = 'sent', sent_at = now(), error = NULL, message = %(message)s, attempts = attempts + 1
WHERE id = ANY (%(ids)s::bigint[])

-- name: settle_failed
UPDATE alert_notifications
SET attempts = attempts + 1, error = %(error)s, claimed_at = NULL, due_at = now() + %(retry_s)s * interval '1 second',
    status = CASE WHEN created_at < now() - %(give_up_s)s * interval '1 second' THEN 'failed' ELSE 'pending' END
WHERE id = ANY (%(ids)s::bigint[])

-- name: repeat
-- Alerts that are still active, and nobody has acknowledged: once more. The new row carries the repetition on.
INSERT INTO alert_notifications (alert_id, channel, status, event_id, rule, sensor_id, kind, severity, title, body, details,
                                 repeat_s)
SELECT n.alert_id, n.channel, 'pending', split_part(n.event_id, '+', 1) || '+' || n.id, n.rule, n.sensor_id, n.kind,
       n.severity, n.title, n.body, n.details, n.repeat_s
FROM alert_notifications n JOIN alerts a ON a.id = n.alert_id AND a.status = 'active'
WHERE n.status = 'sent' AND n.kind = 'alert' AND n.repeat_s > 0 AND n.sent_at <= now() - n.repeat_s * interval '1 second'
  AND NOT EXISTS (SELECT 1 FROM alert_notifications m
                  WHERE m.event_id = split_part(n.event_id, '+', 1) || '+' || n.id AND m.channel = n.channel)
  AND n.channel = ANY (%(channels)s::text[])
ON CONFLICT (event_id, channel) DO NOTHING

-- name: expire
DELETE FROM alert_notifications WHERE id IN (
    SELECT id FROM alert_notifications
    WHERE created_at < now() - %(days)s * interval '1 day' AND status NOT IN ('pending', 'sending')
    LIMIT 10000)

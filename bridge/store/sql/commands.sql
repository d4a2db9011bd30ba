-- Commands to devices, and what MQTT sessions are subscribed to: what the running service and the commands ask.

-- name: add_command
SELECT id::text, is_new, refusal
FROM add_command_v1(%(uuid)s::uuid, %(payload)s::json, %(expires_s)s, %(key)s, %(most)s)

-- name: show_commands
-- Of one device, the newest first; one command where `id` is given. What has expired is so before anybody notes it.
SELECT c.id::text AS command_id, d.device_uuid::text, c.payload::text,
       CASE WHEN c.state = 'queued' AND c.expires_at <= now() THEN 'expired' ELSE c.state END AS state,
       c.created_at, c.expires_at, c.sent_at, c.delivered_at, c.finished_at, c.result::text
FROM commands c JOIN devices d ON d.id = c.device_id
WHERE d.device_uuid = %(uuid)s::uuid AND (%(id)s::uuid IS NULL OR c.id = %(id)s::uuid)
ORDER BY c.created_at DESC, c.id LIMIT %(limit)s

-- name: device_exists
SELECT 1 FROM devices WHERE device_uuid = %(uuid)s::uuid

-- name: claim_commands
-- What is due is this process's for `lease` seconds: skip locked, no two get the same.
UPDATE commands c
SET due_at = now() + %(lease_s)s * interval '1 second', attempts = attempts + 1
FROM devices d
WHERE d.id = c.device_id AND c.id IN (
    SELECT o.id FROM commands o
    WHERE o.state = 'queued' AND o.sent_at IS NULL AND o.due_at <= now() AND o.expires_at > now()
    ORDER BY o.created_at, o.id LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
RETURNING c.id::text, d.device_uuid::text, c.payload::text, to_us(c.expires_at), to_us(c.created_at)

-- name: command_sent
UPDATE commands SET sent_at = now() WHERE id = %(id)s::uuid

-- name: postpone_command
UPDATE commands SET due_at = now() + %(after_s)s * interval '1 second' WHERE id = %(id)s::uuid AND state = 'queued'

-- name: command_answered
-- Only the device that was commanded answers; the first final answer stands, also one that comes after the expiry.
UPDATE commands c
SET state = %(state)s,
    delivered_at = coalesce(c.delivered_at, now()),
    sent_at = coalesce(c.sent_at, now()),
    finished_at = CASE WHEN %(state)s <> 'delivered' THEN now() END,
    result = CASE WHEN %(state)s <> 'delivered' THEN %(result)s::json END
FROM devices d
WHERE d.id = c.device_id AND d.device_uuid = %(uuid)s::uuid AND c.id = %(id)s::uuid AND c.state NOT IN ('done', 'failed')
RETURNING c.id

-- name: expire_commands
UPDATE commands SET state = 'expired', finished_at = expires_at
WHERE id IN (SELECT id FROM commands WHERE state = 'queued' AND expires_at <= now() LIMIT 1000 FOR UPDATE SKIP LOCKED)

-- name: forget_commands
DELETE FROM commands WHERE id IN (
    SELECT id FROM commands WHERE created_at < now() - %(days)s * interval '1 day' AND expires_at < now() LIMIT 10000)

-- name: recall_subscriptions
SELECT filters FROM mqtt_subscriptions WHERE client_id = %(client_id)s AND broker = %(broker)s

-- name: remember_subscriptions
INSERT INTO mqtt_subscriptions (client_id, broker, filters) VALUES (%(client_id)s, %(broker)s, %(filters)s)
ON CONFLICT (client_id, broker) DO UPDATE SET filters = excluded.filters, changed_at = now()

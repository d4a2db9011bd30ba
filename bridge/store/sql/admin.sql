-- What operators ask, through the commands.

-- name: act_as
-- Who the rows of audit_log are of, for the rest of the session.
SELECT set_config('iot_bridge.actor', %(actor)s, false), set_config('iot_bridge.door', 'cli', false),
       set_config('iot_bridge.address', %(address)s, false)

-- name: note_action
-- What no trigger notes: changes of quarantine, which the storing of readings changes as well.
INSERT INTO audit_log (actor, door, action, subject, after, address)
VALUES (current_setting('iot_bridge.actor'), current_setting('iot_bridge.door'), %(action)s, %(subject)s, %(after)s,
        nullif(current_setting('iot_bridge.address'), ''))

-- name: list_audit
SELECT at::text, actor, door, action, subject, before, after, address FROM audit_log
WHERE (%(since)s::timestamptz IS NULL OR at >= %(since)s::timestamptz)
  AND (%(actor)s::text IS NULL OR actor = %(actor)s)
  AND (%(action)s::text IS NULL OR action = %(action)s OR starts_with(action, %(action)s || '.'))
  AND (%(subject)s::text IS NULL OR subject = %(subject)s)
ORDER BY id DESC LIMIT %(limit)s

-- name: add_device
INSERT INTO devices (name) VALUES (%(name)s) RETURNING id, device_uuid::text

-- name: add_sensor
INSERT INTO sensors (device_id, name, sensor_type, unit) VALUES (%(device_id)s, %(name)s, %(sensor_type)s, %(unit)s)
RETURNING id AS sensor_id, sensor_uuid::text, name, sensor_type, unit

-- name: list_devices
SELECT d.id AS device_id, d.device_uuid::text, d.name, d.status, d.last_seen_at::text, count(s.id) AS sensors
FROM devices d LEFT JOIN sensors s ON s.device_id = d.id
GROUP BY d.id ORDER BY d.id LIMIT %(limit)s

-- name: find_device
SELECT id AS device_id, device_uuid::text, name, status, last_seen_at::text FROM devices
WHERE device_uuid = %(uuid)s::uuid OR id = %(id)s::bigint

-- name: find_device_named
SELECT id AS device_id, device_uuid::text, name FROM devices WHERE name = %(name)s ORDER BY id LIMIT 1

-- name: device_sensors
SELECT s.id AS sensor_id, s.sensor_uuid::text, s.name, s.sensor_type, s.unit, s.is_active, s.operational_state,
       l.latest_value, l.latest_timestamp::text, s.external_id, s.unit_in
FROM sensors s LEFT JOIN sensor_readings_latest l ON l.sensor_id = s.id
WHERE s.device_id = %(device_id)s ORDER BY s.id

-- name: device_keys
SELECT id AS key_id, left(api_key_hash, 8) AS hash_prefix, is_active, created_at::text, expires_at::text, last_used_at::text,
       revoked_at::text
FROM device_api_keys WHERE device_id = %(device_id)s ORDER BY id

-- name: set_device_status
UPDATE devices SET status = %(status)s WHERE id = %(device_id)s

-- name: add_device_key
INSERT INTO device_api_keys (device_id, api_key_hash, mosquitto_hash, expires_at)
VALUES (%(device_id)s, %(hash)s, %(mosquitto)s, %(expires_at)s::timestamptz) RETURNING id

-- name: revoke_older_device_keys
-- Two active keys at most: the newest one that still works stays beside the one that is about to be made.
UPDATE device_api_keys SET is_active = false, revoked_at = now()
WHERE device_id = %(device_id)s AND is_active AND id NOT IN (
    SELECT id FROM device_api_keys
    WHERE device_id = %(device_id)s AND is_active AND (expires_at IS NULL OR expires_at > now()) ORDER BY id DESC LIMIT 1)

-- name: revoke_device_keys
UPDATE device_api_keys SET is_active = false, revoked_at = now()
WHERE device_id = %(device_id)s AND is_active AND (%(key_id)s::bigint IS NULL OR id = %(key_id)s) RETURNING id

-- name: add_api_key
INSERT INTO api_keys (name, api_key_hash, expires_at, scopes, all_devices)
VALUES (%(name)s, %(hash)s, %(expires_at)s::timestamptz, %(scopes)s::text[], %(all)s) RETURNING id

-- name: allow_api_key_device
INSERT INTO api_key_devices (api_key_id, device_id) VALUES (%(key_id)s, %(device)s) ON CONFLICT DO NOTHING

-- name: list_api_keys
-- `devices`: their UUIDs, NULL for every device.
SELECT k.id AS key_id, k.name, k.is_active, k.created_at::text, k.expires_at::text, k.last_used_at::text, k.revoked_at::text,
       k.scopes, CASE WHEN NOT k.all_devices THEN array(
           SELECT d.device_uuid::text FROM api_key_devices x JOIN devices d ON d.id = x.device_id
           WHERE x.api_key_id = k.id ORDER BY d.id) END AS devices
FROM api_keys k ORDER BY k.id

-- name: revoke_api_key
UPDATE api_keys SET is_active = false, revoked_at = now() WHERE id = %(key_id)s AND is_active RETURNING id

-- name: add_mqtt_account
INSERT INTO mqtt_accounts (name, role, password_hash, mosquitto_hash)
VALUES (%(name)s, %(role)s, %(hash)s, %(mosquitto)s) RETURNING id

-- name: list_mqtt_accounts
SELECT id AS account_id, name, role, is_active, created_at::text, revoked_at::text FROM mqtt_accounts ORDER BY id

-- name: revoke_mqtt_account
UPDATE mqtt_accounts SET is_active = false, revoked_at = now() WHERE name = %(name)s AND is_active RETURNING id

-- name: mosquitto_users
-- One password for each device, its newest usable key's: the file has room for no second one.
SELECT DISTINCT ON (d.id) d.device_uuid::text AS name, 'device' AS role, k.mosquitto_hash
FROM devices d JOIN device_api_keys k ON k.device_id = d.id
WHERE d.status <> 'disabled' AND k.is_active AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
ORDER BY d.id, k.id DESC

-- name: mosquitto_accounts
SELECT name, role, mosquitto_hash FROM mqtt_accounts WHERE is_active ORDER BY id

-- name: newest_access_change
SELECT max(id) AS id FROM registry_changes WHERE kind IN ('key', 'device', 'account', 'all')

-- name: sensor_exists
SELECT id FROM sensors WHERE id = %(sensor_id)s

-- name: mapped_sensors
-- Of these ids and UUIDs, and whoever has one of these external ids.
SELECT s.id AS sensor_id, s.sensor_uuid::text, s.name, d.name AS device, s.unit, s.unit_in, s.external_id
FROM sensors s JOIN devices d ON d.id = s.device_id
WHERE s.id = ANY (%(ids)s::bigint[]) OR s.sensor_uuid = ANY (%(uuids)s::uuid[])
   OR s.external_id = ANY (%(external_ids)s::text[])

-- name: free_external_ids
-- Names may change hands among these sensors, and each is one sensor's at any moment.
UPDATE sensors s SET external_id = NULL
FROM unnest(%(ids)s::bigint[], %(external_ids)s::text[]) AS m (id, external_id)
WHERE s.id = m.id AND s.external_id IS NOT NULL AND s.external_id IS DISTINCT FROM m.external_id

-- name: map_sensors
UPDATE sensors s
SET external_id = m.external_id, unit = m.unit, unit_in = m.unit_in, unit_factor = m.factor, unit_offset = m.offs
FROM unnest(%(ids)s::bigint[], %(external_ids)s::text[], %(units)s::text[], %(units_in)s::text[],
            %(factors)s::double precision[], %(offsets)s::double precision[])
    AS m (id, external_id, unit, unit_in, factor, offs)
WHERE s.id = m.id
  AND (s.external_id, s.unit, s.unit_in, s.unit_factor, s.unit_offset)
      IS DISTINCT FROM (m.external_id, m.unit, m.unit_in, m.factor, m.offs)
RETURNING s.id AS sensor_id

-- name: deaf_sensors
-- Sensors with a time in the future in what alerts follow from.
SELECT sensor_id FROM sensor_readings_latest WHERE latest_timestamp > now() OR received_at > now()
UNION SELECT s.id FROM sensors s JOIN devices d ON d.id = s.device_id WHERE d.last_seen_at > now()
UNION SELECT sensor_id FROM alerts WHERE triggered_at > now() OR resolved_at > now()
UNION SELECT sensor_id FROM ml_events WHERE event_code = 'DELTA_SPIKE' AND (created_at > now() OR resolved_at > now())
ORDER BY sensor_id

-- name: recompute_sensor
SELECT before, after, ahead AS readings_ahead, events FROM recompute_sensor_v1(%(sensor_id)s, %(dry_run)s)

-- name: add_threshold
INSERT INTO alert_thresholds (sensor_id, condition_type, threshold_value_min, threshold_value_max, severity)
VALUES (%(sensor_id)s, %(condition)s, %(low)s, %(high)s, %(severity)s) RETURNING id

-- name: replace_threshold
-- One threshold for each severity of a sensor: setting it again replaces it.
UPDATE alert_thresholds SET is_active = false WHERE sensor_id = %(sensor_id)s AND severity = %(severity)s AND is_active

-- name: add_delta_threshold
INSERT INTO delta_thresholds (sensor_id, abs_delta, cooldown_seconds) VALUES (%(sensor_id)s, %(abs_delta)s, %(cooldown)s)
RETURNING id

-- name: clear_delta_thresholds
UPDATE delta_thresholds SET is_active = false WHERE sensor_id = %(sensor_id)s AND is_active

-- name: list_thresholds
SELECT id AS threshold_id, sensor_id, condition_type AS condition, threshold_value_min AS min, threshold_value_max AS max,
       severity
FROM alert_thresholds WHERE is_active AND (%(sensor_id)s::bigint IS NULL OR sensor_id = %(sensor_id)s)
ORDER BY sensor_id, id LIMIT 10000

-- name: clear_thresholds
UPDATE alert_thresholds SET is_active = false WHERE sensor_id = %(sensor_id)s AND is_active RETURNING id

-- name: list_quarantine
SELECT id, code, detail, device_uuid::text, source, topic, reading_index, received_at::text, replayed_at::text,
       coalesce(whole_bytes, length(payload)) AS bytes, coalesce(sender, 'gateway:' || gateway) AS brought_by
FROM quarantine
WHERE (%(code)s::text IS NULL OR code = %(code)s) AND (%(pending)s::boolean IS NOT TRUE OR replayed_at IS NULL)
ORDER BY id DESC LIMIT %(limit)s

-- name: show_quarantine
SELECT id, code, detail, device_id, device_uuid::text, source, topic, gateway, gateway_id, sender, account, reading_index,
       received_at::text, replayed_at::text, whole_bytes, facts, replayed_indexes, payload
FROM quarantine WHERE id = %(id)s

-- name: quarantine_page
-- What a replay needs of some rows, in the order in which they came.
SELECT id, code, device_uuid::text, source, topic, gateway, gateway_id, sender, reading_index, whole_bytes, payload, facts,
       replayed_indexes, to_us(received_at) AS received_us,
       (SELECT d.device_uuid::text FROM devices d WHERE q.sender = 'device:' || d.id) AS sender_device
FROM quarantine q WHERE id = ANY (%(ids)s::bigint[]) ORDER BY received_at, reading_index, id

-- name: quarantine_waiting
-- What was refused because its sensor was unknown, and may be of these sensors (by id, UUID or external id): the oldest
-- after a row (`after_us`, `after_index`, `after_id`). Each row is held against sets that are hashed once: there may be
-- a million of them, and thousands of sensors.
SELECT id, octet_length(payload) AS size, to_us(received_at) AS received_us, reading_index
FROM quarantine q
WHERE code = 'unknown_sensor' AND replayed_at IS NULL AND source <> 'import' AND received_at < 'infinity'
  AND (received_at, reading_index, id)
      > (from_us(%(after_us)s::bigint), %(after_index)s::integer, %(after_id)s::bigint) AND (
    %(refs)s::text[] IS NULL
    OR facts ->> 'sensor' IN (SELECT unnest(%(refs)s::text[]))
    OR device_uuid IN (SELECT d.device_uuid FROM sensors s JOIN devices d ON d.id = s.device_id
                       WHERE s.id::text IN (SELECT unnest(%(refs)s::text[]))
                          OR s.sensor_uuid::text IN (SELECT unnest(%(refs)s::text[]))
                          OR s.external_id IN (SELECT unnest(%(refs)s::text[])))
    OR starts_with(detail, 'no sensor has the external id ')
       AND split_part(substr(detail, 31), '; map it', 1) IN (SELECT unnest(%(refs)s::text[]))
    OR q.topic IN (SELECT 'iot/sensors/' || r || '/readings' FROM unnest(%(refs)s::text[]) r)
    OR device_uuid IS NULL AND starts_with(topic, '/ingest/'))
ORDER BY received_at, reading_index, id LIMIT %(limit)s

-- name: waiting_for
-- How much waits in quarantine for these sensors, or for others of their devices.
SELECT count(*) AS rows FROM quarantine q
WHERE code = 'unknown_sensor' AND replayed_at IS NULL AND source <> 'import' AND (
    facts ->> 'sensor' IN (SELECT unnest(ARRAY[s.id::text, s.sensor_uuid::text, s.external_id]) FROM sensors s
                           WHERE s.id = ANY (%(ids)s::bigint[]))
    OR device_uuid IN (SELECT d.device_uuid FROM sensors s JOIN devices d ON d.id = s.device_id
                       WHERE s.id = ANY (%(ids)s::bigint[]))
    OR EXISTS (SELECT 1 FROM sensors s WHERE s.id = ANY (%(ids)s::bigint[])
               AND starts_with(q.detail, 'no sensor has the external id ' || s.external_id || ';')))

-- name: quarantine_in_order
-- The rows to be replayed, or with `ids` those of them that are there: oldest first, of one message by their places in it.
-- As two arrays: there may be a million of them.
SELECT coalesce(array_agg(id ORDER BY received_at, reading_index, id), '{}') AS ids,
       coalesce(array_agg(octet_length(payload) ORDER BY received_at, reading_index, id), '{}') AS sizes
FROM quarantine
WHERE CASE WHEN %(ids)s::bigint[] IS NULL
           THEN replayed_at IS NULL AND (%(code)s::text IS NULL OR code = %(code)s)
                AND (%(device_id)s::bigint IS NULL OR device_id = %(device_id)s OR device_uuid = %(device_uuid)s::uuid)
           ELSE id = ANY (%(ids)s::bigint[]) END

-- name: quarantine_usage
-- What is held of each account, and what was thinned of it.
SELECT account, CASE WHEN account > 0 THEN 'device' WHEN account < 0 THEN 'gateway' ELSE 'unknown' END AS kind,
       coalesce(d.name, g.name) AS name, coalesce(h.rows, 0) AS rows, coalesce(h.bytes, 0) AS bytes,
       coalesce(t.thinned, 0) AS thinned, t.codes AS thinned_codes, t.thinned_at::text
FROM quarantine_held h
FULL JOIN (SELECT account, sum(thinned)::bigint AS thinned, string_agg(DISTINCT code, ' ' ORDER BY code) AS codes,
                  max(thinned_at) AS thinned_at FROM quarantine_thinned GROUP BY 1) t USING (account)
LEFT JOIN devices d ON d.id = account LEFT JOIN gateways g ON g.id = -account
WHERE h.rows > 0 OR t.thinned > 0
ORDER BY h.bytes DESC NULLS LAST, account LIMIT %(limit)s

-- name: speakers
-- For which devices these gateways may speak now, by id, or by name where only that is known. Revoked: for none.
SELECT g.id AS gateway_id, g.name, g.revoked_at IS NOT NULL AS revoked, g.all_devices,
       coalesce((SELECT array_agg(d.device_uuid::text) FROM gateway_devices x JOIN devices d ON d.id = x.device_id
                 WHERE x.gateway_id = g.id), '{}') AS devices
FROM gateways g WHERE g.id = ANY (%(ids)s::bigint[]) OR g.name = ANY (%(names)s::text[])

-- name: api_key_speakers
-- For which devices these API keys may speak now.
SELECT k.id AS key_id, k.all_devices, array(
           SELECT d.device_uuid::text FROM api_key_devices x JOIN devices d ON d.id = x.device_id WHERE x.api_key_id = k.id
       ) AS devices
FROM api_keys k WHERE k.id = ANY (%(ids)s::bigint[])

-- name: mark_replayed
UPDATE quarantine q SET replayed_at = now()
FROM (SELECT id FROM quarantine WHERE id = ANY (%(ids)s::bigint[]) ORDER BY id FOR NO KEY UPDATE) r WHERE q.id = r.id

-- name: drop_quarantine
SELECT drop_quarantine_v1(%(ids)s::bigint[]) AS dropped

-- name: find_deleted_device
SELECT device_id FROM device_tombstones WHERE device_uuid = %(uuid)s::uuid OR device_id = %(id)s::bigint
ORDER BY device_id DESC LIMIT 1

-- name: ledger
-- pending: received by a living process and not settled yet.
SELECT l.device_id, coalesce(d.device_uuid, t.device_uuid)::text AS device_uuid, coalesce(d.name, t.name) AS name,
       CASE WHEN d.id IS NULL THEN t.deleted_at::text END AS deleted_at, sum(received)::bigint AS received, sum(stored)::bigint AS stored,
       sum(duplicate)::bigint AS duplicate, sum(quarantined)::bigint AS quarantined,
       sum(thinned)::bigint AS thinned, sum(returned)::bigint AS returned,
       sum(received - stored - duplicate - quarantined - thinned - returned)::bigint AS pending
FROM ingest_ledger l LEFT JOIN devices d ON d.id = l.device_id LEFT JOIN device_tombstones t ON t.device_id = l.device_id
WHERE %(device_id)s::bigint IS NULL OR l.device_id = %(device_id)s
GROUP BY l.device_id, d.id, d.device_uuid, d.name, t.device_uuid, t.name, t.deleted_at ORDER BY l.device_id

-- name: recount_readings
-- A deleted sensor's readings stay those of its device.
SELECT coalesce(s.device_id, t.device_id, 0) AS device_id, sum(r.readings)::bigint AS readings
FROM (SELECT sensor_id, count(*) AS readings FROM sensor_readings GROUP BY 1) r
LEFT JOIN sensors s ON s.id = r.sensor_id LEFT JOIN sensor_tombstones t ON t.sensor_id = r.sensor_id GROUP BY 1
UNION ALL
SELECT device_id, dropped FROM readings_dropped

-- name: sensor_moves
SELECT sensor_id, from_device, to_device, moved_at::text FROM sensor_moves ORDER BY moved_at, from_device, to_device

-- name: recount_quarantine
SELECT device_id, count(*) AS rows FROM quarantine GROUP BY 1
UNION ALL
SELECT device_id, dropped FROM quarantine_dropped

-- name: recount_thinned
SELECT device_id, sum(thinned)::bigint AS rows FROM quarantine_thinned GROUP BY 1

-- name: miscounted_quarantine
-- Accounts of which quarantine holds something else than its running totals say; account NULL: the total of all.
SELECT account, coalesce(h.rows, 0) AS rows, coalesce(q.rows, 0) AS found, coalesce(h.bytes, 0) AS bytes,
       coalesce(q.bytes, 0) AS found_bytes
FROM quarantine_held h
FULL JOIN (SELECT account, count(*) AS rows, sum(octet_length(payload)) AS bytes FROM quarantine
           WHERE account IS NOT NULL GROUP BY 1) q USING (account)
WHERE (coalesce(h.rows, 0), coalesce(h.bytes, 0)) <> (coalesce(q.rows, 0), coalesce(q.bytes, 0))
UNION ALL
SELECT NULL, t.rows, h.rows, t.bytes, h.bytes
FROM (SELECT coalesce(sum(rows), 0) AS rows, coalesce(sum(bytes), 0) AS bytes FROM quarantine_total) t,
     (SELECT coalesce(sum(rows), 0) AS rows, coalesce(sum(bytes), 0) AS bytes FROM quarantine_held) h
WHERE (t.rows, t.bytes) <> (h.rows, h.bytes)

-- name: negative_books
SELECT instance, device_id, source FROM ingest_ledger
WHERE received < stored + duplicate + quarantined + thinned + returned LIMIT 20

-- name: sequence_gaps
-- A device counts its packets, its readings, or the readings of each sensor: a number that none of its
-- sensors has is missing in each of these ways of counting.
-- In numeric: a device chooses its sequence numbers, from one end of bigint to the other.
SELECT device_id, span - seen AS missing
FROM (
    SELECT s.device_id, max(r.sequence)::numeric - min(r.sequence) + 1 AS span, count(DISTINCT r.sequence) AS seen
    FROM sensor_readings r JOIN sensors s ON s.id = r.sensor_id WHERE r.sequence IS NOT NULL
    GROUP BY s.device_id
) g
WHERE span > seen ORDER BY device_id LIMIT 1000

-- name: sequence_leaps
-- Of these gaps, those of a million numbers or more: no loss, but a counter that was set, or begun anew.
SELECT device_id, count(*) AS leaps, sum(gap) AS numbers
FROM (
    SELECT device_id, lead(sequence) OVER (PARTITION BY device_id ORDER BY sequence)::numeric - sequence - 1 AS gap
    FROM (SELECT DISTINCT s.device_id, r.sequence FROM sensor_readings r JOIN sensors s ON s.id = r.sensor_id
          WHERE r.sequence IS NOT NULL AND s.device_id = ANY (%(devices)s::bigint[])) n
) g
WHERE gap >= 1000000 GROUP BY device_id ORDER BY device_id

-- name: readings_since
-- Less what waits in the outbox: one statement, so one snapshot.
SELECT r.sensor_id, to_us(r."timestamp") AS ts_us, r.sequence, s.device_id, to_us(r.ingested_at) AS since_us
FROM sensor_readings r JOIN sensors s ON s.id = r.sensor_id
WHERE r.ingested_at > from_us(%(since_us)s) AND NOT EXISTS (
    SELECT 1 FROM (
        SELECT u.sensor_id, u.ts_us, u.sequence
        FROM ingest_outbox o, unnest(o.sensor_ids, o.ts_us, o.sequences) AS u (sensor_id, ts_us, sequence)
    ) w
    WHERE w.sensor_id = r.sensor_id AND w.ts_us = to_us(r."timestamp") AND w.sequence IS NOT DISTINCT FROM r.sequence)
ORDER BY r.ingested_at DESC LIMIT %(limit)s

-- name: alerts_since
-- By the time of their reading: when they were stored is not kept.
SELECT e.sensor_id, e.kind, e.alert_id, e.device_id, e.ts_us AS since_us
FROM (
    SELECT sensor_id, 'alert' AS kind, id AS alert_id, device_id, to_us(triggered_at) AS ts_us FROM alerts
    WHERE triggered_at > from_us(%(since_us)s)
    UNION ALL
    SELECT sensor_id, 'warning', id, device_id, to_us(created_at) FROM ml_events
    WHERE created_at > from_us(%(since_us)s) AND event_code = 'DELTA_SPIKE'
) e
WHERE NOT EXISTS (
    SELECT 1 FROM ingest_outbox o, jsonb_array_elements(o.alerts) a
    WHERE a ->> 'kind' = e.kind AND (a ->> 'alert_id')::bigint = e.alert_id)
ORDER BY e.ts_us DESC LIMIT %(limit)s

-- name: add_gateway
INSERT INTO gateways (name, all_devices) VALUES (%(name)s, %(all)s) RETURNING id

-- name: find_gateway
SELECT g.id AS gateway_id, g.name, CASE WHEN g.revoked_at IS NOT NULL THEN 'revoked' WHEN g.enrolled_at IS NULL THEN 'new'
       ELSE 'enrolled' END AS status, g.all_devices, g.version, g.created_at::text, g.enrolled_at::text, g.revoked_at::text,
       g.last_seen_at::text, g.state, g.state_at::text, extract(epoch FROM now() - g.last_seen_at)::float8 AS silent_s,
       -- Its host's clock less ours, when it said so; within a second that is the way.
       CASE WHEN jsonb_typeof(g.state -> 'host_us') = 'number'
            THEN round((g.state ->> 'host_us')::numeric / 1000000 - extract(epoch FROM g.state_at)) END AS clock_ahead_s,
       (SELECT max(c.expires_at)::text FROM gateway_codes c
        WHERE c.gateway_id = g.id AND c.used_at IS NULL AND c.expires_at > now()) AS code_until
FROM gateways g WHERE g.name = %(name)s

-- name: gateway_clock_estimates
SELECT boot_id, first_at::text, last_at::text, earlier_s FROM gateway_clock_estimates
WHERE gateway_id = %(gateway)s ORDER BY last_at DESC LIMIT 20

-- name: list_gateways
SELECT g.name, CASE WHEN g.revoked_at IS NOT NULL THEN 'revoked' WHEN g.enrolled_at IS NULL THEN 'new' ELSE 'enrolled' END
       AS status, CASE WHEN g.all_devices THEN 'all' ELSE count(x.device_id)::text END AS devices, g.version,
       g.last_seen_at::text,
       -- In numeric: a state may have been stored before its numbers had bounds. What was not reported is unknown, and
       -- an empty backlog has no oldest: greatest and least pass over nulls.
       CASE WHEN g.state ->> 'backlog_records' IS NOT NULL
            THEN least(greatest((g.state ->> 'backlog_records')::numeric, 0), 1e18)::bigint END AS backlog,
       CASE WHEN g.state ->> 'oldest_us' IS NOT NULL
            THEN least(greatest(round(extract(epoch FROM now()) - (g.state ->> 'oldest_us')::numeric / 1000000), -1e18),
                       1e18)::bigint END AS oldest_s,
       g.state, extract(epoch FROM now() - g.last_seen_at)::float8 AS silent_s,
       -- Its host's clock less ours, when it said so; within a second that is the way.
       CASE WHEN jsonb_typeof(g.state -> 'host_us') = 'number'
            THEN round((g.state ->> 'host_us')::numeric / 1000000 - extract(epoch FROM g.state_at)) END AS clock_ahead_s,
       (SELECT max(c.expires_at)::text FROM gateway_codes c
        WHERE c.gateway_id = g.id AND c.used_at IS NULL AND c.expires_at > now()) AS code_until
FROM gateways g LEFT JOIN gateway_devices x ON x.gateway_id = g.id
GROUP BY g.id ORDER BY g.name

-- name: gateway_devices
SELECT d.id AS device_id, d.device_uuid::text, d.name, d.status
FROM gateway_devices x JOIN devices d ON d.id = x.device_id WHERE x.gateway_id = %(gateway)s ORDER BY d.id

-- name: gateway_untied
-- Devices that came through this gateway of late, are registered, and that it may not speak for.
SELECT d.id AS device_id, d.device_uuid::text, d.name, count(*) AS quarantined
FROM quarantine q JOIN devices d ON d.device_uuid = q.device_uuid JOIN gateways g ON g.id = %(gateway)s
WHERE q.gateway = g.name AND q.created_at > now() - interval '30 days' AND q.replayed_at IS NULL AND NOT g.all_devices
  AND NOT EXISTS (SELECT 1 FROM gateway_devices x WHERE x.gateway_id = g.id AND x.device_id = d.id)
GROUP BY d.id ORDER BY count(*) DESC, d.id LIMIT 20

-- name: allow_device
INSERT INTO gateway_devices (gateway_id, device_id) VALUES (%(gateway)s, %(device)s) ON CONFLICT DO NOTHING

-- name: forbid_device
DELETE FROM gateway_devices WHERE gateway_id = %(gateway)s AND device_id = %(device)s RETURNING device_id

-- name: add_gateway_code
-- One code at a time: an older one that was not used ends.
WITH older AS (DELETE FROM gateway_codes WHERE gateway_id = %(gateway)s AND used_at IS NULL)
INSERT INTO gateway_codes (code_hash, gateway_id, expires_at)
VALUES (%(hash)s, %(gateway)s, now() + %(minutes)s * interval '1 minute') RETURNING expires_at::text

-- name: revoke_gateway
WITH keys AS (UPDATE gateway_keys SET revoked_at = now() WHERE gateway_id = %(gateway)s AND revoked_at IS NULL),
codes AS (DELETE FROM gateway_codes WHERE gateway_id = %(gateway)s AND used_at IS NULL)
UPDATE gateways SET revoked_at = now() WHERE id = %(gateway)s AND revoked_at IS NULL RETURNING id

-- name: admit_gateway
-- It was revoked and is to be enrolled again.
UPDATE gateways SET revoked_at = NULL WHERE id = %(gateway)s AND revoked_at IS NOT NULL

-- name: begin_epoch
-- Greater than every epoch before it, also than those that a restored dump does not know of.
UPDATE registry_epoch SET epoch = greatest(epoch + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint),
       begun_at = now()
RETURNING epoch, begun_at::text

-- name: gateway_balance
-- What each gateway says it handed over, beside what the doors booked as coming from it. What was sent twice
-- was booked twice here, the second time as a duplicate, and once there.
SELECT g.name, b.spooled, b.delivered, l.kept, l.kept + l.duplicate AS came, b.shed, b.lost
FROM gateways g
JOIN (SELECT gateway_id, least(sum(spooled::numeric + quarantined + spooled_before), 1e18)::bigint AS spooled,
             least(sum(stored::numeric + known + refused + delivered_before), 1e18)::bigint AS delivered,
             least(sum(shed::numeric + shed_before), 1e18)::bigint AS shed,
             least(sum(lost::numeric + lost_before), 1e18)::bigint AS lost
      FROM gateway_books GROUP BY 1) b ON b.gateway_id = g.id
LEFT JOIN LATERAL (
    SELECT coalesce(sum(i.stored + i.quarantined + i.thinned), 0)::bigint AS kept, coalesce(sum(i.duplicate), 0)::bigint AS duplicate
    FROM ingest_ledger i WHERE split_part(i.source, '@', 2) = g.name) l ON true
ORDER BY g.name

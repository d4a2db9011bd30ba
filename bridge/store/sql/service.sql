-- What the running service asks.

-- name: register_instance
INSERT INTO ingest_instances (name) VALUES (%(name)s) RETURNING id

-- name: hold_instance
SELECT pg_advisory_lock(7001, %(instance)s)

-- name: end_former_session
SELECT pg_terminate_backend(l.pid, 5000) FROM pg_locks l
WHERE l.locktype = 'advisory' AND l.classid = 7001 AND l.objid = %(instance)s::integer::oid AND l.objsubid = 2 AND l.granted
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())

-- name: last_batch
SELECT last_batch FROM ingest_instances WHERE id = %(instance)s

-- name: ingest_batch
-- Payloads in binary: as text, 64 KiB of them take psycopg and the server 3 ms, ten times as long.
SELECT outcomes, classes, stored_us, outbox_id, alerts, after_instance, after_outbox, thinned, codes, details, stored_ts_us
FROM ingest_batch_v3(
    %(instance)s::integer, %(batch)s::bigint,
    %(device_ids)s::bigint[], %(sensor_ids)s::bigint[], %(values)s::double precision[], %(ts_us)s::bigint[],
    %(sequences)s::bigint[], %(received_us)s::bigint[], %(clocks)s::text[], %(keys)s::text[],
    %(fresh)s::boolean[], %(redelivered)s::boolean[], %(sources)s::text[], %(gateways)s::text[],
    %(q_codes)s::text[], %(q_details)s::text[], %(q_payloads)b::bytea[], %(q_sources)s::text[], %(q_topics)s::text[],
    %(q_gateways)s::text[], %(q_device_ids)s::bigint[], %(q_device_uuids)s::uuid[], %(q_indexes)s::integer[],
    %(q_received_us)s::bigint[], %(q_identities)s::text[],
    %(l_device_ids)s::bigint[], %(l_sources)s::text[], %(l_received)s::bigint[], %(l_returned)s::bigint[],
    %(published)s::bigint[],
    %(q_senders)s::text[], %(q_account_uuids)s::uuid[], %(q_remedies)s::boolean[], %(q_quota)s::bigint[],
    %(max_ahead_us)s::bigint,
    %(q_facts)s::text[], %(q_replays)s::bigint[], %(replays)s::bigint[], %(replay_indexes)s::integer[])

-- name: note_retained
-- Readings of retained messages that are the newest of their sensors already: see bridge/store/retained.py.
INSERT INTO ingest_event_keys (key, seen_at)
SELECT r.key, now()
FROM unnest(%(keys)s::text[], %(sensor_ids)s::bigint[], %(values)s::double precision[], %(before)s::double precision[])
     AS r (key, sensor_id, value, before)
LEFT JOIN sensor_readings_latest l USING (sensor_id)
WHERE coalesce(r.before, l.latest_value) = r.value
ORDER BY r.key
ON CONFLICT DO NOTHING
RETURNING key

-- name: find_sensors
SELECT s.id, s.sensor_uuid::text, s.device_id, d.device_uuid::text, s.sensor_type, s.is_active,
       d.status = 'disabled', s.min_value, s.max_value, s.external_id, s.unit_factor, s.unit_offset
FROM sensors s JOIN devices d ON d.id = s.device_id
WHERE s.id = ANY (%s::bigint[])
UNION ALL
SELECT s.id, s.sensor_uuid::text, s.device_id, d.device_uuid::text, s.sensor_type, s.is_active,
       d.status = 'disabled', s.min_value, s.max_value, s.external_id, s.unit_factor, s.unit_offset
FROM sensors s JOIN devices d ON d.id = s.device_id
WHERE s.sensor_uuid = ANY (%s::uuid[])
UNION ALL
SELECT s.id, s.sensor_uuid::text, s.device_id, d.device_uuid::text, s.sensor_type, s.is_active,
       d.status = 'disabled', s.min_value, s.max_value, s.external_id, s.unit_factor, s.unit_offset
FROM sensors s JOIN devices d ON d.id = s.device_id
WHERE s.external_id = ANY (%s::text[])

-- name: find_keys
SELECT k.api_key_hash, 'device', k.device_id, d.device_uuid::text, to_us(k.expires_at), d.status = 'disabled',
       '{}'::text[], NULL::text[]
FROM device_api_keys k JOIN devices d ON d.id = k.device_id
WHERE k.api_key_hash = ANY (%(hashes)s::text[]) AND k.is_active AND k.revoked_at IS NULL
  AND (k.expires_at IS NULL OR k.expires_at > now())
UNION ALL
SELECT k.api_key_hash, 'api', k.id, NULL, to_us(k.expires_at), false, k.scopes,
       CASE WHEN NOT k.all_devices THEN array(
           SELECT d.device_uuid::text FROM api_key_devices x JOIN devices d ON d.id = x.device_id WHERE x.api_key_id = k.id) END
FROM api_keys k
WHERE k.api_key_hash = ANY (%(hashes)s::text[]) AND k.is_active AND k.revoked_at IS NULL
  AND (k.expires_at IS NULL OR k.expires_at > now())

-- name: key_index
-- In one value: a million keys are 8 MB, and no million objects.
SELECT coalesce(string_agg(decode(left(hash, 16), 'hex'), ''::bytea ORDER BY hash COLLATE "C"), ''::bytea)
FROM (
    SELECT api_key_hash FROM device_api_keys WHERE is_active UNION ALL SELECT api_key_hash FROM api_keys WHERE is_active
) k (hash) WHERE hash ~ '^[0-9a-f]{64}$'

-- name: note_failed_logins
INSERT INTO audit_log (actor, door, action, after, address)
SELECT l.account, l.door, 'login.refused', jsonb_build_object(
           'count', l.count, 'first', from_us(l.first_us), 'last', from_us(l.last_us)), nullif(l.address, '')
FROM unnest(%(doors)s::text[], %(addresses)s::text[], %(accounts)s::text[], %(counts)s::bigint[], %(first_us)s::bigint[],
            %(last_us)s::bigint[]) AS l (door, address, account, count, first_us, last_us)

-- name: expire_audit
DELETE FROM audit_log WHERE id IN (
    SELECT id FROM audit_log WHERE at < now() - %(days)s * interval '1 day' ORDER BY at LIMIT 10000)

-- name: trim_refused_logins
-- Whoever tries to get in may write these: the newest are kept, so many and no more.
DELETE FROM audit_log WHERE action = 'login.refused' AND id <= (
    SELECT id FROM audit_log WHERE action = 'login.refused' ORDER BY id DESC OFFSET %(kept)s LIMIT 1)

-- name: mqtt_accounts
SELECT name, role, password_hash FROM mqtt_accounts WHERE is_active

-- name: bridge_client_ids
SELECT DISTINCT client_id FROM mqtt_subscriptions

-- name: device_may_connect
-- No row: it is not registered.
SELECT d.status <> 'disabled' AND EXISTS (
    SELECT 1 FROM device_api_keys k
    WHERE k.device_id = d.id AND k.is_active AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now()))
FROM devices d WHERE d.device_uuid = %(uuid)s::uuid

-- name: cut_off
-- Devices that lost a key, or were disabled, in the last seconds; each with the id of the change.
SELECT c.id, d.device_uuid::text
FROM registry_changes c JOIN device_api_keys k ON k.api_key_hash = c.ref JOIN devices d ON d.id = k.device_id
WHERE c.kind = 'key' AND NOT k.is_active AND c.changed_at > clock_timestamp() - %(seconds)s * interval '1 second'
UNION ALL
SELECT c.id, d.device_uuid::text
FROM registry_changes c JOIN devices d ON d.device_uuid::text = c.ref
WHERE c.kind = 'device' AND d.status = 'disabled' AND c.changed_at > clock_timestamp() - %(seconds)s * interval '1 second'

-- name: touch_keys
WITH used AS (SELECT hash, from_us(us) AS at FROM unnest(%(hashes)s::text[], %(used_us)s::bigint[]) AS u (hash, us)),
device AS (UPDATE device_api_keys SET last_used_at = greatest(last_used_at, used.at) FROM used WHERE api_key_hash = used.hash)
UPDATE api_keys SET last_used_at = greatest(last_used_at, used.at) FROM used WHERE api_key_hash = used.hash

-- name: changes
SELECT id, kind, ref FROM registry_changes WHERE changed_at > clock_timestamp() - %(seconds)s * interval '1 second'

-- name: sensor_status
-- `threshold_kind` says of which table threshold_id is. The forecast is the newest of those that are still due; of several
-- made at once, the next.
SELECT s.id,
       (to_jsonb(a) - ARRAY['resolved_at', 'is_past', 'resolution']
        || jsonb_build_object('threshold_kind', CASE WHEN a.threshold_id IS NOT NULL THEN 'alert' END))::text,
       (to_jsonb(w) - ARRAY['resolved_at', 'resolution'] || jsonb_build_object(
            'threshold_id', w.payload -> 'delta_threshold_id',
            'threshold_kind', CASE WHEN w.payload ? 'delta_threshold_id' THEN 'delta' END))::text,
       (to_jsonb(p) - 'is_anomaly' - 'anomaly_score' - 'explanation')::text,
       (SELECT to_jsonb(r) FROM (
            SELECT id, threshold_id, severity, triggered_value, triggered_at, resolved_at, is_past AS past, resolution
            FROM alerts WHERE sensor_id = s.id AND status = 'resolved' ORDER BY triggered_at DESC, id DESC LIMIT 1) r)::text,
       s.operational_state, d.status, d.device_uuid::text
FROM sensors s JOIN devices d ON d.id = s.device_id
LEFT JOIN LATERAL (SELECT * FROM alerts a WHERE a.sensor_id = s.id AND a.status IN ('active', 'acknowledged') LIMIT 1) a
    ON true
LEFT JOIN LATERAL (
    SELECT * FROM ml_events e
    WHERE e.sensor_id = s.id AND e.status IN ('active', 'acknowledged') AND e.event_type = 'warning' LIMIT 1
) w ON true
LEFT JOIN LATERAL (
    SELECT * FROM predictions p WHERE p.sensor_id = s.id AND p.target_timestamp > now()
    ORDER BY p.predicted_at DESC, p.target_timestamp, p.id DESC LIMIT 1
) p ON true
WHERE s.id = %(sensor_id)s

-- name: own_unpublished
SELECT o.id, o.instance, o.stored_us, o.sensor_ids, o."values", o.ts_us, o.sequences, o.received_us, o.keys,
       o.sources, o.gateways,
       (SELECT array_agg(s.sensor_type ORDER BY u.ord)
        FROM unnest(o.sensor_ids) WITH ORDINALITY AS u (id, ord) LEFT JOIN sensors s ON s.id = u.id),
       (SELECT array_agg(s.device_id ORDER BY u.ord)
        FROM unnest(o.sensor_ids) WITH ORDINALITY AS u (id, ord) LEFT JOIN sensors s ON s.id = u.id),
       o.classes, coalesce(o.alert_events, o.alerts), o.after_instance, o.after_outbox
FROM ingest_outbox o
WHERE o.instance = %(own)s AND o.id > %(above)s
ORDER BY o.id LIMIT %(limit)s

-- name: orphans
-- Of processes that are gone: one holds advisory lock (7001, id) while it lives.
SELECT o.id, o.instance, o.stored_us, o.sensor_ids, o."values", o.ts_us, o.sequences, o.received_us, o.keys,
       o.sources, o.gateways,
       (SELECT array_agg(s.sensor_type ORDER BY u.ord)
        FROM unnest(o.sensor_ids) WITH ORDINALITY AS u (id, ord) LEFT JOIN sensors s ON s.id = u.id),
       (SELECT array_agg(s.device_id ORDER BY u.ord)
        FROM unnest(o.sensor_ids) WITH ORDINALITY AS u (id, ord) LEFT JOIN sensors s ON s.id = u.id),
       o.classes, coalesce(o.alert_events, o.alerts), o.after_instance, o.after_outbox
FROM ingest_outbox o
WHERE o.instance <> %(own)s AND NOT EXISTS (
    SELECT 1 FROM pg_locks l
    WHERE l.locktype = 'advisory' AND l.classid = 7001 AND l.objid = o.instance::oid AND l.objsubid = 2 AND l.granted
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))
ORDER BY o.id LIMIT %(limit)s

-- name: try_sweep
-- For the rest of the transaction. A process of the release before takes the same lock for its session.
SELECT pg_try_advisory_xact_lock(7004, 0)

-- name: delete_outbox
DELETE FROM ingest_outbox WHERE id = ANY (%(ids)s::bigint[])

-- name: outbox_exists
SELECT id FROM ingest_outbox WHERE id = ANY (%(ids)s::bigint[])

-- name: outbox_stats
SELECT count(*), coalesce(extract(epoch FROM now() - min(created_at)), 0)::double precision FROM ingest_outbox

-- name: fold_dead_instances
SELECT fold_dead_instances_v1()

-- name: review_silenced_alerts
SELECT review_silenced_alerts_v1()

-- name: ledger_imbalance
-- Instance 0 keeps the books of processes that are gone, and of direct calls of the procedures.
SELECT coalesce(sum(CASE WHEN instance IN (0, %(at_rest)s::integer) THEN abs(pending) ELSE greatest(0, -pending) END), 0)::bigint
FROM (SELECT instance, received - stored - duplicate - quarantined - thinned - returned AS pending
      FROM ingest_ledger) books

-- name: quarantine_total
SELECT coalesce(sum(rows), 0)::bigint, coalesce(sum(bytes), 0)::bigint FROM quarantine_total

-- name: make_partitions
SELECT ensure_partitions(now() - interval '32 days', now() + %(days)s * interval '1 day')

-- name: drop_partitions
SELECT drop_partitions(now() - %(days)s * interval '1 day')

-- name: expire_quarantine
SELECT drop_quarantine_v1(array(SELECT id FROM quarantine WHERE created_at < now() - %(days)s * interval '1 day' LIMIT 10000))

-- name: expire_event_keys
-- Retained messages come again at every subscription, so their keys are kept longer.
DELETE FROM ingest_event_keys
WHERE seen_at < now() - CASE WHEN key LIKE 'r-%%' THEN interval '90 days' ELSE interval '7 days' END

-- name: expire_changes
DELETE FROM registry_changes WHERE changed_at < now() - interval '1 hour'

-- name: time_of_day
SELECT to_us(clock_timestamp())

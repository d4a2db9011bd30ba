-- What the running service asks of gateways.

-- name: find_keys
SELECT k.key_hash, 'gateway', g.id, NULL, NULL::bigint, g.revoked_at IS NOT NULL OR k.revoked_at IS NOT NULL
FROM gateway_keys k JOIN gateways g ON g.id = k.gateway_id
WHERE k.key_hash = ANY (%(hashes)s::text[])

-- name: key_index
-- Of keys, and of the one-time codes that can still be used; as the one of service.sql.
SELECT coalesce(string_agg(decode(left(hash, 16), 'hex'), ''::bytea ORDER BY hash COLLATE "C"), ''::bytea)
FROM (
    SELECT key_hash FROM gateway_keys UNION ALL
    SELECT code_hash FROM gateway_codes WHERE used_at IS NULL AND expires_at > now()
) k (hash) WHERE hash ~ '^[0-9a-f]{64}$'

-- name: gateway
SELECT g.name, g.all_devices,
       coalesce((SELECT array_agg(d.device_uuid::text) FROM gateway_devices x JOIN devices d ON d.id = x.device_id
                 WHERE x.gateway_id = g.id), '{}')
FROM gateways g WHERE g.id = %(gateway)s

-- name: act_as_gateway
-- Who the rows of audit_log are of, for the rest of the transaction. Without an id: who has a one-time code.
SELECT set_config('iot_bridge.actor', coalesce((SELECT 'gateway ' || g.name FROM gateways g WHERE g.id = %(gateway)s::bigint),
                                               'one-time code'), true),
       set_config('iot_bridge.door', 'http', true), set_config('iot_bridge.address', %(address)s, true)

-- name: enrol
-- A code works once.
WITH code AS (
    UPDATE gateway_codes c SET used_at = now()
    FROM gateways g
    WHERE c.code_hash = %(code)s AND c.used_at IS NULL AND c.expires_at > now()
      AND g.id = c.gateway_id AND g.revoked_at IS NULL
    RETURNING c.gateway_id, g.name
), key AS (
    INSERT INTO gateway_keys (gateway_id, key_hash) SELECT gateway_id, %(hash)s FROM code
), seen AS (
    UPDATE gateways g SET enrolled_at = now(), version = %(version)s FROM code WHERE g.id = code.gateway_id
)
SELECT name FROM code

-- name: enrolled_before
-- What there is to say of a code that cannot be used (any more), and whether it was used for this key, which still holds:
-- the answer was lost, and is given again.
SELECT g.name, to_char(c.used_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI "UTC"'),
       to_char(c.expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI "UTC"'), g.revoked_at IS NOT NULL,
       c.used_at IS NOT NULL AND g.revoked_at IS NULL AND EXISTS (
           SELECT 1 FROM gateway_keys k
           WHERE k.gateway_id = g.id AND k.key_hash = %(hash)s AND k.revoked_at IS NULL AND k.created_at = c.used_at)
FROM gateway_codes c JOIN gateways g ON g.id = c.gateway_id WHERE c.code_hash = %(code)s

-- name: rotate
-- The key that asks stays usable until the new one is used.
WITH made AS (
    INSERT INTO gateway_keys (gateway_id, key_hash) VALUES (%(gateway)s, %(hash)s) RETURNING gateway_id
)
UPDATE gateway_keys SET revoked_at = now()
WHERE gateway_id = %(gateway)s AND key_hash <> %(present)s AND key_hash <> %(hash)s AND revoked_at IS NULL

-- name: settle_rotation
UPDATE gateway_keys k SET revoked_at = now()
WHERE k.gateway_id = %(gateway)s AND k.revoked_at IS NULL
  AND k.id < (SELECT u.id FROM gateway_keys u WHERE u.key_hash = %(present)s)

-- name: report
UPDATE gateways SET last_seen_at = now(), state_at = CASE WHEN %(state)s::jsonb IS NULL THEN state_at ELSE now() END,
       state = coalesce(%(state)s::jsonb, state), version = coalesce(%(state)s::jsonb ->> 'version', version)
WHERE id = %(gateway)s

-- name: note_estimates
-- Keeps those of the newest 100 boots.
WITH said AS (
    SELECT * FROM jsonb_to_recordset(%(estimates)s::jsonb) AS r (boot_id text, first_us bigint, last_us bigint, earlier_us bigint)
), kept AS (
    INSERT INTO gateway_clock_estimates AS e (gateway_id, boot_id, first_at, last_at, earlier_s)
    SELECT %(gateway)s, boot_id, from_us(first_us), from_us(last_us), earlier_us / 1e6 FROM said
    ORDER BY boot_id  -- two lanes of a gateway meet in the same rows
    ON CONFLICT (gateway_id, boot_id) DO UPDATE
    SET first_at = least(e.first_at, excluded.first_at), last_at = greatest(e.last_at, excluded.last_at),
        earlier_s = greatest(e.earlier_s, excluded.earlier_s), noted_at = now()
)
DELETE FROM gateway_clock_estimates e WHERE e.gateway_id = %(gateway)s AND e.boot_id IN (
    SELECT x.boot_id FROM gateway_clock_estimates x WHERE x.gateway_id = %(gateway)s ORDER BY x.noted_at DESC OFFSET 100)

-- name: report_books
-- Keeps the lines of the gateway's own devices, of device 0, and of those that it once spoke for; returns how many are others'.
-- `run` is the gateway's process. A line that another run has, lower than before, began anew, or is of an older spool: what
-- the one before it said is kept beside it, so that the books balance; what waited in the spool then is lost, at most.
WITH said AS (
    SELECT r.*, r.device_id = 0 OR g.all_devices
           OR EXISTS (SELECT 1 FROM gateway_devices x WHERE x.gateway_id = g.id AND x.device_id = r.device_id)
           OR EXISTS (SELECT 1 FROM gateway_books k WHERE k.gateway_id = g.id AND k.device_id = r.device_id) AS is_own
    FROM gateways g, jsonb_to_recordset(%(books)s::jsonb) AS r (
        device_id bigint, source text, received bigint, returned bigint, spooled bigint, duplicate bigint, quarantined bigint,
        stored bigint, known bigint, refused bigint, shed bigint, lost bigint)
    WHERE g.id = %(gateway)s
), kept AS (
    INSERT INTO gateway_books AS b (gateway_id, device_id, source, received, returned, spooled, duplicate, quarantined,
                                    stored, known, refused, shed, lost, run)
    SELECT %(gateway)s, device_id, source, received, returned, spooled, duplicate, quarantined, stored, known, refused, shed,
           lost, %(run)s::text
    FROM said WHERE is_own
    ORDER BY device_id, source
    ON CONFLICT (gateway_id, device_id, source) DO UPDATE
    SET received = excluded.received, returned = excluded.returned, spooled = excluded.spooled,
        duplicate = excluded.duplicate, quarantined = excluded.quarantined, stored = excluded.stored,
        known = excluded.known, refused = excluded.refused, shed = excluded.shed, lost = excluded.lost, reported_at = now(),
        run = coalesce(excluded.run, b.run),
        spooled_before = b.spooled_before
            + CASE WHEN (excluded.received, excluded.spooled) >= (b.received, b.spooled) THEN 0
                   ELSE b.spooled + b.quarantined END,
        delivered_before = b.delivered_before
            + CASE WHEN (excluded.received, excluded.spooled) >= (b.received, b.spooled) THEN 0
                   ELSE greatest(b.stored + b.known + b.refused - excluded.stored - excluded.known - excluded.refused, 0) END,
        shed_before = b.shed_before
            + CASE WHEN (excluded.received, excluded.spooled) >= (b.received, b.spooled) THEN 0
                   ELSE greatest(b.shed - excluded.shed, 0) END,
        lost_before = b.lost_before
            + CASE WHEN (excluded.received, excluded.spooled) >= (b.received, b.spooled) THEN 0
                   ELSE greatest(b.lost - excluded.lost, 0) + greatest(
                       b.spooled + b.quarantined - b.stored - b.known - b.refused - b.shed - b.lost
                       - (excluded.spooled + excluded.quarantined - excluded.stored - excluded.known - excluded.refused
                          - excluded.shed - excluded.lost), 0) END
    -- Two requests of one process in a crossfire: its books only ever grow.
    WHERE (excluded.received, excluded.spooled) >= (b.received, b.spooled)
          OR excluded.run IS NOT NULL AND b.run IS DISTINCT FROM excluded.run
)
SELECT count(*) FROM said WHERE NOT is_own

-- name: snapshot_devices
SELECT d.id, d.device_uuid::text, d.name, d.status = 'disabled',
       coalesce((SELECT array_agg(k.api_key_hash ORDER BY k.id) FROM device_api_keys k
                 WHERE k.device_id = d.id AND k.is_active AND k.revoked_at IS NULL
                   AND (k.expires_at IS NULL OR k.expires_at > now())), '{}'),
       coalesce((SELECT array_agg(coalesce(to_us(k.expires_at), 0) ORDER BY k.id) FROM device_api_keys k
                 WHERE k.device_id = d.id AND k.is_active AND k.revoked_at IS NULL
                   AND (k.expires_at IS NULL OR k.expires_at > now())), '{}'),
       coalesce((SELECT array_agg(coalesce(k.mosquitto_hash, '') ORDER BY k.id) FROM device_api_keys k
                 WHERE k.device_id = d.id AND k.is_active AND k.revoked_at IS NULL
                   AND (k.expires_at IS NULL OR k.expires_at > now())), '{}')
FROM devices d JOIN gateways g ON g.id = %(gateway)s
WHERE g.all_devices OR EXISTS (SELECT 1 FROM gateway_devices x WHERE x.gateway_id = g.id AND x.device_id = d.id)
ORDER BY d.id

-- name: snapshot_sensors
SELECT s.id, s.sensor_uuid::text, s.device_id, s.name, s.sensor_type, s.unit, s.is_active, s.min_value, s.max_value,
       s.external_id, s.unit_factor, s.unit_offset
FROM sensors s WHERE s.device_id = ANY (%(devices)s::bigint[]) ORDER BY s.id

-- name: snapshot_thresholds
SELECT t.id, t.sensor_id, t.condition_type, t.threshold_value_min, t.threshold_value_max, t.severity
FROM alert_thresholds t JOIN sensors s ON s.id = t.sensor_id
WHERE t.is_active AND s.device_id = ANY (%(devices)s::bigint[]) ORDER BY t.id

-- name: last_issue
SELECT e.epoch, g.snapshot_issue, g.snapshot_hash FROM gateways g, registry_epoch e WHERE g.id = %(gateway)s

-- name: lock_issue
SELECT 1 FROM gateways WHERE id = %(gateway)s FOR NO KEY UPDATE

-- name: raise_issue
UPDATE gateways SET snapshot_issue = snapshot_issue + 1, snapshot_hash = %(hash)s
WHERE id = %(gateway)s AND snapshot_hash IS DISTINCT FROM %(hash)s

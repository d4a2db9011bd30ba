-- Remembers the keys of a batch, each with the sensor and the value of the reading that it is of, and compares those that
-- are known. `duplicates` are the places (from 1) of the same reading sent again, `conflicts` those of another sensor or
-- value; `details` say of the latter what was there. Under store_readings_v2.
--
-- In order: a row is compared with the one before it in the batch that took its key, else with the table. NULL in a row of
-- an older release is equal to anything.
--
-- `<record>|<key>` of a row that is not redelivered: what it is to its sender, and to the gateway that sends it again until
-- it is answered (`record_key`). A record that is known is a duplicate; a new one takes the key. That sees every earlier
-- commit of the record: its sensor is locked by then.
CREATE OR REPLACE FUNCTION compare_event_keys(
    p_keys text[], p_redelivered boolean[], p_sensor_ids bigint[], p_values double precision[],
    p_outcomes smallint[],  -- only rows with 0 count
    p_now timestamptz,
    OUT duplicates integer[], OUT conflicts integer[], OUT details text[]
) LANGUAGE plpgsql AS $body$
DECLARE
    v_known integer[];
BEGIN
    IF false = ANY (p_redelivered) THEN
        WITH named AS MATERIALIZED (
            SELECT k.ord::integer, m.record, k.sensor_id, k.value,
                   row_number() OVER (PARTITION BY m.record ORDER BY k.ord) AS nth
            FROM unnest(p_keys, p_redelivered, p_sensor_ids, p_values, p_outcomes)
                 WITH ORDINALITY AS k (key, redelivered, sensor_id, value, outcome, ord),
                 LATERAL (SELECT left(k.key, -strpos(reverse(k.key), '|')) AS record) m
            WHERE NOT k.redelivered AND k.outcome = 0 AND k.key LIKE 'g-%|%'
        ), remembered AS (
            INSERT INTO ingest_event_keys AS e (key, seen_at, sensor_id, value)
            SELECT record, p_now, sensor_id, value FROM named WHERE nth = 1 ORDER BY record
            ON CONFLICT (key) DO UPDATE SET seen_at = excluded.seen_at
        )
        SELECT array_agg(n.ord) INTO v_known FROM named n
        WHERE n.nth > 1 OR EXISTS (SELECT 1 FROM ingest_event_keys e WHERE e.key = n.record);
        SELECT array_agg(CASE WHEN i.ord = ANY (v_known) THEN NULL
                              WHEN coalesce(i.redelivered, true) OR i.key NOT LIKE 'g-%|%' THEN i.key
                              ELSE right(i.key, strpos(reverse(i.key), '|') - 1) END ORDER BY i.ord)
        INTO p_keys FROM unnest(p_keys, p_redelivered) WITH ORDINALITY AS i (key, redelivered, ord);
    END IF;

    WITH keyed AS MATERIALIZED (
        SELECT k.ord::integer, k.key, k.sensor_id, k.value, e.sensor_id AS kept_sensor, e.value AS kept_value,
               NOT coalesce(k.redelivered, true)
               OR (e.key IS NULL AND row_number() OVER (PARTITION BY k.key ORDER BY k.ord) = 1) AS takes
        FROM unnest(p_keys, p_redelivered, p_sensor_ids, p_values, p_outcomes)
             WITH ORDINALITY AS k (key, redelivered, sensor_id, value, outcome, ord)
        LEFT JOIN ingest_event_keys e ON e.key = k.key
        WHERE k.key IS NOT NULL AND k.outcome = 0
    ), former AS MATERIALIZED (
        SELECT *, max(CASE WHEN takes THEN ord END) OVER (PARTITION BY key ORDER BY ord
                                                          ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS former_ord
        FROM keyed
    ), remembered AS (
        INSERT INTO ingest_event_keys AS e (key, seen_at, sensor_id, value)
        SELECT f.key, p_now, p_sensor_ids[f.taken], p_values[f.taken]
        FROM (SELECT key, max(CASE WHEN takes THEN ord END) AS taken FROM former GROUP BY key) f ORDER BY f.key
        ON CONFLICT (key) DO UPDATE
        SET seen_at = excluded.seen_at, sensor_id = coalesce(excluded.sensor_id, e.sensor_id),
            value = coalesce(excluded.value, e.value)
    ), compared AS (
        SELECT ord, key, sensor_id, value,
               CASE WHEN former_ord IS NULL THEN kept_sensor ELSE p_sensor_ids[former_ord] END AS former_sensor,
               CASE WHEN former_ord IS NULL THEN kept_value ELSE p_values[former_ord] END AS former_value
        FROM former WHERE NOT takes
    ), judged AS (
        -- A message's key is made of its payload: only a sensor whose unit was changed gives another value.
        SELECT *, (coalesce(former_sensor <> sensor_id, false) OR coalesce(former_value <> value, false))
                  AND key !~ '^[mr]-[0-9a-f]{32}-' AS differs FROM compared
    )
    SELECT array_agg(ord ORDER BY ord) FILTER (WHERE NOT differs), array_agg(ord ORDER BY ord) FILTER (WHERE differs),
           array_agg(CASE WHEN former_sensor <> sensor_id
                          THEN format('its key was sent with %s of sensor %s before, now with %s of sensor %s',
                                      former_value, former_sensor, value, sensor_id)
                          ELSE format('its key was sent with %s before, now with %s', former_value, value)
                     END ORDER BY ord) FILTER (WHERE differs)
    INTO duplicates, conflicts, details FROM judged;
    duplicates := duplicates || v_known;
END $body$;

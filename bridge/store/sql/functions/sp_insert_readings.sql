-- A contract with other systems, for a batch: the name, the parameters and the columns stay; docs/database.md.
-- Outcomes: 0 stored, 1 duplicate, 2 refused, and in quarantine: `codes` and `details` say why, NULL where nothing is.
-- Classes: 0 clean, 1 warning, 2 alert. `alerts` are the events for iot:alerts, in the order of their readings.
-- `stored_ts_us` are the times of the rows, NULL where all are as given. Raises 23503 for a sensor that does not exist, 22023
-- for arrays that do not go together and for a source that is none, 23502 for a value or a time that is NULL.
CREATE OR REPLACE FUNCTION sp_insert_readings(
    p_sensor_ids   bigint[],
    p_values       double precision[],
    p_ts_us        bigint[],
    p_sequences    bigint[] DEFAULT NULL,
    p_received_us  bigint[] DEFAULT NULL,
    p_device_time  boolean[] DEFAULT NULL,  -- whether ts is the device's own; NULL: where there is no key
    p_keys         text[] DEFAULT NULL,
    p_fresh        boolean[] DEFAULT NULL,  -- false: says nothing of the device being alive
    p_redelivered  boolean[] DEFAULT NULL,  -- false: a known key belongs to an older reading
    p_sources      text[] DEFAULT NULL,
    p_gateways     text[] DEFAULT NULL,
    p_instance     integer DEFAULT 0,
    OUT outcomes       smallint[],
    OUT classes        smallint[],
    OUT stored_us      bigint,
    OUT outbox_id      bigint,
    OUT alerts         jsonb,
    OUT after_instance integer[],
    OUT after_outbox   bigint[],
    OUT codes          text[],
    OUT details        text[],
    OUT stored_ts_us   bigint[]
) LANGUAGE plpgsql AS $body$
DECLARE
    v_name text;
BEGIN
    -- The relay reads these arrays side by side.
    SELECT a.name INTO v_name FROM (VALUES
        (true, 'p_sensor_ids', array_dims(p_sensor_ids), p_sensor_ids IS NULL),
        (true, 'p_values', array_dims(p_values), p_values IS NULL),
        (true, 'p_ts_us', array_dims(p_ts_us), p_ts_us IS NULL),
        (false, 'p_sequences', array_dims(p_sequences), p_sequences IS NULL),
        (false, 'p_received_us', array_dims(p_received_us), p_received_us IS NULL),
        (false, 'p_device_time', array_dims(p_device_time), p_device_time IS NULL),
        (false, 'p_keys', array_dims(p_keys), p_keys IS NULL),
        (false, 'p_fresh', array_dims(p_fresh), p_fresh IS NULL),
        (false, 'p_redelivered', array_dims(p_redelivered), p_redelivered IS NULL),
        (false, 'p_sources', array_dims(p_sources), p_sources IS NULL),
        (false, 'p_gateways', array_dims(p_gateways), p_gateways IS NULL)
    ) a (is_needed, name, dims, is_absent)
    WHERE CASE WHEN a.is_absent THEN a.is_needed
               ELSE a.dims IS DISTINCT FROM '[1:' || nullif(cardinality(p_sensor_ids), 0) || ']' END
    LIMIT 1;
    IF v_name IS NOT NULL THEN
        RAISE EXCEPTION '% is not an array of one dimension, from 1 on, as long as p_sensor_ids', v_name USING ERRCODE = '22023';
    END IF;
    IF array_position(p_values, NULL) > 0 OR array_position(p_ts_us, NULL) > 0 THEN
        RAISE EXCEPTION 'a value or a time of the batch is NULL: leave the reading out' USING ERRCODE = '23502';
    END IF;
    p_sources := array_replace(p_sources, NULL, 'sql');
    IF NOT p_sources <@ ARRAY['http', 'mqtt', 'import', 'replay', 'sql'] THEN
        RAISE EXCEPTION 'p_sources has none but http, mqtt, import, replay and sql' USING ERRCODE = '22023';
    END IF;
    SELECT * INTO outcomes, classes, stored_us, outbox_id, alerts, after_instance, after_outbox, codes, details, stored_ts_us
    FROM store_readings_v2(p_sensor_ids, p_values, p_ts_us, p_sequences, p_received_us,
                           CASE WHEN p_device_time IS NOT NULL OR p_keys IS NOT NULL THEN
                               (SELECT array_agg(CASE WHEN coalesce(d.own, d.key IS NULL) THEN 'device' ELSE 'server' END
                                                 ORDER BY d.ord)
                                FROM unnest(p_device_time, p_keys) WITH ORDINALITY AS d (own, key, ord)) END,
                           p_keys, p_fresh, p_redelivered, p_sources, p_gateways, p_instance, 300000000);
END $body$;

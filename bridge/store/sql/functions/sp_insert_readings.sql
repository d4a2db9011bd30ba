-- A contract with other systems, for a batch: the name, the parameters and the columns stay; docs/database.md.
-- Outcomes: 0 stored, 1 duplicate, 2 refused, and in quarantine: `codes` and `details` say why, NULL where nothing is.
-- Classes: 0 clean, 1 warning, 2 alert. `alerts` are the events for iot:alerts, in the order of their readings.
-- `stored_ts_us` are the times of the rows, NULL where all are as given. Raises 23503 for a sensor that does not exist.
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
BEGIN
    SELECT * INTO outcomes, classes, stored_us, outbox_id, alerts, after_instance, after_outbox, codes, details, stored_ts_us
    FROM store_readings_v2(p_sensor_ids, p_values, p_ts_us, p_sequences, p_received_us,
                           CASE WHEN p_device_time IS NOT NULL OR p_keys IS NOT NULL THEN
                               (SELECT array_agg(CASE WHEN coalesce(d.own, d.key IS NULL) THEN 'device' ELSE 'server' END
                                                 ORDER BY d.ord)
                                FROM unnest(p_device_time, p_keys) WITH ORDINALITY AS d (own, key, ord)) END,
                           p_keys, p_fresh, p_redelivered, p_sources, p_gateways, p_instance, 300000000);
END $body$;

-- sp_insert_readings of the release before: calls return through it that were
-- under way while functions were replaced. Goes with the next release.
CREATE OR REPLACE FUNCTION former_sp_insert_readings(
    p_sensor_ids   bigint[],
    p_values       double precision[],
    p_ts_us        bigint[],
    p_sequences    bigint[] DEFAULT NULL,
    p_received_us  bigint[] DEFAULT NULL,
    p_device_time  boolean[] DEFAULT NULL,  -- whether ts is the device's own
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
    OUT after_outbox   bigint[]
) LANGUAGE plpgsql AS $body$
BEGIN
    SELECT * INTO outcomes, classes, stored_us, outbox_id, alerts, after_instance, after_outbox
    FROM store_readings_v1(p_sensor_ids, p_values, p_ts_us, p_sequences, p_received_us, p_device_time, p_keys, p_fresh,
                           p_redelivered, p_sources, p_gateways, p_instance);
END $body$;

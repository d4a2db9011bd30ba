-- For calls that are under way while functions are replaced: they call it by name. See ingest_batch_v2.
CREATE OR REPLACE FUNCTION store_readings_v1(
    p_sensor_ids   bigint[],
    p_values       double precision[],
    p_ts_us        bigint[],
    p_sequences    bigint[],
    p_received_us  bigint[],
    p_device_time  boolean[],  -- whether ts is the device's own
    p_keys         text[],
    p_fresh        boolean[],  -- false: says nothing of the device being alive
    p_redelivered  boolean[],  -- false: a known key belongs to an older reading
    p_sources      text[],
    p_gateways     text[],
    p_instance     integer,
    OUT outcomes       smallint[],
    OUT classes        smallint[],
    OUT stored_us      bigint,
    OUT outbox_id      bigint,
    OUT alerts         jsonb,
    OUT after_instance integer[],
    OUT after_outbox   bigint[]
) LANGUAGE plpgsql AS $body$
DECLARE
    r record;
BEGIN
    r := store_readings_v2(p_sensor_ids, p_values, p_ts_us, p_sequences, p_received_us,
                           former_clocks(p_device_time, p_keys, p_gateways), p_keys, p_fresh, p_redelivered, p_sources,
                           p_gateways, p_instance, CASE p_instance WHEN 0 THEN 300000000 END);
    PERFORM raise_unknown_outcomes(p_ts_us, r.stored_ts_us, r.codes, r.details);
    outcomes := r.outcomes; classes := r.classes; stored_us := r.stored_us; outbox_id := r.outbox_id;
    alerts := r.alerts; after_instance := r.after_instance; after_outbox := r.after_outbox;
END $body$;

-- For processes of the release before quarantine had quotas: what they send is kept whole.
CREATE OR REPLACE FUNCTION ingest_batch_v1(
    p_instance integer, p_batch bigint,
    p_device_ids bigint[], p_sensor_ids bigint[], p_values double precision[], p_ts_us bigint[], p_sequences bigint[],
    p_received_us bigint[], p_device_time boolean[], p_keys text[], p_fresh boolean[], p_redelivered boolean[],
    p_sources text[], p_gateways text[],
    q_codes text[], q_details text[], q_payloads bytea[], q_sources text[], q_topics text[], q_gateways text[],
    q_device_ids bigint[], q_device_uuids uuid[], q_indexes integer[], q_received_us bigint[], q_identities text[],
    l_device_ids bigint[], l_sources text[], l_received bigint[], l_returned bigint[],
    p_published bigint[],
    OUT outcomes smallint[], OUT classes smallint[], OUT stored_us bigint, OUT outbox_id bigint, OUT alerts jsonb,
    OUT after_instance integer[], OUT after_outbox bigint[]
) LANGUAGE plpgsql AS $body$
BEGIN
    SELECT * INTO outcomes, classes, stored_us, outbox_id, alerts, after_instance, after_outbox
    FROM ingest_batch_v2(
        p_instance, p_batch,
        p_device_ids, p_sensor_ids, p_values, p_ts_us, p_sequences,
        p_received_us, p_device_time, p_keys, p_fresh, p_redelivered,
        p_sources, p_gateways,
        q_codes, q_details, q_payloads, q_sources, q_topics, q_gateways,
        q_device_ids, q_device_uuids, q_indexes, q_received_us, q_identities,
        l_device_ids, l_sources, l_received, l_returned,
        p_published, NULL, NULL, NULL, NULL);
END $body$;

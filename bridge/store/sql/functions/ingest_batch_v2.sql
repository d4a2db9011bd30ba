-- For processes of the release before identities had values: what they know no outcome for is refused, and they keep it in
-- quarantine, from where it can be replayed.
CREATE OR REPLACE FUNCTION ingest_batch_v2(
    p_instance integer, p_batch bigint,
    p_device_ids bigint[], p_sensor_ids bigint[], p_values double precision[], p_ts_us bigint[], p_sequences bigint[],
    p_received_us bigint[], p_device_time boolean[], p_keys text[], p_fresh boolean[], p_redelivered boolean[],
    p_sources text[], p_gateways text[],
    q_codes text[], q_details text[], q_payloads bytea[], q_sources text[], q_topics text[], q_gateways text[],
    q_device_ids bigint[], q_device_uuids uuid[], q_indexes integer[], q_received_us bigint[], q_identities text[],
    l_device_ids bigint[], l_sources text[], l_received bigint[], l_returned bigint[],
    p_published bigint[],
    q_senders text[], q_account_uuids uuid[], q_remedies boolean[], q_quota bigint[],  -- see keep_quarantined
    OUT outcomes smallint[], OUT classes smallint[], OUT stored_us bigint, OUT outbox_id bigint, OUT alerts jsonb,
    OUT after_instance integer[], OUT after_outbox bigint[],
    OUT thinned text[]  -- codes of rows for quarantine that were not kept, one for each
) LANGUAGE plpgsql AS $body$
DECLARE
    r record;
BEGIN
    r := ingest_batch_v3(
        p_instance, p_batch,
        p_device_ids, p_sensor_ids, p_values, p_ts_us, p_sequences,
        p_received_us, former_clocks(p_device_time, p_keys, p_gateways), p_keys, p_fresh, p_redelivered,
        p_sources, p_gateways,
        q_codes, q_details, q_payloads, q_sources, q_topics, q_gateways,
        q_device_ids, q_device_uuids, q_indexes, q_received_us, q_identities,
        l_device_ids, l_sources, l_received, l_returned,
        p_published, q_senders, q_account_uuids, q_remedies, q_quota, NULL, NULL, NULL, NULL, NULL);
    PERFORM raise_unknown_outcomes(p_ts_us, r.stored_ts_us, r.codes, r.details);
    outcomes := r.outcomes; classes := r.classes; stored_us := r.stored_us; outbox_id := r.outbox_id;
    alerts := former_alert_events(r.alerts); after_instance := r.after_instance; after_outbox := r.after_outbox; thinned := r.thinned;
END $body$;

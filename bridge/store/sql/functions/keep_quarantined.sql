-- For processes of the release before quarantine kept what the door knew; under ingest_batch_v2.
CREATE OR REPLACE FUNCTION keep_quarantined(
    p_codes text[], p_details text[], p_payloads bytea[], p_sources text[], p_topics text[], p_gateways text[],
    p_device_ids bigint[], p_device_uuids uuid[], p_indexes integer[], p_received_us bigint[], p_identities text[],
    p_senders text[], p_account_uuids uuid[], p_remedies boolean[], p_quota bigint[]
) RETURNS smallint[] LANGUAGE sql AS $body$
    SELECT keep_quarantined_v2(p_codes, p_details, p_payloads, p_sources, p_topics, p_gateways, p_device_ids, p_device_uuids,
                               p_indexes, p_received_us, p_identities, p_senders, p_account_uuids, p_remedies, p_quota, NULL,
                               NULL)
$body$;

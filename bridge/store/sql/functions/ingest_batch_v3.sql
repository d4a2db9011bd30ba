-- What the service calls: everything a batch writes, in one round trip. A reading that is refused (outcome 2) is not in the
-- books yet: it comes again, as a row for quarantine.
CREATE OR REPLACE FUNCTION ingest_batch_v3(
    p_instance integer, p_batch bigint,
    p_device_ids bigint[], p_sensor_ids bigint[], p_values double precision[], p_ts_us bigint[], p_sequences bigint[],
    p_received_us bigint[], p_clocks text[], p_keys text[], p_fresh boolean[], p_redelivered boolean[],
    p_sources text[], p_gateways text[],
    q_codes text[], q_details text[], q_payloads bytea[], q_sources text[], q_topics text[], q_gateways text[],
    q_device_ids bigint[], q_device_uuids uuid[], q_indexes integer[], q_received_us bigint[], q_identities text[],
    l_device_ids bigint[], l_sources text[], l_received bigint[], l_returned bigint[],
    p_published bigint[],
    q_senders text[], q_account_uuids uuid[], q_remedies boolean[], q_quota bigint[],  -- see keep_quarantined_v2
    p_max_ahead_us bigint,
    q_facts text[], q_replays bigint[],
    p_replays bigint[], p_replay_indexes integer[],  -- the row of quarantine that a reading comes from; NULL: none does
    OUT outcomes smallint[], OUT classes smallint[], OUT stored_us bigint, OUT outbox_id bigint, OUT alerts jsonb,
    OUT after_instance integer[], OUT after_outbox bigint[],
    OUT thinned text[],  -- codes of rows for quarantine that were not kept, one for each
    OUT codes text[], OUT details text[], OUT stored_ts_us bigint[]  -- see store_readings_v2
) LANGUAGE plpgsql AS $body$
DECLARE
    r       record;
    v_fates smallint[] := '{}';
BEGIN
    IF cardinality(p_published) > 0 THEN
        DELETE FROM ingest_outbox WHERE id = ANY (p_published);
    END IF;
    IF p_replays IS NOT NULL THEN
        PERFORM hold_replayed(p_replays, p_replay_indexes);
    END IF;
    r := store_readings_v2(p_sensor_ids, p_values, p_ts_us, p_sequences, p_received_us, p_clocks, p_keys, p_fresh,
                           p_redelivered, p_sources, p_gateways, p_instance, p_max_ahead_us);
    outcomes := r.outcomes; classes := r.classes; stored_us := r.stored_us; outbox_id := r.outbox_id;
    alerts := r.alerts; after_instance := r.after_instance; after_outbox := r.after_outbox;
    codes := r.codes; details := r.details; stored_ts_us := r.stored_ts_us;
    IF p_replays IS NOT NULL THEN
        PERFORM note_replayed(p_replays, p_replay_indexes, outcomes);
    END IF;

    thinned := '{}';
    IF cardinality(q_codes) > 0 THEN
        v_fates := keep_quarantined_v2(q_codes, q_details, q_payloads, q_sources, q_topics, q_gateways, q_device_ids,
                                       q_device_uuids, q_indexes, q_received_us, q_identities, q_senders,
                                       q_account_uuids, q_remedies, q_quota, q_facts, q_replays);
        SELECT coalesce(array_agg(q.code), '{}') INTO thinned FROM unnest(q_codes, v_fates) AS q (code, fate) WHERE q.fate = 2;
    END IF;

    INSERT INTO ingest_ledger AS l (instance, device_id, source, received, returned, stored, duplicate, quarantined, thinned)
    SELECT p_instance, b.device_id, b.source, sum(b.received), sum(b.returned), sum(b.stored), sum(b.duplicate),
           sum(b.quarantined), sum(b.thinned)
    FROM (
        SELECT d.device_id, d.source, d.received, d.returned, 0 AS stored, 0 AS duplicate, 0 AS quarantined, 0 AS thinned
        FROM unnest(l_device_ids, l_sources, l_received, l_returned) AS d (device_id, source, received, returned)
        UNION ALL
        SELECT s.device_id, CASE WHEN s.replay IS NULL THEN s.source || coalesce('@' || s.gateway, '') ELSE 'replay' END,
               0, 0, (s.outcome = 0)::integer, (s.outcome = 1)::integer, 0, 0
        FROM unnest(p_device_ids, p_sources, p_gateways, outcomes, p_replays)
             AS s (device_id, source, gateway, outcome, replay)
        UNION ALL
        SELECT q.device_id, CASE WHEN q.replay IS NULL THEN q.source || coalesce('@' || q.gateway, '') ELSE 'replay' END,
               0, 0, 0, (q.fate = 1)::integer, (q.fate IN (0, 3))::integer, (q.fate = 2)::integer
        FROM unnest(q_device_ids, q_sources, q_gateways, v_fates, q_replays)
             AS q (device_id, source, gateway, fate, replay)
    ) b
    GROUP BY b.device_id, b.source
    ON CONFLICT (instance, device_id, source) DO UPDATE
    SET received = greatest(l.received, excluded.received), returned = greatest(l.returned, excluded.returned),
        stored = l.stored + excluded.stored, duplicate = l.duplicate + excluded.duplicate,
        quarantined = l.quarantined + excluded.quarantined, thinned = l.thinned + excluded.thinned;

    UPDATE ingest_instances SET last_batch = p_batch, last_seen_at = now() WHERE id = p_instance;
    IF NOT FOUND THEN
        -- Our books were closed as those of a dead process: stop before they are written twice.
        RAISE EXCEPTION 'instance % is not registered', p_instance USING ERRCODE = '57P05';
    END IF;
END $body$;

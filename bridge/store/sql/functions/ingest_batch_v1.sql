-- What the service calls: everything a batch writes, in one round trip.
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
DECLARE
    r     record;
    v_new text[];
BEGIN
    IF cardinality(p_published) > 0 THEN
        DELETE FROM ingest_outbox WHERE id = ANY (p_published);
    END IF;
    r := store_readings_v1(p_sensor_ids, p_values, p_ts_us, p_sequences, p_received_us, p_device_time, p_keys, p_fresh,
                           p_redelivered, p_sources, p_gateways, p_instance);
    outcomes := r.outcomes; classes := r.classes; stored_us := r.stored_us; outbox_id := r.outbox_id;
    alerts := r.alerts; after_instance := r.after_instance; after_outbox := r.after_outbox;

    IF cardinality(q_codes) > 0 THEN
        WITH kept AS (
            INSERT INTO quarantine (code, detail, payload, source, topic, gateway, device_id, device_uuid, reading_index,
                                    received_at, identity)
            SELECT q.code, q.detail, q.payload, q.source, q.topic, q.gateway, q.device_id, q.device_uuid, q.idx,
                   from_us(q.received_us), q.identity
            FROM unnest(q_codes, q_details, q_payloads, q_sources, q_topics, q_gateways, q_device_ids, q_device_uuids,
                        q_indexes, q_received_us, q_identities)
                 AS q (code, detail, payload, source, topic, gateway, device_id, device_uuid, idx, received_us, identity)
            ON CONFLICT (identity) WHERE identity IS NOT NULL DO NOTHING
            RETURNING identity
        )
        SELECT array_agg(identity) INTO v_new FROM kept WHERE identity IS NOT NULL;
    END IF;

    INSERT INTO ingest_ledger AS l (instance, device_id, source, received, returned, stored, duplicate, quarantined)
    SELECT p_instance, b.device_id, b.source, sum(b.received), sum(b.returned), sum(b.stored), sum(b.duplicate),
           sum(b.quarantined)
    FROM (
        SELECT d.device_id, d.source, d.received, d.returned, 0 AS stored, 0 AS duplicate, 0 AS quarantined
        FROM unnest(l_device_ids, l_sources, l_received, l_returned) AS d (device_id, source, received, returned)
        UNION ALL
        SELECT s.device_id, s.source || coalesce('@' || s.gateway, ''), 0, 0, (s.outcome = 0)::integer,
               (s.outcome = 1)::integer, 0
        FROM unnest(p_device_ids, p_sources, p_gateways, outcomes) AS s (device_id, source, gateway, outcome)
        UNION ALL
        SELECT q.device_id, q.source || coalesce('@' || q.gateway, ''), 0, 0, 0, (NOT q.is_new)::integer, q.is_new::integer
        FROM (
            SELECT i.*, i.identity IS NULL OR (coalesce(i.identity = ANY (v_new), false)
                        AND row_number() OVER (PARTITION BY i.identity ORDER BY i.ord) = 1) AS is_new
            FROM unnest(q_device_ids, q_sources, q_gateways, q_identities) WITH ORDINALITY
                 AS i (device_id, source, gateway, identity, ord)
        ) q
    ) b
    GROUP BY b.device_id, b.source
    ON CONFLICT (instance, device_id, source) DO UPDATE
    SET received = greatest(l.received, excluded.received), returned = greatest(l.returned, excluded.returned),
        stored = l.stored + excluded.stored, duplicate = l.duplicate + excluded.duplicate,
        quarantined = l.quarantined + excluded.quarantined;

    UPDATE ingest_instances SET last_batch = p_batch, last_seen_at = now() WHERE id = p_instance;
    IF NOT FOUND THEN
        -- Our books were closed as those of a dead process: stop before they are written twice.
        RAISE EXCEPTION 'instance % is not registered', p_instance USING ERRCODE = '57P05';
    END IF;
END $body$;

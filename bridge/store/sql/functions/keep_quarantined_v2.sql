-- Keeps what could not be stored, within the quotas of quarantine (docs/decisions/0020-quarantine-quotas.md); under
-- ingest_batch_v3. Returns what became of each row: 0 kept, 1 known already, 2 thinned, 3 kept as a sample of the thinned.
--
-- A row uses up the quota of an account: its device (id), the gateway that brought it where that may not speak for the
-- device (-id), or 0, which is everybody's. Quotas are held against what was committed before: processes that write
-- at once may pass them by a batch each.
--
-- Locks: rows of quarantine_thinned in order of their key, then, by the trigger on quarantine, those of quarantine_held and
-- quarantine_total in theirs. They come after sensors and devices.
CREATE OR REPLACE FUNCTION keep_quarantined_v2(
    p_codes text[], p_details text[], p_payloads bytea[], p_sources text[], p_topics text[], p_gateways text[],
    p_device_ids bigint[], p_device_uuids uuid[], p_indexes integer[], p_received_us bigint[], p_identities text[],
    p_senders text[], p_account_uuids uuid[],
    p_remedies boolean[],  -- whether what came can be stored once its cause is mended: thinned last
    p_quota    bigint[],   -- rows and bytes of an account, rows and bytes in all; NULL: none
    p_facts    text[],     -- JSON: what the door knew beyond the bytes (`DoorFacts`)
    p_replays  bigint[]    -- the row that it is of, which is kept already; NULL: of none
) RETURNS smallint[] LANGUAGE plpgsql AS $body$
DECLARE
    v_accounts bigint[];
    v_gateways bigint[];
    v_fates    smallint[];
    v_new      text[];
BEGIN
    SELECT array_agg(coalesce(nullif(i.device_id, 0), d.id, -g.id, 0) ORDER BY i.ord), array_agg(g.id ORDER BY i.ord)
    INTO v_accounts, v_gateways
    FROM unnest(p_device_ids, p_account_uuids, p_gateways) WITH ORDINALITY AS i (device_id, uuid, gateway, ord)
    LEFT JOIN devices d ON d.device_uuid = i.uuid LEFT JOIN gateways g ON g.name = i.gateway;

    SELECT array_agg(CASE WHEN i.replay IS NOT NULL OR i.identity IS NOT NULL AND (
                i.place > 1 OR EXISTS (SELECT 1 FROM quarantine q WHERE q.identity = i.identity)
                OR EXISTS (SELECT 1 FROM ingest_event_keys k WHERE k.key = 't-' || i.identity)) THEN 1 ELSE 0 END::smallint
                     ORDER BY i.ord)
    INTO v_fates
    FROM (SELECT u.*, row_number() OVER (PARTITION BY u.identity ORDER BY u.ord) AS place
          FROM unnest(p_identities, p_replays) WITH ORDINALITY AS u (identity, replay, ord)) i;

    IF p_quota IS NOT NULL THEN
        v_fates := hold_quota(v_fates, v_accounts, p_payloads, p_remedies, p_quota);
        IF 2 = ANY (v_fates) THEN
            v_fates := choose_samples(v_fates, v_accounts, p_device_ids, p_codes);
            INSERT INTO ingest_event_keys (key, seen_at)
            SELECT 't-' || i.identity, now() FROM unnest(p_identities, v_fates) AS i (identity, fate)
            WHERE i.fate = 2 AND i.identity IS NOT NULL ORDER BY 1
            ON CONFLICT DO NOTHING;
        END IF;
    END IF;

    WITH kept AS (
        INSERT INTO quarantine (code, detail, payload, source, topic, gateway, device_id, device_uuid, reading_index,
                                received_at, identity, account, gateway_id, sender, whole_bytes, facts)
        SELECT q.code, q.detail, CASE WHEN c.cut THEN substr(q.payload, 1, 4096) ELSE q.payload END, q.source, q.topic,
               q.gateway, q.device_id, q.device_uuid, q.idx, from_us(q.received_us), q.identity, q.account, q.gateway_id,
               q.sender, CASE WHEN c.cut THEN octet_length(q.payload) END, q.facts::jsonb
        FROM unnest(p_codes, p_details, p_payloads, p_sources, p_topics, p_gateways, p_device_ids, p_device_uuids,
                    p_indexes, p_received_us, p_identities, v_accounts, v_gateways, p_senders, p_remedies, v_fates, p_facts)
             WITH ORDINALITY
             AS q (code, detail, payload, source, topic, gateway, device_id, device_uuid, idx, received_us, identity,
                   account, gateway_id, sender, remedy, fate, facts, ord),
             LATERAL (SELECT q.fate = 3 AND NOT q.remedy AND octet_length(q.payload) > 4096 AS cut) c
        WHERE q.fate IN (0, 3)
        ORDER BY q.ord
        ON CONFLICT (identity) WHERE identity IS NOT NULL DO NOTHING
        RETURNING identity
    )
    SELECT array_agg(identity) INTO v_new FROM kept WHERE identity IS NOT NULL;

    RETURN (SELECT array_agg(CASE WHEN i.fate IN (0, 3) AND i.identity IS NOT NULL
                                       AND NOT coalesce(i.identity = ANY (v_new), false)
                                  THEN 1::smallint ELSE i.fate END ORDER BY i.ord)
            FROM unnest(p_identities, v_fates) WITH ORDINALITY AS i (identity, fate, ord));
END $body$;

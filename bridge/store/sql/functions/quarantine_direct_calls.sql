-- Keeps what the procedures refuse of other programs' readings, as the pipeline does for its own; under store_readings_v2.
-- A payload is the body of POST /ingest/readings, so that it can be replayed. Returns the outcomes, of which those that are
-- not kept become 3: quarantine's usual quotas hold here, too, whatever the service's settings say.
CREATE OR REPLACE FUNCTION quarantine_direct_calls(
    p_sensor_ids bigint[], p_values double precision[], p_ts_us bigint[], p_sequences bigint[], p_received_us bigint[],
    p_clocks text[], p_keys text[], p_sources text[], p_outcomes smallint[], p_codes text[], p_details text[]
) RETURNS smallint[] LANGUAGE plpgsql AS $body$
DECLARE
    q       record;
    v_fates smallint[];
BEGIN
    SELECT array_agg(i.ord::integer ORDER BY i.ord) AS places, array_agg(i.code ORDER BY i.ord) AS codes,
           array_agg(left(i.detail, 500) ORDER BY i.ord) AS details, array_agg(i.source ORDER BY i.ord) AS sources,
           array_agg(i.received_us ORDER BY i.ord) AS received, array_agg(s.device_id ORDER BY i.ord) AS devices,
           array_agg(d.device_uuid ORDER BY i.ord) AS uuids,
           array_agg(i.code IN ('value_out_of_range', 'time_ahead') ORDER BY i.ord) AS remedies,
           array_agg(convert_to(jsonb_strip_nulls(jsonb_build_object(
               'sensor_id', i.sensor_id, 'value', i.value, 'sequence', i.sequence,
               'timestamp', CASE WHEN coalesce(i.clock, 'device') = 'device' THEN trim_scale(i.ts_us / 1000000.0) END
           ))::text, 'UTF8') ORDER BY i.ord) AS payloads,
           -- Its value is in the sensor's unit, unlike that of a body; its key is whole, as a gateway's (DoorFacts).
           array_agg(jsonb_strip_nulls(jsonb_build_object(
               'whole', true, 'sensor', i.sensor_id, 'value', i.value, 'sequence', i.sequence, 'ts_us', i.ts_us,
               'ts_quality', coalesce(i.clock, 'device'), 'in_unit', true, 'identity', i.key))::text ORDER BY i.ord) AS facts
    INTO q
    FROM unnest(p_sensor_ids, p_values, p_ts_us, p_sequences, p_received_us, p_clocks, p_keys, p_sources, p_outcomes, p_codes,
                p_details)
         WITH ORDINALITY AS i (sensor_id, value, ts_us, sequence, received_us, clock, key, source, outcome, code, detail, ord)
    JOIN sensors s ON s.id = i.sensor_id JOIN devices d ON d.id = s.device_id
    WHERE i.outcome = 2;

    v_fates := keep_quarantined_v2(
        q.codes, q.details, q.payloads, q.sources, array_fill('/ingest/readings'::text, ARRAY[cardinality(q.codes)]),
        array_fill(NULL::text, ARRAY[cardinality(q.codes)]), q.devices, q.uuids,
        array_fill(0, ARRAY[cardinality(q.codes)]), q.received, array_fill(NULL::text, ARRAY[cardinality(q.codes)]),
        array_fill(NULL::text, ARRAY[cardinality(q.codes)]), q.uuids, q.remedies,
        ARRAY[10000, 16777216, 1000000, 1073741824]::bigint[], q.facts, NULL);
    FOR i IN 1 .. cardinality(q.places) LOOP
        IF v_fates[i] = 2 THEN
            p_outcomes[q.places[i]] := 3;
        END IF;
    END LOOP;
    RETURN p_outcomes;
END $body$;

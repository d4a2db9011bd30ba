-- Writes what has been stored to the outbox, without the rows that were known already. `alerts` are the events as processes
-- of the release before know them, `alert_events` the whole ones.
CREATE OR REPLACE FUNCTION fill_outbox(
    p_id bigint, p_instance integer, p_stored_us bigint, p_whole boolean, p_outcomes smallint[],
    p_sensor_ids bigint[], p_values double precision[], p_ts_us bigint[], p_sequences bigint[], p_received_us bigint[],
    p_keys text[], p_classes smallint[], p_sources text[], p_gateways text[], p_alerts jsonb,
    p_after_instance integer[], p_after_outbox bigint[]
) RETURNS void LANGUAGE plpgsql AS $body$
BEGIN
    IF NOT p_whole THEN
        SELECT array_agg(i.sensor_id ORDER BY i.ord), array_agg(i.value ORDER BY i.ord), array_agg(i.ts_us ORDER BY i.ord),
               array_agg(i.sequence ORDER BY i.ord), array_agg(i.received_us ORDER BY i.ord),
               array_agg(i.key ORDER BY i.ord), array_agg(i.class ORDER BY i.ord),
               array_agg(i.source ORDER BY i.ord), array_agg(i.gateway ORDER BY i.ord)
        INTO p_sensor_ids, p_values, p_ts_us, p_sequences, p_received_us, p_keys, p_classes, p_sources, p_gateways
        FROM unnest(p_sensor_ids, p_values, p_ts_us, p_sequences, p_received_us, p_keys, p_classes, p_sources, p_gateways,
                    p_outcomes)
             WITH ORDINALITY AS i (sensor_id, value, ts_us, sequence, received_us, key, class, source, gateway, outcome, ord)
        WHERE i.outcome = 0;
    END IF;
    INSERT INTO ingest_outbox (id, instance, stored_us, sensor_ids, "values", ts_us, sequences, received_us, keys, classes,
                               sources, gateways, alerts, alert_events, after_instance, after_outbox)
    VALUES (p_id, p_instance, p_stored_us, p_sensor_ids, p_values, p_ts_us, p_sequences, p_received_us, p_keys, p_classes,
            p_sources, p_gateways, CASE WHEN p_alerts = '[]' THEN p_alerts ELSE former_alert_events(p_alerts) END,
            nullif(p_alerts, '[]'), p_after_instance, p_after_outbox);
END $body$;

-- Writes events for iot:alerts to the outbox that no reading of this transaction has caused, behind what has been stored
-- of their sensors. The caller holds these sensors.
CREATE OR REPLACE FUNCTION publish_alert_events(p_sensor_ids bigint[], p_events jsonb) RETURNS void LANGUAGE plpgsql AS $body$
DECLARE
    v_outbox   bigint;
    v_instance integer[];
    v_after    bigint[];
BEGIN
    IF p_events = '[]' THEN
        RETURN;
    END IF;
    v_outbox := nextval(pg_get_serial_sequence('ingest_outbox', 'id'));
    SELECT coalesce(array_agg(l.outbox_instance ORDER BY l.outbox_id), '{}'), coalesce(array_agg(l.outbox_id ORDER BY l.outbox_id), '{}')
    INTO v_instance, v_after
    FROM (SELECT DISTINCT l.outbox_instance, l.outbox_id FROM sensor_readings_latest l JOIN ingest_outbox o ON o.id = l.outbox_id
          WHERE l.sensor_id = ANY (p_sensor_ids)) l;
    PERFORM fill_outbox(v_outbox, 0, to_us(clock_timestamp()), true, '{}', '{}', '{}', '{}', NULL, '{}', NULL, '{}', '{}', NULL,
                        (SELECT jsonb_agg(e.event - 'ord' ORDER BY e.nth)
                         FROM jsonb_array_elements(p_events) WITH ORDINALITY AS e (event, nth)),
                        v_instance, v_after);
    UPDATE sensor_readings_latest SET outbox_instance = 0, outbox_id = v_outbox WHERE sensor_id = ANY (p_sensor_ids);
END $body$;

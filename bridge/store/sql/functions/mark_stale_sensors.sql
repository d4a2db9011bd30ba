-- Sensors that have not been heard of since p_before become STALE; returns how many.
CREATE OR REPLACE FUNCTION mark_stale_sensors(p_before timestamptz) RETURNS integer LANGUAGE plpgsql AS $body$
DECLARE
    v_silent bigint[];
    v_marked integer;
BEGIN
    -- A sensor that is being written is not silent: its mutex is not waited for.
    SELECT array_agg(l.sensor_id) INTO v_silent FROM (
        SELECT l.sensor_id FROM sensor_readings_latest l JOIN sensors s ON s.id = l.sensor_id
        WHERE l.received_at < p_before AND s.operational_state <> 'STALE'
        ORDER BY l.sensor_id LIMIT 10000 FOR NO KEY UPDATE OF l SKIP LOCKED
    ) l;
    UPDATE sensors s SET operational_state = 'STALE', state_changed_at = now(),
           warmed_up = warmed_up OR operational_state <> 'INITIALIZING'
    FROM sensor_readings_latest l
    WHERE s.id = ANY (v_silent) AND l.sensor_id = s.id AND l.received_at < p_before;
    GET DIAGNOSTICS v_marked = ROW_COUNT;
    RETURN v_marked;
END $body$;

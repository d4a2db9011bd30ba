-- Of these sensors, those that have not been heard of for so long become STALE, each by its own measure. Returns them,
-- also where they were before. Locks as store_readings_v1 does; a sensor that is being written is not silent.
CREATE OR REPLACE FUNCTION mark_silent_sensors_v1(p_sensor_ids bigint[], p_silent_s double precision[]) RETURNS SETOF bigint
LANGUAGE plpgsql AS $body$
DECLARE
    v_silent bigint[];
BEGIN
    SELECT array_agg(l.sensor_id) INTO v_silent FROM (
        SELECT l.sensor_id
        FROM unnest(p_sensor_ids, p_silent_s) AS i (sensor_id, silent_s)
        JOIN sensor_readings_latest l ON l.sensor_id = i.sensor_id
        WHERE l.received_at < now() - i.silent_s * interval '1 second'
        ORDER BY l.sensor_id FOR NO KEY UPDATE OF l SKIP LOCKED
    ) l;
    UPDATE sensors s SET operational_state = 'STALE', state_changed_at = now(),
           warmed_up = warmed_up OR operational_state <> 'INITIALIZING'
    WHERE s.id = ANY (v_silent) AND s.operational_state <> 'STALE';
    RETURN QUERY SELECT unnest(v_silent);
END $body$;

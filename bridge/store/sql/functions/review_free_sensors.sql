-- `review_alerts` of those of these sensors that nobody holds. Who has switched a sensor off holds its row; a batch that has
-- the sensor may be waiting for that row: waiting here for the sensor would be a deadlock. What is passed over is
-- found by review_silenced_alerts_v1.
CREATE OR REPLACE FUNCTION review_free_sensors(p_sensor_ids bigint[]) RETURNS void LANGUAGE plpgsql AS $body$
DECLARE
    v_free bigint[];
BEGIN
    SELECT array_agg(l.sensor_id) INTO v_free
    FROM (SELECT sensor_id FROM sensor_readings_latest WHERE sensor_id = ANY (p_sensor_ids)
          ORDER BY sensor_id FOR NO KEY UPDATE SKIP LOCKED) l;
    IF v_free IS NOT NULL THEN
        PERFORM review_alerts(v_free);
    END IF;
END $body$;

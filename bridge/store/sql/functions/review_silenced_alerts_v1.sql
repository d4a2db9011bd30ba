-- Ends the open alerts and jump warnings of sensors that are switched off, or whose device is disabled: of before the
-- triggers were there, and of batches that were under way when it was done.
CREATE OR REPLACE FUNCTION review_silenced_alerts_v1() RETURNS void LANGUAGE plpgsql AS $body$
DECLARE
    v_sensors bigint[];
BEGIN
    SELECT array_agg(DISTINCT o.sensor_id) INTO v_sensors
    FROM (SELECT a.sensor_id FROM alerts a WHERE a.status IN ('active', 'acknowledged') AND a.threshold_id IS NOT NULL
          UNION ALL
          SELECT e.sensor_id FROM ml_events e WHERE e.status IN ('active', 'acknowledged') AND e.event_type = 'warning'
            AND e.event_code = 'DELTA_SPIKE') o
    JOIN sensors s ON s.id = o.sensor_id JOIN devices d ON d.id = s.device_id
    WHERE NOT s.is_active OR d.status = 'disabled';
    IF v_sensors IS NOT NULL THEN
        PERFORM review_free_sensors(v_sensors);
    END IF;
END $body$;

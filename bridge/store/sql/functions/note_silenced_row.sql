-- Notes that open alerts have lost their reason with their sensors, which are switched off. On sensors and devices. As its
-- owner: who may change a sensor needs no right to alert_reviews.
CREATE OR REPLACE FUNCTION note_silenced_row() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $body$
BEGIN
    INSERT INTO alert_reviews (sensor_id, silenced)
    SELECT s.id, true FROM sensors s
    WHERE CASE TG_TABLE_NAME WHEN 'sensors' THEN s.id ELSE s.device_id END = NEW.id AND (
        EXISTS (SELECT 1 FROM alerts a WHERE a.sensor_id = s.id AND a.status IN ('active', 'acknowledged'))
        OR EXISTS (SELECT 1 FROM ml_events e WHERE e.sensor_id = s.id AND e.status IN ('active', 'acknowledged')
                     AND e.event_type = 'warning'));
    RETURN NULL;
END $body$;

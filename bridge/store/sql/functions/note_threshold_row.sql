-- Notes that open alerts of a sensor may have lost their reason. On alert_thresholds and delta_thresholds. As its owner:
-- who may change a threshold needs no right to alert_reviews.
CREATE OR REPLACE FUNCTION note_threshold_row() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $body$
BEGIN
    INSERT INTO alert_reviews (sensor_id) VALUES (OLD.sensor_id);
    RETURN NULL;
END $body$;

-- Reviews the alerts of all sensors whose thresholds this transaction has changed, at its end: a threshold that is
-- replaced by a like one is no change. The first call does it for all, so that sensors are locked in order. On alert_reviews.
CREATE OR REPLACE FUNCTION review_noted_alerts() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $body$
DECLARE
    v_sensors bigint[];
BEGIN
    WITH noted AS (DELETE FROM alert_reviews RETURNING sensor_id)
    SELECT array_agg(DISTINCT sensor_id) INTO v_sensors FROM noted;
    IF v_sensors IS NOT NULL THEN
        PERFORM review_alerts(v_sensors);
    END IF;
    RETURN NULL;
END $body$;

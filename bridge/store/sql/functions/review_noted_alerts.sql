-- Reviews the alerts of all sensors that this transaction has noted, at its end: a threshold that is replaced by a like one
-- is no change. The first call does it for all, so that sensors are locked in order. On alert_reviews.
CREATE OR REPLACE FUNCTION review_noted_alerts() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $body$
DECLARE
    v_sensors  bigint[];
    v_silenced bigint[];
BEGIN
    WITH noted AS (DELETE FROM alert_reviews RETURNING sensor_id, silenced)
    SELECT array_agg(DISTINCT sensor_id) FILTER (WHERE NOT silenced), array_agg(DISTINCT sensor_id) FILTER (WHERE silenced)
    INTO v_sensors, v_silenced FROM noted;
    IF v_sensors IS NOT NULL THEN
        PERFORM review_alerts(v_sensors);
    END IF;
    IF v_silenced IS NOT NULL THEN
        PERFORM review_free_sensors(v_silenced);
    END IF;
    RETURN NULL;
END $body$;

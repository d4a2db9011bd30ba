-- Resolves the open alerts and jump warnings of these sensors whose reason is gone: no threshold that is active now is
-- violated by the latest value, or none is exceeded by the jump; or the sensor is switched off. Where the thresholds that are
-- left mean less than the open alert says, one of their severity takes its place; one of a higher severity waits for the
-- next reading. Locks as storing does: sensors, in order of their ids.
-- The events go out as those of other programs do, after what has been stored of these sensors.
CREATE OR REPLACE FUNCTION review_alerts(p_sensor_ids bigint[]) RETURNS void LANGUAGE plpgsql AS $body$
DECLARE
    l         record;
    s         reading_step;
    v_now     timestamptz := clock_timestamp();
    v_alert   alerts%ROWTYPE;
    v_warning ml_events%ROWTYPE;
    v_reason  text;
    v_left    record;
    v_events  jsonb := '[]';
    v_changed bigint[] := '{}';
BEGIN
    PERFORM 1 FROM sensor_readings_latest WHERE sensor_id = ANY (p_sensor_ids) ORDER BY sensor_id FOR NO KEY UPDATE;
    FOR l IN
        SELECT x.sensor_id, x.latest_value, n.device_id, n.operational_state,
               CASE WHEN d.status = 'disabled' THEN 'device_disabled' WHEN NOT n.is_active THEN 'sensor_inactive' END AS silenced
        FROM sensor_readings_latest x JOIN sensors n ON n.id = x.sensor_id JOIN devices d ON d.id = n.device_id
        WHERE x.sensor_id = ANY (p_sensor_ids) AND x.latest_value IS NOT NULL AND (
            EXISTS (SELECT 1 FROM alerts a WHERE a.sensor_id = x.sensor_id AND a.status IN ('active', 'acknowledged'))
            OR EXISTS (SELECT 1 FROM ml_events e WHERE e.sensor_id = x.sensor_id AND e.status IN ('active', 'acknowledged')
                         AND e.event_type = 'warning'))
        ORDER BY x.sensor_id
    LOOP
        s := (0, l.sensor_id, l.device_id, l.latest_value, to_us(v_now), false, NULL, NULL, l.operational_state, 0, 0, NULL, NULL,
              NULL)::reading_step;
        SELECT * INTO v_alert FROM alerts a WHERE a.sensor_id = l.sensor_id AND a.status IN ('active', 'acknowledged');
        SELECT * INTO v_warning FROM ml_events e
        WHERE e.sensor_id = l.sensor_id AND e.status IN ('active', 'acknowledged') AND e.event_type = 'warning';
        SELECT * INTO v_left FROM violated_threshold(l.sensor_id, l.latest_value) WHERE l.silenced IS NULL;
        IF v_alert.threshold_id IS NOT NULL
           AND (v_left.severity IS NULL OR severity_rank(v_left.severity) < severity_rank(v_alert.severity)) THEN
            v_reason := CASE WHEN l.silenced IS NOT NULL THEN l.silenced
                             WHEN EXISTS (SELECT 1 FROM alert_thresholds t WHERE t.sensor_id = l.sensor_id AND t.is_active
                                            AND (v_left.severity IS NULL OR t.severity = v_alert.severity))
                             THEN 'threshold_changed' ELSE 'threshold_removed' END;
            UPDATE alerts SET status = 'resolved', resolved_at = greatest(v_now, triggered_at), resolution = v_reason
            WHERE id = v_alert.id;
            v_events := v_events || (alert_event('a', v_alert.id, 'resolved', v_alert.severity, v_alert.threshold_id, s)
                                     || jsonb_build_object('resolution', v_reason));
            v_alert := NULL;
            -- In a warm-up nothing is raised.
            IF v_left.severity IS NOT NULL AND l.operational_state NOT IN ('INITIALIZING', 'STALE') THEN
                INSERT INTO alerts (sensor_id, device_id, threshold_id, severity, triggered_value, triggered_at)
                VALUES (l.sensor_id, l.device_id, v_left.threshold_id, v_left.severity, l.latest_value, v_now)
                RETURNING * INTO v_alert;
                v_events := v_events || alert_event('a', v_alert.id, 'alert', v_left.severity, v_left.threshold_id, s);
            END IF;
            v_changed := v_changed || l.sensor_id;
        END IF;
        IF v_warning.event_code = 'DELTA_SPIKE' AND v_warning.payload ? 'delta_threshold_id' AND (l.silenced IS NOT NULL OR NOT EXISTS (
            SELECT 1 FROM delta_thresholds d WHERE d.sensor_id = l.sensor_id AND d.is_active AND (
                (v_warning.payload ->> 'abs_delta')::double precision > d.abs_delta
                OR (v_warning.payload ->> 'rel_delta')::double precision > d.rel_delta
                OR (v_warning.payload ->> 'abs_slope')::double precision > d.abs_slope
                OR (v_warning.payload ->> 'rel_slope')::double precision > d.rel_slope)
        )) THEN
            v_reason := CASE WHEN l.silenced IS NOT NULL THEN l.silenced
                             WHEN EXISTS (SELECT 1 FROM delta_thresholds d WHERE d.sensor_id = l.sensor_id AND d.is_active)
                             THEN 'threshold_changed' ELSE 'threshold_removed' END;
            UPDATE ml_events SET status = 'resolved', resolved_at = greatest(v_now, created_at), resolution = v_reason
            WHERE id = v_warning.id;
            v_events := v_events || (alert_event('w', v_warning.id, 'resolved', coalesce(v_warning.payload ->> 'severity', 'warning'),
                                                 (v_warning.payload ->> 'delta_threshold_id')::bigint, s)
                                     || jsonb_build_object('resolution', v_reason));
            v_warning := NULL;
            v_changed := v_changed || l.sensor_id;
        END IF;
        UPDATE sensors n SET operational_state = t.state, state_changed_at = v_now
        FROM (SELECT CASE WHEN v_alert.id IS NOT NULL THEN 'ALERT' WHEN v_warning.id IS NOT NULL THEN 'WARNING'
                          ELSE 'NORMAL' END AS state) t
        WHERE n.id = l.sensor_id AND l.sensor_id = ANY (v_changed) AND n.operational_state IN ('ALERT', 'WARNING')
          AND n.operational_state <> t.state;
    END LOOP;
    PERFORM publish_alert_events(v_changed, v_events);
END $body$;

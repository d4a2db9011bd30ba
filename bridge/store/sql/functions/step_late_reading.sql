-- What a late reading does to the past alerts of its sensor; `latest`, the state and the open alert stay as they are.
--
-- A past alert is a run: the stored readings of one severity that follow each other in time, from `triggered_at` until
-- `resolved_at`, the next stored reading that is not of it. Runs never overlap. They depend on what is stored and not on
-- the order in which it came: a reading within a run of its severity changes nothing, one in front of a run begins it
-- earlier, one within a run of another severity, or in range, cuts it in two.
--
-- p_id: the id of the reading's row. What has a higher one has come after it, in the same batch. p_run: the run that the
-- late reading before was in; most are in the same.
CREATE OR REPLACE FUNCTION step_late_reading(s reading_step, p_id bigint, INOUT p_run alerts, OUT events jsonb)
LANGUAGE plpgsql AS $body$
DECLARE
    v_at     timestamptz := from_us(s.ts_us);
    v_next   record;
    v_cut    alerts%ROWTYPE;
    v_until  timestamptz;
    v_reason text;
BEGIN
    events := '[]';
    IF p_run.id IS NULL OR v_at < p_run.triggered_at OR v_at >= p_run.resolved_at THEN
        SELECT * INTO p_run FROM alerts a WHERE a.sensor_id = s.sensor_id AND a.is_past AND a.triggered_at <= v_at
        ORDER BY a.triggered_at DESC, a.id DESC LIMIT 1;
        IF p_run.resolved_at <= v_at THEN
            p_run := NULL;
        END IF;
    END IF;
    IF p_run.severity IS NOT DISTINCT FROM s.severity THEN
        RETURN;  -- within a run of its own, or in range and in none
    END IF;
    -- Of the readings of one moment the worst counts.
    IF p_run.triggered_at = v_at OR EXISTS (
        SELECT 1 FROM sensor_readings r CROSS JOIN LATERAL violated_threshold(r.sensor_id, r.value) v
        WHERE r.sensor_id = s.sensor_id AND r."timestamp" = v_at AND r.id < p_id
          AND (s.severity IS NULL OR severity_rank(v.severity) >= severity_rank(s.severity) AND v.severity IS NOT NULL)
    ) THEN
        RETURN;
    END IF;
    SELECT r."timestamp" AS at, r.value, v.threshold_id, v.severity INTO v_next
    FROM (SELECT "timestamp" FROM sensor_readings
          WHERE sensor_id = s.sensor_id AND "timestamp" > v_at AND id < p_id ORDER BY "timestamp" LIMIT 1) m
    JOIN sensor_readings r ON r.sensor_id = s.sensor_id AND r."timestamp" = m."timestamp" AND r.id < p_id
    CROSS JOIN LATERAL violated_threshold(r.sensor_id, r.value) v
    ORDER BY v.severity IS NULL, severity_rank(v.severity) DESC, r.id LIMIT 1;

    IF p_run.id IS NOT NULL THEN
        v_cut := p_run;
        UPDATE alerts SET resolved_at = v_at, resolution = CASE WHEN s.severity IS NULL THEN 'in_range' ELSE 'severity_changed' END
        WHERE id = v_cut.id;
        p_run := NULL;
        IF v_next.at < v_cut.resolved_at THEN
            events := add_past_alert(s, coalesce(v_next.threshold_id, v_cut.threshold_id), v_cut.severity, v_next.value, v_next.at,
                                     v_cut.resolved_at, v_cut.resolution);
        END IF;
    END IF;
    IF s.severity IS NULL THEN
        RETURN;
    END IF;

    -- An alert of its time has told it.
    IF alert_severity_at(s.sensor_id, v_at) >= severity_rank(s.severity) THEN
        RETURN;
    END IF;
    IF v_next.severity = s.severity THEN
        UPDATE alerts SET triggered_at = v_at, triggered_value = s.value, threshold_id = s.threshold_id
        WHERE sensor_id = s.sensor_id AND is_past AND triggered_at = v_next.at AND severity = s.severity
        RETURNING * INTO p_run;
        IF FOUND THEN
            RETURN;
        END IF;
    END IF;
    v_until := v_next.at;
    v_reason := CASE WHEN v_next.severity IS NULL THEN 'in_range' WHEN v_next.severity = s.severity THEN 'continued'
                     ELSE 'severity_changed' END;
    IF v_next.severity = s.severity AND alert_severity_at(s.sensor_id, v_next.at) = 0 THEN
        -- Readings that raised nothing in their time: of a warm-up, or older than the threshold. The run goes on through
        -- them, as far as is looked.
        SELECT m."timestamp", CASE m.rank WHEN 0 THEN 'in_range' WHEN severity_rank(s.severity) THEN 'continued'
                                   ELSE 'severity_changed' END
        INTO v_until, v_reason
        FROM (SELECT f."timestamp", max(CASE WHEN v.severity IS NULL THEN 0 ELSE severity_rank(v.severity) END) AS rank,
                     lead(1) OVER (ORDER BY f."timestamp") IS NULL AS is_last
              FROM (SELECT "timestamp", value FROM sensor_readings
                    WHERE sensor_id = s.sensor_id AND "timestamp" > v_at AND id < p_id ORDER BY "timestamp" LIMIT 1000) f
              CROSS JOIN LATERAL violated_threshold(s.sensor_id, f.value) v
              GROUP BY f."timestamp") m
        WHERE m.is_last OR m.rank <> severity_rank(s.severity) OR alert_severity_at(s.sensor_id, m."timestamp") > 0
           OR EXISTS (SELECT 1 FROM alerts a WHERE a.sensor_id = s.sensor_id AND a.is_past AND a.triggered_at = m."timestamp")
        ORDER BY m."timestamp" LIMIT 1;
    END IF;
    IF v_until IS NULL THEN  -- its newer rows are gone, with their partition
        SELECT l.latest_timestamp INTO v_until FROM sensor_readings_latest l WHERE l.sensor_id = s.sensor_id;
    END IF;
    events := events || add_past_alert(s, s.threshold_id, s.severity, s.value, v_at, v_until, v_reason);
END $body$;

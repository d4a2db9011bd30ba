-- The threshold that a value of a sensor violates now, the worst of several; NULLs where it is in range. The same
-- condition stands in store_readings, set-based.
CREATE OR REPLACE FUNCTION violated_threshold(p_sensor bigint, p_value double precision, OUT threshold_id bigint, OUT severity text)
LANGUAGE sql STABLE AS $body$
    SELECT a.id, a.severity FROM alert_thresholds a
    WHERE a.sensor_id = p_sensor AND a.is_active AND CASE a.condition_type
        WHEN 'greater_than' THEN p_value > a.threshold_value_min
        WHEN 'less_than' THEN p_value < coalesce(a.threshold_value_min, a.threshold_value_max)
        WHEN 'equal_to' THEN p_value = a.threshold_value_min
        ELSE coalesce(p_value < a.threshold_value_min, false) OR coalesce(p_value > a.threshold_value_max, false)
    END
    ORDER BY severity_rank(a.severity) DESC, a.id LIMIT 1
$body$;

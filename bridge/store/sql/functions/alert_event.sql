-- An event for iot:alerts; `ord` is the place of its reading in the batch. p_prefix: `a` of alerts, `w` of ml_events.
CREATE OR REPLACE FUNCTION alert_event(
    p_prefix text, p_id bigint, p_kind text, p_severity text, p_threshold bigint, p_step reading_step
) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $body$
    SELECT jsonb_build_object(
        'event_id', p_prefix || '-' || p_id || '-' || p_kind, 'alert_id', p_id, 'sensor_id', p_step.sensor_id,
        'kind', p_kind, 'severity', p_severity, 'value', p_step.value, 'threshold_id', p_threshold,
        'triggered_at_us', p_step.ts_us, 'ord', p_step.ord,
        'threshold_kind', CASE WHEN p_threshold IS NOT NULL THEN CASE p_prefix WHEN 'a' THEN 'alert' ELSE 'delta' END END)
$body$;

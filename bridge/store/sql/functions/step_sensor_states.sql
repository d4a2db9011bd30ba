-- For calls of store_readings_v1 that are under way while functions are replaced: they call it by name, without late
-- readings, and for processes that know no other fields of events. Goes with the next release.
CREATE OR REPLACE FUNCTION step_sensor_states(p_steps reading_step[]) RETURNS jsonb LANGUAGE sql AS $body$
    SELECT former_alert_events(step_readings(p_steps, NULL))
$body$;

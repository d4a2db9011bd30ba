-- Under store_readings_v1, for processes of the release before events had more fields, which refuse those; late readings
-- are not among its rows. Goes with the next release.
CREATE OR REPLACE FUNCTION step_sensor_states(p_steps reading_step[]) RETURNS jsonb LANGUAGE sql AS $body$
    SELECT former_alert_events(step_readings(p_steps, NULL))
$body$;

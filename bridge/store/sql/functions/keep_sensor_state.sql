-- Writes the state of a sensor, and that it has been through a warm-up once.
CREATE OR REPLACE FUNCTION keep_sensor_state(p_sensor bigint, p_state text, p_valid integer, p_changed_us bigint) RETURNS void
LANGUAGE sql AS $body$
    UPDATE sensors SET operational_state = p_state, valid_readings_count = p_valid,
           state_changed_at = coalesce(from_us(p_changed_us), state_changed_at),
           warmed_up = warmed_up OR p_state <> 'INITIALIZING' OR operational_state NOT IN ('INITIALIZING', 'STALE')
                       OR valid_readings_count >= min_readings_for_normal
    WHERE id = p_sensor
$body$;

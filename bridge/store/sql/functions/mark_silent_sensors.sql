-- For processes of the release before functions had versions; goes with the next release.
CREATE OR REPLACE FUNCTION mark_silent_sensors(p_sensor_ids bigint[], p_silent_s double precision[])
RETURNS SETOF bigint LANGUAGE sql AS $body$
    SELECT * FROM mark_silent_sensors_v1(p_sensor_ids, p_silent_s)
$body$;

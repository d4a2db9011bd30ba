-- Keeps which device's a deleted sensor was: its readings stay, and count for that device. On sensors, once a statement.
CREATE OR REPLACE FUNCTION bury_sensors() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $body$
BEGIN
    INSERT INTO sensor_tombstones (sensor_id, device_id) SELECT id, device_id FROM changed
    ON CONFLICT (sensor_id) DO UPDATE SET device_id = excluded.device_id, deleted_at = excluded.deleted_at;
    RETURN NULL;
END $body$;

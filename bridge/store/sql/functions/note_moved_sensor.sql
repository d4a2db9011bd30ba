-- Notes from which device to which a sensor has gone: its readings before are in the books of the former. On sensors. As its
-- owner: who may move a sensor needs no right to sensor_moves.
CREATE OR REPLACE FUNCTION note_moved_sensor() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $body$
BEGIN
    INSERT INTO sensor_moves (from_device, to_device, sensor_id) VALUES (OLD.device_id, NEW.device_id, NEW.id)
    ON CONFLICT (from_device, to_device) DO UPDATE SET sensor_id = excluded.sensor_id, moved_at = excluded.moved_at;
    RETURN NULL;
END $body$;

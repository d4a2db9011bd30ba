-- Takes the mutexes of a device's sensors before it is deleted, in order, as storing does: what is being stored of it is
-- waited for. Of a sensor that has none yet it is made first, as storing does: else a batch could make it meanwhile, and wait
-- for the others. On devices.
CREATE OR REPLACE FUNCTION hold_device_sensors() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $body$
BEGIN
    INSERT INTO sensor_readings_latest (sensor_id) SELECT id FROM sensors WHERE device_id = OLD.id ORDER BY id
    ON CONFLICT DO NOTHING;
    PERFORM 1 FROM sensor_readings_latest WHERE sensor_id IN (SELECT id FROM sensors WHERE device_id = OLD.id)
    ORDER BY sensor_id FOR UPDATE;
    RETURN OLD;
END $body$;

-- Sensors named by foreign formats, and what such a device sends turned into the sensor's unit.

ALTER TABLE sensors
    ADD COLUMN unit_in     text,  -- what the device sends; null: the sensor's own unit
    ADD COLUMN unit_factor double precision NOT NULL DEFAULT 1,  -- value * factor + offset is in the sensor's unit,
    ADD COLUMN unit_offset double precision NOT NULL DEFAULT 0;  -- worked out once, when unit_in is set

-- One sensor for each name; and the hot path's misses are looked up by it.
CREATE UNIQUE INDEX sensors_external_id ON sensors (external_id) WHERE external_id IS NOT NULL;

-- Caches know a sensor by its external id, too: what has had one, and what has one now.
CREATE OR REPLACE FUNCTION note_sensor_rows() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    IF (SELECT count(*) FROM (SELECT 1 FROM changed LIMIT 1001) c) > 1000 THEN
        INSERT INTO registry_changes (kind, ref) VALUES ('all', '');
    ELSE
        INSERT INTO registry_changes (kind, ref)
        SELECT 'sensor', id::text FROM changed UNION ALL SELECT 'sensor', sensor_uuid::text FROM changed
        UNION ALL SELECT 'external', external_id FROM changed WHERE external_id IS NOT NULL;
    END IF;
    RETURN NULL;
END $body$;

CREATE OR REPLACE FUNCTION note_sensor_row() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO registry_changes (kind, ref)
    VALUES ('sensor', NEW.id::text), ('sensor', NEW.sensor_uuid::text), ('sensor', OLD.sensor_uuid::text);
    INSERT INTO registry_changes (kind, ref)
    SELECT DISTINCT 'external', name FROM unnest(ARRAY[OLD.external_id, NEW.external_id]) AS name WHERE name IS NOT NULL;
    RETURN NULL;
END $body$;

DROP TRIGGER sensors_updated ON sensors;
CREATE TRIGGER sensors_updated AFTER UPDATE ON sensors FOR EACH ROW
    WHEN ((OLD.sensor_uuid, OLD.device_id, OLD.sensor_type, OLD.is_active, OLD.min_value, OLD.max_value,
           OLD.external_id, OLD.unit_factor, OLD.unit_offset)
        IS DISTINCT FROM
        (NEW.sensor_uuid, NEW.device_id, NEW.sensor_type, NEW.is_active, NEW.min_value, NEW.max_value,
         NEW.external_id, NEW.unit_factor, NEW.unit_offset))
    EXECUTE FUNCTION note_sensor_row();

-- Sensors named by foreign formats, and what such a device sends turned into the sensor's unit.

ALTER TABLE sensors
    ADD COLUMN unit_in     text,  -- what the device sends; null: the sensor's own unit
    ADD COLUMN unit_factor double precision NOT NULL DEFAULT 1,  -- value * factor + offset is in the sensor's unit,
    ADD COLUMN unit_offset double precision NOT NULL DEFAULT 0;  -- worked out once, when unit_in is set

-- One sensor for each name; and the hot path's misses are looked up by it.
CREATE UNIQUE INDEX sensors_external_id ON sensors (external_id) WHERE external_id IS NOT NULL;

DROP TRIGGER sensors_updated ON sensors;
CREATE TRIGGER sensors_updated AFTER UPDATE ON sensors FOR EACH ROW
    WHEN ((OLD.sensor_uuid, OLD.device_id, OLD.sensor_type, OLD.is_active, OLD.min_value, OLD.max_value,
           OLD.external_id, OLD.unit_factor, OLD.unit_offset)
        IS DISTINCT FROM
        (NEW.sensor_uuid, NEW.device_id, NEW.sensor_type, NEW.is_active, NEW.min_value, NEW.max_value,
         NEW.external_id, NEW.unit_factor, NEW.unit_offset))
    EXECUTE FUNCTION note_sensor_row();

-- Tells caches that a sensor has changed. They know it by its external id, too: what it had, and what it has.
CREATE OR REPLACE FUNCTION note_sensor_row() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO registry_changes (kind, ref)
    VALUES ('sensor', NEW.id::text), ('sensor', NEW.sensor_uuid::text), ('sensor', OLD.sensor_uuid::text);
    INSERT INTO registry_changes (kind, ref)
    SELECT DISTINCT 'external', name FROM unnest(ARRAY[OLD.external_id, NEW.external_id]) AS name WHERE name IS NOT NULL;
    RETURN NULL;
END $body$;

-- Tells caches that a device has been renamed, disabled, enabled or deleted. On devices.
CREATE OR REPLACE FUNCTION note_device_row() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO registry_changes (kind, ref) VALUES ('device', OLD.device_uuid::text);
    RETURN NULL;
END $body$;

-- Tells caches that the devices of an API key have changed. On api_key_devices.
CREATE OR REPLACE FUNCTION note_api_key_device() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO registry_changes (kind, ref)
    SELECT 'key', k.api_key_hash FROM api_keys k
    WHERE k.id = CASE WHEN TG_OP = 'DELETE' THEN OLD.api_key_id ELSE NEW.api_key_id END;
    RETURN NULL;
END $body$;

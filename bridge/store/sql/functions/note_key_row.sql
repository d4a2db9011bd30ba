-- Tells caches that a key has changed. On device_api_keys and api_keys.
CREATE OR REPLACE FUNCTION note_key_row() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO registry_changes (kind, ref)
    VALUES ('key', CASE WHEN TG_OP = 'DELETE' THEN OLD.api_key_hash ELSE NEW.api_key_hash END);
    RETURN NULL;
END $body$;

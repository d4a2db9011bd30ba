-- Tells caches that an MQTT account has changed. On mqtt_accounts, once a statement.
CREATE OR REPLACE FUNCTION note_account() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO registry_changes (kind, ref) VALUES ('account', '');
    RETURN NULL;
END $body$;

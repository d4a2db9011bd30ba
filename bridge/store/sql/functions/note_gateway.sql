-- Tells caches that a gateway, its keys or its devices have changed. Once a statement.
CREATE OR REPLACE FUNCTION note_gateway() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO registry_changes (kind, ref) VALUES ('gateway', '');
    RETURN NULL;
END $body$;

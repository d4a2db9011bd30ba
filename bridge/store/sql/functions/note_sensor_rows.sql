-- Tells caches which sensors have come or gone, by each name that they have; a statement of very many rows says `all`
-- once. On sensors, once a statement.
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

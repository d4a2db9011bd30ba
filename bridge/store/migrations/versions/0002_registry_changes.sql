-- Triggers that tell caches what has changed. A statement that changes very many rows says "all" once.

CREATE FUNCTION note_sensor_rows() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    IF (SELECT count(*) FROM (SELECT 1 FROM changed LIMIT 1001) c) > 1000 THEN
        INSERT INTO registry_changes (kind, ref) VALUES ('all', '');
    ELSE
        INSERT INTO registry_changes (kind, ref)
        SELECT 'sensor', id::text FROM changed UNION ALL SELECT 'sensor', sensor_uuid::text FROM changed;
    END IF;
    RETURN NULL;
END $body$;

CREATE TRIGGER sensors_inserted AFTER INSERT ON sensors REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION note_sensor_rows();
CREATE TRIGGER sensors_deleted AFTER DELETE ON sensors REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION note_sensor_rows();

CREATE FUNCTION note_sensor_row() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO registry_changes (kind, ref)
    VALUES ('sensor', NEW.id::text), ('sensor', NEW.sensor_uuid::text), ('sensor', OLD.sensor_uuid::text);
    RETURN NULL;
END $body$;

-- Not on every update: the state of a sensor changes on the hot path and concerns no cache.
CREATE TRIGGER sensors_updated AFTER UPDATE ON sensors FOR EACH ROW
    WHEN ((OLD.sensor_uuid, OLD.device_id, OLD.sensor_type, OLD.is_active, OLD.min_value, OLD.max_value)
        IS DISTINCT FROM
        (NEW.sensor_uuid, NEW.device_id, NEW.sensor_type, NEW.is_active, NEW.min_value, NEW.max_value))
    EXECUTE FUNCTION note_sensor_row();

CREATE FUNCTION note_device_row() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO registry_changes (kind, ref) VALUES ('device', OLD.device_uuid::text);
    RETURN NULL;
END $body$;

CREATE TRIGGER devices_updated AFTER UPDATE ON devices FOR EACH ROW
    WHEN ((OLD.device_uuid, OLD.status = 'disabled') IS DISTINCT FROM (NEW.device_uuid, NEW.status = 'disabled'))
    EXECUTE FUNCTION note_device_row();
CREATE TRIGGER devices_deleted AFTER DELETE ON devices FOR EACH ROW EXECUTE FUNCTION note_device_row();

CREATE FUNCTION note_key_row() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO registry_changes (kind, ref)
    VALUES ('key', CASE WHEN TG_OP = 'DELETE' THEN OLD.api_key_hash ELSE NEW.api_key_hash END);
    RETURN NULL;
END $body$;

CREATE TRIGGER device_api_keys_written AFTER INSERT OR DELETE ON device_api_keys
    FOR EACH ROW EXECUTE FUNCTION note_key_row();
CREATE TRIGGER device_api_keys_updated AFTER UPDATE ON device_api_keys FOR EACH ROW
    WHEN ((OLD.api_key_hash, OLD.is_active, OLD.revoked_at, OLD.expires_at, OLD.device_id)
        IS DISTINCT FROM (NEW.api_key_hash, NEW.is_active, NEW.revoked_at, NEW.expires_at, NEW.device_id))
    EXECUTE FUNCTION note_key_row();
CREATE TRIGGER api_keys_written AFTER INSERT OR DELETE ON api_keys
    FOR EACH ROW EXECUTE FUNCTION note_key_row();
CREATE TRIGGER api_keys_updated AFTER UPDATE ON api_keys FOR EACH ROW
    WHEN ((OLD.api_key_hash, OLD.is_active, OLD.revoked_at, OLD.expires_at)
        IS DISTINCT FROM (NEW.api_key_hash, NEW.is_active, NEW.revoked_at, NEW.expires_at))
    EXECUTE FUNCTION note_key_row();

-- Triggers that tell caches what has changed. A trigger wants its function to be there; the functions' bodies come from
-- sql/functions, once all migrations are through.

CREATE FUNCTION note_sensor_rows() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';

CREATE TRIGGER sensors_inserted AFTER INSERT ON sensors REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION note_sensor_rows();
CREATE TRIGGER sensors_deleted AFTER DELETE ON sensors REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION note_sensor_rows();

CREATE FUNCTION note_sensor_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';

-- Not on every update: the state of a sensor changes on the hot path and concerns no cache.
CREATE TRIGGER sensors_updated AFTER UPDATE ON sensors FOR EACH ROW
    WHEN ((OLD.sensor_uuid, OLD.device_id, OLD.sensor_type, OLD.is_active, OLD.min_value, OLD.max_value)
        IS DISTINCT FROM
        (NEW.sensor_uuid, NEW.device_id, NEW.sensor_type, NEW.is_active, NEW.min_value, NEW.max_value))
    EXECUTE FUNCTION note_sensor_row();

CREATE FUNCTION note_device_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';

CREATE TRIGGER devices_updated AFTER UPDATE ON devices FOR EACH ROW
    WHEN ((OLD.device_uuid, OLD.status = 'disabled') IS DISTINCT FROM (NEW.device_uuid, NEW.status = 'disabled'))
    EXECUTE FUNCTION note_device_row();
CREATE TRIGGER devices_deleted AFTER DELETE ON devices FOR EACH ROW EXECUTE FUNCTION note_device_row();

CREATE FUNCTION note_key_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';

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

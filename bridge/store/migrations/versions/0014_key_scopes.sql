-- What an API key may do, and for which devices. Keys that are there keep what they can do today, by the default; so do
-- those that a process of the release before makes.

-- In the order in which storing locks them, or it and a migration that comes to `devices` first would wait for each other.
LOCK TABLE sensors, devices IN SHARE ROW EXCLUSIVE MODE;

ALTER TABLE api_keys
    ADD COLUMN scopes text[] NOT NULL DEFAULT '{readings:write,status:read,commands:write,commands:read}',
    -- false: those in api_key_devices alone. Not by whether there are rows, or a key would widen when its last device goes.
    ADD COLUMN all_devices boolean NOT NULL DEFAULT true;

CREATE TABLE api_key_devices (
    api_key_id bigint NOT NULL REFERENCES api_keys ON DELETE CASCADE,
    device_id  bigint NOT NULL REFERENCES devices ON DELETE CASCADE,
    PRIMARY KEY (api_key_id, device_id)
);
CREATE INDEX api_key_devices_device ON api_key_devices (device_id);

-- Caches forget a key when what it may do changes.
DROP TRIGGER api_keys_updated ON api_keys;
CREATE TRIGGER api_keys_updated AFTER UPDATE ON api_keys FOR EACH ROW
    WHEN ((OLD.api_key_hash, OLD.is_active, OLD.revoked_at, OLD.expires_at, OLD.scopes, OLD.all_devices)
        IS DISTINCT FROM (NEW.api_key_hash, NEW.is_active, NEW.revoked_at, NEW.expires_at, NEW.scopes, NEW.all_devices))
    EXECUTE FUNCTION note_key_row();

-- Its body comes from sql/functions.
CREATE FUNCTION note_api_key_device() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';

CREATE TRIGGER api_key_devices_written AFTER INSERT OR UPDATE OR DELETE ON api_key_devices
    FOR EACH ROW EXECUTE FUNCTION note_api_key_device();

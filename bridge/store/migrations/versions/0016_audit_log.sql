-- Who changed what, and who was not let in. Triggers write it, in the transaction of the change: whoever makes one, by a
-- command, through a door or by hand, none is forgotten. docs/decisions/0022-guessing-and-audit.md

CREATE TABLE audit_log (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor   text NOT NULL,             -- an operator, a gateway, a role of the database
    door    text NOT NULL,             -- cli, http, sql, enrol, hook, mqtt
    action  text NOT NULL,             -- such as device.key.add
    subject text NOT NULL DEFAULT '',  -- such as "device 7"
    before  jsonb,                     -- what has changed, as it was and as it is: never a key, a password or a hash
    after   jsonb,
    address text                       -- where the actor sits, if that is known
);
CREATE INDEX audit_log_at ON audit_log (at);
CREATE INDEX audit_log_refused ON audit_log (id) WHERE action = 'login.refused';

-- Its body comes from sql/functions. Arguments of a trigger: the beginning of the action; of the subject; and its column.
CREATE FUNCTION audit_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';

-- Tables in the order in which storing locks them. Not on every update: readings, too, set states and times of last use.
CREATE TRIGGER sensors_audited AFTER UPDATE ON sensors FOR EACH ROW
    WHEN ((OLD.device_id, OLD.name, OLD.sensor_type, OLD.unit, OLD.is_active, OLD.min_value, OLD.max_value, OLD.external_id,
           OLD.unit_in, OLD.unit_factor, OLD.unit_offset)
        IS DISTINCT FROM
          (NEW.device_id, NEW.name, NEW.sensor_type, NEW.unit, NEW.is_active, NEW.min_value, NEW.max_value, NEW.external_id,
           NEW.unit_in, NEW.unit_factor, NEW.unit_offset))
    EXECUTE FUNCTION audit_row('sensor', 'sensor', 'id');

CREATE TRIGGER devices_audited AFTER INSERT OR DELETE ON devices
    FOR EACH ROW EXECUTE FUNCTION audit_row('device', 'device', 'id');
CREATE TRIGGER devices_change_audited AFTER UPDATE ON devices FOR EACH ROW
    WHEN ((OLD.device_uuid, OLD.name, OLD.status = 'disabled') IS DISTINCT FROM (NEW.device_uuid, NEW.name, NEW.status = 'disabled'))
    EXECUTE FUNCTION audit_row('device', 'device', 'id');

CREATE TRIGGER device_api_keys_audited AFTER INSERT OR DELETE ON device_api_keys
    FOR EACH ROW EXECUTE FUNCTION audit_row('device.key', 'device', 'device_id');
CREATE TRIGGER device_api_keys_change_audited AFTER UPDATE ON device_api_keys FOR EACH ROW
    WHEN ((OLD.api_key_hash, OLD.is_active, OLD.revoked_at, OLD.expires_at, OLD.device_id)
        IS DISTINCT FROM (NEW.api_key_hash, NEW.is_active, NEW.revoked_at, NEW.expires_at, NEW.device_id))
    EXECUTE FUNCTION audit_row('device.key', 'device', 'device_id');

CREATE TRIGGER api_keys_audited AFTER INSERT OR DELETE ON api_keys
    FOR EACH ROW EXECUTE FUNCTION audit_row('apikey', 'api key', 'id');
CREATE TRIGGER api_keys_change_audited AFTER UPDATE ON api_keys FOR EACH ROW
    WHEN ((OLD.name, OLD.api_key_hash, OLD.is_active, OLD.revoked_at, OLD.expires_at, OLD.scopes, OLD.all_devices)
        IS DISTINCT FROM (NEW.name, NEW.api_key_hash, NEW.is_active, NEW.revoked_at, NEW.expires_at, NEW.scopes, NEW.all_devices))
    EXECUTE FUNCTION audit_row('apikey', 'api key', 'id');
CREATE TRIGGER api_key_devices_audited AFTER INSERT OR UPDATE OR DELETE ON api_key_devices
    FOR EACH ROW EXECUTE FUNCTION audit_row('apikey.device', 'api key', 'api_key_id');

CREATE TRIGGER mqtt_accounts_audited AFTER INSERT OR UPDATE OR DELETE ON mqtt_accounts
    FOR EACH ROW EXECUTE FUNCTION audit_row('account', 'account', 'name');

CREATE TRIGGER alert_thresholds_audited AFTER INSERT OR UPDATE OR DELETE ON alert_thresholds
    FOR EACH ROW EXECUTE FUNCTION audit_row('threshold', 'sensor', 'sensor_id');
CREATE TRIGGER delta_thresholds_audited AFTER INSERT OR UPDATE OR DELETE ON delta_thresholds
    FOR EACH ROW EXECUTE FUNCTION audit_row('threshold.delta', 'sensor', 'sensor_id');

CREATE TRIGGER gateways_audited AFTER INSERT OR DELETE ON gateways
    FOR EACH ROW EXECUTE FUNCTION audit_row('gateway', 'gateway', 'id');
CREATE TRIGGER gateways_change_audited AFTER UPDATE ON gateways FOR EACH ROW
    WHEN ((OLD.name, OLD.all_devices, OLD.revoked_at, OLD.enrolled_at)
        IS DISTINCT FROM (NEW.name, NEW.all_devices, NEW.revoked_at, NEW.enrolled_at))
    EXECUTE FUNCTION audit_row('gateway', 'gateway', 'id');
CREATE TRIGGER gateway_keys_audited AFTER INSERT OR UPDATE OR DELETE ON gateway_keys
    FOR EACH ROW EXECUTE FUNCTION audit_row('gateway.key', 'gateway', 'gateway_id');
CREATE TRIGGER gateway_codes_audited AFTER INSERT OR DELETE ON gateway_codes
    FOR EACH ROW EXECUTE FUNCTION audit_row('gateway.code', 'gateway', 'gateway_id');
CREATE TRIGGER gateway_devices_audited AFTER INSERT OR UPDATE OR DELETE ON gateway_devices
    FOR EACH ROW EXECUTE FUNCTION audit_row('gateway.device', 'gateway', 'gateway_id');

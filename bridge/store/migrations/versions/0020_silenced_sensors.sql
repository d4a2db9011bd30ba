-- Alerts end with their sensors, which are switched off; and which sensors have gone from one device to another.
-- docs/decisions/0027-past-alerts.md

-- silenced: its sensor was switched off. Who holds such a sensor is not waited for: see review_free_sensors.
ALTER TABLE alert_reviews ADD COLUMN silenced boolean NOT NULL DEFAULT false;
CREATE FUNCTION note_silenced_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER sensors_silenced AFTER UPDATE ON sensors FOR EACH ROW
    WHEN ((OLD.is_active AND NOT NEW.is_active) OR OLD.device_id <> NEW.device_id) EXECUTE FUNCTION note_silenced_row();
CREATE TRIGGER devices_silenced AFTER UPDATE ON devices FOR EACH ROW
    WHEN (OLD.status <> 'disabled' AND NEW.status = 'disabled') EXECUTE FUNCTION note_silenced_row();

-- The last sensor that went that way. Whose books its readings are in is known for both devices together.
CREATE TABLE sensor_moves (
    from_device bigint NOT NULL,
    to_device   bigint NOT NULL,
    sensor_id   bigint NOT NULL,
    moved_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (from_device, to_device)
);
CREATE FUNCTION note_moved_sensor() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER sensors_moved AFTER UPDATE ON sensors FOR EACH ROW
    WHEN (OLD.device_id <> NEW.device_id) EXECUTE FUNCTION note_moved_sensor();

-- Alerts that were over before they were known, why an alert was resolved, and whose the books of deleted devices are.
-- docs/decisions/0027-past-alerts.md

ALTER TABLE alerts
    ADD COLUMN is_past boolean NOT NULL DEFAULT false,  -- raised by late readings: it was over when it was raised
    ADD COLUMN resolution text;  -- in_range, severity_changed, continued, threshold_changed, threshold_removed
ALTER TABLE ml_events ADD COLUMN resolution text;
CREATE INDEX alerts_past ON alerts (sensor_id, triggered_at, id) WHERE is_past;
CREATE INDEX alerts_of_their_time ON alerts (sensor_id, triggered_at, id) WHERE NOT is_past;

-- The first warm-up raises nothing, not of late readings either; one after a silence is no first one.
ALTER TABLE sensors ADD COLUMN warmed_up boolean NOT NULL DEFAULT false;
UPDATE sensors SET warmed_up = true
WHERE operational_state IN ('NORMAL', 'WARNING', 'ALERT') OR valid_readings_count >= min_readings_for_normal;

-- The events whole. `alerts` has them as processes of the release before know them, which refuse any other field.
ALTER TABLE ingest_outbox ADD COLUMN alert_events jsonb;

-- Sensors of which a threshold was changed, until the end of the transaction that did it: nobody else sees a row of it.
CREATE TABLE alert_reviews (sensor_id bigint NOT NULL);
CREATE FUNCTION note_threshold_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE FUNCTION review_noted_alerts() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER alert_thresholds_reviewed AFTER UPDATE OR DELETE ON alert_thresholds
    FOR EACH ROW EXECUTE FUNCTION note_threshold_row();
CREATE TRIGGER delta_thresholds_reviewed AFTER UPDATE OR DELETE ON delta_thresholds
    FOR EACH ROW EXECUTE FUNCTION note_threshold_row();
CREATE CONSTRAINT TRIGGER alert_reviews_noted AFTER INSERT ON alert_reviews
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION review_noted_alerts();

-- Whose readings, quarantine and ledger of a device are that is no more.
CREATE TABLE device_tombstones (
    device_id   bigint PRIMARY KEY,
    device_uuid uuid NOT NULL,
    name        text NOT NULL,
    deleted_at  timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE sensor_tombstones (
    sensor_id  bigint PRIMARY KEY,
    device_id  bigint NOT NULL,
    deleted_at timestamptz NOT NULL DEFAULT now()
);
CREATE FUNCTION hold_device_sensors() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE FUNCTION bury_device() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE FUNCTION bury_sensors() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER devices_held BEFORE DELETE ON devices FOR EACH ROW EXECUTE FUNCTION hold_device_sensors();
CREATE TRIGGER devices_buried AFTER DELETE ON devices FOR EACH ROW EXECUTE FUNCTION bury_device();
CREATE TRIGGER sensors_buried AFTER DELETE ON sensors REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION bury_sensors();

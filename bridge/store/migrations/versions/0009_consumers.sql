-- What the consumers keep. alert_notifications becomes the notifier's queue and its record.

ALTER TABLE alert_notifications
    ALTER COLUMN alert_id DROP NOT NULL,  -- warnings and decisions have no row in alerts
    -- From here on ours.
    ADD COLUMN event_id   text,           -- of the stream entry; null in rows of other programs
    ADD COLUMN rule       text,
    ADD COLUMN sensor_id  bigint,
    ADD COLUMN kind       text,
    ADD COLUMN severity   text,
    ADD COLUMN title      text,
    ADD COLUMN body       text,
    ADD COLUMN details    jsonb,          -- what a webhook is told
    ADD COLUMN due_at     timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN digest     boolean NOT NULL DEFAULT false,  -- goes out with others in one message
    ADD COLUMN repeat_s   double precision NOT NULL DEFAULT 0,
    ADD COLUMN attempts   integer NOT NULL DEFAULT 0,
    ADD COLUMN claimed_at timestamptz,    -- when a process took it to send it
    ADD COLUMN message    text;           -- the message it went out with

-- Once for each event and channel.
CREATE UNIQUE INDEX alert_notifications_event ON alert_notifications (event_id, channel);
CREATE INDEX alert_notifications_open ON alert_notifications (channel, due_at) WHERE status IN ('pending', 'sending');
CREATE INDEX alert_notifications_sent ON alert_notifications (channel, sent_at) WHERE status = 'sent';
CREATE INDEX alert_notifications_sensor ON alert_notifications (sensor_id, created_at);

-- What a consumer knows, by sensor: read when it starts, so that it goes on where it was.
CREATE TABLE consumer_states (
    consumer   text NOT NULL,
    key        bigint NOT NULL,  -- the sensor
    state      bytea NOT NULL,   -- the consumer's own form
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, key)
) WITH (fillfactor = 50);

-- Replays to the streams read by the time of storing. Rows lie in that order, so this costs next to nothing.
CREATE INDEX sensor_readings_ingested ON sensor_readings USING brin (ingested_at);

-- A prediction that is written again, when its readings come again, is one row.
CREATE UNIQUE INDEX predictions_once ON predictions (sensor_id, target_timestamp, model_id);
DROP INDEX predictions_sensor;
CREATE INDEX predictions_at ON predictions USING brin (predicted_at);
CREATE INDEX predictions_unexplained ON predictions (id) WHERE is_anomaly AND explanation IS NULL;

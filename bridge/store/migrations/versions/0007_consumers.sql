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

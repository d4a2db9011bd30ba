-- What the MQTT door keeps: commands to devices, and what its sessions are subscribed to.

CREATE TABLE commands (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    device_id       bigint NOT NULL REFERENCES devices ON DELETE CASCADE,
    payload         json NOT NULL,  -- json and not jsonb: what is sent is what was given, to the letter
    state           text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'delivered', 'done', 'failed', 'expired')),
    created_at      timestamptz NOT NULL DEFAULT now(),
    expires_at      timestamptz NOT NULL,
    sent_at         timestamptz,  -- since then the broker has it
    delivered_at    timestamptz,  -- since then the device has said that it has it
    finished_at     timestamptz,
    result          json,         -- what the device answered; text that is not JSON is a JSON string
    attempts        integer NOT NULL DEFAULT 0,
    due_at          timestamptz NOT NULL DEFAULT now(),  -- not to be published before; a process that publishes moves it on
    idempotency_key text
);
CREATE UNIQUE INDEX commands_key ON commands (device_id, idempotency_key);
CREATE INDEX commands_device ON commands (device_id, created_at DESC);
CREATE INDEX commands_open ON commands (due_at) WHERE state = 'queued';

CREATE TABLE mqtt_subscriptions (
    client_id   text NOT NULL,
    broker      text NOT NULL,
    filters     text[] NOT NULL,
    changed_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (client_id, broker)
);

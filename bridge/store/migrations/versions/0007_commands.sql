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

-- A new command. Nothing where the device is not there; where the key has been used before, the command of then.
CREATE FUNCTION add_command(
    p_device_uuid uuid, p_payload json, p_expires_s double precision, p_key text, p_most integer,
    OUT id uuid, OUT is_new boolean, OUT refusal text
) LANGUAGE plpgsql AS $body$
DECLARE
    v_device bigint;
    v_status text;
BEGIN
    is_new := false;
    -- Locked, so that two senders do not count the same room.
    SELECT d.id, d.status INTO v_device, v_status FROM devices d WHERE d.device_uuid = p_device_uuid FOR NO KEY UPDATE;
    IF v_device IS NULL THEN
        refusal := 'unknown_device';
        RETURN;
    END IF;
    SELECT c.id INTO id FROM commands c WHERE c.device_id = v_device AND c.idempotency_key = p_key;
    IF id IS NOT NULL THEN
        RETURN;
    END IF;
    IF v_status = 'disabled' THEN
        refusal := 'device_disabled';
        RETURN;
    END IF;
    IF (SELECT count(*) FROM commands c WHERE c.device_id = v_device AND c.state = 'queued' AND c.expires_at > now()) >= p_most THEN
        refusal := 'too_many_commands';
        RETURN;
    END IF;
    INSERT INTO commands AS c (device_id, payload, expires_at, idempotency_key)
    VALUES (v_device, p_payload, now() + p_expires_s * interval '1 second', p_key)
    RETURNING c.id INTO id;
    is_new := true;
END $body$;

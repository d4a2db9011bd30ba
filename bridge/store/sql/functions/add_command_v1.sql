-- A new command. Nothing where the device is not there; where the key has been used before, the command of then.
CREATE OR REPLACE FUNCTION add_command_v1(
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

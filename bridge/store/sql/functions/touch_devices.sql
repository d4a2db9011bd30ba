-- last_seen_at in steps of 10 s: a busy device costs one update in 10 s, not one a batch. A device whose row somebody else
-- holds is passed over: the next reading will do. Who deletes a device holds its row and waits for its sensors, which the
-- batch has: waiting here for the row would be a deadlock.
CREATE OR REPLACE FUNCTION touch_devices(p_sensor_ids bigint[], p_received_us bigint[], p_fresh boolean[], p_devices bigint[])
RETURNS void LANGUAGE plpgsql AS $body$
DECLARE
    v_stale bigint[];
    v_most_us bigint;
BEGIN
    SELECT max(r.us) INTO v_most_us FROM unnest(p_received_us) r (us);
    SELECT array_agg(d.id) INTO v_stale FROM devices d
    WHERE d.id = ANY (p_devices)
      AND (d.last_seen_at IS NULL OR d.status = 'offline'
           OR d.last_seen_at < from_us(v_most_us / 10000000 * 10000000));
    IF v_stale IS NULL THEN
        RETURN;
    END IF;
    SELECT array_agg(d.id) INTO v_stale
    FROM (SELECT id FROM devices WHERE id = ANY (v_stale) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED) d;
    UPDATE devices d
    SET last_seen_at = greatest(d.last_seen_at, x.seen),
        status = CASE WHEN d.status = 'offline' THEN 'online' ELSE d.status END
    FROM (
        SELECT s.device_id, from_us(max(i.received_us) / 10000000 * 10000000) AS seen
        FROM unnest(p_sensor_ids, p_received_us, p_fresh) AS i (sensor_id, received_us, fresh)
        JOIN sensors s ON s.id = i.sensor_id
        WHERE s.device_id = ANY (v_stale) AND coalesce(i.fresh, true)
        GROUP BY s.device_id
    ) x
    WHERE d.id = x.device_id AND (d.last_seen_at IS NULL OR d.last_seen_at < x.seen OR d.status = 'offline');
END $body$;

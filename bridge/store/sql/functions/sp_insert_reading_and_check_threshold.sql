-- A contract with other systems, for one reading: the name, the parameters and the columns stay; docs/database.md.
-- A batch of one. `code`: why it is refused, and in quarantine; NULL where it is not.
-- Raises 23503 for a sensor that does not exist, 23502 for a value that is NULL, 22008 for a time before the year 1.
CREATE OR REPLACE FUNCTION sp_insert_reading_and_check_threshold(
    p_sensor_id        bigint,
    p_value            double precision,
    p_device_timestamp timestamptz DEFAULT NULL,
    p_sequence         bigint DEFAULT NULL,
    p_received_at      timestamptz DEFAULT NULL,
    p_key              text DEFAULT NULL,
    p_fresh            boolean DEFAULT true,
    p_redelivered      boolean DEFAULT true,
    OUT inserted boolean,
    OUT class    text,
    OUT alerts   jsonb,
    OUT code     text
) LANGUAGE plpgsql AS $body$
DECLARE
    v_received_us bigint := to_us(CASE WHEN isfinite(p_received_at) THEN p_received_at ELSE clock_timestamp() END);
    r             record;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM sensors WHERE id = p_sensor_id) THEN
        RAISE EXCEPTION 'sensor % does not exist', p_sensor_id USING ERRCODE = '23503';
    END IF;
    IF p_value IS NULL THEN
        RAISE EXCEPTION 'the value is NULL: leave the reading out' USING ERRCODE = '23502';
    END IF;
    r := store_readings_v2(
        ARRAY[p_sensor_id], ARRAY[p_value],
        -- Later than any clock may be, and microseconds in 64 bits end soon after; -infinity has none.
        ARRAY[CASE WHEN p_device_timestamp > '290000-01-01' THEN 9223372036854775807
                   WHEN p_device_timestamp = '-infinity' THEN -9223372036854775808
                   ELSE coalesce(to_us(p_device_timestamp), v_received_us) END],
        ARRAY[p_sequence], ARRAY[v_received_us], ARRAY[CASE WHEN p_device_timestamp IS NULL THEN 'server' ELSE 'device' END],
        CASE WHEN p_key IS NOT NULL THEN ARRAY[p_key] END, ARRAY[p_fresh], ARRAY[p_redelivered], NULL, NULL, 0, 300000000);
    inserted := r.outcomes[1] = 0;
    class := (ARRAY['clean', 'warning', 'alert'])[r.classes[1] + 1];
    alerts := r.alerts;
    code := r.codes[1];
END $body$;

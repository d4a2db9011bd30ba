-- sp_insert_reading_and_check_threshold of the release before: calls return through it that were
-- under way while functions were replaced. Goes with the next release.
CREATE OR REPLACE FUNCTION former_sp_insert_reading(
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
    OUT alerts   jsonb
) LANGUAGE plpgsql AS $body$
DECLARE
    v_received_us bigint := to_us(coalesce(p_received_at, clock_timestamp()));
    r             record;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM sensors WHERE id = p_sensor_id) THEN
        RAISE EXCEPTION 'sensor % does not exist', p_sensor_id USING ERRCODE = '23503';
    END IF;
    r := store_readings_v1(
        ARRAY[p_sensor_id], ARRAY[p_value], ARRAY[coalesce(to_us(p_device_timestamp), v_received_us)],
        ARRAY[p_sequence], ARRAY[v_received_us], ARRAY[p_device_timestamp IS NOT NULL],
        CASE WHEN p_key IS NOT NULL THEN ARRAY[p_key] END, ARRAY[p_fresh], ARRAY[p_redelivered], NULL, NULL, 0);
    inserted := r.outcomes[1] = 0;
    class := (ARRAY['clean', 'warning', 'alert'])[r.classes[1] + 1];
    alerts := r.alerts;
END $body$;

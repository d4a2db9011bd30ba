-- Readings that are refused whoever stores them: a value that is not finite or is beyond the sensor's own limits, a time too
-- far ahead. Their places (from 1), codes and details; NULL where there are none. Never age: other systems backfill by SQL;
-- never the limits of a type: those are settings. Under store_readings_v2. Raises 23503 for a sensor that does not exist.
CREATE OR REPLACE FUNCTION judge_inputs(
    p_sensor_ids bigint[], p_values double precision[], p_ts_us bigint[], p_received_us bigint[], p_max_ahead_us bigint,
    p_is_direct boolean,  -- a call of another program, whose time of receipt says nothing of now
    OUT places integer[], OUT codes text[], OUT details text[]
) LANGUAGE plpgsql AS $body$
DECLARE
    v_now_us bigint := to_us(clock_timestamp());
    v_known  bigint;
BEGIN
    WITH input AS MATERIALIZED (
        SELECT i.ord::integer, i.value, i.ts_us - v_now_us::numeric AS ahead_us, s.min_value, s.max_value, s.sensor_type,
               CASE WHEN i.value IN ('NaN', 'Infinity', '-Infinity') THEN 'bad_value'
                    WHEN i.value < s.min_value OR i.value > s.max_value THEN 'value_out_of_range'
                    WHEN i.ts_us > p_max_ahead_us + CASE WHEN p_is_direct THEN v_now_us
                                                         ELSE greatest(v_now_us, i.received_us) END THEN 'time_ahead'
               END AS code
        FROM unnest(p_sensor_ids, p_values, p_ts_us, p_received_us) WITH ORDINALITY AS i (sensor_id, value, ts_us, received_us, ord)
        JOIN sensors s ON s.id = i.sensor_id
    )
    SELECT count(*), array_agg(i.ord ORDER BY i.ord) FILTER (WHERE i.code IS NOT NULL),
           array_agg(i.code ORDER BY i.ord) FILTER (WHERE i.code IS NOT NULL),
           array_agg(CASE i.code WHEN 'bad_value' THEN format('%s is no finite number', i.value)
                                 WHEN 'value_out_of_range' THEN format('%s is outside %s to %s (the sensor''s own limits)', i.value,
                                      coalesce(i.min_value, '-Infinity'), coalesce(i.max_value, 'Infinity'))
                                 ELSE format('the time is %s s ahead of ours; set the device''s clock', round(i.ahead_us / 1e6))
                     END ORDER BY i.ord) FILTER (WHERE i.code IS NOT NULL)
    INTO v_known, places, codes, details FROM input i;
    IF v_known <> cardinality(p_sensor_ids) THEN
        RAISE EXCEPTION 'a sensor of the batch does not exist' USING ERRCODE = '23503';
    END IF;
END $body$;

-- Stores readings that do not all find their places free, one by one in order, each at its time or at the first free
-- microsecond after it. Under store_readings_v2, with the rows of whole sensors.
--
-- A reading with a device's time and no sequence is compared with those that the device gave the same time: they lie within
-- 999 µs after it. So is one that lies at that very time without a device's time: an export that is taken in again.
-- Returns outcomes (0 stored, 1 duplicate, 2 conflict), where each was stored, and details of conflicts.
CREATE OR REPLACE FUNCTION place_readings(
    p_ids bigint[], p_sensor_ids bigint[], p_values double precision[], p_ts_us bigint[], p_sequences bigint[],
    p_clocks text[], p_now timestamptz,
    OUT outcomes smallint[], OUT stored_us bigint[], OUT details text[]
) LANGUAGE plpgsql AS $body$
DECLARE
    r        record;
    v_free   bigint;
    v_known  boolean;
    v_run    bigint;
    v_value  double precision;
    v_sensor bigint;  -- of the reading that was placed last
    v_seq    bigint;
    v_from   bigint;
    v_next   bigint;
    t        record;
BEGIN
    outcomes := array_fill(0::smallint, ARRAY[cardinality(p_ids)]);
    details := array_fill(NULL::text, ARRAY[cardinality(p_ids)]);
    stored_us := p_ts_us;
    FOR r IN
        SELECT i.ord::integer, i.id, i.sensor_id, i.value, i.ts_us, i.sequence, coalesce(i.clock, 'device') AS clock
        FROM unnest(p_ids, p_sensor_ids, p_values, p_ts_us, p_sequences, p_clocks)
             WITH ORDINALITY AS i (id, sensor_id, value, ts_us, sequence, clock, ord)
        ORDER BY i.sensor_id, i.ord
    LOOP
        IF r.clock = 'device' AND r.sequence IS NOT NULL THEN
            SELECT x.value INTO v_value FROM sensor_readings x
            WHERE x.sensor_id = r.sensor_id AND x."timestamp" = from_us(r.ts_us) AND x.sequence = r.sequence;
            IF FOUND THEN
                IF v_value = r.value THEN
                    outcomes[r.ord] := 1;
                ELSE
                    outcomes[r.ord] := 2;
                    details[r.ord] := conflict_text(r.ts_us, r.sequence, v_value, r.value);
                END IF;
                CONTINUE;
            END IF;
            v_free := r.ts_us;
        ELSIF r.clock = 'device' THEN
            SELECT coalesce(bool_or(x.value = r.value AND (x.device_timestamp = from_us(r.ts_us)
                                    OR x.device_timestamp IS NULL AND x.us = r.ts_us)), false),
                   count(*) FILTER (WHERE x.us - r.ts_us = x.nth - 1)
            INTO v_known, v_run
            FROM (SELECT y.value, y.device_timestamp, to_us(y."timestamp") AS us, row_number() OVER (ORDER BY y."timestamp") AS nth
                  FROM sensor_readings y
                  WHERE y.sensor_id = r.sensor_id AND y."timestamp" >= from_us(r.ts_us)
                    AND y."timestamp" < from_us(r.ts_us + 1000) AND y.sequence IS NULL) x;
            IF v_known THEN
                outcomes[r.ord] := 1;
                CONTINUE;
            ELSIF v_run > 999 THEN
                outcomes[r.ord] := 2;
                details[r.ord] := conflict_text(r.ts_us, NULL, NULL, r.value);
                CONTINUE;
            END IF;
            v_free := r.ts_us + v_run;
        ELSE
            -- Nothing leaves its place meanwhile: what was searched for the reading before need not be searched again.
            v_free := CASE WHEN (r.sensor_id, r.ts_us) = (v_sensor, v_from) AND r.sequence IS NOT DISTINCT FROM v_seq
                           THEN v_next ELSE r.ts_us END;
            v_sensor := r.sensor_id; v_from := r.ts_us; v_seq := r.sequence;
            FOR t IN
                SELECT to_us(x."timestamp") AS us FROM sensor_readings x
                WHERE x.sensor_id = r.sensor_id AND x."timestamp" >= from_us(v_free)
                  AND x."timestamp" < from_us(r.ts_us + 1000000) AND x.sequence IS NOT DISTINCT FROM r.sequence
                ORDER BY x."timestamp"
            LOOP
                EXIT WHEN t.us > v_free;
                v_free := v_free + 1;
            END LOOP;
            v_next := v_free + 1;
        END IF;
        INSERT INTO sensor_readings (id, sensor_id, value, "timestamp", device_timestamp, ingested_at, sequence, clock)
        VALUES (r.id, r.sensor_id, r.value, from_us(v_free), CASE WHEN r.clock = 'device' THEN from_us(r.ts_us) END, p_now,
                r.sequence, r.clock);
        stored_us[r.ord] := v_free;
    END LOOP;
END $body$;

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
    v_value  double precision;
    t        record;
    -- Of the last search, for readings that follow with the same sensor and time. Nothing leaves its place meanwhile.
    v_sensor bigint;
    v_from   bigint;
    v_seq    bigint;              -- of a time that is ours
    v_values double precision[];  -- what the device gave its time; NULL where the time was ours
    v_taken  bigint[];
    v_next   bigint;              -- nothing is free before it
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
            -- Many may come with one time: what is there is read once for all of them.
            IF (r.sensor_id, r.ts_us) IS DISTINCT FROM (v_sensor, v_from) OR v_values IS NULL THEN
                SELECT coalesce(array_agg(x.value) FILTER (WHERE x.device_timestamp = from_us(r.ts_us)
                                                           OR x.device_timestamp IS NULL AND x."timestamp" = from_us(r.ts_us)), '{}'),
                       coalesce(array_agg(to_us(x."timestamp")), '{}')
                INTO v_values, v_taken
                FROM sensor_readings x
                WHERE x.sensor_id = r.sensor_id AND x."timestamp" >= from_us(r.ts_us)
                  AND x."timestamp" < from_us(r.ts_us + 1000) AND x.sequence IS NULL;
                v_sensor := r.sensor_id; v_from := r.ts_us; v_next := r.ts_us;
            END IF;
            IF r.value = ANY (v_values) THEN
                outcomes[r.ord] := 1;
                CONTINUE;
            END IF;
            WHILE v_next = ANY (v_taken) LOOP
                v_next := v_next + 1;
            END LOOP;
            IF v_next >= r.ts_us + 1000 THEN
                outcomes[r.ord] := 2;
                details[r.ord] := conflict_text(r.ts_us, NULL, NULL, r.value);
                CONTINUE;
            END IF;
            v_free := v_next;
            v_next := v_next + 1;
            v_values := v_values || r.value;
        ELSE
            v_free := CASE WHEN (r.sensor_id, r.ts_us) = (v_sensor, v_from) AND r.sequence IS NOT DISTINCT FROM v_seq
                                AND v_values IS NULL
                           THEN v_next ELSE r.ts_us END;
            v_sensor := r.sensor_id; v_from := r.ts_us; v_seq := r.sequence; v_values := NULL;
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

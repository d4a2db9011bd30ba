-- What becomes of readings that found their places taken (p_missing): the same reading sent again is a duplicate, another
-- value for a time and sequence is a conflict. Where a reading needs another place, all rows of its sensor in this batch are
-- stored anew, one by one: one that came later must not have the place that is its by order. Under store_readings_v2.
CREATE OR REPLACE FUNCTION resolve_taken_places(
    p_ids bigint[], p_sensor_ids bigint[], p_values double precision[], p_ts_us bigint[], p_sequences bigint[],
    p_clocks text[], p_outcomes smallint[], p_codes text[], p_details text[], p_missing integer[], p_now timestamptz,
    OUT outcomes smallint[], OUT codes text[], OUT details text[],
    OUT stored_ts_us bigint[]  -- NULL where none has moved
) LANGUAGE plpgsql AS $body$
DECLARE
    r         record;
    v_count   integer := cardinality(p_ids);
    v_sensors bigint[] := '{}';
    v_places  integer[];
    v_anew    record;
BEGIN
    outcomes := p_outcomes;
    codes := coalesce(p_codes, array_fill(NULL::text, ARRAY[v_count]));
    details := coalesce(p_details, array_fill(NULL::text, ARRAY[v_count]));
    FOR r IN
        SELECT i.ord::integer, i.sensor_id, i.ts_us, i.sequence, i.value, x.value AS stored,
               coalesce(i.clock, 'device') = 'device' AS timed,
               x.device_timestamp IS NULL OR x.device_timestamp = x."timestamp" AS is_own
        FROM unnest(p_sensor_ids, p_values, p_ts_us, p_sequences, p_clocks)
             WITH ORDINALITY AS i (sensor_id, value, ts_us, sequence, clock, ord)
        JOIN unnest(p_missing) AS m (ord) ON m.ord = i.ord,
             LATERAL (SELECT y.value, y."timestamp", y.device_timestamp FROM sensor_readings y
                      WHERE y.sensor_id = i.sensor_id AND y."timestamp" = from_us(i.ts_us)
                        AND y.sequence IS NOT DISTINCT FROM i.sequence LIMIT 1) x
    LOOP
        IF r.timed AND r.stored = r.value AND (r.is_own OR r.sequence IS NOT NULL) THEN
            outcomes[r.ord] := 1;
        ELSIF r.timed AND r.sequence IS NOT NULL THEN
            outcomes[r.ord] := 2; codes[r.ord] := 'conflicting_identity';
            details[r.ord] := conflict_text(r.ts_us, r.sequence, r.stored, r.value);
        ELSIF r.sensor_id <> ALL (v_sensors) THEN
            v_sensors := v_sensors || r.sensor_id;
        END IF;
    END LOOP;

    IF v_sensors <> '{}' THEN
        FOR r IN
            SELECT i.id, i.sensor_id, i.ts_us, i.ord::integer, m.ord IS NULL AS is_stored
            FROM unnest(p_ids, p_sensor_ids, p_ts_us, p_outcomes) WITH ORDINALITY AS i (id, sensor_id, ts_us, outcome, ord)
            LEFT JOIN unnest(p_missing) AS m (ord) ON m.ord = i.ord
            WHERE i.outcome = 0 AND i.sensor_id = ANY (v_sensors) ORDER BY i.ord
        LOOP
            v_places := v_places || r.ord;
            IF r.is_stored THEN
                DELETE FROM sensor_readings x
                WHERE x.sensor_id = r.sensor_id AND x."timestamp" = from_us(r.ts_us) AND x.id = r.id;
            END IF;
        END LOOP;
        SELECT array_agg(i.id ORDER BY i.ord) AS ids, array_agg(i.sensor_id ORDER BY i.ord) AS sensor_ids,
               array_agg(i.value ORDER BY i.ord) AS "values", array_agg(i.ts_us ORDER BY i.ord) AS ts_us,
               array_agg(i.sequence ORDER BY i.ord) AS sequences, array_agg(i.clock ORDER BY i.ord) AS clocks
        INTO v_anew
        FROM unnest(p_ids, p_sensor_ids, p_values, p_ts_us, p_sequences, p_clocks)
             WITH ORDINALITY AS i (id, sensor_id, value, ts_us, sequence, clock, ord)
        JOIN unnest(v_places) AS v (ord) ON v.ord = i.ord;
        r := place_readings(v_anew.ids, v_anew.sensor_ids, v_anew."values", v_anew.ts_us, v_anew.sequences, v_anew.clocks,
                            p_now);
        stored_ts_us := p_ts_us;
        FOR i IN 1 .. cardinality(v_places) LOOP
            outcomes[v_places[i]] := r.outcomes[i];
            details[v_places[i]] := r.details[i];
            codes[v_places[i]] := CASE r.outcomes[i] WHEN 2 THEN 'conflicting_identity' END;
            stored_ts_us[v_places[i]] := r.stored_us[i];
        END LOOP;
        stored_ts_us := nullif(stored_ts_us, p_ts_us);
    END IF;
    IF 2 <> ALL (outcomes) THEN
        codes := NULL; details := NULL;
    END IF;
END $body$;

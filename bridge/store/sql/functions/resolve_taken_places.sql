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
    v_sensors bigint[];
    v_places  integer[];
    v_anew    record;
BEGIN
    WITH taken AS (
        SELECT i.ord, i.sensor_id, i.ts_us, i.sequence, i.value, x.value AS stored,
               CASE WHEN coalesce(i.clock, 'device') <> 'device' THEN 0
                    WHEN x.value = i.value AND (i.sequence IS NOT NULL OR x.is_own) THEN 1
                    WHEN i.sequence IS NOT NULL THEN 2 ELSE 0 END AS outcome
        FROM unnest(p_sensor_ids, p_values, p_ts_us, p_sequences, p_clocks)
             WITH ORDINALITY AS i (sensor_id, value, ts_us, sequence, clock, ord)
        JOIN unnest(p_missing) AS m (ord) ON m.ord = i.ord,
             LATERAL (SELECT y.value, y.device_timestamp IS NULL OR y.device_timestamp = y."timestamp" AS is_own
                      FROM sensor_readings y
                      WHERE y.sensor_id = i.sensor_id AND y."timestamp" = from_us(i.ts_us)
                        AND y.sequence IS NOT DISTINCT FROM i.sequence LIMIT 1) x
    )
    SELECT array_agg(coalesce(t.outcome, i.outcome)::smallint ORDER BY i.ord),
           array_agg(CASE t.outcome WHEN 2 THEN 'conflicting_identity' ELSE i.code END ORDER BY i.ord),
           array_agg(CASE t.outcome WHEN 2 THEN conflict_text(t.ts_us, t.sequence, t.stored, t.value) ELSE i.detail END
                     ORDER BY i.ord),
           coalesce(array_agg(DISTINCT t.sensor_id) FILTER (WHERE t.outcome = 0), '{}')
    INTO outcomes, codes, details, v_sensors
    FROM unnest(p_outcomes, p_codes, p_details) WITH ORDINALITY AS i (outcome, code, detail, ord) LEFT JOIN taken t USING (ord);

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

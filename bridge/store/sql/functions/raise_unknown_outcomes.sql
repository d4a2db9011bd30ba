-- Refuses a batch for a caller of the release before, which knows stored and duplicate alone: it finds the rows that are
-- refused alone, and keeps them in quarantine, from where they can be replayed. Under versions that go with the next release.
-- Raises 23505 for another reading in the place of one, 22023 for a reading that is refused.
CREATE OR REPLACE FUNCTION raise_unknown_outcomes(p_ts_us bigint[], p_stored_ts_us bigint[], p_codes text[], p_details text[])
RETURNS void LANGUAGE plpgsql AS $body$
DECLARE
    v_place integer;
BEGIN
    SELECT i.ord INTO v_place FROM unnest(p_codes) WITH ORDINALITY AS i (code, ord) WHERE i.code IS NOT NULL ORDER BY i.ord LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '%: %', p_codes[v_place], p_details[v_place]
        USING ERRCODE = CASE p_codes[v_place] WHEN 'conflicting_identity' THEN '23505' ELSE '22023' END;
    END IF;
    SELECT i.ord INTO v_place FROM unnest(p_ts_us, p_stored_ts_us) WITH ORDINALITY AS i (given, stored, ord)
    WHERE i.given <> i.stored ORDER BY i.ord LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'conflicting_identity: there is another reading of this sensor and time (%); replay it',
            to_char(from_us(p_ts_us[v_place]) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
        USING ERRCODE = '23505';
    END IF;
END $body$;

-- For calls that are under way while functions are replaced; goes with the next release. See compare_event_keys.
-- Remembers the keys of a batch; returns the places (from 1) of rows that are known already.
CREATE OR REPLACE FUNCTION remember_event_keys(p_keys text[], p_redelivered boolean[], p_now timestamptz) RETURNS integer[]
LANGUAGE plpgsql AS $body$
DECLARE
    v_known integer[];
BEGIN
    WITH keyed AS (
        SELECT k.ord::integer, k.key, k.redelivered, row_number() OVER (PARTITION BY k.key ORDER BY k.ord) AS nth
        FROM unnest(p_keys, p_redelivered) WITH ORDINALITY AS k (key, redelivered, ord)
        WHERE k.key IS NOT NULL
    ), remembered AS (
        INSERT INTO ingest_event_keys (key, seen_at)
        SELECT key, p_now FROM keyed WHERE nth = 1 ORDER BY key
        ON CONFLICT (key) DO UPDATE SET seen_at = excluded.seen_at
    )
    SELECT array_agg(k.ord) INTO v_known FROM keyed k
    WHERE k.redelivered AND (k.nth > 1 OR EXISTS (SELECT 1 FROM ingest_event_keys e WHERE e.key = k.key));
    RETURN coalesce(v_known, '{}');
END $body$;

-- Locks the rows of quarantine that readings come from until these are committed, in order of id and before any sensor.
-- Raises 40001 where another replay has stored one of the readings since it was looked for: none is stored twice.
CREATE OR REPLACE FUNCTION hold_replayed(p_replays bigint[], p_indexes integer[]) RETURNS void LANGUAGE plpgsql AS $body$
DECLARE
    v_row bigint;
BEGIN
    PERFORM 1 FROM quarantine WHERE id = ANY (p_replays) ORDER BY id FOR NO KEY UPDATE;
    SELECT q.id INTO v_row FROM unnest(p_replays, p_indexes) AS r (id, idx)
    JOIN quarantine q ON q.id = r.id AND r.idx = ANY (q.replayed_indexes) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'another replay has just stored row % of quarantine', v_row USING ERRCODE = '40001';
    END IF;
END $body$;

-- Notes which readings of quarantined rows are stored, in the transaction that stores them: a replay that was killed and
-- is begun again passes over them. The rows are locked by hold_replayed.
CREATE OR REPLACE FUNCTION note_replayed(p_replays bigint[], p_indexes integer[], p_outcomes smallint[]) RETURNS void
LANGUAGE sql AS $body$
    UPDATE quarantine q SET replayed_indexes = q.replayed_indexes || r.indexes
    FROM (SELECT i.id, array_agg(i.idx) AS indexes FROM unnest(p_replays, p_indexes, p_outcomes) AS i (id, idx, outcome)
          WHERE i.id IS NOT NULL AND i.outcome = 0 GROUP BY i.id) r
    WHERE q.id = r.id
$body$;

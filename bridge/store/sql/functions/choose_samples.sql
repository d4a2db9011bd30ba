-- Counts thinned rows by account and code, and says which are kept all the same, as samples: of the fates, 2 becomes 3.
-- The first, the second, the fourth, the eighth … of an account and code are, and the first of each day: few, however
-- many come, and the newest is never older than a day. Under keep_quarantined.
CREATE OR REPLACE FUNCTION choose_samples(p_fates smallint[], p_accounts bigint[], p_device_ids bigint[], p_codes text[])
RETURNS smallint[] LANGUAGE plpgsql AS $body$
DECLARE
    g         record;
    t         quarantine_thinned;
    v_samples bigint[];
BEGIN
    FOR g IN
        SELECT i.account, i.device_id, i.code, array_agg(i.ord ORDER BY i.ord) AS places
        FROM unnest(p_fates, p_accounts, p_device_ids, p_codes) WITH ORDINALITY AS i (fate, account, device_id, code, ord)
        WHERE i.fate = 2 GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    LOOP
        INSERT INTO quarantine_thinned (account, device_id, code) VALUES (g.account, g.device_id, g.code)
        ON CONFLICT DO NOTHING;
        SELECT * INTO t FROM quarantine_thinned q
        WHERE q.account = g.account AND q.device_id = g.device_id AND q.code = g.code FOR NO KEY UPDATE;

        SELECT array_agg(p.place) INTO v_samples FROM unnest(g.places) WITH ORDINALITY AS p (place, nth)
        WHERE (t.thinned + t.samples + p.nth) & (t.thinned + t.samples + p.nth - 1) = 0
           OR p.nth = 1 AND t.sampled_at < now() - interval '1 day';

        SELECT array_agg(CASE WHEN i.ord = ANY (v_samples) THEN 3::smallint ELSE i.fate END ORDER BY i.ord) INTO p_fates
        FROM unnest(p_fates) WITH ORDINALITY AS i (fate, ord);
        UPDATE quarantine_thinned q
        SET thinned = q.thinned + cardinality(g.places) - coalesce(cardinality(v_samples), 0),
            samples = q.samples + coalesce(cardinality(v_samples), 0), thinned_at = now(),
            sampled_at = CASE WHEN v_samples IS NULL THEN q.sampled_at ELSE now() END
        WHERE q.account = g.account AND q.device_id = g.device_id AND q.code = g.code;
    END LOOP;
    RETURN p_fates;
END $body$;

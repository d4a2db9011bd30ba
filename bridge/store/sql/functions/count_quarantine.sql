-- Keeps the running totals of quarantine, by account and in all. On quarantine, once a statement that adds or deletes.
-- The total is in 16 parts, by account: processes that keep rows of different accounts seldom wait for each other.
-- Rows without an account are from before there were quotas, and are not counted.
CREATE OR REPLACE FUNCTION count_quarantine() RETURNS trigger LANGUAGE plpgsql AS $body$
DECLARE
    v_sign integer := CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END;
BEGIN
    WITH moved AS (
        SELECT c.account, v_sign * count(*) AS rows, v_sign * sum(octet_length(c.payload)) AS bytes
        FROM changed c WHERE c.account IS NOT NULL GROUP BY 1
    ), held AS (
        INSERT INTO quarantine_held AS h (account, rows, bytes) SELECT account, rows, bytes FROM moved ORDER BY account
        ON CONFLICT (account) DO UPDATE SET rows = h.rows + excluded.rows, bytes = h.bytes + excluded.bytes
        RETURNING 1
    )
    INSERT INTO quarantine_total AS t (part, rows, bytes)
    SELECT m.account & 15, sum(m.rows), sum(m.bytes) FROM moved m, (SELECT count(*) FROM held) h GROUP BY 1 ORDER BY 1
    ON CONFLICT (part) DO UPDATE SET rows = t.rows + excluded.rows, bytes = t.bytes + excluded.bytes;
    RETURN NULL;
END $body$;

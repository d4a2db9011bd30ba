-- Holds rows for quarantine against its quotas: of the fates, 0 becomes 2 where a row is over them. Under keep_quarantined.
-- An account that is over its own quota loses what no remedy can store. What a remedy can store it may keep until three
-- quarters of the total are taken: the last quarter is for accounts within their own.
CREATE OR REPLACE FUNCTION hold_quota(
    p_fates smallint[], p_accounts bigint[], p_payloads bytea[], p_remedies boolean[], p_quota bigint[]
) RETURNS smallint[] LANGUAGE plpgsql AS $body$
DECLARE
    r             record;
    v_account     bigint;
    v_rows        bigint;
    v_bytes       bigint;
    v_total_rows  bigint;
    v_total_bytes bigint;
    v_is_over     boolean;
    v_share       double precision;
BEGIN
    SELECT coalesce(sum(t.rows), 0), coalesce(sum(t.bytes), 0) INTO v_total_rows, v_total_bytes FROM quarantine_total t;
    FOR r IN
        SELECT i.ord, i.account, octet_length(i.payload) AS bytes, i.remedy, coalesce(h.rows, 0) AS held_rows,
               coalesce(h.bytes, 0) AS held_bytes
        FROM unnest(p_fates, p_accounts, p_payloads, p_remedies) WITH ORDINALITY AS i (fate, account, payload, remedy, ord)
        LEFT JOIN quarantine_held h ON h.account = i.account
        WHERE i.fate = 0 ORDER BY i.account, i.ord
    LOOP
        IF r.account IS DISTINCT FROM v_account THEN
            v_account := r.account; v_rows := r.held_rows; v_bytes := r.held_bytes;
        END IF;
        v_is_over := v_rows >= p_quota[1] OR v_bytes + r.bytes > p_quota[2];
        v_share := CASE WHEN v_is_over THEN 0.75 ELSE 1 END;
        IF v_is_over AND NOT r.remedy OR v_total_rows >= p_quota[3] * v_share OR v_total_bytes + r.bytes > p_quota[4] * v_share
        THEN
            p_fates[r.ord] := 2;
        ELSE
            v_rows := v_rows + 1; v_bytes := v_bytes + r.bytes;
            v_total_rows := v_total_rows + 1; v_total_bytes := v_total_bytes + r.bytes;
        END IF;
    END LOOP;
    RETURN p_fates;
END $body$;

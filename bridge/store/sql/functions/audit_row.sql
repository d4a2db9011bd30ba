-- Writes a changed row into audit_log: who, by the settings that our processes make for their session or transaction, else
-- the role of the database; what, by the trigger's arguments (see migration 0013). As its owner: who may change a table
-- needs no right to audit_log.
CREATE OR REPLACE FUNCTION audit_row() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $body$
DECLARE
    v_old jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END;
    v_new jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END;
    v_row jsonb := coalesce(v_new, v_old);
    v_subject text := v_row ->> TG_ARGV[2];
    v_what text;
BEGIN
    v_what := CASE
        WHEN TG_OP = 'INSERT' THEN 'add'
        WHEN TG_OP = 'DELETE' THEN 'remove'
        WHEN v_new ->> 'status' = 'disabled' AND v_old ->> 'status' <> 'disabled' THEN 'disable'
        WHEN v_old ->> 'status' = 'disabled' AND v_new ->> 'status' <> 'disabled' THEN 'enable'
        WHEN v_old ->> 'revoked_at' IS NULL AND v_new ->> 'revoked_at' IS NOT NULL THEN 'revoke'
        WHEN v_old ->> 'revoked_at' IS NOT NULL AND v_new ->> 'revoked_at' IS NULL THEN 'admit'
        WHEN v_old ->> 'enrolled_at' IS DISTINCT FROM v_new ->> 'enrolled_at' THEN 'enrol'
        WHEN v_old ->> 'is_active' = 'true' AND v_new ->> 'is_active' = 'false' THEN 'clear'
        ELSE 'change' END;
    IF TG_ARGV[1] = 'gateway' THEN
        v_subject := coalesce(v_row ->> 'name', (SELECT g.name FROM gateways g WHERE g.id = v_subject::bigint), v_subject);
    END IF;
    INSERT INTO audit_log (actor, door, action, subject, before, after, address)
    SELECT coalesce(nullif(current_setting('iot_bridge.actor', true), ''), 'role ' || session_user),
           coalesce(nullif(current_setting('iot_bridge.door', true), ''), 'sql'),
           TG_ARGV[0] || '.' || v_what, TG_ARGV[1] || ' ' || v_subject,
           -- Of an update what differs, of a row that came or went all of it.
           (SELECT jsonb_object_agg(o.key, o.value) FROM jsonb_each(v_old) o
            WHERE o.key NOT LIKE '%\_hash' AND o.value <> 'null' AND v_new -> o.key IS DISTINCT FROM o.value),
           (SELECT jsonb_object_agg(n.key, n.value) FROM jsonb_each(v_new) n
            WHERE n.key NOT LIKE '%\_hash' AND (n.value <> 'null' OR v_old IS NOT NULL)
              AND v_old -> n.key IS DISTINCT FROM n.value),
           nullif(current_setting('iot_bridge.address', true), '');
    RETURN NULL;
END $body$;

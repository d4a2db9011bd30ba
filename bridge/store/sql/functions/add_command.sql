-- For processes of the release before functions had versions; goes with the next release.
CREATE OR REPLACE FUNCTION add_command(
    p_device_uuid uuid, p_payload json, p_expires_s double precision, p_key text, p_most integer,
    OUT id uuid, OUT is_new boolean, OUT refusal text
) LANGUAGE sql AS $body$
    SELECT a.id, a.is_new, a.refusal FROM add_command_v1(p_device_uuid, p_payload, p_expires_s, p_key, p_most) a
$body$;

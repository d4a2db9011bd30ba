-- For processes of the release before functions had versions; goes with the next release.
CREATE OR REPLACE FUNCTION drop_quarantine(p_ids bigint[]) RETURNS integer LANGUAGE sql AS $body$
    SELECT drop_quarantine_v1(p_ids)
$body$;

-- For processes of the release before functions had versions; goes with the next release.
CREATE OR REPLACE FUNCTION fold_dead_instances(p_grace interval DEFAULT '5 minutes') RETURNS integer
LANGUAGE sql AS $body$
    SELECT fold_dead_instances_v1(p_grace)
$body$;

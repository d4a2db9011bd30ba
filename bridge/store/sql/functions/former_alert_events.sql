-- Events for iot:alerts as processes of the release before know them: with these eight fields and no other.
CREATE OR REPLACE FUNCTION former_alert_events(p_events jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $body$
    SELECT coalesce(jsonb_agg(e.event - ARRAY['threshold_kind', 'past', 'resolved_at_us', 'resolution'] ORDER BY e.nth), '[]')
    FROM jsonb_array_elements(p_events) WITH ORDINALITY AS e (event, nth)
$body$;

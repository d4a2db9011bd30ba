-- Whose clock the times of a caller are that says only whether they are the device's own, as store_readings_v2 wants it.
-- Processes of the release before count a gateway's clock as the device's: where a reading has a key, it is the gateway's.
CREATE OR REPLACE FUNCTION former_clocks(p_device_time boolean[], p_keys text[], p_gateways text[]) RETURNS text[]
LANGUAGE sql STABLE AS $body$
    SELECT CASE WHEN p_device_time IS NOT NULL OR (p_keys IS NOT NULL AND p_gateways IS NOT NULL) THEN
        (SELECT array_agg(CASE WHEN NOT i.device_time THEN 'server' WHEN i.key IS NOT NULL AND i.gateway IS NOT NULL THEN 'gateway'
                               ELSE 'device' END ORDER BY i.ord)
         FROM unnest(p_device_time, p_keys, p_gateways) WITH ORDINALITY AS i (device_time, key, gateway, ord)) END
$body$;

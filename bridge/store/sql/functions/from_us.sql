-- Microseconds since 1970 as a time.
-- STABLE, as what it calls is: a function that claims more is not inlined, and costs a microsecond a call.
CREATE OR REPLACE FUNCTION from_us(p_us bigint) RETURNS timestamptz LANGUAGE sql STABLE AS $body$
    SELECT 'epoch'::timestamptz + p_us * interval '1 microsecond'
$body$;

-- A time as microseconds since 1970. STABLE, as what it calls is: a function that claims more is not inlined.
-- In doubles, exact to the microsecond until the year 2242; `extract` would compute in numeric.
CREATE OR REPLACE FUNCTION to_us(p_at timestamptz) RETURNS bigint LANGUAGE sql STABLE AS $body$
    SELECT (date_part('epoch', p_at) * 1000000)::bigint
$body$;

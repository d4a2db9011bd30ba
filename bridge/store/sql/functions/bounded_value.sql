-- A value that may be subtracted from another, and the difference divided by 1e-6, by a value or by seconds, without overflow
-- or underflow: these are errors in PostgreSQL, and would refuse the reading. What no sensor measures is cut.
CREATE OR REPLACE FUNCTION bounded_value(p_value double precision) RETURNS double precision LANGUAGE sql IMMUTABLE AS $body$
    SELECT CASE WHEN abs(p_value) < 1e-290 THEN 0 ELSE greatest(least(p_value, 1e290), -1e290) END
$body$;

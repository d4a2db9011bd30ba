-- Why a reading with a device's time cannot be stored: what is there, and what came. Without `p_stored` all places are taken.
CREATE OR REPLACE FUNCTION conflict_text(
    p_ts_us bigint, p_sequence bigint, p_stored double precision, p_value double precision
) RETURNS text LANGUAGE sql STABLE AS $body$
    SELECT format(CASE WHEN p_stored IS NULL THEN 'at %s every microsecond of the millisecond has another value than %4$s'
                       ELSE 'at %s with sequence %s there is %s, not %s' END,
                  to_char(from_us(p_ts_us) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), p_sequence, p_stored, p_value)
$body$;

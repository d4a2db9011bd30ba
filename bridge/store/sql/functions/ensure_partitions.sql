-- Makes the monthly partitions from p_from to p_until; returns how many were new.
CREATE OR REPLACE FUNCTION ensure_partitions(p_from timestamptz, p_until timestamptz) RETURNS integer LANGUAGE plpgsql AS $body$
DECLARE
    v_month timestamp := date_trunc('month', p_from AT TIME ZONE 'UTC');
    v_name  text;
    v_low   timestamptz;
    v_high  timestamptz;
    v_made  integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(7002, 0);  -- several processes maintain one database
    WHILE v_month AT TIME ZONE 'UTC' <= p_until LOOP
        v_name := 'sensor_readings_' || to_char(v_month, 'YYYY_MM');
        v_low := v_month AT TIME ZONE 'UTC';
        v_high := (v_month + interval '1 month') AT TIME ZONE 'UTC';
        IF to_regclass(v_name) IS NULL THEN
            -- A partition may not be attached while the default holds rows of its range, nor may any come
            -- in meanwhile: writers to the default wait.
            LOCK TABLE sensor_readings_default IN ACCESS EXCLUSIVE MODE;
            EXECUTE format('CREATE TABLE %I (LIKE sensor_readings INCLUDING DEFAULTS)', v_name);
            EXECUTE format('WITH gone AS (DELETE FROM sensor_readings_default WHERE "timestamp" >= $1 AND "timestamp" < $2
                            RETURNING *) INSERT INTO %I SELECT * FROM gone', v_name) USING v_low, v_high;
            EXECUTE format('ALTER TABLE sensor_readings ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                           v_name, v_low, v_high);
            v_made := v_made + 1;
        END IF;
        v_month := v_month + interval '1 month';
    END LOOP;
    RETURN v_made;
END $body$;

-- What the functions that store readings need besides tables.

-- A stored row whose sensor needs the loop of step_sensor_states.
CREATE TYPE reading_step AS (
    ord          integer,
    sensor_id    bigint,
    device_id    bigint,
    value        double precision,
    ts_us        bigint,
    late         boolean,
    prev_value   double precision,
    prev_us      bigint,
    state        text,
    valid_count  integer,
    min_readings integer,
    threshold_id bigint,
    severity     text,
    delta_id     bigint
);

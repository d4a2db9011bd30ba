-- Which readings of a gateway have estimated times, and by how much they may be earlier: clock = 'estimated' in
-- sensor_readings. One row for each boot whose clock was never set. docs/decisions/0037-clocks-of-gateways.md
CREATE TABLE gateway_clock_estimates (
    gateway_id bigint NOT NULL REFERENCES gateways (id) ON DELETE CASCADE,
    boot_id    text NOT NULL,         -- empty: a gateway of a release that does not say
    first_at   timestamptz NOT NULL,  -- of its readings, as they are stored
    last_at    timestamptz NOT NULL,
    earlier_s  double precision,      -- each of them may be earlier by up to so much; NULL: nothing bounds it
    noted_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (gateway_id, boot_id)
);

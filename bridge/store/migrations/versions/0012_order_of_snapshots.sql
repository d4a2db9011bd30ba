-- Registry snapshots in an order, so that a gateway knows an older one. See docs/decisions/0024-order-of-snapshots.md.

ALTER TABLE gateways
    ADD COLUMN snapshot_issue bigint NOT NULL DEFAULT 0,  -- raised whenever the content of its snapshot has changed
    ADD COLUMN snapshot_hash  text;                       -- SHA-256 of the content that was issued last

-- One row. Microseconds since 1970, so that each epoch is greater than those that a restored dump knows nothing of.
CREATE TABLE registry_epoch (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch    bigint NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
    begun_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO registry_epoch DEFAULT VALUES;

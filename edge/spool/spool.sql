-- The spool file. Salvage tells tables apart by their number of columns: keep each table's own
-- (meta 4, boot 3, sensor 6, record 11, refused 13, delivered 2, ledger 14, salvage 7; sqlite_schema has 5).

-- name: schema
CREATE TABLE meta (
    one        INTEGER PRIMARY KEY,
    epoch      TEXT NOT NULL,     -- of this file
    reserved   INTEGER NOT NULL,  -- ids up to this one may have been given
    created_us INTEGER NOT NULL
);
CREATE TABLE boot (
    ref       INTEGER PRIMARY KEY,
    boot_id   TEXT NOT NULL UNIQUE,
    anchor_us INTEGER             -- time of day minus CLOCK_BOOTTIME, from when the clock was set
);
CREATE TABLE sensor (
    ref         INTEGER PRIMARY KEY,
    name        NOT NULL,         -- sensor_id, or the text a device used
    device_uuid TEXT,
    device_id   INTEGER NOT NULL,
    resolved    INTEGER NOT NULL,
    crc         INTEGER NOT NULL
);
-- A damaged page of names would make every reading of its sensors unreadable, so they are kept twice.
CREATE TABLE sensor_copy (
    ref         INTEGER PRIMARY KEY,
    name        NOT NULL,
    device_uuid TEXT,
    device_id   INTEGER NOT NULL,
    resolved    INTEGER NOT NULL,
    crc         INTEGER NOT NULL
);
CREATE TABLE record (
    id       INTEGER PRIMARY KEY,
    sensor   INTEGER NOT NULL,
    value    REAL NOT NULL,
    ts_us    INTEGER NOT NULL,
    sequence INTEGER,
    delay_us INTEGER NOT NULL,    -- received_us - ts_us: a small number takes less room
    mono_us  INTEGER NOT NULL,
    boot     INTEGER NOT NULL,
    flags    INTEGER NOT NULL,    -- see edge/spool/rows.py
    key      TEXT,
    crc      INTEGER NOT NULL
);
-- Identity of readings with a time of the device's (flag 8 says that it is ours). What is not equal in all of it, the
-- service judges. Led by the time, so that new entries go to one page: an index in any other order would write a page
-- for each reading.
CREATE UNIQUE INDEX record_identity ON record (ts_us, sensor, ifnull(sequence, ''), value) WHERE key IS NULL AND NOT flags & 8;
CREATE TABLE refused (
    id          INTEGER PRIMARY KEY,
    device_id   INTEGER NOT NULL,
    device_uuid TEXT,
    received_us INTEGER NOT NULL,
    mono_us     INTEGER NOT NULL,
    boot        INTEGER NOT NULL,
    flags       INTEGER NOT NULL,
    code        TEXT NOT NULL,
    detail      TEXT NOT NULL,
    topic       TEXT NOT NULL,
    payload     BLOB NOT NULL,
    place       INTEGER NOT NULL,
    crc         INTEGER NOT NULL
);
-- Identities of what the uplink has handed over lately, 8 bytes each.
CREATE TABLE delivered (
    n      INTEGER PRIMARY KEY,
    hashes BLOB NOT NULL
);
CREATE TABLE ledger (
    account         INTEGER PRIMARY KEY,  -- device_id * 8 + source
    batch           INTEGER NOT NULL,     -- the last batch of this run that touched it
    received_before INTEGER NOT NULL,     -- of former runs: the doors count each run from 0
    returned_before INTEGER NOT NULL,
    received        INTEGER NOT NULL,
    returned        INTEGER NOT NULL,
    spooled         INTEGER NOT NULL,
    duplicate       INTEGER NOT NULL,
    quarantined     INTEGER NOT NULL,
    stored          INTEGER NOT NULL,
    known           INTEGER NOT NULL,
    refused         INTEGER NOT NULL,
    shed            INTEGER NOT NULL,
    lost            INTEGER NOT NULL
);
-- Files that were set aside, and how far they have been read.
CREATE TABLE salvage (
    n        INTEGER PRIMARY KEY,
    file     TEXT NOT NULL,
    page     INTEGER NOT NULL,   -- rows of the pages before it are here, or never will be
    books    INTEGER NOT NULL,   -- whether its ledger is needed, and whether it has been taken over: 0, 1, 2
    restored INTEGER NOT NULL,
    known    INTEGER NOT NULL,   -- rows that were in the spool, or handed over, already
    done     INTEGER NOT NULL
);

-- name: add_salvage
INSERT INTO salvage (file, page, books, restored, known, done) VALUES (?, ?, ?, 0, 0, 0)

-- name: open_salvages
SELECT file, page, books FROM salvage WHERE NOT done ORDER BY n

-- name: salvaged_files
SELECT file FROM salvage

-- name: advance_salvage
UPDATE salvage SET page = ?, restored = restored + ?, known = known + ? WHERE file = ?

-- name: salvage_books
UPDATE salvage SET books = ? WHERE file = ?

-- name: end_salvage
UPDATE salvage SET done = 1 WHERE file = ?

-- name: put_meta
INSERT OR REPLACE INTO meta VALUES (1, ?, ?, ?)

-- name: get_meta
SELECT epoch, reserved FROM meta WHERE one = 1

-- name: reserve
UPDATE meta SET reserved = ? WHERE one = 1

-- name: boots
SELECT ref, boot_id, anchor_us FROM boot

-- name: add_boot
INSERT INTO boot (boot_id) VALUES (?)

-- name: restore_boot
INSERT OR IGNORE INTO boot (boot_id, anchor_us) VALUES (?, ?)

-- name: set_anchor
UPDATE boot SET anchor_us = ? WHERE ref = ?

-- name: sensors
SELECT ref, name, device_uuid, device_id, resolved, crc FROM sensor

-- name: put_sensor
INSERT OR REPLACE INTO sensor VALUES (?, ?, ?, ?, ?, ?)

-- name: put_sensor_copy
INSERT OR REPLACE INTO sensor_copy VALUES (?, ?, ?, ?, ?, ?)

-- name: drop_sensors
DELETE FROM sensor WHERE ref IN (SELECT value FROM json_each(?))

-- name: drop_sensor_copies
DELETE FROM sensor_copy WHERE ref IN (SELECT value FROM json_each(?))

-- name: put_records
INSERT OR IGNORE INTO record VALUES

-- name: put_refused
INSERT OR IGNORE INTO refused VALUES

-- name: read_records
SELECT * FROM record WHERE id > ? AND id <= ? ORDER BY id LIMIT ?

-- name: read_refused
SELECT * FROM refused WHERE id > ? AND id <= ? ORDER BY id LIMIT ?

-- name: these_records
SELECT * FROM record WHERE id IN (SELECT value FROM json_each(?))

-- name: present
SELECT id FROM record WHERE id IN (SELECT value FROM json_each(?1))
UNION ALL SELECT id FROM refused WHERE id IN (SELECT value FROM json_each(?1))

-- name: these_refused
SELECT id, device_id, flags FROM refused WHERE id IN (SELECT value FROM json_each(?))

-- name: drop_records
DELETE FROM record WHERE id IN (SELECT value FROM json_each(?))

-- name: drop_refused
DELETE FROM refused WHERE id IN (SELECT value FROM json_each(?)) 
RETURNING ifnull(device_uuid, device_id), coalesce(length(payload), 0) + 300

-- name: reading_above
SELECT id, boot, mono_us, ts_us + delay_us, flags FROM record WHERE id > ? ORDER BY id LIMIT 1

-- name: reading_upto
SELECT id, boot, mono_us, ts_us + delay_us, flags FROM record WHERE id <= ? ORDER BY id DESC LIMIT 1

-- name: oldest_record
SELECT * FROM record ORDER BY id LIMIT 1

-- name: oldest_refused
SELECT * FROM refused ORDER BY id LIMIT 1

-- name: newest
SELECT max(coalesce((SELECT max(id) FROM record), 0), coalesce((SELECT max(id) FROM refused), 0))

-- name: refused_sizes
-- By sender; 300: see edge/spool/quarantine_quota.py.
SELECT ifnull(device_uuid, device_id), sum(coalesce(length(payload), 0) + 300) FROM refused GROUP BY 1

-- name: oldest_of_refused
SELECT id, device_id, flags FROM refused ORDER BY id LIMIT ?

-- name: drop_range
DELETE FROM record WHERE id BETWEEN ? AND ?

-- name: identity_index
SELECT sql FROM sqlite_schema WHERE name = 'record_identity'

-- name: recent_keys
-- Of the last so many rows: ids have gaps.
SELECT key, value FROM record
WHERE id >= coalesce((SELECT id FROM record ORDER BY id DESC LIMIT 1 OFFSET ?), 0) AND key IS NOT NULL ORDER BY id

-- name: put_delivered
INSERT INTO delivered (hashes) VALUES (?)

-- name: all_delivered
SELECT n, hashes FROM delivered ORDER BY n

-- name: trim_delivered
DELETE FROM delivered WHERE n <= ?

-- name: ledger
SELECT * FROM ledger

-- name: put_ledger
INSERT OR REPLACE INTO ledger VALUES

-- name: begin_run
UPDATE ledger SET batch = 0, received_before = received_before + received, returned_before = returned_before + returned,
    received = 0, returned = 0

-- name: last_batch
SELECT coalesce(max(batch), 0) FROM ledger

-- name: pending_by_sensor
SELECT sensor, flags & 7, count(*) FROM record GROUP BY sensor, flags & 7

-- name: pending_refused
SELECT device_id, flags & 7, count(*) FROM refused GROUP BY device_id, flags & 7

-- What the door knew of something refused, so that a replay makes the reading of it that it would have been.

ALTER TABLE quarantine
    ADD COLUMN facts            jsonb,                          -- beyond the bytes: DoorFacts in bridge/model/reading.py
    ADD COLUMN replayed_indexes integer[] NOT NULL DEFAULT '{}'; -- of its readings, those that a replay has stored

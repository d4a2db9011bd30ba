-- Keeps whose the books of a deleted device are: its readings, its quarantine and its ledger stay. On devices. As its
-- owner: who may delete a device needs no right to the tombstones.
CREATE OR REPLACE FUNCTION bury_device() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $body$
BEGIN
    INSERT INTO device_tombstones (device_id, device_uuid, name) VALUES (OLD.id, OLD.device_uuid, OLD.name)
    ON CONFLICT (device_id) DO UPDATE
    SET device_uuid = excluded.device_uuid, name = excluded.name, deleted_at = excluded.deleted_at;
    RETURN NULL;
END $body$;

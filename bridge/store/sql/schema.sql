-- The whole schema, as pg_dump gives it after all migrations. Written by scripts/schema: do not edit.
-- Nothing runs it; a test holds it against the migrations. What functions do stands in functions/.

CREATE TYPE public.reading_step AS (
	ord integer,
	sensor_id bigint,
	device_id bigint,
	value double precision,
	ts_us bigint,
	late boolean,
	prev_value double precision,
	prev_us bigint,
	state text,
	valid_count integer,
	min_readings integer,
	threshold_id bigint,
	severity text,
	delta_id bigint
);

CREATE FUNCTION public.add_command(p_device_uuid uuid, p_payload json, p_expires_s double precision, p_key text, p_most integer, OUT id uuid, OUT is_new boolean, OUT refusal text) RETURNS record
    LANGUAGE sql;  -- functions/add_command.sql

CREATE FUNCTION public.add_command_v1(p_device_uuid uuid, p_payload json, p_expires_s double precision, p_key text, p_most integer, OUT id uuid, OUT is_new boolean, OUT refusal text) RETURNS record
    LANGUAGE plpgsql;  -- functions/add_command_v1.sql

CREATE FUNCTION public.add_past_alert(s public.reading_step, p_threshold bigint, p_severity text, p_value double precision, p_at timestamp with time zone, p_until timestamp with time zone, p_resolution text) RETURNS jsonb
    LANGUAGE plpgsql;  -- functions/add_past_alert.sql

CREATE FUNCTION public.alert_event(p_prefix text, p_id bigint, p_kind text, p_severity text, p_threshold bigint, p_step public.reading_step) RETURNS jsonb
    LANGUAGE sql IMMUTABLE;  -- functions/alert_event.sql

CREATE FUNCTION public.alert_severity_at(p_sensor bigint, p_at timestamp with time zone) RETURNS integer
    LANGUAGE sql STABLE;  -- functions/alert_severity_at.sql

CREATE FUNCTION public.audit_row() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO '$user', 'public';  -- functions/audit_row.sql

CREATE FUNCTION public.book_direct_calls(p_sensor_ids bigint[], p_sources text[], p_outcomes smallint[]) RETURNS void
    LANGUAGE sql;  -- functions/book_direct_calls.sql

CREATE FUNCTION public.bounded_value(p_value double precision) RETURNS double precision
    LANGUAGE sql IMMUTABLE;  -- functions/bounded_value.sql

CREATE FUNCTION public.bury_device() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO '$user', 'public';  -- functions/bury_device.sql

CREATE FUNCTION public.bury_sensors() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO '$user', 'public';  -- functions/bury_sensors.sql

CREATE FUNCTION public.choose_samples(p_fates smallint[], p_accounts bigint[], p_device_ids bigint[], p_codes text[]) RETURNS smallint[]
    LANGUAGE plpgsql;  -- functions/choose_samples.sql

CREATE FUNCTION public.compare_event_keys(p_keys text[], p_redelivered boolean[], p_sensor_ids bigint[], p_values double precision[], p_outcomes smallint[], p_now timestamp with time zone, OUT duplicates integer[], OUT conflicts integer[], OUT details text[]) RETURNS record
    LANGUAGE plpgsql;  -- functions/compare_event_keys.sql

CREATE FUNCTION public.conflict_text(p_ts_us bigint, p_sequence bigint, p_stored double precision, p_value double precision) RETURNS text
    LANGUAGE sql STABLE;  -- functions/conflict_text.sql

CREATE FUNCTION public.count_quarantine() RETURNS trigger
    LANGUAGE plpgsql;  -- functions/count_quarantine.sql

CREATE FUNCTION public.drop_partitions(p_before timestamp with time zone) RETURNS integer
    LANGUAGE plpgsql;  -- functions/drop_partitions.sql

CREATE FUNCTION public.drop_quarantine(p_ids bigint[]) RETURNS integer
    LANGUAGE sql;  -- functions/drop_quarantine.sql

CREATE FUNCTION public.drop_quarantine_v1(p_ids bigint[]) RETURNS integer
    LANGUAGE sql;  -- functions/drop_quarantine_v1.sql

CREATE FUNCTION public.ensure_partitions(p_from timestamp with time zone, p_until timestamp with time zone) RETURNS integer
    LANGUAGE plpgsql;  -- functions/ensure_partitions.sql

CREATE FUNCTION public.fill_outbox(p_id bigint, p_instance integer, p_stored_us bigint, p_whole boolean, p_outcomes smallint[], p_sensor_ids bigint[], p_values double precision[], p_ts_us bigint[], p_sequences bigint[], p_received_us bigint[], p_keys text[], p_classes smallint[], p_sources text[], p_gateways text[], p_alerts jsonb, p_after_instance integer[], p_after_outbox bigint[]) RETURNS void
    LANGUAGE plpgsql;  -- functions/fill_outbox.sql

CREATE FUNCTION public.fold_dead_instances(p_grace interval DEFAULT '00:05:00'::interval) RETURNS integer
    LANGUAGE sql;  -- functions/fold_dead_instances.sql

CREATE FUNCTION public.fold_dead_instances_v1(p_grace interval DEFAULT '00:05:00'::interval) RETURNS integer
    LANGUAGE plpgsql;  -- functions/fold_dead_instances_v1.sql

CREATE FUNCTION public.former_alert_events(p_events jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE;  -- functions/former_alert_events.sql

CREATE FUNCTION public.former_clocks(p_device_time boolean[], p_keys text[], p_gateways text[]) RETURNS text[]
    LANGUAGE sql STABLE;  -- functions/former_clocks.sql

CREATE FUNCTION public.former_sp_insert_reading(p_sensor_id bigint, p_value double precision, p_device_timestamp timestamp with time zone DEFAULT NULL::timestamp with time zone, p_sequence bigint DEFAULT NULL::bigint, p_received_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_key text DEFAULT NULL::text, p_fresh boolean DEFAULT true, p_redelivered boolean DEFAULT true, OUT inserted boolean, OUT class text, OUT alerts jsonb) RETURNS record
    LANGUAGE plpgsql;  -- functions/former_sp_insert_reading.sql

CREATE FUNCTION public.former_sp_insert_readings(p_sensor_ids bigint[], p_values double precision[], p_ts_us bigint[], p_sequences bigint[] DEFAULT NULL::bigint[], p_received_us bigint[] DEFAULT NULL::bigint[], p_device_time boolean[] DEFAULT NULL::boolean[], p_keys text[] DEFAULT NULL::text[], p_fresh boolean[] DEFAULT NULL::boolean[], p_redelivered boolean[] DEFAULT NULL::boolean[], p_sources text[] DEFAULT NULL::text[], p_gateways text[] DEFAULT NULL::text[], p_instance integer DEFAULT 0, OUT outcomes smallint[], OUT classes smallint[], OUT stored_us bigint, OUT outbox_id bigint, OUT alerts jsonb, OUT after_instance integer[], OUT after_outbox bigint[]) RETURNS record
    LANGUAGE plpgsql;  -- functions/former_sp_insert_readings.sql

CREATE FUNCTION public.from_us(p_us bigint) RETURNS timestamp with time zone
    LANGUAGE sql STABLE;  -- functions/from_us.sql

CREATE FUNCTION public.hold_device_sensors() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO '$user', 'public';  -- functions/hold_device_sensors.sql

CREATE FUNCTION public.hold_quota(p_fates smallint[], p_accounts bigint[], p_payloads bytea[], p_remedies boolean[], p_quota bigint[]) RETURNS smallint[]
    LANGUAGE plpgsql;  -- functions/hold_quota.sql

CREATE FUNCTION public.hold_replayed(p_replays bigint[], p_indexes integer[]) RETURNS void
    LANGUAGE plpgsql;  -- functions/hold_replayed.sql

CREATE FUNCTION public.ingest_batch(p_instance integer, p_batch bigint, p_device_ids bigint[], p_sensor_ids bigint[], p_values double precision[], p_ts_us bigint[], p_sequences bigint[], p_received_us bigint[], p_device_time boolean[], p_keys text[], p_fresh boolean[], p_redelivered boolean[], p_sources text[], p_gateways text[], q_codes text[], q_details text[], q_payloads bytea[], q_sources text[], q_topics text[], q_gateways text[], q_device_ids bigint[], q_device_uuids uuid[], q_indexes integer[], q_received_us bigint[], q_identities text[], l_device_ids bigint[], l_sources text[], l_received bigint[], l_returned bigint[], p_published bigint[], OUT outcomes smallint[], OUT classes smallint[], OUT stored_us bigint, OUT outbox_id bigint, OUT alerts jsonb, OUT after_instance integer[], OUT after_outbox bigint[]) RETURNS record
    LANGUAGE plpgsql;  -- functions/ingest_batch.sql

CREATE FUNCTION public.ingest_batch_v1(p_instance integer, p_batch bigint, p_device_ids bigint[], p_sensor_ids bigint[], p_values double precision[], p_ts_us bigint[], p_sequences bigint[], p_received_us bigint[], p_device_time boolean[], p_keys text[], p_fresh boolean[], p_redelivered boolean[], p_sources text[], p_gateways text[], q_codes text[], q_details text[], q_payloads bytea[], q_sources text[], q_topics text[], q_gateways text[], q_device_ids bigint[], q_device_uuids uuid[], q_indexes integer[], q_received_us bigint[], q_identities text[], l_device_ids bigint[], l_sources text[], l_received bigint[], l_returned bigint[], p_published bigint[], OUT outcomes smallint[], OUT classes smallint[], OUT stored_us bigint, OUT outbox_id bigint, OUT alerts jsonb, OUT after_instance integer[], OUT after_outbox bigint[]) RETURNS record
    LANGUAGE plpgsql;  -- functions/ingest_batch_v1.sql

CREATE FUNCTION public.ingest_batch_v2(p_instance integer, p_batch bigint, p_device_ids bigint[], p_sensor_ids bigint[], p_values double precision[], p_ts_us bigint[], p_sequences bigint[], p_received_us bigint[], p_device_time boolean[], p_keys text[], p_fresh boolean[], p_redelivered boolean[], p_sources text[], p_gateways text[], q_codes text[], q_details text[], q_payloads bytea[], q_sources text[], q_topics text[], q_gateways text[], q_device_ids bigint[], q_device_uuids uuid[], q_indexes integer[], q_received_us bigint[], q_identities text[], l_device_ids bigint[], l_sources text[], l_received bigint[], l_returned bigint[], p_published bigint[], q_senders text[], q_account_uuids uuid[], q_remedies boolean[], q_quota bigint[], OUT outcomes smallint[], OUT classes smallint[], OUT stored_us bigint, OUT outbox_id bigint, OUT alerts jsonb, OUT after_instance integer[], OUT after_outbox bigint[], OUT thinned text[]) RETURNS record
    LANGUAGE plpgsql;  -- functions/ingest_batch_v2.sql

CREATE FUNCTION public.ingest_batch_v3(p_instance integer, p_batch bigint, p_device_ids bigint[], p_sensor_ids bigint[], p_values double precision[], p_ts_us bigint[], p_sequences bigint[], p_received_us bigint[], p_clocks text[], p_keys text[], p_fresh boolean[], p_redelivered boolean[], p_sources text[], p_gateways text[], q_codes text[], q_details text[], q_payloads bytea[], q_sources text[], q_topics text[], q_gateways text[], q_device_ids bigint[], q_device_uuids uuid[], q_indexes integer[], q_received_us bigint[], q_identities text[], l_device_ids bigint[], l_sources text[], l_received bigint[], l_returned bigint[], p_published bigint[], q_senders text[], q_account_uuids uuid[], q_remedies boolean[], q_quota bigint[], p_max_ahead_us bigint, q_facts text[], q_replays bigint[], p_replays bigint[], p_replay_indexes integer[], OUT outcomes smallint[], OUT classes smallint[], OUT stored_us bigint, OUT outbox_id bigint, OUT alerts jsonb, OUT after_instance integer[], OUT after_outbox bigint[], OUT thinned text[], OUT codes text[], OUT details text[], OUT stored_ts_us bigint[]) RETURNS record
    LANGUAGE plpgsql;  -- functions/ingest_batch_v3.sql

CREATE FUNCTION public.is_within_past_alert(p_sensor bigint, p_us bigint) RETURNS boolean
    LANGUAGE sql STABLE;  -- functions/is_within_past_alert.sql

CREATE FUNCTION public.judge_inputs(p_sensor_ids bigint[], p_values double precision[], p_ts_us bigint[], p_received_us bigint[], p_max_ahead_us bigint, p_is_direct boolean, OUT places integer[], OUT codes text[], OUT details text[]) RETURNS record
    LANGUAGE plpgsql;  -- functions/judge_inputs.sql

CREATE FUNCTION public.keep_quarantined(p_codes text[], p_details text[], p_payloads bytea[], p_sources text[], p_topics text[], p_gateways text[], p_device_ids bigint[], p_device_uuids uuid[], p_indexes integer[], p_received_us bigint[], p_identities text[], p_senders text[], p_account_uuids uuid[], p_remedies boolean[], p_quota bigint[]) RETURNS smallint[]
    LANGUAGE sql;  -- functions/keep_quarantined.sql

CREATE FUNCTION public.keep_quarantined_v2(p_codes text[], p_details text[], p_payloads bytea[], p_sources text[], p_topics text[], p_gateways text[], p_device_ids bigint[], p_device_uuids uuid[], p_indexes integer[], p_received_us bigint[], p_identities text[], p_senders text[], p_account_uuids uuid[], p_remedies boolean[], p_quota bigint[], p_facts text[], p_replays bigint[]) RETURNS smallint[]
    LANGUAGE plpgsql;  -- functions/keep_quarantined_v2.sql

CREATE FUNCTION public.keep_sensor_state(p_sensor bigint, p_state text, p_valid integer, p_changed_us bigint) RETURNS void
    LANGUAGE sql;  -- functions/keep_sensor_state.sql

CREATE FUNCTION public.mark_silent_sensors(p_sensor_ids bigint[], p_silent_s double precision[]) RETURNS SETOF bigint
    LANGUAGE sql;  -- functions/mark_silent_sensors.sql

CREATE FUNCTION public.mark_silent_sensors_v1(p_sensor_ids bigint[], p_silent_s double precision[]) RETURNS SETOF bigint
    LANGUAGE plpgsql;  -- functions/mark_silent_sensors_v1.sql

CREATE FUNCTION public.mark_stale_sensors(p_before timestamp with time zone) RETURNS integer
    LANGUAGE plpgsql;  -- functions/mark_stale_sensors.sql

CREATE FUNCTION public.note_account() RETURNS trigger
    LANGUAGE plpgsql;  -- functions/note_account.sql

CREATE FUNCTION public.note_api_key_device() RETURNS trigger
    LANGUAGE plpgsql;  -- functions/note_api_key_device.sql

CREATE FUNCTION public.note_device_row() RETURNS trigger
    LANGUAGE plpgsql;  -- functions/note_device_row.sql

CREATE FUNCTION public.note_gateway() RETURNS trigger
    LANGUAGE plpgsql;  -- functions/note_gateway.sql

CREATE FUNCTION public.note_key_row() RETURNS trigger
    LANGUAGE plpgsql;  -- functions/note_key_row.sql

CREATE FUNCTION public.note_moved_sensor() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO '$user', 'public';  -- functions/note_moved_sensor.sql

CREATE FUNCTION public.note_replayed(p_replays bigint[], p_indexes integer[], p_outcomes smallint[]) RETURNS void
    LANGUAGE sql;  -- functions/note_replayed.sql

CREATE FUNCTION public.note_sensor_row() RETURNS trigger
    LANGUAGE plpgsql;  -- functions/note_sensor_row.sql

CREATE FUNCTION public.note_sensor_rows() RETURNS trigger
    LANGUAGE plpgsql;  -- functions/note_sensor_rows.sql

CREATE FUNCTION public.note_silenced_row() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO '$user', 'public';  -- functions/note_silenced_row.sql

CREATE FUNCTION public.note_threshold_row() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO '$user', 'public';  -- functions/note_threshold_row.sql

CREATE FUNCTION public.place_readings(p_ids bigint[], p_sensor_ids bigint[], p_values double precision[], p_ts_us bigint[], p_sequences bigint[], p_clocks text[], p_now timestamp with time zone, OUT outcomes smallint[], OUT stored_us bigint[], OUT details text[]) RETURNS record
    LANGUAGE plpgsql;  -- functions/place_readings.sql

CREATE FUNCTION public.publish_alert_events(p_sensor_ids bigint[], p_events jsonb) RETURNS void
    LANGUAGE plpgsql;  -- functions/publish_alert_events.sql

CREATE FUNCTION public.quarantine_direct_calls(p_sensor_ids bigint[], p_values double precision[], p_ts_us bigint[], p_sequences bigint[], p_received_us bigint[], p_clocks text[], p_keys text[], p_sources text[], p_outcomes smallint[], p_codes text[], p_details text[]) RETURNS smallint[]
    LANGUAGE plpgsql;  -- functions/quarantine_direct_calls.sql

CREATE TABLE public.ml_events (
    id bigint NOT NULL,
    sensor_id bigint NOT NULL,
    device_id bigint NOT NULL,
    event_type text NOT NULL,
    event_code text NOT NULL,
    status text DEFAULT 'active'::text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    resolved_at timestamp with time zone,
    title text NOT NULL,
    message text NOT NULL,
    payload jsonb DEFAULT '{}'::jsonb NOT NULL,
    resolution text,
    CONSTRAINT ml_events_status_check CHECK ((status = ANY (ARRAY['active'::text, 'acknowledged'::text, 'resolved'::text])))
);

CREATE FUNCTION public.raise_delta_spike(s public.reading_step) RETURNS public.ml_events
    LANGUAGE plpgsql;  -- functions/raise_delta_spike.sql

CREATE FUNCTION public.raise_unknown_outcomes(p_ts_us bigint[], p_stored_ts_us bigint[], p_codes text[], p_details text[]) RETURNS void
    LANGUAGE plpgsql;  -- functions/raise_unknown_outcomes.sql

CREATE FUNCTION public.recompute_sensor_v1(p_sensor bigint, p_dry_run boolean, OUT before jsonb, OUT after jsonb, OUT ahead bigint, OUT events jsonb) RETURNS record
    LANGUAGE plpgsql;  -- functions/recompute_sensor_v1.sql

CREATE FUNCTION public.remember_event_keys(p_keys text[], p_redelivered boolean[], p_now timestamp with time zone) RETURNS integer[]
    LANGUAGE plpgsql;  -- functions/remember_event_keys.sql

CREATE FUNCTION public.resolve_taken_places(p_ids bigint[], p_sensor_ids bigint[], p_values double precision[], p_ts_us bigint[], p_sequences bigint[], p_clocks text[], p_outcomes smallint[], p_codes text[], p_details text[], p_missing integer[], p_now timestamp with time zone, OUT outcomes smallint[], OUT codes text[], OUT details text[], OUT stored_ts_us bigint[]) RETURNS record
    LANGUAGE plpgsql;  -- functions/resolve_taken_places.sql

CREATE FUNCTION public.review_alerts(p_sensor_ids bigint[]) RETURNS void
    LANGUAGE plpgsql;  -- functions/review_alerts.sql

CREATE FUNCTION public.review_free_sensors(p_sensor_ids bigint[]) RETURNS void
    LANGUAGE plpgsql;  -- functions/review_free_sensors.sql

CREATE FUNCTION public.review_noted_alerts() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO '$user', 'public';  -- functions/review_noted_alerts.sql

CREATE FUNCTION public.review_silenced_alerts_v1() RETURNS void
    LANGUAGE plpgsql;  -- functions/review_silenced_alerts_v1.sql

CREATE FUNCTION public.sensor_summary(p_sensor bigint) RETURNS jsonb
    LANGUAGE sql STABLE;  -- functions/sensor_summary.sql

CREATE FUNCTION public.severity_rank(p_severity text) RETURNS integer
    LANGUAGE sql IMMUTABLE;  -- functions/severity_rank.sql

CREATE FUNCTION public.sp_insert_reading_and_check_threshold(p_sensor_id bigint, p_value double precision, p_device_timestamp timestamp with time zone DEFAULT NULL::timestamp with time zone, p_sequence bigint DEFAULT NULL::bigint, p_received_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_key text DEFAULT NULL::text, p_fresh boolean DEFAULT true, p_redelivered boolean DEFAULT true, OUT inserted boolean, OUT class text, OUT alerts jsonb, OUT code text) RETURNS record
    LANGUAGE plpgsql;  -- functions/sp_insert_reading_and_check_threshold.sql

CREATE FUNCTION public.sp_insert_readings(p_sensor_ids bigint[], p_values double precision[], p_ts_us bigint[], p_sequences bigint[] DEFAULT NULL::bigint[], p_received_us bigint[] DEFAULT NULL::bigint[], p_device_time boolean[] DEFAULT NULL::boolean[], p_keys text[] DEFAULT NULL::text[], p_fresh boolean[] DEFAULT NULL::boolean[], p_redelivered boolean[] DEFAULT NULL::boolean[], p_sources text[] DEFAULT NULL::text[], p_gateways text[] DEFAULT NULL::text[], p_instance integer DEFAULT 0, OUT outcomes smallint[], OUT classes smallint[], OUT stored_us bigint, OUT outbox_id bigint, OUT alerts jsonb, OUT after_instance integer[], OUT after_outbox bigint[], OUT codes text[], OUT details text[], OUT stored_ts_us bigint[]) RETURNS record
    LANGUAGE plpgsql;  -- functions/sp_insert_readings.sql

CREATE TABLE public.alerts (
    id bigint NOT NULL,
    sensor_id bigint NOT NULL,
    device_id bigint NOT NULL,
    threshold_id bigint,
    severity text NOT NULL,
    status text DEFAULT 'active'::text NOT NULL,
    triggered_value double precision NOT NULL,
    triggered_at timestamp with time zone NOT NULL,
    resolved_at timestamp with time zone,
    is_past boolean DEFAULT false NOT NULL,
    resolution text,
    CONSTRAINT alerts_severity_check CHECK ((severity = ANY (ARRAY['info'::text, 'warning'::text, 'critical'::text]))),
    CONSTRAINT alerts_status_check CHECK ((status = ANY (ARRAY['active'::text, 'acknowledged'::text, 'resolved'::text])))
);

CREATE FUNCTION public.step_alerts(s public.reading_step, INOUT p_alert public.alerts, INOUT p_warning public.ml_events, OUT events jsonb) RETURNS record
    LANGUAGE plpgsql;  -- functions/step_alerts.sql

CREATE FUNCTION public.step_late_reading(s public.reading_step, p_id bigint, INOUT p_run public.alerts, OUT events jsonb) RETURNS record
    LANGUAGE plpgsql;  -- functions/step_late_reading.sql

CREATE FUNCTION public.step_readings(p_steps public.reading_step[], p_ids bigint[]) RETURNS jsonb
    LANGUAGE plpgsql;  -- functions/step_readings.sql

CREATE FUNCTION public.step_sensor_states(p_steps public.reading_step[]) RETURNS jsonb
    LANGUAGE sql;  -- functions/step_sensor_states.sql

CREATE FUNCTION public.store_readings_v1(p_sensor_ids bigint[], p_values double precision[], p_ts_us bigint[], p_sequences bigint[], p_received_us bigint[], p_device_time boolean[], p_keys text[], p_fresh boolean[], p_redelivered boolean[], p_sources text[], p_gateways text[], p_instance integer, OUT outcomes smallint[], OUT classes smallint[], OUT stored_us bigint, OUT outbox_id bigint, OUT alerts jsonb, OUT after_instance integer[], OUT after_outbox bigint[]) RETURNS record
    LANGUAGE plpgsql;  -- functions/store_readings_v1.sql

CREATE FUNCTION public.store_readings_v2(p_sensor_ids bigint[], p_values double precision[], p_ts_us bigint[], p_sequences bigint[], p_received_us bigint[], p_clocks text[], p_keys text[], p_fresh boolean[], p_redelivered boolean[], p_sources text[], p_gateways text[], p_instance integer, p_max_ahead_us bigint, OUT outcomes smallint[], OUT classes smallint[], OUT stored_us bigint, OUT outbox_id bigint, OUT alerts jsonb, OUT after_instance integer[], OUT after_outbox bigint[], OUT codes text[], OUT details text[], OUT stored_ts_us bigint[]) RETURNS record
    LANGUAGE plpgsql;  -- functions/store_readings_v2.sql

CREATE FUNCTION public.to_us(p_at timestamp with time zone) RETURNS bigint
    LANGUAGE sql STABLE;  -- functions/to_us.sql

CREATE FUNCTION public.touch_devices(p_sensor_ids bigint[], p_received_us bigint[], p_fresh boolean[], p_devices bigint[]) RETURNS void
    LANGUAGE plpgsql;  -- functions/touch_devices.sql

CREATE FUNCTION public.violated_threshold(p_sensor bigint, p_value double precision, OUT threshold_id bigint, OUT severity text) RETURNS record
    LANGUAGE sql STABLE;  -- functions/violated_threshold.sql

CREATE TABLE public.alert_notifications (
    id bigint NOT NULL,
    alert_id bigint,
    channel text NOT NULL,
    status text DEFAULT 'pending'::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    sent_at timestamp with time zone,
    error text,
    event_id text,
    rule text,
    sensor_id bigint,
    kind text,
    severity text,
    title text,
    body text,
    details jsonb,
    due_at timestamp with time zone DEFAULT now() NOT NULL,
    digest boolean DEFAULT false NOT NULL,
    repeat_s double precision DEFAULT 0 NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    claimed_at timestamp with time zone,
    message text
);

ALTER TABLE public.alert_notifications ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.alert_notifications_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.alert_reviews (
    sensor_id bigint NOT NULL,
    silenced boolean DEFAULT false NOT NULL
);

CREATE TABLE public.alert_thresholds (
    id bigint NOT NULL,
    sensor_id bigint NOT NULL,
    condition_type text NOT NULL,
    threshold_value_min double precision,
    threshold_value_max double precision,
    severity text DEFAULT 'warning'::text NOT NULL,
    is_active boolean DEFAULT true NOT NULL,
    CONSTRAINT alert_thresholds_condition_type_check CHECK ((condition_type = ANY (ARRAY['greater_than'::text, 'less_than'::text, 'equal_to'::text, 'out_of_range'::text]))),
    CONSTRAINT alert_thresholds_severity_check CHECK ((severity = ANY (ARRAY['info'::text, 'warning'::text, 'critical'::text])))
);

ALTER TABLE public.alert_thresholds ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.alert_thresholds_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE public.alerts ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.alerts_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.api_key_devices (
    api_key_id bigint NOT NULL,
    device_id bigint NOT NULL
);

CREATE TABLE public.api_keys (
    id bigint NOT NULL,
    name text NOT NULL,
    api_key_hash text NOT NULL,
    is_active boolean DEFAULT true NOT NULL,
    revoked_at timestamp with time zone,
    expires_at timestamp with time zone,
    last_used_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    scopes text[] DEFAULT '{readings:write,status:read,commands:write,commands:read}'::text[] NOT NULL,
    all_devices boolean DEFAULT true NOT NULL
);

ALTER TABLE public.api_keys ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.api_keys_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.audit_log (
    id bigint NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    actor text NOT NULL,
    door text NOT NULL,
    action text NOT NULL,
    subject text DEFAULT ''::text NOT NULL,
    before jsonb,
    after jsonb,
    address text
);

ALTER TABLE public.audit_log ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.audit_log_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.commands (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    device_id bigint NOT NULL,
    payload json NOT NULL,
    state text DEFAULT 'queued'::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    sent_at timestamp with time zone,
    delivered_at timestamp with time zone,
    finished_at timestamp with time zone,
    result json,
    attempts integer DEFAULT 0 NOT NULL,
    due_at timestamp with time zone DEFAULT now() NOT NULL,
    idempotency_key text,
    CONSTRAINT commands_state_check CHECK ((state = ANY (ARRAY['queued'::text, 'delivered'::text, 'done'::text, 'failed'::text, 'expired'::text])))
);

CREATE TABLE public.consumer_states (
    consumer text NOT NULL,
    key bigint NOT NULL,
    state bytea NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
)
WITH (fillfactor='50');

CREATE TABLE public.delta_thresholds (
    id bigint NOT NULL,
    sensor_id bigint NOT NULL,
    abs_delta double precision,
    rel_delta double precision,
    abs_slope double precision,
    rel_slope double precision,
    severity text DEFAULT 'warning'::text NOT NULL,
    is_active boolean DEFAULT true NOT NULL,
    cooldown_seconds integer DEFAULT 60 NOT NULL,
    CONSTRAINT delta_thresholds_severity_check CHECK ((severity = ANY (ARRAY['info'::text, 'warning'::text, 'critical'::text])))
);

ALTER TABLE public.delta_thresholds ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.delta_thresholds_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.device_api_keys (
    id bigint NOT NULL,
    device_id bigint NOT NULL,
    api_key_hash text NOT NULL,
    is_active boolean DEFAULT true NOT NULL,
    revoked_at timestamp with time zone,
    expires_at timestamp with time zone,
    last_used_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    mosquitto_hash text
);

ALTER TABLE public.device_api_keys ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.device_api_keys_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.device_tombstones (
    device_id bigint NOT NULL,
    device_uuid uuid NOT NULL,
    name text NOT NULL,
    deleted_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE public.devices (
    id bigint NOT NULL,
    device_uuid uuid DEFAULT gen_random_uuid() NOT NULL,
    name text NOT NULL,
    status text DEFAULT 'offline'::text NOT NULL,
    last_seen_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT devices_status_check CHECK ((status = ANY (ARRAY['online'::text, 'offline'::text, 'disabled'::text])))
)
WITH (fillfactor='80');

ALTER TABLE public.devices ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.devices_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.gateway_books (
    gateway_id bigint NOT NULL,
    device_id bigint NOT NULL,
    source text NOT NULL,
    received bigint NOT NULL,
    returned bigint NOT NULL,
    spooled bigint NOT NULL,
    duplicate bigint NOT NULL,
    quarantined bigint NOT NULL,
    stored bigint NOT NULL,
    known bigint NOT NULL,
    refused bigint NOT NULL,
    shed bigint NOT NULL,
    lost bigint NOT NULL,
    reported_at timestamp with time zone DEFAULT now() NOT NULL,
    run text,
    spooled_before bigint DEFAULT 0 NOT NULL,
    delivered_before bigint DEFAULT 0 NOT NULL,
    shed_before bigint DEFAULT 0 NOT NULL,
    lost_before bigint DEFAULT 0 NOT NULL
);

CREATE TABLE public.gateway_clock_estimates (
    gateway_id bigint NOT NULL,
    boot_id text NOT NULL,
    first_at timestamp with time zone NOT NULL,
    last_at timestamp with time zone NOT NULL,
    earlier_s double precision,
    noted_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE public.gateway_codes (
    code_hash text NOT NULL,
    gateway_id bigint NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    used_at timestamp with time zone
);

CREATE TABLE public.gateway_devices (
    gateway_id bigint NOT NULL,
    device_id bigint NOT NULL
);

CREATE TABLE public.gateway_keys (
    id bigint NOT NULL,
    gateway_id bigint NOT NULL,
    key_hash text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    revoked_at timestamp with time zone
);

ALTER TABLE public.gateway_keys ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.gateway_keys_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.gateways (
    id bigint NOT NULL,
    name text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    last_seen_at timestamp with time zone,
    all_devices boolean DEFAULT false NOT NULL,
    revoked_at timestamp with time zone,
    enrolled_at timestamp with time zone,
    version text,
    state jsonb,
    state_at timestamp with time zone,
    snapshot_issue bigint DEFAULT 0 NOT NULL,
    snapshot_hash text
);

ALTER TABLE public.gateways ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.gateways_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.ingest_event_keys (
    key text NOT NULL,
    seen_at timestamp with time zone NOT NULL,
    sensor_id bigint,
    value double precision
);

CREATE TABLE public.ingest_instances (
    id integer NOT NULL,
    name text NOT NULL,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    last_seen_at timestamp with time zone DEFAULT now() NOT NULL,
    last_batch bigint DEFAULT 0 NOT NULL
)
WITH (fillfactor='50');

ALTER TABLE public.ingest_instances ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.ingest_instances_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.ingest_ledger (
    instance integer NOT NULL,
    device_id bigint NOT NULL,
    source text NOT NULL,
    received bigint DEFAULT 0 NOT NULL,
    returned bigint DEFAULT 0 NOT NULL,
    stored bigint DEFAULT 0 NOT NULL,
    duplicate bigint DEFAULT 0 NOT NULL,
    quarantined bigint DEFAULT 0 NOT NULL,
    thinned bigint DEFAULT 0 NOT NULL
)
WITH (fillfactor='50');

CREATE TABLE public.ingest_outbox (
    id bigint NOT NULL,
    instance integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    stored_us bigint NOT NULL,
    sensor_ids bigint[] NOT NULL,
    "values" double precision[] NOT NULL,
    ts_us bigint[] NOT NULL,
    sequences bigint[],
    received_us bigint[] NOT NULL,
    keys text[],
    classes smallint[] NOT NULL,
    sources text[] NOT NULL,
    gateways text[],
    alerts jsonb DEFAULT '[]'::jsonb NOT NULL,
    after_instance integer[] DEFAULT '{}'::integer[] NOT NULL,
    after_outbox bigint[] DEFAULT '{}'::bigint[] NOT NULL,
    alert_events jsonb
);
ALTER TABLE ONLY public.ingest_outbox ALTER COLUMN sensor_ids SET STORAGE EXTERNAL;
ALTER TABLE ONLY public.ingest_outbox ALTER COLUMN "values" SET STORAGE EXTERNAL;
ALTER TABLE ONLY public.ingest_outbox ALTER COLUMN ts_us SET STORAGE EXTERNAL;
ALTER TABLE ONLY public.ingest_outbox ALTER COLUMN sequences SET STORAGE EXTERNAL;
ALTER TABLE ONLY public.ingest_outbox ALTER COLUMN received_us SET STORAGE EXTERNAL;
ALTER TABLE ONLY public.ingest_outbox ALTER COLUMN keys SET STORAGE EXTERNAL;
ALTER TABLE ONLY public.ingest_outbox ALTER COLUMN classes SET STORAGE EXTERNAL;
ALTER TABLE ONLY public.ingest_outbox ALTER COLUMN sources SET STORAGE EXTERNAL;
ALTER TABLE ONLY public.ingest_outbox ALTER COLUMN gateways SET STORAGE EXTERNAL;

ALTER TABLE public.ingest_outbox ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.ingest_outbox_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE public.ml_events ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.ml_events_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.mqtt_accounts (
    id bigint NOT NULL,
    name text NOT NULL,
    role text NOT NULL,
    password_hash text NOT NULL,
    mosquitto_hash text NOT NULL,
    is_active boolean DEFAULT true NOT NULL,
    revoked_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT mqtt_accounts_role_check CHECK ((role = ANY (ARRAY['bridge'::text, 'publisher'::text])))
);

ALTER TABLE public.mqtt_accounts ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.mqtt_accounts_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.mqtt_subscriptions (
    client_id text NOT NULL,
    broker text NOT NULL,
    filters text[] NOT NULL,
    changed_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE public.predictions (
    id bigint NOT NULL,
    sensor_id bigint NOT NULL,
    model_id text NOT NULL,
    predicted_value double precision NOT NULL,
    confidence double precision,
    predicted_at timestamp with time zone DEFAULT now() NOT NULL,
    target_timestamp timestamp with time zone NOT NULL,
    is_anomaly boolean DEFAULT false NOT NULL,
    anomaly_score double precision,
    explanation text
);

ALTER TABLE public.predictions ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.predictions_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.quarantine (
    id bigint NOT NULL,
    code text NOT NULL,
    detail text NOT NULL,
    payload bytea NOT NULL,
    source text NOT NULL,
    topic text NOT NULL,
    gateway text,
    device_id bigint DEFAULT 0 NOT NULL,
    device_uuid uuid,
    reading_index integer DEFAULT 0 NOT NULL,
    received_at timestamp with time zone NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    replayed_at timestamp with time zone,
    identity text,
    account bigint DEFAULT 0,
    gateway_id bigint,
    sender text,
    whole_bytes integer,
    facts jsonb,
    replayed_indexes integer[] DEFAULT '{}'::integer[] NOT NULL
);

CREATE TABLE public.quarantine_dropped (
    device_id bigint NOT NULL,
    dropped bigint NOT NULL
);

CREATE TABLE public.quarantine_held (
    account bigint NOT NULL,
    rows bigint NOT NULL,
    bytes bigint NOT NULL
)
WITH (fillfactor='50');

ALTER TABLE public.quarantine ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.quarantine_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.quarantine_thinned (
    account bigint NOT NULL,
    device_id bigint NOT NULL,
    code text NOT NULL,
    thinned bigint DEFAULT 0 NOT NULL,
    samples bigint DEFAULT 0 NOT NULL,
    thinned_at timestamp with time zone DEFAULT now() NOT NULL,
    sampled_at timestamp with time zone
)
WITH (fillfactor='50');

CREATE TABLE public.quarantine_total (
    part smallint NOT NULL,
    rows bigint NOT NULL,
    bytes bigint NOT NULL
)
WITH (fillfactor='50');

CREATE TABLE public.readings_dropped (
    device_id bigint NOT NULL,
    dropped bigint NOT NULL
);

CREATE TABLE public.registry_changes (
    id bigint NOT NULL,
    kind text NOT NULL,
    ref text NOT NULL,
    changed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

ALTER TABLE public.registry_changes ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.registry_changes_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.registry_epoch (
    only_row boolean DEFAULT true NOT NULL,
    epoch bigint DEFAULT ((EXTRACT(epoch FROM clock_timestamp()) * (1000000)::numeric))::bigint NOT NULL,
    begun_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT registry_epoch_only_row_check CHECK (only_row)
);

CREATE TABLE public.schema_version (
    version_num character varying(32) NOT NULL
);

CREATE TABLE public.sensor_moves (
    from_device bigint NOT NULL,
    to_device bigint NOT NULL,
    sensor_id bigint NOT NULL,
    moved_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE SEQUENCE public.sensor_readings_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

CREATE TABLE public.sensor_readings (
    id bigint DEFAULT nextval('public.sensor_readings_id_seq'::regclass) NOT NULL,
    sensor_id bigint NOT NULL,
    value double precision NOT NULL,
    "timestamp" timestamp with time zone NOT NULL,
    device_timestamp timestamp with time zone,
    ingested_at timestamp with time zone DEFAULT now() NOT NULL,
    sequence bigint,
    clock text
)
PARTITION BY RANGE ("timestamp");

CREATE TABLE public.sensor_readings_default (
    id bigint DEFAULT nextval('public.sensor_readings_id_seq'::regclass) CONSTRAINT sensor_readings_id_not_null NOT NULL,
    sensor_id bigint CONSTRAINT sensor_readings_sensor_id_not_null NOT NULL,
    value double precision CONSTRAINT sensor_readings_value_not_null NOT NULL,
    "timestamp" timestamp with time zone CONSTRAINT sensor_readings_timestamp_not_null NOT NULL,
    device_timestamp timestamp with time zone,
    ingested_at timestamp with time zone DEFAULT now() CONSTRAINT sensor_readings_ingested_at_not_null NOT NULL,
    sequence bigint,
    clock text
);

CREATE TABLE public.sensor_readings_latest (
    sensor_id bigint NOT NULL,
    latest_value double precision,
    latest_timestamp timestamp with time zone,
    received_at timestamp with time zone,
    outbox_instance integer,
    outbox_id bigint
)
WITH (fillfactor='50');

CREATE TABLE public.sensor_tombstones (
    sensor_id bigint NOT NULL,
    device_id bigint NOT NULL,
    deleted_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE public.sensors (
    id bigint NOT NULL,
    sensor_uuid uuid DEFAULT gen_random_uuid() NOT NULL,
    device_id bigint NOT NULL,
    name text NOT NULL,
    sensor_type text NOT NULL,
    unit text,
    is_active boolean DEFAULT true NOT NULL,
    operational_state text DEFAULT 'INITIALIZING'::text NOT NULL,
    valid_readings_count integer DEFAULT 0 NOT NULL,
    min_readings_for_normal integer DEFAULT 10 NOT NULL,
    state_changed_at timestamp with time zone DEFAULT now() NOT NULL,
    min_value double precision,
    max_value double precision,
    external_id text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    unit_in text,
    unit_factor double precision DEFAULT 1 NOT NULL,
    unit_offset double precision DEFAULT 0 NOT NULL,
    warmed_up boolean DEFAULT false NOT NULL,
    CONSTRAINT sensors_operational_state_check CHECK ((operational_state = ANY (ARRAY['INITIALIZING'::text, 'NORMAL'::text, 'WARNING'::text, 'ALERT'::text, 'STALE'::text])))
)
WITH (fillfactor='80');

ALTER TABLE public.sensors ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.sensors_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE ONLY public.sensor_readings ATTACH PARTITION public.sensor_readings_default DEFAULT;

ALTER TABLE ONLY public.alert_notifications
    ADD CONSTRAINT alert_notifications_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.alert_thresholds
    ADD CONSTRAINT alert_thresholds_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.alerts
    ADD CONSTRAINT alerts_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.api_key_devices
    ADD CONSTRAINT api_key_devices_pkey PRIMARY KEY (api_key_id, device_id);

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_api_key_hash_key UNIQUE (api_key_hash);

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.audit_log
    ADD CONSTRAINT audit_log_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.commands
    ADD CONSTRAINT commands_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.consumer_states
    ADD CONSTRAINT consumer_states_pkey PRIMARY KEY (consumer, key);

ALTER TABLE ONLY public.delta_thresholds
    ADD CONSTRAINT delta_thresholds_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.device_api_keys
    ADD CONSTRAINT device_api_keys_api_key_hash_key UNIQUE (api_key_hash);

ALTER TABLE ONLY public.device_api_keys
    ADD CONSTRAINT device_api_keys_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.device_tombstones
    ADD CONSTRAINT device_tombstones_pkey PRIMARY KEY (device_id);

ALTER TABLE ONLY public.devices
    ADD CONSTRAINT devices_device_uuid_key UNIQUE (device_uuid);

ALTER TABLE ONLY public.devices
    ADD CONSTRAINT devices_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.gateway_books
    ADD CONSTRAINT gateway_books_pkey PRIMARY KEY (gateway_id, device_id, source);

ALTER TABLE ONLY public.gateway_clock_estimates
    ADD CONSTRAINT gateway_clock_estimates_pkey PRIMARY KEY (gateway_id, boot_id);

ALTER TABLE ONLY public.gateway_codes
    ADD CONSTRAINT gateway_codes_pkey PRIMARY KEY (code_hash);

ALTER TABLE ONLY public.gateway_devices
    ADD CONSTRAINT gateway_devices_pkey PRIMARY KEY (gateway_id, device_id);

ALTER TABLE ONLY public.gateway_keys
    ADD CONSTRAINT gateway_keys_key_hash_key UNIQUE (key_hash);

ALTER TABLE ONLY public.gateway_keys
    ADD CONSTRAINT gateway_keys_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.gateways
    ADD CONSTRAINT gateways_name_key UNIQUE (name);

ALTER TABLE ONLY public.gateways
    ADD CONSTRAINT gateways_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.ingest_event_keys
    ADD CONSTRAINT ingest_event_keys_pkey PRIMARY KEY (key);

ALTER TABLE ONLY public.ingest_instances
    ADD CONSTRAINT ingest_instances_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.ingest_ledger
    ADD CONSTRAINT ingest_ledger_pkey PRIMARY KEY (instance, device_id, source);

ALTER TABLE ONLY public.ingest_outbox
    ADD CONSTRAINT ingest_outbox_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.ml_events
    ADD CONSTRAINT ml_events_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.mqtt_accounts
    ADD CONSTRAINT mqtt_accounts_password_hash_key UNIQUE (password_hash);

ALTER TABLE ONLY public.mqtt_accounts
    ADD CONSTRAINT mqtt_accounts_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.mqtt_subscriptions
    ADD CONSTRAINT mqtt_subscriptions_pkey PRIMARY KEY (client_id, broker);

ALTER TABLE ONLY public.predictions
    ADD CONSTRAINT predictions_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.quarantine_dropped
    ADD CONSTRAINT quarantine_dropped_pkey PRIMARY KEY (device_id);

ALTER TABLE ONLY public.quarantine_held
    ADD CONSTRAINT quarantine_held_pkey PRIMARY KEY (account);

ALTER TABLE ONLY public.quarantine
    ADD CONSTRAINT quarantine_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.quarantine_thinned
    ADD CONSTRAINT quarantine_thinned_pkey PRIMARY KEY (account, device_id, code);

ALTER TABLE ONLY public.quarantine_total
    ADD CONSTRAINT quarantine_total_pkey PRIMARY KEY (part);

ALTER TABLE ONLY public.readings_dropped
    ADD CONSTRAINT readings_dropped_pkey PRIMARY KEY (device_id);

ALTER TABLE ONLY public.registry_changes
    ADD CONSTRAINT registry_changes_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.registry_epoch
    ADD CONSTRAINT registry_epoch_pkey PRIMARY KEY (only_row);

ALTER TABLE ONLY public.schema_version
    ADD CONSTRAINT schema_version_pkc PRIMARY KEY (version_num);

ALTER TABLE ONLY public.sensor_moves
    ADD CONSTRAINT sensor_moves_pkey PRIMARY KEY (from_device, to_device);

ALTER TABLE ONLY public.sensor_readings_latest
    ADD CONSTRAINT sensor_readings_latest_pkey PRIMARY KEY (sensor_id);

ALTER TABLE ONLY public.sensor_tombstones
    ADD CONSTRAINT sensor_tombstones_pkey PRIMARY KEY (sensor_id);

ALTER TABLE ONLY public.sensors
    ADD CONSTRAINT sensors_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.sensors
    ADD CONSTRAINT sensors_sensor_uuid_key UNIQUE (sensor_uuid);

CREATE INDEX alert_notifications_alert ON public.alert_notifications USING btree (alert_id);

CREATE UNIQUE INDEX alert_notifications_event ON public.alert_notifications USING btree (event_id, channel);

CREATE INDEX alert_notifications_open ON public.alert_notifications USING btree (channel, due_at) WHERE (status = ANY (ARRAY['pending'::text, 'sending'::text]));

CREATE INDEX alert_notifications_sensor ON public.alert_notifications USING btree (sensor_id, created_at);

CREATE INDEX alert_notifications_sent ON public.alert_notifications USING btree (channel, sent_at) WHERE (status = 'sent'::text);

CREATE INDEX alert_thresholds_sensor ON public.alert_thresholds USING btree (sensor_id) WHERE is_active;

CREATE INDEX alerts_of_their_time ON public.alerts USING btree (sensor_id, triggered_at, id) WHERE (NOT is_past);

CREATE UNIQUE INDEX alerts_one_open ON public.alerts USING btree (sensor_id) WHERE (status = ANY (ARRAY['active'::text, 'acknowledged'::text]));

CREATE INDEX alerts_past ON public.alerts USING btree (sensor_id, triggered_at, id) WHERE is_past;

CREATE INDEX alerts_sensor ON public.alerts USING btree (sensor_id, triggered_at DESC);

CREATE INDEX api_key_devices_device ON public.api_key_devices USING btree (device_id);

CREATE INDEX audit_log_at ON public.audit_log USING btree (at);

CREATE INDEX audit_log_refused ON public.audit_log USING btree (id) WHERE (action = 'login.refused'::text);

CREATE INDEX commands_device ON public.commands USING btree (device_id, created_at DESC);

CREATE UNIQUE INDEX commands_key ON public.commands USING btree (device_id, idempotency_key);

CREATE INDEX commands_open ON public.commands USING btree (due_at) WHERE (state = 'queued'::text);

CREATE INDEX delta_thresholds_sensor ON public.delta_thresholds USING btree (sensor_id) WHERE is_active;

CREATE INDEX device_api_keys_device ON public.device_api_keys USING btree (device_id);

CREATE INDEX gateway_keys_gateway ON public.gateway_keys USING btree (gateway_id);

CREATE INDEX ingest_event_keys_seen ON public.ingest_event_keys USING brin (seen_at);

CREATE UNIQUE INDEX ml_events_one_active_warning ON public.ml_events USING btree (sensor_id) WHERE ((status = ANY (ARRAY['active'::text, 'acknowledged'::text])) AND (event_type = 'warning'::text));

CREATE INDEX ml_events_sensor ON public.ml_events USING btree (sensor_id, created_at DESC);

CREATE UNIQUE INDEX mqtt_accounts_name ON public.mqtt_accounts USING btree (name) WHERE is_active;

CREATE INDEX predictions_at ON public.predictions USING brin (predicted_at);

CREATE UNIQUE INDEX predictions_once ON public.predictions USING btree (sensor_id, target_timestamp, model_id);

CREATE INDEX predictions_unexplained ON public.predictions USING btree (id) WHERE (is_anomaly AND (explanation IS NULL));

CREATE INDEX quarantine_created ON public.quarantine USING btree (created_at);

CREATE UNIQUE INDEX quarantine_identity ON public.quarantine USING btree (identity) WHERE (identity IS NOT NULL);

CREATE INDEX quarantine_waiting ON public.quarantine USING btree (received_at) WHERE ((code = 'unknown_sensor'::text) AND (replayed_at IS NULL));

CREATE INDEX registry_changes_at ON public.registry_changes USING btree (changed_at);

CREATE INDEX sensor_readings_ingested ON ONLY public.sensor_readings USING brin (ingested_at);

CREATE INDEX sensor_readings_default_ingested_at_idx ON public.sensor_readings_default USING brin (ingested_at);

CREATE UNIQUE INDEX sensor_readings_identity ON ONLY public.sensor_readings USING btree (sensor_id, "timestamp", sequence) NULLS NOT DISTINCT;

CREATE UNIQUE INDEX sensor_readings_default_sensor_id_timestamp_sequence_idx ON public.sensor_readings_default USING btree (sensor_id, "timestamp", sequence) NULLS NOT DISTINCT;

CREATE INDEX sensors_device ON public.sensors USING btree (device_id);

CREATE UNIQUE INDEX sensors_external_id ON public.sensors USING btree (external_id) WHERE (external_id IS NOT NULL);

ALTER INDEX public.sensor_readings_ingested ATTACH PARTITION public.sensor_readings_default_ingested_at_idx;

ALTER INDEX public.sensor_readings_identity ATTACH PARTITION public.sensor_readings_default_sensor_id_timestamp_sequence_idx;

CREATE CONSTRAINT TRIGGER alert_reviews_noted AFTER INSERT ON public.alert_reviews DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.review_noted_alerts();

CREATE TRIGGER alert_thresholds_audited AFTER INSERT OR DELETE OR UPDATE ON public.alert_thresholds FOR EACH ROW EXECUTE FUNCTION public.audit_row('threshold', 'sensor', 'sensor_id');

CREATE TRIGGER alert_thresholds_reviewed AFTER DELETE OR UPDATE ON public.alert_thresholds FOR EACH ROW EXECUTE FUNCTION public.note_threshold_row();

CREATE TRIGGER api_key_devices_audited AFTER INSERT OR DELETE OR UPDATE ON public.api_key_devices FOR EACH ROW EXECUTE FUNCTION public.audit_row('apikey.device', 'api key', 'api_key_id');

CREATE TRIGGER api_key_devices_written AFTER INSERT OR DELETE OR UPDATE ON public.api_key_devices FOR EACH ROW EXECUTE FUNCTION public.note_api_key_device();

CREATE TRIGGER api_keys_audited AFTER INSERT OR DELETE ON public.api_keys FOR EACH ROW EXECUTE FUNCTION public.audit_row('apikey', 'api key', 'id');

CREATE TRIGGER api_keys_change_audited AFTER UPDATE ON public.api_keys FOR EACH ROW WHEN ((((((((old.name IS DISTINCT FROM new.name) OR (old.api_key_hash IS DISTINCT FROM new.api_key_hash)) OR (old.is_active IS DISTINCT FROM new.is_active)) OR (old.revoked_at IS DISTINCT FROM new.revoked_at)) OR (old.expires_at IS DISTINCT FROM new.expires_at)) OR (old.scopes IS DISTINCT FROM new.scopes)) OR (old.all_devices IS DISTINCT FROM new.all_devices))) EXECUTE FUNCTION public.audit_row('apikey', 'api key', 'id');

CREATE TRIGGER api_keys_updated AFTER UPDATE ON public.api_keys FOR EACH ROW WHEN (((((((old.api_key_hash IS DISTINCT FROM new.api_key_hash) OR (old.is_active IS DISTINCT FROM new.is_active)) OR (old.revoked_at IS DISTINCT FROM new.revoked_at)) OR (old.expires_at IS DISTINCT FROM new.expires_at)) OR (old.scopes IS DISTINCT FROM new.scopes)) OR (old.all_devices IS DISTINCT FROM new.all_devices))) EXECUTE FUNCTION public.note_key_row();

CREATE TRIGGER api_keys_written AFTER INSERT OR DELETE ON public.api_keys FOR EACH ROW EXECUTE FUNCTION public.note_key_row();

CREATE TRIGGER delta_thresholds_audited AFTER INSERT OR DELETE OR UPDATE ON public.delta_thresholds FOR EACH ROW EXECUTE FUNCTION public.audit_row('threshold.delta', 'sensor', 'sensor_id');

CREATE TRIGGER delta_thresholds_reviewed AFTER DELETE OR UPDATE ON public.delta_thresholds FOR EACH ROW EXECUTE FUNCTION public.note_threshold_row();

CREATE TRIGGER device_api_keys_audited AFTER INSERT OR DELETE ON public.device_api_keys FOR EACH ROW EXECUTE FUNCTION public.audit_row('device.key', 'device', 'device_id');

CREATE TRIGGER device_api_keys_change_audited AFTER UPDATE ON public.device_api_keys FOR EACH ROW WHEN ((((((old.api_key_hash IS DISTINCT FROM new.api_key_hash) OR (old.is_active IS DISTINCT FROM new.is_active)) OR (old.revoked_at IS DISTINCT FROM new.revoked_at)) OR (old.expires_at IS DISTINCT FROM new.expires_at)) OR (old.device_id IS DISTINCT FROM new.device_id))) EXECUTE FUNCTION public.audit_row('device.key', 'device', 'device_id');

CREATE TRIGGER device_api_keys_updated AFTER UPDATE ON public.device_api_keys FOR EACH ROW WHEN ((((((old.api_key_hash IS DISTINCT FROM new.api_key_hash) OR (old.is_active IS DISTINCT FROM new.is_active)) OR (old.revoked_at IS DISTINCT FROM new.revoked_at)) OR (old.expires_at IS DISTINCT FROM new.expires_at)) OR (old.device_id IS DISTINCT FROM new.device_id))) EXECUTE FUNCTION public.note_key_row();

CREATE TRIGGER device_api_keys_written AFTER INSERT OR DELETE ON public.device_api_keys FOR EACH ROW EXECUTE FUNCTION public.note_key_row();

CREATE TRIGGER devices_audited AFTER INSERT OR DELETE ON public.devices FOR EACH ROW EXECUTE FUNCTION public.audit_row('device', 'device', 'id');

CREATE TRIGGER devices_buried AFTER DELETE ON public.devices FOR EACH ROW EXECUTE FUNCTION public.bury_device();

CREATE TRIGGER devices_change_audited AFTER UPDATE ON public.devices FOR EACH ROW WHEN ((((old.device_uuid IS DISTINCT FROM new.device_uuid) OR (old.name IS DISTINCT FROM new.name)) OR ((old.status = 'disabled'::text) IS DISTINCT FROM (new.status = 'disabled'::text)))) EXECUTE FUNCTION public.audit_row('device', 'device', 'id');

CREATE TRIGGER devices_deleted AFTER DELETE ON public.devices FOR EACH ROW EXECUTE FUNCTION public.note_device_row();

CREATE TRIGGER devices_held BEFORE DELETE ON public.devices FOR EACH ROW EXECUTE FUNCTION public.hold_device_sensors();

CREATE TRIGGER devices_silenced AFTER UPDATE ON public.devices FOR EACH ROW WHEN (((old.status <> 'disabled'::text) AND (new.status = 'disabled'::text))) EXECUTE FUNCTION public.note_silenced_row();

CREATE TRIGGER devices_updated AFTER UPDATE ON public.devices FOR EACH ROW WHEN (((old.device_uuid IS DISTINCT FROM new.device_uuid) OR ((old.status = 'disabled'::text) IS DISTINCT FROM (new.status = 'disabled'::text)))) EXECUTE FUNCTION public.note_device_row();

CREATE TRIGGER gateway_codes_audited AFTER INSERT OR DELETE ON public.gateway_codes FOR EACH ROW EXECUTE FUNCTION public.audit_row('gateway.code', 'gateway', 'gateway_id');

CREATE TRIGGER gateway_devices_audited AFTER INSERT OR DELETE OR UPDATE ON public.gateway_devices FOR EACH ROW EXECUTE FUNCTION public.audit_row('gateway.device', 'gateway', 'gateway_id');

CREATE TRIGGER gateway_devices_written AFTER INSERT OR DELETE OR UPDATE ON public.gateway_devices FOR EACH STATEMENT EXECUTE FUNCTION public.note_gateway();

CREATE TRIGGER gateway_keys_audited AFTER INSERT OR DELETE OR UPDATE ON public.gateway_keys FOR EACH ROW EXECUTE FUNCTION public.audit_row('gateway.key', 'gateway', 'gateway_id');

CREATE TRIGGER gateway_keys_written AFTER INSERT OR DELETE OR UPDATE ON public.gateway_keys FOR EACH STATEMENT EXECUTE FUNCTION public.note_gateway();

CREATE TRIGGER gateways_audited AFTER INSERT OR DELETE ON public.gateways FOR EACH ROW EXECUTE FUNCTION public.audit_row('gateway', 'gateway', 'id');

CREATE TRIGGER gateways_change_audited AFTER UPDATE ON public.gateways FOR EACH ROW WHEN (((((old.name IS DISTINCT FROM new.name) OR (old.all_devices IS DISTINCT FROM new.all_devices)) OR (old.revoked_at IS DISTINCT FROM new.revoked_at)) OR (old.enrolled_at IS DISTINCT FROM new.enrolled_at))) EXECUTE FUNCTION public.audit_row('gateway', 'gateway', 'id');

CREATE TRIGGER gateways_revoked AFTER UPDATE OF revoked_at, all_devices ON public.gateways FOR EACH STATEMENT EXECUTE FUNCTION public.note_gateway();

CREATE TRIGGER mqtt_accounts_audited AFTER INSERT OR DELETE OR UPDATE ON public.mqtt_accounts FOR EACH ROW EXECUTE FUNCTION public.audit_row('account', 'account', 'name');

CREATE TRIGGER mqtt_accounts_written AFTER INSERT OR DELETE OR UPDATE ON public.mqtt_accounts FOR EACH STATEMENT EXECUTE FUNCTION public.note_account();

CREATE TRIGGER quarantine_added AFTER INSERT ON public.quarantine REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION public.count_quarantine();

CREATE TRIGGER quarantine_deleted AFTER DELETE ON public.quarantine REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION public.count_quarantine();

CREATE TRIGGER registry_epoch_audited AFTER UPDATE ON public.registry_epoch FOR EACH ROW EXECUTE FUNCTION public.audit_row('registry.epoch', 'epoch', 'epoch');

CREATE TRIGGER sensors_audited AFTER UPDATE ON public.sensors FOR EACH ROW WHEN ((((((((((((old.device_id IS DISTINCT FROM new.device_id) OR (old.name IS DISTINCT FROM new.name)) OR (old.sensor_type IS DISTINCT FROM new.sensor_type)) OR (old.unit IS DISTINCT FROM new.unit)) OR (old.is_active IS DISTINCT FROM new.is_active)) OR (old.min_value IS DISTINCT FROM new.min_value)) OR (old.max_value IS DISTINCT FROM new.max_value)) OR (old.external_id IS DISTINCT FROM new.external_id)) OR (old.unit_in IS DISTINCT FROM new.unit_in)) OR (old.unit_factor IS DISTINCT FROM new.unit_factor)) OR (old.unit_offset IS DISTINCT FROM new.unit_offset))) EXECUTE FUNCTION public.audit_row('sensor', 'sensor', 'id');

CREATE TRIGGER sensors_buried AFTER DELETE ON public.sensors REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION public.bury_sensors();

CREATE TRIGGER sensors_deleted AFTER DELETE ON public.sensors REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION public.note_sensor_rows();

CREATE TRIGGER sensors_inserted AFTER INSERT ON public.sensors REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION public.note_sensor_rows();

CREATE TRIGGER sensors_moved AFTER UPDATE ON public.sensors FOR EACH ROW WHEN ((old.device_id <> new.device_id)) EXECUTE FUNCTION public.note_moved_sensor();

CREATE TRIGGER sensors_silenced AFTER UPDATE ON public.sensors FOR EACH ROW WHEN (((old.is_active AND (NOT new.is_active)) OR (old.device_id <> new.device_id))) EXECUTE FUNCTION public.note_silenced_row();

CREATE TRIGGER sensors_updated AFTER UPDATE ON public.sensors FOR EACH ROW WHEN ((((((((((old.sensor_uuid IS DISTINCT FROM new.sensor_uuid) OR (old.device_id IS DISTINCT FROM new.device_id)) OR (old.sensor_type IS DISTINCT FROM new.sensor_type)) OR (old.is_active IS DISTINCT FROM new.is_active)) OR (old.min_value IS DISTINCT FROM new.min_value)) OR (old.max_value IS DISTINCT FROM new.max_value)) OR (old.external_id IS DISTINCT FROM new.external_id)) OR (old.unit_factor IS DISTINCT FROM new.unit_factor)) OR (old.unit_offset IS DISTINCT FROM new.unit_offset))) EXECUTE FUNCTION public.note_sensor_row();

ALTER TABLE ONLY public.alert_notifications
    ADD CONSTRAINT alert_notifications_alert_id_fkey FOREIGN KEY (alert_id) REFERENCES public.alerts(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.alert_thresholds
    ADD CONSTRAINT alert_thresholds_sensor_id_fkey FOREIGN KEY (sensor_id) REFERENCES public.sensors(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.alerts
    ADD CONSTRAINT alerts_sensor_id_fkey FOREIGN KEY (sensor_id) REFERENCES public.sensors(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.api_key_devices
    ADD CONSTRAINT api_key_devices_api_key_id_fkey FOREIGN KEY (api_key_id) REFERENCES public.api_keys(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.api_key_devices
    ADD CONSTRAINT api_key_devices_device_id_fkey FOREIGN KEY (device_id) REFERENCES public.devices(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.commands
    ADD CONSTRAINT commands_device_id_fkey FOREIGN KEY (device_id) REFERENCES public.devices(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.delta_thresholds
    ADD CONSTRAINT delta_thresholds_sensor_id_fkey FOREIGN KEY (sensor_id) REFERENCES public.sensors(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.device_api_keys
    ADD CONSTRAINT device_api_keys_device_id_fkey FOREIGN KEY (device_id) REFERENCES public.devices(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.gateway_books
    ADD CONSTRAINT gateway_books_gateway_id_fkey FOREIGN KEY (gateway_id) REFERENCES public.gateways(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.gateway_clock_estimates
    ADD CONSTRAINT gateway_clock_estimates_gateway_id_fkey FOREIGN KEY (gateway_id) REFERENCES public.gateways(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.gateway_codes
    ADD CONSTRAINT gateway_codes_gateway_id_fkey FOREIGN KEY (gateway_id) REFERENCES public.gateways(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.gateway_devices
    ADD CONSTRAINT gateway_devices_device_id_fkey FOREIGN KEY (device_id) REFERENCES public.devices(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.gateway_devices
    ADD CONSTRAINT gateway_devices_gateway_id_fkey FOREIGN KEY (gateway_id) REFERENCES public.gateways(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.gateway_keys
    ADD CONSTRAINT gateway_keys_gateway_id_fkey FOREIGN KEY (gateway_id) REFERENCES public.gateways(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.ingest_ledger
    ADD CONSTRAINT ingest_ledger_instance_fkey FOREIGN KEY (instance) REFERENCES public.ingest_instances(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.ml_events
    ADD CONSTRAINT ml_events_sensor_id_fkey FOREIGN KEY (sensor_id) REFERENCES public.sensors(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.predictions
    ADD CONSTRAINT predictions_sensor_id_fkey FOREIGN KEY (sensor_id) REFERENCES public.sensors(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.sensor_readings_latest
    ADD CONSTRAINT sensor_readings_latest_sensor_id_fkey FOREIGN KEY (sensor_id) REFERENCES public.sensors(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.sensors
    ADD CONSTRAINT sensors_device_id_fkey FOREIGN KEY (device_id) REFERENCES public.devices(id) ON DELETE CASCADE;

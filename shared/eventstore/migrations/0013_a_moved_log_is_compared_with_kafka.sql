-- A standby that was promoted, or a backup that was restored to a point in time, goes on under a new timeline of the same cluster, and may
-- lack events that were acknowledged under the old one. So the log is stamped with the timeline too: under another it accepts nothing
-- until it has been compared with Kafka.
CREATE FUNCTION es.timeline() RETURNS integer LANGUAGE sql SET search_path = '' AS $$
    SELECT ('x' || left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8))::pg_catalog.bit(32)::integer
$$;
ALTER TABLE es.log ADD COLUMN timeline integer NOT NULL DEFAULT es.timeline();

-- `restored`: in another cluster than it was made in, so `recover` must run. `not compared`: under another timeline, see above.
CREATE FUNCTION es.moved() RETURNS text LANGUAGE sql SET search_path = '' AS $$
    SELECT CASE
        WHEN log.system_id <> (SELECT system_identifier FROM pg_catalog.pg_control_system()) THEN 'restored'
        WHEN log.timeline <> es.timeline() THEN 'not compared'
    END
    FROM es.log
$$;

-- Kafka is not ahead of what this log held under `in_timeline`. The message waits for a synchronous standby, where there is one: so when
-- this returns, every seal that could be read before is there too. A seal whose own wait was broken off may be on this server alone, and
-- nothing may be published that a failover would take back.
CREATE FUNCTION es.compared_with_kafka(in_timeline integer) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    PERFORM pg_catalog.pg_logical_emit_message(true, 'leifeng', '');
    PERFORM pg_catalog.set_config('leifeng.who', 'relay', true);
    PERFORM pg_catalog.set_config('leifeng.reason', 'Kafka holds nothing that the log does not', true);
    UPDATE es.log SET timeline = in_timeline WHERE timeline <> in_timeline AND in_timeline = es.timeline();
END $$;

REVOKE ALL ON FUNCTION es.timeline, es.moved, es.compared_with_kafka FROM PUBLIC;
GRANT EXECUTE ON FUNCTION es.timeline, es.moved, es.compared_with_kafka TO :"app";

CREATE OR REPLACE FUNCTION es.note_log_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state <> OLD.state THEN
        PERFORM es.note_change('log', OLD.state, NEW.state);
    END IF;
    IF NEW.system_id <> OLD.system_id THEN
        PERFORM es.note_change('system id', OLD.system_id::text, NEW.system_id::text);
    END IF;
    IF NEW.timeline <> OLD.timeline THEN
        PERFORM es.note_change('timeline', OLD.timeline::text, NEW.timeline::text);
    END IF;
    RETURN NULL;
END $$;

-- Who changed the state of the log or held back a role of the workers, when and why: written in the transaction that changes it, by
-- triggers, so that no way around the command forgets it. The command says who and why in two settings of its transaction.
CREATE TABLE es.log_change (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    subject text NOT NULL,                      -- log, system id, or a role of the workers
    was text NOT NULL,
    becomes text NOT NULL,
    who text NOT NULL,
    reason text NOT NULL
);
COMMENT ON TABLE es.log_change IS '日志状态变更 / every change of the log''s state and of paused roles: when, by whom and why';
CREATE TRIGGER log_change_never_changes BEFORE UPDATE OR DELETE OR TRUNCATE ON es.log_change
    FOR EACH STATEMENT EXECUTE FUNCTION es.refuse_change();
ALTER TABLE es.log_change ENABLE ALWAYS TRIGGER log_change_never_changes;

CREATE FUNCTION es.note_change(in_subject text, in_was text, in_becomes text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO es.log_change (subject, was, becomes, who, reason) VALUES (
        in_subject, in_was, in_becomes,
        coalesce(nullif(current_setting('leifeng.who', true), ''), session_user),
        coalesce(nullif(current_setting('leifeng.reason', true), ''), 'by hand')
    )
$$;
REVOKE ALL ON FUNCTION es.note_change FROM PUBLIC;

CREATE FUNCTION es.note_log_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state <> OLD.state THEN
        PERFORM es.note_change('log', OLD.state, NEW.state);
    END IF;
    IF NEW.system_id <> OLD.system_id THEN
        PERFORM es.note_change('system id', OLD.system_id::text, NEW.system_id::text);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER log_change_is_noted AFTER UPDATE ON es.log FOR EACH ROW EXECUTE FUNCTION es.note_log_change();

-- A role that stands here is held by no worker: each looks when it asks for the role, and every two seconds while it holds it.
CREATE TABLE es.paused_role (
    role text PRIMARY KEY,
    since timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE es.paused_role IS '暂停的角色 / roles that no worker may hold until they are resumed';
CREATE FUNCTION es.note_paused_role() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM es.note_change(NEW.role, 'running', 'paused');
    ELSE
        PERFORM es.note_change(OLD.role, 'paused', 'running');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER paused_role_is_noted AFTER INSERT OR DELETE ON es.paused_role
    FOR EACH ROW EXECUTE FUNCTION es.note_paused_role();

GRANT SELECT ON es.log_change, es.paused_role TO :"app";

-- As before, and after the appends that are under way: none of them commits once the log is said to wait.
CREATE OR REPLACE FUNCTION es.wait_for_recovery() RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    PERFORM pg_catalog.pg_advisory_xact_lock(5104202001);
    PERFORM pg_catalog.set_config('leifeng.who', 'relay', true);
    PERFORM pg_catalog.set_config('leifeng.reason', 'Kafka holds what the log does not', true);
    UPDATE es.log SET state = 'recovering' WHERE state <> 'recovering';
END $$;

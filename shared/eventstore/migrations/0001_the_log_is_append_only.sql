-- The log of one service (D2): dense positions, streams by category and id, and nothing that ever changes once it is written.
CREATE SCHEMA es;

-- One row, made with the database and almost never written.
CREATE TABLE es.log (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    log_id uuid NOT NULL,
    service text NOT NULL CHECK (char_length(service) BETWEEN 1 AND 63),
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'read-only', 'recovering')),
    clock text NOT NULL CHECK (clock IN ('system', 'travel')),
    "now" timestamptz,                       -- the instant of a travelling clock; null until it has been set, and once it has arrived
    system_id bigint NOT NULL,               -- of the PostgreSQL cluster: in another one this log was restored, and waits for `recover`
    made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT log_system_clock_has_no_instant CHECK (clock = 'travel' OR "now" IS NULL)
);
COMMENT ON TABLE es.log IS '日志 / the log of this service: its id, state and clock';

CREATE FUNCTION es.refuse_another_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'UPDATE' THEN
        RAISE EXCEPTION 'a log is never given up' USING ERRCODE = 'LF002';
    ELSIF (NEW.log_id, NEW.service) IS DISTINCT FROM (OLD.log_id, OLD.service) THEN
        RAISE EXCEPTION 'a log keeps its id and its service' USING ERRCODE = 'LF002';
    ELSIF OLD.clock = 'system' AND NEW.clock <> 'system' THEN
        RAISE EXCEPTION 'a log on the system clock never travels' USING ERRCODE = 'LF002';
    ELSIF NEW.clock = 'travel' AND OLD."now" IS NOT NULL AND (NEW."now" IS NULL OR NEW."now" < OLD."now") THEN
        RAISE EXCEPTION 'a travelling clock goes forward only' USING ERRCODE = 'LF002';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER log_stays_itself BEFORE UPDATE OR DELETE ON es.log FOR EACH ROW EXECUTE FUNCTION es.refuse_another_log();
CREATE TRIGGER log_is_not_emptied BEFORE TRUNCATE ON es.log FOR EACH STATEMENT EXECUTE FUNCTION es.refuse_another_log();

-- The two keys are the two indexes, and there are no more (D3).
CREATE TABLE es.event (
    position bigint PRIMARY KEY CHECK (position > 0),
    category text NOT NULL CHECK (category ~ '^[a-z][a-z_]{0,62}$'),
    stream_id uuid NOT NULL,
    version bigint NOT NULL CHECK (version > 0),
    event_id uuid NOT NULL,
    type text NOT NULL CHECK (char_length(type) BETWEEN 1 AND 200),
    schema_version integer NOT NULL CHECK (schema_version > 0),
    recorded_at timestamptz NOT NULL,
    time timestamptz NOT NULL,
    command_id uuid NOT NULL,
    correlation_id uuid NOT NULL,
    causation_id uuid,
    actor text NOT NULL CHECK (char_length(actor) BETWEEN 1 AND 200),
    partition_key text NOT NULL CHECK (char_length(partition_key) BETWEEN 1 AND 200),
    traceparent text CHECK (char_length(traceparent) BETWEEN 1 AND 200),
    payload bytea NOT NULL CHECK (octet_length(payload) <= 65536),
    UNIQUE (category, stream_id, version)
);
COMMENT ON TABLE es.event IS '事件 / every fact of this service, in order, for ever';

CREATE TABLE es.command (
    command_id uuid PRIMARY KEY,
    fingerprint bytea CHECK (octet_length(fingerprint) = 32),
    outcome text NOT NULL CHECK (outcome IN ('accepted', 'refused')),
    position bigint NOT NULL CHECK (position >= 0),
    event_count integer NOT NULL CHECK (event_count >= 0),
    refusal json,                            -- json, not jsonb: a repeat reads the same bytes
    actor text CHECK (char_length(actor) BETWEEN 1 AND 200),
    correlation_id uuid,
    at timestamptz NOT NULL,
    CONSTRAINT command_refusal_is_said CHECK ((outcome = 'refused') = (refusal IS NOT NULL)),
    CONSTRAINT command_refused_has_no_events CHECK (outcome = 'accepted' OR event_count = 0)
);
COMMENT ON TABLE es.command IS '命令 / what each command was answered the first time; of refusals also who asked and in what course';

CREATE TABLE es.claim (
    scope text NOT NULL CHECK (char_length(scope) BETWEEN 1 AND 200),
    value text NOT NULL CHECK (char_length(value) BETWEEN 1 AND 200),
    category text NOT NULL,
    stream_id uuid NOT NULL,
    PRIMARY KEY (scope, value)
);
COMMENT ON TABLE es.claim IS '占用 / values that only one stream may hold; personal ones stand here as a keyed blind index';

-- Each seal follows exactly one other: the unique `previous` is what keeps two relays from sealing the same stretch (D4).
CREATE TABLE es.seal (
    position bigint PRIMARY KEY,
    previous bigint NOT NULL UNIQUE CHECK (previous >= 0),
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    CONSTRAINT seal_goes_forward CHECK (position > previous)
);
COMMENT ON TABLE es.seal IS '封印 / the hash chain over the log, sealed up to a position before that is published';

CREATE FUNCTION es.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%.% is append-only', TG_TABLE_SCHEMA, TG_TABLE_NAME USING ERRCODE = 'LF002';
END $$;
CREATE TRIGGER event_never_changes BEFORE UPDATE OR DELETE OR TRUNCATE ON es.event
    FOR EACH STATEMENT EXECUTE FUNCTION es.refuse_change();
CREATE TRIGGER seal_never_changes BEFORE UPDATE OR DELETE OR TRUNCATE ON es.seal
    FOR EACH STATEMENT EXECUTE FUNCTION es.refuse_change();
-- ALWAYS: also in a session that plays a replica.
ALTER TABLE es.event ENABLE ALWAYS TRIGGER event_never_changes;
ALTER TABLE es.seal ENABLE ALWAYS TRIGGER seal_never_changes;

-- Dense, whoever inserts: the positions follow the last one without a gap, and each version follows its predecessor.
CREATE FUNCTION es.refuse_gap() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    first bigint;
    last bigint;
    rows bigint;
BEGIN
    SELECT min(fresh.position), max(fresh.position), count(*) INTO first, last, rows FROM fresh;
    IF rows = 0 THEN
        RETURN NULL;
    END IF;
    IF last - first + 1 <> rows
        OR first <> 1 + coalesce((SELECT max(earlier.position) FROM es.event earlier WHERE earlier.position < first), 0)
    THEN
        RAISE EXCEPTION 'positions leave a gap' USING ERRCODE = 'LF002';
    END IF;
    IF EXISTS (
        SELECT FROM fresh
        WHERE fresh.version > 1 AND NOT EXISTS (
            SELECT FROM es.event earlier
            WHERE earlier.category = fresh.category AND earlier.stream_id = fresh.stream_id AND earlier.version = fresh.version - 1
        )
    ) THEN
        RAISE EXCEPTION 'versions leave a gap' USING ERRCODE = 'LF002';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER event_is_dense AFTER INSERT ON es.event
    REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION es.refuse_gap();

GRANT USAGE ON SCHEMA es TO :"app";
GRANT SELECT ON es.log TO :"app";
GRANT SELECT, INSERT ON es.event, es.seal, es.command TO :"app";
GRANT SELECT, INSERT, DELETE ON es.claim TO :"app";

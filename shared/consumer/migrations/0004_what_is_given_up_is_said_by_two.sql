-- What of a parked key is given up, and that a consumer may go on parking, is asked by operators and written down for ever (D8).
-- Nothing here is changed once it stands; each change is also noted in es.log_change, with who and why.

-- One person asks. An event stands here by its id: a position of another log under the same name is another event.
CREATE TABLE consumer.discard_request (
    consumer text NOT NULL CHECK (consumer NOT LIKE '%@%'),  -- views speaks for those that are being built too
    log text NOT NULL,
    stage text NOT NULL CHECK (stage IN ('applied', 'reactions')),
    event_id uuid NOT NULL,
    position bigint NOT NULL,
    key text NOT NULL,
    type text NOT NULL,
    error_class text NOT NULL,
    who text NOT NULL,
    reason text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, log, stage, event_id)
);
COMMENT ON TABLE consumer.discard_request IS '申请弃置的事件 / parked events that somebody wants to give up, and why';

-- Another does it. Whoever reads the log from here on, live or in a rebuild, passes over the event.
CREATE TABLE consumer.discarded (
    consumer text NOT NULL,
    log text NOT NULL,
    stage text NOT NULL,
    event_id uuid NOT NULL,
    position bigint NOT NULL,
    who text NOT NULL,
    reason text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, log, stage, event_id),
    FOREIGN KEY (consumer, log, stage, event_id) REFERENCES consumer.discard_request
);
COMMENT ON TABLE consumer.discarded IS '已弃置的事件 / events that a consumer passes over, by the word of two persons';

CREATE FUNCTION consumer.note_discard() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    subject text := format('%s of %s, position %s, %s', NEW.consumer, NEW.log, NEW.position, NEW.stage);
BEGIN
    PERFORM set_config('leifeng.who', NEW.who, true), set_config('leifeng.reason', NEW.reason, true);
    IF TG_TABLE_NAME = 'discard_request' THEN
        PERFORM es.note_change(subject, 'parked', 'discard asked for');
    ELSIF EXISTS (
        SELECT FROM consumer.discard_request AS asked
        WHERE (asked.consumer, asked.log, asked.stage, asked.event_id) = (NEW.consumer, NEW.log, NEW.stage, NEW.event_id)
            AND asked.who = NEW.who
    ) THEN
        RAISE EXCEPTION 'who asked for a discard does not approve it' USING ERRCODE = 'LF002';
    ELSE
        PERFORM es.note_change(subject, 'discard asked for', 'discarded');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER discard_request_is_noted AFTER INSERT ON consumer.discard_request
    FOR EACH ROW EXECUTE FUNCTION consumer.note_discard();
CREATE TRIGGER discarded_is_noted AFTER INSERT ON consumer.discarded
    FOR EACH ROW EXECUTE FUNCTION consumer.note_discard();
CREATE TRIGGER discard_request_never_changes BEFORE UPDATE OR DELETE OR TRUNCATE ON consumer.discard_request
    FOR EACH STATEMENT EXECUTE FUNCTION es.refuse_change();
CREATE TRIGGER discarded_never_changes BEFORE UPDATE OR DELETE OR TRUNCATE ON consumer.discarded
    FOR EACH STATEMENT EXECUTE FUNCTION es.refuse_change();
ALTER TABLE consumer.discard_request ENABLE ALWAYS TRIGGER discard_request_never_changes;
ALTER TABLE consumer.discarded ENABLE ALWAYS TRIGGER discarded_never_changes;

-- A consumer that the breaker stopped, until it gets past: for metrics, `doctor` and the page.
CREATE TABLE consumer.stopped (
    consumer text NOT NULL,
    log text NOT NULL,
    stage text NOT NULL CHECK (stage IN ('applied', 'reactions')),
    reason text NOT NULL,
    keys bigint NOT NULL,                       -- that would be parked
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, log, stage)
);
COMMENT ON TABLE consumer.stopped IS '已停止的消费者 / consumers that would park too many keys for one reason, and stand still';

-- What was parked for this reason until then does not count for the breaker.
CREATE TABLE consumer.breaker_override (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    consumer text NOT NULL,
    log text NOT NULL,
    stage text NOT NULL CHECK (stage IN ('applied', 'reactions')),
    error_class text NOT NULL,
    until timestamptz NOT NULL,
    who text NOT NULL,
    reason text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT an_override_ends CHECK (until <= at + interval '1 day')
);
COMMENT ON TABLE consumer.breaker_override IS '断路器放行 / until when a consumer may go on parking for a reason, by whose word and why';

CREATE FUNCTION consumer.note_override() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('leifeng.who', NEW.who, true), set_config('leifeng.reason', NEW.reason, true);
    PERFORM es.note_change(
        format('%s of %s, %s', NEW.consumer, NEW.log, NEW.stage),
        format('stopped for %s', NEW.error_class),
        format('parks on until %s UTC', to_char(NEW.until AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'))
    );
    RETURN NULL;
END $$;
CREATE TRIGGER breaker_override_is_noted AFTER INSERT ON consumer.breaker_override
    FOR EACH ROW EXECUTE FUNCTION consumer.note_override();
CREATE TRIGGER breaker_override_never_changes BEFORE UPDATE OR DELETE OR TRUNCATE ON consumer.breaker_override
    FOR EACH STATEMENT EXECUTE FUNCTION es.refuse_change();
ALTER TABLE consumer.breaker_override ENABLE ALWAYS TRIGGER breaker_override_never_changes;

GRANT SELECT ON consumer.discard_request, consumer.discarded, consumer.breaker_override TO :"app";
GRANT SELECT, INSERT, UPDATE, DELETE ON consumer.stopped TO :"app";

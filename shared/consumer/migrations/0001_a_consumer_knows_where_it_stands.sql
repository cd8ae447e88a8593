-- How far this service has read each log, what could not be applied, what was withdrawn, and what is due (D7, D8, D10).
CREATE SCHEMA consumer;

CREATE TABLE consumer.position (
    consumer text NOT NULL,                     -- views, inbox, withdrawals
    log text NOT NULL,                          -- the service whose log it is
    log_id uuid,                                -- pinned by the first record; null before it
    applied bigint NOT NULL DEFAULT 0,
    applied_hash bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    kafka_offset bigint NOT NULL DEFAULT 0,     -- where to begin reading: advisory, positions fence
    ce_time timestamptz,                        -- business time of the event applied last
    reacted bigint NOT NULL DEFAULT 0,          -- reactions of the inbox have been answered up to here
    reacted_hash bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    reacted_offset bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (consumer, log),
    CONSTRAINT reactions_never_run_ahead CHECK (reacted <= applied)
);
COMMENT ON TABLE consumer.position IS '已处理到的位置 / how far each consumer has read each log; compared and set in the transaction of its effects';

CREATE TABLE consumer.parked (
    consumer text NOT NULL,
    log text NOT NULL,
    position bigint NOT NULL,
    key text NOT NULL,                          -- the record's partition key
    type text NOT NULL,
    headers bytea NOT NULL,                     -- the record's headers as a JSON object
    payload bytea NOT NULL,                     -- as published; sealed fields stay sealed
    error_class text NOT NULL,                  -- why; "behind" for one that only waits for its turn
    stage text NOT NULL CHECK (stage IN ('applied', 'reactions')),
    attempts integer NOT NULL DEFAULT 1,
    first_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    state text NOT NULL DEFAULT 'parked' CHECK (state IN ('parked', 'erased')),
    PRIMARY KEY (consumer, log, position)
);
CREATE INDEX parked_by_key ON consumer.parked (key, consumer, log, position);
COMMENT ON TABLE consumer.parked IS '被搁置的事件 / events that could not be applied, and those of the same key behind them, in order of position';

CREATE TABLE consumer.blocked (
    consumer text NOT NULL,
    log text NOT NULL,
    stage text NOT NULL CHECK (stage IN ('applied', 'reactions')),
    key text NOT NULL,
    reason text NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, log, stage, key)
);
COMMENT ON TABLE consumer.blocked IS '被搁置的键 / keys whose events wait until the first parked one is released';

CREATE TABLE consumer.withdrawn (
    subject uuid NOT NULL,
    kind text NOT NULL,                         -- role:<role>:<unit>, consent:<kind>, person
    position bigint,                            -- of the last withdrawal in registration's log
    given_position bigint,                      -- of the last grant
    withdrawn boolean GENERATED ALWAYS AS (coalesce(position, 0) > coalesce(given_position, 0)) STORED,
    PRIMARY KEY (subject, kind)
);
COMMENT ON TABLE consumer.withdrawn IS '已撤回 / what was withdrawn (roles, consent, persons): it hides what lower positions granted';

CREATE TABLE consumer.head (
    log text PRIMARY KEY,
    log_id uuid NOT NULL,
    head bigint NOT NULL,
    sealed bigint NOT NULL,
    published bigint NOT NULL,
    chain_hash bytea NOT NULL,
    said_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE consumer.head IS '源日志的最新位置 / what each source log last said of itself on its heads topic';

CREATE TABLE consumer.deadline (
    name text NOT NULL,
    key text NOT NULL,
    due_at timestamptz NOT NULL,
    use_case text NOT NULL,
    ids jsonb NOT NULL,
    body jsonb NOT NULL,
    set_by uuid NOT NULL,                       -- the event that set it: the command's id follows from it
    set_at bigint NOT NULL,                     -- its position
    correlation_id uuid NOT NULL,
    traceparent text,
    failed_as text,                             -- an error that trying again does not cure
    PRIMARY KEY (name, key)
);
CREATE INDEX deadline_by_due_at ON consumer.deadline (due_at) WHERE failed_as IS NULL;
COMMENT ON TABLE consumer.deadline IS '期限 / commands that fall due at an instant, folded from the service''s own log';

CREATE TABLE consumer.views (
    schema text PRIMARY KEY,
    definition_hash text NOT NULL,
    live boolean NOT NULL
);
CREATE UNIQUE INDEX one_schema_of_views_is_live ON consumer.views (live) WHERE live;
COMMENT ON TABLE consumer.views IS '读模型的模式 / the schemas that hold read models, and which of them is live';

GRANT USAGE ON SCHEMA consumer TO :"app";
GRANT SELECT, INSERT, UPDATE ON consumer.position, consumer.withdrawn, consumer.head TO :"app";
GRANT SELECT, INSERT, UPDATE, DELETE ON consumer.parked, consumer.blocked, consumer.deadline TO :"app";
GRANT SELECT ON consumer.views TO :"app";
